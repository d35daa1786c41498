// SPDX-License-Identifier: Apache-2.0
// For tests in Python: runs a pipeline of images on pixels from files.
//
// On stdin a request: {"pipeline": "depth" | "aliked", "artifact": F, "folder": D, "options": {...},
//   "images": [{"file": F, "height": H, "width": W, "channels": C}]}
// On stdout: {"error": "...", "results": [...]}; arrays as files D/<index>_<name>.bin.
#include <fstream>
#include <iostream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>

#include "aot_perception/aliked.hpp"
#include "aot_perception/image_depth.hpp"
#include "tracker.hpp"

namespace {

using namespace aot_perception;
using nlohmann::json;

cv::Mat read_image(const json& told) {
  cv::Mat image(told.at("height").get<int>(), told.at("width").get<int>(),
                told.at("channels").get<int>() == 3 ? CV_8UC3 : CV_8UC1);
  std::ifstream(told.at("file").get<std::string>(), std::ios::binary)
      .read(reinterpret_cast<char*>(image.data), static_cast<std::streamsize>(image.total() * image.elemSize()));
  return image;
}

class Files {
 public:
  Files(std::string folder, std::size_t index) : start_(std::move(folder) + "/" + std::to_string(index) + "_") {}

  void write(const std::string& name, const void* data, std::size_t bytes) const {
    std::ofstream(start_ + name + ".bin", std::ios::binary)
        .write(static_cast<const char*>(data), static_cast<std::streamsize>(bytes));
  }
  template <class T>
  void write(const std::string& name, const std::vector<T>& values) const {
    write(name, values.data(), values.size() * sizeof(T));
  }
  void write(const std::string& name, const cv::Mat& mat) const { write(name, mat.data, mat.total() * mat.elemSize()); }

 private:
  std::string start_;
};

Result<void> run_depth(const json& request, json& told) {
  const json& given = request.at("options");
  ImageDepthOptions options;
  options.output_resolution = given.value("output_resolution", "image");
  options.focal_baseline = given.value("focal_baseline", 0.0);
  options.max_range = given.value("max_range", 0.0);
  const auto pipeline = ImageDepthPipeline::open(request.at("artifact"), options);
  if (!pipeline) return pipeline.error();
  for (std::size_t i = 0; i < request.at("images").size(); ++i) {
    std::optional<std::array<double, 9>> camera;
    if (given.contains("camera")) camera = given["camera"].get<std::array<double, 9>>();
    const Files files(request.at("folder"), i);
    const cv::Mat image = read_image(request["images"][i]);
    ImageLayout layout;
    const Result<Tensor> prepared = (*pipeline)->prepare(image, layout);
    if (!prepared) return prepared.error();
    files.write("input", prepared->data(), prepared->bytes());
    const Result<DepthResult> result = (*pipeline)->process(image, camera);
    if (!result) return result.error();
    files.write("depth", result->depth);
    files.write("valid", result->valid);
    const PixelMap& grid = result->grid;
    json item = {{"kind", result->kind},
                 {"shape", {result->depth.rows, result->depth.cols}},
                 {"grid", {grid.scale_x, grid.scale_y, grid.shift_x, grid.shift_y}},
                 {"warnings", result->warnings}};
    if (result->camera_matrix) item["camera_matrix"] = *result->camera_matrix;
    told["results"].push_back(item);
  }
  return {};
}

Result<void> run_aliked(const json& request, json& told) {
  const json& given = request.at("options");
  AlikedOptions options;
  options.threshold = given.value("threshold", 0.0);
  options.max_keypoints = given.value("max_keypoints", 0);
  options.resize = given.value("resize", true);
  const auto pipeline = AlikedPipeline::open(request.at("artifact"), options);
  if (!pipeline) return pipeline.error();
  Tracker tracker(given.value("min_similarity", 0.75), given.value("ratio", 1.0), given.value("max_step", 0.0));
  for (std::size_t i = 0; i < request.at("images").size(); ++i) {
    const Files files(request.at("folder"), i);
    const cv::Mat image = read_image(request["images"][i]);
    Placement placement;
    const Result<cv::Mat> canvas = (*pipeline)->place(image, placement);
    if (!canvas) return canvas.error();
    files.write("canvas", canvas->clone());
    const Result<AlikedResult> result = (*pipeline)->process(image);
    if (!result) return result.error();
    files.write("keypoints", result->keypoints);
    files.write("scores", result->scores);
    files.write("peak_scores", result->peak_scores);
    files.write("descriptors", result->descriptors);
    files.write("tracks", tracker.update({result->keypoints, result->descriptors, result->descriptor_dim},
                                         {image.cols, image.rows}));
    told["results"].push_back(
        {{"count", result->size()}, {"not_finite", result->not_finite}, {"warnings", result->warnings}});
  }
  return {};
}

}  // namespace

int main() {
  const std::string text{std::istreambuf_iterator<char>(std::cin), {}};
  const json request = json::parse(text);
  json told = {{"error", ""}, {"results", json::array()}};
  const Result<void> done = request.at("pipeline") == "depth" ? run_depth(request, told) : run_aliked(request, told);
  if (!done) told["error"] = done.error().message();
  std::cout << told.dump() << "\n";
  return done ? 0 : 1;
}
