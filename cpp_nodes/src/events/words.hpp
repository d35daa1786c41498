// SPDX-License-Identifier: Apache-2.0
// Little-endian words at any address, and integer division that rounds down.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "events are decoded on little-endian machines only"
#endif

namespace aot_perception {

/// Word `index` of a payload.
template <class Word>
inline Word load_word(const std::uint8_t* words, std::size_t index) {
  Word word;
  std::memcpy(&word, words + index * sizeof(Word), sizeof(Word));
  return word;
}

/// a / b rounded down, b > 0.
inline std::int64_t floor_div(std::int64_t a, std::int64_t b) {
  const std::int64_t quotient = a / b;
  return quotient - (a % b < 0 ? 1 : 0);
}

}  // namespace aot_perception
