// SPDX-License-Identifier: Apache-2.0
// Values as Python prints them, so that an error reads the same in both languages.
#pragma once

#include <cstddef>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace aot_perception {

/// repr() of a string.
std::string python_repr(const std::string& text);

/// repr() of parsed JSON; about `limit` bytes of it, however deep the value is.
std::string python_repr(const nlohmann::json& value, std::size_t limit = 100'000);

/// The first `count` characters (code points) of UTF-8.
std::string first_characters(const std::string& text, std::size_t count);

/// Number of code points.
std::size_t count_characters(const std::string& text);

/// "(a, b)", "(a,)", "()".
std::string tuple_text(const std::vector<std::string>& items);

/// "a, b".
std::string join(const std::vector<std::string>& items, const std::string& separator = ", ");

/// A number as printf writes it with "%.<digits>g", which is Python's {:.<digits>g}.
std::string general(double value, int digits);

/// Whether bytes are UTF-8.
bool is_utf8(const std::string& text);

/// One command line that a shell splits into these arguments again (Python's shlex.join).
std::string shell_join(const std::vector<std::string>& arguments);

}  // namespace aot_perception
