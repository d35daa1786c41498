// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "aot_perception/manifest.hpp"

namespace aot_perception {

/// "rebuild it on this machine: <command>".
std::string rebuild_remedy(const Manifest& manifest);

}  // namespace aot_perception
