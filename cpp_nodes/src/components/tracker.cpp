// SPDX-License-Identifier: Apache-2.0
// See tracker.hpp.
#include "tracker.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <opencv2/core.hpp>

namespace aot_perception {
namespace {

/// The largest and second largest similarity of a row or column, and where the largest is (the first of equals).
struct Best {
  std::uint32_t index = 0;
  float first = -std::numeric_limits<float>::infinity();
  float second = -std::numeric_limits<float>::infinity();

  void take(std::uint32_t at, float similarity) {
    if (similarity > first) {
      second = first;
      first = similarity;
      index = at;
    } else if (similarity > second) {
      second = similarity;
    }
  }

  /// Whether the largest stands out: the distance of unit vectors is sqrt(2 - 2 similarity).
  [[nodiscard]] bool distinct(double ratio) const {
    if (!std::isfinite(second)) return true;  // there is no second
    const auto distance = [](float similarity) {
      return std::sqrt(std::max(0.0, 2.0 - 2.0 * static_cast<double>(similarity)));
    };
    return distance(first) <= ratio * distance(second);
  }
};

cv::Mat matrix(const DescribedPoints& points) {
  return {static_cast<int>(points.size()), points.dim, CV_32F, const_cast<float*>(points.descriptors.data())};
}

}  // namespace

std::vector<Match> match(const DescribedPoints& first, const DescribedPoints& second, double min_similarity,
                         double ratio) {
  std::vector<Match> pairs;
  if (first.size() == 0 || second.size() == 0 || first.dim != second.dim) return pairs;
  cv::Mat similarity;
  cv::gemm(matrix(first), matrix(second), 1.0, cv::noArray(), 0.0, similarity, cv::GEMM_2_T);
  std::vector<Best> there(first.size());
  std::vector<Best> back(second.size());
  for (std::uint32_t i = 0; i < there.size(); ++i) {
    const auto* row = similarity.ptr<float>(static_cast<int>(i));
    for (std::uint32_t j = 0; j < back.size(); ++j) {
      there[i].take(j, row[j]);
      back[j].take(i, row[j]);
    }
  }
  for (std::uint32_t i = 0; i < there.size(); ++i) {
    const Best& best = there[i];
    // Descriptors with NaN are nobody's neighbours: comparisons with them are false.
    if (back[best.index].index != i || !(best.first >= min_similarity)) continue;
    if (ratio < 1.0 && !(best.distinct(ratio) && back[best.index].distinct(ratio))) continue;
    pairs.push_back({i, best.index, best.first});
  }
  return pairs;
}

void Tracker::reset() {
  before_.reset();
  image_ = {};
  ids_.clear();
  lengths_.clear();
  next_id_ = 0;
}

std::vector<Track> Tracker::update(DescribedPoints points, PixelSize image) {
  if (image != image_) before_.reset();
  image_ = image;
  std::vector<std::int64_t> ids(points.size(), kUntracked);
  std::vector<std::uint32_t> lengths(points.size(), 1);
  std::vector<Track> tracks;
  if (before_) {
    std::vector<Match> pairs = match(*before_, points, min_similarity_, ratio_);
    std::sort(pairs.begin(), pairs.end(), [](const Match& a, const Match& b) { return a.second < b.second; });
    for (const Match& pair : pairs) {
      const float* was = &before_->xy[2 * pair.first];
      const float* is = &points.xy[2 * pair.second];
      const double way = std::hypot(static_cast<double>(is[0]) - was[0], static_cast<double>(is[1]) - was[1]);
      if (max_step_ > 0.0 && !(way <= max_step_)) continue;
      std::int64_t id = ids_[pair.first];
      if (id == kUntracked) id = next_id_++;
      ids[pair.second] = id;
      lengths[pair.second] = lengths_[pair.first] + 1;
      tracks.push_back({is[0], is[1], was[0], was[1], pair.similarity, pair.second, static_cast<std::uint32_t>(id),
                        lengths[pair.second]});
    }
  }
  before_ = std::move(points);
  ids_ = std::move(ids);
  lengths_ = std::move(lengths);
  return tracks;
}

}  // namespace aot_perception
