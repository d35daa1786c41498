// SPDX-License-Identifier: Apache-2.0
// The tables that Python and C++ share, and files made from them.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>

#include "aot_perception/host.hpp"
#include "support/scratch.hpp"
#include "support/shared_data.hpp"

namespace aot_perception::testing {

inline std::string file_text(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

inline void write_file(const std::filesystem::path& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
  std::filesystem::permissions(path, std::filesystem::perms(0644));
}

/// test/data/<name>, parsed.
inline nlohmann::json table(const std::string& name) {
  return nlohmann::json::parse(file_text(repository_file("test/data/" + name)));
}

inline Host host_of(const nlohmann::json& data) {
  Host host;
  host.os = data.value("os", "");
  host.machine = data.value("machine", "");
  host.cpu_flags = data.at("cpu_flags").get<std::set<std::string>>();
  host.torch = data.value("torch", "");
  host.cuda = data.value("cuda", "");
  host.compute_capabilities = data.at("compute_capabilities").get<std::vector<std::string>>();
  host.onnxruntime = data.value("onnxruntime", "");
  host.tensorrt = data.value("tensorrt", "");
  host.tensorrt_rtx = data.value("tensorrt_rtx", "");
  return host;
}

/// A manifest that may run on base_host.
inline nlohmann::json plain_manifest() {
  return table("verdict_cases.json").at("base_manifest");
}
inline Host base_host() {
  return host_of(table("verdict_cases.json").at("base_host"));
}

/// Whether `text` has `words`, and what it has instead.
inline ::testing::AssertionResult says(const std::string& text, const std::string& words) {
  if (text.find(words) != std::string::npos) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << "expected \"" << words << "\" in \"" << text << "\"";
}

}  // namespace aot_perception::testing
