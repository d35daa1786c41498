// SPDX-License-Identifier: Apache-2.0
// Which events of a window to keep. "random" draws what numpy's default_rng(seeds).choice(n, limit, replace=False,
// shuffle=False) draws, so that both languages keep the same events: SeedSequence (M. O'Neill's seed_seq, 4 words),
// PCG64 (128-bit PCG XSL-RR; O'Neill, "PCG", 2014), Lemire's bounded integers (arXiv:1805.10941), and Floyd's or the
// tail shuffle's choice, whichever numpy takes.
#include <algorithm>
#include <array>
#include <cstdint>
#include <numeric>
#include <unordered_set>

#include "aot_perception/event_window.hpp"

namespace aot_perception {

namespace {

// Large numbers in two halves: the 128-bit integer of the compilers, which -Wpedantic knows under this spelling only.
__extension__ typedef unsigned __int128 Wide;

/// 32-bit words of entropy, mixed into the 4-word pool of a SeedSequence, and words drawn from it.
class SeedSequence {
 public:
  explicit SeedSequence(const std::vector<std::uint64_t>& seeds) {
    std::vector<std::uint32_t> entropy;
    for (const std::uint64_t seed : seeds) {
      entropy.push_back(static_cast<std::uint32_t>(seed));
      if (seed >> 32 != 0) entropy.push_back(static_cast<std::uint32_t>(seed >> 32));
    }
    std::uint32_t constant = 0x43b0d7e5;
    for (std::size_t i = 0; i < pool_.size(); ++i) {
      pool_[i] = hash(i < entropy.size() ? entropy[i] : 0, constant, 0x931e8875);
    }
    for (std::size_t from = 0; from < pool_.size(); ++from) {
      for (std::size_t to = 0; to < pool_.size(); ++to) {
        if (from != to) pool_[to] = mix(pool_[to], hash(pool_[from], constant, 0x931e8875));
      }
    }
    for (std::size_t from = pool_.size(); from < entropy.size(); ++from) {
      for (std::uint32_t& to : pool_)
        to = mix(to, hash(entropy[from], constant, 0x931e8875));
    }
  }

  /// The first four 64-bit words of its state.
  [[nodiscard]] std::array<std::uint64_t, 4> words() const {
    std::array<std::uint64_t, 4> result{};
    std::uint32_t constant = 0x8b51f9dd;
    for (std::size_t i = 0; i < 8; ++i) {
      const std::uint32_t word = hash(pool_[i % pool_.size()], constant, 0x58f38ded);
      result[i / 2] |= static_cast<std::uint64_t>(word) << (32 * (i % 2));
    }
    return result;
  }

 private:
  static std::uint32_t hash(std::uint32_t value, std::uint32_t& constant, std::uint32_t multiplier) {
    value ^= constant;
    constant *= multiplier;
    value *= constant;
    return value ^ (value >> 16);
  }

  static std::uint32_t mix(std::uint32_t a, std::uint32_t b) {
    const std::uint32_t value = 0xca01f9ddu * a - 0x4973f715u * b;
    return value ^ (value >> 16);
  }

  std::array<std::uint32_t, 4> pool_{};
};

/// PCG64, with the 32-bit draws that use both halves of a 64-bit one.
class Pcg64 {
 public:
  explicit Pcg64(const std::array<std::uint64_t, 4>& seed) {
    increment_ = ((static_cast<Wide>(seed[2]) << 64 | seed[3]) << 1) | 1;
    step();
    state_ += static_cast<Wide>(seed[0]) << 64 | seed[1];
    step();
  }

  /// Uniform in 0..largest.
  std::uint64_t bounded(std::uint64_t largest) {
    if (largest == 0) return 0;
    if (largest < 0xFFFFFFFF) return bounded32(static_cast<std::uint32_t>(largest));
    if (largest == 0xFFFFFFFF) return next32();
    if (largest == ~std::uint64_t{0}) return next64();
    const std::uint64_t range = largest + 1;
    Wide product = static_cast<Wide>(next64()) * range;
    if (static_cast<std::uint64_t>(product) < range) {
      const std::uint64_t threshold = (~std::uint64_t{0} - largest) % range;
      while (static_cast<std::uint64_t>(product) < threshold)
        product = static_cast<Wide>(next64()) * range;
    }
    return static_cast<std::uint64_t>(product >> 64);
  }

 private:
  void step() {
    constexpr Wide kMultiplier = static_cast<Wide>(2549297995355413924ULL) << 64 | 4865540595714422341ULL;
    state_ = state_ * kMultiplier + increment_;
  }

  std::uint64_t next64() {
    step();
    const auto folded = static_cast<std::uint64_t>(state_ >> 64) ^ static_cast<std::uint64_t>(state_);
    const auto turn = static_cast<unsigned>(state_ >> 122);
    return folded >> turn | folded << ((64 - turn) & 63);
  }

  std::uint32_t next32() {
    if (has_half_) {
      has_half_ = false;
      return half_;
    }
    const std::uint64_t word = next64();
    has_half_ = true;
    half_ = static_cast<std::uint32_t>(word >> 32);
    return static_cast<std::uint32_t>(word);
  }

  std::uint32_t bounded32(std::uint32_t largest) {
    const std::uint32_t range = largest + 1;
    std::uint64_t product = static_cast<std::uint64_t>(next32()) * range;
    if (static_cast<std::uint32_t>(product) < range) {
      const std::uint32_t threshold = (0xFFFFFFFFu - largest) % range;
      while (static_cast<std::uint32_t>(product) < threshold)
        product = static_cast<std::uint64_t>(next32()) * range;
    }
    return static_cast<std::uint32_t>(product >> 32);
  }

  Wide state_ = 0, increment_ = 0;
  bool has_half_ = false;
  std::uint32_t half_ = 0;
};

std::vector<std::size_t> choose(std::size_t n, std::size_t limit, const std::vector<std::uint64_t>& seeds) {
  Pcg64 random{SeedSequence(seeds).words()};
  std::vector<std::size_t> chosen;
  if (n > 10'000 && limit > n / 20) {  // the tail of an incomplete shuffle
    std::vector<std::size_t> all(n);
    std::iota(all.begin(), all.end(), std::size_t{0});
    const std::size_t first = std::max<std::size_t>(n - limit, 1);
    for (std::size_t i = n; i-- > first;)
      std::swap(all[random.bounded(i)], all[i]);
    chosen.assign(all.end() - static_cast<std::ptrdiff_t>(limit), all.end());
  } else {  // Floyd's algorithm
    std::unordered_set<std::size_t> taken;
    for (std::size_t j = n - limit; j < n; ++j) {
      const auto value = static_cast<std::size_t>(random.bounded(j));
      const std::size_t kept = taken.count(value) == 0 ? value : j;
      taken.insert(kept);
      chosen.push_back(kept);
    }
  }
  std::sort(chosen.begin(), chosen.end());
  return chosen;
}

}  // namespace

Result<std::vector<std::size_t>> thinning_indices(std::size_t n, std::size_t limit, const std::string& method,
                                                  const std::vector<std::uint64_t>& seeds) {
  if (method != "linspace" && method != "random") {
    return Error{"expected a thinning out of linspace, random, found '" + method + "'", ""};
  }
  std::vector<std::size_t> kept(std::min(n, limit));
  if (n <= limit) {
    std::iota(kept.begin(), kept.end(), std::size_t{0});
    return kept;
  }
  if (method == "random") return choose(n, limit, seeds);
  const double step = static_cast<double>(n) / static_cast<double>(limit);
  for (std::size_t i = 0; i < limit; ++i)
    kept[i] = static_cast<std::size_t>(static_cast<double>(i) * step);
  return kept;
}

}  // namespace aot_perception
