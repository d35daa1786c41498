// SPDX-License-Identifier: Apache-2.0
// See threads.hpp.
#include "threads.hpp"

#include <ATen/Parallel.h>

namespace aot_perception {

void limit_threads(int count) {
  if (count > 0) at::set_num_threads(count);
}

}  // namespace aot_perception
