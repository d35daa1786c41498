// SPDX-License-Identifier: Apache-2.0
// Events in HDF5 files, told apart by content:
//
// | layout    | events                       | time                           |
// |-----------|------------------------------|--------------------------------|
// | m3ed      | /prophesee/CAMERA/{x,y,t,p}  | us                             |
// | dsec      | /events/{x,y,t,p}, /t_offset | us, to which t_offset is added |
// | tartanair | /events/{x,y,t,p}            | ns                             |
#include <algorithm>
#include <array>

#include "hdf5.hpp"
#include "readers.hpp"
#include "words.hpp"

namespace aot_perception {

namespace {

constexpr std::uint64_t kBlock = std::uint64_t{1} << 18;
constexpr std::array<const char*, 4> kColumns{"x", "y", "t", "p"};
enum Column : std::size_t { kX, kY, kT, kP };

class Hdf5Reader final : public EventReader {
 public:
  Result<void> open(const std::filesystem::path& path, const ReaderOptions& options) {
    Result<Hdf5File> file = Hdf5File::open(path);
    if (!file) return file.error();
    file_ = std::move(*file);
    info_.path = path;
    info_.encoding = "evt3";
    if (Result<void> found = detect_layout(options.camera); !found) return found;
    info_.format = "hdf5 " + layout_;
    info_.metadata["layout"] = layout_;
    info_.metadata["camera"] = options.camera;
    if (t_offset_us_ != 0) info_.metadata["t_offset_us"] = std::to_string(t_offset_us_);
    if (info_.geometry_source.empty()) {
      info_.geometry_source = "default of the layout";
      if (options.sensor_size) {
        std::tie(info_.width, info_.height) = *options.sensor_size;
        info_.geometry_source = "parameter";
      } else if (layout_ == "m3ed") {
        info_.notices.push_back("the file has no calib/resolution: 1280x720 is assumed");
      }
    }
    if (info_.width > 2048 || info_.height > 2048) info_.encoding = "mono";  // as Python's readers
    info_.n_events = static_cast<std::int64_t>(n_);
    if (n_ == 0) return {};
    Result<std::int64_t> first = time_at(0), last = time_at(n_ - 1);
    if (!first) return first.error();
    if (!last) return last.error();
    info_.t_first_us = *first;
    info_.t_last_us = *last;
    return {};
  }

 protected:
  Result<void> rewind() override {
    // The first event at or after the start, exact for sorted times.
    std::uint64_t low = 0, high = n_;
    while (low < high) {
      const std::uint64_t middle = low + (high - low) / 2;
      Result<std::int64_t> time = time_at(middle);
      if (!time) return time.error();
      if (*time < start_us()) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    next_ = low;
    return {};
  }

  Result<bool> read_block(EventArrays& out) override {
    const std::uint64_t n = std::min(kBlock, n_ - next_);
    const auto count = static_cast<std::size_t>(n);
    out.reserve(count);
    if (Result<void> read = read_pixels(kX, n, out.x()); !read) return read.error();
    if (Result<void> read = read_pixels(kY, n, out.y()); !read) return read.error();
    if (Result<void> read = read_column(kT, n, H5T_NATIVE_INT64, out.t()); !read) return read.error();
    wide_.resize(count);
    if (Result<void> read = read_column(kP, n, H5T_NATIVE_INT64, wide_.data()); !read) return read.error();
    for (std::size_t i = 0; i < count; ++i) {
      out.t()[i] = to_us(out.t()[i]);
      out.p()[i] = wide_[i] > 0 ? 1 : 0;
    }
    out.resize_within_capacity(count);
    next_ += n;
    return next_ < n_;
  }

  [[nodiscard]] bool is_past(std::int64_t end_us, const EventsView& block) const override {
    return !block.empty() && *std::min_element(block.t, block.t + block.size) >= end_us;
  }

 private:
  Result<void> detect_layout(const std::string& camera) {
    if (file_.is_group("/prophesee")) {
      const std::string group = "/prophesee/" + camera;
      if (file_.is_group(group)) return take_m3ed(group);
      std::string cameras;
      for (const std::string& name : file_.children("/prophesee")) {
        if (file_.is_group("/prophesee/" + name)) cameras += (cameras.empty() ? "'" : ", '") + name + "'";
      }
      if (!cameras.empty()) {
        return Error{"expected camera '" + camera + "', found " + cameras + " under /prophesee in " + where(),
                     "choose one of these cameras"};
      }
    }
    if (!file_.is_group("/davis") && file_.is_group("/events")) return take_events_group();
    return Error{
        "expected events as /prophesee/<camera>/{x,y,t,p} (M3ED) or /events/{x,y,t,p} (DSEC, TartanAir), found " +
            file_.contents() + " in " + where(),
        "convert the file to one of these layouts, or read it with the Python tools"};
  }

  Result<void> take_m3ed(const std::string& group) {
    layout_ = "m3ed";
    std::tie(info_.width, info_.height) = std::pair{1280, 720};
    const Hdf5Handle resolution = file_.dataset(group + "/calib/resolution");
    if (resolution && hdf5_shape(resolution.id()) == std::vector<std::uint64_t>{2}) {
      std::array<double, 2> size{};
      Result<void> read =
          hdf5_read(file_, group + "/calib/resolution", resolution.id(), 0, 2, H5T_NATIVE_DOUBLE, size.data());
      if (!read) return read;
      if (size[0] >= 1 && size[1] >= 1 && size[0] <= 1 << 16 && size[1] <= 1 << 16) {
        std::tie(info_.width, info_.height) = std::pair{static_cast<int>(size[0]), static_cast<int>(size[1])};
        info_.geometry_source = "calib/resolution";
      }
    }
    // The converter of this project moves the time origin, so that ms_map_idx stays short, and says by how much.
    t_offset_us_ = file_.integer_attribute(group, "t_offset_us").value_or(0);
    return open_columns(group);
  }

  Result<void> take_events_group() {
    layout_ = "dsec";
    std::tie(info_.width, info_.height) = std::pair{640, 480};
    if (Result<void> opened = open_columns("/events"); !opened) return opened;
    const Hdf5Handle offset = file_.dataset("/t_offset");
    if (offset) {
      const std::vector<std::uint64_t> shape = hdf5_shape(offset.id());
      if (shape.empty()) {
        if (H5Dread(offset.id(), H5T_NATIVE_INT64, H5S_ALL, H5S_ALL, H5P_DEFAULT, &t_offset_us_) >= 0) return {};
      } else if (shape.size() == 1 && shape[0] >= 1) {
        return hdf5_read(file_, "/t_offset", offset.id(), 0, 1, H5T_NATIVE_INT64, &t_offset_us_);
      }
      return Error{"expected a number in /t_offset, found none in " + where(), "copy or download the file again"};
    }
    Result<bool> nanoseconds = is_in_nanoseconds();
    if (!nanoseconds) return nanoseconds.error();
    if (*nanoseconds) {
      layout_ = "tartanair";
      per_us_ = 1000;
      std::tie(info_.width, info_.height) = std::pair{640, 640};
    } else {
      info_.notices.push_back("no /t_offset: times are taken as they are, in microseconds");
    }
    return {};
  }

  /// By the millisecond index, t[ms_to_idx[k]] being k ms; without one, by the length of the recording.
  Result<bool> is_in_nanoseconds() {
    const Hdf5Handle index = file_.dataset("/ms_to_idx");
    const std::vector<std::uint64_t> shape = index ? hdf5_shape(index.id()) : std::vector<std::uint64_t>{};
    const char kind = index ? hdf5_kind(index.id()) : '?';
    if (n_ == 0) return false;
    if (shape.size() != 1 || (kind != 'i' && kind != 'u')) {
      const Hdf5Handle type(H5Dget_type(columns_[kT].id()), H5Tclose);
      if (H5Tget_size(type.id()) <= 4) return false;
      std::int64_t first = 0, last = 0;
      if (Result<void> read = read_times(0, first); !read) return read.error();
      if (Result<void> read = read_times(n_ - 1, last); !read) return read.error();
      return last - first > 100'000'000'000;
    }
    const std::uint64_t step = std::max<std::uint64_t>(1, shape[0] / 64);
    for (std::uint64_t k = shape[0] == 0 ? 0 : (shape[0] - 1) / step; k > 0; --k) {
      std::int64_t position = 0, time = 0;
      Result<void> read = hdf5_read(file_, "/ms_to_idx", index.id(), k * step, 1, H5T_NATIVE_INT64, &position);
      if (!read) return read.error();
      if (position < 0 || static_cast<std::uint64_t>(position) >= n_) continue;
      if (read = read_times(static_cast<std::uint64_t>(position), time); !read) return read.error();
      return static_cast<double>(time) / static_cast<double>(k * step) > 30'000;
    }
    return false;
  }

  /// Open x, y, t, p of a group, checked: integers, one-dimensional, equally long.
  Result<void> open_columns(const std::string& group) {
    std::string missing;
    for (std::size_t i = 0; i < kColumns.size(); ++i) {
      names_[i] = group + "/" + kColumns[i];
      columns_[i] = file_.dataset(names_[i]);
      if (!columns_[i]) missing += (missing.empty() ? "" : ", ") + std::string(kColumns[i]);
    }
    if (!missing.empty()) {
      return Error{"expected data sets x, y, t, p in " + group + ", found none for " + missing + " in " + where(),
                   "copy or download the file again"};
    }
    const std::vector<std::uint64_t> shape = hdf5_shape(columns_[kT].id());
    for (std::size_t i = 0; i < kColumns.size(); ++i) {
      if (shape.size() != 1 || hdf5_shape(columns_[i].id()) != shape) {
        return Error{"expected x, y, t, p of one equal length in " + group + ", found others in " + where(),
                     "copy or download the file again"};
      }
      const char kind = hdf5_kind(columns_[i].id());
      if (kind != 'i' && kind != 'u' && !(kind == 'b' && i != kT)) {
        return Error{"expected integers in " + names_[i] + ", found another type in " + where(),
                     "convert the file to one of the supported layouts"};
      }
    }
    n_ = shape[0];
    return {};
  }

  [[nodiscard]] std::int64_t to_us(std::int64_t time) const {
    return (per_us_ == 1 ? time : floor_div(time, per_us_)) + t_offset_us_;
  }

  Result<void> read_times(std::uint64_t index, std::int64_t& time) {
    return hdf5_read(file_, names_[kT], columns_[kT].id(), index, 1, H5T_NATIVE_INT64, &time);
  }

  Result<std::int64_t> time_at(std::uint64_t index) {
    std::int64_t time = 0;
    if (Result<void> read = read_times(index, time); !read) return read.error();
    return to_us(time);
  }

  Result<void> read_column(Column column, std::uint64_t n, hid_t type, void* out) {
    // Booleans are an enumeration in HDF5, which converts to integers only through its own base type.
    if (hdf5_kind(columns_[column].id()) != 'b') {
      return hdf5_read(file_, names_[column], columns_[column].id(), next_, n, type, out);
    }
    std::vector<std::int8_t> small(static_cast<std::size_t>(n));
    const Hdf5Handle stored(H5Dget_type(columns_[column].id()), H5Tclose);
    if (H5Tget_size(stored.id()) != 1) {
      return Error{"expected booleans of one byte in " + names_[column] + ", found others in " + where(),
                   "convert the file to one of the supported layouts"};
    }
    Result<void> read = hdf5_read(file_, names_[column], columns_[column].id(), next_, n, stored.id(), small.data());
    auto* wide = static_cast<std::int64_t*>(out);
    for (std::size_t i = 0; read && i < small.size(); ++i)
      wide[i] = small[i];
    return read;
  }

  /// Coordinates as uint16; what does not fit becomes 65535, which is outside every sensor.
  Result<void> read_pixels(Column column, std::uint64_t n, std::uint16_t* out) {
    wide_.resize(static_cast<std::size_t>(n));
    if (Result<void> read = read_column(column, n, H5T_NATIVE_INT64, wide_.data()); !read) return read;
    for (std::size_t i = 0; i < wide_.size(); ++i) {
      out[i] = wide_[i] >= 0 && wide_[i] < 65535 ? static_cast<std::uint16_t>(wide_[i]) : std::uint16_t{65535};
    }
    return {};
  }

  [[nodiscard]] std::string where() const { return file_.path().string(); }

  Hdf5File file_;
  std::string layout_;
  std::int64_t t_offset_us_ = 0;
  std::int64_t per_us_ = 1;
  std::array<std::string, 4> names_;
  std::array<Hdf5Handle, 4> columns_;
  std::uint64_t n_ = 0, next_ = 0;
  std::vector<std::int64_t> wide_;
};

}  // namespace

Result<std::unique_ptr<EventReader>> open_hdf5(const std::filesystem::path& path, const ReaderOptions& options) {
  auto reader = std::make_unique<Hdf5Reader>();
  if (Result<void> opened = reader->open(path, options); !opened) return opened.error();
  return std::unique_ptr<EventReader>(std::move(reader));
}

}  // namespace aot_perception
