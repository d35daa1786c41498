// SPDX-License-Identifier: Apache-2.0
// See pictures.hpp: events, features, depth and flow. Keypoints and tracks are in keypoint_pictures.cpp.
#include "pictures.hpp"

#include <algorithm>
#include <cmath>
#include <opencv2/imgproc.hpp>
#include <vector>

#include "colour_tables.hpp"

namespace aot_perception {
namespace {

cv::Vec3b bgr(std::uint32_t colour) {
  return {static_cast<std::uint8_t>(colour), static_cast<std::uint8_t>(colour >> 8),
          static_cast<std::uint8_t>(colour >> 16)};
}

/// Rows of pixels as float64, what is not finite as 0.
cv::Mat finite_rows(const float* features, int pixels, int channels) {
  cv::Mat rows(pixels, channels, CV_64F);
  const auto count = static_cast<std::size_t>(pixels) * static_cast<std::size_t>(channels);
  auto* row = rows.ptr<double>();
  for (std::size_t i = 0; i < count; ++i)
    row[i] = std::isfinite(features[i]) ? features[i] : 0.0;
  return rows;
}

/// Gives each direction the sign that it had before, or makes its largest entry positive.
void orient(cv::Mat& components, const cv::Mat& before) {
  const bool known = before.size() == components.size();
  for (int i = 0; i < components.rows; ++i) {
    cv::Mat row = components.row(i);
    double reference = 0.0;
    if (known) {
      reference = row.dot(before.row(i));
    } else {
      cv::Point largest;
      cv::minMaxLoc(cv::abs(row), nullptr, nullptr, nullptr, &largest);
      reference = row.at<double>(largest);
    }
    if (reference < 0) row *= -1.0;
  }
}

}  // namespace

cv::Mat event_picture(const std::uint16_t* x, const std::uint16_t* y, const std::uint8_t* p, std::size_t count,
                      int width, int height) {
  cv::Mat picture(height, width, CV_8UC3, cv::Scalar::all(0));
  for (std::size_t i = 0; i < count; ++i) {
    if (x[i] >= width || y[i] >= height) continue;
    picture.at<cv::Vec3b>(y[i], x[i]) = p[i] > 0 ? cv::Vec3b(255, 0, 0) : cv::Vec3b(0, 0, 255);
  }
  return picture;
}

cv::Mat FeaturePainter::paint(const float* features, int height, int width, int channels) {
  const int pixels = height * width;
  cv::Mat rows = finite_rows(features, pixels, channels);
  cv::Mat mean;
  cv::reduce(rows, mean, 0, cv::REDUCE_AVG);
  for (int i = 0; i < pixels; ++i)
    rows.row(i) -= mean;
  cv::Mat covariance;
  cv::mulTransposed(rows, covariance, true, cv::noArray(), 1.0 / std::max(pixels, 1));
  cv::Mat values;
  cv::Mat vectors;  // rows, by falling variance
  cv::eigen(covariance, values, vectors);
  cv::Mat components = vectors.rowRange(0, std::min(3, channels)).clone();
  orient(components, components_);
  components_ = components;

  const cv::Mat projected = rows * components.t();
  const int shown = projected.cols;
  std::vector<double> deviation(static_cast<std::size_t>(shown));
  double low = 0.0;
  double high = 0.0;
  for (int c = 0; c < shown; ++c) {
    cv::Scalar centre;
    cv::Scalar spread;
    cv::meanStdDev(projected.col(c), centre, spread);
    deviation[static_cast<std::size_t>(c)] = spread[0];
    double smallest = 0.0;
    double largest = 0.0;
    cv::minMaxLoc(projected.col(c), &smallest, &largest);
    low = std::min(low, std::max(smallest, -spread[0]));
    high = std::max(high, std::min(largest, spread[0]));
  }
  const double span = high > low ? high - low : 1.0;
  cv::Mat picture(height, width, CV_8UC3, cv::Scalar::all(0));
  auto* out = picture.ptr<std::uint8_t>();
  for (int i = 0; i < pixels; ++i) {
    for (int c = 0; c < shown; ++c) {
      const double limit = deviation[static_cast<std::size_t>(c)];
      const double value = std::clamp(projected.at<double>(i, c), -limit, limit);
      out[3 * i + c] = static_cast<std::uint8_t>(std::clamp((value - low) / span, 0.0, 1.0) * 255.0);
    }
  }
  return picture;
}

cv::Mat colour_depth(const cv::Mat& depth, const cv::Mat& valid, const std::string& kind) {
  const auto& colours = kind == "metric" ? jet_colours() : magma_colours();
  const auto shown = [&](int row, int column) {
    return std::isfinite(depth.at<float>(row, column)) && (valid.empty() || valid.at<std::uint8_t>(row, column) != 0);
  };
  bool any = false;
  float low = 0.0F;
  float high = 0.0F;
  for (int row = 0; row < depth.rows; ++row) {
    for (int column = 0; column < depth.cols; ++column) {
      if (!shown(row, column)) continue;
      const float value = depth.at<float>(row, column);
      low = any ? std::min(low, value) : value;
      high = any ? std::max(high, value) : value;
      any = true;
    }
  }
  cv::Mat picture(depth.size(), CV_8UC3, cv::Scalar::all(0));
  for (int row = 0; row < depth.rows; ++row) {
    for (int column = 0; column < depth.cols; ++column) {
      if (!shown(row, column)) continue;
      const float share = high > low ? (depth.at<float>(row, column) - low) / (high - low) : 0.0F;
      const auto index = std::min<std::size_t>(static_cast<std::size_t>(share * 256.0F), 255);
      picture.at<cv::Vec3b>(row, column) = bgr(colours[index]);
    }
  }
  return picture;
}

cv::Mat colour_flow(const cv::Mat& dx, const cv::Mat& dy, const cv::Mat& valid) {
  cv::Mat x = dx.clone();
  cv::Mat y = dy.clone();
  for (cv::Mat* plane : {&x, &y}) {
    for (int row = 0; row < plane->rows; ++row) {
      for (int column = 0; column < plane->cols; ++column) {
        float& value = plane->at<float>(row, column);
        if (!std::isfinite(value)) value = 0.0F;
      }
    }
  }
  cv::Mat magnitude;
  cv::Mat angle;
  cv::cartToPolar(x, y, magnitude, angle);
  cv::normalize(magnitude, magnitude, 0, 255, cv::NORM_MINMAX);
  cv::Mat hsv(dx.size(), CV_32FC3);
  for (int row = 0; row < hsv.rows; ++row) {
    for (int column = 0; column < hsv.cols; ++column) {
      // In whole steps of two degrees and 1/255, as the official pictures have them.
      const auto hue = static_cast<std::uint8_t>(angle.at<float>(row, column) * 180.0F / static_cast<float>(CV_PI) / 2);
      const auto value = static_cast<std::uint8_t>(magnitude.at<float>(row, column));
      hsv.at<cv::Vec3f>(row, column) = {static_cast<float>(hue) * 2.0F, 1.0F, static_cast<float>(value) / 255.0F};
    }
  }
  cv::Mat colours;
  cv::cvtColor(hsv, colours, cv::COLOR_HSV2BGR);
  cv::Mat picture(dx.size(), CV_8UC3, cv::Scalar::all(0));
  for (int row = 0; row < hsv.rows; ++row) {
    for (int column = 0; column < hsv.cols; ++column) {
      if (valid.at<std::uint8_t>(row, column) == 0) continue;
      const cv::Vec3f colour = colours.at<cv::Vec3f>(row, column) * 255.0F;
      for (int c = 0; c < 3; ++c)
        picture.at<cv::Vec3b>(row, column)[c] = static_cast<std::uint8_t>(colour[c]);
    }
  }
  return picture;
}

}  // namespace aot_perception
