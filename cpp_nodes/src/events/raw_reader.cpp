// SPDX-License-Identifier: Apache-2.0
// Prophesee RAW files: a text header, then the sensor's words as they came (EVT2, EVT2.1 or EVT3).
#include <algorithm>
#include <array>
#include <fstream>
#include <map>
#include <system_error>

#include "aot_perception/event_codec.hpp"
#include "readers.hpp"
#include "words.hpp"

namespace aot_perception {

namespace {

constexpr std::size_t kBlockBytes = std::size_t{1} << 20;
constexpr std::size_t kMaxHeader = std::size_t{1} << 20;
// Times step back by a few microseconds only, so a second after the end nothing of the part can follow.
constexpr std::int64_t kAfterEndUs = 1'000'000;

struct Encoding {
  const char* name;
  std::size_t word_bytes;
  int width, height;  // assumed where nothing says the size
};

constexpr Encoding kEvt3{"evt3", 2, 1280, 720};
constexpr Encoding kEvt2{"evt2", 4, 640, 480};
constexpr Encoding kEvt21{"evt21", 8, 1280, 720};

Result<Encoding> encoding_of(const PropheseeHeader& header, const std::filesystem::path& path) {
  if (header.size == 0) {
    return Error{"expected a Prophesee header of lines \"% key value\", found none at the start of " + path.string(),
                 "check that this is a complete RAW file"};
  }
  static const std::map<std::string, Encoding> formats{
      {"EVT3", kEvt3}, {"EVT2", kEvt2}, {"EVT21", kEvt21}, {"EVT2.1", kEvt21}};
  static const std::map<std::string, Encoding> versions{{"3.0", kEvt3}, {"2.0", kEvt2}, {"2.1", kEvt21}};
  const std::string name = header.format_name();
  const auto version_line = header.fields.find("evt");
  const std::string version = version_line == header.fields.end() ? "" : version_line->second;
  const auto& known = name.empty() ? versions : formats;
  const auto found = known.find(name.empty() ? version : name);
  if (found != known.end()) return found->second;
  const std::string what = !name.empty()      ? "format " + name
                           : !version.empty() ? "evt " + version
                                              : "neither a format nor an evt line";
  return Error{"expected EVT2, EVT2.1 or EVT3, found " + what + " in the header of " + path.string(),
               "convert the file with the camera vendor's tools"};
}

std::string size_text(std::pair<int, int> size) {
  return std::to_string(size.first) + "x" + std::to_string(size.second);
}

/// Which 32-bit half of the 64-bit words carries type, time and row more probably: there every word is of a known type
/// and time words come in order; the other half is a mask, whose top bits are arbitrary.
int detect_evt21_half(const std::vector<std::uint8_t>& block, std::size_t n_bytes) {
  const std::size_t n = std::min<std::size_t>(n_bytes / 8, 65536);
  std::array<double, 2> scores{};
  for (std::size_t half = 0; half < 2; ++half) {
    std::size_t valid = 0, highs = 0, ordered = 0;
    std::uint32_t before = 0;
    for (std::size_t i = 0; i < n; ++i) {
      const auto word = load_word<std::uint32_t>(block.data(), 2 * i + half);
      const std::uint32_t kind = word >> 28;
      valid += kind <= 1 || kind == 8 || kind == 0xA || kind == 0xE || kind == 0xF ? 1 : 0;
      if (kind != 8) continue;
      const std::uint32_t high = word & 0xFFFFFFF;
      ordered += highs > 0 && high >= before ? 1 : 0;
      before = high;
      ++highs;
    }
    scores[half] = static_cast<double>(valid) / static_cast<double>(std::max<std::size_t>(n, 1));
    if (highs > 1) scores[half] += static_cast<double>(ordered) / static_cast<double>(highs - 1);
  }
  return scores[1] > scores[0] ? 1 : 0;
}

class RawReader final : public EventReader {
 public:
  RawReader() : block_(kBlockBytes) {}

  Result<void> open(const std::filesystem::path& path, const ReaderOptions& options) {
    info_.path = path;
    info_.format = "raw";
    file_.open(path, std::ios::binary);
    std::string head(kMaxHeader, '\0');
    file_.read(head.data(), static_cast<std::streamsize>(head.size()));
    head.resize(static_cast<std::size_t>(file_.gcount()));
    const PropheseeHeader header = parse_prophesee_header(head);
    Result<Encoding> encoding = encoding_of(header, path);
    if (!encoding) return encoding.error();
    info_.encoding = encoding->name;
    offset_ = header.size;
    std::error_code failed;
    const std::uintmax_t size = std::filesystem::file_size(path, failed);
    const std::size_t data_bytes = failed || size < offset_ ? 0 : static_cast<std::size_t>(size) - offset_;
    total_ = data_bytes - data_bytes % encoding->word_bytes;
    if (total_ == 0) {
      return Error{"expected " + info_.encoding + " words after the header, found " + std::to_string(data_bytes) +
                       " bytes in " + path.string(),
                   "record or copy the file again"};
    }
    if (total_ != data_bytes) {
      info_.notices.push_back("the last " + std::to_string(data_bytes - total_) +
                              " bytes do not fill a word and are ignored: the file is cut");
    }
    info_.metadata = header.fields;
    choose_size(header, *encoding, options);
    return make_codec(header);
  }

 protected:
  Result<void> rewind() override {
    codec_ = *make_event_codec(info_.encoding, info_.width, info_.height, codec_options_);
    left_ = total_;
    file_.clear();
    file_.seekg(static_cast<std::streamoff>(offset_));
    return {};
  }

  Result<bool> read_block(EventArrays& out) override {
    // Always from the start of the file: the state comes with the words before. A gigabyte takes two seconds.
    while (left_ > 0 && out.empty()) {
      const std::size_t wanted = std::min(left_, kBlockBytes);
      file_.read(reinterpret_cast<char*>(block_.data()), static_cast<std::streamsize>(wanted));
      if (static_cast<std::size_t>(file_.gcount()) != wanted) {
        return Error{"expected " + std::to_string(left_) + " more bytes, found the end of " + info_.path.string(),
                     "the file shrank while it was read: try again when it is complete"};
      }
      left_ -= wanted;
      codec_->decode(block_.data(), wanted, 0, out);
      stats_.triggers = codec_->counters().triggers;
      for (const auto& [cause, count] : codec_->dropped()) {
        if (count > 0) stats_.dropped[cause] = count;
      }
      if (codec_->last_time_us().value_or(0) < start_us() - kAfterEndUs) out.clear();  // long before the part
    }
    return left_ > 0;
  }

  [[nodiscard]] bool is_past(std::int64_t end_us, const EventsView& /*block*/) const override {
    return codec_->last_time_us().value_or(0) > end_us + kAfterEndUs;
  }

 private:
  void choose_size(const PropheseeHeader& header, const Encoding& encoding, const ReaderOptions& options) {
    const auto found = header.geometry();
    const auto guess = header.sensor_guess();
    std::pair<int, int> size{encoding.width, encoding.height};
    if (found) {
      size = *found;
      info_.geometry_source = "header";
      if (options.sensor_size && *options.sensor_size != *found) {
        info_.notices.push_back("header says " + size_text(*found) + ", the given " + size_text(*options.sensor_size) +
                                " is ignored");
      }
    } else if (options.sensor_size) {
      size = *options.sensor_size;
      info_.geometry_source = "parameter";
    } else if (guess) {
      size = guess->second;
      info_.geometry_source = "sensor name " + guess->first;
      info_.notices.push_back("the header has no geometry: " + size_text(size) + " follows from " + guess->first);
    } else {
      info_.geometry_source = "default for " + info_.encoding;
      info_.notices.push_back("the header has no geometry: " + size_text(size) + " is assumed for " + info_.encoding +
                              "; give the sensor size if that is wrong");
    }
    info_.width = size.first;
    info_.height = size.second;
  }

  /// Choose evt21's word order, and find the first event.
  Result<void> make_codec(const PropheseeHeader& header) {
    if (info_.encoding == "evt21") {
      const auto options = header.format_options();
      const auto option = options.find("endianness");
      bool type_last = option != options.end() && option->second == "little";
      if (option == options.end() || (option->second != "little" && option->second != "legacy")) {
        file_.clear();
        file_.seekg(static_cast<std::streamoff>(offset_));
        file_.read(reinterpret_cast<char*>(block_.data()), static_cast<std::streamsize>(std::min(total_, kBlockBytes)));
        type_last = detect_evt21_half(block_, static_cast<std::size_t>(file_.gcount())) == 1;
      }
      codec_options_.order = type_last ? "genx320" : "imx636";
      info_.metadata["evt21_order"] = codec_options_.order;
    }
    EventArrays first;
    if (Result<void> begun = rewind(); !begun) return begun;
    while (left_ > 0 && first.empty()) {
      if (Result<bool> read = read_block(first); !read) return read.error();
    }
    if (!first.empty()) info_.t_first_us = first.t()[0];
    return {};
  }

  std::ifstream file_;
  std::size_t offset_ = 0, total_ = 0, left_ = 0;
  std::vector<std::uint8_t> block_;
  CodecOptions codec_options_;
  std::unique_ptr<EventCodec> codec_;
};

}  // namespace

Result<std::unique_ptr<EventReader>> open_raw(const std::filesystem::path& path, const ReaderOptions& options) {
  auto reader = std::make_unique<RawReader>();
  if (Result<void> opened = reader->open(path, options); !opened) return opened.error();
  return std::unique_ptr<EventReader>(std::move(reader));
}

}  // namespace aot_perception
