// SPDX-License-Identifier: Apache-2.0
// What the tests of the event pipeline share: words, comparisons, recordings.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <initializer_list>
#include <iterator>
#include <string>
#include <vector>

#include "aot_perception/events.hpp"

namespace aot_perception::testing {

using Bytes = std::vector<std::uint8_t>;
using Rows = std::vector<std::array<std::int64_t, 4>>;

/// Little-endian words as bytes.
template <class Word>
Bytes words_of(const std::vector<Word>& words) {
  Bytes bytes(words.size() * sizeof(Word));
  if (!words.empty()) std::memcpy(bytes.data(), words.data(), bytes.size());
  return bytes;
}

inline Bytes words(std::initializer_list<std::uint16_t> values) {
  return words_of(std::vector<std::uint16_t>(values));
}

/// Events as x, y, t, p.
inline Rows rows(const EventsView& events) {
  Rows result;
  for (std::size_t i = 0; i < events.size; ++i) {
    result.push_back({events.x[i], events.y[i], events.t[i], events.p[i]});
  }
  return result;
}

inline std::vector<std::int64_t> times(const EventsView& events) {
  return {events.t, events.t + events.size};
}

/// Whether two lists of events are equal in all fields; `shift` is added to the times of the second.
inline ::testing::AssertionResult same(const EventsView& found, const EventsView& expected, std::int64_t shift = 0) {
  if (found.size != expected.size) {
    return ::testing::AssertionFailure() << found.size << " events instead of " << expected.size;
  }
  for (std::size_t i = 0; i < found.size; ++i) {
    if (found.x[i] != expected.x[i] || found.y[i] != expected.y[i] || found.t[i] != expected.t[i] + shift ||
        found.p[i] != expected.p[i]) {
      return ::testing::AssertionFailure() << "event " << i << " differs";
    }
  }
  return ::testing::AssertionSuccess();
}

inline Bytes read_file(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return Bytes(std::istreambuf_iterator<char>(file), {});
}

/// Payload of a Prophesee .raw file, found without the package's own header parser.
inline Bytes raw_payload(const std::filesystem::path& path) {
  Bytes data = read_file(path);
  std::size_t start = 0;
  while (start + 2 < data.size() && data[start] == '%' && data[start + 1] == ' ') {
    start = static_cast<std::size_t>(std::find(data.begin() + static_cast<std::ptrdiff_t>(start), data.end(), '\n') -
                                     data.begin() + 1);
  }
  return Bytes(data.begin() + static_cast<std::ptrdiff_t>(std::min(start, data.size())), data.end());
}

/// Events at these times, x counting up, y = 0, p = 0.
inline EventArrays at(std::initializer_list<std::int64_t> event_times) {
  EventArrays events(event_times.size());
  std::uint16_t x = 0;
  for (const std::int64_t t : event_times)
    events.push_back(x++, 0, t, 0);
  return events;
}

}  // namespace aot_perception::testing
