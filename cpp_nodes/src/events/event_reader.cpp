// SPDX-License-Identifier: Apache-2.0
#include "aot_perception/event_reader.hpp"

#include <algorithm>
#include <fstream>
#include <system_error>

#include "readers.hpp"

namespace aot_perception {

namespace {

constexpr std::int64_t kLatestUs = std::int64_t{1} << 53;  // 285 years; no clock counts that far
constexpr std::string_view kHdf5Magic{"\x89HDF\r\n\x1a\n", 8};
constexpr const char* kSupported = "Prophesee .raw, or .h5 in the layout of M3ED, DSEC or TartanAir";

std::string hex(std::string_view bytes) {
  constexpr const char* kDigits = "0123456789abcdef";
  std::string text;
  for (const char c : bytes) {
    const auto byte = static_cast<unsigned char>(c);
    if (!text.empty()) text += ' ';
    text += kDigits[byte >> 4];
    text += kDigits[byte & 15];
  }
  return text;
}

}  // namespace

Result<void> EventReader::seek(std::int64_t start_us, std::optional<std::int64_t> duration_us) {
  if (start_us < 0 || duration_us.value_or(0) < 0) {
    return Error{"expected start_us >= 0 and duration_us >= 0, found " + std::to_string(start_us) + " and " +
                     std::to_string(duration_us.value_or(0)),
                 "count both from the recording's first event"};
  }
  const std::int64_t longest = 4 * kLatestUs;  // so that no sum overflows
  from_first_ = start_us == 0;
  start_ = info_.t_first_us.value_or(0) + std::min(start_us, longest);
  end_.reset();
  if (duration_us) end_ = start_ + std::min(*duration_us, longest);
  stats_ = {};
  block_.clear();
  given_ = 0;
  done_ = !info_.t_first_us;
  started_ = true;
  if (done_) return {};
  return rewind();
}

Result<EventsView> EventReader::next(std::size_t max_events) {
  if (!started_) {
    if (Result<void> begun = seek(0); !begun) return begun.error();
  }
  while (given_ == block_.size() && !done_) {
    block_.clear();
    given_ = 0;
    Result<bool> more = read_block(block_);
    if (!more) {
      done_ = true;
      return more.error();
    }
    done_ = !*more || (end_ && is_past(*end_, block_.view()));
    cut(block_);
  }
  const std::size_t first = given_;
  given_ = std::min(block_.size(), first + std::max<std::size_t>(max_events, 1));
  return block_.view(first, given_);
}

void EventReader::cut(EventArrays& block) {
  std::size_t kept = 0;
  std::int64_t outside = 0, bad_time = 0;
  for (std::size_t i = 0; i < block.size(); ++i) {
    const std::int64_t t = block.t()[i];
    if ((!from_first_ && t < start_) || (end_ && t >= *end_)) continue;
    if (t > kLatestUs || t < -kLatestUs) {
      ++bad_time;
    } else if (block.x()[i] >= info_.width || block.y()[i] >= info_.height) {
      ++outside;
    } else {
      block.x()[kept] = block.x()[i];
      block.y()[kept] = block.y()[i];
      block.t()[kept] = t;
      block.p()[kept] = block.p()[i];
      ++kept;
    }
  }
  block.resize_within_capacity(kept);
  if (outside > 0) stats_.dropped["out_of_sensor"] += outside;
  if (bad_time > 0) stats_.dropped["bad_time"] += bad_time;
}

Result<std::unique_ptr<EventReader>> open_events(const std::filesystem::path& path, const ReaderOptions& options) {
  if (options.sensor_size) {
    const auto [width, height] = *options.sensor_size;
    if (width < 1 || height < 1 || width > 1 << 15 || height > 1 << 15) {
      return Error{"expected a sensor size of 1..32768 pixels a side, found " + std::to_string(width) + "x" +
                       std::to_string(height),
                   "give it as width and height"};
    }
  }
  std::error_code failed;
  if (!std::filesystem::is_regular_file(path, failed)) {
    return Error{"expected a recording (" + std::string(kSupported) + "), found no file at " + path.string(),
                 "check the path; bags are read by the Python tools"};
  }
  std::ifstream file(path, std::ios::binary);
  char first[16];
  file.read(first, sizeof(first));
  const std::string_view head(first, static_cast<std::size_t>(file.gcount()));
  if (head.empty()) {
    return Error{"expected a recording of events, found an empty or unreadable file: " + path.string(),
                 "copy or record it again"};
  }
  if (head.substr(0, kHdf5Magic.size()) == kHdf5Magic) return open_hdf5(path, options);
  if (head[0] == '%') return open_raw(path, options);
  return Error{"expected a recording of events (" + std::string(kSupported) + "), found unknown content (first bytes " +
                   hex(head.substr(0, 8)) + ") in " + path.string(),
               "check that the file is complete and of a supported kind"};
}

}  // namespace aot_perception
