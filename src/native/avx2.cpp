// AVX2: 32 products of bytes in four instructions.
//
// `maddubs` adds two products in 16 bits and would saturate with unsigned activations up to 255. So the activations stay
// signed and their signs are moved to the weights: 2 · 127 · 127 fits, and nothing is ever cut.
#include "kernels.hpp"
#if defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>
namespace {
constexpr int LANES = 8, WIDE = 2, ROWS = 4, OFFSET = 0;
constexpr const char* NAME = "avx2";
typedef float F __attribute__((vector_size(32)));
typedef int32_t I __attribute__((vector_size(32)));
inline __attribute__((always_inline)) I dot(I sum, I x, I w) {
    const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8((__m256i)x), _mm256_sign_epi8((__m256i)w, (__m256i)x));
    return sum + (I)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
}
#include "kernels.inc"
}  // namespace
const Kernels* avx2_kernels() { return &TABLE; }
#else
const Kernels* avx2_kernels() { return nullptr; }
#endif
