// Matmuls of few or many rows with weights in tiles of 16 outputs: bfloat16, or grouped codes of 8 or 4 bits with
// activations rounded to int8 in the same groups of 32.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <immintrin.h>

#include "kernels.h"

namespace ams {

constexpr int64_t kTile = 16, kGroup = 32, kScaleBytes = 64;
constexpr int64_t kRows = 8;          // of one kernel call
constexpr int64_t kInnerBlock = 2048;  // inputs at a time, so that two tiles of weights stay in the second cache

constexpr float kFiner = 254;  // parts of a code's step

enum class Mode { store, add };

inline int64_t tiles_of(const AmsLinear &linear) { return (linear.outputs + kTile - 1) / kTile; }
inline int64_t group_bytes(int bits) { return kScaleBytes + kGroup * kTile * bits / 8; }
inline int64_t tile_bytes(const AmsLinear &linear) {
    return linear.bits == 16 ? linear.k * kTile * 2 : linear.k / kGroup * group_bytes(linear.bits);
}

// Rows of what goes into a linear layer, in the forms that its kinds of weights take. `pair` is bfloat16; `codes` are
// int8 with a scale of each group, `finer` what they leave of the values in 254ths of that scale, and `sum` is the sum
// of the group's values.
struct Inputs {
    int64_t k = 0;
    uint16_t *pair = nullptr;
    int8_t *codes = nullptr, *finer = nullptr;
    float *scale = nullptr, *sum = nullptr;

    Inputs from(int64_t row) const {
        return {k, pair ? pair + row * k : nullptr, codes ? codes + row * k : nullptr,
                finer ? finer + row * k : nullptr,
                scale ? scale + row * (k / kGroup) : nullptr, sum ? sum + row * (k / kGroup) : nullptr};
    }
};

inline __m512 load_bf16(const uint16_t *from) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)from)), 16));
}

inline void store_bf16(uint16_t *to, __m512 values) {
    _mm256_storeu_si256((__m256i *)to, (__m256i)_mm512_cvtneps_pbh(values));
}

inline bool any_nan(__m512 a, __m512 b) { return _mm512_cmp_ps_mask(a, b, _CMP_UNORD_Q) != 0; }

// One group of 32 values into the row's forms.
inline void put_group(const Inputs &to, int64_t row, int64_t group, __m512 low, __m512 high) {
    const int64_t at = row * to.k + group * kGroup;
    if (to.pair) {
        store_bf16(to.pair + at, low);
        store_bf16(to.pair + at + 16, high);
    }
    if (to.codes) {
        const __m512 largest = _mm512_max_ps(_mm512_abs_ps(low), _mm512_abs_ps(high));
        const float most = _mm512_reduce_max_ps(largest), scale = most / 127.0f;
        const __m512 inverse = _mm512_set1_ps(most > 0 ? 127.0f / most : 0.0f);
        const __m512 steps[2] = {_mm512_mul_ps(low, inverse), _mm512_mul_ps(high, inverse)};
        __m512i whole[2], rest[2];
        for (int i = 0; i < 2; ++i) {
            whole[i] = _mm512_cvtps_epi32(steps[i]);
            rest[i] = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_sub_ps(steps[i], _mm512_cvtepi32_ps(whole[i])), _mm512_set1_ps(kFiner)));
            _mm_storeu_si128((__m128i *)(to.codes + at + 16 * i), _mm512_cvtsepi32_epi8(whole[i]));
            _mm_storeu_si128((__m128i *)(to.finer + at + 16 * i), _mm512_cvtsepi32_epi8(rest[i]));
        }
        const float sum = (float)_mm512_reduce_add_epi32(_mm512_add_epi32(whole[0], whole[1])) +
                          (float)_mm512_reduce_add_epi32(_mm512_add_epi32(rest[0], rest[1])) / kFiner;
        const int64_t groups = to.k / kGroup;
        // What is no number must stay none: an int can't say so, a scale can.
        const float honest = std::isfinite(most) && !any_nan(low, high) ? scale : NAN;
        to.scale[row * groups + group] = honest;
        to.sum[row * groups + group] = honest * sum;
    }
}

// `RMSnorm(x) * weight` of one row of `k` values.
inline void norm_row(const float *x, const float *weight, float epsilon, const Inputs &to, int64_t row) {
    __m512 squares = _mm512_setzero_ps();
    for (int64_t i = 0; i < to.k; i += 16) {
        const __m512 v = _mm512_loadu_ps(x + i);
        squares = _mm512_fmadd_ps(v, v, squares);
    }
    const __m512 factor = _mm512_set1_ps(1.0f / std::sqrt(_mm512_reduce_add_ps(squares) / (float)to.k + epsilon));
    for (int64_t i = 0; i < to.k; i += kGroup)
        put_group(to, row, i / kGroup,
                  _mm512_mul_ps(_mm512_mul_ps(_mm512_loadu_ps(x + i), factor), _mm512_loadu_ps(weight + i)),
                  _mm512_mul_ps(_mm512_mul_ps(_mm512_loadu_ps(x + i + 16), factor), _mm512_loadu_ps(weight + i + 16)));
}

// y [rows, 16 * TILES] (+)= pairs [rows, from..to) . tiles. `lda`, `ldb` (of a tile) and `ldc` in elements.
template <int ROWS, int TILES>
inline void pair_kernel(const uint16_t *a, int64_t lda, const uint16_t *b, int64_t ldb, int64_t k, float *c,
                        int64_t ldc, Mode mode) {
    __m512 sums[ROWS][TILES];
    for (int r = 0; r < ROWS; ++r)
        for (int t = 0; t < TILES; ++t)
            sums[r][t] = mode == Mode::add ? _mm512_loadu_ps(c + r * ldc + t * kTile) : _mm512_setzero_ps();
#pragma GCC unroll 2
    for (int64_t i = 0; i < k; i += 2) {
        __m512bh weights[TILES];
        for (int t = 0; t < TILES; ++t) weights[t] = (__m512bh)_mm512_loadu_si512(b + t * ldb + i * kTile);
        for (int r = 0; r < ROWS; ++r) {
            int32_t both;
            std::memcpy(&both, a + r * lda + i, 4);
            const __m512bh input = (__m512bh)_mm512_set1_epi32(both);
            for (int t = 0; t < TILES; ++t) sums[r][t] = _mm512_dpbf16_ps(sums[r][t], weights[t], input);
        }
    }
    for (int r = 0; r < ROWS; ++r)
        for (int t = 0; t < TILES; ++t) _mm512_storeu_ps(c + r * ldc + t * kTile, sums[r][t]);
}

template <int TILES>
inline void pair_rows(int64_t rows, const uint16_t *a, int64_t lda, const uint16_t *b, int64_t ldb, int64_t k, float *c,
                      int64_t ldc, Mode mode) {
    for (; rows >= kRows; rows -= kRows, a += kRows * lda, c += kRows * ldc)
        pair_kernel<kRows, TILES>(a, lda, b, ldb, k, c, ldc, mode);
    switch (rows) {
#define AMS_CASE(n) case n: return pair_kernel<n, TILES>(a, lda, b, ldb, k, c, ldc, mode);
        AMS_CASE(1) AMS_CASE(2) AMS_CASE(3) AMS_CASE(4) AMS_CASE(5) AMS_CASE(6) AMS_CASE(7)
#undef AMS_CASE
    }
}

// y [rows, 16] (+)= one tile of grouped codes, `groups` of them.
template <int ROWS, int BITS>
inline void code_kernel(const Inputs &in, const uint8_t *w, int64_t groups, float *c, int64_t ldc, Mode mode) {
    __m512 sums[ROWS];
    const int64_t all = in.k / kGroup;
    for (int r = 0; r < ROWS; ++r) sums[r] = mode == Mode::add ? _mm512_loadu_ps(c + r * ldc) : _mm512_setzero_ps();
    for (int64_t g = 0; g < groups; ++g, w += kScaleBytes + kGroup * kTile * BITS / 8) {
        __m512i codes[8];
        if (BITS == 4) {
            const __m512i mask = _mm512_set1_epi8(15);
            for (int j = 0; j < 4; ++j) {
                const __m512i both = _mm512_loadu_si512(w + kScaleBytes + 64 * j);
                codes[j] = _mm512_and_si512(both, mask);
                codes[4 + j] = _mm512_and_si512(_mm512_srli_epi16(both, 4), mask);
            }
        } else {
            for (int j = 0; j < 8; ++j) codes[j] = _mm512_loadu_si512(w + kScaleBytes + 64 * j);
        }
        const __m512 s = _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)w));
        const __m512 m = _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(w + 32)));
        for (int r = 0; r < ROWS; ++r) {
            const int8_t *x = in.codes + r * in.k + g * kGroup, *y = in.finer + r * in.k + g * kGroup;
            __m512i dot = _mm512_setzero_si512(), rest = _mm512_setzero_si512();
            for (int j = 0; j < 8; ++j) {
                int32_t four, finer;
                std::memcpy(&four, x + 4 * j, 4);
                std::memcpy(&finer, y + 4 * j, 4);
                dot = _mm512_dpbusd_epi32(dot, codes[j], _mm512_set1_epi32(four));
                rest = _mm512_dpbusd_epi32(rest, codes[j], _mm512_set1_epi32(finer));
            }
            const __m512 product = _mm512_fmadd_ps(_mm512_cvtepi32_ps(rest), _mm512_set1_ps(1 / kFiner), _mm512_cvtepi32_ps(dot));
            const __m512 scale = _mm512_mul_ps(s, _mm512_set1_ps(in.scale[r * all + g]));
            sums[r] = _mm512_fmadd_ps(product, scale, sums[r]);
            sums[r] = _mm512_fmadd_ps(m, _mm512_set1_ps(in.sum[r * all + g]), sums[r]);
        }
    }
    for (int r = 0; r < ROWS; ++r) _mm512_storeu_ps(c + r * ldc, sums[r]);
}

template <int BITS>
inline void code_rows(int64_t rows, Inputs in, const uint8_t *w, int64_t groups, float *c, int64_t ldc, Mode mode) {
    for (; rows >= kRows; rows -= kRows, in = in.from(kRows), c += kRows * ldc)
        code_kernel<kRows, BITS>(in, w, groups, c, ldc, mode);
    switch (rows) {
#define AMS_CASE(n) case n: return code_kernel<n, BITS>(in, w, groups, c, ldc, mode);
        AMS_CASE(1) AMS_CASE(2) AMS_CASE(3) AMS_CASE(4) AMS_CASE(5) AMS_CASE(6) AMS_CASE(7)
#undef AMS_CASE
    }
}

// The bias into (or, with `Mode::add`, on top of) c, so that what follows adds.
inline void put_bias(const AmsLinear &linear, int64_t rows, int64_t first, int64_t count, float *c, int64_t ldc, Mode &mode) {
    if (linear.bias) {
        alignas(64) float bias[kTile];
        for (int64_t t = 0; t < count; ++t) {
            const int64_t at = (first + t) * kTile, there = std::min(kTile, linear.outputs - at);
            for (int64_t i = 0; i < kTile; ++i) bias[i] = i < there ? linear.bias[at + i] : 0.0f;
            for (int64_t r = 0; r < rows; ++r) {
                float *to = c + r * ldc + t * kTile;
                const __m512 before = mode == Mode::add ? _mm512_loadu_ps(to) : _mm512_setzero_ps();
                _mm512_storeu_ps(to, _mm512_add_ps(before, _mm512_load_ps(bias)));
            }
        }
        mode = Mode::add;
    }
}

// So many groups of one grouped tile, as a bfloat16 tile.
template <int BITS>
inline void unpack_tile(const uint8_t *w, int64_t groups, uint16_t *to) {
    const __m512i mask = _mm512_set1_epi8(15), byte = _mm512_set1_epi32(255);
    for (int64_t g = 0; g < groups; ++g, w += kScaleBytes + kGroup * kTile * BITS / 8, to += kGroup * kTile) {
        const __m512 s = _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)w));
        const __m512 m = _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(w + 32)));
        for (int j = 0; j < 8; ++j) {
            __m512i codes;
            if (BITS == 4) {
                codes = _mm512_loadu_si512(w + kScaleBytes + 64 * (j & 3));
                codes = _mm512_and_si512(j < 4 ? codes : _mm512_srli_epi16(codes, 4), mask);
            } else {
                codes = _mm512_loadu_si512(w + kScaleBytes + 64 * j);
            }
            for (int half = 0; half < 2; ++half) {
                const __m512i one = _mm512_and_si512(_mm512_srli_epi32(codes, 16 * half), byte);
                const __m512i two = _mm512_and_si512(_mm512_srli_epi32(codes, 16 * half + 8), byte);
                const __m512 low = _mm512_fmadd_ps(_mm512_cvtepi32_ps(one), s, m);
                const __m512 high = _mm512_fmadd_ps(_mm512_cvtepi32_ps(two), s, m);
                const __m512i pairs = _mm512_or_si512(
                    _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(low)),
                    _mm512_slli_epi32(_mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(high)), 16));
                _mm512_storeu_si512(to + (4 * j + 2 * half) * kTile, pairs);
            }
        }
    }
}

// As `matmul_tiles` for many rows of grouped weights: a tile is unpacked once for all of them. `room` is of one thread,
// [2, kInnerBlock, 16].
inline void matmul_unpacked(const AmsLinear &linear, const Inputs &in, int64_t rows, int64_t first, int64_t count,
                            float *c, int64_t ldc, Mode mode, uint16_t *room) {
    put_bias(linear, rows, first, count, c, ldc, mode);
    const int64_t bytes = tile_bytes(linear);
    for (int64_t t = 0; t < count; t += 2) {
        const int64_t tiles = std::min<int64_t>(2, count - t);
        for (int64_t k = 0; k < linear.k; k += kInnerBlock) {
            const int64_t part = std::min(kInnerBlock, linear.k - k);
            for (int64_t i = 0; i < tiles; ++i) {
                const uint8_t *w = linear.packed + (first + t + i) * bytes + k / kGroup * group_bytes(linear.bits);
                if (linear.bits == 4) unpack_tile<4>(w, part / kGroup, room + i * part * kTile);
                else unpack_tile<8>(w, part / kGroup, room + i * part * kTile);
            }
            const Mode how = k == 0 ? mode : Mode::add;
            float *to = c + t * kTile;
            if (tiles == 2) pair_rows<2>(rows, in.pair + k, in.k, room, part * kTile, part, to, ldc, how);
            else pair_rows<1>(rows, in.pair + k, in.k, room, part * kTile, part, to, ldc, how);
        }
    }
}

// c [rows, 16 * count] = (or +=, with `Mode::add`) x . W of `count` tiles from `first` on, with their bias. Rows of c
// have room for whole tiles.
inline void matmul_tiles(const AmsLinear &linear, const Inputs &in, int64_t rows, int64_t first, int64_t count,
                         float *c, int64_t ldc, Mode mode) {
    put_bias(linear, rows, first, count, c, ldc, mode);
    const int64_t bytes = tile_bytes(linear);
    const uint8_t *w = linear.packed + first * bytes;
    for (int64_t k = 0; k < linear.k; k += kInnerBlock) {
        const int64_t part = std::min(kInnerBlock, linear.k - k);
        const Mode how = k == 0 ? mode : Mode::add;
        if (linear.bits == 16) {
            const uint16_t *b = (const uint16_t *)w + k * kTile;
            const int64_t ldb = linear.k * kTile;
            int64_t t = 0;
            if (rows == 1)
                for (; t + 4 <= count; t += 4)
                    pair_rows<4>(rows, in.pair + k, in.k, b + t * ldb, ldb, part, c + t * kTile, ldc, how);
            for (; t + 2 <= count; t += 2)
                pair_rows<2>(rows, in.pair + k, in.k, b + t * ldb, ldb, part, c + t * kTile, ldc, how);
            if (t < count) pair_rows<1>(rows, in.pair + k, in.k, b + t * ldb, ldb, part, c + t * kTile, ldc, how);
        } else {
            Inputs from = in;
            from.codes += k;
            from.finer += k;
            from.scale += k / kGroup;
            from.sum += k / kGroup;
            for (int64_t t = 0; t < count; ++t) {
                const uint8_t *b = w + t * bytes + k / kGroup * group_bytes(linear.bits);
                if (linear.bits == 4) code_rows<4>(rows, from, b, part / kGroup, c + t * kTile, ldc, how);
                else code_rows<8>(rows, from, b, part / kGroup, c + t * kTile, ldc, how);
            }
        }
    }
}

}  // namespace ams
