// SPDX-License-Identifier: Apache-2.0
// decode_benchmark FILE: speed of the event path on one core, as benchmarks/decode_events.py measures Python's.
//
// Repeats an EVT 3.0 recording in memory with its time going on, cuts it into packets, and measures CPU time of the
// thread (the machine may be shared): best and median of several runs.
#include <ctime>
#include <fstream>
#include <functional>
#include <iostream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "../src/events/readers.hpp"
#include "aot_perception/event_binning.hpp"
#include "aot_perception/event_decoder.hpp"
#include "aot_perception/event_window.hpp"
#include "reading.hpp"

namespace aot_perception {
namespace {

using Json = nlohmann::ordered_json;
using Words = std::vector<std::uint16_t>;

struct Packets {
  std::vector<Words> copies;         // one for each repeat
  std::vector<EventPacket> packets;  // their payloads lie in the copies
};

Result<Words> read_words(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  const std::string data{std::istreambuf_iterator<char>(file), {}};
  const std::size_t start = parse_prophesee_header(data).size;
  Words words((data.size() - start) / 2);
  std::copy_n(data.data() + start, 2 * words.size(), reinterpret_cast<char*>(words.data()));
  if (words.empty()) return Error{"expected EVT 3.0 words, found none in " + path.string(), ""};
  return words;
}

/// The recording again and again, with the camera's own words and only TIME_HIGH moved on.
Packets repeat(const Words& words, std::size_t repeats, const RecordingInfo& info, std::int64_t packet_us) {
  std::vector<std::int64_t> times;  // of TIME_HIGH words, wraps counted
  std::int64_t wraps = 0, before = -1;
  for (const std::uint16_t word : words) {
    if (word >> 12 != 8) continue;
    const std::int64_t high = word & 0xFFF;
    if (before >= 0 && high - before < -2048) wraps += 4096;
    before = high;
    times.push_back(high + wraps);
  }
  const std::int64_t span = times.empty() ? 1 : times.back() - times.front() + 1;
  const auto n = static_cast<std::size_t>(std::max<std::int64_t>(1, span * 4096 / packet_us));
  Packets result;
  for (std::size_t i = 0; i < repeats; ++i) {
    Words copy = words;
    std::size_t k = 0;
    for (std::uint16_t& word : copy) {
      if (word >> 12 == 8) {
        word = static_cast<std::uint16_t>(0x8000 | ((times[k++] + static_cast<std::int64_t>(i) * span) & 0xFFF));
      }
    }
    result.copies.push_back(std::move(copy));
    const auto* bytes = reinterpret_cast<const std::uint8_t*>(result.copies.back().data());
    for (std::size_t j = 0; j < n; ++j) {
      const std::size_t first = words.size() * j / n, last = words.size() * (j + 1) / n;
      EventPacket packet;
      packet.seq = result.packets.size();
      packet.stamp_ns = static_cast<std::int64_t>(packet.seq) * packet_us * 1000;
      packet.width = static_cast<std::uint32_t>(info.width);
      packet.height = static_cast<std::uint32_t>(info.height);
      packet.encoding = "evt3";
      packet.data = bytes + 2 * first;
      packet.size = 2 * (last - first);
      result.packets.push_back(packet);
    }
  }
  return result;
}

double thread_seconds() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

struct Rate {
  double best = 0, median = 0;  // million events per second of CPU time
};

Rate measure(const std::function<std::size_t()>& work, long runs) {
  work();  // touch the memory
  std::vector<double> rates;
  for (long i = 0; i < runs; ++i) {
    const double start = thread_seconds();
    const auto n = static_cast<double>(work());
    rates.push_back(n / (thread_seconds() - start) / 1e6);
  }
  std::sort(rates.begin(), rates.end());
  return {rates.back(), rates[rates.size() / 2]};
}

std::string one_digit(double value) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.1f", value);
  return text;
}

std::string processor() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string row; std::getline(file, row);) {
    if (row.rfind("model name", 0) == 0) return row.substr(row.find(':') + 2);
  }
  return "unknown processor";
}

Result<void> run(const CommandLine& line) {
  if (line.words().empty()) return Error{"expected an EVT 3.0 .raw file, found none", "give its path; see --help"};
  Result<long> repeats = line.integer("repeats", 1), runs = line.integer("runs", 1);
  Result<long> packet_us = line.integer("packet_us", 1), window_us = line.integer("window_us", 1);
  for (const Result<long>* number : {&repeats, &runs, &packet_us, &window_us}) {
    if (!*number) return number->error();
  }
  Result<ReaderOptions> options = read_reader_options(line);
  if (!options) return options.error();
  auto reader = open_events(line.words()[0], *options);
  if (!reader) return reader.error();
  const RecordingInfo info = (*reader)->info();
  if (info.encoding != "evt3" || info.format != "raw") {
    return Error{
        "expected an EVT 3.0 .raw file, found " + info.format + " " + info.encoding + " in " + info.path.string(),
        "choose another file"};
  }
  Result<Words> words = read_words(info.path);
  if (!words) return words.error();
  const Packets all = repeat(*words, static_cast<std::size_t>(*repeats), info, *packet_us);

  WindowConfig config;
  config.duration_us = *window_us;
  BinningConfig rows;
  rows.sensor_width = info.width;
  rows.sensor_height = info.height;
  rows.bins = static_cast<int>(config.bins());
  const auto binning = EventBinning::create(rows);
  std::vector<float> buffer(4 * static_cast<std::size_t>(*config.max_events));
  const auto decode = [&] {
    auto codec = *make_event_codec("evt3", info.width, info.height);
    std::size_t n = 0;
    for (const EventPacket& packet : all.packets)
      n += codec->decode(packet.data, packet.size).size;
    return n;
  };
  const auto decode_packets = [&] {
    EventDecoder decoder;
    std::size_t n = 0;
    for (const EventPacket& packet : all.packets)
      n += decoder.decode(packet).events.size;
    return n;
  };
  const auto windows = [&](bool tensors) {
    EventDecoder decoder;
    auto windower = *EventWindower::create(config);
    std::size_t n = 0;
    for (const EventPacket& packet : all.packets) {
      const DecodedPacket decoded = decoder.decode(packet);
      n += decoded.events.size;
      for (const EventWindow& window : windower.push(decoded.events, decoded.time_us, decoded.gap)) {
        if (tensors) binning->fill(window.events, window.end_us, buffer.data());
      }
    }
    return n;
  };
  const std::size_t events = decode();
  const double bytes = 2.0 * static_cast<double>(words->size()) * static_cast<double>(*repeats);
  const std::vector<std::pair<std::string, Rate>> rates{
      {"decode", measure(decode, *runs)},
      {"packet decoder", measure(decode_packets, *runs)},
      {"packet decoder + windows", measure([&] { return windows(false); }, *runs)},
      {"packet decoder + windows + tensor", measure([&] { return windows(true); }, *runs)}};
  if (line.has("json")) {
    Json told = {{"processor", processor()},
                 {"file", info.path.filename().string()},
                 {"events", events},
                 {"packets", all.packets.size()},
                 {"bytes_per_event", bytes / static_cast<double>(std::max<std::size_t>(events, 1))},
                 {"window_us", *window_us}};
    for (const auto& [name, rate] : rates)
      told["mev_per_s"][name] = {{"best", rate.best}, {"median", rate.median}};
    std::cout << told.dump(2) << "\n";
    return {};
  }
  std::vector<std::vector<std::string>> table{{"Mev per second of CPU time", "best", "median"}};
  for (const auto& [name, rate] : rates)
    table.push_back({name, one_digit(rate.best), one_digit(rate.median)});
  std::cout << processor() << "\n"
            << info.path.filename().string() << " x " << *repeats << ": " << events << " events in "
            << all.packets.size() << " packets\n"
            << table_text(table);
  return {};
}

}  // namespace
}  // namespace aot_perception

int main(int argc, char** argv) {
  std::vector<aot_perception::Option> options = aot_perception::reader_options();
  options.push_back({"repeats", 1, "100", "how often to repeat the recording"});
  options.push_back({"packet_us", 1, "1000", "length of a packet, microseconds"});
  options.push_back({"window_us", 1, "20000", "length of a window, microseconds"});
  options.push_back({"runs", 1, "5", "how often to measure"});
  options.push_back({"json", 0, "", "print JSON instead of a table"});
  aot_perception::CommandLine line("decode_benchmark FILE [options]",
                                   "Speed of decoding, windows and rows on one core, on an EVT 3.0 .raw file.", options,
                                   1);
  auto done = line.parse(argc, argv);
  if (line.wants_help()) {
    std::cout << line.help_text();
    return 0;
  }
  if (done) done = aot_perception::run(line);
  if (done) return 0;
  std::cerr << "error: " << done.error().message() << "\n";
  return 2;
}
