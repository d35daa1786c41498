// SPDX-License-Identifier: Apache-2.0
// What types cannot say about a manifest: names are unique, dims are declared, sizes are sane, the golden fits.
#pragma once

#include <nlohmann/json.hpp>

#include "aot_perception/manifest.hpp"
#include "json_fields.hpp"

namespace aot_perception {

/// Tells the first inconsistency, in the order and the words of aot_runtime/manifest.py.
///
/// @param data  the JSON of the manifest, every type checked.
void check_manifest(const Manifest& manifest, const nlohmann::json& data, Problem& problem);

}  // namespace aot_perception
