// SPDX-License-Identifier: Apache-2.0
// For tests in Python: loads an artifact, runs it on given tensors, and tells what happened as JSON.
//
//   run_artifact --artifact F... [--device cpu] [--allow-list F] [--no-self-test] [--judge] [--cuda-graph]
//                [--size dim=N]... [--input name=dtype:2,3:FILE]... [--golden] [--output-folder D]
//
// Tensors are files of their bytes. On stdout: {"verdict": {...}, "error": "...", "outputs": {name: {dtype, shape}}};
// with --judge, which loads nothing, "verdicts" has one for each artifact.
#include <cstring>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>

#include "aot_perception/device_memory.hpp"
#include "aot_perception/model.hpp"

namespace {

using namespace aot_perception;

struct Arguments {
  std::vector<std::string> artifacts;
  std::string output_folder;
  LoadOptions options;
  bool judge_only = false;
  bool golden = false;
  std::vector<std::string> inputs;
  std::map<std::string, std::int64_t> sizes;
};

Result<Arguments> parse(int argc, char** argv) {
  Arguments arguments;
  for (int i = 1; i < argc; ++i) {
    const std::string flag = argv[i];
    if (flag == "--judge") {
      arguments.judge_only = true;
      continue;
    }
    if (flag == "--no-self-test") {
      arguments.options.self_test = false;
      continue;
    }
    if (flag == "--golden") {
      arguments.golden = true;
      continue;
    }
    if (flag == "--cuda-graph") {
      arguments.options.cuda_graph = true;
      continue;
    }
    if (i + 1 >= argc) return Error{"expected a value after " + flag, ""};
    const std::string value = argv[++i];
    if (flag == "--artifact") {
      arguments.artifacts.push_back(value);
    } else if (flag == "--device") {
      const Result<Device> device = Device::parse(value);
      if (!device) return device.error();
      arguments.options.device = *device;
    } else if (flag == "--allow-list") {
      Result<AllowList> list = AllowList::read(value);
      if (!list) return list.error();
      arguments.options.allow_list = std::move(*list);
    } else if (flag == "--size") {
      arguments.sizes[value.substr(0, value.find('='))] = std::stoll(value.substr(value.find('=') + 1));
    } else if (flag == "--input") {
      arguments.inputs.push_back(value);
    } else if (flag == "--output-folder") {
      arguments.output_folder = value;
    } else {
      return Error{"expected a known argument, found " + flag, ""};
    }
  }
  arguments.options.graph_sizes = arguments.sizes;
  return arguments;
}

/// "name=dtype:2,3:FILE" into a tensor in host memory.
Result<void> read_input(const std::string& text, Tensors& tensors) {
  const std::size_t equal = text.find('='), first = text.find(':', equal), second = text.find(':', first + 1);
  if (second == std::string::npos) return Error{"expected name=dtype:shape:FILE, found " + text, ""};
  Shape shape;
  std::istringstream sizes(text.substr(first + 1, second - first - 1));
  for (std::string size; std::getline(sizes, size, ',');)
    shape.push_back(std::stoll(size));
  const std::optional<DType> dtype = dtype_of(text.substr(equal + 1, first - equal - 1));
  if (!dtype) return Error{"expected a dtype in " + text, ""};
  Tensor tensor = Tensor::zeros(*dtype, shape);
  std::ifstream file(text.substr(second + 1), std::ios::binary);
  file.read(static_cast<char*>(tensor.data()), static_cast<std::streamsize>(tensor.bytes()));
  if (!file) return Error{"expected " + std::to_string(tensor.bytes()) + " bytes in " + text, ""};
  tensors[text.substr(0, equal)] = tensor;
  return {};
}

nlohmann::json as_json(const Verdict& verdict) {
  return {{"kind", verdict.kind}, {"code", verdict.code}, {"reason", verdict.reason}, {"remedy", verdict.remedy}};
}

Result<void> run(const Arguments& arguments, nlohmann::json& told) {
  if (arguments.artifacts.empty()) return Error{"expected --artifact, found none", ""};
  if (arguments.judge_only) {
    JudgeOptions judging;
    judging.allow_list = arguments.options.allow_list;
    for (const std::string& artifact : arguments.artifacts) {
      told["verdicts"].push_back(as_json(judge(artifact, arguments.options.device, judging)));
    }
    told["verdict"] = told["verdicts"].back();
    return {};
  }
  Verdict verdict;
  const Result<std::unique_ptr<Model>> model = load_model(arguments.artifacts.back(), arguments.options, &verdict);
  told["verdict"] = as_json(verdict);
  if (!model) return model.error();
  Tensors inputs;
  if (arguments.golden) {
    Result<Tensors> golden = (*model)->golden_inputs(arguments.sizes);
    if (!golden) return golden.error();
    inputs = std::move(*golden);
  }
  for (const std::string& text : arguments.inputs) {
    if (Result<void> read = read_input(text, inputs); !read) return read;
  }
  for (auto& item : inputs) {
    Result<Tensor> moved = to_device(item.second, arguments.options.device);
    if (!moved) return moved.error();
    item.second = std::move(*moved);
  }
  const Result<Tensors> outputs = (*model)->run(inputs);
  if (!outputs) return outputs.error();
  for (const auto& [name, output] : *outputs) {
    const Result<Tensor> host = to_host(output);
    if (!host) return host.error();
    told["outputs"][name] = {{"dtype", dtype_name(host->dtype())}, {"shape", host->shape()}};
    std::ofstream(arguments.output_folder + "/" + name + ".bin", std::ios::binary)
        .write(static_cast<const char*>(host->data()), static_cast<std::streamsize>(host->bytes()));
  }
  return {};
}

}  // namespace

int main(int argc, char** argv) {
  nlohmann::json told = {{"error", ""}, {"outputs", nlohmann::json::object()}};
  const Result<Arguments> arguments = parse(argc, argv);
  const Result<void> done = arguments ? run(*arguments, told) : Result<void>(arguments.error());
  if (!done) told["error"] = done.error().message();
  std::cout << told.dump() << "\n";
  return done ? 0 : 1;
}
