// SPDX-License-Identifier: Apache-2.0
#include "result_pictures.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <opencv2/core.hpp>
#include <opencv2/imgcodecs.hpp>
#include <opencv2/imgproc.hpp>
#include <system_error>

#include "aot_perception/event_binning.hpp"
#include "pictures.hpp"

namespace aot_perception {
namespace {

/// Where events fell on the model's frame, before any thinning.
Result<cv::Mat> events_plot(const F3Pipeline& f3, const EventWindow& window, int sensor_width, int sensor_height) {
  BinningConfig config;
  config.sensor_width = sensor_width;
  config.sensor_height = sensor_height;
  config.model_width = f3.width();
  config.model_height = f3.height();
  config.bins = f3.bins();
  config.bin_us = f3.bin_us();
  const auto binning = EventBinning::create(config);
  if (!binning) return binning.error();
  std::vector<float> rows(4 * window.events.size);
  const std::size_t n = binning->fill(window.events, window.end_us, rows.data());
  std::vector<std::uint16_t> x(n), y(n);
  std::vector<std::uint8_t> p(n);
  for (std::size_t i = 0; i < n; ++i) {
    x[i] = static_cast<std::uint16_t>(std::nearbyint(rows[4 * i] * static_cast<float>(f3.width())));
    y[i] = static_cast<std::uint16_t>(std::nearbyint(rows[4 * i + 1] * static_cast<float>(f3.height())));
    p[i] = rows[4 * i + 3] > 0 ? 1 : 0;
  }
  return event_picture(x.data(), y.data(), p.data(), n, f3.width(), f3.height());
}

/// From the smallest value (black) to the largest (white); NaN is black.
cv::Mat grey(const float* values, int height, int width) {
  const std::size_t n = static_cast<std::size_t>(height) * static_cast<std::size_t>(width);
  float low = std::numeric_limits<float>::infinity(), high = -low;
  for (std::size_t i = 0; i < n; ++i) {
    if (std::isnan(values[i])) continue;
    low = std::min(low, values[i]);
    high = std::max(high, values[i]);
  }
  cv::Mat picture(height, width, CV_8UC1, cv::Scalar::all(0));
  if (!(low < high)) return picture;
  for (std::size_t i = 0; i < n; ++i) {
    if (!std::isnan(values[i])) picture.data[i] = static_cast<std::uint8_t>((values[i] - low) / (high - low) * 255);
  }
  return picture;
}

/// A flow picture where there were events, black elsewhere.
cv::Mat overlay(const cv::Mat& picture, const cv::Mat& events) {
  cv::Mat marks(events.size(), CV_8UC1);
  for (int row = 0; row < events.rows; ++row) {
    for (int column = 0; column < events.cols; ++column) {
      const auto& colour = events.at<cv::Vec3b>(row, column);
      marks.at<std::uint8_t>(row, column) = colour[0] != 0 || colour[1] != 0 || colour[2] != 0 ? 255 : 0;
    }
  }
  if (marks.size() != picture.size()) cv::resize(marks, marks, picture.size(), 0, 0, cv::INTER_NEAREST);
  cv::Mat result(picture.size(), CV_8UC3, cv::Scalar::all(0));
  picture.copyTo(result, marks);
  return result;
}

Result<std::vector<std::pair<std::string, cv::Mat>>> paint(const PerceptionPipeline& pipeline,
                                                           const EventWindow& window, int sensor_width,
                                                           int sensor_height, const PerceptionResult& result) {
  std::vector<std::pair<std::string, cv::Mat>> pictures;
  Result<cv::Mat> events = events_plot(pipeline.f3(), window, sensor_width, sensor_height);
  if (!events) return events.error();
  pictures.emplace_back("events_plot", *events);
  if (result.features) {
    const Shape& shape = result.features->shape();
    FeaturePainter painter;
    pictures.emplace_back("f3_feat_pca", painter.paint(result.features->data_as<float>(), static_cast<int>(shape[0]),
                                                       static_cast<int>(shape[1]), static_cast<int>(shape[2])));
  }
  if (result.depth) {
    const Shape& shape = result.depth->shape();
    pictures.emplace_back("depth_colored",
                          grey(result.depth->data_as<float>(), static_cast<int>(shape[0]), static_cast<int>(shape[1])));
  }
  if (result.flow) {
    const Shape& shape = result.flow->shape();
    const int height = static_cast<int>(shape[1]), width = static_cast<int>(shape[2]);
    auto* values = const_cast<float*>(result.flow->data_as<float>());  // OpenCV's views are never const
    const cv::Mat dx(height, width, CV_32FC1, values), dy(height, width, CV_32FC1, values + dx.total());
    const cv::Mat flow = colour_flow(dx, dy, cv::Mat(height, width, CV_8UC1, cv::Scalar::all(255)));
    pictures.emplace_back("flow_viz", flow);
    pictures.emplace_back("flow_viz_overlay", overlay(flow, *events));
  }
  return pictures;
}

}  // namespace

Result<std::vector<std::string>> write_pictures(const std::filesystem::path& folder, const PerceptionPipeline& pipeline,
                                                const EventWindow& window, int sensor_width, int sensor_height,
                                                const PerceptionResult& result) {
  std::string name;
  try {
    const auto pictures = paint(pipeline, window, sensor_width, sensor_height, result);
    if (!pictures) return pictures.error();
    std::error_code failed;
    std::filesystem::create_directories(folder, failed);
    std::vector<std::string> names;
    for (const auto& [title, picture] : *pictures) {
      name = title + ".png";
      if (!cv::imwrite((folder / name).string(), picture)) {
        return Error{"expected to write " + (folder / name).string() + ", found no way to", "choose another --output"};
      }
      names.push_back(name);
    }
    return names;
  } catch (const cv::Exception& error) {
    return Error{"expected to write pictures into " + folder.string() + ", found " + error.what(),
                 "choose another --output"};
  }
}

}  // namespace aot_perception
