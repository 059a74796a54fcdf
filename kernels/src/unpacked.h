// Grouped weights for prompts of many tokens, where bfloat16 is multiplied as fast as codes are: each tile is unpacked once
// for all of them.
#pragma once
#include "matmul.h"

namespace ams {

// Two and two codes of the four in each of 16 lanes, of vector j of a group.
template <int BITS>
inline void codes_of(const uint8_t *w, int j, int half, Floats *even, Floats *odd) {
    const __m512i mask = _mm512_set1_epi8(15), byte = _mm512_set1_epi32(255);
    __m512i codes;
    if (BITS == 4) {
        codes = _mm512_loadu_si512(w + 64 * (j & 3));
        codes = _mm512_and_si512(j < 4 ? codes : _mm512_srli_epi16(codes, 4), mask);
    } else {
        codes = _mm512_loadu_si512(w + 64 * j);
    }
    *even = _mm512_cvtepi32_ps(_mm512_and_si512(_mm512_srli_epi32(codes, 16 * half), byte));
    *odd = _mm512_cvtepi32_ps(_mm512_and_si512(_mm512_srli_epi32(codes, 16 * half + 8), byte));
}

// Two vectors as bfloat16, side by side in each lane.
inline void store_pairs(uint16_t *to, Floats even, Floats odd) {
    _mm512_storeu_si512(to, _mm512_or_si512(_mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(even)),
                                            _mm512_slli_epi32(_mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(odd)), 16)));
}

// So many groups of one grouped tile, as a bfloat16 tile.
template <int BITS>
inline void unpack_tile(const uint8_t *w, int64_t groups, uint16_t *to) {
    for (int64_t g = 0; g < groups; ++g, w += kScaleBytes + kGroup * kTile * BITS / 8, to += kGroup * kTile) {
        const Floats s = load_f16(w), m = load_f16(w + 32);
        for (int j = 0; j < 8; ++j)
            for (int half = 0; half < 2; ++half) {
                Floats even, odd;
                codes_of<BITS>(w + kScaleBytes, j, half, &even, &odd);
                store_pairs(to + (4 * j + 2 * half) * kTile, multiply_add(even, s, m), multiply_add(odd, s, m));
            }
    }
}

// As `matmul_tiles` for many rows of grouped weights. `room` is of one thread, [2, kInnerBlock, 16].
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

}  // namespace ams
