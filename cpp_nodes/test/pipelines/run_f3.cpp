// SPDX-License-Identifier: Apache-2.0
// For tests in Python: F3 with heads on windows of events from files.
//
// On stdin a request: {"f3": F, "depth": F or "", "flow": F or "", "folder": D, "device": "cuda", "cuda_graph": false,
//   "windows": [{"file": F, "n": N, "start_us": t, "end_us": t, "n_received": n, "width": W, "height": H, "want":
//   [...]}]}
// with files of x (uint16), y (uint16), t (int64), p (uint8) one array after the other. On stdout: {"error": "...",
// "warnings": [...], "results": [...]}; arrays as files D/<index>_<name>.bin.
#include <fstream>
#include <iostream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "aot_perception/perception.hpp"

namespace {

using namespace aot_perception;
using nlohmann::json;

EventWindow read_window(const json& told) {
  const std::size_t n = told.at("n");
  auto events = std::make_shared<EventArrays>(n);
  std::ifstream file(told.at("file").get<std::string>(), std::ios::binary);
  const auto read = [&file](void* to, std::size_t bytes) {
    file.read(static_cast<char*>(to), static_cast<std::streamsize>(bytes));
  };
  read(events->x(), 2 * n);
  read(events->y(), 2 * n);
  read(events->t(), 8 * n);
  read(events->p(), n);
  events->resize_within_capacity(n);
  EventWindow window;
  window.start_us = told.at("start_us");
  window.end_us = told.at("end_us");
  window.n_received = told.at("n_received");
  window.events = events->view();
  window.memory = std::move(events);
  return window;
}

json info_of(const Head* head) {
  if (head == nullptr) return nullptr;
  const HeadInfo& info = head->info();
  json told = {{"size", {info.height, info.width}}, {"channels", info.channels}, {"kind", info.kind},
               {"is_metric", info.is_metric()},     {"focal_baseline", nullptr}, {"interval_us", nullptr}};
  if (info.focal_baseline) told["focal_baseline"] = *info.focal_baseline;
  if (info.interval_us) told["interval_us"] = *info.interval_us;
  return told;
}

Result<void> run(const json& request, json& told) {
  PerceptionOptions options;
  options.depth = request.value("depth", "");
  options.flow = request.value("flow", "");
  options.self_test = request.value("self_test", true);
  options.cuda_graph = request.value("cuda_graph", true);
  const Result<Device> device = Device::parse(request.value("device", "cpu"));
  if (!device) return device.error();
  options.device = *device;
  auto pipeline = PerceptionPipeline::open(request.at("f3"), options);
  if (!pipeline) return pipeline.error();
  told["warnings"] = (*pipeline)->warnings();
  told["depth"] = info_of((*pipeline)->depth());
  told["flow"] = info_of((*pipeline)->flow());
  std::vector<PerceptionResult> results;  // kept: none may change when the next window runs
  for (const json& one : request.at("windows")) {
    Wanted wanted;
    for (const std::string name : one.at("want")) {
      wanted.features |= name == "features";
      wanted.depth |= name == "depth";
      wanted.flow |= name == "flow";
    }
    auto result = (*pipeline)->process(read_window(one), one.at("width"), one.at("height"), wanted);
    if (!result) return result.error();
    results.push_back(*std::move(result));
  }
  if (request.value("repeat_self_test", false)) {
    if (Result<void> tested = (*pipeline)->self_test(); !tested) return tested;
  }
  for (std::size_t i = 0; i < results.size(); ++i) {
    const PerceptionResult& result = results[i];
    json item = {{"n_received", result.n_received}, {"n_used", result.n_events_used}, {"warnings", result.warnings}};
    for (const auto& [name, tensor] :
         {std::pair{"features", &result.features}, {"depth", &result.depth}, {"flow", &result.flow}}) {
      if (!*tensor) continue;
      item["shapes"][name] = (*tensor)->shape();
      std::ofstream(request.at("folder").get<std::string>() + "/" + std::to_string(i) + "_" + name + ".bin",
                    std::ios::binary)
          .write(static_cast<const char*>((*tensor)->data()), static_cast<std::streamsize>((*tensor)->bytes()));
    }
    told["results"].push_back(item);
  }
  return {};
}

}  // namespace

int main() {
  const std::string text{std::istreambuf_iterator<char>(std::cin), {}};
  json told = {{"error", ""}, {"results", json::array()}};
  const Result<void> done = run(json::parse(text), told);
  if (!done) told["error"] = done.error().message();
  std::cout << told.dump() << "\n";
  return done ? 0 : 1;
}
