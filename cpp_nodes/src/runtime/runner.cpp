// SPDX-License-Identifier: Apache-2.0
#include "runner.hpp"

#include "container.hpp"

namespace aot_perception {

OpenedRunner open_runner(const std::string& path, const Manifest& manifest, const Device& device, Verdict* verdict) {
  switch (container_of(path)) {
    case Container::kOnnx:
      return open_onnx(path, manifest, device);
    case Container::kEngine:
      return open_engine(path, manifest, device, verdict);
    case Container::kPackage:
      break;
  }
  return open_aoti(path, manifest, device);
}

}  // namespace aot_perception
