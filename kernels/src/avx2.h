// Vectors of 16 floats as pairs of AVX2's, with FMA and F16C. bfloat16 becomes float32 on the way, so what meets it is
// float32 too; grouped codes meet activations of 16 bits.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#include <immintrin.h>

namespace ams {

struct Floats {
    __m256 low, high;
};
struct Mask {
    __m256 low, high;
};

inline Floats zeros() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
inline Floats all_of(float value) { return {_mm256_set1_ps(value), _mm256_set1_ps(value)}; }
inline Floats load(const float *from) { return {_mm256_loadu_ps(from), _mm256_loadu_ps(from + 8)}; }
inline void store(float *to, Floats v) {
    _mm256_storeu_ps(to, v.low);
    _mm256_storeu_ps(to + 8, v.high);
}
inline Floats operator+(Floats a, Floats b) { return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)}; }
inline Floats operator-(Floats a, Floats b) { return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)}; }
inline Floats operator*(Floats a, Floats b) { return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)}; }
inline Floats operator/(Floats a, Floats b) { return {_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high)}; }
inline Floats multiply_add(Floats a, Floats b, Floats c) {
    return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}
// `b` where one of the two is no number.
inline Floats max_of(Floats a, Floats b) { return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)}; }
inline Floats abs_of(Floats v) {
    const __m256 sign = _mm256_set1_ps(-0.0f);
    return {_mm256_andnot_ps(sign, v.low), _mm256_andnot_ps(sign, v.high)};
}
inline float sum_of(Floats v) {
    const __m256 eight = _mm256_add_ps(v.low, v.high);
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    four = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(four, _mm_movehdup_ps(four)));
}
inline float largest_of(Floats v) {
    const __m256 eight = _mm256_max_ps(v.low, v.high);
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    four = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(four, _mm_movehdup_ps(four)));
}
inline Floats rounded(Floats v) {
    return {_mm256_round_ps(v.low, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC),
            _mm256_round_ps(v.high, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
// 2^power, of a whole power from -126 to 0; of what is no number, anything.
inline __m256 power_of_two(__m256 power) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(power), _mm256_set1_epi32(127)), 23));
}
// v * 2^power, of a whole power from -126 to 0.
inline Floats times_power_of_two(Floats v, Floats power) {
    return v * Floats{power_of_two(power.low), power_of_two(power.high)};
}

// The first `count` lanes, all or none where there are so many or so few.
inline Mask first_lanes(int64_t count) {
    const __m256i until = _mm256_set1_epi32((int)(count > 16 ? 16 : count < 0 ? 0 : count));
    const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return {_mm256_castsi256_ps(_mm256_cmpgt_epi32(until, lanes)),
            _mm256_castsi256_ps(_mm256_cmpgt_epi32(until, _mm256_add_epi32(lanes, _mm256_set1_epi32(8))))};
}
template <int HOW>
inline Mask compared(Floats a, Floats b) { return {_mm256_cmp_ps(a.low, b.low, HOW), _mm256_cmp_ps(a.high, b.high, HOW)}; }
inline Mask is_less(Floats a, Floats b) { return compared<_CMP_LT_OQ>(a, b); }
inline Mask is_above(Floats a, Floats b) { return compared<_CMP_GT_OQ>(a, b); }
inline Mask is_at_least(Floats a, Floats b) { return compared<_CMP_GE_OQ>(a, b); }
inline Mask is_equal(Floats a, Floats b) { return compared<_CMP_EQ_OQ>(a, b); }
inline Mask is_nan(Floats a, Floats b) { return compared<_CMP_UNORD_Q>(a, b); }
inline Mask either(Mask a, Mask b) { return {_mm256_or_ps(a.low, b.low), _mm256_or_ps(a.high, b.high)}; }
inline uint32_t bits_of(Mask mask) {
    return (uint32_t)_mm256_movemask_ps(mask.low) | (uint32_t)_mm256_movemask_ps(mask.high) << 8;
}
inline Floats choose(Mask mask, Floats yes, Floats no) {
    return {_mm256_blendv_ps(no.low, yes.low, mask.low), _mm256_blendv_ps(no.high, yes.high, mask.high)};
}
inline Floats keep(Mask mask, Floats v) { return {_mm256_and_ps(mask.low, v.low), _mm256_and_ps(mask.high, v.high)}; }
// The kept lanes side by side; `to` has room for 16. How many they are.
inline int64_t store_kept(float *to, Mask mask, Floats v) {
    uint32_t bits = bits_of(mask);
    if (!bits) return 0;
    alignas(32) float lanes[16];
    store(lanes, v);
    int64_t count = 0;
    for (; bits; bits &= bits - 1) to[count++] = lanes[__builtin_ctz(bits)];
    return count;
}

inline Floats load_part(const float *from, int64_t count, float otherwise) {
    if (count >= 16) return load(from);
    alignas(32) float part[16];
    for (int64_t i = 0; i < 16; ++i) part[i] = i < count ? from[i] : otherwise;
    return load(part);
}
inline Floats load_f16(const uint8_t *from) {
    return {_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)from)), _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(from + 16)))};
}
inline Floats load_u8(const uint8_t *from) {
    return {_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)from))),
            _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(from + 8))))};
}
inline Floats load_i8(const uint8_t *from) {
    return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)from))),
            _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(from + 8))))};
}
inline __m256 widened(const uint16_t *from) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)from)), 16));
}
inline Floats load_bf16_part(const uint16_t *from, int64_t count, float otherwise) {
    if (count >= 16) return {widened(from), widened(from + 8)};
    uint16_t part[16] = {};
    if (count > 0) std::memcpy(part, from, count * sizeof *part);
    return choose(first_lanes(count), {widened(part), widened(part + 8)}, all_of(otherwise));
}

// bfloat16, rounded to the nearest (to even), in the upper halves of lanes; what is no number stays none.
inline __m256i upper_bf16(__m256 v) {
    const __m256i bits = _mm256_castps_si256(v), odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i near = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7FFF)), odd);
    const __m256i none = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
    return _mm256_castps_si256(_mm256_blendv_ps(_mm256_castsi256_ps(near), _mm256_castsi256_ps(none), _mm256_cmp_ps(v, v, _CMP_UNORD_Q)));
}
inline void store_bf16(uint16_t *to, Floats v) {
    const __m256i low = _mm256_srli_epi32(upper_bf16(v.low), 16), high = _mm256_srli_epi32(upper_bf16(v.high), 16);
    _mm256_storeu_si256((__m256i *)to, _mm256_permute4x64_epi64(_mm256_packus_epi32(low, high), 0xD8));
}
inline void store_bf16_part(uint16_t *to, Floats v, int64_t count) {
    if (count >= 16) return store_bf16(to, v);
    uint16_t part[16];
    store_bf16(part, v);
    if (count > 0) std::memcpy(to, part, count * sizeof *part);
}
// The sums of 16 vectors' lanes, in order.
inline Floats sums_of(const Floats v[16]) {
    __m256 half[2];
    for (int i = 0; i < 2; ++i) {
        __m256 a[8], b[4];
        for (int j = 0; j < 8; ++j) a[j] = _mm256_add_ps(v[8 * i + j].low, v[8 * i + j].high);
        for (int j = 0; j < 4; ++j) b[j] = _mm256_hadd_ps(a[2 * j], a[2 * j + 1]);
        // In each half of these lie partial sums of four vectors.
        const __m256 first = _mm256_hadd_ps(b[0], b[1]), second = _mm256_hadd_ps(b[2], b[3]);
        half[i] = _mm256_add_ps(_mm256_permute2f128_ps(first, second, 0x20), _mm256_permute2f128_ps(first, second, 0x31));
    }
    return {half[0], half[1]};
}

// The first and the second of each two bfloat16 values that lie side by side.
inline __m256 evens(__m256i pairs) { return _mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16)); }
inline __m256 odds(__m256i pairs) {
    return _mm256_and_ps(_mm256_castsi256_ps(pairs), _mm256_castsi256_ps(_mm256_set1_epi32((int)0xFFFF0000)));
}
inline __m256i load_pairs(const uint16_t *from) { return _mm256_loadu_si256((const __m256i *)from); }

// --- bfloat16 weights ---

// What meets them: float32.
using Operand = float;
inline void store_operand(Operand *to, Floats v) { store(to, v); }

constexpr int kPairRows = 5;   // of one kernel call
constexpr int kPairSums = 5;   // vectors of sums that are kept in registers
constexpr int kPairSteps = 2;  // in which two inputs of a tile are computed with: first all even ones, then the odd ones
using PairWeights = Floats;
using PairInputs = __m256;
inline PairWeights pair_weights(const uint16_t *from, int step) {
    asm volatile("" : "+r"(from));  // the second step reads them again: there are no registers to keep them in
    const __m256i low = load_pairs(from), high = load_pairs(from + 16);
    if (step == 0) return {evens(low), evens(high)};
    return {odds(low), odds(high)};
}
inline PairInputs pair_inputs(const Operand *from, int step) { return _mm256_broadcast_ss(from + step); }
inline Floats add_product(Floats sum, PairWeights weights, PairInputs inputs) {
    return {_mm256_fmadd_ps(weights.low, inputs, sum.low), _mm256_fmadd_ps(weights.high, inputs, sum.high)};
}

// --- grouped weights ---

constexpr int kCodeRows = 4;  // of one kernel call

inline float sum_of(__m256i eight) {
    __m128i four = _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
    four = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4E));
    four = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0xB1));
    return (float)_mm_cvtsi128_si32(four);
}

// 32 values of a row as int16 codes, of each four in the order 0, 2, 1, 3. The step, and the sum of what the codes say;
// `half`, if it isn't null, gets that of the first 16.
inline void put_codes(uint8_t *to, Floats low, Floats high, float most, float *step, float *sum, float *half) {
    const __m256 inverse = _mm256_set1_ps(most > 0 ? 32767.0f / most : 0.0f);
    const __m256 values[4] = {low.low, low.high, high.low, high.high};
    __m256i codes[4];
    for (int i = 0; i < 4; ++i) codes[i] = _mm256_cvtps_epi32(_mm256_mul_ps(values[i], inverse));
    for (int i = 0; i < 2; ++i) {
        const __m256i ordered = _mm256_permute4x64_epi64(_mm256_packs_epi32(codes[2 * i], codes[2 * i + 1]), 0xD8);
        _mm256_storeu_si256((__m256i *)(to + 32 * i), _mm256_shufflehi_epi16(_mm256_shufflelo_epi16(ordered, 0xD8), 0xD8));
    }
    const __m256i first = _mm256_add_epi32(codes[0], codes[1]);
    *step = most / 32767.0f;
    *sum = sum_of(_mm256_add_epi32(first, _mm256_add_epi32(codes[2], codes[3])));
    if (half) *half = sum_of(first);
}

// `group_products` of codes whose high bits lie apart: four of an output are put together first.
template <int ROWS, int BITS, int HALVES>
inline void split_products(const uint8_t *w, const uint8_t *rows, int64_t stride, Floats (&to)[HALVES][ROWS]) {
    const __m256i low = _mm256_set1_epi8(15), high = _mm256_set1_epi8(BITS == 6 ? 0x30 : 0x10), byte = _mm256_set1_epi16(255);
#pragma GCC unroll 2
    for (int half = 0; half < HALVES; ++half) {
        __m256i dot[ROWS][2];
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; ++r) dot[r][0] = dot[r][1] = _mm256_setzero_si256();
#pragma GCC unroll 8
        for (int j = half * 4; j < (half + 1) * 8 / HALVES; ++j) {
            // What is above four bits lies in bits j of bytes, or with 6 bits in bits 2j and 2j + 1, for each half.
            const uint8_t *from = w + 64 * (j & 3), *above = w + 256 + (BITS == 6 ? 64 * (j >> 2) : 0);
            const int up = 4 - (BITS == 6 ? 2 * (j & 3) : j);
            __m256i codes[2];
#pragma GCC unroll 2
            for (int i = 0; i < 2; ++i) {
                const __m256i both = _mm256_loadu_si256((const __m256i *)(from + 32 * i));
                const __m256i bits = _mm256_loadu_si256((const __m256i *)(above + 32 * i));
                const __m256i moved = up > 0 ? _mm256_slli_epi32(bits, up > 0 ? up : 0) : _mm256_srli_epi32(bits, up > 0 ? 0 : -up);
                codes[i] = _mm256_or_si256(_mm256_and_si256(j >= 4 ? _mm256_srli_epi16(both, 4) : both, low),
                                           _mm256_and_si256(moved, high));
            }
#pragma GCC unroll 2
            for (int part = 0; part < 2; ++part) {  // inputs 4j and 4j + 2, then 4j + 1 and 4j + 3
                __m256i words[2];
#pragma GCC unroll 2
                for (int i = 0; i < 2; ++i) words[i] = part ? _mm256_srli_epi16(codes[i], 8) : _mm256_and_si256(codes[i], byte);
#pragma GCC unroll 8
                for (int r = 0; r < ROWS; ++r) {
                    int32_t two;
                    std::memcpy(&two, rows + r * stride + 4 * (2 * j + part), 4);
                    const __m256i inputs = _mm256_set1_epi32(two);
                    dot[r][0] = _mm256_add_epi32(dot[r][0], _mm256_madd_epi16(words[0], inputs));
                    dot[r][1] = _mm256_add_epi32(dot[r][1], _mm256_madd_epi16(words[1], inputs));
                    asm("" : "+x"(dot[r][0]), "+x"(dot[r][1]));  // added here: GCC would keep the products, and add at the end
                }
            }
        }
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; ++r) to[half][r] = {_mm256_cvtepi32_ps(dot[r][0]), _mm256_cvtepi32_ps(dot[r][1])};
    }
}

// What a group's codes of 16 outputs make of rows' codes, in their steps: of all 32 inputs, or of each half of them. Rows
// are `stride` bytes apart. Sums are of 32 products of 8 by 16 bits, so they fit 32 bits.
template <int ROWS, int BITS, int HALVES>
inline void group_products(const uint8_t *w, const uint8_t *rows, int64_t stride, Floats (&to)[HALVES][ROWS]) {
    if constexpr (BITS == 5 || BITS == 6) return split_products<ROWS, BITS>(w, rows, stride, to);
    __m256i dot[ROWS][2];
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r) dot[r][0] = dot[r][1] = _mm256_setzero_si256();
    const __m256i mask = _mm256_set1_epi16(BITS == 4 ? 15 : 255);
#pragma GCC unroll 8
    for (int j = 0; j < BITS; ++j) {
        const uint8_t *from = w + 64 * j;
#pragma GCC unroll 4
        for (int part = 0; part < 16 / BITS; ++part) {  // two inputs each, which the codes' 16-bit lanes hold in this part
            asm volatile("" : "+r"(from));  // read again: there are no registers to keep them in
            __m256i codes[2];
#pragma GCC unroll 2
            for (int i = 0; i < 2; ++i) {
                codes[i] = _mm256_loadu_si256((const __m256i *)(from + 32 * i));
                if (part > 0) codes[i] = _mm256_srli_epi16(codes[i], part * BITS);
                if (part < 16 / BITS - 1) codes[i] = _mm256_and_si256(codes[i], mask);
            }
            // Inputs 0 to 15 lie in the low halves of bytes, 16 to 31 in the high ones.
            const int at = BITS == 4 ? 2 * j + part / 2 + part % 2 * 8 : 2 * j + part;
#pragma GCC unroll 8
            for (int r = 0; r < ROWS; ++r) {
                int32_t two;
                std::memcpy(&two, rows + r * stride + 4 * at, 4);
                const __m256i inputs = _mm256_set1_epi32(two);
                dot[r][0] = _mm256_add_epi32(dot[r][0], _mm256_madd_epi16(codes[0], inputs));
                dot[r][1] = _mm256_add_epi32(dot[r][1], _mm256_madd_epi16(codes[1], inputs));
                asm("" : "+x"(dot[r][0]), "+x"(dot[r][1]));  // added here: GCC would keep the products, and add at the end
            }
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r) to[0][r] = {_mm256_cvtepi32_ps(dot[r][0]), _mm256_cvtepi32_ps(dot[r][1])};
}

// --- attention ---

// 32 values of a query, as `add_dot` takes them.
struct QueryPart {
    __m256 even[2], odd[2];
};
inline QueryPart load_query(const Operand *from) {
    QueryPart part;
    for (int i = 0; i < 2; ++i) {
        const __m256 a = _mm256_loadu_ps(from + 16 * i), b = _mm256_loadu_ps(from + 16 * i + 8);
        const __m256 first = _mm256_permute2f128_ps(a, b, 0x20), second = _mm256_permute2f128_ps(a, b, 0x31);
        part.even[i] = _mm256_shuffle_ps(first, second, 0x88);  // values 0, 2, 4, 6 and 8, 10, 12, 14 after the permutation
        part.odd[i] = _mm256_shuffle_ps(first, second, 0xDD);
    }
    return part;
}
inline Floats add_dot(Floats sum, const QueryPart &query, const uint16_t *key) {
    for (int i = 0; i < 2; ++i) {
        const __m256i pairs = load_pairs(key + 16 * i);
        sum.low = _mm256_fmadd_ps(evens(pairs), query.even[i], sum.low);
        sum.high = _mm256_fmadd_ps(odds(pairs), query.odd[i], sum.high);
    }
    return sum;
}

// Query heads whose sums of a part fit the registers.
constexpr int heads_at_once(int) { return 2; }

// Adds to sums [HEADS, size] what weights [HEADS, weight_stride] make of values [there, size].
template <int PARTS, int HEADS>
inline void add_values(const Operand *weights, int64_t weight_stride, const uint16_t *values, int64_t there, float *sums) {
    constexpr int64_t size = PARTS * 32;
    for (int p = 0; p < PARTS; ++p) {
        Floats even[HEADS], odd[HEADS];
#pragma GCC unroll 4
        for (int h = 0; h < HEADS; ++h) even[h] = odd[h] = zeros();
        for (int64_t j = 0; j < there; ++j) {
            const __m256i low = load_pairs(values + j * size + 32 * p), high = load_pairs(values + j * size + 32 * p + 16);
#pragma GCC unroll 4
            for (int h = 0; h < HEADS; ++h) {
                const __m256 weight = _mm256_broadcast_ss(weights + h * weight_stride + j);
                even[h] = add_product(even[h], {evens(low), evens(high)}, weight);
                odd[h] = add_product(odd[h], {odds(low), odds(high)}, weight);
            }
        }
#pragma GCC unroll 4
        for (int h = 0; h < HEADS; ++h) {
            const __m256 first[2] = {even[h].low, even[h].high}, second[2] = {odd[h].low, odd[h].high};
            for (int i = 0; i < 2; ++i) {
                const __m256 a = _mm256_unpacklo_ps(first[i], second[i]), b = _mm256_unpackhi_ps(first[i], second[i]);
                float *to = sums + h * size + 32 * p + 16 * i;
                store(to, load(to) + Floats{_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31)});
            }
        }
    }
}

// 32 values of each of 16 keys, turned: 16 pairs of values, of each those of all keys.
inline void turn_keys(const uint16_t *const keys[16], int64_t from, uint16_t *to) {
    for (int part = 0; part < 4; ++part) {  // 8 keys and 8 pairs each
        const int first = part / 2 * 8, column = part % 2 * 8;
        __m256i rows[8], pairs[8];
#pragma GCC unroll 8
        for (int i = 0; i < 8; ++i) rows[i] = load_pairs(keys[first + i] + from + 2 * column);
#pragma GCC unroll 4
        for (int i = 0; i < 8; i += 2) {
            pairs[i] = _mm256_unpacklo_epi32(rows[i], rows[i + 1]);
            pairs[i + 1] = _mm256_unpackhi_epi32(rows[i], rows[i + 1]);
        }
        // rows[4i + c] then holds of keys 4i to 4i + 3 the pairs c and 4 + c.
#pragma GCC unroll 2
        for (int i = 0; i < 8; i += 4) {
            rows[i] = _mm256_unpacklo_epi64(pairs[i], pairs[i + 2]);
            rows[i + 1] = _mm256_unpackhi_epi64(pairs[i], pairs[i + 2]);
            rows[i + 2] = _mm256_unpacklo_epi64(pairs[i + 1], pairs[i + 3]);
            rows[i + 3] = _mm256_unpackhi_epi64(pairs[i + 1], pairs[i + 3]);
        }
#pragma GCC unroll 4
        for (int c = 0; c < 4; ++c) {
            uint16_t *out = to + 32 * (column + c) + 2 * first;
            _mm256_storeu_si256((__m256i *)out, _mm256_permute2x128_si256(rows[c], rows[4 + c], 0x20));
            _mm256_storeu_si256((__m256i *)(out + 32 * 4), _mm256_permute2x128_si256(rows[c], rows[4 + c], 0x31));
        }
    }
}

// 32 values of two keys in pairs, 16 to each of two tiles.
inline void store_value_pairs(uint16_t *to, uint16_t *beside, const uint16_t *one, const uint16_t *two) {
    uint16_t *const tiles[2] = {to, beside};
    for (int i = 0; i < 2; ++i) {
        const __m256i a = one ? load_pairs(one + 16 * i) : _mm256_setzero_si256();
        const __m256i b = two ? load_pairs(two + 16 * i) : _mm256_setzero_si256();
        const __m256i low = _mm256_unpacklo_epi16(a, b), high = _mm256_unpackhi_epi16(a, b);
        _mm256_storeu_si256((__m256i *)tiles[i], _mm256_permute2x128_si256(low, high, 0x20));
        _mm256_storeu_si256((__m256i *)(tiles[i] + 16), _mm256_permute2x128_si256(low, high, 0x31));
    }
}

}  // namespace ams
