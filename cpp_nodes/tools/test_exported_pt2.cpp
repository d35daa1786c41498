// SPDX-License-Identifier: Apache-2.0
// test_exported_pt2: compiled F3, depth and flow on one instant of a recording; pictures and times.
//
// The flags of the official script mean what they mean there; --raw_file, --camera, --sensor_size, --device, --output,
// --json, --cuda_graph and --allow_list are ours. Without a recording the events of F3's self-test are used.
#include <algorithm>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>

#include "aot_perception/files.hpp"
#include "aot_perception/host.hpp"
#include "aot_perception/perception.hpp"
#include "aot_perception/verdict.hpp"
#include "instant.hpp"
#include "reading.hpp"
#include "result_pictures.hpp"
#include "stage_latency.hpp"

namespace aot_perception {
namespace {

using Json = nlohmann::ordered_json;
using Pipeline = std::unique_ptr<PerceptionPipeline>;

void note(const std::string& text) {
  std::cerr << text << "\n";
}

std::string fixed(double value, int digits) {
  char text[64];
  std::snprintf(text, sizeof(text), "%.*f", digits, value);
  return text;
}

Result<Pipeline> load(const CommandLine& line) {
  const std::string path = line.text("f3_pt2_path");
  if (path.empty()) return Error{"expected --f3_pt2_path, found none", "give an artifact of export_f3_to_pt2"};
  std::string device = line.text("device");
  if (device.empty()) {  // what the artifact was made for; what is wrong with it is for the load to say
    const Result<Manifest> manifest = read_manifest(path);
    device = manifest ? manifest->target.device : "cpu";
  }
  Result<Device> parsed = Device::parse(device);
  if (!parsed) return parsed.error();
  PerceptionOptions options;
  options.device = *parsed;
  options.depth = line.text("dav2_pt2_path");
  options.flow = line.text("flowhead_pt2_path");
  options.cuda_graph = line.has("cuda_graph");
  if (options.cuda_graph && !parsed->cuda) {
    return Error{"expected a CUDA device for --cuda_graph, found " + device, "leave the flag out"};
  }
  if (line.has("allow_list")) {
    Result<AllowList> list = AllowList::read(line.text("allow_list"));
    if (!list) return list.error();
    options.allow_list = *std::move(list);
  }
  return PerceptionPipeline::open(path, options);
}

/// The heads must have the sizes that the command line tells; those of a head that is not there do not matter.
Result<void> check_sizes(const CommandLine& line, const PerceptionPipeline& pipeline) {
  for (const auto& [head, flag] : {std::pair{pipeline.depth(), "dav2"}, std::pair{pipeline.flow(), "flow"}}) {
    if (head == nullptr) continue;
    const HeadInfo& info = head->info();
    long wanted[] = {info.height, info.width};
    const char* const sides[] = {"_height", "_width"};
    for (std::size_t i = 0; i < 2; ++i) {
      const std::string name = flag + std::string(sides[i]);
      if (!line.has(name)) continue;
      Result<long> given = line.integer(name, 1);
      if (!given) return given.error();
      wanted[i] = *given;
    }
    if (wanted[0] != info.height || wanted[1] != info.width) {
      return Error{"expected a " + info.family + " head for " + std::to_string(wanted[0]) + "x" +
                       std::to_string(wanted[1]) + " (height x width) as --" + flag + "_height and --" + flag +
                       "_width say, found one for " + std::to_string(info.height) + "x" + std::to_string(info.width) +
                       " in " + head->model().path(),
                   "leave the flags out, or export the head for that size"};
    }
  }
  return {};
}

/// The pictures of one instant. Returns the rows that the networks saw; tells the rest.
Result<F3Rows> run_instant(const CommandLine& line, const std::string& path, PerceptionPipeline& pipeline, Json& told) {
  Result<ReaderOptions> options = read_reader_options(line);
  if (!options) return options.error();
  auto reader = open_events(path, *options);
  if (!reader) return reader.error();
  const RecordingInfo& info = (*reader)->info();
  for (const std::string& text : info.notices)
    note(text);
  Result<long> time_ms = line.integer("time_ms", 0);
  if (!time_ms) return time_ms.error();
  Result<EventWindow> window = instant(**reader, *time_ms, pipeline.f3().window_us());
  if (!window) return window.error();
  if (!window->complete) {
    note("the window " + fixed(static_cast<double>(window->start_us) / 1e3, 0) + " .. " + std::to_string(*time_ms) +
         " ms reaches out of the recording");
  }
  Result<PerceptionResult> result = pipeline.process(*window, info.width, info.height, pipeline.everything());
  if (!result) return result.error();
  for (const std::string& text : result->warnings)
    note(text);
  if (result->n_events_used == 0) {
    return Error{"expected events on the network's " + std::to_string(pipeline.f3().width()) + "x" +
                     std::to_string(pipeline.f3().height()) + " pixels, found " + std::to_string(window->n_received) +
                     " outside of them in " + path,
                 "choose another instant, or an F3 for this sensor"};
  }
  const std::filesystem::path folder = line.text("output");
  auto names = write_pictures(folder, pipeline, *window, info.width, info.height, *result);
  if (!names) return names.error();
  note(std::to_string(*time_ms) + " ms: " + std::to_string(result->n_events_used) + " of " +
       std::to_string(window->n_received) + " events; " +
       (names->empty() ? "built without OpenCV: no pictures"
                       : std::to_string(names->size()) + " pictures are in " + folder.string()));
  told["recording"] = {{"file", path}, {"format", info.format}, {"size", {info.width, info.height}}};
  told["time_ms"] = *time_ms;
  told["events"] = window->n_received;
  told["events_used"] = result->n_events_used;
  told["complete"] = window->complete;
  told["pictures"] = *names;
  return pipeline.f3().prepare(*window, info.width, info.height);
}

/// The events that F3's self-test draws from its seed.
Result<F3Rows> golden_rows(PerceptionPipeline& pipeline) {
  Model& model = pipeline.f3().model();
  Result<Tensors> inputs = model.golden_inputs();
  if (!inputs) return inputs.error();
  F3Rows rows;
  rows.events = inputs->begin()->second;
  rows.n_used = static_cast<std::size_t>(rows.events.shape()[0]);
  note("no recording is given: " + std::to_string(rows.n_used) + " made-up events of the artifact's self-test");
  return rows;
}

Json models_of(const PerceptionPipeline& pipeline) {
  Json models = Json::object();
  for (const auto& [name, model] : pipeline.models()) {
    const Head* const head = name == "depth" ? pipeline.depth() : name == "flow" ? pipeline.flow() : nullptr;
    const F3Pipeline& f3 = pipeline.f3();
    const Manifest& manifest = model->manifest();
    models[name] = {{"file", model->path()},
                    {"model", manifest.family + " " + manifest.variant},
                    {"precision", manifest.precision},
                    {"size",
                     {head == nullptr ? f3.feature_height() : head->info().height,
                      head == nullptr ? f3.feature_width() : head->info().width}},
                    {"random_weights", manifest.checkpoint.is_random()}};
  }
  return models;
}

Result<void> report(const CommandLine& line, const PerceptionPipeline& pipeline, const std::vector<StageTime>& times,
                    Json told, long runs, long warmups) {
  const Host& host = this_host();
  told["environment"] = {{"torch", host.torch}, {"machine", host.machine}, {"cuda", host.cuda}};
  told["device"] = pipeline.f3().model().device().name();
  told["models"] = models_of(pipeline);
  told["results"] = Json::array();
  std::vector<std::vector<std::string>> rows{{"stage", "p50 ms", "p99 ms", "mean ms", "min ms", "max ms"}};
  for (const StageTime& time : times) {
    rows.push_back({time.stage, fixed(time.p50_ms, 3), fixed(time.p99_ms, 3), fixed(time.mean_ms, 3),
                    fixed(time.min_ms, 3), fixed(time.max_ms, 3)});
    told["results"].push_back({{"stage", time.stage},
                               {"mode", line.has("cuda_graph") ? "CUDA graph" : "compiled"},
                               {"timing",
                                {{"runs", runs},
                                 {"warmup_runs", warmups},
                                 {"mean_ms", time.mean_ms},
                                 {"p50_ms", time.p50_ms},
                                 {"p99_ms", time.p99_ms},
                                 {"min_ms", time.min_ms},
                                 {"max_ms", time.max_ms}}}});
  }
  const std::string file = line.text("json");
  if (!file.empty()) {
    const std::string text = told.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
    if (file == "-") {
      std::cout << text;
      return {};
    }
    std::ofstream out(file);
    out << text;
    if (!out.flush()) return Error{"expected to write " + file + ", found no way to", "choose another --json"};
  }
  if (times.empty()) return {};
  std::cout << table_text(rows) << "torch " << host.torch << ", " << told["device"].get<std::string>() << "\n"
            << "Average inference time over " << runs << " runs: " << fixed(times.back().mean_ms, 2) << " ms\n";
  return {};
}

Result<void> run(const CommandLine& line) {
  Result<long> runs = line.integer("runs", 0), warmups = line.integer("warmup_runs", 0);
  if (!runs) return runs.error();
  if (!warmups) return warmups.error();
  std::string recording;
  for (const char* name : {"h5_file", "raw_file", "events"}) {
    if (!line.has(name)) continue;
    if (!recording.empty()) return Error{"expected one recording, found several", "give one of the flags"};
    recording = line.text(name);
  }
  Result<Pipeline> pipeline = load(line);
  if (!pipeline) return pipeline.error();
  if (Result<void> fits = check_sizes(line, **pipeline); !fits) return fits;
  for (const auto& [name, model] : (*pipeline)->models()) {
    const Verdict& verdict = model->verdict();
    if (verdict.random_weights()) note(verdict.reason + "; " + verdict.remedy);
  }
  for (const std::string& text : (*pipeline)->warnings())
    note(text);
  Json told = Json::object();
  Result<F3Rows> rows = recording.empty() ? golden_rows(**pipeline) : run_instant(line, recording, **pipeline, told);
  if (!rows) return rows.error();
  std::vector<StageTime> times;
  if (*runs > 0) {
    Result<std::vector<StageTime>> measured = measure_stages(**pipeline, *rows, *runs, *warmups);
    if (!measured) return measured.error();
    times = *std::move(measured);
  }
  return report(line, **pipeline, times, std::move(told), *runs, *warmups);
}

std::vector<Option> tool_options() {
  std::vector<Option> options{
      {"f3_pt2_path", 1, "", "F3, made by export_f3_to_pt2"},
      {"dav2_pt2_path", 1, "", "depth head, made by export_dav2_to_pt2 (optional)"},
      {"flowhead_pt2_path", 1, "", "flow head, made by export_flowhead_to_pt2 (optional)"},
      {"h5_file", 1, "", "HDF5 recording (M3ED, DSEC, TartanAir)"},
      {"raw_file", 1, "", "Prophesee .raw recording (EVT2, EVT2.1, EVT3)"},
      {"events", 1, "", "either; its first bytes tell"},
      {"time_ms", 1, "30000", "end of the window, in the file's own time [ms]"},
      {"dav2_height", 1, "", "height of the depth head: the artifact's, or an error"},
      {"dav2_width", 1, "", "width of the depth head"},
      {"flow_height", 1, "", "height of the flow head"},
      {"flow_width", 1, "", "width of the flow head"},
      {"runs", 1, "200", "runs to measure, 0 for none"},
      {"warmup_runs", 1, "20", "runs before the clock starts"},
      {"device", 1, "", "cpu, cuda or cuda:N (default: what the F3 artifact was made for)"},
      {"output", 1, ".", "folder for pictures"},
      {"json", 1, "", "write the times here as well ('-': to standard output, instead of the table)"},
      {"cuda_graph", 0, "", "replay the models as CUDA graphs"},
      {"allow_list", 1, "", "file of SHA-256 digests that may be loaded"}};
  const std::vector<Option> reading = reader_options();
  options.insert(options.end(), reading.begin(), reading.end());
  return options;
}

}  // namespace
}  // namespace aot_perception

int main(int argc, char** argv) {
  aot_perception::CommandLine line(
      "test_exported_pt2 --f3_pt2_path FILE [options]",
      "Compiled F3, depth and flow on one instant of a recording: pictures, and what each step costs.",
      aot_perception::tool_options(), 0);
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
