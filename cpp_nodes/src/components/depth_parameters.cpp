// SPDX-License-Identifier: Apache-2.0
// See depth_parameters.hpp.
#include "depth_parameters.hpp"

namespace aot_perception {

const std::vector<Param>& depth_parameters() {
  using rclcpp::ParameterValue;
  static const std::vector<Param> kTable = {
      {"artifact", ParameterValue(""),
       "The model: a .pt2, .onnx or .engine file made by export_dav2_to_pt2 with 3 input channels."},
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
      {"rectified", ParameterValue(true),
       "Whether images are rectified: their points obey P of camera_info, else K and D."},
      {"output_resolution",
       ParameterValue("image"),
       "Size of the depth: that of the image, or the network's.",
       {},
       {"image", "grid"}},
      {"focal_baseline", ParameterValue(0.0), "Pixels * metres that turn disparity into metres; 0: by the artifact.",
       std::pair(0.0, 1000000.0)},
      {"max_range", ParameterValue(0.0), "Metric depth beyond this is invalid [m]; 0: no limit.",
       std::pair(0.0, 1000000.0)},
      {"points", ParameterValue("xyzrgb"), "Cloud of metric depth, while subscribed.", {}, {"off", "xyz", "xyzrgb"}},
      {"frame_id", ParameterValue(""), "Frame of the outputs; empty: that of the images."},
  };
  return kTable;
}

}  // namespace aot_perception
