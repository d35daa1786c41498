// SPDX-License-Identifier: Apache-2.0
// float32 on CUDA in float32, not in TF32 with its 10 bits, while an fp32 artifact runs.
#pragma once

#include <ATen/Context.h>

#include <mutex>

namespace aot_perception {

/// While one of these lives convolutions and products of float32 are exact. PyTorch has one switch for the process, so
/// that the first one turns it and the last one turns it back.
class ExactFloat32 {
 public:
  explicit ExactFloat32(bool wanted) : wanted_(wanted) {
    if (!wanted_) return;
    State& state = shared();
    const std::lock_guard<std::mutex> lock(state.mutex);
    if (state.users++ > 0) return;
    at::Context& context = at::globalContext();
    state.cudnn = context.allowTF32CuDNN();
    state.cublas = context.allowTF32CuBLAS();
    context.setAllowTF32CuDNN(false);
    context.setAllowTF32CuBLAS(false);
  }
  ~ExactFloat32() {
    if (!wanted_) return;
    State& state = shared();
    const std::lock_guard<std::mutex> lock(state.mutex);
    if (--state.users > 0) return;
    at::Context& context = at::globalContext();
    context.setAllowTF32CuDNN(state.cudnn);
    context.setAllowTF32CuBLAS(state.cublas);
  }
  ExactFloat32(const ExactFloat32&) = delete;
  ExactFloat32& operator=(const ExactFloat32&) = delete;

 private:
  struct State {
    std::mutex mutex;
    int users = 0;
    bool cudnn = false;
    bool cublas = false;
  };
  static State& shared() {
    static State state;
    return state;
  }

  bool wanted_;
};

}  // namespace aot_perception
