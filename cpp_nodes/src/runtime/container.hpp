// SPDX-License-Identifier: Apache-2.0
// The three files an artifact can be, by suffix: the manifest of each, and whether its bytes are those of the export.
#pragma once

#include <optional>
#include <string>

#include "aot_perception/error.hpp"

namespace aot_perception {

enum class Container { kPackage, kOnnx, kEngine };

/// The container of a file name; a name without a known suffix is taken for a `.pt2`.
Container container_of(const std::string& path);
/// ".pt2", ".onnx", ".engine".
const char* suffix_of(Container container);
/// Whether files of this kind have manifests for that runtime.
bool runs_on(Container container, const std::string& runtime);

/// Why a container cannot be used; the verdict's codes.
enum class Flaw { kNone, kUnreadable, kNotAPackage, kDamaged, kNoManifest };

/// A text or a flaw with its words. `kUnreadable` has the system's word as reason.
struct ContainerText {
  Flaw flaw = Flaw::kNone;
  Error error;
  std::string text;
};

inline ContainerText flawed(Flaw flaw, std::string reason, std::string remedy) {
  return {flaw, Error{std::move(reason), std::move(remedy)}, ""};
}

/// The manifest's JSON text.
ContainerText read_manifest_json(Container container, const std::string& path);

/// Compares the bytes with what the export wrote; the text stays empty.
///
/// @param digest  of the file where it is known, which spares reading an engine again.
ContainerText check_bytes(Container container, const std::string& path, const std::optional<std::string>& digest);

// package.cpp: a zip of stored members whose AOTInductor metadata carries the manifest.
ContainerText read_package_manifest(const std::string& path);
ContainerText check_package(const std::string& path);

// onnx_file.cpp: a protobuf ModelProto with the manifest among its metadata properties.
ContainerText read_onnx_manifest(const std::string& path);
ContainerText check_onnx(const std::string& path);

// engine_file.cpp: TensorRT's bytes, and X.engine.json beside them.
std::string engine_manifest_path(const std::string& path);
ContainerText read_engine_manifest(const std::string& path);
ContainerText check_engine(const std::string& path, const std::optional<std::string>& digest);

constexpr char kCopyAgain[] = "copy it again and compare sha256sum, or export the model again";
constexpr char kExport[] = "export the model with the export command of its family";

}  // namespace aot_perception
