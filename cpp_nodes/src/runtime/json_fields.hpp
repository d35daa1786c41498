// SPDX-License-Identifier: Apache-2.0
// Typed reading of JSON objects; the first problem is kept and names the field.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "aot_perception/error.hpp"
#include "aot_perception/manifest.hpp"

namespace aot_perception {

/// The first thing that is wrong with a document.
class Problem {
 public:
  explicit Problem(std::string source) : source_(std::move(source)) {}

  /// "expected A at WHERE, found VALUE in SOURCE"; `found` is as Python prints it and is shortened.
  void tell(const std::string& where, const std::string& expected, const std::string& found);
  bool found() const { return error_.has_value(); }
  const Error& error() const { return *error_; }
  const std::string& source() const { return source_; }

 private:
  std::string source_;
  std::optional<Error> error_;
};

void read_value(const nlohmann::json& value, const std::string& where, std::string& out, Problem& problem);
void read_value(const nlohmann::json& value, const std::string& where, std::int64_t& out, Problem& problem);
void read_value(const nlohmann::json& value, const std::string& where, double& out, Problem& problem);
void read_value(const nlohmann::json& value, const std::string& where, Size& out, Problem& problem);
void read_value(const nlohmann::json& value, const std::string& where, std::optional<std::int64_t>& out,
                Problem& problem);
void read_value(const nlohmann::json& value, const std::string& where, std::optional<double>& out, Problem& problem);
/// An object, as it is.
void read_value(const nlohmann::json& value, const std::string& where, nlohmann::json& out, Problem& problem);

/// The fields of one object.
class Fields {
 public:
  /// Tells where `value` is no object or has fields that are not `known`.
  Fields(const nlohmann::json& value, std::string where, const std::set<std::string>& known, Problem& problem);

  /// A field that must be there.
  template <class T>
  Fields& required(const std::string& name, T& out) {
    if (problem_.found()) return *this;
    if (!value_.contains(name)) {
      missing(name);
      return *this;
    }
    read_value(value_[name], where_ + "." + name, out, problem_);
    return *this;
  }

  /// A field that keeps its value where it is absent.
  template <class T>
  Fields& optional(const std::string& name, T& out) {
    return problem_.found() || !value_.contains(name) ? *this : required(name, out);
  }

 private:
  void missing(const std::string& name);

  const nlohmann::json& value_;
  std::string where_;
  Problem& problem_;
};

/// Says that a value is no list; false then.
bool require_list(const nlohmann::json& value, const std::string& where, Problem& problem);

template <class T>
void read_value(const nlohmann::json& value, const std::string& where, std::vector<T>& out, Problem& problem) {
  out.clear();
  if (!require_list(value, where, problem)) return;
  for (std::size_t i = 0; i < value.size() && !problem.found(); ++i) {
    out.emplace_back();
    read_value(value[i], where + "[" + std::to_string(i) + "]", out.back(), problem);
  }
}

}  // namespace aot_perception
