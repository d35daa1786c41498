// SPDX-License-Identifier: Apache-2.0
// Files shaped as artifacts around a manifest; they can be judged, not loaded.
#pragma once

#include <zip.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace aot_perception::testing {

inline const std::string kMember = "model/data/aotinductor/model/";

/// A `.pt2`: a zip of stored members.
inline void write_zip(const std::filesystem::path& path,
                      const std::vector<std::pair<std::string, std::string>>& members, int method = ZIP_CM_STORE) {
  std::filesystem::remove(path);
  zip_t* archive = zip_open(path.c_str(), ZIP_CREATE, nullptr);
  for (const auto& [name, content] : members) {
    zip_source_t* source = zip_source_buffer(archive, content.data(), content.size(), 0);
    const zip_int64_t index = zip_file_add(archive, name.c_str(), source, 0);
    zip_set_file_compression(archive, static_cast<zip_uint64_t>(index), method, 0);
  }
  zip_close(archive);
  std::filesystem::permissions(path, std::filesystem::perms(0644));
}

inline void write_package(const std::filesystem::path& path, const std::string* manifest) {
  nlohmann::json told = {{"AOTI_DEVICE_KEY", "cpu"}};
  if (manifest != nullptr) told["aot_perception.manifest"] = *manifest;
  std::string library;
  for (int i = 0; i < 256 * 64; ++i)
    library += static_cast<char>(i);
  write_zip(path, {{kMember + "a.wrapper_metadata.json", told.dump()},
                   {kMember + "a.kernel_metadata.json", told.dump()},
                   {kMember + "a.wrapper.so", library}});
}

inline std::string varint(std::size_t value) {
  std::string bytes;
  for (; value > 127; value >>= 7)
    bytes += static_cast<char>((value & 127) | 128);
  return bytes + static_cast<char>(value);
}

inline std::string delimited(unsigned field, const std::string& payload) {
  return varint(field << 3 | 2) + varint(payload.size()) + payload;
}

/// metadata_props of a ModelProto.
inline std::string property(const std::string& key, const std::string& value) {
  return delimited(14, delimited(1, key) + delimited(2, value));
}

}  // namespace aot_perception::testing
