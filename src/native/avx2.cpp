// AVX2: 32 products of bytes in four instructions.
//
// `maddubs` adds two products in 16 bits and would saturate with unsigned activations up to 255. So the activations stay
// signed and their signs are moved to the weights: 2 · 127 · 127 fits, and nothing saturates.
#include "kernels.hpp"
#if defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>
namespace {
constexpr int LANES = 8, WIDE = 2, ROWS = 4, FLOAT_ROWS = 6, OFFSET = 0;
constexpr const char* NAME = "avx2";
typedef float F __attribute__((vector_size(32)));
typedef int32_t I __attribute__((vector_size(32)));
inline __attribute__((always_inline)) I dot(I sum, I x, I w) {
    const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8((__m256i)x), _mm256_sign_epi8((__m256i)w, (__m256i)x));
    return sum + (I)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
}
inline __attribute__((always_inline)) F larger(F a, F b) { return (F)_mm256_max_ps((__m256)a, (__m256)b); }
inline __attribute__((always_inline)) F smaller(F a, F b) { return (F)_mm256_min_ps((__m256)a, (__m256)b); }
inline __attribute__((always_inline)) float sum(F v) {
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128((__m256)v), _mm256_extractf128_ps((__m256)v, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
inline __attribute__((always_inline)) float largest(F v) {
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128((__m256)v), _mm256_extractf128_ps((__m256)v, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}
inline __attribute__((always_inline)) void store_low(uint8_t* to, I v) {
    const __m256i low = _mm256_shuffle_epi8((__m256i)v, _mm256_set1_epi32(0x0c080400));  // The same four bytes of each half, repeated.
    _mm_storel_epi64((__m128i*)to, _mm_unpacklo_epi32(_mm256_castsi256_si128(low), _mm256_extracti128_si256(low, 1)));
}
#include "kernels.inc"
}  // namespace
const Kernels* avx2_kernels() { return &TABLE; }
#else
const Kernels* avx2_kernels() { return nullptr; }
#endif
