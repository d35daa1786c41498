// SPDX-License-Identifier: Apache-2.0
#include "hdf5.hpp"

#include <algorithm>

namespace aot_perception {

namespace {

constexpr std::size_t kShown = 12;

Error damaged(const std::string& what, const std::filesystem::path& path) {
  return Error{"expected readable HDF5 data, found " + what + " in " + path.string(),
               "copy or download the file again"};
}

std::string shape_text(const std::vector<std::uint64_t>& shape) {
  std::string text = "(";
  for (const std::uint64_t side : shape)
    text += std::to_string(side) + (shape.size() == 1 ? "," : ", ");
  if (shape.size() > 1) text.resize(text.size() - 2);
  return text + ")";
}

struct Visit {
  hid_t file;
  std::vector<std::string> names;
};

herr_t visit(hid_t /*group*/, const char* name, const H5L_info_t* /*info*/, void* data) {
  auto* found = static_cast<Visit*>(data);
  H5O_info_t info;
  if (H5Oget_info_by_name(found->file, name, &info, H5P_DEFAULT) < 0 || info.type != H5O_TYPE_DATASET) return 0;
  const Hdf5Handle set(H5Dopen2(found->file, name, H5P_DEFAULT), H5Dclose);
  if (set) found->names.push_back("/" + std::string(name) + " " + shape_text(hdf5_shape(set.id())));
  return found->names.size() > kShown ? 1 : 0;
}

herr_t collect(hid_t /*group*/, const char* name, const H5L_info_t* /*info*/, void* data) {
  static_cast<std::vector<std::string>*>(data)->emplace_back(name);
  return 0;
}

/// The filter that a data set needs and the library lacks; empty if it has them all.
std::string missing_filter(hid_t dataset) {
  const Hdf5Handle plan(H5Dget_create_plist(dataset), H5Pclose);
  const int n = plan ? H5Pget_nfilters(plan.id()) : 0;
  for (int i = 0; i < n; ++i) {
    unsigned flags = 0, config = 0;
    std::size_t n_values = 0;
    char name[64] = "";
    const H5Z_filter_t filter =
        H5Pget_filter2(plan.id(), static_cast<unsigned>(i), &flags, &n_values, nullptr, sizeof(name), name, &config);
    if (filter >= 0 && H5Zfilter_avail(filter) <= 0) {
      return (name[0] != '\0' ? std::string(name) : "number " + std::to_string(filter));
    }
  }
  return {};
}

}  // namespace

Result<Hdf5File> Hdf5File::open(const std::filesystem::path& path) {
  H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
  register_lzf_filter();
  Hdf5File result;
  result.path_ = path;
  result.file_ = Hdf5Handle(H5Fopen(path.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT), H5Fclose);
  if (!result.file_) {
    return Error{"expected a complete HDF5 file, found one that cannot be opened: " + path.string(),
                 "copy or download the file again"};
  }
  return result;
}

bool Hdf5File::is_group(const std::string& name) const {
  const Hdf5Handle group(H5Gopen2(file_.id(), name.c_str(), H5P_DEFAULT), H5Gclose);
  return static_cast<bool>(group);
}

bool Hdf5File::is_dataset(const std::string& name) const {
  return static_cast<bool>(dataset(name));
}

Hdf5Handle Hdf5File::dataset(const std::string& name) const {
  return Hdf5Handle(H5Dopen2(file_.id(), name.c_str(), H5P_DEFAULT), H5Dclose);
}

std::vector<std::string> Hdf5File::children(const std::string& group) const {
  std::vector<std::string> names;
  const Hdf5Handle opened(H5Gopen2(file_.id(), group.c_str(), H5P_DEFAULT), H5Gclose);
  if (opened) H5Literate(opened.id(), H5_INDEX_NAME, H5_ITER_INC, nullptr, collect, &names);
  return names;
}

std::string Hdf5File::contents() const {
  Visit found{file_.id(), {}};
  H5Lvisit(file_.id(), H5_INDEX_NAME, H5_ITER_INC, visit, &found);
  std::string text;
  for (std::size_t i = 0; i < std::min(found.names.size(), kShown); ++i)
    text += (i > 0 ? ", " : "") + found.names[i];
  if (found.names.size() > kShown) text += ", ...";
  return text.empty() ? "no data sets" : text;
}

std::optional<std::int64_t> Hdf5File::integer_attribute(const std::string& object, const std::string& name) const {
  if (H5Aexists_by_name(file_.id(), object.c_str(), name.c_str(), H5P_DEFAULT) <= 0) return std::nullopt;
  const Hdf5Handle attribute(H5Aopen_by_name(file_.id(), object.c_str(), name.c_str(), H5P_DEFAULT, H5P_DEFAULT),
                             H5Aclose);
  const Hdf5Handle space(attribute ? H5Aget_space(attribute.id()) : -1, H5Sclose);
  std::int64_t value = 0;
  if (!space || H5Sget_simple_extent_npoints(space.id()) != 1 ||
      H5Aread(attribute.id(), H5T_NATIVE_INT64, &value) < 0) {
    return std::nullopt;
  }
  return value;
}

std::vector<std::uint64_t> hdf5_shape(hid_t dataset) {
  const Hdf5Handle space(H5Dget_space(dataset), H5Sclose);
  const int n = space ? H5Sget_simple_extent_ndims(space.id()) : 0;
  std::vector<hsize_t> sides(static_cast<std::size_t>(std::max(n, 0)));
  if (n > 0) H5Sget_simple_extent_dims(space.id(), sides.data(), nullptr);
  return {sides.begin(), sides.end()};
}

char hdf5_kind(hid_t dataset) {
  const Hdf5Handle type(H5Dget_type(dataset), H5Tclose);
  switch (H5Tget_class(type.id())) {
    case H5T_INTEGER:
      return H5Tget_sign(type.id()) == H5T_SGN_NONE ? 'u' : 'i';
    case H5T_FLOAT:
      return 'f';
    case H5T_ENUM:
      return 'b';
    default:
      return '?';
  }
}

Result<void> hdf5_read(const Hdf5File& file, const std::string& name, hid_t dataset, std::uint64_t first,
                       std::uint64_t n, hid_t memory_type, void* out) {
  const hsize_t offset = first, count = n;
  const Hdf5Handle in_file(H5Dget_space(dataset), H5Sclose), in_memory(H5Screate_simple(1, &count, nullptr), H5Sclose);
  if (in_file && in_memory &&
      H5Sselect_hyperslab(in_file.id(), H5S_SELECT_SET, &offset, nullptr, &count, nullptr) >= 0 &&
      H5Dread(dataset, memory_type, in_memory.id(), in_file.id(), H5P_DEFAULT, out) >= 0) {
    return {};
  }
  const std::string filter = missing_filter(dataset);
  if (!filter.empty()) {
    return Error{"expected an HDF5 library with the compression filter " + filter + ", found one without it for " +
                     name + " of " + file.path().string(),
                 "set HDF5_PLUGIN_PATH to a folder with that filter (Python's hdf5plugin brings one: "
                 "python -c 'import hdf5plugin; print(hdf5plugin.PLUGIN_PATH)')"};
  }
  return damaged("an error of the library at elements " + std::to_string(first) + " to " + std::to_string(first + n) +
                     " of " + name,
                 file.path());
}

}  // namespace aot_perception
