// SPDX-License-Identifier: Apache-2.0
// Runs the event path on recorded input and writes everything it gives, for comparison with Python
// (test/cpp/test_events.py):
//
//   dump_events stream INPUT OUTPUT [name=value ...]   packets or events through decoder, windows and rows
//   dump_events file RECORDING OUTPUT [name=value ...] a recording through its reader
//
// Input and output are little-endian records that begin with a letter. Input: P = packet, E = events with time and gap
// for the windower, R = reset of the decoder, F = flush of the windower. Output: P = decoded packet, W = window with
// rows, C = counters as text.
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iostream>
#include <iterator>
#include <limits>
#include <map>
#include <string>

#include "aot_perception/event_binning.hpp"
#include "aot_perception/event_decoder.hpp"
#include "aot_perception/event_reader.hpp"
#include "aot_perception/event_window.hpp"

namespace aot_perception {
namespace {

using Settings = std::map<std::string, std::string>;
constexpr std::int64_t kNone = std::numeric_limits<std::int64_t>::min();

std::int64_t number(const Settings& settings, const std::string& name, std::int64_t otherwise) {
  const auto found = settings.find(name);
  return found == settings.end() ? otherwise : std::stoll(found->second);
}

std::string text(const Settings& settings, const std::string& name, const std::string& otherwise) {
  const auto found = settings.find(name);
  return found == settings.end() ? otherwise : found->second;
}

std::optional<std::int64_t> optional_number(const Settings& settings, const std::string& name,
                                            std::optional<std::int64_t> otherwise) {
  if (text(settings, name, "") == "none") return std::nullopt;
  return settings.count(name) == 0 ? otherwise : number(settings, name, 0);
}

class Input {
 public:
  explicit Input(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    bytes_.assign(std::istreambuf_iterator<char>(file), {});
  }
  [[nodiscard]] bool at_end() const { return at_ >= bytes_.size(); }

  template <class T>
  T take() {
    T value;
    std::memcpy(&value, bytes(sizeof(T)), sizeof(T));
    return value;
  }

  const char* bytes(std::size_t n) {
    if (n > bytes_.size() - at_) {
      std::cerr << "error: the input ends inside a record\n";
      std::exit(2);
    }
    at_ += n;
    return bytes_.data() + at_ - n;
  }

 private:
  std::vector<char> bytes_;
  std::size_t at_ = 0;
};

class Output {
 public:
  explicit Output(const std::string& path) : file_(path, std::ios::binary) {}

  template <class T>
  void put(T value) {
    put_array(&value, 1);
  }
  template <class T>
  void put_array(const T* values, std::size_t n) {
    file_.write(reinterpret_cast<const char*>(values), static_cast<std::streamsize>(n * sizeof(T)));
  }
  void put(const EventsView& events) {
    put(static_cast<std::uint64_t>(events.size));
    put_array(events.x, events.size);
    put_array(events.y, events.size);
    put_array(events.t, events.size);
    put_array(events.p, events.size);
  }
  void put_text(const std::string& value) {
    put('C');
    put(static_cast<std::uint64_t>(value.size()));
    put_array(value.data(), value.size());
  }

 private:
  std::ofstream file_;
};

std::string lines(const std::string& prefix, const std::map<std::string, std::int64_t>& values) {
  std::string result;
  for (const auto& [name, value] : values)
    result += prefix + name + " " + std::to_string(value) + "\n";
  return result;
}

class Stream {
 public:
  Stream(Output& output, EventWindower windower, std::optional<EventBinning> binning)
      : output_(output), windower_(std::move(windower)), binning_(std::move(binning)) {}

  void run(Input& input) {
    while (!input.at_end()) {
      switch (input.take<char>()) {
        case 'P':
          packet(input);
          break;
        case 'E': {
          const auto time = input.take<std::int64_t>();
          const bool gap = input.take<std::uint8_t>() != 0;
          const auto n = static_cast<std::size_t>(input.take<std::uint64_t>());
          EventArrays events(n);
          std::memcpy(events.x(), input.bytes(2 * n), 2 * n);
          std::memcpy(events.y(), input.bytes(2 * n), 2 * n);
          std::memcpy(events.t(), input.bytes(8 * n), 8 * n);
          std::memcpy(events.p(), input.bytes(n), n);
          events.resize_within_capacity(n);
          put(windower_.push(events.view(), time == kNone ? std::nullopt : std::optional(time), gap));
          break;
        }
        case 'R':
          decoder_.reset();
          break;
        case 'F':
          put(windower_.flush());
          break;
        default:
          std::cerr << "error: unknown record\n";
          std::exit(2);
      }
    }
    output_.put_text(counters());
  }

 private:
  void packet(Input& input) {
    EventPacket packet;
    packet.stamp_ns = input.take<std::int64_t>();
    packet.width = input.take<std::uint32_t>();
    packet.height = input.take<std::uint32_t>();
    packet.seq = input.take<std::uint64_t>();
    packet.time_base = input.take<std::uint64_t>();
    packet.is_bigendian = input.take<std::uint8_t>() != 0;
    const auto length = input.take<std::uint8_t>();
    packet.encoding.assign(input.bytes(length), length);
    packet.size = input.take<std::uint32_t>();
    packet.data = reinterpret_cast<const std::uint8_t*>(input.bytes(packet.size));
    const DecodedPacket decoded = decoder_.decode(packet);
    output_.put('P');
    output_.put(decoded.time_us.value_or(kNone));
    output_.put<std::uint8_t>(decoded.gap ? 1 : 0);
    output_.put<std::uint8_t>(decoded.reset ? 1 : 0);
    output_.put(decoded.events);
    output_.put(static_cast<std::uint64_t>(decoded.triggers.size()));
    for (const Trigger& trigger : decoded.triggers) {
      output_.put(trigger.t);
      output_.put(trigger.id);
      output_.put(trigger.p);
    }
    put(windower_.push(decoded.events, decoded.time_us, decoded.gap));
  }

  void put(const std::vector<EventWindow>& windows) {
    for (const EventWindow& window : windows) {
      output_.put('W');
      output_.put(window.start_us);
      output_.put(window.end_us);
      output_.put<std::uint8_t>(window.complete ? 1 : 0);
      output_.put(static_cast<std::uint64_t>(window.n_received));
      output_.put(window.events);
      std::vector<float> rows;
      if (binning_) {
        rows.resize(window.events.size * binning_->columns());
        rows.resize(binning_->fill(window.events, window.end_us, rows.data()) * binning_->columns());
      }
      output_.put(static_cast<std::uint64_t>(rows.size()));
      output_.put_array(rows.data(), rows.size());
    }
  }

  std::string counters() {
    const PacketCounters& packets = decoder_.counters();
    const WindowCounters& windows = windower_.counters();
    return lines("packet.", {{"packets", packets.packets},
                             {"bytes", packets.bytes},
                             {"events", packets.events},
                             {"triggers", packets.triggers},
                             {"gaps", packets.gaps},
                             {"resets", packets.resets},
                             {"time_jumps", packets.time_jumps},
                             {"clock_corrections", packets.clock_corrections},
                             {"erc_in", packets.erc_in},
                             {"erc_out", packets.erc_out}}) +
           lines("packet.dropped.", decoder_.dropped()) +
           lines("window.", {{"windows", windows.windows},
                             {"incomplete", windows.incomplete},
                             {"events", windows.events},
                             {"skipped_windows", windows.skipped_windows},
                             {"resets", windows.resets},
                             {"pending", static_cast<std::int64_t>(windower_.pending())}}) +
           lines("window.dropped.", windows.dropped());
  }

  Output& output_;
  EventDecoder decoder_;
  EventWindower windower_;
  std::optional<EventBinning> binning_;
};

Result<void> stream(const std::string& in, const std::string& out, const Settings& settings) {
  WindowConfig config;
  config.mode = text(settings, "mode", config.mode);
  config.duration_us = number(settings, "duration_us", config.duration_us);
  config.stride_us = optional_number(settings, "stride_us", config.stride_us);
  config.count = number(settings, "count", config.count);
  config.count_stride = optional_number(settings, "count_stride", config.count_stride);
  config.max_events = optional_number(settings, "max_events", config.max_events);
  config.thinning = text(settings, "thinning", config.thinning);
  config.seed = static_cast<std::uint64_t>(number(settings, "seed", 42));
  config.max_buffered_events = number(settings, "max_buffered_events", config.max_buffered_events);
  config.max_empty_windows = number(settings, "max_empty_windows", config.max_empty_windows);
  config.max_backstep_us = number(settings, "max_backstep_us", config.max_backstep_us);
  config.lateness_us = number(settings, "lateness_us", config.lateness_us);
  auto windower = EventWindower::create(config);
  if (!windower) return windower.error();
  std::optional<EventBinning> binning;
  if (settings.count("width") != 0) {
    BinningConfig rows;
    rows.sensor_width = static_cast<int>(number(settings, "width", 0));
    rows.sensor_height = static_cast<int>(number(settings, "height", 0));
    rows.model_width = static_cast<int>(number(settings, "model_width", 0));
    rows.model_height = static_cast<int>(number(settings, "model_height", 0));
    rows.bins = static_cast<int>(number(settings, "bins", rows.bins));
    rows.bin_us = number(settings, "bin_us", rows.bin_us);
    rows.rule = text(settings, "rule", rows.rule);
    rows.with_polarity = number(settings, "with_polarity", 1) != 0;
    auto made = EventBinning::create(rows);
    if (!made) return made.error();
    binning = *std::move(made);
  }
  Input input(in);
  Output output(out);
  Stream(output, *std::move(windower), std::move(binning)).run(input);
  return {};
}

Result<void> file(const std::string& in, const std::string& out, const Settings& settings) {
  auto reader = open_events(in);
  if (!reader) return reader.error();
  const auto duration = optional_number(settings, "duration_us", std::nullopt);
  if (auto sought = (*reader)->seek(number(settings, "start_us", 0), duration); !sought) return sought.error();
  EventArrays all;
  while (true) {
    auto events = (*reader)->next(static_cast<std::size_t>(number(settings, "chunk", 1'000'000)));
    if (!events) return events.error();
    if (events->empty()) break;
    all.append(*events);
  }
  Output output(out);
  output.put('P');
  output.put((*reader)->info().t_first_us.value_or(kNone));
  output.put<std::uint8_t>(0);
  output.put<std::uint8_t>(0);
  output.put(all.view());
  output.put(std::uint64_t{0});
  output.put_text(lines("dropped.", (*reader)->stats().dropped) +
                  lines("", {{"width", (*reader)->info().width}, {"height", (*reader)->info().height}}));
  return {};
}

}  // namespace
}  // namespace aot_perception

int main(int argc, char** argv) {
  const std::vector<std::string> words(argv + 1, argv + argc);
  if (words.size() < 3 || (words[0] != "stream" && words[0] != "file")) {
    std::cerr << "usage: dump_events stream|file INPUT OUTPUT [name=value ...]\n";
    return 2;
  }
  aot_perception::Settings settings;
  for (std::size_t i = 3; i < words.size(); ++i) {
    const std::size_t equals = words[i].find('=');
    if (equals != std::string::npos) settings[words[i].substr(0, equals)] = words[i].substr(equals + 1);
  }
  const auto done = words[0] == "stream" ? aot_perception::stream(words[1], words[2], settings)
                                         : aot_perception::file(words[1], words[2], settings);
  if (done) return 0;
  std::cerr << "error: " << done.error().message() << "\n";
  return 2;
}
