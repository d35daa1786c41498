// SPDX-License-Identifier: Apache-2.0
// The colours of depth pictures: matplotlib's magma and jet, as depth_ros/pictures.py has them.
#pragma once

#include <array>
#include <cstdint>

namespace aot_perception {

/// 256 colours 0xRRGGBB, for relative depth and disparity: bright is near.
const std::array<std::uint32_t, 256>& magma_colours();

/// 256 colours 0xRRGGBB, for metres: blue is near.
const std::array<std::uint32_t, 256>& jet_colours();

}  // namespace aot_perception
