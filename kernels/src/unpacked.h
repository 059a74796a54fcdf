// Grouped weights for prompts of many tokens, where bfloat16 is multiplied as fast as codes are: each tile is unpacked once
// for all of them.
#pragma once
#include "matmul.h"

namespace ams {

// Two and two codes of the four in each of 16 lanes.
inline void codes_of(__m512i codes, int half, Floats *even, Floats *odd) {
    const __m512i byte = _mm512_set1_epi32(255);
    *even = _mm512_cvtepi32_ps(_mm512_and_si512(_mm512_srli_epi32(codes, 16 * half), byte));
    *odd = _mm512_cvtepi32_ps(_mm512_and_si512(_mm512_srli_epi32(codes, 16 * half + 8), byte));
}

// Two vectors as bfloat16, side by side in each lane.
inline void store_pairs(uint16_t *to, Floats even, Floats odd) {
    _mm512_storeu_si512(to, _mm512_or_si512(_mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(even)),
                                            _mm512_slli_epi32(_mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(odd)), 16)));
}

// So many groups of one grouped tile, as a bfloat16 tile: whole blocks.
template <class L>
inline void unpack_tile(const uint8_t *w, int64_t groups, uint16_t *to) {
    for (int64_t g = 0; g < groups; g += L::kGroups) {
        const Head<L> head = read_head<L>(w);
        w += L::kHead;
        for (int64_t i = 0; i < L::kGroups; ++i, w += L::kGroupBytes, to += kGroup * kTile) {
            Factors factors = read_factors(head, w);
#pragma GCC unroll 8
            for (int j = 0; j < 8; ++j) {
                if (L::kHalves && j == 4) factors = read_factors(head, w, 1);
                const __m512i codes = code_vector<L::kBits>(w + L::kFactors, j);
                for (int half = 0; half < 2; ++half) {
                    Floats even, odd;
                    codes_of(codes, half, &even, &odd);
                    store_pairs(to + (4 * j + 2 * half) * kTile, multiply_add(even, factors.s, factors.m),
                                multiply_add(odd, factors.s, factors.m));
                }
            }
        }
    }
}

// As `matmul_tiles` for many rows of grouped weights. `room` is of one thread, [2, kInnerBlock, 16].
inline void matmul_unpacked(const AmsLinear &linear, const Inputs &in, int64_t rows, int64_t first, int64_t count,
                            float *c, int64_t ldc, Mode mode, uint16_t *room) {
    put_bias(linear, rows, first, count, c, ldc, mode);
    const int64_t bytes = bytes_of(linear, linear.k);
    for (int64_t t = 0; t < count; t += 2) {
        const int64_t tiles = std::min<int64_t>(2, count - t);
        for (int64_t k = 0; k < linear.k; k += kInnerBlock) {
            const int64_t part = std::min(kInnerBlock, linear.k - k);
            for (int64_t i = 0; i < tiles; ++i) {
                const uint8_t *w = linear.packed + (first + t + i) * bytes + bytes_of(linear, k);
                with_layout(linear.layout, [&](auto layout) {
                    unpack_tile<decltype(layout)>(w, part / kGroup, room + i * part * kTile);
                });
            }
            const Mode how = k == 0 ? mode : Mode::add;
            float *to = c + t * kTile;
            if (tiles == 2) pair_rows<2>(rows, in.pair + k, in.k, room, part * kTile, part, to, ldc, how);
            else pair_rows<1>(rows, in.pair + k, in.k, room, part * kTile, part, to, ldc, how);
        }
    }
}

}  // namespace ams
