// SPDX-License-Identifier: Apache-2.0
// From an RGB image to depth, as depth_ros/pipeline.py: the same preprocessing, the same meaning, the same words.
#pragma once

#include <array>
#include <memory>
#include <mutex>
#include <opencv2/core/mat.hpp>
#include <optional>
#include <string>
#include <vector>

#include "aot_perception/camera.hpp"
#include "aot_perception/error.hpp"
#include "aot_perception/files.hpp"
#include "aot_perception/model.hpp"

namespace aot_perception {

/// Depth of one image.
struct DepthResult {
  cv::Mat depth;     ///< (H, W) CV_32FC1; NaN where invalid
  std::string kind;  ///< "metric" (metres along the optical axis), "relative" or "disparity" (larger is nearer)
  cv::Mat valid;     ///< (H, W) CV_8UC1, 255 or 0: a finite number that means a depth
  PixelMap grid;     ///< from the image's pixels to those of `depth`
  std::optional<std::array<double, 9>> camera_matrix;  ///< (3, 3) of the depth's grid, if one was given
  std::vector<std::string> warnings;                   ///< sentences for a log
};

struct ImageDepthOptions {
  Device device;
  /// "image" resizes the depth to the image's size, "grid" leaves it as the network gives it (without padding).
  std::string output_resolution = "image";
  /// Pixels * metres, to turn a disparity artifact's output into metres; 0: as the artifact says.
  double focal_baseline = 0.0;
  /// Metric depth beyond this [m] is invalid; 0: no limit.
  double max_range = 0.0;
  /// On CUDA, replay the network as one graph, unless it is a `.onnx`.
  bool cuda_graph = true;
  std::optional<AllowList> allow_list;
  bool self_test = true;
};

/// Where an image lies on the network's input.
struct ImageLayout {
  PixelSize image;
  PixelSize inner;  ///< of the resized image
  cv::Point offset;

  /// Stretched over the input, or as large as fits into it with its aspect kept to a pixel, and centred.
  static ImageLayout of(PixelSize image, PixelSize network, bool keep_aspect);
};

/// Runs a depth artifact for RGB images. Calls of process() wait for each other.
class ImageDepthPipeline {
 public:
  /// Error: the file may not run here (`verdict` says why), is no depth network for RGB images, or its manifest asks
  /// for preprocessing that is not known here; or an option is not usable.
  static Result<std::unique_ptr<ImageDepthPipeline>> open(const std::string& path,
                                                          const ImageDepthOptions& options = {},
                                                          Verdict* verdict = nullptr);
  ~ImageDepthPipeline();

  /// @param rgb            (h, w) CV_8UC3, RGB.
  /// @param camera_matrix  (3, 3) of the image, row-major.
  /// Error: the image has another type or is empty, or the network failed.
  Result<DepthResult> process(const cv::Mat& rgb, const std::optional<std::array<double, 9>>& camera_matrix = {});

  /// Reruns the golden. Error: the artifact computes something else than when it was exported.
  Result<void> self_test() { return model_->self_test(); }

  /// The network's input (1, 3, H, W) float32 for an image; for tests.
  Result<Tensor> prepare(const cv::Mat& rgb, ImageLayout& layout);

  int width() const { return network_.width; }  ///< of the network's input, pixels
  int height() const { return network_.height; }
  const std::string& kind() const { return kind_; }
  bool keep_aspect() const { return keep_aspect_; }
  const Model& model() const { return *model_; }

 private:
  ImageDepthPipeline(std::unique_ptr<Model> model, const ImageDepthOptions& options);
  Result<void> read_manifest();
  Result<cv::Mat> run_network(const ImageLayout& layout);
  DepthResult interpret(cv::Mat raw) const;

  std::unique_ptr<Model> model_;
  ImageDepthOptions options_;
  PixelSize network_;
  std::string network_kind_;
  std::string kind_;
  bool keep_aspect_ = false;
  std::array<float, 3> gain_{};
  std::array<float, 3> bias_{};
  std::mutex mutex_;
  Tensor staging_;  ///< one buffer for all images, page-locked on CUDA
  Tensor input_;    ///< its copy on the device
  cv::Rect filled_;
};

}  // namespace aot_perception
