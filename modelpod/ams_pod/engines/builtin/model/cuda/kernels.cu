// What the decoder's layers need on a GPU beside matrix products. NVRTC compiles this for one number format, head size
// and group of query heads (see kernels.py), which are macros:
//   FORMAT  0 float, 1 half, 2 bfloat16        HEAD    numbers of a head, a power of two
//   GROUP   query heads that one block computes, of the PARTS * GROUP heads that share a key head
// No header is included, so that no toolkit has to be there. All tensors are dense; offsets count numbers.

#if FORMAT == 0
typedef float Number;
__device__ float wide(Number x) { return x; }
__device__ Number narrow(float x) { return x; }
#elif FORMAT == 1
typedef unsigned short Number;
__device__ float wide(Number x) {
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x));
    return y;
}
__device__ Number narrow(float x) {
    Number y;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y) : "f"(x));
    return y;
}
#else
typedef unsigned short Number;
__device__ float wide(Number x) { return __uint_as_float((unsigned)x << 16); }
__device__ Number narrow(float x) {
    unsigned bits = __float_as_uint(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return (Number)((bits >> 16) | 0x40);  // no number stays none
    return (Number)((bits + 0x7fffu + ((bits >> 16) & 1)) >> 16);
}
#endif

#define EACH ((int)(16 / sizeof(Number)))  // numbers of a load of 16 bytes
#define LANES (HEAD / EACH)                // threads that hold a head
#define KEYS (32 / LANES)                  // keys that a warp looks at together
#define WARPS 4
#define AHEAD 4  // keys in flight of each thread
#define NONE __int_as_float(0xff800000)  // minus infinity

struct __align__(16) Numbers {
    Number at[EACH];
};

__device__ Numbers load(const Number* from) {
    Numbers result;
    *reinterpret_cast<uint4*>(&result) = *reinterpret_cast<const uint4*>(from);
    return result;
}

__device__ void store(Number* to, const Numbers& numbers) {
    *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(&numbers);
}

__device__ float rounded(float x) { return wide(narrow(x)); }

__device__ float sum_of_warp(float x) {
    for (int step = 16; step; step >>= 1) x += __shfl_xor_sync(0xffffffffu, x, step);
    return x;
}

// x += added, where there is any; normed = x / rms(x) * weight. A block each token.
extern "C" __global__ void add_and_norm(
    Number* x, const Number* added, const Number* weight, Number* normed, int hidden, float epsilon) {
    __shared__ float sums[32];
    Number* row = x + (long long)blockIdx.x * hidden;
    const Number* more = added ? added + (long long)blockIdx.x * hidden : nullptr;
    float sum = 0.0f;
    for (int at = threadIdx.x * EACH; at < hidden; at += blockDim.x * EACH) {
        Numbers numbers = load(row + at);
        if (more) {
            Numbers others = load(more + at);
            for (int i = 0; i < EACH; i++) numbers.at[i] = narrow(wide(numbers.at[i]) + wide(others.at[i]));
            store(row + at, numbers);
        }
        for (int i = 0; i < EACH; i++) sum += wide(numbers.at[i]) * wide(numbers.at[i]);
    }
    sum = sum_of_warp(sum);
    if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = sum;
    __syncthreads();
    sum = 0.0f;
    for (int warp = 0; warp < blockDim.x / 32; warp++) sum += sums[warp];
    float scale = rsqrtf(sum / hidden + epsilon);
    Number* result = normed + (long long)blockIdx.x * hidden;
    for (int at = threadIdx.x * EACH; at < hidden; at += blockDim.x * EACH) {
        Numbers numbers = load(row + at), weights = load(weight + at);
        for (int i = 0; i < EACH; i++)
            numbers.at[i] = narrow(rounded(wide(numbers.at[i]) * scale) * wide(weights.at[i]));
        store(result + at, numbers);
    }
}

// result [tokens, size] = silu(first half) * second half of each token's [2 * size].
extern "C" __global__ void silu_and_multiply(const Number* both, Number* result, int size) {
    int at = (blockIdx.y * blockDim.x + threadIdx.x) * EACH;
    if (at >= size) return;
    const Number* row = both + (long long)blockIdx.x * 2 * size;
    Numbers gate = load(row + at), up = load(row + size + at);
    for (int i = 0; i < EACH; i++) {
        float x = wide(gate.at[i]);
        gate.at[i] = narrow(rounded(x / (1.0f + __expf(-x))) * wide(up.at[i]));
    }
    store(result + (long long)blockIdx.x * size + at, gate);
}

// Queries and keys of each token are normed, where there are weights for it, and turned; queries stay in qkv, keys and
// values go where the token belongs in the cache: its first head's row `where`, each next one `stride` rows on, and
// values `half` rows behind keys. A token with a negative place leaves nothing. A warp each head.
extern "C" __global__ void turn_and_store(
    Number* qkv, const Number* cosines, const Number* sines, const Number* query_norm, const Number* key_norm,
    float epsilon, Number* cache, long long half, const long long* where, const long long* stride, int queries,
    int keys) {
    const int per = HEAD < 32 ? 1 : HEAD / 32;
    int heads = queries + 2 * keys, head = blockIdx.y * blockDim.y + threadIdx.y;
    if (head >= heads) return;
    long long token = blockIdx.x;
    Number* row = qkv + (token * heads + head) * HEAD;
    bool is_value = head >= queries + keys, is_query = head < queries;
    float own[per], other[per];  // what is turned, and what it is turned with
    float sum = 0.0f;
    for (int i = 0; i < per; i++) {
        int at = threadIdx.x + 32 * i;
        own[i] = at < HEAD ? wide(row[at]) : 0.0f;
        other[i] = at < HEAD ? wide(row[(at + HEAD / 2) % HEAD]) : 0.0f;
        sum += own[i] * own[i];
    }
    __syncwarp();
    const Number* norm = is_value ? nullptr : is_query ? query_norm : key_norm;
    if (norm) {
        float scale = rsqrtf(sum_of_warp(sum) / HEAD + epsilon);
        for (int i = 0; i < per; i++) {
            int at = (threadIdx.x + 32 * i) % HEAD;
            own[i] = rounded(rounded(own[i] * scale) * wide(norm[at]));
            other[i] = rounded(rounded(other[i] * scale) * wide(norm[(at + HEAD / 2) % HEAD]));
        }
    }
    Number* to = row;
    if (!is_query) {
        long long first = where[token];
        if (first < 0) return;
        long long place = first + (head - queries - (is_value ? keys : 0)) * stride[token] + (is_value ? half : 0);
        to = cache + place * HEAD;
    }
    for (int i = 0; i < per; i++) {
        int at = threadIdx.x + 32 * i;
        if (at >= HEAD) continue;
        float x = own[i];
        if (!is_value) x = x * wide(cosines[token * HEAD + at]) + other[i] * wide(sines[token * HEAD + at]);
        to[at] = narrow(x);
    }
}

// What one thread has of the answer for the heads of its block: the greatest score, the sum of exp2(score - peak), and
// as much of the values.
struct Part {
    float peak[GROUP], sum[GROUP], values[GROUP][EACH];
};

__device__ float exp2_below(float x, float peak) { return peak == NONE ? 0.0f : exp2f(x - peak); }

// Attention of rows, which have one token each. A block reads keys of one key head and row: of `length[row]` those that
// are its share among `splits`. Scores are taken times log2(e), so that exp2 serves.
extern "C" __global__ void __launch_bounds__(32 * WARPS) attend(
    const Number* qkv, const Number* cache, long long half, const long long* start, const long long* capacity,
    const long long* length, Number* result, float* shares, float* weights, float scale, int queries, int keys,
    int splits) {
    __shared__ float peaks[WARPS][GROUP], sums[WARPS][GROUP], values[WARPS][GROUP][HEAD];
    int row = blockIdx.x, key_head = blockIdx.y / PARTS, split = blockIdx.z;
    int query = (key_head * PARTS + blockIdx.y % PARTS) * GROUP;
    int warp = threadIdx.x / 32, lane = threadIdx.x % LANES, group = threadIdx.x / LANES;
    int whole = (int)length[row], share = ((whole + splits - 1) / splits + 63) / 64 * 64;
    int begin = split * share, end = min(whole, begin + share);
    const Number* key = cache + (start[row] + key_head * capacity[row]) * HEAD + lane * EACH;
    const Number* value = key + half * HEAD;
    Part part;
    float asked[GROUP][EACH];
    for (int j = 0; j < GROUP; j++) {
        Numbers numbers = load(qkv + ((long long)row * (queries + 2 * keys) + query + j) * HEAD + lane * EACH);
        part.peak[j] = NONE;
        part.sum[j] = 0.0f;
        for (int i = 0; i < EACH; i++) {
            asked[j][i] = wide(numbers.at[i]) * scale;
            part.values[j][i] = 0.0f;
        }
    }
    for (int base = begin; base < end; base += WARPS * KEYS * AHEAD) {
        Numbers found[AHEAD], kept[AHEAD];
        float scores[AHEAD][GROUP];
#pragma unroll
        for (int a = 0; a < AHEAD; a++) {
            int at = min(base + a * WARPS * KEYS + group, end - 1);
            found[a] = load(key + (long long)at * HEAD);
            kept[a] = load(value + (long long)at * HEAD);
        }
#pragma unroll
        for (int a = 0; a < AHEAD; a++) {
            bool is_there = base + a * WARPS * KEYS + group < end;
#pragma unroll
            for (int j = 0; j < GROUP; j++) {
                float score = 0.0f;
#pragma unroll
                for (int i = 0; i < EACH; i++) score += asked[j][i] * wide(found[a].at[i]);
#pragma unroll
                for (int step = LANES / 2; step; step >>= 1) score += __shfl_xor_sync(0xffffffffu, score, step);
                scores[a][j] = is_there ? score : NONE;
            }
        }
#pragma unroll
        for (int j = 0; j < GROUP; j++) {
            float peak = part.peak[j];
#pragma unroll
            for (int a = 0; a < AHEAD; a++) peak = fmaxf(peak, scores[a][j]);
            float less = exp2_below(part.peak[j], peak);
            part.peak[j] = peak;
            part.sum[j] *= less;
#pragma unroll
            for (int i = 0; i < EACH; i++) part.values[j][i] *= less;
#pragma unroll
            for (int a = 0; a < AHEAD; a++) {
                float weight = exp2_below(scores[a][j], peak);
                part.sum[j] += weight;
                // A place beyond the end was read twice instead, so that its weight of zero meets a number.
#pragma unroll
                for (int i = 0; i < EACH; i++) part.values[j][i] += weight * wide(kept[a].at[i]);
            }
        }
    }
#pragma unroll
    for (int j = 0; j < GROUP; j++) {
#pragma unroll
        for (int step = LANES; step < 32; step <<= 1) {
            float other = __shfl_xor_sync(0xffffffffu, part.peak[j], step);
            float peak = fmaxf(part.peak[j], other);
            float less = exp2_below(part.peak[j], peak), others = exp2_below(other, peak);
            part.peak[j] = peak;
            part.sum[j] = part.sum[j] * less + __shfl_xor_sync(0xffffffffu, part.sum[j], step) * others;
#pragma unroll
            for (int i = 0; i < EACH; i++)
                part.values[j][i] =
                    part.values[j][i] * less + __shfl_xor_sync(0xffffffffu, part.values[j][i], step) * others;
        }
        if (threadIdx.x % 32 < LANES) {
            peaks[warp][j] = part.peak[j];
            sums[warp][j] = part.sum[j];
            for (int i = 0; i < EACH; i++) values[warp][j][lane * EACH + i] = part.values[j][i];
        }
    }
    __syncthreads();
    for (int index = threadIdx.x; index < GROUP * HEAD; index += blockDim.x) {
        int j = index / HEAD, at = index % HEAD;
        float peak = NONE, sum = 0.0f, found = 0.0f;
        for (int w = 0; w < WARPS; w++) peak = fmaxf(peak, peaks[w][j]);
        for (int w = 0; w < WARPS; w++) {
            float less = exp2_below(peaks[w][j], peak);
            sum += sums[w][j] * less;
            found += values[w][j][at] * less;
        }
        long long head = (long long)row * queries + query + j;
        if (splits == 1) {
            result[head * HEAD + at] = narrow(sum > 0.0f ? found / sum : 0.0f);
        } else {
            long long place = head * splits + split;
            shares[place * HEAD + at] = found;
            if (at == 0) {
                weights[2 * place] = peak;
                weights[2 * place + 1] = sum;
            }
        }
    }
}

// What `attend` left in shares [rows, query heads, splits, HEAD], together. A block each head, a thread each number.
extern "C" __global__ void join_shares(const float* shares, const float* weights, Number* result, int splits) {
    long long head = blockIdx.x;
    float peak = NONE, sum = 0.0f, found = 0.0f;
    for (int split = 0; split < splits; split++) peak = fmaxf(peak, weights[2 * (head * splits + split)]);
    for (int split = 0; split < splits; split++) {
        float less = exp2_below(weights[2 * (head * splits + split)], peak);
        if (less == 0.0f) continue;
        sum += weights[2 * (head * splits + split) + 1] * less;
        found += shares[(head * splits + split) * HEAD + threadIdx.x] * less;
    }
    result[head * HEAD + threadIdx.x] = narrow(sum > 0.0f ? found / sum : 0.0f);
}
