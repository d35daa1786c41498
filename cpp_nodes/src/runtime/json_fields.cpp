// SPDX-License-Identifier: Apache-2.0
#include "json_fields.hpp"

#include "python_text.hpp"

namespace aot_perception {
namespace {

constexpr std::size_t kShown = 63;

std::string repr(const nlohmann::json& value) {
  return python_repr(value, 4 * kShown);
}

}  // namespace

void Problem::tell(const std::string& where, const std::string& expected, const std::string& found) {
  if (error_.has_value()) return;
  const std::string shown = count_characters(found) > kShown ? first_characters(found, 60) + "..." : found;
  error_ = Error{"expected " + expected + " at " + where + ", found " + shown + " in " + source_,
                 "export the artifact again"};
}

void read_value(const nlohmann::json& value, const std::string& where, std::string& out, Problem& problem) {
  if (!value.is_string()) return problem.tell(where, "a string", repr(value));
  out = value.get<std::string>();
}

void read_value(const nlohmann::json& value, const std::string& where, std::int64_t& out, Problem& problem) {
  if (!value.is_number_integer()) return problem.tell(where, "an integer", repr(value));
  if (value.is_number_unsigned() &&
      value.get<std::uint64_t>() > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) {
    return problem.tell(where, "an integer of 64 bits", repr(value));
  }
  out = value.get<std::int64_t>();
}

void read_value(const nlohmann::json& value, const std::string& where, double& out, Problem& problem) {
  if (!value.is_number() || !std::isfinite(value.get<double>())) {
    return problem.tell(where, "a finite number", repr(value));
  }
  out = value.get<double>();
}

void read_value(const nlohmann::json& value, const std::string& where, Size& out, Problem& problem) {
  if (value.is_string()) {
    out = value.get<std::string>();
  } else if (value.is_number_integer()) {
    std::int64_t size = 0;
    read_value(value, where, size, problem);
    out = size;
  } else {
    problem.tell(where, "an integer or a string", repr(value));
  }
}

void read_value(const nlohmann::json& value, const std::string& where, std::optional<std::int64_t>& out,
                Problem& problem) {
  out.reset();
  if (value.is_null()) return;
  if (!value.is_number_integer()) return problem.tell(where, "an integer or null", repr(value));
  std::int64_t number = 0;
  read_value(value, where, number, problem);
  out = number;
}

void read_value(const nlohmann::json& value, const std::string& where, std::optional<double>& out, Problem& problem) {
  out.reset();
  if (value.is_null()) return;
  if (!value.is_number()) return problem.tell(where, "a number or null", repr(value));
  double number = 0.0;
  read_value(value, where, number, problem);
  out = number;
}

void read_value(const nlohmann::json& value, const std::string& where, nlohmann::json& out, Problem& problem) {
  if (!value.is_object()) return problem.tell(where, "an object", repr(value));
  out = value;
}

Fields::Fields(const nlohmann::json& value, std::string where, const std::set<std::string>& known, Problem& problem)
    : value_(value), where_(std::move(where)), problem_(problem) {
  if (problem_.found()) return;
  if (!value_.is_object()) {
    problem_.tell(where_, "an object", repr(value_));
    return;
  }
  nlohmann::json unknown = nlohmann::json::array();  // sorted, as JSON objects are here
  for (const auto& item : value_.items()) {
    if (known.count(item.key()) == 0) unknown.push_back(item.key());
  }
  if (!unknown.empty()) {
    problem_.tell(where_, "only the fields of schema version " + std::to_string(kSchemaVersion), repr(unknown));
  }
}

void Fields::missing(const std::string& name) {
  problem_.tell(where_ + "." + name, "a value", "'nothing'");
}

bool require_list(const nlohmann::json& value, const std::string& where, Problem& problem) {
  if (!value.is_array()) problem.tell(where, "a list", repr(value));
  return value.is_array();
}

}  // namespace aot_perception
