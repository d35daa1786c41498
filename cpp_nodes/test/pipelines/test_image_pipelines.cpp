// SPDX-License-Identifier: Apache-2.0
// Geometry and refusals of the pipelines of images. Networks run in test/cpp/test_pipelines.py.
#include <gtest/gtest.h>

#include "aot_perception/aliked.hpp"
#include "aot_perception/image_depth.hpp"

namespace aot_perception {
namespace {

TEST(ImageLayout, StretchesOrKeepsTheAspect) {
  const ImageLayout stretched = ImageLayout::of({1241, 376}, {70, 56}, false);
  EXPECT_EQ(stretched.inner, (PixelSize{70, 56}));
  EXPECT_EQ(stretched.offset, (cv::Point{0, 0}));
  const ImageLayout kept = ImageLayout::of({1241, 376}, {70, 56}, true);
  EXPECT_EQ(kept.inner, (PixelSize{70, 21}));
  EXPECT_EQ(kept.offset, (cv::Point{0, 17}));
  EXPECT_EQ(ImageLayout::of({1000, 1}, {70, 56}, true).inner, (PixelSize{70, 1}));
  // 5 * 0.5 = 2.5 and 7 * 0.5 = 3.5: halves to even, as Python rounds.
  EXPECT_EQ(ImageLayout::of({10, 5}, {5, 5}, true).inner, (PixelSize{5, 2}));
  EXPECT_EQ(ImageLayout::of({14, 7}, {7, 7}, true).inner, (PixelSize{7, 4}));
}

TEST(PixelMap, KeepsEdgesOrCorners) {
  const PixelMap half = PixelMap::half_pixel({640, 480}, {320, 120});
  EXPECT_DOUBLE_EQ(half.scale_x * -0.5 + half.shift_x, -0.5);
  EXPECT_DOUBLE_EQ(half.scale_x * 639.5 + half.shift_x, 319.5);
  EXPECT_DOUBLE_EQ(half.scale_y * 479.5 + half.shift_y, 119.5);
  const PixelMap corners = PixelMap::align_corners({70, 56}, {640, 480});
  EXPECT_DOUBLE_EQ(corners.scale_x * 69, 639);
  const PixelMap both = half.then(PixelMap::align_corners({320, 120}, {640, 480}));
  EXPECT_DOUBLE_EQ(both.scale_x, half.scale_x * 639 / 319);
  const std::array<double, 9> matrix = both.applied_to({500, 0, 320, 0, 500, 240, 0, 0, 1});
  EXPECT_DOUBLE_EQ(matrix[0], 500 * both.scale_x);
  EXPECT_DOUBLE_EQ(matrix[2], 320 * both.scale_x + both.shift_x);
  EXPECT_DOUBLE_EQ(matrix[8], 1);
}

TEST(Placement, FitsIntoTheUpperLeftCorner) {
  const Placement placement = Placement::fit({1241, 376}, {160, 120});
  EXPECT_EQ(placement.inner, (PixelSize{160, 48}));
  EXPECT_TRUE(placement.contains(159.5F, 47.5F));
  EXPECT_FALSE(placement.contains(10.0F, 47.6F));
  float x = -0.5F, y = 47.5F;  // outer edges map to outer edges
  placement.to_image(x, y);
  EXPECT_FLOAT_EQ(x, -0.5F);
  EXPECT_FLOAT_EQ(y, 375.5F);
  const Placement same = Placement::fit({160, 120}, {160, 120});
  x = 3.25F;
  same.to_image(x, y);
  EXPECT_EQ(x, 3.25F);
  EXPECT_EQ(Placement::fit({10000, 1}, {160, 120}).inner, (PixelSize{160, 1}));
}

TEST(ImagePipelines, OptionsThatMakeNoSenseAreRefused) {
  ImageDepthOptions depth;
  depth.output_resolution = "half";
  const auto refused = ImageDepthPipeline::open("/nowhere.pt2", depth);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().message(), "expected output_resolution to be image or grid, found 'half'");
  AlikedOptions aliked;
  aliked.threshold = 1.0;
  const auto too_high = AlikedPipeline::open("/nowhere.pt2", aliked);
  ASSERT_FALSE(too_high);
  EXPECT_EQ(too_high.error().message(),
            "expected a threshold below 1, found 1; scores are probabilities; 0.2 is usual");
  Verdict verdict;
  EXPECT_FALSE(AlikedPipeline::open("/nowhere.pt2", {}, &verdict));
  EXPECT_EQ(verdict.code, "MISSING_FILE");
  EXPECT_FALSE(ImageDepthPipeline::open("/nowhere.pt2", {}, &verdict));
}

}  // namespace
}  // namespace aot_perception
