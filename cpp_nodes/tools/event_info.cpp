// SPDX-License-Identifier: Apache-2.0
// event_info FILE: what one pass over a recording finds, as `events info` of Python tells it.
#include <cmath>
#include <iostream>
#include <map>
#include <nlohmann/json.hpp>

#include "reading.hpp"

namespace aot_perception {
namespace {

using Json = nlohmann::ordered_json;

/// Events per millisecond: mean, p50, p99 and max over all milliseconds, quiet ones included, and the share of those.
Json per_millisecond(const std::map<std::int64_t, std::int64_t>& counts, std::int64_t duration_us) {
  std::vector<std::int64_t> sorted;
  std::int64_t sum = 0;
  for (const auto& [millisecond, count] : counts) {
    sorted.push_back(count);
    sum += count;
  }
  std::sort(sorted.begin(), sorted.end());
  const std::int64_t busy = static_cast<std::int64_t>(sorted.size()), total = std::max(duration_us / 1000 + 1, busy);
  const std::int64_t quiet = total - busy;
  const auto quantile = [&](double share) {  // the smallest count that this share of all milliseconds does not exceed
    const auto place = static_cast<std::int64_t>(std::ceil(share * static_cast<double>(total))) - 1 - quiet;
    return place >= 0 ? static_cast<double>(sorted[static_cast<std::size_t>(place)]) : 0.0;
  };
  return {{"mean", static_cast<double>(sum) / static_cast<double>(total)},
          {"p50", quantile(0.5)},
          {"p99", quantile(0.99)},
          {"max", sorted.empty() ? 0.0 : static_cast<double>(sorted.back())},
          {"quiet_fraction", static_cast<double>(quiet) / static_cast<double>(total)}};
}

Result<Json> summarise(EventReader& reader) {
  const RecordingInfo& info = reader.info();
  std::int64_t n = 0, on = 0, back = 0, newest = 0, previous = 0;
  std::optional<std::int64_t> first;
  std::map<std::int64_t, std::int64_t> counts;
  while (true) {
    Result<EventsView> events = reader.next();
    if (!events) return events.error();
    if (events->empty()) break;
    if (!first) first = newest = previous = events->t[0];
    for (std::size_t i = 0; i < events->size; ++i) {
      const std::int64_t t = events->t[i];
      on += events->p[i] != 0 ? 1 : 0;
      back += t < previous ? 1 : 0;
      previous = t;
      newest = std::max(newest, t);
      const std::int64_t since = t - *first;
      ++counts[since / 1000 - (since % 1000 < 0 ? 1 : 0)];
    }
    n += static_cast<std::int64_t>(events->size);
  }
  Json told = {{"path", info.path.string()},
               {"format", info.format},
               {"encoding", info.encoding},
               {"width", info.width},
               {"height", info.height},
               {"n_events", n},
               {"n_on", on},
               {"n_triggers", reader.stats().triggers},
               {"t_first_us", nullptr},
               {"t_last_us", nullptr},
               {"duration_us", 0},
               {"rate_per_s", 0.0},
               {"per_ms", Json::object()},
               {"time_steps_back", back},
               {"dropped", reader.stats().dropped},
               {"notices", info.notices},
               {"metadata", info.metadata}};
  if (told["dropped"].is_null()) told["dropped"] = Json::object();
  told["metadata"]["geometry_source"] = info.geometry_source;
  if (first) {
    const std::int64_t duration = newest - *first;
    told["t_first_us"] = *first;
    told["t_last_us"] = newest;
    told["duration_us"] = duration;
    told["rate_per_s"] = static_cast<double>(n) / static_cast<double>(std::max<std::int64_t>(duration, 1)) * 1e6;
    told["per_ms"] = per_millisecond(counts, duration);
  }
  return told;
}

std::string fixed(double value, int digits) {
  char text[64];
  std::snprintf(text, sizeof(text), "%.*f", digits, value);
  return text;
}

std::string text_of(const Json& value) {
  return value.is_string() ? value.get<std::string>() : value.dump();
}

std::string table(const Json& told) {
  const double n = std::max(told["n_events"].get<double>(), 1.0), on = told["n_on"].get<double>();
  std::vector<std::vector<std::string>> rows{{"file", text_of(told["path"])},
                                             {"format", text_of(told["format"]) + ", " + text_of(told["encoding"])},
                                             {"sensor", told["width"].dump() + " x " + told["height"].dump() + " (" +
                                                            text_of(told["metadata"]["geometry_source"]) + ")"},
                                             {"events", told["n_events"].dump()}};
  if (!told["t_first_us"].is_null()) {
    const Json& per_ms = told["per_ms"];
    const auto number = [&per_ms](const char* name, int digits) { return fixed(per_ms[name].get<double>(), digits); };
    rows.push_back({"duration", fixed(told["duration_us"].get<double>() / 1e6, 6) + " s"});
    rows.push_back({"sensor time", told["t_first_us"].dump() + " .. " + told["t_last_us"].dump() + " us"});
    rows.push_back({"rate", fixed(told["rate_per_s"].get<double>() / 1e6, 3) + " Mev/s"});
    rows.push_back({"polarity", fixed(100 * on / n, 1) + " % ON"});
    rows.push_back({"events per ms", "mean " + number("mean", 1) + ", p50 " + number("p50", 0) + ", p99 " +
                                         number("p99", 0) + ", max " + number("max", 0) + ", " +
                                         fixed(100 * per_ms["quiet_fraction"].get<double>(), 1) + " % quiet"});
    rows.push_back({"time steps back", told["time_steps_back"].dump()});
  }
  rows.push_back({"triggers", told["n_triggers"].dump()});
  std::string dropped;
  for (const auto& [cause, count] : told["dropped"].items()) {
    dropped += (dropped.empty() ? "" : ", ") + cause + ": " + count.dump();
  }
  rows.push_back({"dropped", dropped.empty() ? "nothing" : dropped});
  for (const auto& [key, value] : told["metadata"].items())
    rows.push_back({key, text_of(value)});
  for (const Json& notice : told["notices"])
    rows.push_back({"note", text_of(notice)});
  return table_text(rows, 2);
}

Result<void> run(const CommandLine& line) {
  if (line.words().empty()) return Error{"expected a recording, found none", "give its path; see --help"};
  Result<ReaderOptions> options = read_reader_options(line);
  if (!options) return options.error();
  Result<double> start = line.seconds("start");
  if (!start) return start.error();
  std::optional<std::int64_t> duration;
  if (line.has("duration")) {
    Result<double> given = line.seconds("duration");
    if (!given) return given.error();
    duration = std::llround(*given * 1e6);
  }
  auto reader = open_events(line.words()[0], *options);
  if (!reader) return reader.error();
  if (Result<void> sought = (*reader)->seek(std::llround(*start * 1e6), duration); !sought) return sought;
  Result<Json> told = summarise(**reader);
  if (!told) return told.error();
  if (line.has("json")) {
    std::cout << told->dump(2, ' ', false, Json::error_handler_t::replace) << "\n";
  } else {
    std::cout << table(*told);
  }
  return {};
}

}  // namespace
}  // namespace aot_perception

int main(int argc, char** argv) {
  std::vector<aot_perception::Option> options = aot_perception::reader_options();
  options.push_back({"start", 1, "0", "skip this many seconds"});
  options.push_back({"duration", 1, "", "read this many seconds"});
  options.push_back({"json", 0, "", "print JSON instead of a table"});
  aot_perception::CommandLine line("event_info FILE [options]",
                                   "What a recording of events holds: .raw (EVT2, EVT2.1, EVT3), or .h5 of M3ED, DSEC "
                                   "or TartanAir.",
                                   options, 1);
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
