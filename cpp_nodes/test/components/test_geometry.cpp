// SPDX-License-Identifier: Apache-2.0
// Pixel maps, rays and points.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "points.hpp"

namespace aot_perception {
namespace {

Camera pinhole(double fx, double fy, double cx, double cy) {
  Camera camera;
  camera.matrix = {fx, 0, cx, 0, fy, cy, 0, 0, 1};
  camera.projection = {fx, 0, cx, 0, 0, fy, cy, 0, 0, 0, 1, 0};
  return camera;
}

TEST(PixelMap, HalfPixelKeepsTheEdges) {
  const auto map = PixelMap::half_pixel({4, 6}, {8, 3});
  EXPECT_DOUBLE_EQ(map.scale_x * -0.5 + map.shift_x, -0.5);
  EXPECT_DOUBLE_EQ(map.scale_x * 3.5 + map.shift_x, 7.5);
  EXPECT_DOUBLE_EQ(map.scale_y * 5.5 + map.shift_y, 2.5);
}

TEST(PixelMap, AlignCornersKeepsTheCorners) {
  const auto map = PixelMap::align_corners({4, 1}, {7, 5});
  EXPECT_DOUBLE_EQ(map.scale_x * 3 + map.shift_x, 6);
  EXPECT_DOUBLE_EQ(map.scale_y, 1);
}

TEST(PixelMap, ThenIsOneMapAfterTheOther) {
  const PixelMap map = PixelMap::moved(2, -1).then({3, 4, 5, 6});
  EXPECT_DOUBLE_EQ(map.scale_x * 10 + map.shift_x, 3 * (10 + 2) + 5);
  EXPECT_DOUBLE_EQ(map.scale_y * 10 + map.shift_y, 4 * (10 - 1) + 6);
}

TEST(Camera, MovesWithItsGrid) {
  const Camera camera = pinhole(100, 110, 20, 30).on({2, 3, 0.5, -1});
  EXPECT_EQ(camera.matrix, (std::array<double, 9>{200, 0, 40.5, 0, 330, 89, 0, 0, 1}));
  EXPECT_EQ(camera.intrinsics(), camera.matrix);
}

TEST(Points, LieOnTheirRays) {
  cv::Mat depth = (cv::Mat_<float>(2, 2) << 1.0F, 2.0F, std::numeric_limits<float>::quiet_NaN(), 4.0F);
  PointMaker maker;
  const auto cloud = maker.points(depth, pinhole(2, 4, 0.5, 1), {});
  ASSERT_TRUE(cloud);
  ASSERT_EQ(cloud->size(), 12U);
  EXPECT_FLOAT_EQ((*cloud)[0], -0.25F);
  EXPECT_FLOAT_EQ((*cloud)[1], -0.25F);
  EXPECT_FLOAT_EQ((*cloud)[2], 1.0F);
  EXPECT_TRUE(std::isnan((*cloud)[6]));
  EXPECT_FLOAT_EQ((*cloud)[9], 1.0F);
  EXPECT_FLOAT_EQ((*cloud)[10], 0.0F);
}

TEST(Points, CarryTheirColour) {
  const cv::Mat depth(1, 1, CV_32F, cv::Scalar(1));
  const cv::Mat rgb(2, 2, CV_8UC3, cv::Scalar(0x12, 0x34, 0x56));
  PointMaker maker;
  const auto cloud = maker.points(depth, pinhole(1, 1, 0, 0), rgb);
  ASSERT_TRUE(cloud);
  ASSERT_EQ(cloud->size(), 4U);
  std::uint32_t bits = 0;
  std::memcpy(&bits, &(*cloud)[3], 4);
  EXPECT_EQ(bits, 0x123456U);
}

class Bent : public ::testing::TestWithParam<std::pair<const char*, std::vector<double>>> {};

TEST_P(Bent, RaysAreWhatTheModelDistortsToThePixel) {
  Camera camera = pinhole(300, 310, 159, 121);
  camera.rectified = false;
  camera.model = GetParam().first;
  camera.distortion = GetParam().second;
  const PixelSize size{320, 240};
  const auto rays = camera_rays(camera, size);
  ASSERT_TRUE(rays);
  double worst = 0.0;
  for (int row = 0; row < size.height; row += 7) {
    for (int column = 0; column < size.width; column += 7) {
      const auto i = static_cast<std::size_t>(row * size.width + column);
      const auto seen = distort(camera, rays->x[i], rays->y[i]);
      worst = std::max({worst, std::abs(seen[0] * 300 + 159 - column), std::abs(seen[1] * 310 + 121 - row)});
    }
  }
  EXPECT_LT(worst, 1e-3);  // pixels; the rays are float32
}

INSTANTIATE_TEST_SUITE_P(Models, Bent,
                         ::testing::Values(std::pair("plumb_bob", std::vector<double>{-0.3, 0.1, 0.001, -0.002, -0.02}),
                                           std::pair("rational_polynomial",
                                                     std::vector<double>{0.5, 0.1, 0.001, 0.0, 0.01, 0.6, 0.2, 0.02}),
                                           std::pair("equidistant", std::vector<double>{0.02, -0.01, 0.003, -0.001})));

TEST(CameraRays, RefusesAnUnknownModel) {
  Camera camera = pinhole(1, 1, 0, 0);
  camera.rectified = false;
  camera.model = "omnidirectional";
  camera.distortion = {0.1};
  const auto rays = camera_rays(camera, {2, 2});
  ASSERT_FALSE(rays);
  EXPECT_NE(rays.error().reason.find("'omnidirectional'"), std::string::npos);
  camera.distortion = {0.0, 0.0};  // nothing to undo: the model does not matter
  EXPECT_TRUE(camera_rays(camera, {2, 2}));
}

}  // namespace
}  // namespace aot_perception
