// Attention over keys and values that lie head by head in bfloat16: of one token a request, or of a chunk of tokens.
#pragma once
#include "matmul.h"

namespace ams {

constexpr int64_t kKeys = 64;         // of one round
constexpr int64_t kLargestHead = 256;  // values of a head
constexpr int64_t kLargestGroup = 16;  // query heads of a key head
constexpr int64_t kQueries = 128;      // rows of a chunk's piece

// e^x for x <= 0, with a relative error of 1e-6; no number stays none (the maximum of two gives the second then).
inline Floats exp_of(Floats x) {
    const Floats scaled = max_of(all_of(-87.0f), x) * all_of(1.44269504f);
    const Floats whole = rounded(scaled), rest = scaled - whole;
    Floats y = all_of(1.5403530e-4f);
    y = multiply_add(y, rest, all_of(1.3333558e-3f));
    y = multiply_add(y, rest, all_of(9.6181291e-3f));
    y = multiply_add(y, rest, all_of(5.5504109e-2f));
    y = multiply_add(y, rest, all_of(2.4022651e-1f));
    y = multiply_add(y, rest, all_of(6.9314718e-1f));
    y = multiply_add(y, rest, all_of(1.0f));
    return times_power_of_two(y, whole);
}

// v [count] times a factor.
inline void scale_by(float *v, int64_t count, float factor) {
    for (int64_t i = 0; i < count; i += 16) store(v + i, load(v + i) * all_of(factor));
}

// Room of one thread.
struct Scratch {
    alignas(64) Operand query[kQueries * kLargestHead];
    alignas(64) uint16_t keys[kKeys * kLargestHead];
    alignas(64) uint16_t values[kKeys * kLargestHead];
    alignas(64) Operand weights[kQueries * kKeys];
    alignas(64) float scores[kQueries * kKeys];
    alignas(64) float sums[kQueries * kLargestHead];
    alignas(64) float gate[kQueries * 2 * kTile], up[kQueries * 2 * kTile];
    float most[kQueries], total[kQueries];
#ifdef AMS_UNPACKS
    alignas(64) uint16_t unpacked[2 * kInnerBlock * kTile];
#endif
};

// One token's `group` query heads [group, head size] over `count` keys and values of their head; to sums
// [group, head size], not yet divided by the totals.
template <int PARTS>  // 32 values each: the head size
inline void attend_row(const Operand *query, int64_t group, const uint16_t *keys, const uint16_t *values, int64_t count,
                       float scale, Scratch &s) {
    constexpr int64_t size = PARTS * 32;
    float *sums = s.sums;
    for (int64_t i = 0; i < group * size; i += 16) store(sums + i, zeros());
    for (int64_t g = 0; g < group; ++g) s.most[g] = -INFINITY, s.total[g] = 0;
    for (int64_t first = 0; first < count; first += kKeys) {
        const int64_t there = std::min(kKeys, count - first);
        for (int64_t at = 0; at < there; at += 16) {
            const Mask mask = first_lanes(there - at);
            for (int64_t g = 0; g < group; ++g) {
                Floats dots[16];
                QueryPart q[PARTS];
                for (int p = 0; p < PARTS; ++p) q[p] = load_query(query + g * size + 32 * p);
                for (int64_t j = 0; j < 16; ++j) {
                    const uint16_t *key = keys + (first + std::min(at + j, there - 1)) * size;
                    dots[j] = add_dot(zeros(), q[0], key);
                    for (int p = 1; p < PARTS; ++p) dots[j] = add_dot(dots[j], q[p], key + 32 * p);
                }
                store(s.scores + g * kKeys + at, choose(mask, sums_of(dots) * all_of(scale), all_of(-INFINITY)));
            }
        }
        const int64_t filled = (there + 15) / 16 * 16;
        for (int64_t g = 0; g < group; ++g) {
            float *scores = s.scores + g * kKeys;
            Floats largest = load(scores);
            for (int64_t at = 16; at < filled; at += 16) largest = max_of(load(scores + at), largest);
            const float most = std::max(s.most[g], largest_of(largest));
            if (most > s.most[g]) {
                const float shrink = std::exp(s.most[g] - most);
                s.total[g] *= shrink;
                if (first) scale_by(sums + g * size, size, shrink);
                s.most[g] = most;
            }
            Floats total = zeros();
            for (int64_t at = 0; at < filled; at += 16) {
                const Floats weight = keep(first_lanes(there - at), exp_of(load(scores + at) - all_of(most)));
                total = total + weight;
                store_operand(s.weights + g * kKeys + at, weight);
            }
            s.total[g] += sum_of(total);
        }
        constexpr int heads = heads_at_once(PARTS);
        for (int64_t g = 0; g < group; g += heads) {
            const uint16_t *from = values + first * size;
            if (group - g >= heads) add_values<PARTS, heads>(s.weights + g * kKeys, kKeys, from, there, sums + g * size);
            else
                for (int64_t h = g; h < group; ++h) add_values<PARTS, 1>(s.weights + h * kKeys, kKeys, from, there, sums + h * size);
        }
    }
}

inline void attend_row(int64_t size, const Operand *query, int64_t group, const uint16_t *keys, const uint16_t *values,
                       int64_t count, float scale, Scratch &s) {
    switch (size) {
#define AMS_CASE(n) case n * 32: return attend_row<n>(query, group, keys, values, count, scale, s);
        AMS_CASE(1) AMS_CASE(2) AMS_CASE(3) AMS_CASE(4) AMS_CASE(5) AMS_CASE(6) AMS_CASE(7) AMS_CASE(8)
#undef AMS_CASE
    }
}

// 64 keys [there, size] as tiles of 16 "outputs" over `size` inputs; what isn't there is zero.
inline void tile_keys(const uint16_t *keys, int64_t there, int64_t size, uint16_t *to) {
    static constexpr uint16_t nothing[kLargestHead] = {};
    for (int64_t first = 0; first < kKeys; first += kTile, to += size * kTile) {
        const uint16_t *each[kTile];
        for (int64_t i = 0; i < kTile; ++i) each[i] = first + i < there ? keys + (first + i) * size : nothing;
        for (int64_t i = 0; i < size; i += 32) turn_keys(each, i, to + i * kTile);
    }
}

// 64 values [there, size] as tiles of 16 of a head's values as "outputs", over keys as inputs.
inline void tile_values(const uint16_t *values, int64_t there, int64_t size, uint16_t *to) {
    for (int64_t key = 0; key < kKeys; key += 2)
        for (int64_t i = 0; i < size; i += 32) {
            const uint16_t *one = key < there ? values + key * size + i : nullptr;
            const uint16_t *two = key + 1 < there ? values + (key + 1) * size + i : nullptr;
            uint16_t *out = to + i / kTile * kKeys * kTile + key * kTile;
            store_value_pairs(out, out + kKeys * kTile, one, two);
        }
}

// 64 keys and values of one round, as tiles: those of keys have `width` inputs, of which the head's size count.
struct Tiles {
    const uint16_t *keys, *values;
    int64_t width;
};

// Rows of a piece of a chunk: row r is query head r % group of position `position` + r / group, in s.query
// [rows, size]. It sees the keys up to its own position; sums and totals as in attend_row. `tiles(first, there)` gives
// the next keys.
template <class Give>
inline void attend_tiles(int64_t size, int64_t rows, int64_t group, int64_t position, float scale, Scratch &s, const Give &tiles) {
    for (int64_t i = 0; i < rows * size; i += 16) store(s.sums + i, zeros());
    for (int64_t r = 0; r < rows; ++r) s.most[r] = -INFINITY, s.total[r] = 0;
    const int64_t end = position + (rows + group - 1) / group;
    for (int64_t first = 0; first < end; first += kKeys) {
        const int64_t there = std::min(kKeys, end - first);
        const Tiles given = tiles(first, there);
        for (int64_t t = 0; t < kKeys / kTile; t += 2)
            pair_rows<2>(rows, s.query, size, given.keys + t * given.width * kTile, given.width * kTile, size,
                         s.scores + t * kTile, kKeys, Mode::store);
        for (int64_t r = 0; r < rows; ++r) {
            float *scores = s.scores + r * kKeys;
            const int64_t seen = std::min(kKeys, position + r / group + 1 - first);
            Floats parts[kKeys / 16], largest = all_of(-INFINITY);
            for (int64_t i = 0; i < kKeys / 16; ++i) {
                parts[i] = choose(first_lanes(seen - 16 * i), load(scores + 16 * i) * all_of(scale), all_of(-INFINITY));
                largest = max_of(parts[i], largest);
            }
            const float most = std::max(s.most[r], largest_of(largest));
            if (most == -INFINITY) {  // a row that sees nothing of these keys, nor of any before
                for (int64_t i = 0; i < kKeys; i += 16) store_operand(s.weights + r * kKeys + i, zeros());
                continue;
            }
            if (most > s.most[r]) {
                const float shrink = std::exp(s.most[r] - most);
                s.total[r] *= shrink;
                if (first) scale_by(s.sums + r * size, size, shrink);
                s.most[r] = most;
            }
            Floats total = zeros();
            for (int64_t i = 0; i < kKeys / 16; ++i) {
                const Floats weight = keep(first_lanes(seen - 16 * i), exp_of(parts[i] - all_of(most)));
                total = total + weight;
                store_operand(s.weights + r * kKeys + 16 * i, weight);
            }
            s.total[r] += sum_of(total);
        }
        int64_t t = 0;
        for (; t + 2 <= size / kTile; t += 2)
            pair_rows<2>(rows, s.weights, kKeys, given.values + t * kKeys * kTile, kKeys * kTile, kKeys, s.sums + t * kTile, size, Mode::add);
        if (t < size / kTile)
            pair_rows<1>(rows, s.weights, kKeys, given.values + t * kKeys * kTile, kKeys * kTile, kKeys, s.sums + t * kTile, size, Mode::add);
    }
}

// The same over keys and values that lie one behind the other.
inline void attend_piece(int64_t size, int64_t rows, int64_t group, int64_t position, const uint16_t *keys,
                         const uint16_t *values, float scale, Scratch &s) {
    attend_tiles(size, rows, group, position, scale, s, [&](int64_t first, int64_t there) {
        tile_keys(keys + first * size, there, size, s.keys);
        tile_values(values + first * size, there, size, s.values);
        return Tiles{s.keys, s.values, size};
    });
}

}  // namespace ams
