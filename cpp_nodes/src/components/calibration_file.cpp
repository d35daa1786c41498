// SPDX-License-Identifier: Apache-2.0
// Reads a calibration in the YAML form of ROS's camera_calibration.
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <cstdlib>
#include <stdexcept>

#include "camera_messages.hpp"

namespace aot_perception {
namespace {

std::vector<double> numbers(const YAML::Node& told, const std::string& name) {
  return told[name]["data"].as<std::vector<double>>();
}

template <std::size_t N>
std::array<double, N> exactly(const YAML::Node& told, const std::string& name) {
  const std::vector<double> values = numbers(told, name);
  if (values.size() != N) throw std::runtime_error(name + " has " + std::to_string(values.size()) + " numbers");
  std::array<double, N> matrix{};
  std::copy(values.begin(), values.end(), matrix.begin());
  return matrix;
}

std::string path_of(std::string url) {
  if (url.rfind("file://", 0) == 0) url.erase(0, 7);
  const char* home = std::getenv("HOME");
  return home != nullptr && url.rfind("~/", 0) == 0 ? home + url.substr(1) : url;
}

}  // namespace

Result<sensor_msgs::msg::CameraInfo> read_calibration(const std::string& url) {
  const std::string path = path_of(url);
  try {
    const YAML::Node told = YAML::LoadFile(path);
    sensor_msgs::msg::CameraInfo info;
    info.width = told["image_width"].as<std::uint32_t>();
    info.height = told["image_height"].as<std::uint32_t>();
    info.distortion_model = told["distortion_model"] ? told["distortion_model"].as<std::string>() : "plumb_bob";
    info.d = numbers(told, "distortion_coefficients");
    info.k = exactly<9>(told, "camera_matrix");
    info.r = {1, 0, 0, 0, 1, 0, 0, 0, 1};
    if (told["rectification_matrix"]) info.r = exactly<9>(told, "rectification_matrix");
    if (told["projection_matrix"]) info.p = exactly<12>(told, "projection_matrix");
    return info;
  } catch (const std::exception& error) {
    return Error{
        "expected a camera calibration in ROS's YAML form, found something else in " + path + " (" + error.what() + ")",
        "give the file that camera_calibration wrote, as a path or file:// URL, in camera_info_url"};
  }
}

}  // namespace aot_perception
