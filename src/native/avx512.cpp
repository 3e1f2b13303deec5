// AVX-512 with VNNI: 64 products of bytes per instruction, unsigned by signed.
#include "kernels.hpp"
#if defined(__AVX512VNNI__)
#include <immintrin.h>
namespace {
constexpr int LANES = 16, WIDE = 4, ROWS = 6, FLOAT_ROWS = 6, OFFSET = 128;
constexpr const char* NAME = "avx512_vnni";
typedef float F __attribute__((vector_size(64)));
typedef int32_t I __attribute__((vector_size(64)));
inline __attribute__((always_inline)) I dot(I sum, I x, I w) {
    return (I)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)x, (__m512i)w);
}
inline __attribute__((always_inline)) F larger(F a, F b) { return (F)_mm512_max_ps((__m512)a, (__m512)b); }
inline __attribute__((always_inline)) F smaller(F a, F b) { return (F)_mm512_min_ps((__m512)a, (__m512)b); }
inline __attribute__((always_inline)) float sum(F v) { return _mm512_reduce_add_ps((__m512)v); }
inline __attribute__((always_inline)) float largest(F v) { return _mm512_reduce_max_ps((__m512)v); }
inline __attribute__((always_inline)) void store_low(uint8_t* to, I v) { _mm_storeu_si128((__m128i*)to, _mm512_cvtepi32_epi8((__m512i)v)); }
#include "kernels.inc"
}  // namespace
const Kernels* avx512_kernels() { return &TABLE; }
#else
const Kernels* avx512_kernels() { return nullptr; }
#endif
