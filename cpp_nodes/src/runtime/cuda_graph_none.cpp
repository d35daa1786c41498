// SPDX-License-Identifier: Apache-2.0
// A build without CUDA's headers cannot capture CUDA graphs.
#include "runner.hpp"

namespace aot_perception {

OpenedRunner capture_graph(std::unique_ptr<Runner>& /*runner*/, const Device& /*device*/,
                           std::vector<Tensor> /*inputs*/) {
  return Error{"expected a build with CUDA graphs, found one without CUDA's headers",
               "install CUDA's headers (a toolkit, or pip install nvidia-cuda-runtime nvidia-cuda-crt) and build "
               "aot_perception_cpp again, or set cuda_graph to "
               "false"};
}

}  // namespace aot_perception
