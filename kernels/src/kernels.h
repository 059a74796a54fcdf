// A decoder's step on a CPU, behind a C interface that ctypes can call. Layouts of weights are in README.md beside.
#pragma once
#include <cstdint>

#pragma GCC visibility push(default)
extern "C" {

// Of a layer's weights: bfloat16 in tiles, or groups of codes of so many bits.
enum {
    AMS_GROUPS_4 = 4, AMS_GROUPS_5 = 5, AMS_GROUPS_8 = 8, AMS_BF16 = 16, AMS_CENTRED_4 = 104, AMS_CENTRED_5 = 105,
    AMS_CENTRED_8 = 108, AMS_BLOCKS_4 = 204, AMS_BLOCKS_5 = 205, AMS_BLOCKS_6 = 206
};

// y = x.Wt + b for x [tokens, k]. `outputs` rows of W; tiles of 16, the last one padded with zeros. `bias` [outputs] or
// null.
struct AmsLinear {
    int64_t outputs, k;
    const uint8_t *packed;
    const float *bias;
    int32_t layout, unused;
};

struct AmsLayer {
    AmsLinear query, key, value, out, gate, up, down;
    const float *input_norm, *post_norm, *query_norm, *key_norm;  // the last two [head size], or both null
    uint16_t *cache;  // bfloat16 [2 * pool tokens * key heads, head size]: all keys, then all values
};

struct AmsModel {
    const AmsLayer *layers;
    int64_t layer_count, hidden, inner, query_heads, key_heads, head_size, pool_tokens;
    const float *final_norm;
    AmsLinear head;
    float epsilon, scale;
};

// Tokens `first` to `first + count` are the last ones of `keys` that lie at `base` (in heads' rows) with so many
// tokens of room a head as `stride`.
// `singly`: each token is computed as if it decoded, to the last bit.
struct AmsChunk {
    int64_t first, count, keys, base, stride, singly;
};

// The first `rows` of `tokens` decode, one of each request; chunks of prompts follow. x [tokens, hidden] is replaced by
// what the last layer makes of it; cos and sin [tokens, head size], sin with the sign of the rotation in it.
struct AmsStep {
    int64_t tokens, rows, chunk_count;
    float *x;
    const float *cos, *sin;
    const int64_t *base, *stride, *position;  // [tokens]: where keys and values go, and behind how many they are
    const AmsChunk *chunks;
};

// How a row's token is chosen: the likeliest one where `temperature` isn't above 0. `top_k` 0, `top_p` 1 and `min_p` 0
// keep all tokens. Rows of the same logits, settings and seed give the same token.
struct AmsDraw {
    uint64_t seed;
    int64_t top_k;
    float temperature, top_p, min_p;
    int32_t unused;
};

// `count` tokens from `first` on that see the first `keys` of them, at least one.
struct AmsSpan {
    int64_t first, count, keys;
};

// Attention without an order, as towers for pictures and sound have it: each token sees others of its own span, wherever
// they are. Queries, keys and values are bfloat16, a token's heads side by side, and tokens so many values apart as the
// strides say. Heads have up to 256 values, an even number.
struct AmsAttention {
    int64_t heads, head_size, span_count;
    const uint16_t *query, *key, *value;
    int64_t query_stride, key_stride, value_stride;
    const float *cos, *sin;  // [tokens, head size] by which queries and keys are turned, or both null
    const AmsSpan *spans;
    uint16_t *tiles;  // room for what is made of the keys and values of the heads of one call
    uint16_t *out;    // [tokens, heads * head size]
    float scale;
    int32_t unused;
};

enum { AMS_QKV, AMS_ATTENTION, AMS_OUT, AMS_GATE_UP, AMS_DOWN, AMS_HEAD, AMS_NORM, AMS_WAITING, AMS_PARTS };

// What the first layer reads of a token: embeddings bfloat16 [vocabulary, hidden], cos and sin bfloat16 [positions, head
// size], sin with the sign of the rotation in it. Without embeddings, nobody asks for x.
struct AmsTables {
    const uint16_t *embeddings, *cos, *sin;
    int64_t vocabulary, positions, hidden, head_size;
};

int ams_supported(void);
int ams_version(void);
// How many threads compute from now on, the caller's among them.
void ams_use(int count);
// x [tokens, hidden], cos and sin [tokens, head size] of tokens and their positions. 1 where one of them isn't in the tables.
int ams_gather(const AmsTables *tables, int64_t tokens, const int64_t *ids, const int64_t *positions, float *x, float *cos,
               float *sin);
// The layers from `first` on, at most to `last`: it returns before one of them, but the first, where `*stop` isn't 0,
// and tells which comes next. `stop` may be null. -1 where memory for what lies between the layers couldn't be had.
int64_t ams_layers(const AmsModel *model, const AmsStep *step, int64_t first, int64_t last, const int32_t *stop);
int ams_logits(const AmsModel *model, const float *x, const int64_t *which, int64_t count, uint16_t *logits);
// One token of each row of logits [rows, vocabulary], rows so many values apart: bfloat16, or float32 where `wide` isn't 0.
// -1 where there is a NaN, -2 where all are minus infinity. `draws` [rows], or null for the first likeliest of each.
int ams_draw(const void *logits, int wide, int64_t rows, int64_t vocabulary, int64_t stride, const AmsDraw *draws,
             int64_t *tokens);
// How many values `tiles` needs for each head.
int64_t ams_attention_room(const AmsAttention *attention);
// Tokens `first` to `last` of some of the heads. `place` 0 where the last call had the same heads and the same room, so
// that keys and values are in it already.
int ams_attend(const AmsAttention *attention, int64_t first_head, int64_t last_head, int64_t first, int64_t last, int place);
int ams_linear(const AmsLinear *linear, const float *x, int64_t tokens, float *y);
void ams_timings(double *seconds, int reset);
}
#pragma GCC visibility pop
