// SPDX-License-Identifier: Apache-2.0
#include "resize_cubic.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace aot_perception {
namespace {

constexpr std::size_t kChannels = 3;

/// The four samples of an axis that make one new sample, and their weights.
struct Taps {
  std::array<int, 4> index;
  std::array<float, 4> weight;
};

std::vector<Taps> make_taps(int from, int to) {
  constexpr double a = -0.75;
  const auto near = [](double t) { return ((a + 2) * t - (a + 3)) * t * t + 1; };
  std::vector<Taps> taps(static_cast<std::size_t>(to));
  const double scale = static_cast<double>(from) / to;
  for (int i = 0; i < to; ++i) {
    const double position = (i + 0.5) * scale - 0.5;
    const double whole = std::floor(position), t = position - whole;
    const double first = ((a * (t + 1) - 5 * a) * (t + 1) + 8 * a) * (t + 1) - 4 * a;
    const double second = near(t), third = near(1 - t);
    Taps& tap = taps[static_cast<std::size_t>(i)];
    tap.weight = {static_cast<float>(first), static_cast<float>(second), static_cast<float>(third),
                  static_cast<float>(1 - first - second - third)};
    for (int k = 0; k < 4; ++k) {
      tap.index[static_cast<std::size_t>(k)] = std::clamp(static_cast<int>(whole) - 1 + k, 0, from - 1);
    }
  }
  return taps;
}

void resize_row(const std::uint8_t* from, const std::vector<Taps>& taps, float* to) {
  for (const Taps& tap : taps) {
    for (std::size_t c = 0; c < kChannels; ++c) {
      float sum = 0.0F;
      for (std::size_t k = 0; k < 4; ++k) {
        sum += tap.weight[k] * static_cast<float>(from[static_cast<std::size_t>(tap.index[k]) * kChannels + c]);
      }
      *to++ = sum;
    }
  }
}

}  // namespace

cv::Mat resize_cubic(const cv::Mat& image, cv::Size size) {
  const std::vector<Taps> columns = make_taps(image.cols, size.width), rows = make_taps(image.rows, size.height);
  const std::size_t width = columns.size() * kChannels;
  // Rows of the image at the new width; a row stays until another one needs its place.
  std::array<std::vector<float>, 4> kept;
  std::array<int, 4> kept_row = {-1, -1, -1, -1};
  for (std::vector<float>& row : kept)
    row.resize(width);
  cv::Mat result(size, CV_32FC3);
  for (int y = 0; y < size.height; ++y) {
    const Taps& tap = rows[static_cast<std::size_t>(y)];
    std::array<const float*, 4> sources{};
    for (std::size_t k = 0; k < 4; ++k) {
      const auto slot = static_cast<std::size_t>(tap.index[k]) % 4;  // four rows that follow each other share none
      if (kept_row[slot] != tap.index[k]) {
        resize_row(image.ptr(tap.index[k]), columns, kept[slot].data());
        kept_row[slot] = tap.index[k];
      }
      sources[k] = kept[slot].data();
    }
    float* to = result.ptr<float>(y);
    for (std::size_t i = 0; i < width; ++i) {
      to[i] = tap.weight[0] * sources[0][i] + tap.weight[1] * sources[1][i] + tap.weight[2] * sources[2][i] +
              tap.weight[3] * sources[3][i];
    }
  }
  return result;
}

}  // namespace aot_perception
