// SPDX-License-Identifier: Apache-2.0
#include "container.hpp"

namespace aot_perception {

Container container_of(const std::string& path) {
  const auto ends_with = [&](const std::string& suffix) {
    // As Python's Path.suffix: ".onnx" alone is a name without a suffix.
    const std::size_t slash = path.rfind('/');
    const std::size_t name = slash == std::string::npos ? 0 : slash + 1;
    return path.size() > name + suffix.size() && path.compare(path.size() - suffix.size(), suffix.size(), suffix) == 0;
  };
  if (ends_with(".onnx")) return Container::kOnnx;
  if (ends_with(".engine")) return Container::kEngine;
  return Container::kPackage;
}

const char* suffix_of(Container container) {
  return container == Container::kOnnx ? ".onnx" : container == Container::kEngine ? ".engine" : ".pt2";
}

bool runs_on(Container container, const std::string& runtime) {
  switch (container) {
    case Container::kOnnx:
      return runtime == "onnxruntime";
    case Container::kEngine:
      return runtime == "tensorrt" || runtime == "tensorrt_rtx";
    case Container::kPackage:
      break;
  }
  return runtime.empty();
}

ContainerText read_manifest_json(Container container, const std::string& path) {
  switch (container) {
    case Container::kOnnx:
      return read_onnx_manifest(path);
    case Container::kEngine:
      return read_engine_manifest(path);
    case Container::kPackage:
      break;
  }
  return read_package_manifest(path);
}

ContainerText check_bytes(Container container, const std::string& path, const std::optional<std::string>& digest) {
  switch (container) {
    case Container::kOnnx:
      return check_onnx(path);
    case Container::kEngine:
      return check_engine(path, digest);
    case Container::kPackage:
      break;
  }
  return check_package(path);
}

}  // namespace aot_perception
