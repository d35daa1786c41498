// SPDX-License-Identifier: Apache-2.0
// Pictures for people.
#include <gtest/gtest.h>

#include <limits>
#include <vector>

#include "pictures.hpp"

namespace aot_perception {
namespace {

const cv::Vec3b kBlue(255, 0, 0);
const cv::Vec3b kGreen(0, 255, 0);
const cv::Vec3b kRed(0, 0, 255);
const cv::Vec3b kBlack(0, 0, 0);
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

TEST(EventPicture, TheLastEventOfAPixelShows) {
  const std::vector<std::uint16_t> x = {0, 0, 1, 9};
  const std::vector<std::uint16_t> y = {0, 0, 1, 0};
  const std::vector<std::uint8_t> p = {1, 0, 1, 1};
  const cv::Mat picture = event_picture(x.data(), y.data(), p.data(), x.size(), 2, 2);
  EXPECT_EQ(picture.at<cv::Vec3b>(0, 0), kRed);
  EXPECT_EQ(picture.at<cv::Vec3b>(1, 1), kBlue);
  EXPECT_EQ(picture.at<cv::Vec3b>(0, 1), kBlack);
}

TEST(ColourDepth, SpansItsColoursAndLeavesTheInvalidBlack) {
  const cv::Mat depth = (cv::Mat_<float>(1, 4) << 1.0F, 3.0F, kNan, 9.0F);
  const cv::Mat valid = (cv::Mat_<std::uint8_t>(1, 4) << 1, 1, 1, 0);
  const cv::Mat picture = colour_depth(depth, valid, "metric");
  EXPECT_EQ(picture.at<cv::Vec3b>(0, 0), cv::Vec3b(127, 0, 0));  // jet's first colour
  EXPECT_EQ(picture.at<cv::Vec3b>(0, 1), cv::Vec3b(0, 0, 127));  // and its last
  EXPECT_EQ(picture.at<cv::Vec3b>(0, 2), kBlack);
  EXPECT_EQ(picture.at<cv::Vec3b>(0, 3), kBlack);
  const cv::Mat relative = colour_depth(depth, valid, "relative");
  EXPECT_EQ(relative.at<cv::Vec3b>(0, 1), cv::Vec3b(191, 252, 251));  // magma's brightest
}

TEST(ColourFlow, TheHueIsTheDirection) {
  const cv::Mat dx = (cv::Mat_<float>(1, 3) << 2.0F, 0.0F, kNan);
  const cv::Mat dy(1, 3, CV_32F, cv::Scalar(0));
  const cv::Mat valid(1, 3, CV_8U, cv::Scalar(1));
  const cv::Mat picture = colour_flow(dx, dy, valid);
  EXPECT_EQ(picture.at<cv::Vec3b>(0, 0), kRed);
  EXPECT_EQ(picture.at<cv::Vec3b>(0, 1), kBlack);
  EXPECT_EQ(picture.at<cv::Vec3b>(0, 2), kBlack);
  EXPECT_EQ(colour_flow(dx, dy, cv::Mat::zeros(1, 3, CV_8U)).at<cv::Vec3b>(0, 0), kBlack);
}

TEST(FeaturePainter, KeepsItsColoursWhenAFieldIsMirrored) {
  // Two channels that differ: one component carries everything.
  std::vector<float> field;
  for (int i = 0; i < 8; ++i) {
    field.push_back(static_cast<float>(i));
    field.push_back(2.0F * static_cast<float>(i));
  }
  FeaturePainter painter;
  const cv::Mat first = painter.paint(field.data(), 2, 4, 2);
  EXPECT_LT(first.at<cv::Vec3b>(0, 0)[0], first.at<cv::Vec3b>(1, 3)[0]);
  const cv::Mat again = painter.paint(field.data(), 2, 4, 2);
  EXPECT_EQ(cv::norm(first, again, cv::NORM_INF), 0.0);
}

TEST(FeaturePainter, AConstantFieldAndNanAreBlackNotUndefined) {
  const std::vector<float> field(12, kNan);
  FeaturePainter painter;
  const cv::Mat picture = painter.paint(field.data(), 2, 2, 3);
  EXPECT_EQ(cv::norm(picture, cv::NORM_INF), 0.0);
}

TEST(KeypointsPicture, DrawsStrongOverWeakAndStaysInside) {
  const cv::Mat rgb(8, 8, CV_8UC3, cv::Scalar(10, 20, 30));
  const std::vector<float> points = {4, 4, 4, 4, 100, -3};
  const std::vector<float> scores = {1.0F, 0.0F, 0.5F};
  const cv::Mat picture = keypoints_picture(rgb, points.data(), scores.data(), 3);
  EXPECT_EQ(picture.at<cv::Vec3b>(4, 4), kGreen);
  EXPECT_EQ(picture.at<cv::Vec3b>(3, 4), kGreen);
  EXPECT_EQ(picture.at<cv::Vec3b>(3, 3), cv::Vec3b(30, 20, 10));  // the image, as BGR
}

TEST(TracksPicture, DrawsALineAndADot) {
  const cv::Mat rgb(8, 8, CV_8UC3, cv::Scalar(0, 0, 0));
  const std::vector<float> before = {0, 2};
  const std::vector<float> now = {6, 2};
  const cv::Mat picture = tracks_picture(rgb, before.data(), now.data(), 1);
  for (int x = 0; x <= 4; ++x)
    EXPECT_EQ(picture.at<cv::Vec3b>(2, x), kGreen) << x;
  EXPECT_EQ(picture.at<cv::Vec3b>(2, 6), kRed);
  EXPECT_EQ(picture.at<cv::Vec3b>(3, 6), kRed);
}

}  // namespace
}  // namespace aot_perception
