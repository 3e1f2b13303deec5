// AVX-512 with VNNI: 64 products of bytes an instruction, unsigned by signed.
#include "kernels.hpp"
#if defined(__AVX512VNNI__)
#include <immintrin.h>
namespace {
constexpr int LANES = 16, WIDE = 4, ROWS = 6, OFFSET = 128;
constexpr const char* NAME = "avx512_vnni";
typedef float F __attribute__((vector_size(64)));
typedef int32_t I __attribute__((vector_size(64)));
inline __attribute__((always_inline)) I dot(I sum, I x, I w) {
    return (I)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)x, (__m512i)w);
}
#include "kernels.inc"
}  // namespace
const Kernels* avx512_kernels() { return &TABLE; }
#else
const Kernels* avx512_kernels() { return nullptr; }
#endif
