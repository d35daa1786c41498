// SPDX-License-Identifier: Apache-2.0
// A build without TensorRT; the verdict says so before a file gets here.
#include "runner.hpp"

namespace aot_perception {

std::string tensorrt_version() {
  return "";
}
std::string tensorrt_name() {
  return "tensorrt";
}

OpenedRunner open_engine(const std::string& path, const Manifest& manifest, const Device& /*device*/,
                         Verdict* /*verdict*/) {
  return Error{"expected " + manifest.target.runtime + " to run " + path + ", found a build without it",
               "install it with its headers (NvInfer.h) and build aot_perception_cpp again"};
}

}  // namespace aot_perception
