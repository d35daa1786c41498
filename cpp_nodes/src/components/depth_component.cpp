// SPDX-License-Identifier: Apache-2.0
// See depth_component.hpp.
#include "depth_component.hpp"

#include <algorithm>
#include <rclcpp_components/register_node_macro.hpp>
#include <utility>

#include "depth_parameters.hpp"
#include "message_making.hpp"
#include "pictures.hpp"
#include "stamps.hpp"
#include "threads.hpp"

namespace aot_perception {
DepthComponent::DepthComponent(const rclcpp::NodeOptions& options) : ImageComponent("depth", options) {
  declare(depth_parameters());
}

// -- lifecycle --------------------------------------------------------------------------------------------------------

Result<void> DepthComponent::configure_family() {
  if (auto checked = check_choices(depth_parameters()); !checked) return checked;
  if (auto loaded = load(); !loaded) return loaded;
  rectified_ = flag_value("rectified");
  const std::string points = text_value("points");
  coloured_ = points == "xyzrgb";
  const bool metric = pipeline_->kind() == "metric";
  const std::string topic = metric ? "depth" : "relative_depth";
  introduce_alone(pipeline_->model(), std::string("images ") +
                                          (pipeline_->keep_aspect() ? "fitted into " : "stretched to ") +
                                          pixels(pipeline_->width(), pipeline_->height()) + " -> " + pipeline_->kind() +
                                          " depth on ~/" + topic);
  prepare_images();
  health().add_details([this] { return details(); });
  depth_ = make_output<sensor_msgs::msg::Image>("~/" + topic);
  camera_info_ = make_output<sensor_msgs::msg::CameraInfo>("~/depth/camera_info");
  depth_image_ = make_output<sensor_msgs::msg::Image>("~/depth_image");
  if (points != "off") {
    if (metric) {
      points_ = make_output<sensor_msgs::msg::PointCloud2>("~/points");
    } else {
      RCLCPP_INFO(get_logger(), "no ~/points: %s depth has no metres", pipeline_->kind().c_str());
    }
  }
  return {};
}

Result<void> DepthComponent::load() {
  const Result<std::string> path = artifact_path("export_dav2_to_pt2");
  if (!path) return path.error();
  const Result<LoadOptions> how = load_options();
  if (!how) return how.error();
  limit_threads(static_cast<int>(int_value("num_threads")));
  ImageDepthOptions options;
  options.device = how->device;
  options.allow_list = how->allow_list;
  options.self_test = false;
  options.output_resolution = text_value("output_resolution");
  options.focal_baseline = number_value("focal_baseline");
  options.max_range = number_value("max_range");
  options.cuda_graph = flag_value("cuda_graph");
  auto opened = ImageDepthPipeline::open(*path, options);
  if (!opened) return opened.error();
  pipeline_ = *std::move(opened);
  return {};
}

Result<void> DepthComponent::activate_family() {
  if (auto tested = pipeline_->self_test(); !tested) return tested;
  const std::int64_t begin = steady_ns();
  const auto warmed = pipeline_->process(cv::Mat::zeros(pipeline_->height(), pipeline_->width(), CV_8UC3));
  if (!warmed) return warmed.error();
  health().set_stall_after(std::max(3.0, 5e-9 * static_cast<double>(steady_ns() - begin)));
  infos_.clear();
  point_maker_ = PointMaker();
  using sensor_msgs::msg::CameraInfo;
  const auto take =
      guarded<CameraInfos::Info>("receive", [this](CameraInfos::Info info) { infos_.add(std::move(info)); });
  // A publisher that latches has perhaps published already.
  info_inputs_ = {create_subscription<CameraInfo>("~/camera_info", image_input_qos(), take, overridable_subscription()),
                  create_subscription<CameraInfo>("~/camera_info", latched_qos(), take, latched_subscription())};
  open_images();
  return {};
}

void DepthComponent::deactivate_family() {
  close_images();
  info_inputs_.clear();
  health().take_back("camera");
}

void DepthComponent::cleanup_family() {
  health().forget_sources();
  depth_.reset();
  depth_image_.reset();
  camera_info_.reset();
  points_.reset();
  pipeline_.reset();
  forget_model();
}

// -- worker's thread --------------------------------------------------------------------------------------------------

Result<void> DepthComponent::process_image(const ImageArrival& item, const cv::Mat& rgb) {
  const auto result = pipeline_->process(rgb);
  if (!result) {
    infer_failed(result.error().message());
    return {};
  }
  for (const std::string& warning : result->warnings)
    warn_throttled(warning.substr(0, warning.find(':')), warning);
  health().passed("infer");
  const auto header = header_of(item);
  if (!header) return header.error();
  const cv::Mat& depth = result->depth;  // one block of memory, row by row
  const auto* values = depth.ptr<float>();
  depth_->publish(float_image(*header, depth.rows, depth.cols, 1, values));
  told_published(item, count_finite(values, depth.total()));
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    sizes_ = pixels(rgb.cols, rgb.rows) + " -> " + pixels(depth.cols, depth.rows);
  }
  if (const auto camera = camera_of(item.stamp_ns, {rgb.cols, rgb.rows})) {
    const bool all_valid = cv::countNonZero(result->valid) == static_cast<int>(depth.total());
    publish_geometry(depth, all_valid, camera->on(result->grid), rgb, *header);
  }
  if (wanted(depth_image_)) {
    depth_image_->publish(picture_image(*header, colour_depth(depth, result->valid, result->kind)));
  }
  return {};
}

std::optional<Camera> DepthComponent::camera_of(std::int64_t stamp_ns, PixelSize image) {
  const auto info = infos_.of(stamp_ns);
  if (info == nullptr) {
    if (wanted(points_) || wanted(camera_info_)) {
      complain("no camera_info yet: neither points nor camera_info are published");
    }
    return std::nullopt;
  }
  const auto camera = camera_from_info(*info, image, rectified_);
  if (!camera) {
    complain("camera_info is of no use: " + camera.error().message());
    return std::nullopt;
  }
  health().take_back("camera");
  return *camera;
}

void DepthComponent::complain(const std::string& text) {
  health().complain("camera", text);
  warn_throttled("camera", text);
}

void DepthComponent::publish_geometry(const cv::Mat& depth, bool all_valid, const Camera& camera, const cv::Mat& rgb,
                                      const std_msgs::msg::Header& header) {
  auto info = std::make_unique<sensor_msgs::msg::CameraInfo>(info_of_camera(camera, {depth.cols, depth.rows}, header));
  camera_info_->publish(std::move(info));
  if (!wanted(points_)) return;
  const auto rows = point_maker_.points(depth, camera, coloured_ ? rgb : cv::Mat());
  if (!rows) {
    complain("no points: " + rows.error().message());
    return;
  }
  std::vector<CloudField> fields = {{"x"}, {"y"}, {"z"}};
  if (coloured_) fields.push_back({"rgb"});
  points_->publish(cloud(header, depth.rows, depth.cols, fields, rows->data(), all_valid));
}

Details DepthComponent::details() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return {{"image -> depth [px]", sizes_.empty() ? "none yet" : sizes_}, {"camera_info", infos_.source()}};
}

}  // namespace aot_perception

RCLCPP_COMPONENTS_REGISTER_NODE(aot_perception::DepthComponent)
