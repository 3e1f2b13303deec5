// The encoder over packed batches, and its C interface.
//
// Sequences are assigned to threads in chunks; if there are fewer chunks than threads, all threads work on each chunk:
// they divide a matrix product by columns, attention by heads, the rest by rows. A row is computed in the same way in
// both cases, so vectors depend neither on the other sequences of the batch nor on the number of threads.
// The caller has checked ids, segments, bounds and lengths: nothing is checked here.
#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <cmath>
#include <memory>
#include <mutex>
#include <new>
#include <vector>

#include <sys/mman.h>

#include "crew.hpp"
#include "kernels.hpp"

namespace {

constexpr int CHUNK = 512;  // Tokens of a chunk: the activations of a thread stay in about its second-level cache.
constexpr int SHARE = 8;    // Tokens below which a further thread costs more than it saves.
constexpr int BLOCK = 132;  // Rows that go through the feed-forward layer together.
constexpr int LEAST = 24;   // Minimum rows of a piece of a product, and pieces per thread if there are enough rows:
constexpr int PIECES = 3;   // few pieces leave unequal threads idle, many fetch the weights again.
constexpr int FEW = 8;      // Rows of a piece of an operation on single rows.

int up_to(int n, int size) { return (n + size - 1) / size; }

template <class T>
struct Free { void operator()(T* p) const { std::free(p); } };
template <class T>
using Held = std::unique_ptr<T[], Free<T>>;

template <class T>
Held<T> zeros(size_t count) {
    const size_t large = (size_t)2 << 20, asked = count * sizeof(T) + 64;  // A register may be read past the end.
    const size_t unit = asked < large ? 64 : large, bytes = (asked + unit - 1) / unit * unit;
    void* p = std::aligned_alloc(unit, bytes);
    if (!p) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
    if (unit == large) madvise(p, bytes, MADV_HUGEPAGE);  // Weights of a few megabytes then need a few pages.
#endif
    std::memset(p, 0, bytes);
    return Held<T>(static_cast<T*>(p));
}

struct OwnedLinear : Linear {
    Held<int32_t> kept_compensation;
    Held<float> kept_scale, kept_bias;

    static size_t bytes(int n, int k, Numbers as) { return (size_t)padded(n) * padded(k) * size_of(as); }

    // w (n, k) row by row; b (n) or nullptr; `place` points to room for the weights, and is moved past them.
    OwnedLinear(const float* w, const float* b, int n, int k, Numbers as, const Kernels& kernels, uint8_t*& place) {
        numbers = as, words = padded(k) * size_of(as) / WORD, out = padded(n);
        next = weights = place, place += bytes(n, k, as);
        kept_bias = zeros<float>(out), bias = kept_bias.get();
        if (b) std::copy(b, b + n, bias);
        if (as == INT8) {
            kept_compensation = zeros<int32_t>(out), compensation = kept_compensation.get();
            kept_scale = zeros<float>(out), scale = kept_scale.get();
        }
        const size_t step = (size_t)kernels.columns * WORD;
        for (int row = 0; row < n; row++, w += k) {
            uint8_t* const panel = weights + row / kernels.columns * step * words + row % kernels.columns * WORD;
            if (as == INT8) pack_bytes(w, k, row, step, kernels.offset, panel);
            else for (int i = 0; i < k; i++) std::memcpy(panel + i * step, w + i, WORD);
        }
    }

    void pack_bytes(const float* w, int k, int row, size_t step, int offset, uint8_t* panel) {
        float high = 1e-12f;
        for (int i = 0; i < k; i++) high = std::max(high, std::fabs(w[i]));
        int total = 0;
        for (int i = 0; i < k; i++) {
            const int q = (int)std::lrint(w[i] * (127.f / high));
            panel[i / WORD * step + i % WORD] = (uint8_t)q;
            total += q;
        }
        compensation[row] = total * offset;
        scale[row] = high / 127.f;
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
// As in runtimes/native.py, field by field. A norm with a null gain is absent.
struct LayerSpec {
    const float *qkv, *qkv_bias, *out, *out_bias, *up, *up_bias, *down, *down_bias;
    const float *attention_gain, *attention_bias, *ffn_gain, *ffn_bias;
    const float *cosines, *sines;  // Of rotary positions (P, head_size / 2), else null.
    float attention_eps, ffn_eps;
    int32_t heads, head_size, intermediate_size, gated, activation, pre_norm, window;
};
struct EncoderSpec {
    const float *token_embeddings, *position_embeddings, *segment_embeddings;  // (V, H), (P, H), (S, H)
    const float *norm_gain, *norm_bias, *final_gain, *final_bias;
    float norm_eps, final_eps;
    int32_t width, number_format;
};
}

namespace {

struct Layer {
    LayerSpec spec;
    OwnedLinear qkv, out, up, down;
    std::unique_ptr<OwnedNorm> attention_norm, ffn_norm;

    static size_t bytes(const LayerSpec& s, int width, Numbers as) {
        const int all = s.heads * s.head_size;
        return OwnedLinear::bytes(3 * all, width, as) + OwnedLinear::bytes(width, all, as) +
               OwnedLinear::bytes(s.gated ? 2 * s.intermediate_size : s.intermediate_size, width, as) + OwnedLinear::bytes(width, s.intermediate_size, as);
    }

    Layer(const LayerSpec& s, int width, Numbers as, const Kernels& k, uint8_t*& place)
        : spec(s),
          qkv(s.qkv, s.qkv_bias, 3 * s.heads * s.head_size, width, as, k, place),
          out(s.out, s.out_bias, width, s.heads * s.head_size, as, k, place),
          up(s.up, s.up_bias, s.gated ? 2 * s.intermediate_size : s.intermediate_size, width, as, k, place),
          down(s.down, s.down_bias, width, s.intermediate_size, as, k, place) {
        if (s.attention_gain)
            attention_norm = std::make_unique<OwnedNorm>(s.attention_gain, s.attention_bias, width, s.attention_eps);
        if (s.ffn_gain) ffn_norm = std::make_unique<OwnedNorm>(s.ffn_gain, s.ffn_bias, width, s.ffn_eps);
    }

    // The norm before each sublayer, nullptr for none.
    const OwnedNorm* before_attention() const { return spec.pre_norm ? attention_norm.get() : nullptr; }
    const OwnedNorm* before_ffn() const { return spec.pre_norm ? ffn_norm.get() : nullptr; }
};

// Buffers for a chunk of `rows` tokens. In int8 the inputs of products are in q; floats are multiplied in place.
struct Room {
    size_t rows = 0;
    Held<float> x, normed, qkv, mixed, scale, inner, inner_scale;
    Held<uint8_t> q, inner_q;
};


// Attention buffer of one thread.
struct Corner {
    size_t size = 0;
    Held<float> scratch;
};

struct Chunk { int first, last, begin, rows; };  // Sequences, and their rows.

struct Call {
    const int32_t *ids, *bounds, *segment;
    float* out;
    int how;  // 0 hidden states, 1 mean, 2 first token.
};

class Encoder {
  public:
    Encoder(const EncoderSpec& spec, const LayerSpec* layers, int depth, const Kernels& kernels)
        : spec_(spec), numbers_((Numbers)spec.number_format), k_(kernels), stride_(padded(spec.width)) {
        if (spec.norm_gain) norm_ = std::make_unique<OwnedNorm>(spec.norm_gain, spec.norm_bias, spec.width, spec.norm_eps);
        if (spec.final_gain)
            final_ = std::make_unique<OwnedNorm>(spec.final_gain, spec.final_bias, spec.width, spec.final_eps);
        size_t bytes = 0;
        for (int i = 0; i < depth; i++) bytes += Layer::bytes(layers[i], spec.width, numbers_);
        weights_ = zeros<uint8_t>(bytes);
        uint8_t* place = weights_.get();
        for (int i = 0; i < depth; i++) add(std::make_unique<Layer>(layers[i], spec.width, numbers_, k_, place));
        if (depth) layers_.back()->down.next = weights_.get();
    }

    ~Encoder() {
        if (crew_ && crew_->here()) delete crew_;
    }

    void run(const Call& call, int sequences, int threads) {
        threads = std::min(threads, std::max(1, call.bounds[sequences] / SHARE));
        const std::vector<Chunk> chunks = chunks_of(call.bounds, sequences, threads);
        size_t most = 0;
        int longest = 0;
        for (const Chunk& chunk : chunks) most = std::max(most, (size_t)chunk.rows);
        for (int i = 0; i < sequences; i++) longest = std::max(longest, call.bounds[i + 1] - call.bounds[i]);
        const bool shared = (int)chunks.size() < threads;
        Room common;
        if (shared) common = take(rooms_, most);
        crew().run(threads - 1, [&](Member& member) {
            Corner corner = take(corners_, attention_scratch(longest, head_size_));
            if (shared) {
                for (const Chunk& chunk : chunks) encode(call, chunk, common, corner, member);
            } else {
                Room room = take(rooms_, most);
                Member alone;
                member.share((int)chunks.size(), [&](int i) { encode(call, chunks[i], room, corner, alone); });
                give(rooms_, std::move(room));
            }
            give(corners_, std::move(corner));
        });
        if (shared) give(rooms_, std::move(common));
    }

  private:
    void add(std::unique_ptr<Layer> added) {
        Layer& layer = *added;
        layer.qkv.next = layer.out.weights, layer.out.next = layer.up.weights, layer.up.next = layer.down.weights;
        if (!layers_.empty()) layers_.back()->down.next = layer.qkv.weights;
        qkv_ = std::max(qkv_, layer.qkv.out), mixed_ = std::max(mixed_, mixed_stride(layer));
        inner_ = std::max(inner_, layer.up.out);
        head_size_ = std::max(head_size_, layer.spec.head_size);
        layers_.push_back(std::move(added));
    }

    Crew& crew() {
        std::lock_guard<std::mutex> hold(lock_);
        if (!crew_ || !crew_->here()) crew_ = new Crew;
        return *crew_;
    }

    // Chunks of about CHUNK tokens, about equal; equally many per thread if there is more than one per thread.
    static std::vector<Chunk> chunks_of(const int32_t* bounds, int sequences, int threads) {
        const long total = bounds[sequences];
        int count = up_to((int)total, CHUNK);
        if (count > threads) count = up_to(count, threads) * threads;
        std::vector<Chunk> chunks;
        for (int i = 0, j = 0; i < sequences; i = j) {
            const long end = total * (count * (long)bounds[i] / total + 1) / count;
            for (j = i + 1; j < sequences && (bounds[j] + bounds[j + 1]) / 2 <= end;) j++;
            chunks.push_back({i, j, bounds[i], bounds[j] - bounds[i]});
        }
        return chunks;
    }

    // Return a buffer that was used before, or a new one, of at least `size`.
    template <class T>
    T take(std::vector<T>& shelf, size_t size) {
        T buffer;
        {
            std::lock_guard<std::mutex> hold(lock_);
            if (!shelf.empty()) buffer = std::move(shelf.back()), shelf.pop_back();
        }
        widen(buffer, size);
        return buffer;
    }

    template <class T>
    void give(std::vector<T>& shelf, T&& used) {
        std::lock_guard<std::mutex> hold(lock_);
        shelf.push_back(std::move(used));
    }

    void widen(Room& room, size_t rows) const {
        if (rows <= room.rows) return;
        const size_t block = std::min(rows, (size_t)BLOCK);
        room.rows = 0;
        room.x = zeros<float>(rows * stride_), room.normed = zeros<float>(rows * stride_);
        room.qkv = zeros<float>(rows * qkv_), room.mixed = zeros<float>(rows * mixed_);
        room.scale = zeros<float>(rows), room.inner_scale = zeros<float>(block);
        room.inner = zeros<float>(block * inner_);
        if (numbers_ == INT8) {
            room.q = zeros<uint8_t>(rows * std::max(stride_, mixed_));
            room.inner_q = zeros<uint8_t>(block * inner_);
        }
        room.rows = rows;
    }

    void widen(Corner& corner, size_t size) const {
        if (size > corner.size) corner.size = 0, corner.scratch = zeros<float>(size), corner.size = size;
    }

    // Call `work(first row, rows)` on all rows, in pieces.
    template <class Work>
    static void by_rows(Member& member, int rows, const Work& work) {
        if (member.size() == 1) return work(0, rows);
        member.share(up_to(rows, FEW), [&](int i) { work(i * FEW, std::min(FEW, rows - i * FEW)); });
    }

    void multiply(Member& member, const Rows& x, int rows, const Linear& layer, float* y, Then then) const {
        if (member.size() == 1) return k_.product(x, rows, layer, 0, layer.out, y, then);
        const int panels = layer.out / PAD;
        const int wanted = std::min(up_to(PIECES * member.size(), panels), up_to(rows, LEAST));
        const int part = up_to(up_to(rows, wanted), 12) * 12, parts = up_to(rows, part);
        member.share(panels * parts, [&](int i) {
            const int column = i / parts * PAD, row = i % parts * part;
            k_.product(x.from(row), std::min(part, rows - row), layer, column, column + PAD,
                       y + (size_t)row * layer.out, then);
        });
    }

    void embed(const Call& call, const Chunk& chunk, int first, int last, float* x) const {
        const int width = spec_.width, begin = chunk.begin;
        for (int s = chunk.first; s < chunk.last; s++)
            for (int at = std::max(call.bounds[s], begin + first); at < std::min(call.bounds[s + 1], begin + last); at++) {
                float* row = x + (size_t)(at - begin) * stride_;
                std::memcpy(row, spec_.token_embeddings + (size_t)call.ids[at] * width, sizeof(float) * width);
                if (spec_.segment_embeddings) {
                    const float* more = spec_.segment_embeddings + (size_t)(call.segment ? call.segment[at] : 0) * width;
                    for (int i = 0; i < width; i++) row[i] += more[i];
                }
                if (spec_.position_embeddings) {
                    const float* more = spec_.position_embeddings + (size_t)(at - call.bounds[s]) * width;
                    for (int i = 0; i < width; i++) row[i] += more[i];
                }
            }
        if (norm_) k_.norm(x + (size_t)first * stride_, last - first, *norm_, x + (size_t)first * stride_);
    }

    // Rotate queries and keys, which are next to each other, by the angles of their positions.
    void rotate(const Call& call, const Chunk& chunk, const LayerSpec& spec, int first, int last, float* qkv,
              int step) const {
        const int half = spec.head_size / 2, begin = chunk.begin;
        for (int s = chunk.first; s < chunk.last; s++)
            for (int at = std::max(call.bounds[s], begin + first); at < std::min(call.bounds[s + 1], begin + last); at++) {
                const size_t angles = (size_t)(at - call.bounds[s]) * half;
                k_.rotate(qkv + (size_t)(at - begin) * step, 2 * spec.heads, spec.head_size, spec.cosines + angles,
                        spec.sines + angles);
            }
    }

    void encode(const Call& call, const Chunk& chunk, Room& room, Corner& corner, Member& member) const {
        float* const x = room.x.get();
        by_rows(member, chunk.rows, [&](int row, int count) {
            embed(call, chunk, row, row + count, x);
            if (layers_.empty()) finish(room, row, count);
            else prepare(room, row, count, layers_[0]->before_attention());
        });
        for (size_t i = 0; i < layers_.size(); i++) {
            const Layer& layer = *layers_[i];
            attend(call, chunk, layer, room, corner, member);
            const int blocks = up_to(chunk.rows, BLOCK), block = up_to(up_to(chunk.rows, blocks), 12) * 12;
            for (int row = 0; row < chunk.rows; row += block)
                feed(layer, room, member, row, std::min(block, chunk.rows - row));
            by_rows(member, chunk.rows, [&](int row, int count) {
                float* const from = x + (size_t)row * stride_;
                if (!layer.spec.pre_norm) k_.norm(from, count, *layer.ffn_norm, from);
                if (i + 1 == layers_.size()) return finish(room, row, count);
                prepare(room, row, count, layers_[i + 1]->before_attention());
            });
        }
        deliver(call, chunk, room, member);
    }

    // Make of x, after `norm` if there is one, what `prepared` returns.
    void prepare(Room& room, int row, int count, const Norm* norm) const {
        const float* from = room.x.get() + (size_t)row * stride_;
        if (norm) {
            float* const normed = room.normed.get() + (size_t)row * stride_;
            k_.norm(from, count, *norm, normed);
            from = normed;
        }
        if (numbers_ == INT8)
            k_.quantise(from, count, stride_, room.q.get() + (size_t)row * stride_, room.scale.get() + row);
    }

    Rows prepared(const Room& room, const Norm* norm) const {
        return rows_of(norm ? room.normed : room.x, stride_, room.q, stride_, room.scale);
    }

    Rows rows_of(const Held<float>& floats, int step, const Held<uint8_t>& bytes, int wide,
                 const Held<float>& scale) const {
        if (numbers_ == INT8) return {bytes.get(), scale.get(), (size_t)wide};
        return {reinterpret_cast<const uint8_t*>(floats.get()), scale.get(), (size_t)step * WORD};
    }

    void finish(Room& room, int row, int count) const {
        float* const x = room.x.get() + (size_t)row * stride_;
        if (final_) k_.norm(x, count, *final_, x);
    }

    // Add the output of attention to x, which is prepared; the sum is prepared afterwards.
    void attend(const Call& call, const Chunk& chunk, const Layer& layer, Room& room, Corner& corner,
                Member& member) const {
        const LayerSpec& spec = layer.spec;
        const int all = spec.heads * spec.head_size, step = layer.qkv.out, wide = mixed_stride(layer);
        float *const qkv = room.qkv.get(), *const mixed = room.mixed.get();
        multiply(member, prepared(room, layer.before_attention()), chunk.rows, layer.qkv, qkv, STORE);
        if (spec.cosines)
            by_rows(member, chunk.rows,
                    [&](int row, int count) { rotate(call, chunk, spec, row, row + count, qkv, step); });
        const int sequences = chunk.last - chunk.first, heads = spec.heads * sequences;
        const int parts = member.size() == 1 ? 1 : up_to(PIECES * member.size(), heads);
        member.share(heads * parts, [&](int i) {
            const int s = chunk.first + i / parts / spec.heads, head = i / parts % spec.heads, part = i % parts;
            const int start = call.bounds[s] - chunk.begin, length = call.bounds[s + 1] - call.bounds[s];
            const int first = (int)((long)length * part / parts), last = (int)((long)length * (part + 1) / parts);
            if (first == last) return;
            const float* const here = qkv + (size_t)start * step + head * spec.head_size;
            k_.attention(here, here + all, here + 2 * all, step, length, spec.head_size, spec.window, first, last,
                         mixed + (size_t)start * wide + head * spec.head_size, wide, corner.scratch.get());
        });
        by_rows(member, chunk.rows, [&](int row, int count) {
            float* const from = mixed + (size_t)row * wide;
            for (int i = 0; i < count; i++) std::memset(from + (size_t)i * wide + all, 0, sizeof(float) * (wide - all));
            if (numbers_ == INT8)
                k_.quantise(from, count, wide, room.q.get() + (size_t)row * wide, room.scale.get() + row);
        });
        multiply(member, rows_of(room.mixed, wide, room.q, wide, room.scale), chunk.rows, layer.out, room.x.get(), ADD);
        by_rows(member, chunk.rows, [&](int row, int count) {
            float* const from = room.x.get() + (size_t)row * stride_;
            if (!spec.pre_norm) k_.norm(from, count, *layer.attention_norm, from);
            prepare(room, row, count, layer.before_ffn());
        });
    }

    void feed(const Layer& layer, Room& room, Member& member, int first, int rows) const {
        const LayerSpec& spec = layer.spec;
        const int step = layer.up.out, wide = padded(spec.intermediate_size);
        float* const inner = room.inner.get();
        const bool fused = !spec.gated && spec.activation == GELU_ERF;
        multiply(member, prepared(room, layer.before_ffn()).from(first), rows, layer.up, inner, fused ? GELU : STORE);
        by_rows(member, rows, [&](int row, int count) {
            for (int i = row; i < row + count; i++) {
                float* const from = inner + (size_t)i * step;
                if (!fused) k_.activate(from, 1, step, spec.intermediate_size, (Activation)spec.activation, spec.gated != 0);
                if (numbers_ == INT8)
                    k_.quantise(from, 1, wide, room.inner_q.get() + (size_t)i * wide, room.inner_scale.get() + i);
            }
        });
        multiply(member, rows_of(room.inner, step, room.inner_q, wide, room.inner_scale), rows, layer.down,
                 room.x.get() + (size_t)first * stride_, ADD);
    }

    void deliver(const Call& call, const Chunk& chunk, const Room& room, Member& member) const {
        const int width = spec_.width;
        const float* const x = room.x.get();
        if (call.how == 0)
            return by_rows(member, chunk.rows, [&](int row, int count) {
                for (int i = row; i < row + count; i++)
                    std::memcpy(call.out + (size_t)(chunk.begin + i) * width, x + (size_t)i * stride_,
                                sizeof(float) * width);
            });
        member.share(chunk.last - chunk.first, [&](int i) {
            const int s = chunk.first + i, start = call.bounds[s] - chunk.begin;
            const int length = call.bounds[s + 1] - call.bounds[s];
            float* const out = call.out + (size_t)s * width;
            std::memcpy(out, x + (size_t)start * stride_, sizeof(float) * width);
            if (call.how == 2) return;
            for (int row = start + 1; row < start + length; row++)
                for (int k = 0; k < width; k++) out[k] += x[(size_t)row * stride_ + k];
            for (int k = 0; k < width; k++) out[k] /= (float)length;
        });
    }

    static int mixed_stride(const Layer& layer) { return padded(layer.spec.heads * layer.spec.head_size); }

    const EncoderSpec spec_;
    const Numbers numbers_;
    const Kernels& k_;
    const int stride_;
    int qkv_ = PAD, mixed_ = PAD, inner_ = PAD, head_size_ = 8;
    std::unique_ptr<OwnedNorm> norm_, final_;
    Held<uint8_t> weights_;  // Of all layers, in the order in which they are read.
    std::vector<std::unique_ptr<Layer>> layers_;
    std::mutex lock_;
    std::vector<Room> rooms_;
    std::vector<Corner> corners_;
    Crew* crew_ = nullptr;
};

const Kernels* kernels_named(const char* name) {
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    const bool vnni = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                      __builtin_cpu_supports("avx512vnni");
    for (const Kernels* candidate : {vnni ? avx512_kernels() : nullptr, avx2 ? avx2_kernels() : nullptr, &plain_kernels()})
        if (candidate && (!*name || !std::strcmp(name, candidate->name))) return candidate;
    return nullptr;
}

}  // namespace

extern "C" {

// The name of the kernels called `name` ("" for the best), nullptr if this machine does not have them.
const char* encodery_kernels(const char* name) {
    const Kernels* kernels = kernels_named(name);
    return kernels ? kernels->name : nullptr;
}

int encodery_interface() { return 3; }  // Raise it with every change of the structures or functions here.

// Multiplications and additions per second of one thread that does nothing else.
double encodery_peak(const char* name, long rounds, int numbers) {
    const auto begin = std::chrono::steady_clock::now();
    const long done = kernels_named(name)->spin(rounds, (Numbers)numbers);
    return done / std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

// Embeddings and angles stay the caller's; weights are copied. nullptr if memory is short.
void* encodery_new(const EncoderSpec* spec, const LayerSpec* layers, int depth, const char* name) try {
    return new Encoder(*spec, layers, depth, *kernels_named(name));
} catch (const std::bad_alloc&) {
    return nullptr;
}

void encodery_free(void* encoder) { delete static_cast<Encoder*>(encoder); }

// bounds (sequences + 1); segment (T) or nullptr; out (T, H) for how = 0, else (sequences, H). 0, or 1 if memory is
// short.
int encodery_run(void* encoder, const int32_t* ids, const int32_t* bounds, const int32_t* segment, int sequences, int how,
                 int threads, float* out) try {
    static_cast<Encoder*>(encoder)->run({ids, bounds, segment, out, how}, sequences, threads);
    return 0;
} catch (const std::bad_alloc&) {
    return 1;
}
}
