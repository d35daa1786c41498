// SPDX-License-Identifier: Apache-2.0
// The `.pt2` container: see aot_runtime/backends/package.py. Reads the zip; nothing of it is loaded.
#include <zip.h>

#include <cerrno>
#include <cstring>
#include <memory>
#include <nlohmann/json.hpp>
#include <vector>

#include "aot_perception/manifest.hpp"
#include "container.hpp"
#include "file_reader.hpp"

namespace aot_perception {
namespace {

constexpr std::uint64_t kMaxMetadata = 16 << 20;
constexpr std::size_t kChunk = 1 << 20;

struct CloseArchive {
  void operator()(zip_t* archive) const { zip_discard(archive); }
};
struct CloseMember {
  void operator()(zip_file_t* member) const { zip_fclose(member); }
};
using Archive = std::unique_ptr<zip_t, CloseArchive>;
using Member = std::unique_ptr<zip_file_t, CloseMember>;

/// Opens the archive, or says why not.
ContainerText open_archive(const std::string& path, Archive& archive) {
  const Result<FileReader> file = FileReader::open(path);
  if (!file) return flawed(Flaw::kUnreadable, file.error().reason, "");
  std::string why = "an empty file";
  if (file->size() > 0) {
    int code = 0;
    archive.reset(zip_open(path.c_str(), ZIP_RDONLY, &code));
    if (archive != nullptr) return {};
    zip_error_t error;
    zip_error_init_with_code(&error, code);
    why = zip_error_strerror(&error);
    zip_error_fini(&error);
  }
  return flawed(Flaw::kNotAPackage,
                "expected a .pt2 archive, found " + path + " truncated or no archive (" + std::to_string(file->size()) +
                    " bytes; " + why + ")",
                kCopyAgain);
}

std::string name_of(zip_t* archive, zip_uint64_t index) {
  const char* name = zip_get_name(archive, index, ZIP_FL_ENC_RAW);
  return name == nullptr ? "" : name;
}

/// "<anything>/data/aotinductor/model/<name>_metadata.json".
bool is_metadata(const std::string& name) {
  static const std::string folder = "data/aotinductor/model/", ending = "_metadata.json";
  const std::size_t slash = name.rfind('/');
  if (slash == std::string::npos || name.size() - slash - 1 <= ending.size()) return false;
  if (name.compare(name.size() - ending.size(), ending.size(), ending) != 0) return false;
  if (slash + 1 < folder.size()) return false;
  const std::size_t start = slash + 1 - folder.size();
  return name.compare(start, folder.size(), folder) == 0 && (start == 0 || name[start - 1] == '/');
}

/// Reads a member to its end, where its CRC-32 is compared; into `content` unless that is nullptr. "" or what is wrong.
std::string read_member(zip_t* archive, zip_uint64_t index, std::string* content) {
  const Member member(zip_fopen_index(archive, index, 0));
  if (member == nullptr) return zip_strerror(archive);
  std::vector<char> buffer(kChunk);
  while (true) {
    const zip_int64_t count = zip_fread(member.get(), buffer.data(), buffer.size());
    if (count < 0) return zip_file_strerror(member.get());
    if (count == 0) return "";
    if (content == nullptr) continue;
    if (content->size() + static_cast<std::size_t>(count) > kMaxMetadata) return "more bytes than its size says";
    content->append(buffer.data(), static_cast<std::size_t>(count));
  }
}

}  // namespace

ContainerText check_package(const std::string& path) {
  Archive archive;
  ContainerText opened = open_archive(path, archive);
  if (opened.flaw != Flaw::kNone) return opened;
  const zip_int64_t count = zip_get_num_entries(archive.get(), 0);
  for (zip_int64_t i = 0; i < count; ++i) {
    const auto index = static_cast<zip_uint64_t>(i);
    const std::string wrong = read_member(archive.get(), index, nullptr);
    if (!wrong.empty()) {
      return flawed(Flaw::kDamaged,
                    "expected the bytes that the export wrote, found member " + name_of(archive.get(), index) +
                        " changed in " + path + " (" + wrong + ")",
                    kCopyAgain);
    }
  }
  return {};
}

ContainerText read_package_manifest(const std::string& path) {
  Archive archive;
  ContainerText result = open_archive(path, archive);
  if (result.flaw != Flaw::kNone) return result;
  bool has_metadata = false, has_manifest = false;
  const zip_int64_t count = zip_get_num_entries(archive.get(), 0);
  for (zip_int64_t i = 0; i < count; ++i) {
    const auto index = static_cast<zip_uint64_t>(i);
    const std::string name = name_of(archive.get(), index);
    if (!is_metadata(name)) continue;
    has_metadata = true;
    zip_stat_t about;
    zip_stat_init(&about);
    if (zip_stat_index(archive.get(), index, 0, &about) == 0 && about.size > kMaxMetadata) {
      return flawed(Flaw::kDamaged,
                    "expected metadata of at most " + std::to_string(kMaxMetadata) + " bytes, found " +
                        std::to_string(about.size) + " in " + path,
                    kCopyAgain);
    }
    std::string content;
    const std::string wrong = read_member(archive.get(), index, &content);
    const auto data = nlohmann::json::parse(content, nullptr, /*allow_exceptions=*/false);
    if (!wrong.empty() || data.is_discarded()) {
      return flawed(Flaw::kDamaged,
                    "expected JSON metadata, found member " + name + " damaged in " + path + " (" +
                        (wrong.empty() ? "no JSON" : wrong) + ")",
                    kCopyAgain);
    }
    if (!data.is_object()) {
      return flawed(Flaw::kDamaged, "expected a JSON object, found other metadata in " + path, kCopyAgain);
    }
    const auto manifest = data.find(kMetadataKey);
    if (manifest != data.end() && manifest->is_string()) {
      has_manifest = true;
      result.text = manifest->get<std::string>();
    }
  }
  if (!has_metadata) {
    return flawed(Flaw::kNoManifest, "expected an AOTInductor package with a manifest, found no metadata in " + path,
                  kExport);
  }
  if (!has_manifest) {
    return flawed(Flaw::kNoManifest,
                  std::string("expected a manifest (metadata ") + kMetadataKey + "), found none in " + path, kExport);
  }
  return result;
}

}  // namespace aot_perception
