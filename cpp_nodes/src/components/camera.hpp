// SPDX-License-Identifier: Apache-2.0
// Pixel grids and cameras: the pipelines need them too.
#pragma once

#include "aot_perception/camera.hpp"  // IWYU pragma: export
