// SPDX-License-Identifier: Apache-2.0
// The machine this runs on: what a verdict compares (aot_runtime/environment.py).
#pragma once

#include <set>
#include <string>
#include <vector>

namespace aot_perception {

/// What decides whether an artifact may run here; empty strings where a library or device is absent.
struct Host {
  std::string os;
  std::string machine;
  std::set<std::string> cpu_flags;
  std::string torch;
  std::string cuda;
  std::vector<std::string> compute_capabilities;
  std::string onnxruntime;
  std::string tensorrt;
  std::string tensorrt_rtx;
  /// What a user has to do to get ONNX Runtime here; a program that was built without it needs more than a package.
  std::string onnxruntime_remedy = "run pip install onnxruntime (or onnxruntime-gpu)";
  /// What else a program needs that was built without TensorRT, after "install tensorrt 10.3.0".
  std::string tensorrt_note;
};

/// This machine, and the libraries that this program was built with.
const Host& this_host();

/// The instruction-set extensions in the text of /proc/cpuinfo that compiled code may use.
std::set<std::string> cpu_flags_of(const std::string& cpuinfo);

}  // namespace aot_perception
