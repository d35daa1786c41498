// SPDX-License-Identifier: Apache-2.0
// See aliked_parameters.hpp.
#include "aliked_parameters.hpp"

namespace aot_perception {

const std::vector<Param>& aliked_parameters() {
  using rclcpp::ParameterValue;
  static const std::vector<Param> kTable = {
      {"artifact", ParameterValue(""), "The model: a .pt2, .onnx or .engine file made by export_aliked."},
      {"device", ParameterValue("cpu"), "Where the model runs: cpu, cuda or cuda:N; the artifact must be made for it."},
      {"allow_list", ParameterValue(""),
       "File of SHA-256 digests (as sha256sum prints) that may be loaded; empty: any artifact."},
      {"num_threads", ParameterValue(std::int64_t{0}),
       "Threads of the model on a CPU; 0: as the environment says (OMP_NUM_THREADS).", std::pair(0.0, 256.0)},
      {"cuda_graph", ParameterValue(true), "On CUDA, replay the network as one graph (not with .onnx)."},
      {"image_transport",
       ParameterValue("raw"),
       "Type of the input: Image, or CompressedImage.",
       {},
       {"raw", "compressed"}},
      {"resize",
       ParameterValue("fit"),
       "Images of another size than the artifact's: scaled, or refused.",
       {},
       {"fit", "never"}},
      {"threshold", ParameterValue(0.0), "Keypoints with a peak score up to this are left out.", std::pair(0.0, 0.999)},
      {"max_keypoints", ParameterValue(std::int64_t{0}),
       "Only so many are published, the strongest; 0: the artifact's top_k.", std::pair(0.0, 100000.0)},
      {"track", ParameterValue(false),
       "Match keypoints with those of the image before, while somebody subscribes to tracks."},
      {"min_similarity", ParameterValue(0.75), "Smallest dot product of two descriptors that match.",
       std::pair(-1.0, 1.0)},
      {"ratio", ParameterValue(1.0), "Largest distance to the nearest descriptor over that to the second; 1: any.",
       std::pair(0.01, 1.0)},
      {"max_step", ParameterValue(0.0), "Longest way of a tracked keypoint between two images [px]; 0: no limit.",
       std::pair(0.0, 100000.0)},
      {"frame_id", ParameterValue(""), "Frame of the outputs; empty: that of the images."},
  };
  return kTable;
}

}  // namespace aot_perception
