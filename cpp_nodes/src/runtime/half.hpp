// SPDX-License-Identifier: Apache-2.0
// float16 and bfloat16 to and from float32, rounded to nearest even as IEEE 754 and PyTorch do.
#pragma once

#include <cstdint>
#include <cstring>

namespace aot_perception {

inline std::uint32_t float_bits(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}

inline float bits_float(std::uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

inline float bfloat16_to_float(std::uint16_t bits) {
  return bits_float(static_cast<std::uint32_t>(bits) << 16);
}

inline std::uint16_t float_to_bfloat16(float value) {
  const std::uint32_t bits = float_bits(value);
  if ((bits & 0x7FFFFFFFU) > 0x7F800000U) return 0x7FC0;  // NaN
  return static_cast<std::uint16_t>((bits + 0x7FFFU + ((bits >> 16) & 1U)) >> 16);
}

inline float float16_to_float(std::uint16_t half) {
  const std::uint32_t sign = static_cast<std::uint32_t>(half & 0x8000U) << 16;
  const std::uint32_t exponent = (half >> 10) & 31U;
  std::uint32_t mantissa = half & 0x3FFU;
  if (exponent == 31) return bits_float(sign | 0x7F800000U | mantissa << 13);
  if (exponent != 0) return bits_float(sign | (exponent + 112) << 23 | mantissa << 13);
  if (mantissa == 0) return bits_float(sign);
  // Subnormal: mantissa * 2^-24, normalised.
  std::uint32_t shifted = 113;
  while ((mantissa & 0x400U) == 0) {
    mantissa <<= 1;
    --shifted;
  }
  return bits_float(sign | shifted << 23 | (mantissa & 0x3FFU) << 13);
}

inline std::uint16_t float_to_float16(float value) {
  const std::uint32_t bits = float_bits(value);
  const auto sign = static_cast<std::uint16_t>((bits >> 16) & 0x8000U);
  const std::uint32_t magnitude = bits & 0x7FFFFFFFU;
  if (magnitude > 0x7F800000U) return static_cast<std::uint16_t>(sign | 0x7E00U);   // NaN
  if (magnitude >= 0x477FF000U) return static_cast<std::uint16_t>(sign | 0x7C00U);  // rounds to infinity
  if (magnitude < 0x33000001U) return sign;                                         // rounds to zero
  const std::uint32_t exponent = magnitude >> 23;
  // Below 2^-14 (exponent 113) the result is subnormal: its implicit one becomes explicit and moves right.
  const std::uint32_t shift = exponent < 113 ? 126 - exponent : 13;
  const std::uint32_t mantissa = exponent < 113 ? (magnitude & 0x7FFFFFU) | 0x800000U : magnitude - (112U << 23);
  const std::uint32_t kept = mantissa >> shift;
  const std::uint32_t rest = mantissa & ((1U << shift) - 1U);
  const std::uint32_t half = 1U << (shift - 1U);
  const std::uint32_t rounded = kept + (rest > half || (rest == half && (kept & 1U) != 0) ? 1U : 0U);
  return static_cast<std::uint16_t>(sign | rounded);
}

}  // namespace aot_perception
