// SPDX-License-Identifier: Apache-2.0
// libFuzzer target (clang only): fuzz_events [corpus folder] -max_total_time=60
#include "fuzz_input.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  aot_perception::testing::run_input(data, size);
  return 0;
}
