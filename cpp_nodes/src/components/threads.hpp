// SPDX-License-Identifier: Apache-2.0
// How many threads a model on a CPU uses.
#pragma once

namespace aot_perception {

/// Threads of the calling thread's models on a CPU; 0 leaves them. OpenMP keeps the count per calling thread.
void limit_threads(int count);

}  // namespace aot_perception
