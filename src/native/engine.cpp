// The encoder over packed rows, its threads and its C interface.
//
// Sequences are dealt to threads in chunks; where there are fewer chunks than threads, all threads share each chunk by
// rows. A row's way is the same in both, so vectors depend neither on batch mates nor on the number of threads.
// The caller has checked ids, segments, bounds and lengths: nothing is checked here.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <cmath>
#include <exception>
#include <memory>
#include <mutex>
#include <new>
#include <thread>
#include <vector>

#include "kernels.hpp"

namespace {

constexpr int CHUNK = 512;  // Tokens of a chunk: a thread's activations stay near its second cache.
constexpr int SHARE = 64;   // Tokens below which a further thread costs more than it brings.
constexpr int BLOCK = 96;   // Rows that go through the feed-forward layer together.

template <class T>
struct Free { void operator()(T* p) const { std::free(p); } };
template <class T>
using Held = std::unique_ptr<T[], Free<T>>;

template <class T>
Held<T> zeros(size_t count) {
    const size_t bytes = (count * sizeof(T) + 64 + 63) / 64 * 64;  // 64 more: a register may be read past the end.
    void* p = std::aligned_alloc(64, bytes);
    if (!p) throw std::bad_alloc();
    std::memset(p, 0, bytes);
    return Held<T>(static_cast<T*>(p));
}

struct OwnedLinear : Linear {
    Held<int8_t> kept_weights;
    Held<int32_t> kept_compensation;
    Held<float> kept_scale, kept_bias;

    // w (n, k) row by row; b (n) or nullptr.
    OwnedLinear(const float* w, const float* b, int n, int k, const Kernels& kernels) {
        in = padded(k), out = padded(n);
        kept_weights = zeros<int8_t>((size_t)in * out), weights = kept_weights.get();
        kept_compensation = zeros<int32_t>(out), compensation = kept_compensation.get();
        kept_scale = zeros<float>(out), scale = kept_scale.get();
        kept_bias = zeros<float>(out), bias = kept_bias.get();
        const int columns = kernels.columns;
        for (int row = 0; row < n; row++, w += k) {
            float high = 1e-12f;
            for (int i = 0; i < k; i++) high = std::max(high, std::fabs(w[i]));
            int total = 0;
            int8_t* panel = weights + (size_t)(row / columns) * columns * in + row % columns * 4;
            for (int i = 0; i < k; i++) {
                const int q = (int)std::lrint(w[i] * (127.f / high));
                panel[(size_t)(i / 4) * columns * 4 + i % 4] = (int8_t)q;
                total += q;
            }
            compensation[row] = total * kernels.offset;
            scale[row] = high / 127.f;
            bias[row] = b ? b[row] : 0.f;
        }
    }
};

struct OwnedNorm : Norm {
    Held<float> kept_gain, kept_bias, kept_live;

    OwnedNorm(const float* g, const float* b, int n, float e) {
        width = n, stride = padded(n), eps = e;
        kept_gain = zeros<float>(stride), gain = kept_gain.get();
        kept_bias = zeros<float>(stride), bias = kept_bias.get();
        kept_live = zeros<float>(stride), live = kept_live.get();
        for (int i = 0; i < n; i++) gain[i] = g[i], bias[i] = b ? b[i] : 0.f, live[i] = 1.f;
    }
};

}  // namespace

extern "C" {
// As in runtimes/_native.py, field by field. A norm is absent where its gain is null.
struct LayerSpec {
    const float *qkv, *qkv_bias, *out, *out_bias, *up, *up_bias, *down, *down_bias;
    const float *attention_gain, *attention_bias, *ffn_gain, *ffn_bias;
    const float *cosines, *sines;  // Of rotary positions (P, head_size / 2), else null.
    float attention_eps, ffn_eps;
    int32_t heads, head_size, inner, gated, activation, pre, window;
};
struct EncoderSpec {
    const float *words, *positions, *segments, *norm_gain, *norm_bias, *final_gain, *final_bias;  // (V, H), (P, H), (S, H)
    float norm_eps, final_eps;
    int32_t width;
};
}

namespace {

struct Layer {
    LayerSpec spec;
    OwnedLinear qkv, out, up, down;
    std::unique_ptr<OwnedNorm> attention_norm, ffn_norm;

    Layer(const LayerSpec& s, int width, const Kernels& k)
        : spec(s),
          qkv(s.qkv, s.qkv_bias, 3 * s.heads * s.head_size, width, k),
          out(s.out, s.out_bias, width, s.heads * s.head_size, k),
          up(s.up, s.up_bias, s.gated ? 2 * s.inner : s.inner, width, k),
          down(s.down, s.down_bias, width, s.inner, k) {
        if (s.attention_gain)
            attention_norm = std::make_unique<OwnedNorm>(s.attention_gain, s.attention_bias, width, s.attention_eps);
        if (s.ffn_gain) ffn_norm = std::make_unique<OwnedNorm>(s.ffn_gain, s.ffn_bias, width, s.ffn_eps);
    }
};

// Room for a chunk of `rows` tokens, shared by the threads that share the chunk.
struct Room {
    size_t rows = 0;
    Held<float> x, normed, qkv, mixed, scale;
    Held<uint8_t> q;
};

// Room of one thread.
struct Corner {
    size_t scratch_size = 0;
    Held<float> scratch, inner, inner_scale;
    Held<uint8_t> q;
};

// Threads that meet. One alone never waits.
class Team {
  public:
    // Before the first of them works.
    void gather(int size) { size_ = size; }
    int size() const { return size_; }
    void meet() {
        if (size_ == 1) return;
        const int turn = turn_.load();
        if (waiting_.fetch_add(1) + 1 == size_) {
            waiting_.store(0);
            turn_.store(turn + 1);
            return;
        }
        for (int spins = 0; turn_.load() == turn; spins++)
            if (spins > 2000) std::this_thread::yield();
    }

  private:
    int size_ = 1;
    std::atomic<int> waiting_{0}, turn_{0};
};

struct Chunk { int first, last; };  // Sequences.

struct Call {
    const int32_t *ids, *bounds, *segment;
    float* out;
    int how;  // 0 hidden states, 1 mean, 2 first token.
};

class Encoder {
  public:
    Encoder(const EncoderSpec& spec, const Kernels& kernels) : spec_(spec), k_(kernels), stride_(padded(spec.width)) {
        if (spec.norm_gain) norm_ = std::make_unique<OwnedNorm>(spec.norm_gain, spec.norm_bias, spec.width, spec.norm_eps);
        if (spec.final_gain)
            final_ = std::make_unique<OwnedNorm>(spec.final_gain, spec.final_bias, spec.width, spec.final_eps);
    }

    void add(const LayerSpec& spec) {
        layers_.push_back(std::make_unique<Layer>(spec, spec_.width, k_));
        const Layer& layer = *layers_.back();
        qkv_ = std::max(qkv_, layer.qkv.out), mixed_ = std::max(mixed_, layer.out.in);
        inner_ = std::max(inner_, std::max(layer.up.out, layer.down.in));
        head_size_ = std::max(head_size_, spec.head_size);
    }

    void run(const Call& call, int sequences, int threads) {
        std::vector<Chunk> chunks;
        size_t most = 0;
        int longest = 0;
        for (int i = 0; i < sequences;) {
            int j = i;
            do {
                longest = std::max(longest, call.bounds[j + 1] - call.bounds[j]);
                j++;
            } while (j < sequences && call.bounds[j + 1] - call.bounds[i] <= CHUNK);
            chunks.push_back({i, j});
            most = std::max(most, (size_t)(call.bounds[j] - call.bounds[i]));
            i = j;
        }
        threads = std::min(threads, std::max(1, call.bounds[sequences] / SHARE));
        const bool shared = (int)chunks.size() < threads;
        Team team;
        std::vector<Room> rooms;
        for (int i = 0; i < (shared ? 1 : threads); i++) rooms.push_back(take(rooms_));
        std::vector<Corner> corners;
        for (int i = 0; i < threads; i++) corners.push_back(take(corners_));
        for (auto& room : rooms) widen(room, most);
        for (auto& corner : corners) widen(corner, longest);
        std::atomic<size_t> next{0};
        auto work = [&](int rank) {
            if (shared)
                for (const Chunk& chunk : chunks) encode(call, chunk, rooms[0], corners[rank], team, rank);
            else
                for (size_t i; (i = next.fetch_add(1)) < chunks.size();)
                    encode(call, chunks[i], rooms[rank], corners[rank], team, 0);
        };
        // A machine that refuses a thread (a limit on processes or memory) gets the same result from those there are;
        // none begins before it is known how many that is.
        std::atomic<bool> gathered{false};
        std::vector<std::thread> others;
        others.reserve(threads);
        try {
            for (int rank = 1; rank < threads; rank++)
                others.emplace_back([&, rank] {
                    while (!gathered.load()) std::this_thread::yield();
                    work(rank);
                });
        } catch (const std::exception&) {
        }
        if (shared) team.gather(1 + (int)others.size());
        gathered.store(true);
        work(0);
        for (auto& thread : others) thread.join();
        std::lock_guard<std::mutex> hold(lock_);
        for (auto& room : rooms) rooms_.push_back(std::move(room));
        for (auto& corner : corners) corners_.push_back(std::move(corner));
    }

  private:
    template <class T>
    T take(std::vector<T>& shelf) {
        std::lock_guard<std::mutex> hold(lock_);
        if (shelf.empty()) return T();
        T found = std::move(shelf.back());
        shelf.pop_back();
        return found;
    }

    void widen(Room& room, size_t rows) const {
        if (rows <= room.rows) return;
        room.rows = rows;
        room.x = zeros<float>(rows * stride_), room.normed = zeros<float>(rows * stride_);
        room.qkv = zeros<float>(rows * qkv_), room.mixed = zeros<float>(rows * mixed_);
        room.scale = zeros<float>(rows), room.q = zeros<uint8_t>(rows * std::max(stride_, mixed_));
    }

    void widen(Corner& corner, int longest) const {
        const size_t needed = attention_scratch(longest, head_size_);
        if (needed > corner.scratch_size) corner.scratch = zeros<float>(needed), corner.scratch_size = needed;
        if (corner.inner) return;
        corner.inner = zeros<float>((size_t)BLOCK * inner_), corner.inner_scale = zeros<float>(BLOCK);
        corner.q = zeros<uint8_t>((size_t)BLOCK * inner_);
    }

    void embed(const Call& call, const Chunk& chunk, int begin, int first, int last, float* x) const {
        const int width = spec_.width;
        for (int s = chunk.first; s < chunk.last; s++)
            for (int at = std::max(call.bounds[s], begin + first); at < std::min(call.bounds[s + 1], begin + last); at++) {
                float* row = x + (size_t)(at - begin) * stride_;
                std::memcpy(row, spec_.words + (size_t)call.ids[at] * width, sizeof(float) * width);
                if (spec_.segments) {
                    const float* more = spec_.segments + (size_t)(call.segment ? call.segment[at] : 0) * width;
                    for (int i = 0; i < width; i++) row[i] += more[i];
                }
                if (spec_.positions) {
                    const float* more = spec_.positions + (size_t)(at - call.bounds[s]) * width;
                    for (int i = 0; i < width; i++) row[i] += more[i];
                }
            }
        if (norm_) k_.norm(x + (size_t)first * stride_, last - first, *norm_, x + (size_t)first * stride_);
    }

    // Queries and keys, which lie next to each other, to their positions.
    void turn(const Call& call, const Chunk& chunk, const LayerSpec& spec, int begin, int first, int last, float* qkv,
              int step) const {
        const int half = spec.head_size / 2;
        for (int s = chunk.first; s < chunk.last; s++)
            for (int at = std::max(call.bounds[s], begin + first); at < std::min(call.bounds[s + 1], begin + last); at++) {
                const size_t angles = (size_t)(at - call.bounds[s]) * half;
                k_.turn(qkv + (size_t)(at - begin) * step, 2 * spec.heads, spec.head_size, spec.cosines + angles,
                        spec.sines + angles);
            }
    }

    // Rows [first, last) of the chunk are this thread's; only attention looks at the others' keys and values.
    void encode(const Call& call, const Chunk& chunk, Room& room, Corner& corner, Team& team, int rank) const {
        const int begin = call.bounds[chunk.first], rows = call.bounds[chunk.last] - begin;
        const int first = (int)((long)rows * rank / team.size()), last = (int)((long)rows * (rank + 1) / team.size());
        embed(call, chunk, begin, first, last, room.x.get());
        for (const auto& layer : layers_) {
            attend(call, chunk, *layer, room, corner, team, begin, first, last);
            for (int row = first; row < last; row += BLOCK)
                feed(*layer, room, corner, row, std::min(BLOCK, last - row));
        }
        float* x = room.x.get() + (size_t)first * stride_;
        if (final_) k_.norm(x, last - first, *final_, x);
        team.meet();
        deliver(call, chunk, room, team, rank, begin, first, last);
        team.meet();
    }

    void attend(const Call& call, const Chunk& chunk, const Layer& layer, Room& room, Corner& corner, Team& team,
                int begin, int first, int last) const {
        const LayerSpec& spec = layer.spec;
        const int count = last - first, all = spec.heads * spec.head_size, step = layer.qkv.out, wide = layer.out.in;
        float *x = room.x.get() + (size_t)first * stride_, *scale = room.scale.get() + first;
        uint8_t* q = room.q.get() + (size_t)first * std::max(stride_, mixed_);
        const float* from = x;
        if (spec.pre && layer.attention_norm) {
            float* normed = room.normed.get() + (size_t)first * stride_;
            k_.norm(x, count, *layer.attention_norm, normed);
            from = normed;
        }
        k_.quantise(from, count, stride_, q, scale);
        k_.product(q, scale, count, layer.qkv, room.qkv.get() + (size_t)first * step, STORE);
        if (spec.cosines) turn(call, chunk, spec, begin, first, last, room.qkv.get(), step);
        team.meet();
        float* mixed = room.mixed.get() + (size_t)first * wide;
        for (int row = 0; row < count; row++)
            std::memset(mixed + (size_t)row * wide + all, 0, sizeof(float) * (wide - all));
        for (int s = chunk.first; s < chunk.last; s++) {
            const int start = call.bounds[s] - begin, length = call.bounds[s + 1] - call.bounds[s];
            const int from_row = std::max(first, start), to_row = std::min(last, start + length);
            if (from_row >= to_row) continue;
            for (int head = 0; head < spec.heads; head++) {
                const float* here = room.qkv.get() + (size_t)start * step + head * spec.head_size;
                k_.attention(here, here + all, here + 2 * all, step, length, spec.head_size, spec.window,
                             from_row - start, to_row - start,
                             room.mixed.get() + (size_t)start * wide + head * spec.head_size, wide,
                             corner.scratch.get());
            }
        }
        k_.quantise(mixed, count, wide, q, scale);
        k_.product(q, scale, count, layer.out, x, ADD);
        if (!spec.pre) k_.norm(x, count, *layer.attention_norm, x);
        team.meet();  // No one writes the next layer's keys while another still reads these.
    }

    void feed(const Layer& layer, Room& room, Corner& corner, int row, int count) const {
        const LayerSpec& spec = layer.spec;
        float *x = room.x.get() + (size_t)row * stride_, *scale = room.scale.get() + row;
        uint8_t* q = room.q.get() + (size_t)row * std::max(stride_, mixed_);
        const float* from = x;
        if (spec.pre) {
            float* normed = room.normed.get() + (size_t)row * stride_;
            k_.norm(x, count, *layer.ffn_norm, normed);
            from = normed;
        }
        float* inner = corner.inner.get();
        const bool fused = !spec.gated && spec.activation == GELU_ERF;
        k_.quantise(from, count, stride_, q, scale);
        k_.product(q, scale, count, layer.up, inner, fused ? GELU : STORE);
        if (!fused)
            k_.activate(inner, count, layer.up.out, spec.inner, (Activation)spec.activation, spec.gated != 0);
        if (layer.up.out != layer.down.in)  // Gated: the rows move together, for the next product reads them side by side.
            for (int i = 1; i < count; i++)
                std::memmove(inner + (size_t)i * layer.down.in, inner + (size_t)i * layer.up.out,
                             sizeof(float) * layer.down.in);
        k_.quantise(inner, count, layer.down.in, corner.q.get(), corner.inner_scale.get());
        k_.product(corner.q.get(), corner.inner_scale.get(), count, layer.down, x, ADD);
        if (!spec.pre) k_.norm(x, count, *layer.ffn_norm, x);
    }

    void deliver(const Call& call, const Chunk& chunk, const Room& room, const Team& team, int rank, int begin, int first,
                 int last) const {
        const int width = spec_.width;
        const float* x = room.x.get();
        if (call.how == 0) {
            for (int row = first; row < last; row++)
                std::memcpy(call.out + (size_t)(begin + row) * width, x + (size_t)row * stride_, sizeof(float) * width);
            return;
        }
        for (int s = chunk.first + rank; s < chunk.last; s += team.size()) {
            const int start = call.bounds[s] - begin, length = call.bounds[s + 1] - call.bounds[s];
            float* out = call.out + (size_t)s * width;
            std::memcpy(out, x + (size_t)start * stride_, sizeof(float) * width);
            if (call.how == 2) continue;
            for (int row = start + 1; row < start + length; row++)
                for (int i = 0; i < width; i++) out[i] += x[(size_t)row * stride_ + i];
            for (int i = 0; i < width; i++) out[i] /= (float)length;
        }
    }

    const EncoderSpec spec_;
    const Kernels& k_;
    const int stride_;
    int qkv_ = PAD, mixed_ = PAD, inner_ = PAD, head_size_ = 8;
    std::unique_ptr<OwnedNorm> norm_, final_;
    std::vector<std::unique_ptr<Layer>> layers_;
    std::mutex lock_;
    std::vector<Room> rooms_;
    std::vector<Corner> corners_;
};

const Kernels* kernels_named(const char* name) {
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    const bool vnni = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                      __builtin_cpu_supports("avx512vnni");
    for (const Kernels* found : {vnni ? avx512_kernels() : nullptr, avx2 ? avx2_kernels() : nullptr, &plain_kernels()})
        if (found && (!*name || !std::strcmp(name, found->name))) return found;
    return nullptr;
}

}  // namespace

extern "C" {

// The name of the kernels that answer to `name` ("" for the best), nullptr where this machine has them not.
const char* encodery_kernels(const char* name) {
    const Kernels* found = kernels_named(name);
    return found ? found->name : nullptr;
}

int encodery_interface() { return 2; }  // To be raised with every change of the structures or functions here.

// Multiplications and additions a second of one thread that does nothing else.
double encodery_peak(const char* name, long rounds) {
    const auto begin = std::chrono::steady_clock::now();
    const long done = kernels_named(name)->spin(rounds);
    return done / std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

// The tables of words, positions, angles and segments stay the caller's; weights are copied. nullptr where memory lacks.
void* encodery_new(const EncoderSpec* spec, const LayerSpec* layers, int depth, const char* name) try {
    auto encoder = std::make_unique<Encoder>(*spec, *kernels_named(name));
    for (int i = 0; i < depth; i++) encoder->add(layers[i]);
    return encoder.release();
} catch (const std::bad_alloc&) {
    return nullptr;
}

void encodery_free(void* encoder) { delete static_cast<Encoder*>(encoder); }

// bounds (sequences + 1); segment (T) or nullptr; out (T, H) for how = 0, else (sequences, H). 0, or 1 where memory lacks.
int encodery_run(void* encoder, const int32_t* ids, const int32_t* bounds, const int32_t* segment, int sequences, int how,
                 int threads, float* out) try {
    static_cast<Encoder*>(encoder)->run({ids, bounds, segment, out, how}, sequences, threads);
    return 0;
} catch (const std::bad_alloc&) {
    return 1;
}
}
