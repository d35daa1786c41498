// SPDX-License-Identifier: Apache-2.0
// See aliked_component.hpp.
#include "aliked_component.hpp"

#include <algorithm>
#include <cmath>
#include <rclcpp_components/register_node_macro.hpp>
#include <utility>

#include "aliked_parameters.hpp"
#include "message_making.hpp"
#include "pictures.hpp"
#include "stamps.hpp"
#include "threads.hpp"

namespace aot_perception {
namespace {

constexpr std::uint64_t kNoEpoch = ~std::uint64_t{0};

/// Fields of 4 bytes with these names.
std::vector<CloudField> numbers(std::initializer_list<const char*> names,
                                std::uint8_t datatype = sensor_msgs::msg::PointField::FLOAT32) {
  std::vector<CloudField> fields;
  for (const char* name : names)
    fields.push_back({name, datatype, 1});
  return fields;
}

bool all_finite(const std::vector<float>& values) {
  return std::all_of(values.begin(), values.end(), [](float value) { return std::isfinite(value); });
}

}  // namespace

AlikedComponent::AlikedComponent(const rclcpp::NodeOptions& options) : ImageComponent("aliked", options) {
  declare(aliked_parameters());
}

// -- lifecycle --------------------------------------------------------------------------------------------------------

Result<void> AlikedComponent::configure_family() {
  if (auto checked = check_choices(aliked_parameters()); !checked) return checked;
  if (auto loaded = load(); !loaded) return loaded;
  tracking_ = flag_value("track");
  tracker_ = std::make_unique<Tracker>(number_value("min_similarity"), number_value("ratio"), number_value("max_step"));
  const auto most = static_cast<int>(int_value("max_keypoints"));
  introduce_alone(pipeline_->model(), "images of " + pixels(pipeline_->width(), pipeline_->height()) + " -> up to " +
                                          std::to_string(most > 0 ? most : pipeline_->top_k()) +
                                          " keypoints with descriptors of " +
                                          std::to_string(pipeline_->descriptor_dim()) + " on ~/keypoints");
  prepare_images();
  health().add_details([this] {
    const std::lock_guard<std::mutex> lock(mutex_);
    return seen_;
  });
  keypoints_ = make_output<sensor_msgs::msg::PointCloud2>("~/keypoints");
  image_keypoints_ = make_output<sensor_msgs::msg::Image>("~/image_keypoints");
  if (tracking_) {
    tracks_ = make_output<sensor_msgs::msg::PointCloud2>("~/tracks");
    image_tracks_ = make_output<sensor_msgs::msg::Image>("~/image_tracks");
  }
  return {};
}

Result<void> AlikedComponent::load() {
  const Result<std::string> path = artifact_path("export_aliked");
  if (!path) return path.error();
  const Result<LoadOptions> how = load_options();
  if (!how) return how.error();
  limit_threads(static_cast<int>(int_value("num_threads")));
  AlikedOptions options;
  options.device = how->device;
  options.allow_list = how->allow_list;
  options.self_test = false;
  options.threshold = number_value("threshold");
  options.max_keypoints = static_cast<int>(int_value("max_keypoints"));
  options.resize = text_value("resize") == "fit";
  options.cuda_graph = flag_value("cuda_graph");
  auto opened = AlikedPipeline::open(*path, options);
  if (!opened) return opened.error();
  pipeline_ = *std::move(opened);
  return {};
}

Result<void> AlikedComponent::activate_family() {
  if (auto tested = pipeline_->self_test(); !tested) return tested;
  const std::int64_t begin = steady_ns();
  const auto warmed = pipeline_->process(cv::Mat::zeros(pipeline_->height(), pipeline_->width(), CV_8UC3));
  if (!warmed) return warmed.error();
  health().set_stall_after(std::max(3.0, 5e-9 * static_cast<double>(steady_ns() - begin)));
  tracker_->reset();
  tracked_epoch_ = kNoEpoch;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    seen_ = {{"image -> network [px]", "none yet"}};
  }
  open_images();
  return {};
}

void AlikedComponent::cleanup_family() {
  health().forget_sources();
  keypoints_.reset();
  tracks_.reset();
  image_keypoints_.reset();
  image_tracks_.reset();
  pipeline_.reset();
  forget_model();
}

// -- worker's thread --------------------------------------------------------------------------------------------------

Result<void> AlikedComponent::process_image(const ImageArrival& item, const cv::Mat& rgb) {
  const auto result = pipeline_->process(rgb);
  if (!result) {
    // An image that the pipeline cannot place is malformed; anything else is the network's failure.
    Placement placement;
    if (!pipeline_->place(rgb, placement)) return result.error();
    infer_failed(result.error().message());
    return {};
  }
  for (const std::string& warning : result->warnings)
    warn_throttled(warning.substr(0, warning.find(':')), warning);
  health().passed("infer");
  const auto header = header_of(item);
  if (!header) return header.error();
  publish_keypoints(item, *result, *header);
  Details seen = {
      {"image -> network [px]", pixels(rgb.cols, rgb.rows) + " -> " + pixels(pipeline_->width(), pipeline_->height())},
      {"keypoints", std::to_string(result->size())}};
  if (wanted(image_keypoints_)) {
    const cv::Mat picture = keypoints_picture(rgb, result->keypoints.data(), result->scores.data(), result->size());
    image_keypoints_->publish(picture_image(*header, picture));
  }
  if (tracking_) seen.emplace_back("tracks", track(item, rgb, *result, *header));
  const std::lock_guard<std::mutex> lock(mutex_);
  seen_ = std::move(seen);
  return {};
}

void AlikedComponent::publish_keypoints(const ImageArrival& item, const AlikedResult& result,
                                        const std_msgs::msg::Header& header) {
  const auto dim = static_cast<std::size_t>(result.descriptor_dim);
  std::vector<float> rows;
  rows.reserve(result.size() * (3 + dim));
  for (std::size_t i = 0; i < result.size(); ++i) {
    rows.insert(rows.end(), {result.keypoints[2 * i], result.keypoints[2 * i + 1], result.scores[i]});
    const auto descriptor = result.descriptors.begin() + static_cast<std::ptrdiff_t>(i * dim);
    rows.insert(rows.end(), descriptor, descriptor + static_cast<std::ptrdiff_t>(dim));
  }
  auto fields = numbers({"x", "y", "score"});
  fields.push_back({"descriptor", sensor_msgs::msg::PointField::FLOAT32, static_cast<std::uint32_t>(dim)});
  keypoints_->publish(
      cloud(header, 1, static_cast<int>(result.size()), fields, rows.data(), all_finite(result.keypoints)));
  told_published(item, {result.size(), result.size() + result.not_finite});
}

std::string AlikedComponent::track(const ImageArrival& item, const cv::Mat& rgb, const AlikedResult& result,
                                   const std_msgs::msg::Header& header) {
  if (!wanted(tracks_) && !wanted(image_tracks_)) {
    tracker_->reset();  // the image before would not be the one before
    return "nobody subscribes";
  }
  if (item.epoch != tracked_epoch_) {
    tracker_->reset();
    tracked_epoch_ = item.epoch;
  }
  const std::vector<Track> tracks =
      tracker_->update({result.keypoints, result.descriptors, result.descriptor_dim}, {rgb.cols, rgb.rows});
  if (wanted(tracks_)) {
    auto fields = numbers({"x", "y", "previous_x", "previous_y", "similarity"});
    for (auto& field : numbers({"index", "id", "length"}, sensor_msgs::msg::PointField::UINT32))
      fields.push_back(field);
    tracks_->publish(cloud(header, 1, static_cast<int>(tracks.size()), fields, tracks.data(), true));
  }
  if (wanted(image_tracks_)) {
    std::vector<float> before;
    std::vector<float> now;
    for (const Track& one : tracks) {
      before.insert(before.end(), {one.previous_x, one.previous_y});
      now.insert(now.end(), {one.x, one.y});
    }
    image_tracks_->publish(picture_image(header, tracks_picture(rgb, before.data(), now.data(), tracks.size())));
  }
  return std::to_string(tracks.size());
}

}  // namespace aot_perception

RCLCPP_COMPONENTS_REGISTER_NODE(aot_perception::AlikedComponent)
