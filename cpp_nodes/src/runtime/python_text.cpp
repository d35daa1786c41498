// SPDX-License-Identifier: Apache-2.0
#include "python_text.hpp"

#include <charconv>
#include <cstdint>
#include <cstdio>

namespace aot_perception {
namespace {

/// Length of the UTF-8 sequence at `position`, or 0 where there is none.
std::size_t sequence_length(const std::string& text, std::size_t position) {
  const auto byte = [&](std::size_t offset) { return static_cast<unsigned char>(text[position + offset]); };
  const unsigned char lead = byte(0);
  const std::size_t length = lead < 0x80                   ? 1
                             : lead >= 0xC2 && lead < 0xE0 ? 2
                             : lead >= 0xE0 && lead < 0xF0 ? 3
                             : lead >= 0xF0 && lead < 0xF5 ? 4
                                                           : 0;
  if (length == 0 || position + length > text.size()) return 0;
  for (std::size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return 0;
  }
  // Overlong forms, surrogates, and what lies beyond U+10FFFF.
  if (lead == 0xE0 && byte(1) < 0xA0) return 0;
  if (lead == 0xED && byte(1) > 0x9F) return 0;
  if (lead == 0xF0 && byte(1) < 0x90) return 0;
  if (lead == 0xF4 && byte(1) > 0x8F) return 0;
  return length;
}

std::string float_repr(double value) {
  char digits[64];
  const auto [end, error] = std::to_chars(digits, digits + sizeof(digits), value, std::chars_format::scientific);
  if (error != std::errc()) return std::to_string(value);
  std::string text(digits, end);
  // "-1.5e+02": Python writes an exponent below 1e-4 and from 1e16 on, else a fixed point.
  const std::size_t at = text.find('e');
  if (at == std::string::npos) return text;  // inf, nan
  const int exponent = std::stoi(text.substr(at + 1));
  if (exponent < -4 || exponent >= 16) return text;
  char fixed[64];
  const auto [fixed_end, fixed_error] = std::to_chars(fixed, fixed + sizeof(fixed), value, std::chars_format::fixed);
  if (fixed_error != std::errc()) return text;
  std::string result(fixed, fixed_end);
  return result.find('.') == std::string::npos ? result + ".0" : result;
}

void append_repr(const nlohmann::json& value, std::size_t limit, std::string& out) {
  if (out.size() > limit) return;  // every level has written a bracket, so that this bounds the depth too
  if (value.is_array() || value.is_object()) {
    const bool is_array = value.is_array();
    out += is_array ? '[' : '{';
    bool first = true;
    for (const auto& item : value.items()) {
      if (out.size() > limit) return;
      if (!first) out += ", ";
      first = false;
      if (!is_array) out += python_repr(item.key()) + ": ";
      append_repr(item.value(), limit, out);
    }
    out += is_array ? ']' : '}';
  } else if (value.is_string()) {
    out += python_repr(value.get_ref<const std::string&>());
  } else if (value.is_boolean()) {
    out += value.get<bool>() ? "True" : "False";
  } else if (value.is_number_unsigned()) {
    out += std::to_string(value.get<std::uint64_t>());
  } else if (value.is_number_integer()) {
    out += std::to_string(value.get<std::int64_t>());
  } else if (value.is_number_float()) {
    out += float_repr(value.get<double>());
  } else {
    out += "None";
  }
}

}  // namespace

std::string python_repr(const std::string& text) {
  const bool doubled = text.find('\'') != std::string::npos && text.find('"') == std::string::npos;
  const char quote = doubled ? '"' : '\'';
  std::string out(1, quote);
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '\\' || c == quote) {
      out += '\\';
      out += c;
    } else if (c == '\n') {
      out += "\\n";
    } else if (c == '\r') {
      out += "\\r";
    } else if (c == '\t') {
      out += "\\t";
    } else if (byte < 32 || byte == 127) {
      char escaped[8];
      std::snprintf(escaped, sizeof(escaped), "\\x%02x", byte);
      out += escaped;
    } else {
      out += c;
    }
  }
  return out + quote;
}

std::string python_repr(const nlohmann::json& value, std::size_t limit) {
  std::string out;
  append_repr(value, limit, out);
  return out;
}

std::string first_characters(const std::string& text, std::size_t count) {
  std::size_t position = 0;
  for (; count > 0 && position < text.size(); --count) {
    const std::size_t length = sequence_length(text, position);
    position += length == 0 ? 1 : length;
  }
  return text.substr(0, position);
}

std::size_t count_characters(const std::string& text) {
  std::size_t count = 0;
  for (std::size_t position = 0; position < text.size(); ++count) {
    const std::size_t length = sequence_length(text, position);
    position += length == 0 ? 1 : length;
  }
  return count;
}

bool is_utf8(const std::string& text) {
  for (std::size_t position = 0; position < text.size();) {
    const std::size_t length = sequence_length(text, position);
    if (length == 0) return false;
    position += length;
  }
  return true;
}

std::string join(const std::vector<std::string>& items, const std::string& separator) {
  std::string out;
  for (std::size_t i = 0; i < items.size(); ++i)
    out += (i == 0 ? "" : separator) + items[i];
  return out;
}

std::string tuple_text(const std::vector<std::string>& items) {
  return "(" + join(items) + (items.size() == 1 ? ",)" : ")");
}

std::string general(double value, int digits) {
  char text[64];
  std::snprintf(text, sizeof(text), "%.*g", digits, value);
  return text;
}

std::string shell_join(const std::vector<std::string>& arguments) {
  static const std::string safe = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789@%_+=:,./-";
  std::vector<std::string> quoted;
  for (const std::string& argument : arguments) {
    if (!argument.empty() && argument.find_first_not_of(safe) == std::string::npos) {
      quoted.push_back(argument);
      continue;
    }
    std::string text = "'";
    for (const char c : argument)
      text += c == '\'' ? std::string("'\"'\"'") : std::string(1, c);
    quoted.push_back(text + "'");
  }
  return join(quoted, " ");
}

}  // namespace aot_perception
