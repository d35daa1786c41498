// SPDX-License-Identifier: Apache-2.0
#include "aot_perception/events.hpp"

#include <algorithm>

namespace aot_perception {

void EventArrays::allocate(std::size_t capacity) {
  // Not make_unique, which would write zeros that nobody reads.
  x_.reset(new std::uint16_t[capacity]);
  y_.reset(new std::uint16_t[capacity]);
  t_.reset(new std::int64_t[capacity]);
  p_.reset(new std::uint8_t[capacity]);
  capacity_ = capacity;
}

void EventArrays::reserve(std::size_t capacity) {
  if (capacity <= capacity_) return;
  EventArrays larger(std::max(capacity, 2 * capacity_));
  larger.append(view());
  *this = std::move(larger);
}

void EventArrays::append(const EventsView& events) {
  reserve(size_ + events.size);
  std::copy_n(events.x, events.size, x_.get() + size_);
  std::copy_n(events.y, events.size, y_.get() + size_);
  std::copy_n(events.t, events.size, t_.get() + size_);
  std::copy_n(events.p, events.size, p_.get() + size_);
  size_ += events.size;
}

void EventArrays::push_back(std::uint16_t column, std::uint16_t row, std::int64_t time, std::uint8_t polarity) {
  reserve(size_ + 1);
  x_[size_] = column;
  y_[size_] = row;
  t_[size_] = time;
  p_[size_] = polarity;
  ++size_;
}

}  // namespace aot_perception
