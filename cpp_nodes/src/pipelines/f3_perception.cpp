// SPDX-License-Identifier: Apache-2.0
#include <c10/core/InferenceMode.h>

#include <tuple>
#include <utility>

#include "aot_perception/device_memory.hpp"
#include "aot_perception/perception.hpp"
#include "network_input.hpp"
#include "runtime/torch_tensor.hpp"

namespace aot_perception {
namespace {

/// An output as the host gets it, float32 in memory of its own: features (H', W', C), depth (H, W), flow (2, H, W).
Result<Tensor> host_copy(const Tensor& tensor, bool is_features) {
  return guarded("an output that can be copied to the host", [&]() -> Result<Tensor> {
    const c10::InferenceMode inference;
    at::Tensor view = as_torch(tensor)[0];
    if (is_features) view = view.permute({1, 0, 2});
    // Permuted and converted on the device, then copied.
    at::Tensor host = view.to(at::kFloat).contiguous().to(at::kCPU);
    if (host.data_ptr() == tensor.data()) host = host.clone();
    return from_torch(std::move(host));
  });
}

}  // namespace

Result<std::unique_ptr<PerceptionPipeline>> PerceptionPipeline::open(const std::string& f3_path,
                                                                     const PerceptionOptions& options,
                                                                     Verdict* verdict) {
  const auto how = [&options](const std::string& path) {
    return load_options(path, options.device, options.allow_list, options.self_test, options.cuda_graph);
  };
  std::unique_ptr<PerceptionPipeline> pipeline(new PerceptionPipeline());
  Result<std::unique_ptr<F3Pipeline>> f3 = F3Pipeline::open(f3_path, how(f3_path), verdict);
  if (!f3) return f3.error();
  pipeline->f3_ = *std::move(f3);
  for (const auto& [path, family, head] :
       {std::tuple{&options.depth, "depth", &pipeline->depth_}, std::tuple{&options.flow, "flow", &pipeline->flow_}}) {
    if (path->empty()) continue;
    Result<std::unique_ptr<Head>> opened = Head::open(*path, family, *pipeline->f3_, how(*path), verdict);
    if (!opened) return opened.error();
    *head = *std::move(opened);
    const std::vector<std::string>& warnings = (*head)->warnings();
    pipeline->warnings_.insert(pipeline->warnings_.end(), warnings.begin(), warnings.end());
  }
  return Result<std::unique_ptr<PerceptionPipeline>>(std::move(pipeline));
}

std::map<std::string, const Model*> PerceptionPipeline::models() const {
  std::map<std::string, const Model*> all{{"f3", &f3_->model()}};
  if (depth_) all["depth"] = &depth_->model();
  if (flow_) all["flow"] = &flow_->model();
  return all;
}

Result<PerceptionResult> PerceptionPipeline::process(const EventWindow& window, int width, int height,
                                                     const Wanted& wanted) {
  Result<F3Rows> rows = f3_->prepare(window, width, height);
  if (!rows) return rows.error();
  PerceptionResult result;
  result.n_received = window.n_received;
  result.n_events_used = rows->n_used;
  result.warnings = std::move(rows->warnings);
  const bool depth = wanted.depth && depth_, flow = wanted.flow && flow_;
  if (!wanted.features && !depth && !flow) return result;

  Result<Tensor> events = f3_->upload(*rows);
  if (!events) return events.error();
  Result<Tensor> features = f3_->run(*events);
  if (!features) return features.error();
  std::map<std::pair<int, int>, Tensor> resized;
  std::vector<std::pair<std::optional<Tensor>*, Tensor>> outputs;
  for (const auto& [runs, head, to] :
       {std::tuple{depth, depth_.get(), &result.depth}, std::tuple{flow, flow_.get(), &result.flow}}) {
    if (!runs) continue;
    const std::pair<int, int> size{head->info().width, head->info().height};
    if (resized.count(size) == 0) {
      Result<Tensor> image = resize_features(*features, size.first, size.second);
      if (!image) return image.error();
      resized[size] = *std::move(image);
    }
    Result<Tensor> output = head->run(resized[size]);
    if (!output) return output.error();
    outputs.emplace_back(to, *std::move(output));
  }
  if (wanted.features) outputs.emplace_back(&result.features, *features);
  for (const auto& [to, tensor] : outputs) {
    Result<Tensor> host = host_copy(tensor, to == &result.features);
    if (!host) return host.error();
    *to = *std::move(host);
  }
  return result;
}

Result<void> PerceptionPipeline::self_test() {
  if (Result<void> tested = f3_->model().self_test(); !tested) return tested;
  for (Head* const head : {depth_.get(), flow_.get()}) {
    if (head == nullptr) continue;
    if (Result<void> tested = head->model().self_test(); !tested) return tested;
  }
  return {};
}

}  // namespace aot_perception
