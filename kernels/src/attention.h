// Attention over keys and values that lie head by head in bfloat16: of one token a request, or of a chunk of tokens.
#pragma once
#include "matmul.h"

namespace ams {

constexpr int64_t kKeys = 64;         // of one round
constexpr int64_t kLargestHead = 256;  // values of a head
constexpr int64_t kLargestGroup = 16;  // query heads of a key head
constexpr int64_t kQueries = 128;      // rows of a chunk's piece

// e^x for x <= 0, with a relative error of 1e-6; no number stays none (the maximum of two gives the second then).
inline __m512 exp_ps(__m512 x) {
    const __m512 scaled = _mm512_mul_ps(_mm512_max_ps(_mm512_set1_ps(-87.0f), x), _mm512_set1_ps(1.44269504f));
    const __m512 whole = _mm512_roundscale_ps(scaled, 0), rest = _mm512_sub_ps(scaled, whole);
    __m512 y = _mm512_set1_ps(1.5403530e-4f);
    y = _mm512_fmadd_ps(y, rest, _mm512_set1_ps(1.3333558e-3f));
    y = _mm512_fmadd_ps(y, rest, _mm512_set1_ps(9.6181291e-3f));
    y = _mm512_fmadd_ps(y, rest, _mm512_set1_ps(5.5504109e-2f));
    y = _mm512_fmadd_ps(y, rest, _mm512_set1_ps(2.4022651e-1f));
    y = _mm512_fmadd_ps(y, rest, _mm512_set1_ps(6.9314718e-1f));
    y = _mm512_fmadd_ps(y, rest, _mm512_set1_ps(1.0f));
    return _mm512_scalef_ps(y, whole);
}

// The sums of 16 vectors' lanes, in order.
inline __m512 sums_of(const __m512 v[16]) {
    __m512 a[8], b[4], c[2];
    for (int i = 0; i < 8; ++i)
        a[i] = _mm512_add_ps(_mm512_unpacklo_ps(v[2 * i], v[2 * i + 1]), _mm512_unpackhi_ps(v[2 * i], v[2 * i + 1]));
    for (int i = 0; i < 4; ++i)
        b[i] = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(a[2 * i]), _mm512_castps_pd(a[2 * i + 1]))),
                             _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(a[2 * i]), _mm512_castps_pd(a[2 * i + 1]))));
    // In each quarter of b[i] lie partial sums of v[4i] to v[4i + 3].
    for (int i = 0; i < 2; ++i)
        c[i] = _mm512_add_ps(_mm512_shuffle_f32x4(b[2 * i], b[2 * i + 1], 0x88), _mm512_shuffle_f32x4(b[2 * i], b[2 * i + 1], 0xDD));
    return _mm512_add_ps(_mm512_shuffle_f32x4(c[0], c[1], 0x88), _mm512_shuffle_f32x4(c[0], c[1], 0xDD));
}

// Room of one thread.
struct Scratch {
    alignas(64) uint16_t query[kQueries * kLargestHead];
    alignas(64) uint16_t keys[kKeys * kLargestHead];
    alignas(64) uint16_t values[kKeys * kLargestHead];
    alignas(64) uint16_t weights[kQueries * kKeys];
    alignas(64) float scores[kQueries * kKeys];
    alignas(64) float sums[kQueries * kLargestHead];
    alignas(64) float gate[kQueries * 2 * kTile], up[kQueries * 2 * kTile];
    float most[kQueries], total[kQueries];
    alignas(64) uint16_t unpacked[2 * kInnerBlock * kTile];
};

// The order in which `interleaved` pairs leave the values of a head: undone when they are written.
inline void store_ordered(float *to, __m512 low, __m512 high) {
    // unpacklo of 16-bit lanes takes 4 of each 8 values: low holds 0-3, 8-11, 16-19, 24-27; high the others.
    const __m512i first = _mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23);
    const __m512i second = _mm512_setr_epi32(8, 9, 10, 11, 24, 25, 26, 27, 12, 13, 14, 15, 28, 29, 30, 31);
    _mm512_storeu_ps(to, _mm512_permutex2var_ps(low, first, high));
    _mm512_storeu_ps(to + 16, _mm512_permutex2var_ps(low, second, high));
}

// Adds what the weights of query heads `g` to `g + HEADS` make of `there` values to their sums.
template <int PARTS, int HEADS>
inline void add_values(Scratch &s, int64_t g, const uint16_t *values, int64_t there) {
    constexpr int64_t size = PARTS * 32;
    __m512 low[HEADS][PARTS], high[HEADS][PARTS];
    for (int h = 0; h < HEADS; ++h)
        for (int p = 0; p < PARTS; ++p) low[h][p] = high[h][p] = _mm512_setzero_ps();
    for (int64_t j = 0; j < there; j += 2) {
        const uint16_t *one = values + j * size;
        const bool alone = j + 1 == there;  // the weight beside it is 0, but what lies beside it may be no number
        const uint16_t *two = alone ? one : one + size;
        __m512bh weight[HEADS];
        for (int h = 0; h < HEADS; ++h) {
            int32_t pair;
            std::memcpy(&pair, s.weights + (g + h) * kKeys + j, 4);
            weight[h] = (__m512bh)_mm512_set1_epi32(alone ? pair & 0xFFFF : pair);
        }
        for (int p = 0; p < PARTS; ++p) {
            const __m512i a = _mm512_loadu_si512(one + 32 * p), b = _mm512_loadu_si512(two + 32 * p);
            const __m512bh first = (__m512bh)_mm512_unpacklo_epi16(a, b), second = (__m512bh)_mm512_unpackhi_epi16(a, b);
            for (int h = 0; h < HEADS; ++h) {
                low[h][p] = _mm512_dpbf16_ps(low[h][p], first, weight[h]);
                high[h][p] = _mm512_dpbf16_ps(high[h][p], second, weight[h]);
            }
        }
    }
    for (int h = 0; h < HEADS; ++h)
        for (int p = 0; p < PARTS; ++p) {
            alignas(64) float part[32];
            store_ordered(part, low[h][p], high[h][p]);
            for (int i = 0; i < 32; i += 16) {
                float *to = s.sums + (g + h) * size + 32 * p + i;
                _mm512_storeu_ps(to, _mm512_add_ps(_mm512_loadu_ps(to), _mm512_load_ps(part + i)));
            }
        }
}

// One token's `group` query heads [group, head size] over `count` keys and values of their head; to sums
// [group, head size], not yet divided by the totals.
template <int PARTS>  // 32 values each: the head size
inline void attend_row(const uint16_t *query, int64_t group, const uint16_t *keys, const uint16_t *values, int64_t count,
                       float scale, Scratch &s) {
    constexpr int64_t size = PARTS * 32;
    float *sums = s.sums;
    for (int64_t i = 0; i < group * size; i += 16) _mm512_storeu_ps(sums + i, _mm512_setzero_ps());
    for (int64_t g = 0; g < group; ++g) s.most[g] = -INFINITY, s.total[g] = 0;
    for (int64_t first = 0; first < count; first += kKeys) {
        const int64_t there = std::min(kKeys, count - first);
        for (int64_t at = 0; at < there; at += 16) {
            const __mmask16 mask = there - at >= 16 ? 0xFFFF : (1u << (there - at)) - 1;
            for (int64_t g = 0; g < group; ++g) {
                __m512 dots[16];
                __m512bh q[PARTS];
                for (int p = 0; p < PARTS; ++p) q[p] = (__m512bh)_mm512_loadu_si512(query + g * size + 32 * p);
                for (int64_t j = 0; j < 16; ++j) {
                    const uint16_t *key = keys + (first + std::min(at + j, there - 1)) * size;
                    dots[j] = _mm512_dpbf16_ps(_mm512_setzero_ps(), q[0], (__m512bh)_mm512_loadu_si512(key));
                    for (int p = 1; p < PARTS; ++p)
                        dots[j] = _mm512_dpbf16_ps(dots[j], q[p], (__m512bh)_mm512_loadu_si512(key + 32 * p));
                }
                const __m512 dot = _mm512_mul_ps(sums_of(dots), _mm512_set1_ps(scale));
                _mm512_storeu_ps(s.scores + g * kKeys + at, _mm512_mask_mov_ps(_mm512_set1_ps(-INFINITY), mask, dot));
            }
        }
        const int64_t filled = (there + 15) / 16 * 16;
        for (int64_t g = 0; g < group; ++g) {
            float *scores = s.scores + g * kKeys;
            __m512 largest = _mm512_loadu_ps(scores);
            for (int64_t at = 16; at < filled; at += 16) largest = _mm512_max_ps(_mm512_loadu_ps(scores + at), largest);
            const float most = std::max(s.most[g], _mm512_reduce_max_ps(largest));
            if (most > s.most[g]) {
                const float shrink = std::exp(s.most[g] - most);
                s.total[g] *= shrink;
                if (first)
                    for (int64_t i = 0; i < size; i += 16)
                        _mm512_storeu_ps(sums + g * size + i, _mm512_mul_ps(_mm512_loadu_ps(sums + g * size + i), _mm512_set1_ps(shrink)));
                s.most[g] = most;
            }
            __m512 total = _mm512_setzero_ps();
            for (int64_t at = 0; at < filled; at += 16) {
                const __m512 raw = _mm512_sub_ps(_mm512_loadu_ps(scores + at), _mm512_set1_ps(most));
                const __mmask16 mask = there - at >= 16 ? 0xFFFF : (1u << (there - at)) - 1;
                const __m512 weight = _mm512_maskz_mov_ps(mask, exp_ps(raw));
                total = _mm512_add_ps(total, weight);
                store_bf16(s.weights + g * kKeys + at, weight);
            }
            s.total[g] += _mm512_reduce_add_ps(total);
        }
        // Pairs of values of two keys, side by side in each lane, times pairs of weights; of a few query heads at once.
        constexpr int heads = PARTS >= 4 ? 2 : PARTS >= 2 ? 3 : 4;  // of which the sums fit the registers
        for (int64_t g = 0; g < group; g += heads) {
            if (group - g >= heads) add_values<PARTS, heads>(s, g, values + first * size, there);
            else
                for (int64_t h = g; h < group; ++h) add_values<PARTS, 1>(s, h, values + first * size, there);
        }
    }
}

inline void attend_row(int64_t size, const uint16_t *query, int64_t group, const uint16_t *keys, const uint16_t *values,
                       int64_t count, float scale, Scratch &s) {
    switch (size) {
#define AMS_CASE(n) case n * 32: return attend_row<n>(query, group, keys, values, count, scale, s);
        AMS_CASE(1) AMS_CASE(2) AMS_CASE(3) AMS_CASE(4) AMS_CASE(5) AMS_CASE(6) AMS_CASE(7) AMS_CASE(8)
#undef AMS_CASE
    }
}

// 64 keys [there, size] as tiles of 16 "outputs" over `size` inputs; what isn't there is zero.
inline void tile_keys(const uint16_t *keys, int64_t there, int64_t size, uint16_t *to) {
    for (int64_t tile = 0; tile < kKeys / kTile; ++tile)
        for (int64_t o = 0; o < kTile; ++o) {
            const int64_t key = tile * kTile + o;
            uint32_t *out = (uint32_t *)(to + tile * size * kTile) + o;
            if (key < there) {
                const uint16_t *from = keys + key * size;
                for (int64_t i = 0; i < size / 2; ++i) std::memcpy(out + i * kTile, from + 2 * i, 4);
            } else {
                for (int64_t i = 0; i < size / 2; ++i) out[i * kTile] = 0;
            }
        }
}

// 64 values [there, size] as tiles of 16 of a head's values as "outputs", over keys as inputs.
inline void tile_values(const uint16_t *values, int64_t there, int64_t size, uint16_t *to) {
    const __m512i zero = _mm512_setzero_si512();
    const __m512i first = _mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23);
    const __m512i second = _mm512_setr_epi32(8, 9, 10, 11, 24, 25, 26, 27, 12, 13, 14, 15, 28, 29, 30, 31);
    for (int64_t key = 0; key < kKeys; key += 2)
        for (int64_t i = 0; i < size; i += 32) {
            const __m512i a = key < there ? _mm512_loadu_si512(values + key * size + i) : zero;
            const __m512i b = key + 1 < there ? _mm512_loadu_si512(values + (key + 1) * size + i) : zero;
            const __m512i low = _mm512_unpacklo_epi16(a, b), high = _mm512_unpackhi_epi16(a, b);
            uint16_t *out = to + i / kTile * kKeys * kTile + key * kTile;
            _mm512_storeu_si512(out, _mm512_permutex2var_epi32(low, first, high));
            _mm512_storeu_si512(out + kKeys * kTile, _mm512_permutex2var_epi32(low, second, high));
        }
}

// Rows of a piece of a chunk: row r is query head r % group of position `position` + r / group, in s.query
// [rows, size]. It sees the keys up to its own position; sums and totals as in attend_row.
inline void attend_piece(int64_t size, int64_t rows, int64_t group, int64_t position, const uint16_t *keys,
                         const uint16_t *values, float scale, Scratch &s) {
    for (int64_t i = 0; i < rows * size; i += 16) _mm512_storeu_ps(s.sums + i, _mm512_setzero_ps());
    for (int64_t r = 0; r < rows; ++r) s.most[r] = -INFINITY, s.total[r] = 0;
    const int64_t end = position + (rows + group - 1) / group;
    for (int64_t first = 0; first < end; first += kKeys) {
        const int64_t there = std::min(kKeys, end - first);
        tile_keys(keys + first * size, there, size, s.keys);
        tile_values(values + first * size, there, size, s.values);
        for (int64_t t = 0; t < kKeys / kTile; t += 2)
            pair_rows<2>(rows, s.query, size, s.keys + t * size * kTile, size * kTile, size, s.scores + t * kTile, kKeys, Mode::store);
        for (int64_t r = 0; r < rows; ++r) {
            float *scores = s.scores + r * kKeys;
            const int64_t seen = std::min(kKeys, position + r / group + 1 - first);
            __m512 parts[kKeys / 16], largest = _mm512_set1_ps(-INFINITY);
            for (int64_t i = 0; i < kKeys / 16; ++i) {
                const int64_t left = std::max<int64_t>(0, std::min<int64_t>(16, seen - 16 * i));
                const __mmask16 mask = (__mmask16)((1u << left) - 1);
                parts[i] = _mm512_mask_mul_ps(_mm512_set1_ps(-INFINITY), mask, _mm512_loadu_ps(scores + 16 * i), _mm512_set1_ps(scale));
                largest = _mm512_max_ps(parts[i], largest);
            }
            const float most = std::max(s.most[r], _mm512_reduce_max_ps(largest));
            if (most == -INFINITY) {  // a row that sees nothing of these keys, nor of any before
                for (int64_t i = 0; i < kKeys; i += 16) store_bf16(s.weights + r * kKeys + i, _mm512_setzero_ps());
                continue;
            }
            if (most > s.most[r]) {
                const float shrink = std::exp(s.most[r] - most);
                s.total[r] *= shrink;
                if (first)
                    for (int64_t i = 0; i < size; i += 16)
                        _mm512_storeu_ps(s.sums + r * size + i, _mm512_mul_ps(_mm512_loadu_ps(s.sums + r * size + i), _mm512_set1_ps(shrink)));
                s.most[r] = most;
            }
            __m512 total = _mm512_setzero_ps();
            for (int64_t i = 0; i < kKeys / 16; ++i) {
                const __mmask16 mask = (__mmask16)((1u << std::max<int64_t>(0, std::min<int64_t>(16, seen - 16 * i))) - 1);
                const __m512 weight = _mm512_maskz_mov_ps(mask, exp_ps(_mm512_sub_ps(parts[i], _mm512_set1_ps(most))));
                total = _mm512_add_ps(total, weight);
                store_bf16(s.weights + r * kKeys + 16 * i, weight);
            }
            s.total[r] += _mm512_reduce_add_ps(total);
        }
        for (int64_t t = 0; t < size / kTile; t += 2)
            pair_rows<2>(rows, s.weights, kKeys, s.values + t * kKeys * kTile, kKeys * kTile, kKeys, s.sums + t * kTile, size, Mode::add);
    }
}

}  // namespace ams
