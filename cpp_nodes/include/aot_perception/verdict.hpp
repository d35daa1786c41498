// SPDX-License-Identifier: Apache-2.0
// May this artifact run here? Answered before anything of it is loaded (aot_runtime/verdict.py).
#pragma once

#include <optional>
#include <string>

#include "aot_perception/error.hpp"
#include "aot_perception/files.hpp"
#include "aot_perception/host.hpp"
#include "aot_perception/manifest.hpp"
#include "aot_perception/tensor.hpp"

namespace aot_perception {

/// kind "OK", "REBUILD" (sound, but made for another machine or library) or "REFUSE" (do not run these bytes); `code`
/// names the case; reason and remedy are for people.
struct Verdict {
  std::string kind;
  std::string code;
  std::string reason;
  std::string remedy;

  bool ok() const { return kind == "OK"; }
  /// Runs, but its numbers mean nothing.
  bool random_weights() const { return code == "RANDOM_WEIGHTS"; }
  /// "KIND CODE: reason; remedy".
  std::string text() const;
  /// The error of a load that this verdict stops.
  Error error() const;
};

/// How much judge() does.
struct JudgeOptions {
  /// Digests that may run; none given: all.
  std::optional<AllowList> allow_list;
  /// Compare the bytes with the file's checksums (about 1 s per GB).
  bool check_bytes = true;
  /// The machine to judge for; nullptr: this one.
  const Host* host = nullptr;
};

/// The verdict on a `.pt2`, `.onnx` or `.engine` file for a device of this machine.
Verdict judge(const std::string& path, const Device& device, const JudgeOptions& options = {});

/// The part that needs only the manifest and the machine; driven by test/data/verdict_cases.json.
Verdict judge_manifest(const Manifest& manifest, const Device& device, const Host& host, const std::string& file);

/// The manifest of an artifact, read without torch, ONNX or TensorRT.
///
/// Error: no artifact, no manifest, or a malformed one; the message says which.
Result<Manifest> read_manifest(const std::string& path);

/// The verdict when the golden self-test fails: `text` is "A, found B" of `output`.
Verdict self_test_verdict(const Manifest& manifest, const std::string& file, const std::string& output,
                          const std::string& text, bool non_finite);

/// The verdict when TensorRT refuses an engine that manifest and digest vouch for.
Verdict rejected_verdict(const Manifest& manifest, const std::string& reason);

}  // namespace aot_perception
