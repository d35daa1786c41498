// SPDX-License-Identifier: Apache-2.0
// The torch that this process has loaded, and the runtimes that this build has.
#include "libraries.hpp"

#include <ATen/Parallel.h>
#include <dlfcn.h>

#include <fstream>
#include <regex>
#include <sstream>

#include "runner.hpp"

namespace aot_perception {
namespace {

/// torch/version.py beside the library: it tells "2.13.0+cpu" and the CUDA version; "" where there is none.
std::string version_file() {
  Dl_info info = {};
  if (dladdr(reinterpret_cast<void*>(&at::get_num_threads), &info) == 0 || info.dli_fname == nullptr) return "";
  const std::string library = info.dli_fname;  // .../torch/lib/libtorch_cpu.so
  const std::size_t slash = library.rfind('/');
  if (slash == std::string::npos) return "";
  std::ifstream file(library.substr(0, slash) + "/../version.py");
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

std::string assigned(const std::string& text, const std::string& name) {
  std::istringstream lines(text);
  const std::regex pattern("^" + name + R"(\s*(?::[^=]*)?=\s*['"]([^'"]+)['"].*)");
  std::string line;
  std::smatch match;
  while (std::getline(lines, line)) {
    if (std::regex_match(line, match, pattern)) return match[1];
  }
  return "";
}

}  // namespace

void describe_libraries(Host& host) {
  const std::string text = version_file();
  host.torch = assigned(text, "__version__");
  if (host.torch.empty()) host.torch = AOT_PERCEPTION_TORCH_VERSION;
  host.cuda = assigned(text, "cuda");
  host.onnxruntime = onnxruntime_version();
  if (host.onnxruntime.empty()) {
    host.onnxruntime_remedy =
        "unpack a release archive of ONNX Runtime and build aot_perception_cpp with -DONNXRUNTIME_ROOT=<its folder>; "
        "the "
        "nodes in Python need only pip install onnxruntime";
  }
  const std::string version = tensorrt_version();
  (tensorrt_name() == "tensorrt" ? host.tensorrt : host.tensorrt_rtx) = version;
  if (version.empty()) {
    host.tensorrt_note = " with its headers (NvInfer.h) and build aot_perception_cpp again";
  }
}

}  // namespace aot_perception
