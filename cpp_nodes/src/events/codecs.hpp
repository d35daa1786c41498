// SPDX-License-Identifier: Apache-2.0
// The decoders of the single encodings, for make_event_codec.
#pragma once

#include <memory>

#include "aot_perception/event_codec.hpp"

namespace aot_perception {

std::unique_ptr<EventCodec> make_evt3_codec(int width, int height, const CodecOptions& options);
std::unique_ptr<EventCodec> make_evt2_codec(int width, int height, const CodecOptions& options);
std::unique_ptr<EventCodec> make_evt21_codec(int width, int height, const CodecOptions& options);
std::unique_ptr<EventCodec> make_libcaer_codec(int width, int height, const CodecOptions& options);
std::unique_ptr<EventCodec> make_libcaer_cmp_codec(int width, int height, const CodecOptions& options);
std::unique_ptr<EventCodec> make_mono_codec(int width, int height, const CodecOptions& options);

}  // namespace aot_perception
