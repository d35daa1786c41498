// SPDX-License-Identifier: Apache-2.0
// A build without OpenCV.
#include "result_pictures.hpp"

namespace aot_perception {

Result<std::vector<std::string>> write_pictures(const std::filesystem::path&, const PerceptionPipeline&,
                                                const EventWindow&, int, int, const PerceptionResult&) {
  return std::vector<std::string>{};
}

}  // namespace aot_perception
