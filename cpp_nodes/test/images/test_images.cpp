// SPDX-License-Identifier: Apache-2.0
// Image messages as pixels; the same images as in Python are compared in test/cpp/test_images.py.
#include <gtest/gtest.h>

#include <limits>
#include <opencv2/core.hpp>
#include <opencv2/imgcodecs.hpp>
#include <random>

#include "aot_perception/images.hpp"
#include "images/resize_cubic.hpp"

namespace aot_perception {
namespace {

struct Message {
  ImageFields fields;
  std::vector<std::uint8_t> bytes;

  Message(const std::string& encoding, std::uint32_t height, std::uint32_t width, std::uint32_t step,
          std::vector<std::uint8_t> data)
      : bytes(std::move(data)) {
    fields = {encoding, height, width, step, false, bytes.data(), bytes.size()};
  }
};

std::string error_of(const Message& message, const std::string& desired = "") {
  const Result<cv::Mat> pixels = desired.empty() ? image_view(message.fields) : convert_image(message.fields, desired);
  return pixels ? "" : pixels.error().message();
}

TEST(Images, FormatsOfEncodings) {
  EXPECT_EQ(pixel_format("mono8")->channels, 1);
  EXPECT_EQ(pixel_format("rgba16")->depth, CV_16U);
  EXPECT_EQ(pixel_format("32FC32")->channels, 32);
  EXPECT_EQ(pixel_format("32FC")->channels, 1);
  EXPECT_EQ(pixel_format("64FC1")->depth, CV_64F);
  for (const char* name : {"", "C1", "8U", "8UC0", "8UC01", "8UC12345", "9UC1", "8UCx", "mono", "8UC1 ", "8UC-1"}) {
    EXPECT_FALSE(pixel_format(name)) << name;
  }
}

TEST(Images, AViewSharesTheMessagesMemoryAndHonoursStep) {
  Message message("mono8", 2, 3, 4, {1, 2, 3, 99, 4, 5, 6, 99});
  const cv::Mat pixels = image_view(message.fields).value();
  EXPECT_EQ(pixels.data, message.bytes.data());
  EXPECT_EQ(pixels.at<std::uint8_t>(1, 2), 6);
}

TEST(Images, ByteOrderAndRowsOffTheGrid) {
  Message big("16UC1", 1, 2, 4, {1, 2, 3, 4});
  big.fields.is_bigendian = true;
  EXPECT_EQ(image_view(big.fields)->at<std::uint16_t>(0, 1), 0x0304);
  Message odd("16UC1", 2, 1, 3, {1, 2, 9, 3, 4, 9});
  EXPECT_EQ(image_view(odd.fields)->at<std::uint16_t>(1, 0), 0x0403);
  odd.fields.is_bigendian = true;
  EXPECT_EQ(image_view(odd.fields)->at<std::uint16_t>(1, 0), 0x0304);
}

TEST(Images, WhatIsWrongIsNamed) {
  EXPECT_EQ(error_of(Message("mono8", 0, 3, 3, {})), "expected a non-empty image, found 3x0; repair the publisher");
  EXPECT_EQ(error_of(Message("bgr8", 1, 3, 8, std::vector<std::uint8_t>(8))),
            "expected step >= 9 (3 pixels of bgr8), found 8; set step to the bytes of one row");
  EXPECT_EQ(error_of(Message("mono8", 2, 3, 3, {1, 2, 3})),
            "expected 6 bytes of data (step 3 x height 2), found 3; fill data with step * height bytes");
  EXPECT_EQ(error_of(Message("nonsense", 1, 1, 1, {1})),
            "expected a plain image encoding, found 'nonsense'; publish mono8, bgr8, rgb8, 16UC1, 32FC1 or another of "
            "sensor_msgs/image_encodings");
  EXPECT_EQ(
      error_of(Message("nonsense", 1, 1, 1, {1}), "rgb8"),
      "expected an encoding of sensor_msgs/image_encodings, found 'nonsense'; publish mono8, bgr8, rgb8, a Bayer, "
      "YUV or typed (32FC1) encoding");
  EXPECT_EQ(error_of(Message("32FC1", 1, 1, 4, {0, 0, 0, 0}), "rgb8"),
            "expected an image that converts to rgb8, found encoding '32FC1'");
  EXPECT_EQ(error_of(Message("nv12", 3, 4, 4, std::vector<std::uint8_t>(18)), "rgb8"),
            "expected even width and height for nv12, found 4x3");
  EXPECT_EQ(error_of(Message("nv12", 2, 4, 4, std::vector<std::uint8_t>(8)), "rgb8"),
            "expected 12 bytes of data for nv12, found 8");
  EXPECT_EQ(error_of(Message("8UC600", 1, 1, 600, std::vector<std::uint8_t>(600))),
            "expected at most 512 channels, found '8UC600'");
}

TEST(Images, NotANumber) {
  const float values[] = {1.0F, std::numeric_limits<float>::quiet_NaN()};
  const auto* bytes = reinterpret_cast<const std::uint8_t*>(values);
  const ImageFields fields = {"32FC1", 1, 2, 8, false, bytes, 8};
  EXPECT_TRUE(image_view(fields));
  const Result<cv::Mat> strict = image_view(fields, /*allow_nan=*/false);
  ASSERT_FALSE(strict);
  EXPECT_EQ(strict.error().message(), "expected finite pixels in a 32FC1 image, found NaN or infinity");
}

TEST(Images, Colours) {
  const Message message("bgra8", 1, 1, 4, {10, 20, 30, 40});
  EXPECT_EQ(convert_image(message.fields, "rgb8")->at<cv::Vec3b>(0, 0), cv::Vec3b(30, 20, 10));
  EXPECT_EQ(convert_image(message.fields, "bgr8")->at<cv::Vec3b>(0, 0), cv::Vec3b(10, 20, 30));
  const Message deep("mono16", 1, 1, 2, {0xFF, 0x12});
  EXPECT_EQ(convert_image(deep.fields, "rgb8")->at<cv::Vec3b>(0, 0), cv::Vec3b(0x12, 0x12, 0x12));
  EXPECT_FALSE(convert_image(message.fields, "rgba8"));
}

TEST(ResizeCubic, KeepsWhatItShould) {
  cv::Mat image(9, 13, CV_8UC3);
  cv::randu(image, 0, 255);
  cv::Mat same;
  image.convertTo(same, CV_32FC3);
  EXPECT_EQ(cv::norm(resize_cubic(image, image.size()), same, cv::NORM_INF), 0.0);
  const cv::Mat flat(3, 4, CV_8UC3, cv::Scalar(7, 100, 255));
  for (const cv::Size size : {cv::Size(1, 1), cv::Size(2, 50), cv::Size(40, 2)}) {
    const cv::Mat wanted(size, CV_32FC3, cv::Scalar(7, 100, 255));
    EXPECT_LT(cv::norm(resize_cubic(flat, size), wanted, cv::NORM_INF), 1e-4);
  }
  // A ramp stays a ramp away from the edges: column x of 64 from 16 lies at (x + 1/2) / 4 - 1/2.
  cv::Mat ramp(2, 16, CV_8UC3);
  for (int x = 0; x < 16; ++x)
    ramp.col(x).setTo(cv::Scalar::all(10 * x));
  const cv::Mat large = resize_cubic(ramp, {64, 2});
  for (int x = 8; x < 56; ++x) {
    // a = -0.75 is not Keys' -0.5: between samples it is off a ramp by up to 0.03 of a step.
    EXPECT_NEAR(large.at<cv::Vec3f>(1, x)[2], 10 * ((x + 0.5) / 4 - 0.5), 0.5) << x;
  }
  EXPECT_GT(cv::norm(resize_cubic(image, {40, 30}), cv::NORM_INF), 0);
}

TEST(Images, RandomMessagesArePixelsOrErrors) {
  const std::vector<std::string> encodings = {
      "mono8", "bgr8", "rgba16", "32FC3",   "bayer_rggb8", "yuyv",        "bayer_gbrg16", "nv12",
      "nv21",  "uyvy", "64FC2",  "8UC9999", "16SC4",       "yuv422_yuy2", "mono16",       "8UC1"};
  std::mt19937 random(4);
  const auto below = [&](unsigned n) { return static_cast<std::uint32_t>(random() % n); };
  int good = 0;
  for (int i = 0; i < 4000; ++i) {
    const std::uint32_t height = below(5) * (below(2) + 1), width = below(7) * (below(2) + 1);
    const std::uint32_t step = width * (1 + below(8)) + below(2);
    const std::size_t rows = random() % 3 == 0 ? height * 3 / 2 : height;
    Message message(encodings[random() % encodings.size()], height, width, step,
                    std::vector<std::uint8_t>(step * rows + (random() % 8 == 0 ? 1 : 0)));
    message.fields.is_bigendian = random() % 2 == 0;
    good += convert_image(message.fields, random() % 2 == 0 ? "rgb8" : "mono8") ? 1 : 0;
    good += image_view(message.fields) ? 1 : 0;
  }
  EXPECT_GT(good, 500);
}

TEST(Images, MutatedPicturesArePixelsOrErrors) {
  cv::Mat picture(20, 30, CV_8UC3);
  cv::randu(picture, 0, 255);
  std::mt19937 random(5);
  for (const char* suffix : {".png", ".jpg"}) {
    std::vector<std::uint8_t> whole;
    ASSERT_TRUE(cv::imencode(suffix, picture, whole));
    ASSERT_TRUE(convert_compressed(suffix, whole.data(), whole.size(), "rgb8"));
    for (int i = 0; i < 300; ++i) {
      std::vector<std::uint8_t> bytes = whole;
      for (int n = 0; n < 5; ++n)
        bytes[random() % bytes.size()] = static_cast<std::uint8_t>(random());
      bytes.resize(1 + random() % bytes.size());
      (void)static_cast<bool>(convert_compressed(suffix, bytes.data(), bytes.size(), "rgb8"));
    }
  }
  EXPECT_EQ(convert_compressed("png", nullptr, 0, "rgb8").error().message(),
            "expected a compressed image, found no data; repair the publisher");
  const std::uint8_t nonsense[] = {1, 2, 3};
  EXPECT_EQ(convert_compressed("png", nonsense, 3, "rgb8").error().message(),
            "expected a compressed image ('png'), found 3 undecodable bytes");
}

}  // namespace
}  // namespace aot_perception
