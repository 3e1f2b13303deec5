// What one instruction set has to offer: a table of functions, filled by kernels.inc in avx512.cpp, avx2.cpp, plain.cpp.
//
// Rows are token vectors, each `stride` floats long, a multiple of 64, of which the last ones may be padding and zero.
#pragma once
#include <cstddef>
#include <cstdint>

constexpr int PAD = 64;  // Every row is padded to a multiple of this, so that no kernel needs a tail.
inline int padded(int n) { return (n + PAD - 1) / PAD * PAD; }

// What rows and weights are multiplied as. A word, 32 bits, holds four bytes or one float.
enum Numbers { INT8 = 0, FLOAT = 1 };
constexpr int WORD = 4;
inline size_t size_of(Numbers numbers) { return numbers == INT8 ? 1 : WORD; }

// A linear layer: `out` is padded, `words` are those of a padded row that goes in. weights, in bytes:
// [out / columns][words][columns][WORD]. Of bytes, a column's real value is scale · weight, and `compensation` is what
// the offset of the activations adds to a column's sum; floats have neither.
struct Linear {
    Numbers numbers = INT8;
    int words = 0, out = 0;
    uint8_t* weights = nullptr;
    const uint8_t* next = nullptr;  // What will be multiplied after it, to be fetched meanwhile.
    int32_t* compensation = nullptr;
    float* scale = nullptr;
    float* bias = nullptr;
};

// Rows that a product reads, `stride` bytes apart: bytes as `quantise` leaves them, each row with its scale, or floats,
// which have none.
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

enum Then { STORE = 0, GELU = 1, ADD = 2 };                            // What becomes of a product's result.
enum Activation { GELU_ERF = 0, GELU_TANH = 1, RELU = 2, SILU = 3 };

struct Kernels {
    const char* name;
    int columns;  // Columns of a weight panel.
    int offset;   // Added to activations, to make them unsigned where the instruction wants that.
    // Rows to 8 bits, each by its own largest value: q = round(x / scale) + offset.
    void (*quantise)(const float* x, int rows, int stride, uint8_t* q, float* scale);
    // Columns first … last (multiples of PAD) of y (rows, layer.out) from x (rows, layer.words).
    void (*product)(const Rows& x, int rows, const Linear& layer, int first, int last, float* y, Then then);
    // y may be x.
    void (*norm)(const float* x, int rows, const Norm& norm, float* y);
    // In place over (rows, stride): the first `inner` columns activated, times the next `inner` where gated; zero after.
    void (*activate)(float* h, int rows, int stride, int inner, Activation kind, bool gated);
    // In place: `heads` heads of one row, next to each other, each with its halves turned against each other by the
    // angles (size / 2) of the row's position.
    void (*turn)(float* row, int heads, int size, const float* cosines, const float* sines);
    // One head of one sequence: queries first … last of `length` tokens, each of which sees the keys at most `window`
    // away. q, k, v point at the head in row 0, rows `stride` apart; `scratch` has attention_scratch floats.
    void (*attention)(const float* q, const float* k, const float* v, int stride, int length, int size, int window,
                      int first, int last, float* out, int out_stride, float* scratch);
    // Does nothing but multiply such numbers; returns how many multiplications and additions that were.
    long (*spin)(long rounds, Numbers numbers);
};

inline size_t attention_scratch(int length, int size) { return (size_t)padded(length) * (size + 4); }

const Kernels& plain_kernels();
const Kernels* avx2_kernels();    // nullptr where this processor or build has them not.
const Kernels* avx512_kernels();
