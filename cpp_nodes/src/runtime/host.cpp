// SPDX-License-Identifier: Apache-2.0
#include "aot_perception/host.hpp"

#include <dlfcn.h>
#include <sys/utsname.h>

#include <fstream>
#include <sstream>

#include "libraries.hpp"

namespace aot_perception {
namespace {

// Extensions that gcc -march=native may use in compiled float code: ISA_FLAGS of aot_runtime/environment.py.
const std::set<std::string>& isa_flags() {
  static const std::set<std::string> flags = {
      // x86
      "sse4_1", "sse4_2", "popcnt", "movbe", "avx", "f16c", "fma", "avx2", "bmi1", "bmi2", "abm", "adx", "gfni", "vaes",
      "vpclmulqdq", "avx_vnni", "avx_ifma", "avx512f", "avx512dq", "avx512cd", "avx512bw", "avx512vl", "avx512ifma",
      "avx512vbmi", "avx512_vbmi2", "avx512_vnni", "avx512_bitalg", "avx512_vpopcntdq", "avx512_bf16", "avx512_fp16",
      "avx512_vp2intersect", "amx_bf16", "amx_tile", "amx_int8", "amx_fp16",
      // Arm
      "asimd", "fphp", "asimdhp", "asimddp", "asimdrdm", "asimdfhm", "fcma", "jscvt", "lrcpc", "ilrcpc", "atomics",
      "crc32", "sve", "sve2", "svei8mm", "svebf16", "i8mm", "bf16"};
  return flags;
}

/// Compute capabilities of the CUDA devices ("9.0"), asked from the driver.
std::vector<std::string> compute_capabilities() {
  void* driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (driver == nullptr) return {};
  using Init = int (*)(unsigned);
  using Count = int (*)(int*);
  using Get = int (*)(int*, int);
  using Attribute = int (*)(int*, int, int);
  const auto init = reinterpret_cast<Init>(dlsym(driver, "cuInit"));
  const auto count = reinterpret_cast<Count>(dlsym(driver, "cuDeviceGetCount"));
  const auto get = reinterpret_cast<Get>(dlsym(driver, "cuDeviceGet"));
  const auto attribute = reinterpret_cast<Attribute>(dlsym(driver, "cuDeviceGetAttribute"));
  std::vector<std::string> found;
  int devices = 0;
  if (init == nullptr || count == nullptr || get == nullptr || attribute == nullptr || init(0) != 0 ||
      count(&devices) != 0) {
    return found;
  }
  for (int index = 0; index < devices; ++index) {
    int device = 0, major = 0, minor = 0;
    // CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR of the driver API.
    if (get(&device, index) != 0 || attribute(&major, 75, device) != 0 || attribute(&minor, 76, device) != 0) break;
    found.push_back(std::to_string(major) + "." + std::to_string(minor));
  }
  return found;
}

std::string cpuinfo() {
  std::ifstream file("/proc/cpuinfo");
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

}  // namespace

std::set<std::string> cpu_flags_of(const std::string& cpuinfo) {
  std::istringstream lines(cpuinfo);
  std::string line;
  while (std::getline(lines, line)) {
    const std::size_t colon = line.find(':');
    if (colon == std::string::npos) continue;
    std::string key = line.substr(0, colon);
    key.erase(key.find_last_not_of(" \t") + 1);
    if (key != "flags" && key != "Features") continue;
    std::istringstream words(line.substr(colon + 1));
    std::set<std::string> found;
    std::string word;
    while (words >> word) {
      if (isa_flags().count(word) != 0) found.insert(word);
    }
    return found;
  }
  return {};
}

const Host& this_host() {
  static const Host host = [] {
    Host here;
#ifdef __APPLE__
    here.os = "darwin";
#else
    here.os = "linux";
#endif
    struct utsname names = {};
    if (uname(&names) == 0) here.machine = names.machine;
    here.cpu_flags = cpu_flags_of(cpuinfo());
    here.compute_capabilities = compute_capabilities();
    describe_libraries(here);
    return here;
  }();
  return host;
}

}  // namespace aot_perception
