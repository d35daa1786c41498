// SPDX-License-Identifier: Apache-2.0
// The `.engine` container: see aot_runtime/backends/engine_file.py.
#include <sys/stat.h>

#include <nlohmann/json.hpp>

#include "aot_perception/files.hpp"
#include "container.hpp"
#include "file_reader.hpp"
#include "python_text.hpp"

namespace aot_perception {
namespace {

constexpr std::size_t kMaxManifest = 16 << 20;
constexpr char kBuild[] = "build it again: build_engine MODEL.onnx -o ";

}  // namespace

std::string engine_manifest_path(const std::string& path) {
  return path + ".json";
}

ContainerText read_engine_manifest(const std::string& path) {
  const std::string beside = engine_manifest_path(path);
  struct stat about = {};
  if (stat(beside.c_str(), &about) != 0) {
    return flawed(Flaw::kNoManifest, "expected the manifest " + beside + ", found no such file",
                  std::string("copy it along with the engine, or ") + kBuild + path);
  }
  const Result<FileReader> file = FileReader::open(beside);
  if (!file) return flawed(Flaw::kUnreadable, file.error().reason, "");
  Result<std::string> data = file->read(0, kMaxManifest + 1);
  if (!data) return flawed(Flaw::kUnreadable, data.error().reason, "");
  if (data->size() > kMaxManifest || !is_utf8(*data)) {
    const std::string why =
        data->size() > kMaxManifest ? "more than " + std::to_string(kMaxManifest) + " bytes" : "other bytes";
    return flawed(Flaw::kNoManifest, "expected a manifest in UTF-8, found " + beside + " unreadable (" + why + ")",
                  kBuild + path);
  }
  ContainerText result;
  result.text = std::move(*data);
  return result;
}

ContainerText check_engine(const std::string& path, const std::optional<std::string>& digest) {
  ContainerText manifest = read_engine_manifest(path);
  if (manifest.flaw != Flaw::kNone) return manifest;
  const auto document = nlohmann::json::parse(manifest.text, nullptr, /*allow_exceptions=*/false);
  if (document.is_discarded()) return {};  // Manifest::from_json tells what is wrong with it
  const bool told = document.is_object() && document.contains("file_sha256") && document["file_sha256"].is_string();
  const std::string expected = told ? document["file_sha256"].get<std::string>() : "";
  if (expected.size() != 64) {
    return flawed(Flaw::kNoManifest,
                  "expected the engine's SHA-256 (file_sha256), found none in " + engine_manifest_path(path),
                  kBuild + path);
  }
  const Result<FileReader> file = FileReader::open(path);
  if (!file) return flawed(Flaw::kUnreadable, file.error().reason, "");
  const Result<std::string> found = digest ? Result<std::string>(*digest) : file->sha256(file->size());
  if (!found) return flawed(Flaw::kUnreadable, found.error().reason, "");
  if (*found != expected) {
    return flawed(Flaw::kDamaged,
                  "expected the engine of SHA-256 " + first_characters(expected, 12) + "..., found " +
                      found->substr(0, 12) + "... (" + std::to_string(file->size()) + " bytes) in " + path,
                  "copy the engine and its .json again, or build it again");
  }
  return {};
}

}  // namespace aot_perception
