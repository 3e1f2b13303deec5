// The reference, which runs on every processor. The fast kernels are tested against it.
#include "kernels.hpp"
namespace {
constexpr int LANES = 4, WIDE = 1, ROWS = 2, FLOAT_ROWS = 2, OFFSET = 0;
constexpr const char* NAME = "plain";
typedef float F __attribute__((vector_size(16)));
typedef int32_t I __attribute__((vector_size(16)));
inline I dot(I sum, I x, I w) {
    int8_t a[16], b[16];
    __builtin_memcpy(a, &x, 16);
    __builtin_memcpy(b, &w, 16);
    for (int i = 0; i < 16; i++) sum[i / 4] += (int32_t)a[i] * b[i];
    return sum;
}
inline F larger(F a, F b) { return a > b ? a : b; }
inline F smaller(F a, F b) { return a < b ? a : b; }
inline float sum(F v) { return v[0] + v[1] + v[2] + v[3]; }
inline float largest(F v) {
    const float left = v[0] > v[1] ? v[0] : v[1], right = v[2] > v[3] ? v[2] : v[3];
    return left > right ? left : right;
}
inline void store_low(uint8_t* to, I v) {
    for (int i = 0; i < LANES; i++) to[i] = (uint8_t)v[i];
}
#include "kernels.inc"
}  // namespace
const Kernels& plain_kernels() { return TABLE; }
