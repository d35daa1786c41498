// SPDX-License-Identifier: Apache-2.0
// Result and Error.
#include <gtest/gtest.h>

#include <memory>

#include "aot_perception/error.hpp"

namespace aot_perception {
namespace {

Result<std::unique_ptr<int>> make(bool works) {
  if (!works) return Error{"expected a number, found none", "give one"};
  return std::make_unique<int>(7);
}

Result<void> act(bool works) {
  if (!works) return Error{"expected A, found B", ""};
  return {};
}

TEST(Result, HoldsAValueThatCannotBeCopied) {
  Result<std::unique_ptr<int>> result = make(true);
  ASSERT_TRUE(result);
  EXPECT_EQ(**result, 7);
  std::unique_ptr<int> taken = *std::move(result);
  EXPECT_EQ(*taken, 7);
}

TEST(Result, HoldsAnErrorWithReasonAndRemedy) {
  const auto result = make(false);
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().reason, "expected a number, found none");
  EXPECT_EQ(result.error().message(), "expected a number, found none; give one");
}

TEST(Result, OfNothing) {
  EXPECT_TRUE(act(true));
  ASSERT_FALSE(act(false));
  EXPECT_EQ(act(false).error().message(), "expected A, found B");
}

TEST(Result, ErrorPassesFromOneTypeToAnother) {
  const auto outer = [](bool works) -> Result<std::string> {
    auto inner = make(works);
    if (!inner) return inner.error();
    return std::to_string(**inner);
  };
  EXPECT_EQ(outer(true).value(), "7");
  EXPECT_EQ(outer(false).error().remedy, "give one");
}

}  // namespace
}  // namespace aot_perception
