// SPDX-License-Identifier: Apache-2.0
// The events of one instant of a recording, by the deployment rule. As f3_ros/instants.py.
//
// An instant is named in whole milliseconds of the file's own time: what ms_map_idx counts in M3ED files, time since
// t_offset in DSEC files; raw files count from the millisecond of their first event.
#pragma once

#include <cstdint>

#include "aot_perception/error.hpp"
#include "aot_perception/event_reader.hpp"
#include "aot_perception/event_window.hpp"

namespace aot_perception {

/// The events of [time_ms - window, time_ms), with times in microseconds of the file's own time. Not complete if the
/// window reaches out of the recording.
/// Error: the instant lies outside the recording, or the window holds no event; the reason tells the range.
Result<EventWindow> instant(EventReader& reader, std::int64_t time_ms, std::int64_t window_us);

}  // namespace aot_perception
