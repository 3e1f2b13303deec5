// The functions of one instruction set: a table, filled by kernels.inc in avx512.cpp, avx2.cpp and plain.cpp.
//
// Rows are token vectors, each `stride` floats long, a multiple of 64; the last ones may be padding, which is zero.
#pragma once
#include <cstddef>
#include <cstdint>

constexpr int PAD = 64;  // Every row is padded to a multiple of this, so that no kernel needs a tail.
inline int padded(int n) { return (n + PAD - 1) / PAD * PAD; }

// The number format of products. A word of 32 bits holds four bytes or one float.
enum Numbers { INT8 = 0, FLOAT = 1 };
constexpr int WORD = 4;
inline size_t size_of(Numbers numbers) { return numbers == INT8 ? 1 : WORD; }

// A linear layer: `out` is padded, `words` are those of a padded input row. weights, in bytes:
// [out / columns][words][columns][WORD]. In int8 a column's real value is scale · weight, and `compensation` is what the
// offset of the activations adds to a column's sum; floats have neither.
struct Linear {
    Numbers numbers = INT8;
    int words = 0, out = 0;
    uint8_t* weights = nullptr;
    const uint8_t* next = nullptr;  // The weights of the next product, to be prefetched.
    int32_t* compensation = nullptr;
    float* scale = nullptr;
    float* bias = nullptr;
};

// The input rows of a product, `stride` bytes apart: bytes as `quantise` writes them, each row with its scale, or
// floats, which have none.
struct Rows {
    const uint8_t* words;
    const float* scale;
    size_t stride;

    Rows from(size_t row) const { return {words + row * stride, scale + row, stride}; }
};

// `live` is 1 for real columns, 0 for padding.
struct Norm {
    int width = 0, stride = 0;
    float eps = 0;
    float *gain = nullptr, *bias = nullptr, *live = nullptr;
};

enum Then { STORE = 0, GELU = 1, ADD = 2 };                            // What is done with a product.
enum Activation { GELU_ERF = 0, GELU_TANH = 1, RELU = 2, SILU = 3 };

struct Kernels {
    const char* name;
    int columns;  // Columns of a weight panel.
    int offset;   // Added to activations, to make them unsigned if the instruction requires it.
    // Quantise rows to 8 bits, each by its own largest value: q = round(x / scale) + offset.
    void (*quantise)(const float* x, int rows, int stride, uint8_t* q, float* scale);
    // Compute columns first … last (multiples of PAD) of y (rows, layer.out) from x (rows, layer.words).
    void (*product)(const Rows& x, int rows, const Linear& layer, int first, int last, float* y, Then then);
    // y may be x.
    void (*norm)(const float* x, int rows, const Norm& norm, float* y);
    // In place over (rows, stride): activate the first `inner` columns, times the next `inner` if gated; zero the rest.
    void (*activate)(float* h, int rows, int stride, int inner, Activation kind, bool gated);
    // In place: rotate the halves of each of `heads` adjacent heads of one row by the angles (size / 2) of its position.
    void (*rotate)(float* row, int heads, int size, const float* cosines, const float* sines);
    // One head of one sequence: queries first … last of `length` tokens, each of which attends to keys at most `window`
    // away. q, k, v point to the head in row 0, rows are `stride` apart; `scratch` has attention_scratch floats.
    void (*attention)(const float* q, const float* k, const float* v, int stride, int length, int size, int window,
                      int first, int last, float* out, int out_stride, float* scratch);
    // Only multiplies numbers of that format; returns the number of multiplications and additions.
    long (*spin)(long rounds, Numbers numbers);
};

inline size_t attention_scratch(int length, int size) { return (size_t)padded(length) * (size + 4); }

const Kernels& plain_kernels();
const Kernels* avx2_kernels();    // nullptr if this processor or build does not have them.
const Kernels* avx512_kernels();
