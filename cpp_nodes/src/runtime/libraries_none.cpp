// SPDX-License-Identifier: Apache-2.0
// A build without torch reads and judges artifacts and runs none.
#include "libraries.hpp"

namespace aot_perception {

void describe_libraries(Host& /*host*/) {}

}  // namespace aot_perception
