// SPDX-License-Identifier: Apache-2.0
// Arrays of numpy's .npz archives (one-dimensional, little endian), and event truths made of them.
#pragma once

#include <gtest/gtest.h>
#include <zip.h>

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include "aot_perception/events.hpp"

namespace aot_perception::testing {

/// The elements of one array; a test failure if it is absent or of another type.
template <class T>
std::vector<T> read_npz(const std::filesystem::path& path, const std::string& name, const std::string& type) {
  int failed = 0;
  zip_t* archive = zip_open(path.c_str(), ZIP_RDONLY, &failed);
  if (archive == nullptr) {
    ADD_FAILURE() << "cannot open " << path;
    return {};
  }
  zip_stat_t entry;
  std::string bytes;
  if (zip_stat(archive, (name + ".npy").c_str(), 0, &entry) == 0) {
    bytes.resize(entry.size);
    zip_file_t* file = zip_fopen_index(archive, entry.index, 0);
    if (zip_fread(file, bytes.data(), entry.size) != static_cast<zip_int64_t>(entry.size)) bytes.clear();
    zip_fclose(file);
  }
  zip_close(archive);
  const std::size_t header = bytes.size() < 10
                                 ? 0
                                 : 10 + static_cast<unsigned char>(bytes[8]) +
                                       (static_cast<std::size_t>(static_cast<unsigned char>(bytes[9])) << 8);
  if (header == 0 || bytes.substr(0, header).find("'descr': '" + type + "'") == std::string::npos) {
    ADD_FAILURE() << "no array " << name << " of type " << type << " in " << path;
    return {};
  }
  std::vector<T> values((bytes.size() - header) / sizeof(T));
  std::memcpy(values.data(), bytes.data() + header, values.size() * sizeof(T));
  return values;
}

/// Events of a truth file.
inline EventArrays read_truth(const std::filesystem::path& path) {
  const auto x = read_npz<std::uint16_t>(path, "x", "<u2"), y = read_npz<std::uint16_t>(path, "y", "<u2");
  const auto t = read_npz<std::int64_t>(path, "t", "<i8");
  const auto p = read_npz<std::uint8_t>(path, "p", "|u1");
  EventArrays events;
  if (x.size() == t.size() && y.size() == t.size() && p.size() == t.size()) {
    events.append({x.data(), y.data(), t.data(), p.data(), t.size()});
  }
  return events;
}

}  // namespace aot_perception::testing
