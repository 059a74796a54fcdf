// Layouts of weights in tiles of 16 outputs, and what of them the processor doesn't matter for. README.md has the bytes.
#pragma once
#include <cstdint>
#include <type_traits>

#include "kernels.h"
#include "simd.h"

namespace ams {

constexpr int64_t kTile = 16, kGroup = 32;

// How the codes q of a group become weights.
enum class Form {
    affine,   // s·q + m, of each group s and m in float16
    centred,  // s·(q - half of their range), of each group s in float16
    blocks,   // as `affine`, or as `centred` with an s for each half of a group, of products: for 8 groups float16, for each
              // group or half of one a whole number of 8 bits
};

template <int CODE_BITS, Form FORM>
struct Grouped {
    static constexpr int kBits = CODE_BITS;
    static constexpr bool kBlocks = FORM == Form::blocks, kHalves = kBlocks && CODE_BITS == 6;
    static constexpr bool kCentred = FORM == Form::centred || kHalves;
    static constexpr int64_t kGroups = kBlocks ? 8 : 1;  // of a block
    static constexpr int64_t kHead = kBlocks ? (kHalves ? 32 : 64) : 0;
    static constexpr int64_t kFactors = FORM == Form::affine ? 64 : 32;
    static constexpr int64_t kGroupBytes = kFactors + kGroup * kTile * CODE_BITS / 8;
    static constexpr int64_t kBytes = kHead + kGroups * kGroupBytes;  // of a block
};

// What is one for all groups of a block.
template <class L>
struct Head {
    Floats scale, offset;
};

template <class L>
inline Head<L> read_head(const uint8_t *from) {
    Head<L> head{zeros(), zeros()};
    if constexpr (L::kBlocks) head.scale = load_f16(from);
    if constexpr (L::kBlocks && !L::kHalves) head.offset = zeros() - load_f16(from + 32);
    return head;
}

// s and m of one group, or of one half of it.
struct Factors {
    Floats s, m;
};

template <class L>
inline Factors read_factors(const Head<L> &head, const uint8_t *from, [[maybe_unused]] int half = 0) {
    Factors found;
    if constexpr (L::kHalves) found.s = head.scale * load_i8(from + kTile * half);
    else if constexpr (L::kBlocks) found.s = head.scale * load_u8(from);
    else found.s = load_f16(from);
    if constexpr (L::kCentred) found.m = found.s * all_of(-(float)(1 << (L::kBits - 1)));
    else if constexpr (L::kBlocks) found.m = head.offset * load_u8(from + kTile);
    else found.m = load_f16(from + 32);
    return found;
}

// call(Grouped<...>()) for a layout of grouped weights.
template <class Call>
inline void with_layout(int32_t layout, const Call &call) {
    switch (layout) {
        case AMS_GROUPS_4: return call(Grouped<4, Form::affine>());
        case AMS_GROUPS_5: return call(Grouped<5, Form::affine>());
        case AMS_GROUPS_8: return call(Grouped<8, Form::affine>());
        case AMS_CENTRED_4: return call(Grouped<4, Form::centred>());
        case AMS_CENTRED_5: return call(Grouped<5, Form::centred>());
        case AMS_CENTRED_8: return call(Grouped<8, Form::centred>());
        case AMS_BLOCKS_4: return call(Grouped<4, Form::blocks>());
        case AMS_BLOCKS_5: return call(Grouped<5, Form::blocks>());
        case AMS_BLOCKS_6: return call(Grouped<6, Form::blocks>());
    }
}

inline bool is_bf16(const AmsLinear &linear) { return linear.layout == AMS_BF16; }
inline bool has_halves(const AmsLinear &linear) { return linear.layout == AMS_BLOCKS_6; }
inline int64_t tiles_of(const AmsLinear &linear) { return (linear.outputs + kTile - 1) / kTile; }

// Bytes of so many inputs of a tile: whole blocks.
inline int64_t bytes_of(const AmsLinear &linear, int64_t inputs) {
    int64_t bytes = inputs * kTile * 2;
    with_layout(linear.layout, [&](auto layout) {
        using L = decltype(layout);
        bytes = inputs / (kGroup * L::kGroups) * L::kBytes;
    });
    return bytes;
}

}  // namespace ams
