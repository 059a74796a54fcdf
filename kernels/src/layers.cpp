// A decoder's layers: compiled once for each kind of processor (simd.h), called only where `ams_supported` says so.
#include <cstdlib>
#include <memory>
#include <mutex>
#include <new>
#include <vector>

#include "attention.h"
#include "drawing.h"
#include "spans.h"
#include "team.h"
#ifdef AMS_UNPACKS
#include "unpacked.h"
#endif

namespace ams {
namespace {

constexpr int kMostThreads = 256;
int thread_count = 1;
double part_seconds[AMS_PARTS];

template <class T>
class Room {  // aligned, grows, never shrinks
  public:
    T *get(int64_t count) {
        if (count > count_) {
            std::free(data_);
            data_ = (T *)std::aligned_alloc(64, (count * sizeof(T) + 63) / 64 * 64);
            count_ = data_ ? count : 0;
            if (!data_) throw std::bad_alloc();
        }
        return data_;
    }
    ~Room() { std::free(data_); }

  private:
    T *data_ = nullptr;
    int64_t count_ = 0;
};

struct InputRoom {
    Room<Operand> pair;
    Room<uint8_t> codes;
    Room<float> step, sum, half;
    Inputs get(int64_t rows, int64_t k, Wanted wanted) {
        Inputs in;
        in.k = k;
        if (wanted.pairs) in.pair = pair.get(rows * k);
        if (wanted.codes) {
            in.codes = codes.get(rows * in.groups() * kCodeBytes);
            in.step = step.get(rows * in.groups());
            in.sum = sum.get(rows * in.groups());
            if (wanted.halves) in.half = half.get(rows * in.groups());
        }
        return in;
    }
};

// What lies between the layers; kept from call to call, as calls come from one thread.
struct Between {
    InputRoom normed, attended, activated;
    Room<float> qkv;
    std::unique_ptr<Scratch> scratch[kMostThreads];
};
// Made with the first call: what runs while a library is opened must run on any processor.
Between &kept() {
    static Between *const one = new Between;
    return *one;
}
std::mutex busy;  // calls may come from several threads, one after the other

Team &team() {
    static Team *const one = new Team;  // never taken down: its threads wait for the end of the process
    return *one;
}

void run(int64_t phases, Work work) { team().run(phases, thread_count, part_seconds, std::move(work)); }

void make_scratch() {
    for (int i = 0; i < thread_count; ++i)
        if (!kept().scratch[i]) kept().scratch[i].reset(new Scratch);
}

// Pieces of `tiles` tiles: large enough to be worth the taking, small enough that threads end together.
int64_t piece_of(int64_t tiles, int threads, int64_t least) {
    return std::max(least, (tiles / (threads * 6) + least - 1) / least * least);
}

void norm_rows(Member &member, const float *x, int64_t rows, int64_t hidden, const float *weight, float epsilon, const Inputs &to) {
    const int64_t piece = std::max<int64_t>(1, rows / (member.count * 4));
    member.share(AMS_NORM, (rows + piece - 1) / piece, [&](int64_t p) {
        for (int64_t r = p * piece; r < std::min(rows, (p + 1) * piece); ++r) norm_row(x + r * hidden, weight, epsilon, to, r);
    });
}

struct Shape {
    int64_t hidden, inner, queries, keys, size, group, width;  // width of one token's queries, keys and values
    explicit Shape(const AmsModel &m)
        : hidden(m.hidden), inner(m.inner), queries(m.query_heads), keys(m.key_heads), size(m.head_size),
          group(m.query_heads / m.key_heads), width((m.query_heads + 2 * m.key_heads) * m.head_size) {}
};

// A head's values [size], normed where there is a norm, then turned.
void turn(float *head, int64_t size, const float *norm, float epsilon, const float *cos, const float *sin) {
    alignas(64) float other[kLargestHead];
    if (norm) {
        Floats squares = zeros();
        for (int64_t i = 0; i < size; i += 16) squares = multiply_add(load(head + i), load(head + i), squares);
        const Floats factor = all_of(1.0f / std::sqrt(sum_of(squares) / (float)size + epsilon));
        for (int64_t i = 0; i < size; i += 16) store(head + i, load(head + i) * factor * load(norm + i));
    }
    const int64_t half = size / 2;
    std::memcpy(other, head + half, half * sizeof(float));
    std::memcpy(other + half, head, half * sizeof(float));
    for (int64_t i = 0; i < size; i += 16)
        store(head + i, multiply_add(load(head + i), load(cos + i), load(other + i) * load(sin + i)));
}

void to_bf16(const float *from, int64_t count, uint16_t *to) {
    for (int64_t i = 0; i < count; i += 16) store_bf16(to + i, load(from + i));
}

void put_sums(const float *sums, float total, int64_t size, const Inputs &to, int64_t row, int64_t at) {
    const Floats factor = all_of(1.0f / total);
    for (int64_t i = 0; i < size; i += kGroup)
        put_group(to, row, (at + i) / kGroup, load(sums + i) * factor, load(sums + i + 16) * factor);
}

Wanted wanted_by(const AmsLinear &linear) {
    Wanted wanted;
    wanted.add(linear);
    return wanted;
}

constexpr int64_t kPhases = 8;  // of a layer, at most

struct Run {
    const AmsModel model;
    AmsStep step;
    // Copies, as a thread that comes late asks them how many pieces there were when the caller's memory may be gone.
    std::vector<AmsLayer> layers;
    std::vector<AmsChunk> chunks;
    const Shape shape;
    Inputs normed, attended, activated;
    float *qkv;
    int64_t single_tokens;
    const int32_t *stop;
    enum Turn : int { open, on, off };
    std::shared_ptr<std::atomic<int>[]> turns;  // of each layer, what the first thread that came to it decided for all

    Run(const AmsModel &model, const AmsStep &step, int64_t first, int64_t last, const int32_t *stop)
        : model(model), step(step), layers(model.layers + first, model.layers + last),
          chunks(step.chunks, step.chunks + step.chunk_count), shape(model), stop(stop) {
        if (stop) turns.reset(new std::atomic<int>[layers.size()]());
        single_tokens = step.rows;
        for (const AmsChunk &chunk : chunks) {
            if (!chunk.singly) break;
            single_tokens += chunk.count;
        }
        Wanted in[3];
        for (const AmsLayer &l : layers) {
            for (const AmsLinear *each : {&l.query, &l.key, &l.value, &l.gate, &l.up}) in[0].add(*each);
            in[1].add(l.out);
            in[2].add(l.down);
        }
        if (unpacks()) in[0].pairs = in[1].pairs = in[2].pairs = true;
        normed = kept().normed.get(step.tokens, shape.hidden, in[0]);
        attended = kept().attended.get(step.tokens, shape.queries * shape.size, in[1]);
        activated = kept().activated.get(step.tokens, shape.inner, in[2]);
        qkv = kept().qkv.get(step.tokens * shape.width + kTile);
        make_scratch();
    }

    // Whether layer `index` is computed. All threads are told the same; one that comes late reads no memory of the caller's.
    bool goes_on(size_t index) const {
        if (!stop || !index) return true;
        int turn = turns[index].load(std::memory_order_acquire);
        if (turn == open) {
            const int wanted = __atomic_load_n(stop, __ATOMIC_RELAXED) ? off : on;
            if (turns[index].compare_exchange_strong(turn, wanted, std::memory_order_acq_rel)) turn = wanted;
        }
        return turn == on;
    }

    bool unpacks() const {
#ifdef AMS_UNPACKS
        return step.tokens - single_tokens >= AMS_UNPACKS;
#else
        return false;
#endif
    }

    // The first tokens, rows and drafts, are computed by codes whatever else is in the step, so that they come out the
    // same; those of prompts, if they are many, by tiles that are unpacked.
    void product(const AmsLinear &linear, const Inputs &in, int64_t row, int64_t rows, int64_t first, int64_t count, float *c,
                 int64_t ldc, Mode mode, [[maybe_unused]] Scratch &s) const {
        int64_t singles = rows;
        if (!is_bf16(linear) && unpacks()) singles = std::max<int64_t>(0, std::min(rows, single_tokens - row));
        if (singles) matmul_tiles(linear, in.from(row), singles, first, count, c, ldc, mode);
#ifdef AMS_UNPACKS
        if (singles < rows)
            matmul_unpacked(linear, in.from(row + singles), rows - singles, first, count, c + singles * ldc, ldc, mode, s.unpacked);
#endif
    }

    void layer(Member &member, const AmsLayer &l) const {
        Scratch &scratch = *kept().scratch[member.number];
        norm_rows(member, step.x, step.tokens, shape.hidden, l.input_norm, model.epsilon, normed);
        project(member, l, scratch);
        if (step.tokens > step.rows) place_chunks(member, l);
        attend(member, l, scratch);
        add(member, AMS_OUT, l.out, attended, scratch);
        norm_rows(member, step.x, step.tokens, shape.hidden, l.post_norm, model.epsilon, normed);
        gate_up(member, l, scratch);
        add(member, AMS_DOWN, l.down, activated, scratch);
    }

    void project(Member &member, const AmsLayer &l, Scratch &s) const {
        const AmsLinear *three[3] = {&l.query, &l.key, &l.value};
        const int64_t at[3] = {0, shape.queries * shape.size, (shape.queries + shape.keys) * shape.size};
        const int64_t least = step.tokens == 1 ? 4 : 2;
        const int64_t piece = piece_of(shape.width / kTile, member.count, least);
        int64_t pieces[3];
        for (int i = 0; i < 3; ++i) pieces[i] = (tiles_of(*three[i]) + piece - 1) / piece;
        member.share(AMS_QKV, pieces[0] + pieces[1] + pieces[2], [&](int64_t p) {
            int i = 0;
            while (p >= pieces[i]) p -= pieces[i++];
            const int64_t first = p * piece, count = std::min(piece, tiles_of(*three[i]) - first);
            product(*three[i], normed, 0, step.tokens, first, count, qkv + at[i] + first * kTile, shape.width, Mode::store, s);
        });
    }

    uint16_t *keys(const AmsLayer &l, int64_t base, int64_t head, int64_t stride) const {
        return l.cache + (base + head * stride) * shape.size;
    }
    int64_t values_behind() const { return model.pool_tokens * shape.keys * shape.size; }

    void place(const AmsLayer &l, int64_t token, int64_t head) const {
        float *key = qkv + token * shape.width + (shape.queries + head) * shape.size;
        turn(key, shape.size, l.key_norm, model.epsilon, step.cos + token * shape.size, step.sin + token * shape.size);
        uint16_t *to = keys(l, step.base[token], head, step.stride[token]) + step.position[token] * shape.size;
        to_bf16(key, shape.size, to);
        to_bf16(key + shape.keys * shape.size, shape.size, to + values_behind());
    }
    void turn_queries(const AmsLayer &l, int64_t token, int64_t head, Operand *to) const {
        float *query = qkv + token * shape.width + head * shape.group * shape.size;
        for (int64_t g = 0; g < shape.group; ++g, query += shape.size, to += shape.size) {
            turn(query, shape.size, l.query_norm, model.epsilon, step.cos + token * shape.size, step.sin + token * shape.size);
            for (int64_t i = 0; i < shape.size; i += 16) store_operand(to + i, load(query + i));
        }
    }

    void place_chunks(Member &member, const AmsLayer &l) const {
        member.share(AMS_ATTENTION, step.tokens - step.rows, [&](int64_t p) {
            for (int64_t head = 0; head < shape.keys; ++head) place(l, step.rows + p, head);
        });
    }

    // Rows, and then tokens of a chunk: how many of them are one piece, and how many pieces a chunk has.
    int64_t positions_of(const AmsChunk &chunk) const {
        return chunk.singly ? 1 : std::max<int64_t>(1, kQueries / shape.group);
    }
    int64_t pieces_of(const AmsChunk &chunk) const {
        return (chunk.count + positions_of(chunk) - 1) / positions_of(chunk);
    }

    void attend(Member &member, const AmsLayer &l, Scratch &s) const {
        int64_t pieces = 0;
        for (const AmsChunk &chunk : chunks) pieces += pieces_of(chunk);
        const int64_t large = pieces * shape.keys;
        member.share(AMS_ATTENTION, large + step.rows * shape.keys, [&](int64_t p) {
            if (p >= large) {
                const int64_t token = (p - large) / shape.keys, head = (p - large) % shape.keys;
                place(l, token, head);
                return attend_token(l, token, head, s);
            }
            // Pieces from the end: the last one of a chunk reads the most keys.
            const int64_t head = p % shape.keys;
            int64_t piece = pieces - 1 - p / shape.keys;
            const AmsChunk *chunk = chunks.data();
            for (int64_t each; piece >= (each = pieces_of(*chunk)); ++chunk) piece -= each;
            const int64_t positions = positions_of(*chunk);
            const int64_t first = piece * positions, count = std::min(positions, chunk->count - first);
            if (chunk->singly) attend_token(l, chunk->first + first, head, s);
            else attend_tokens(l, *chunk, first, count, head, s);
        });
    }

    void attend_token(const AmsLayer &l, int64_t token, int64_t head, Scratch &s) const {
        turn_queries(l, token, head, s.query);
        const uint16_t *k = keys(l, step.base[token], head, step.stride[token]);
        ams::attend_row(shape.size, s.query, shape.group, k, k + values_behind(), step.position[token] + 1, model.scale, s);
        for (int64_t g = 0; g < shape.group; ++g)
            put_sums(s.sums + g * shape.size, s.total[g], shape.size, attended, token, (head * shape.group + g) * shape.size);
    }

    void attend_tokens(const AmsLayer &l, const AmsChunk &chunk, int64_t first, int64_t count, int64_t head, Scratch &s) const {
        for (int64_t i = 0; i < count; ++i)
            turn_queries(l, chunk.first + first + i, head, s.query + i * shape.group * shape.size);
        const int64_t rows = count * shape.group, position = chunk.keys - chunk.count + first;
        const uint16_t *k = keys(l, chunk.base, head, chunk.stride);
        attend_piece(shape.size, rows, shape.group, position, k, k + values_behind(), model.scale, s);
        for (int64_t r = 0; r < rows; ++r)
            put_sums(s.sums + r * shape.size, s.total[r], shape.size, attended, chunk.first + first + r / shape.group,
                     (head * shape.group + r % shape.group) * shape.size);
    }

    void add(Member &member, int part, const AmsLinear &linear, const Inputs &in, Scratch &s) const {
        const int64_t tiles = tiles_of(linear), piece = piece_of(tiles, member.count, step.tokens == 1 ? 4 : 2);
        member.share(part, (tiles + piece - 1) / piece, [&](int64_t p) {
            const int64_t first = p * piece, count = std::min(piece, tiles - first);
            product(linear, in, 0, step.tokens, first, count, step.x + first * kTile, shape.hidden, Mode::add, s);
        });
    }

    void gate_up(Member &member, const AmsLayer &l, Scratch &s) const {
        const int64_t width = 2 * kTile, pieces = shape.inner / width;
        const int64_t each = step.tokens <= 32 ? piece_of(pieces, member.count, 1) : 1;
        member.share(AMS_GATE_UP, (pieces + each - 1) / each, [&](int64_t p) {
            for (int64_t piece = p * each; piece < std::min(pieces, (p + 1) * each); ++piece)
                for (int64_t first = 0; first < step.tokens; first += kQueries) {
                    const int64_t rows = std::min(kQueries, step.tokens - first);
                    product(l.gate, normed, first, rows, 2 * piece, 2, s.gate, width, Mode::store, s);
                    product(l.up, normed, first, rows, 2 * piece, 2, s.up, width, Mode::store, s);
                    for (int64_t r = 0; r < rows; ++r)
                        put_group(activated, first + r, piece, swiglu(s.gate + r * width, s.up + r * width),
                                  swiglu(s.gate + r * width + 16, s.up + r * width + 16));
                }
        });
    }

    static Floats swiglu(const float *gate, const float *up) {
        const Floats g = load(gate), one = all_of(1.0f);
        // exp of a negative only, as exp_of wants it: sigmoid(g) = e / (1 + e) or 1 / (1 + e), e = exp(-|g|).
        const Floats e = exp_of(zeros() - abs_of(g));
        return g * (choose(is_less(g, zeros()), e, one) / (one + e)) * load(up);
    }
};

}  // namespace
}  // namespace ams

using namespace ams;

extern "C" void ams_use(int count) { thread_count = std::max(1, std::min(count, kMostThreads)); }

extern "C" int ams_gather(const AmsTables *tables, int64_t tokens, const int64_t *ids, const int64_t *positions, float *x,
                          float *cos, float *sin) {
    const int64_t hidden = tables->hidden, size = tables->head_size;
    for (int64_t t = 0; t < tokens; ++t) {
        if (ids[t] < 0 || ids[t] >= tables->vocabulary || positions[t] < 0 || positions[t] >= tables->positions) return 1;
        const uint16_t *row = tables->embeddings + ids[t] * hidden;
        for (int64_t i = 0; tables->embeddings && i < hidden; i += 16) store(x + t * hidden + i, load_bf16_part(row + i, 16, 0));
        for (int64_t i = 0; i < size; i += 16) {
            store(cos + t * size + i, load_bf16_part(tables->cos + positions[t] * size + i, 16, 0));
            store(sin + t * size + i, load_bf16_part(tables->sin + positions[t] * size + i, 16, 0));
        }
    }
    return 0;
}

extern "C" int64_t ams_layers(const AmsModel *model, const AmsStep *step, int64_t first, int64_t last, const int32_t *stop) {
    const std::lock_guard<std::mutex> alone(busy);
    try {
        Run all(*model, *step, first, last, stop);
        int64_t next = first;
        run((last - first) * kPhases, [all = std::move(all), &next](Member &member) {
            size_t index = 0;
            for (; index < all.layers.size() && all.goes_on(index); ++index) all.layer(member, all.layers[index]);
            if (member.number == 0) next += index;  // others may come to this when the caller has gone on
        });
        return next;
    } catch (const std::bad_alloc &) {
        return -1;
    }
}

// [count, outputs] in bfloat16 of the rows `which` of x, or of all where it is null.
extern "C" int ams_logits(const AmsModel *model, const float *x, const int64_t *which, int64_t count, uint16_t *logits) {
    const std::lock_guard<std::mutex> alone(busy);
    try {
        const AmsLinear head = model->head;
        const int64_t hidden = model->hidden;
        const float *const norm = model->final_norm;
        const float epsilon = model->epsilon;
        const Inputs in = kept().normed.get(count, hidden, wanted_by(head));
        const int64_t tiles = tiles_of(head), outputs = head.outputs;
        make_scratch();
        run(2, [=](Member &member) {
            Scratch &s = *kept().scratch[member.number];
            member.share(AMS_NORM, count, [&](int64_t r) {
                norm_row(x + (which ? which[r] : r) * hidden, norm, epsilon, in, r);
            });
            const int64_t piece = 4;
            const int64_t each = 4;  // pieces at a time
            member.share(AMS_HEAD, (tiles + piece * each - 1) / (piece * each), [&](int64_t p) {
                for (int64_t first = p * each * piece; first < std::min(tiles, (p + 1) * each * piece); first += piece) {
                    const int64_t there = std::min(piece, tiles - first), width = there * kTile;
                    for (int64_t row = 0; row < count; row += kQueries / 2) {
                        const int64_t rows = std::min(kQueries / 2, count - row);
                        matmul_tiles(head, in.from(row), rows, first, there, s.gate, width, Mode::store);
                        for (int64_t r = 0; r < rows; ++r)
                            for (int64_t i = 0; i < width; i += 16) {
                                const int64_t at = first * kTile + i;
                                store_bf16_part(logits + (row + r) * outputs + at, load(s.gate + r * width + i), outputs - at);
                            }
                    }
                }
            });
        });
        return 0;
    } catch (const std::bad_alloc &) {
        return 1;
    }
}

extern "C" int ams_draw(const void *logits, int wide, int64_t rows, int64_t vocabulary, int64_t stride,
                        const AmsDraw *draws, int64_t *tokens) {
    const std::lock_guard<std::mutex> alone(busy);
    try {
        static Weights *const weights = new Weights[kMostThreads];
        std::atomic<int> failed{0};
        run(1, [=, &failed](Member &member) {
            member.share(AMS_HEAD, rows, [&](int64_t r) {
                const Logits row{wide ? nullptr : (const uint16_t *)logits + r * stride,
                                 wide ? (const float *)logits + r * stride : nullptr, vocabulary};
                try {
                    tokens[r] = draw(row, draws ? draws[r] : AmsDraw{}, weights[member.number]);
                } catch (const std::bad_alloc &) {
                    failed = 1;
                }
            });
        });
        return failed;
    } catch (const std::bad_alloc &) {
        return 1;
    }
}

extern "C" int64_t ams_attention_room(const AmsAttention *attention) {
    return Spans(*attention, 0, 0, 0, 0).room();
}

extern "C" int ams_attend(const AmsAttention *attention, int64_t first_head, int64_t last_head, int64_t first, int64_t last, int place) {
    const std::lock_guard<std::mutex> alone(busy);
    try {
        make_scratch();
        Spans all(*attention, first_head, last_head, first, last);
        run(2, [all = std::move(all), place](Member &member) {
            Scratch &s = *kept().scratch[member.number];
            member.share(AMS_ATTENTION, place ? all.blocks() : 0, [&](int64_t p) { all.place(p, s); });
            member.share(AMS_ATTENTION, all.pieces(), [&](int64_t p) { all.attend(p, s); });
        });
        return 0;
    } catch (const std::bad_alloc &) {
        return 1;
    }
}

// y [tokens, outputs], for checks and for layers outside of the decoder.
extern "C" int ams_linear(const AmsLinear *linear, const float *x, int64_t tokens, float *y) {
    const std::lock_guard<std::mutex> alone(busy);
    try {
        static InputRoom &room = *new InputRoom;
        const AmsLinear layer = *linear;
        const Inputs in = room.get(tokens, layer.k, wanted_by(layer));
        const int64_t tiles = tiles_of(layer);
        make_scratch();
        run(2, [=](Member &member) {
            Scratch &s = *kept().scratch[member.number];
            member.share(AMS_NORM, tokens, [&](int64_t r) {
                const float *row = x + r * layer.k;
                for (int64_t i = 0; i < layer.k; i += kGroup)
                    put_group(in, r, i / kGroup, load(row + i), load(row + i + 16));
            });
            member.share(AMS_OUT, (tiles + 1) / 2, [&](int64_t p) {
                const int64_t first = 2 * p, there = std::min<int64_t>(2, tiles - first), width = there * kTile;
                for (int64_t row = 0; row < tokens; row += kQueries) {
                    const int64_t rows = std::min(kQueries, tokens - row);
                    matmul_tiles(layer, in.from(row), rows, first, there, s.gate, width, Mode::store);
                    for (int64_t r = 0; r < rows; ++r)
                        std::memcpy(y + (row + r) * layer.outputs + first * kTile, s.gate + r * width,
                                    std::min(width, layer.outputs - first * kTile) * sizeof(float));
                }
            });
        });
        return 0;
    } catch (const std::bad_alloc &) {
        return 1;
    }
}

extern "C" void ams_timings(double *seconds, int reset) {
    for (int i = 0; i < AMS_PARTS; ++i) {
        seconds[i] = part_seconds[i];
        if (reset) part_seconds[i] = 0;
    }
}
