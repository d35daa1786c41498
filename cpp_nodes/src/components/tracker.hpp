// SPDX-License-Identifier: Apache-2.0
// Keypoints from frame to frame: mutual nearest neighbours of descriptors, each with a number that it keeps.
// As aliked_ros/matching.py and aliked_ros/tracking.py. No ROS.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "aot_perception/camera.hpp"

namespace aot_perception {

/// Keypoints of one image: x, y in pixels, and descriptors of length `dim`, row by row.
struct DescribedPoints {
  std::vector<float> xy;
  std::vector<float> descriptors;
  int dim = 0;

  [[nodiscard]] std::size_t size() const { return xy.size() / 2; }
};

/// A pair of keypoints of two images, and the dot product of their descriptors.
struct Match {
  std::uint32_t first = 0;
  std::uint32_t second = 0;
  float similarity = 0.0F;
};

/// Pairs of which each is the other's nearest, in the order of the first image's keypoints.
///
/// `min_similarity`: smallest dot product of a pair; `ratio`: largest distance to the nearest over that to the second
/// nearest, seen from both sides; 1 or more asks for none.
std::vector<Match> match(const DescribedPoints& first, const DescribedPoints& second, double min_similarity,
                         double ratio);

/// A keypoint that the frame before has too. This is the row of ~/tracks, all fields of 4 bytes.
struct Track {
  float x = 0.0F;  ///< pixels
  float y = 0.0F;
  float previous_x = 0.0F;  ///< in the frame before
  float previous_y = 0.0F;
  float similarity = 0.0F;
  std::uint32_t index = 0;   ///< which keypoint of this frame
  std::uint32_t id = 0;      ///< number of the track
  std::uint32_t length = 0;  ///< frames of the track so far, at least 2
};
static_assert(sizeof(Track) == 32, "a Track is sent as it lies in memory");

/// Follows keypoints of consecutive frames. A point lost for one frame is a new one.
class Tracker {
 public:
  /// `max_step`: longest way of a keypoint from frame to frame, pixels; 0: no limit.
  Tracker(double min_similarity, double ratio, double max_step)
      : min_similarity_(min_similarity), ratio_(ratio), max_step_(max_step) {}

  /// Forgets the frame before: the next one has no tracks (after a jump in time).
  void reset();

  /// Tracks of the next frame, in the order of its keypoints; another image size breaks all tracks.
  std::vector<Track> update(DescribedPoints points, PixelSize image);

 private:
  static constexpr std::int64_t kUntracked = -1;

  double min_similarity_;
  double ratio_;
  double max_step_;
  std::optional<DescribedPoints> before_;
  PixelSize image_;
  std::vector<std::int64_t> ids_;
  std::vector<std::uint32_t> lengths_;
  std::int64_t next_id_ = 0;
};

}  // namespace aot_perception
