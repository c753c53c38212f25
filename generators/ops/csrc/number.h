// Storage types without arithmetic, and their conversion. Sums are of float or double.
#pragma once

#if defined(__CUDACC_RTC__)
// the compiler at run time has no headers: sizes as every GPU has them
using int64_t = long long;
using uint64_t = unsigned long long;
using uint32_t = unsigned int;
using uint16_t = unsigned short;
using uint8_t = unsigned char;
using uintptr_t = unsigned long long;
#define INT32_MAX 2147483647
#else
#include <cstdint>
#include <cstring>
#endif

#if defined(__CUDACC_RTC__)
#define HPD_HD __device__
#elif defined(__CUDACC__)
#define HPD_HD __host__ __device__
#else
#define HPD_HD
#endif

#if defined(__F16C__) && !defined(__CUDACC__)
#include <immintrin.h>
#endif

namespace hpd {

struct Half { uint16_t bits; };
struct BFloat16 { uint16_t bits; };

HPD_HD inline uint32_t bits_of_float(float value) {
#if defined(__CUDA_ARCH__)
  return __float_as_uint(value);
#else
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return bits;
#endif
}

HPD_HD inline float float_of_bits(uint32_t bits) {
#if defined(__CUDA_ARCH__)
  return __uint_as_float(bits);
#else
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
#endif
}

HPD_HD inline float widen(float value) { return value; }
HPD_HD inline double widen(double value) { return value; }
HPD_HD inline float widen(BFloat16 value) { return float_of_bits(uint32_t(value.bits) << 16); }

HPD_HD inline float widen(Half value) {
#if defined(__CUDA_ARCH__)
  float wide;
  asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(value.bits));
  return wide;
#elif defined(__F16C__)
  return _cvtsh_ss(value.bits);
#else
  const uint32_t sign = uint32_t(value.bits & 0x8000) << 16, rest = value.bits & 0x7fff;
  if (rest >= 0x7c00) return float_of_bits(sign | 0x7f800000 | (rest & 0x3ff) << 13);
  if (rest >= 0x400) return float_of_bits(sign | ((rest << 13) + ((127 - 15) << 23)));
  // a subnormal is its integer times 2^-24, which float32 holds exactly
  return float_of_bits(sign | bits_of_float(float(rest) * 0x1p-24f));
#endif
}

HPD_HD inline void narrow(float value, float* to) { *to = value; }
HPD_HD inline void narrow(double value, double* to) { *to = value; }

// to nearest, ties to even; a NaN must stay one, which the carry could undo
HPD_HD inline void narrow(float value, BFloat16* to) {
  const uint32_t bits = bits_of_float(value);
  const uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
  to->bits = uint16_t(value == value ? rounded : bits >> 16 | 0x40);
}

HPD_HD inline void narrow(float value, Half* to) {
#if defined(__CUDA_ARCH__)
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(to->bits) : "f"(value));
#elif defined(__F16C__)
  to->bits = uint16_t(_cvtss_sh(value, 0));
#else
  const uint32_t bits = bits_of_float(value), rest = bits & 0x7fffffff;
  const uint32_t sign = bits >> 16 & 0x8000;
  uint32_t magnitude;
  if (rest > 0x7f800000) {
    magnitude = 0x7e00;
  } else if (rest >= 0x477ff000) {
    magnitude = 0x7c00;
  } else if (rest < 0x38800000) {
    // beside 0.5, float32 has steps of 2^-24, to which the addition rounds
    magnitude = bits_of_float(float_of_bits(rest) + 0.5f) - 0x3f000000;
  } else {
    magnitude = (rest - ((127 - 15) << 23) + 0xfff + (rest >> 13 & 1)) >> 13;
  }
  to->bits = uint16_t(sign | magnitude);
#endif
}

}  // namespace hpd
