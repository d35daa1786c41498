// SPDX-License-Identifier: Apache-2.0
// A build without ONNX Runtime; the verdict says so before a file gets here.
#include "runner.hpp"

namespace aot_perception {

std::string onnxruntime_version() {
  return "";
}

OpenedRunner open_onnx(const std::string& path, const Manifest& /*manifest*/, const Device& /*device*/) {
  return Error{"expected onnxruntime to run " + path + ", found a build without it", this_host().onnxruntime_remedy};
}

}  // namespace aot_perception
