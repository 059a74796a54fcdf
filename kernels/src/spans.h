// Attention of towers: tokens of a span see each other, whatever their order. Keys and values are turned and laid out in
// tiles once, and met by all queries.
#pragma once
#include <algorithm>
#include <vector>

#include "attention.h"

namespace ams {

class Spans {
  public:
    // Of `heads` and tokens, those that are computed; a copy of the spans, as a thread may come when the call is over.
    Spans(const AmsAttention &of, int64_t first_head, int64_t last_head, int64_t first, int64_t last)
        : of_(of), first_head_(first_head), heads_(last_head - first_head), size_((of.head_size + kTile - 1) / kTile * kTile),
          width_((of.head_size + 31) / 32 * 32) {
        for (const AmsSpan *span = of.spans; span < of.spans + of.span_count; ++span) {
            const int64_t block = (int64_t)blocks_.size(), end = span->first + span->count;
            for (int64_t at = 0; at < span->keys; at += kKeys)
                blocks_.push_back({span->first + at, std::min(kKeys, span->keys - at)});
            for (int64_t at = std::max(first, span->first); at < std::min(last, end); at += kQueries)
                pieces_.push_back({at, std::min(kQueries, std::min(last, end) - at), block, span->keys});
        }
    }

    int64_t room() const { return (int64_t)blocks_.size() * kKeys * (width_ + size_); }
    int64_t blocks() const { return (int64_t)blocks_.size() * heads_; }
    int64_t pieces() const { return (int64_t)pieces_.size() * heads_; }

    // Block `p` of keys and values into its tiles.
    void place(int64_t p, Scratch &s) const {
        const int64_t head = p / (int64_t)blocks_.size(), number = p % (int64_t)blocks_.size();
        const Block &block = blocks_[number];
        uint16_t *rows = s.keys, *to = tiles(head, number);  // s.keys has room for 64 rows of any head
        for (int64_t i = 0; i < block.count; ++i) {
            float *key = take(of_.key, of_.key_stride, block.first + i, head, s);
            for (int64_t at = 0; at < width_; at += 16) store_bf16(rows + i * width_ + at, load(key + at));
        }
        tile_keys(rows, block.count, width_, to);
        for (int64_t i = 0; i < block.count; ++i) {
            const uint16_t *value = at_of(of_.value, of_.value_stride, block.first + i, head);
            for (int64_t at = 0; at < width_; at += 16)
                store_bf16(rows + i * width_ + at, load_bf16_part(value + at, of_.head_size - at, 0.0f));
        }
        // Into a room of its own first: tiles come in pairs, of which the last one may be a tile too many.
        tile_values(rows, block.count, width_, s.values);
        std::memcpy(to + kKeys * width_, s.values, kKeys * size_ * sizeof(uint16_t));
    }

    // Piece `p` of the queries, over all keys of their span.
    void attend(int64_t p, Scratch &s) const {
        const int64_t head = p / (int64_t)pieces_.size();
        const Piece &piece = pieces_[p % (int64_t)pieces_.size()];
        for (int64_t r = 0; r < piece.count; ++r) {
            const float *query = take(of_.query, of_.query_stride, piece.first + r, head, s);
            for (int64_t at = 0; at < size_; at += 16) store_operand(s.query + r * size_ + at, load(query + at));
        }
        // All rows see what the last of so many keys does.
        attend_tiles(size_, piece.count, piece.count, piece.keys - 1, of_.scale, s, [&](int64_t first, int64_t) {
            const uint16_t *from = tiles(head, piece.block + first / kKeys);
            return Tiles{from, from + kKeys * width_, width_};
        });
        for (int64_t r = 0; r < piece.count; ++r) {
            uint16_t *to = of_.out + ((piece.first + r) * of_.heads + first_head_ + head) * of_.head_size;
            const Floats factor = all_of(1.0f / s.total[r]);
            for (int64_t at = 0; at < of_.head_size; at += 16)
                store_bf16_part(to + at, load(s.sums + r * size_ + at) * factor, of_.head_size - at);
        }
    }

  private:
    struct Block {
        int64_t first, count;
    };
    struct Piece {
        int64_t first, count, block, keys;
    };

    uint16_t *tiles(int64_t head, int64_t block) const {
        return of_.tiles + (head * (int64_t)blocks_.size() + block) * kKeys * (width_ + size_);
    }
    const uint16_t *at_of(const uint16_t *from, int64_t stride, int64_t token, int64_t head) const {
        return from + token * stride + (first_head_ + head) * of_.head_size;
    }

    // One token's head, turned where that is asked for, with zeros behind it up to whole vectors.
    float *take(const uint16_t *from, int64_t stride, int64_t token, int64_t head, Scratch &s) const {
        const uint16_t *values = at_of(from, stride, token, head);
        float *plain = s.gate, *turned = s.up;
        for (int64_t at = 0; at < width_; at += 16) store(plain + at, load_bf16_part(values + at, of_.head_size - at, 0.0f));
        if (!of_.cos) return plain;
        const int64_t half = of_.head_size / 2;
        for (int64_t i = 0; i < half; ++i) turned[i] = -plain[half + i];
        std::memcpy(turned + half, plain, half * sizeof(float));
        const float *cos = of_.cos + token * of_.head_size, *sin = of_.sin + token * of_.head_size;
        for (int64_t at = 0; at < of_.head_size; at += 16) {
            const int64_t there = of_.head_size - at;
            const Floats other = choose(first_lanes(there), load(turned + at), zeros());
            store(plain + at, multiply_add(load(plain + at), load_part(cos + at, there, 0.0f), other * load_part(sin + at, there, 0.0f)));
        }
        return plain;
    }

    AmsAttention of_;
    std::vector<Block> blocks_;
    std::vector<Piece> pieces_;
    int64_t first_head_, heads_, size_, width_;
};

}  // namespace ams
