// Tokens drawn from what temperature, top_k, top_p and min_p leave, without sorting the vocabulary.
//
// A token is drawn from all that top_k and min_p leave, and again where it is none that top_p keeps, so that it is
// distributed as if the vocabulary had been sorted (rejection sampling, as in FlashInfer). What was left out, and all
// that weighs no more, isn't drawn again. A row's token depends on the row, its settings and its seed alone.
#pragma once
#include <algorithm>
#include <cmath>
#include <functional>
#include <vector>

#include "attention.h"

namespace ams {

constexpr int64_t kBlock = 128;       // tokens whose weights are added up before one of them is looked for
constexpr int kMostDraws = 64;        // each leaves out more; nobody has seen ten
constexpr float kLeastTemperature = 1e-3f;

// A row's logits, bfloat16 or float32; behind the last one all are minus infinity.
struct Logits {
    const uint16_t *narrow;
    const float *wide;
    int64_t count;

    Floats at(int64_t i) const {
        return narrow ? load_bf16_part(narrow + i, count - i, -INFINITY) : load_part(wide + i, count - i, -INFINITY);
    }
};

// The highest logit; NaN where there is one.
inline float highest_of(const Logits &logits) {
    Floats highest = all_of(-INFINITY);
    Mask nan = first_lanes(0);
    for (int64_t at = 0; at < logits.count; at += 16) {
        const Floats values = logits.at(at);
        nan = either(nan, is_nan(values, values));
        highest = max_of(values, highest);
    }
    return bits_of(nan) ? NAN : largest_of(highest);
}

inline int64_t first_of(const Logits &logits, float value) {
    for (int64_t at = 0; at < logits.count; at += 16)
        if (const uint32_t found = bits_of(is_equal(logits.at(at), all_of(value)))) return at + __builtin_ctz(found);
    return -1;
}

// Numbers from 0 to 1, by splitmix64 (Steele, Lea and Flood, 2014).
class Uniform {
  public:
    explicit Uniform(uint64_t seed) : state_(seed) {}
    double next() {
        uint64_t z = state_ += 0x9E3779B97F4A7C15u;
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
        z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
        return (double)((z ^ (z >> 31)) >> 11) * 0x1.0p-53;
    }

  private:
    uint64_t state_;
};

// What the tokens of one row weigh, the likeliest 1, in whole blocks. Kept from row to row.
class Weights {
  public:
    void fill(const Logits &logits, float highest, float temperature) {
        blocks_ = (logits.count + kBlock - 1) / kBlock;
        if ((int64_t)weights_.size() < blocks_ * kBlock + 16) weights_.resize(blocks_ * kBlock + 16);
        if ((int64_t)sums_.size() < blocks_) sums_.resize(blocks_);
        const Floats most = all_of(highest), sharpness = all_of(1.0f / temperature);
        const Floats least = all_of(-87.0f);
        for (int64_t at = 0; at < blocks_ * kBlock; at += 16) {
            const Floats x = (logits.at(at) - most) * sharpness;
            store(data() + at, keep(is_above(x, least), exp_of(x)));  // less is nothing
        }
        add_up();
    }

    double total() const { return total_; }

    // Leave what weighs at least so much.
    void keep_from(float least) {
        const Floats limit = all_of(least);
        for (int64_t at = 0; at < blocks_ * kBlock; at += 16) {
            const Floats w = load(data() + at);
            store(data() + at, keep(is_at_least(w, limit), w));
        }
        add_up();
    }

    void keep_above(float weight) { keep_from(std::nextafter(weight, INFINITY)); }

    // The weight of the token in this place among the heaviest, the first one being 1.
    float heaviest(int64_t place) {
        // They lie in as many blocks, those with the highest maxima: none weighs less than the last of these.
        float least = 0.0f;
        if (place < blocks_) {
            some_.clear();
            for (int64_t b = 0; b < blocks_; ++b) {
                Floats most = zeros();
                for (int64_t i = 0; i < kBlock; i += 16) most = max_of(most, load(data() + b * kBlock + i));
                some_.push_back(largest_of(most));
            }
            std::nth_element(some_.begin(), some_.begin() + (place - 1), some_.end(), std::greater<float>());
            least = some_[place - 1];
        }
        some_.resize(blocks_ * kBlock + 16);
        const Floats limit = all_of(least);
        int64_t count = 0;
        for (int64_t at = 0; at < blocks_ * kBlock; at += 16) {
            const Floats w = load(data() + at);
            count += store_kept(some_.data() + count, is_at_least(w, limit), w);
        }
        if (place > count) return 0.0f;
        std::nth_element(some_.begin(), some_.begin() + (place - 1), some_.begin() + count, std::greater<float>());
        return some_[place - 1];
    }

    // The token at so much of the total, from 0 to 1, and its weight: 0 where rounding led to one that weighs nothing.
    int64_t at(double uniform, float *weight) {
        const double target = uniform * total_;
        const int64_t b = std::min<int64_t>(
            blocks_ - 1, std::upper_bound(sums_.begin(), sums_.begin() + blocks_, target) - sums_.begin());
        double sum = b ? sums_[b - 1] : 0.0;
        int64_t token = b * kBlock;
        for (const int64_t end = token + kBlock - 1; token < end; ++token)
            if ((sum += data()[token]) > target) break;
        *weight = data()[token];
        return token;
    }

    // What all tokens weigh together that weigh more than this.
    double above(float weight) const {
        const Floats limit = all_of(weight);
        double sum = 0.0;
        for (int64_t b = 0; b < blocks_; ++b) {
            Floats block = zeros();
            for (int64_t i = 0; i < kBlock; i += 16) {
                const Floats w = load(data() + b * kBlock + i);
                block = block + keep(is_above(w, limit), w);
            }
            sum += sum_of(block);
        }
        return sum;
    }

  private:
    float *data() const { return (float *)(((uintptr_t)weights_.data() + 63) / 64 * 64); }

    void add_up() {
        total_ = 0.0;
        for (int64_t b = 0; b < blocks_; ++b) {
            Floats block = zeros();
            for (int64_t i = 0; i < kBlock; i += 16) block = block + load(data() + b * kBlock + i);
            sums_[b] = total_ += sum_of(block);
        }
    }

    std::vector<float> weights_, some_;
    std::vector<double> sums_;  // up to the end of each block
    int64_t blocks_ = 0;
    double total_ = 0.0;
};

// -1 where there is a NaN, -2 where all are minus infinity.
inline int64_t draw(const Logits &logits, const AmsDraw &how, Weights &weights) {
    const float highest = highest_of(logits);
    if (std::isnan(highest)) return -1;
    if (highest == -INFINITY) return -2;
    const int64_t likeliest = first_of(logits, highest);
    if (how.temperature <= 0.0f || highest == INFINITY) return likeliest;
    weights.fill(logits, highest, std::max(how.temperature, kLeastTemperature));
    if (how.top_k > 0 && how.top_k < logits.count) weights.keep_from(weights.heaviest(how.top_k));
    const double most_above = how.top_p < 1.0f ? (double)how.top_p * weights.total() : INFINITY;
    if (how.min_p > 0.0f) weights.keep_from(std::min(how.min_p, 1.0f));
    Uniform uniform(how.seed);
    for (int draws = 0; draws < kMostDraws; ++draws) {
        float weight;
        const int64_t token = weights.at(uniform.next(), &weight);
        if (weight <= 0.0f) continue;
        if (most_above == INFINITY) return token;
        const double above = weights.above(weight);
        if (above <= 0.0 || above < most_above) return token;
        weights.keep_above(weight);
    }
    return likeliest;
}

}  // namespace ams
