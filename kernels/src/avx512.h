// Vectors of 16 floats as AVX512 has them, and the products that VNNI and bfloat16 instructions are for.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#include <immintrin.h>

namespace ams {

using Floats = __m512;
using Ints = __m512i;
using Mask = __mmask16;

inline Floats zeros() { return _mm512_setzero_ps(); }
inline Floats all_of(float value) { return _mm512_set1_ps(value); }
inline Floats load(const float *from) { return _mm512_loadu_ps(from); }
inline void store(float *to, Floats v) { _mm512_storeu_ps(to, v); }
inline Floats multiply_add(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
// `b` where one of the two is no number.
inline Floats max_of(Floats a, Floats b) { return _mm512_max_ps(a, b); }
inline Floats abs_of(Floats v) { return _mm512_abs_ps(v); }
inline float sum_of(Floats v) { return _mm512_reduce_add_ps(v); }
inline float largest_of(Floats v) { return _mm512_reduce_max_ps(v); }
inline Floats rounded(Floats v) { return _mm512_roundscale_ps(v, 0); }
// v * 2^power, of a whole power from -126 to 0.
inline Floats times_power_of_two(Floats v, Floats power) { return _mm512_scalef_ps(v, power); }

inline Floats to_floats(Ints v) { return _mm512_cvtepi32_ps(v); }

// The first `count` lanes, all or none where there are so many or so few.
inline Mask first_lanes(int64_t count) { return count >= 16 ? 0xFFFF : count > 0 ? (Mask)((1u << count) - 1) : 0; }
inline Mask is_less(Floats a, Floats b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
inline Mask is_above(Floats a, Floats b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ); }
inline Mask is_at_least(Floats a, Floats b) { return _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ); }
inline Mask is_equal(Floats a, Floats b) { return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ); }
inline Mask is_nan(Floats a, Floats b) { return _mm512_cmp_ps_mask(a, b, _CMP_UNORD_Q); }
inline Mask either(Mask a, Mask b) { return a | b; }
inline uint32_t bits_of(Mask mask) { return mask; }
inline Floats choose(Mask mask, Floats yes, Floats no) { return _mm512_mask_mov_ps(no, mask, yes); }
inline Floats keep(Mask mask, Floats v) { return _mm512_maskz_mov_ps(mask, v); }
// The kept lanes side by side; `to` has room for 16. How many they are.
inline int64_t store_kept(float *to, Mask mask, Floats v) {
    _mm512_storeu_ps(to, _mm512_maskz_compress_ps(mask, v));
    return __builtin_popcount(mask);
}

inline Floats load_part(const float *from, int64_t count, float otherwise) {
    return _mm512_mask_loadu_ps(_mm512_set1_ps(otherwise), first_lanes(count), from);
}
inline Floats load_f16(const uint8_t *from) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)from)); }
inline Floats load_u8(const uint8_t *from) { return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)from))); }
inline Floats load_i8(const uint8_t *from) { return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)from))); }
inline Floats load_bf16_part(const uint16_t *from, int64_t count, float otherwise) {
    const Mask mask = first_lanes(count);
    const __m512i wide = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, from));
    return choose(mask, _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16)), all_of(otherwise));
}
inline void store_bf16(uint16_t *to, Floats v) { _mm256_storeu_si256((__m256i *)to, (__m256i)_mm512_cvtneps_pbh(v)); }
inline void store_bf16_part(uint16_t *to, Floats v, int64_t count) {
    _mm256_mask_storeu_epi16(to, first_lanes(count), (__m256i)_mm512_cvtneps_pbh(v));
}
// The sums of 16 vectors' lanes, in order.
inline Floats sums_of(const Floats v[16]) {
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

// --- bfloat16 weights ---

// What meets them: bfloat16 as well, two inputs in a lane.
using Operand = uint16_t;
inline void store_operand(Operand *to, Floats v) { store_bf16(to, v); }

constexpr int kPairRows = 8;    // of one kernel call
constexpr int kPairSums = 16;   // vectors of sums that are kept in registers
constexpr int kPairSteps = 1;   // in which two inputs of a tile are computed with
using PairWeights = __m512bh;
using PairInputs = __m512bh;
inline PairWeights pair_weights(const uint16_t *from, int) { return (__m512bh)_mm512_loadu_si512(from); }
inline PairInputs pair_inputs(const Operand *from, int) {
    int32_t both;
    std::memcpy(&both, from, 4);
    return (__m512bh)_mm512_set1_epi32(both);
}
inline Floats add_product(Floats sum, PairWeights weights, PairInputs inputs) { return _mm512_dpbf16_ps(sum, weights, inputs); }

// --- grouped weights ---

#define AMS_UNPACKS 64  // tokens of prompts from which weights are unpacked (unpacked.h): for fewer it costs more
constexpr int kCodeRows = 8;   // of one kernel call
constexpr float kFiner = 254;  // parts of a code's step

// 32 values of a row as 32 int8 codes, and 32 more of what these leave in 254ths of their step. The step, and the sum of
// what the codes say; `half`, if it isn't null, gets that of the first 16.
inline void put_codes(uint8_t *to, Floats low, Floats high, float most, float *step, float *sum, float *half) {
    const __m512 inverse = _mm512_set1_ps(most > 0 ? 127.0f / most : 0.0f);
    const __m512 steps[2] = {_mm512_mul_ps(low, inverse), _mm512_mul_ps(high, inverse)};
    __m512i whole[2], rest[2];
    for (int i = 0; i < 2; ++i) {
        whole[i] = _mm512_cvtps_epi32(steps[i]);
        rest[i] = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_sub_ps(steps[i], _mm512_cvtepi32_ps(whole[i])), _mm512_set1_ps(kFiner)));
        _mm_storeu_si128((__m128i *)(to + 16 * i), _mm512_cvtsepi32_epi8(whole[i]));
        _mm_storeu_si128((__m128i *)(to + 32 + 16 * i), _mm512_cvtsepi32_epi8(rest[i]));
    }
    *step = most / 127.0f;
    *sum = (float)_mm512_reduce_add_epi32(_mm512_add_epi32(whole[0], whole[1])) +
           (float)_mm512_reduce_add_epi32(_mm512_add_epi32(rest[0], rest[1])) / kFiner;
    if (half) *half = (float)_mm512_reduce_add_epi32(whole[0]) + (float)_mm512_reduce_add_epi32(rest[0]) / kFiner;
}

// The codes of inputs 4j to 4j + 3 of 16 outputs, j from 0 to 7: four bytes in each lane.
template <int BITS>
inline __m512i code_vector(const uint8_t *w, int j) {
    if (BITS == 8) return _mm512_loadu_si512(w + 64 * j);
    __m512i codes = _mm512_loadu_si512(w + 64 * (j & 3));
    if (j >= 4) codes = _mm512_srli_epi16(codes, 4);
    codes = _mm512_and_si512(codes, _mm512_set1_epi8(15));
    if (BITS == 4) return codes;
    // What is above four bits lies in bits j of bytes, or with 6 bits in bits 2j and 2j + 1, for each half of the inputs.
    __m512i high = _mm512_loadu_si512(w + 256 + (BITS == 6 ? 64 * (j >> 2) : 0));
    const int up = 4 - (BITS == 6 ? 2 * (j & 3) : j);
    high = up > 0 ? _mm512_slli_epi32(high, up > 0 ? up : 0) : _mm512_srli_epi32(high, up > 0 ? 0 : -up);
    return _mm512_or_si512(codes, _mm512_and_si512(high, _mm512_set1_epi8(BITS == 6 ? 0x30 : 0x10)));
}

// Adds products of 64 codes with four inputs. In assembly, as GCC would load the inputs in an instruction of their own.
inline void add_bytes(__m512i &sum, __m512i codes, const uint8_t *inputs) {
    asm("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(sum) : "v"(codes), "m"(*(const int32_t *)inputs));
}

// What a group's codes of 16 outputs make of rows' codes, in their steps: of all 32 inputs, or of each half of them. Rows
// are `stride` bytes apart.
template <int ROWS, int BITS, int HALVES>
inline void group_products(const uint8_t *w, const uint8_t *rows, int64_t stride, Floats (&to)[HALVES][ROWS]) {
    __m512i codes[8];
#pragma GCC unroll 8
    for (int j = 0; j < 8; ++j) codes[j] = code_vector<BITS>(w, j);
    for (int r = 0; r < ROWS; ++r) {
        const uint8_t *x = rows + r * stride;
        for (int half = 0; half < HALVES; ++half) {
            __m512i dot = _mm512_setzero_si512(), rest = _mm512_setzero_si512();
            for (int j = half * 4; j < (half + 1) * 8 / HALVES; ++j) {
                add_bytes(dot, codes[j], x + 4 * j);
                add_bytes(rest, codes[j], x + 32 + 4 * j);
            }
            to[half][r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(rest), _mm512_set1_ps(1 / kFiner), _mm512_cvtepi32_ps(dot));
        }
    }
}

// --- attention ---

// 32 values of a query, as `add_dot` takes them.
using QueryPart = __m512bh;
inline QueryPart load_query(const Operand *from) { return (__m512bh)_mm512_loadu_si512(from); }
inline Floats add_dot(Floats sum, const QueryPart &query, const uint16_t *key) {
    return _mm512_dpbf16_ps(sum, query, (__m512bh)_mm512_loadu_si512(key));
}

// Where unpacklo and unpackhi of 16-bit lanes have put 4 of each 8 values: low holds 0-3, 8-11, 16-19, 24-27.
inline __m512i first_half() { return _mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23); }
inline __m512i second_half() { return _mm512_setr_epi32(8, 9, 10, 11, 24, 25, 26, 27, 12, 13, 14, 15, 28, 29, 30, 31); }

// Query heads whose sums fit the registers.
constexpr int heads_at_once(int parts) { return parts >= 4 ? 2 : parts >= 2 ? 3 : 4; }

// Adds to sums [HEADS, size] what weights [HEADS, weight_stride] make of values [there, size].
template <int PARTS, int HEADS>
inline void add_values(const Operand *weights, int64_t weight_stride, const uint16_t *values, int64_t there, float *sums) {
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
            std::memcpy(&pair, weights + h * weight_stride + j, 4);
            weight[h] = (__m512bh)_mm512_set1_epi32(alone ? pair & 0xFFFF : pair);
        }
        // Pairs of values of two keys, side by side in each lane, times pairs of weights.
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
            float *to = sums + h * size + 32 * p;
            const __m512 first = _mm512_permutex2var_ps(low[h][p], first_half(), high[h][p]);
            const __m512 second = _mm512_permutex2var_ps(low[h][p], second_half(), high[h][p]);
            _mm512_storeu_ps(to, _mm512_add_ps(_mm512_loadu_ps(to), first));
            _mm512_storeu_ps(to + 16, _mm512_add_ps(_mm512_loadu_ps(to + 16), second));
        }
}

// 32 values of each of 16 keys, turned: 16 pairs of values, of each those of all keys.
inline void turn_keys(const uint16_t *const keys[16], int64_t from, uint16_t *to) {
    __m512i rows[16], pairs[16];
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) rows[i] = _mm512_loadu_si512(keys[i] + from);
#pragma GCC unroll 8
    for (int i = 0; i < 16; i += 2) {
        pairs[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
        pairs[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
    }
    // rows[4i + c] then holds of keys 4i to 4i + 3 the pairs c, 4 + c, 8 + c and 12 + c.
#pragma GCC unroll 4
    for (int i = 0; i < 16; i += 4) {
        rows[i] = _mm512_unpacklo_epi64(pairs[i], pairs[i + 2]);
        rows[i + 1] = _mm512_unpackhi_epi64(pairs[i], pairs[i + 2]);
        rows[i + 2] = _mm512_unpacklo_epi64(pairs[i + 1], pairs[i + 3]);
        rows[i + 3] = _mm512_unpackhi_epi64(pairs[i + 1], pairs[i + 3]);
    }
#pragma GCC unroll 4
    for (int c = 0; c < 4; ++c) {
        const __m512i even[2] = {_mm512_shuffle_i32x4(rows[c], rows[4 + c], 0x88), _mm512_shuffle_i32x4(rows[8 + c], rows[12 + c], 0x88)};
        const __m512i odd[2] = {_mm512_shuffle_i32x4(rows[c], rows[4 + c], 0xDD), _mm512_shuffle_i32x4(rows[8 + c], rows[12 + c], 0xDD)};
        _mm512_storeu_si512(to + 32 * c, _mm512_shuffle_i32x4(even[0], even[1], 0x88));
        _mm512_storeu_si512(to + 32 * (4 + c), _mm512_shuffle_i32x4(odd[0], odd[1], 0x88));
        _mm512_storeu_si512(to + 32 * (8 + c), _mm512_shuffle_i32x4(even[0], even[1], 0xDD));
        _mm512_storeu_si512(to + 32 * (12 + c), _mm512_shuffle_i32x4(odd[0], odd[1], 0xDD));
    }
}

// 32 values of two keys in pairs, 16 to each of two tiles.
inline void store_value_pairs(uint16_t *to, uint16_t *beside, const uint16_t *one, const uint16_t *two) {
    const __m512i a = one ? _mm512_loadu_si512(one) : _mm512_setzero_si512();
    const __m512i b = two ? _mm512_loadu_si512(two) : _mm512_setzero_si512();
    const __m512i low = _mm512_unpacklo_epi16(a, b), high = _mm512_unpackhi_epi16(a, b);
    _mm512_storeu_si512(to, _mm512_permutex2var_epi32(low, first_half(), high));
    _mm512_storeu_si512(beside, _mm512_permutex2var_epi32(low, second_half(), high));
}

}  // namespace ams
