// SPDX-License-Identifier: Apache-2.0
// The libraries this program was built with; libraries.cpp with torch, libraries_none.cpp without.
#pragma once

#include "aot_perception/host.hpp"

namespace aot_perception {

/// Fills torch, cuda, onnxruntime, tensorrt, tensorrt_rtx and the remedies.
void describe_libraries(Host& host);

}  // namespace aot_perception
