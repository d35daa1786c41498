// SPDX-License-Identifier: Apache-2.0
// Files of the artifact contract: digests, permissions, and the list of digests that may run (aot_runtime/files.py).
#pragma once

#include <optional>
#include <set>
#include <string>

#include "aot_perception/error.hpp"

namespace aot_perception {

/// SHA-256 of a whole file, as 64 lower-case hexadecimal digits.
Result<std::string> sha256_file(const std::string& path);

/// What is wrong with the permissions of an artifact that will be executed, or nothing.
///
/// An artifact is code: whoever may write the file, or may rename things in its folder, may run code as the node.
/// Error: the file's permissions cannot be read.
Result<std::optional<Error>> permission_problem(const std::string& path);

/// Digests of the artifacts that may be loaded; a file as `sha256sum` prints: "<64 hex digits>  <name>".
class AllowList {
 public:
  explicit AllowList(std::set<std::string> digests, std::string source = "the allow-list");

  /// Reads a list; empty lines and lines that begin with # are skipped.
  ///
  /// Error: the file cannot be read, or a line is not a digest.
  static Result<AllowList> read(const std::string& path);

  bool contains(const std::string& digest) const;
  const std::string& source() const { return source_; }
  std::size_t size() const { return digests_.size(); }

 private:
  std::set<std::string> digests_;
  std::string source_;
};

}  // namespace aot_perception
