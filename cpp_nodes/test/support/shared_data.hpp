// SPDX-License-Identifier: Apache-2.0
// Where the tests' reference data lie.
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <string>

namespace aot_perception::testing {

/// The folder of reference data: $AOT_PERCEPTION_SHARED, else ../shared beside the repository.
inline std::filesystem::path shared_folder() {
  const char* given = std::getenv("AOT_PERCEPTION_SHARED");
  if (given != nullptr && *given != '\0') return given;
  return std::filesystem::path(AOT_PERCEPTION_SOURCE_DIR) / ".." / "shared";
}

/// A file of the repository, as test/data/verdict_cases.json.
inline std::filesystem::path repository_file(const std::string& path) {
  return std::filesystem::path(AOT_PERCEPTION_SOURCE_DIR) / path;
}

/// Whether this runs where everything has to be there.
inline bool in_ci() {
  const char* ci = std::getenv("CI");
  return ci != nullptr && std::string(ci) == "true";
}

}  // namespace aot_perception::testing

/// In a test: skip where a file is absent, but fail in CI.
#define AOT_PERCEPTION_NEEDS(path)                                            \
  do {                                                                        \
    if (!std::filesystem::exists(path)) {                                     \
      if (aot_perception::testing::in_ci()) FAIL() << (path) << " is absent"; \
      GTEST_SKIP() << (path) << " is absent; set AOT_PERCEPTION_SHARED";      \
    }                                                                         \
  } while (false)
