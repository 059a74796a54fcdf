// Matmuls of few or many rows with weights in tiles of 16 outputs: bfloat16, or grouped codes with activations rounded to
// integers in the same groups of 32.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "layouts.h"

namespace ams {

constexpr int64_t kCodeBytes = 64;     // of one row's group
// Inputs at a time where rows need several kernel calls, so that two tiles of weights stay in the second cache. Rows of one
// call read them once, and from end to end: each jump to another tile is one that the processor doesn't foresee.
constexpr int64_t kInnerBlock = 2048;

constexpr int64_t kAhead = 2048;       // bytes of a tile that are on their way into the cache while it is computed with

enum class Mode { store, add };

// Which forms of its inputs a layer takes.
struct Wanted {
    bool pairs = false, codes = false, halves = false;

    void add(const AmsLinear &linear) { (is_bf16(linear) ? pairs : codes) = true, halves = halves || has_halves(linear); }
};

// Rows of what goes into a linear layer, in the forms that its kinds of weights take: `pair` for bfloat16, `codes` for
// grouped ones, with the step of each group's codes, and `sum` of the group's values; `half` is that of its first 16.
struct Inputs {
    int64_t k = 0;
    Operand *pair = nullptr;
    uint8_t *codes = nullptr;
    float *step = nullptr, *sum = nullptr, *half = nullptr;

    int64_t groups() const { return k / kGroup; }
    Inputs from(int64_t row) const {
        return {k, pair ? pair + row * k : nullptr, codes ? codes + row * groups() * kCodeBytes : nullptr,
                step ? step + row * groups() : nullptr, sum ? sum + row * groups() : nullptr,
                half ? half + row * groups() : nullptr};
    }
};

// One group of 32 values into the row's forms.
inline void put_group(const Inputs &to, int64_t row, int64_t group, Floats low, Floats high) {
    if (to.pair) {
        Operand *pair = to.pair + row * to.k + group * kGroup;
        store_operand(pair, low);
        store_operand(pair + 16, high);
    }
    if (to.codes) {
        const int64_t at = row * to.groups() + group;
        const float most = largest_of(max_of(abs_of(low), abs_of(high)));
        float step, sum, half;
        put_codes(to.codes + at * kCodeBytes, low, high, most, &step, &sum, to.half ? &half : nullptr);
        // What is no number must stay none: an int can't say so, a step can.
        const float honest = std::isfinite(most) && !bits_of(is_nan(low, high)) ? step : NAN;
        to.step[at] = honest;
        to.sum[at] = honest * sum;
        if (to.half) to.half[at] = honest * half;
    }
}

// `RMSnorm(x) * weight` of one row of `k` values.
inline void norm_row(const float *x, const float *weight, float epsilon, const Inputs &to, int64_t row) {
    Floats squares = zeros();
    for (int64_t i = 0; i < to.k; i += 16) squares = multiply_add(load(x + i), load(x + i), squares);
    const Floats factor = all_of(1.0f / std::sqrt(sum_of(squares) / (float)to.k + epsilon));
    for (int64_t i = 0; i < to.k; i += kGroup)
        put_group(to, row, i / kGroup, load(x + i) * factor * load(weight + i),
                  load(x + i + 16) * factor * load(weight + i + 16));
}

// One row waits for memory whatever is asked for; several have so many instructions for each line of the cache that the
// processor doesn't look as far ahead by itself.
template <int ROWS>
inline void fetch(const void *weights) {
    if (ROWS > 1) _mm_prefetch((const char *)weights + kAhead, _MM_HINT_T0);
}

// call(std::integral_constant<int, rows>()) for rows from 1 to MOST.
template <int MOST, class Call>
inline void with_rows(int64_t rows, const Call &call) {
    if constexpr (MOST > 0) {
        if (rows == MOST) call(std::integral_constant<int, MOST>());
        else with_rows<MOST - 1>(rows, call);
    }
}

// y [rows, 16 * TILES] (+)= pairs [rows, from..to) . tiles. `lda`, `ldb` (of a tile) and `ldc` in elements.
template <int ROWS, int TILES>
inline void pair_kernel(const Operand *a, int64_t lda, const uint16_t *b, int64_t ldb, int64_t k, float *c, int64_t ldc,
                        Mode mode) {
    Floats sums[ROWS][TILES];  // in registers, as all loops over them are unrolled
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
        for (int t = 0; t < TILES; ++t) sums[r][t] = mode == Mode::add ? load(c + r * ldc + t * kTile) : zeros();
#pragma GCC unroll 2
    for (int64_t i = 0; i < k; i += 2) {
#pragma GCC unroll 4
        for (int t = 0; t < TILES; ++t) fetch<ROWS>(b + t * ldb + i * kTile);
#pragma GCC unroll 2
        for (int step = 0; step < kPairSteps; ++step) {
            PairWeights weights[TILES];
#pragma GCC unroll 4
            for (int t = 0; t < TILES; ++t) weights[t] = pair_weights(b + t * ldb + i * kTile, step);
#pragma GCC unroll 8
            for (int r = 0; r < ROWS; ++r) {
                const PairInputs input = pair_inputs(a + r * lda + i, step);
#pragma GCC unroll 4
                for (int t = 0; t < TILES; ++t) sums[r][t] = add_product(sums[r][t], weights[t], input);
            }
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
        for (int t = 0; t < TILES; ++t) store(c + r * ldc + t * kTile, sums[r][t]);
}

// As many tiles at once as sums fit the registers.
template <int ROWS, int TILES>
inline void pair_block(const Operand *a, int64_t lda, const uint16_t *b, int64_t ldb, int64_t k, float *c, int64_t ldc,
                       Mode mode) {
    constexpr int at_once = ROWS * TILES <= kPairSums ? TILES : 1;
    for (int t = 0; t < TILES; t += at_once)
        pair_kernel<ROWS, at_once>(a, lda, b + t * ldb, ldb, k, c + t * kTile, ldc, mode);
}

template <int TILES>
inline void pair_rows(int64_t rows, const Operand *a, int64_t lda, const uint16_t *b, int64_t ldb, int64_t k, float *c,
                      int64_t ldc, Mode mode) {
    for (; rows >= kPairRows; rows -= kPairRows, a += kPairRows * lda, c += kPairRows * ldc)
        pair_block<kPairRows, TILES>(a, lda, b, ldb, k, c, ldc, mode);
    with_rows<kPairRows - 1>(rows, [&](auto count) { pair_block<count, TILES>(a, lda, b, ldb, k, c, ldc, mode); });
}

// Adds to sums what a group of one tile makes of rows.
template <int ROWS, class L>
inline void add_group(const Inputs &in, int64_t group, const Head<L> &head, const uint8_t *w, Floats (&sums)[ROWS]) {
    const int64_t all = in.groups();
    const Factors first = read_factors(head, w);
    Floats products[L::kHalves ? 2 : 1][ROWS];
    group_products<ROWS, L::kBits>(w + L::kFactors, in.codes + group * kCodeBytes, all * kCodeBytes, products);
    if constexpr (L::kHalves) {
        const Factors second = read_factors(head, w, 1);
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; ++r) {
            const int64_t at = r * all + group;
            const Floats both = multiply_add(products[1][r], second.s, products[0][r] * first.s);
            sums[r] = multiply_add(both, all_of(in.step[at]), sums[r]);
            sums[r] = multiply_add(first.m, all_of(in.half[at]), sums[r]);
            sums[r] = multiply_add(second.m, all_of(in.sum[at] - in.half[at]), sums[r]);
        }
    } else {
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; ++r) {
            const int64_t at = r * all + group;
            sums[r] = multiply_add(products[0][r], first.s * all_of(in.step[at]), sums[r]);
            sums[r] = multiply_add(first.m, all_of(in.sum[at]), sums[r]);
        }
    }
}

// y [rows, 16] (+)= one tile of grouped codes, `groups` of them: whole blocks.
template <int ROWS, class L>
inline void code_kernel(const Inputs &in, const uint8_t *w, int64_t groups, float *c, int64_t ldc, Mode mode) {
    Floats sums[ROWS];
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r) sums[r] = mode == Mode::add ? load(c + r * ldc) : zeros();
    for (int64_t g = 0; g < groups; g += L::kGroups) {
        const Head<L> head = read_head<L>(w);
        w += L::kHead;
        for (int64_t i = g; i < g + L::kGroups; ++i, w += L::kGroupBytes) {
            for (int64_t at = 0; at < L::kGroupBytes; at += 64) fetch<ROWS>(w + at);
            add_group<ROWS, L>(in, i, head, w, sums);
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r) store(c + r * ldc, sums[r]);
}

template <class L>
inline void code_rows(int64_t rows, Inputs in, const uint8_t *w, int64_t groups, float *c, int64_t ldc, Mode mode) {
    for (; rows >= kCodeRows; rows -= kCodeRows, in = in.from(kCodeRows), c += kCodeRows * ldc)
        code_kernel<kCodeRows, L>(in, w, groups, c, ldc, mode);
    with_rows<kCodeRows - 1>(rows, [&](auto count) { code_kernel<count, L>(in, w, groups, c, ldc, mode); });
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
                store(to, (mode == Mode::add ? load(to) : zeros()) + load(bias));
            }
        }
        mode = Mode::add;
    }
}

// c [rows, 16 * count] = (or +=, with `Mode::add`) x . W of `count` tiles from `first` on, with their bias. Rows of c
// have room for whole tiles.
inline void matmul_tiles(const AmsLinear &linear, const Inputs &in, int64_t rows, int64_t first, int64_t count,
                         float *c, int64_t ldc, Mode mode) {
    put_bias(linear, rows, first, count, c, ldc, mode);
    const int64_t bytes = bytes_of(linear, linear.k);
    const uint8_t *w = linear.packed + first * bytes;
    const int64_t block = rows <= (is_bf16(linear) ? kPairRows : kCodeRows) ? linear.k : kInnerBlock;
    for (int64_t k = 0; k < linear.k; k += block) {
        const int64_t part = std::min(block, linear.k - k);
        const Mode how = k == 0 ? mode : Mode::add;
        if (is_bf16(linear)) {
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
            from.codes += k / kGroup * kCodeBytes;
            from.step += k / kGroup;
            from.sum += k / kGroup;
            if (from.half) from.half += k / kGroup;
            with_layout(linear.layout, [&](auto layout) {
                for (int64_t t = 0; t < count; ++t) {
                    const uint8_t *b = w + t * bytes + bytes_of(linear, k);
                    code_rows<decltype(layout)>(rows, from, b, part / kGroup, c + t * kTile, ldc, how);
                }
            });
        }
    }
}

}  // namespace ams
