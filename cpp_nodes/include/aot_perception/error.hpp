// SPDX-License-Identifier: Apache-2.0
// Errors as values: what was expected, what was found, and what to do about it. As aot_runtime/errors.py.
#pragma once

#include <cassert>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <variant>

namespace aot_perception {

/// Why something could not be done.
struct Error {
  std::string reason;  ///< one clause of the form "expected A, found B in FILE"
  std::string remedy;  ///< what the user can do, as an imperative clause; may be empty

  /// "reason; remedy", as Python's AotError prints itself.
  [[nodiscard]] std::string message() const { return remedy.empty() ? reason : reason + "; " + remedy; }
};

/// A value, or the reason why there is none.
///
///     Result<Manifest> manifest = read_manifest(path);
///     if (!manifest) return manifest.error();
///     use(*manifest);
///
/// `value()` and the operators may be called only where there is a value, `error()` only where there is none.
template <class T>
class [[nodiscard]] Result {
  static_assert(!std::is_same_v<std::decay_t<T>, Error>, "a Result holds a value or an Error, not an Error as value");

 public:
  Result(T value) : content_(std::in_place_index<0>, std::move(value)) {}      // NOLINT(runtime/explicit)
  Result(Error error) : content_(std::in_place_index<1>, std::move(error)) {}  // NOLINT(runtime/explicit)

  explicit operator bool() const noexcept { return content_.index() == 0; }

  T& value() & noexcept { return *pointer(); }
  const T& value() const& noexcept { return *pointer(); }
  T&& value() && noexcept { return std::move(*pointer()); }
  T& operator*() & noexcept { return *pointer(); }
  const T& operator*() const& noexcept { return *pointer(); }
  T&& operator*() && noexcept { return std::move(*pointer()); }
  T* operator->() noexcept { return pointer(); }
  const T* operator->() const noexcept { return pointer(); }

  [[nodiscard]] const Error& error() const noexcept {
    const Error* error = std::get_if<1>(&content_);
    assert(error != nullptr);
    return *error;
  }

 private:
  T* pointer() noexcept {
    T* value = std::get_if<0>(&content_);
    assert(value != nullptr);
    return value;
  }
  const T* pointer() const noexcept { return const_cast<Result*>(this)->pointer(); }

  std::variant<T, Error> content_;
};

/// Done, or the reason why not.
template <>
class [[nodiscard]] Result<void> {
 public:
  Result() = default;
  Result(Error error) : error_(std::move(error)) {}  // NOLINT(runtime/explicit)

  explicit operator bool() const noexcept { return !error_.has_value(); }

  [[nodiscard]] const Error& error() const noexcept {
    assert(error_.has_value());
    return *error_;
  }

 private:
  std::optional<Error> error_;
};

}  // namespace aot_perception
