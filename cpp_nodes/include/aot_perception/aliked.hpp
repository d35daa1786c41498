// SPDX-License-Identifier: Apache-2.0
// From an image to keypoints in its pixels, as aliked_ros/pipeline.py.
#pragma once

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

/// Keypoints of one image, by falling peak score; fillers and what is not above the threshold are left out.
struct AlikedResult {
  std::vector<float> keypoints;    ///< (N, 2) x and y in pixels of the image; (0, 0) is the centre of its first pixel
  std::vector<float> scores;       ///< (N,) probability at the refined point; not sorted
  std::vector<float> peak_scores;  ///< (N,) probability at the peak; the threshold looks at these
  std::vector<float> descriptors;  ///< (N, descriptor_dim), rows of length 1
  int descriptor_dim = 0;
  std::size_t not_finite = 0;         ///< how many more there would be if the network had given finite numbers
  std::vector<std::string> warnings;  ///< sentences for a log

  std::size_t size() const { return scores.size(); }
};

struct AlikedOptions {
  Device device;
  double threshold = 0.0;  ///< keep points whose peak score is above it, below 1; 0 keeps all real points
  int max_keypoints = 0;   ///< keep only so many, the strongest; 0 keeps all
  bool resize = true;      ///< scale images of another size than the artifact's to fit; false refuses them
  bool cuda_graph = true;  ///< on CUDA, replay the network as one graph, unless it is a `.onnx`
  std::optional<AllowList> allow_list;
  bool self_test = true;
};

/// How an image sits in the artifact's input: scaled from `size` to `inner`, in the upper left corner.
struct Placement {
  PixelSize size;
  PixelSize inner;

  /// The largest image of the same aspect inside `frame`, at least one pixel, rounded to whole pixels.
  static Placement fit(PixelSize size, PixelSize frame);
  /// A keypoint of the artifact's input in pixels of the image. Pixels are areas: edges map to edges.
  void to_image(float& x, float& y) const;
  /// Whether a keypoint of the artifact's input lies on the image and not beyond it.
  bool contains(float x, float y) const;
};

/// Runs an ALIKED artifact on images. Calls of process() wait for each other.
class AlikedPipeline {
 public:
  /// Error: the file may not run here (`verdict` says why) or is not one of ALIKED, or an option is not usable.
  static Result<std::unique_ptr<AlikedPipeline>> open(const std::string& path, const AlikedOptions& options = {},
                                                      Verdict* verdict = nullptr);
  ~AlikedPipeline();

  /// @param image      CV_8UC3 RGB or CV_8UC1 grey, any size.
  /// @param threshold  for this image, instead of the pipeline's.
  /// Error: the image has another type or no pixels, or the network failed.
  Result<AlikedResult> process(const cv::Mat& image, std::optional<double> threshold = {});

  /// Reruns the golden. Error: the artifact computes something else than when it was exported.
  Result<void> self_test() { return model_->self_test(); }

  /// The artifact's input CV_8UC3 for an image, and where in it the image sits.
  Result<cv::Mat> place(const cv::Mat& image, Placement& placement) const;

  int width() const { return frame_.width; }  ///< of the image that the artifact takes, pixels
  int height() const { return frame_.height; }
  int top_k() const { return top_k_; }  ///< most keypoints of an image
  int descriptor_dim() const { return descriptor_dim_; }
  const Model& model() const { return *model_; }

 private:
  AlikedPipeline(std::unique_ptr<Model> model, const AlikedOptions& options);
  Result<void> read_manifest();
  Result<Tensors> run_network(const cv::Mat& canvas);
  /// The keypoints that are kept, in pixels of the image, of outputs in host memory.
  AlikedResult select(const Tensors& outputs, const Placement& placement, double limit) const;

  std::unique_ptr<Model> model_;
  AlikedOptions options_;
  PixelSize frame_;
  int top_k_ = 0;
  int descriptor_dim_ = 0;
  std::mutex mutex_;
  Tensor staging_;
  Tensor input_;
};

}  // namespace aot_perception
