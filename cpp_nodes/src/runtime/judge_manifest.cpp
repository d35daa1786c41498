// SPDX-License-Identifier: Apache-2.0
// The part of a verdict that manifest and machine decide; its table is test/data/verdict_cases.json.
#include <algorithm>
#include <optional>
#include <vector>

#include "aot_perception/verdict.hpp"
#include "python_text.hpp"
#include "verdict_texts.hpp"

namespace aot_perception {
namespace {

std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts(1);
  for (const char c : text) {
    if (c == separator) {
      parts.emplace_back();
    } else {
      parts.back() += c;
    }
  }
  return parts;
}

std::vector<std::string> major_minor(const std::string& version) {
  std::vector<std::string> parts = split(split(version, '+')[0], '.');
  if (parts.size() > 2) parts.resize(2);
  return parts;
}

/// Whether the parts that both versions name are equal, three at least: apt says 10.3.0 where pip says 10.3.0.26.
bool same_version(const std::string& made_with, const std::string& here) {
  const std::vector<std::string> left = split(made_with, '.'), right = split(here, '.');
  const auto count = static_cast<std::ptrdiff_t>(std::min(left.size(), right.size()));
  return count >= 3 && std::equal(left.begin(), left.begin() + count, right.begin());
}

/// One manifest on one machine; each check gives what keeps the artifact from running there, or nothing.
class Judge {
 public:
  Judge(const Manifest& manifest, const Device& device, const Host& host, const std::string& file)
      : manifest_(manifest),
        target_(manifest.target),
        kind_(device.cuda ? "cuda" : "cpu"),
        index_(static_cast<std::size_t>(device.index)),
        host_(host),
        file_(file) {}

  std::optional<Verdict> run() const {
    if (target_.runtime == "onnxruntime") return onnx();
    if (target_.runtime == "tensorrt" || target_.runtime == "tensorrt_rtx") return engine();
    return package();
  }

 private:
  std::optional<Verdict> package() const {
    if (auto found = other_device_or_platform()) return found;
    if (major_minor(target_.torch) != major_minor(host_.torch)) {
      return rebuild("TORCH_VERSION", "torch " + (host_.torch.empty() ? "(not installed)" : host_.torch),
                     "torch " + target_.torch);
    }
    if (kind_ == "cuda") {
      if (index_ >= host_.compute_capabilities.size()) return no_device();
      if (split(target_.cuda, '.')[0] != split(host_.cuda, '.')[0]) {
        return rebuild("CUDA_VERSION", "CUDA " + (host_.cuda.empty() ? "(a CPU build of torch)" : host_.cuda),
                       "CUDA " + target_.cuda);
      }
      if (auto found = other_capability()) return found;
    }
    std::vector<std::string> missing;
    for (const std::string& flag : std::set<std::string>(target_.cpu_flags.begin(), target_.cpu_flags.end())) {
      if (host_.cpu_flags.count(flag) == 0) missing.push_back(flag);
    }
    if (missing.empty()) return std::nullopt;
    return Verdict{"REBUILD", "CPU_ISA",
                   "expected code for this CPU, found " + file_ + " compiled for " +
                       (target_.cpu_isa.empty() ? "a CPU" : target_.cpu_isa) + " that uses " + join(missing) +
                       ", which this CPU lacks",
                   rebuild_remedy(manifest_)};
  }

  std::optional<Verdict> onnx() const {
    if (host_.onnxruntime.empty()) {
      return Verdict{"REFUSE", "RUNTIME_MISSING", "expected onnxruntime to run " + file_ + ", found it not installed",
                     host_.onnxruntime_remedy};
    }
    if (kind_ == "cuda" && index_ >= host_.compute_capabilities.size()) return no_device();
    return std::nullopt;
  }

  std::optional<Verdict> engine() const {
    if (auto found = other_device_or_platform()) return found;
    const bool enterprise = target_.runtime == "tensorrt";
    const std::string& version = enterprise ? host_.tensorrt : host_.tensorrt_rtx;
    const std::string wanted = target_.runtime + " " + target_.runtime_version;
    if (version.empty()) {
      const std::string& other = enterprise ? host_.tensorrt_rtx : host_.tensorrt;
      const std::string there =
          other.empty() ? "no TensorRT" : std::string("only ") + (enterprise ? "tensorrt_rtx " : "tensorrt ") + other;
      return Verdict{"REBUILD", "RUNTIME_MISSING",
                     "expected " + wanted + " to run " + file_ + ", found " + there + " installed",
                     "install " + wanted + host_.tensorrt_note + ", or " + rebuild_remedy(manifest_)};
    }
    if (!same_version(target_.runtime_version, version)) {
      return rebuild("RUNTIME_VERSION", target_.runtime + " " + version, wanted);
    }
    if (index_ >= host_.compute_capabilities.size()) return no_device();
    return other_capability();
  }

  std::optional<Verdict> other_device_or_platform() const {
    if (target_.device != kind_) {
      const std::string again = target_.runtime.empty() ? ", or export it again with --device " + kind_ : "";
      return Verdict{"REBUILD", "DEVICE_KIND",
                     "expected an artifact for device " + kind_ + ", found one for " + target_.device + " in " + file_,
                     "load it with device " + target_.device + again};
    }
    if (target_.os != host_.os) return rebuild("OS", "operating system " + host_.os, target_.os);
    if (target_.machine != host_.machine) return rebuild("MACHINE", "machine type " + host_.machine, target_.machine);
    return std::nullopt;
  }

  std::optional<Verdict> other_capability() const {
    const std::string& here = host_.compute_capabilities[index_];
    if (here == target_.compute_capability) return std::nullopt;
    return rebuild("COMPUTE_CAPABILITY", "compute capability " + here,
                   "compute capability " + target_.compute_capability);
  }

  Verdict no_device() const {
    return {"REFUSE", "NO_DEVICE",
            "expected CUDA device " + std::to_string(index_) + ", found " +
                std::to_string(host_.compute_capabilities.size()) + " CUDA devices here (for " + file_ + ")",
            "check the driver with nvidia-smi, or export the model for the CPU with --device cpu"};
  }

  Verdict rebuild(const char* code, const std::string& expected, const std::string& found) const {
    return {"REBUILD", code, "expected " + expected + ", found an artifact for " + found + " in " + file_,
            rebuild_remedy(manifest_)};
  }

  const Manifest& manifest_;
  const Target& target_;
  std::string kind_;
  std::size_t index_;
  const Host& host_;
  const std::string& file_;
};

}  // namespace

std::string rebuild_remedy(const Manifest& manifest) {
  if (!manifest.rebuild_command.empty()) {
    return "rebuild it on this machine: " + shell_join(manifest.rebuild_command);
  }
  return "export " + manifest.family + " " + manifest.variant + " again on this machine";
}

Verdict judge_manifest(const Manifest& manifest, const Device& device, const Host& host, const std::string& file) {
  if (const std::optional<Verdict> found = Judge(manifest, device, host, file).run()) return *found;
  if (manifest.checkpoint.is_random()) {
    return {"OK", "RANDOM_WEIGHTS",
            file + " runs here, but its weights are random (seed " + std::to_string(*manifest.checkpoint.random_seed) +
                "): its output means nothing",
            "export it with --checkpoint to get real output"};
  }
  return {"OK", "OK", file + " may run here", ""};
}

}  // namespace aot_perception
