// SPDX-License-Identifier: Apache-2.0
// Arguments of the tools: "--name value" or "--name=value", with underscores or dashes alike, and --help.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "aot_perception/error.hpp"

namespace aot_perception {

/// One option that a tool takes.
struct Option {
  std::string name;        ///< with underscores and without the leading dashes
  std::size_t values = 1;  ///< 0 for a switch
  std::string otherwise;   ///< the default, for one value
  std::string help;
};

class CommandLine {
 public:
  /// @param usage     what stands behind the program's name in the first line of the help.
  /// @param most_words  how many arguments without a name there may be.
  CommandLine(std::string usage, std::string about, std::vector<Option> options, std::size_t most_words);

  /// Error: an unknown option, a value too few, or a word too many; the help is asked for by `wants_help`.
  Result<void> parse(int argc, char** argv);

  [[nodiscard]] bool wants_help() const { return help_; }
  [[nodiscard]] std::string help_text() const;

  [[nodiscard]] bool has(const std::string& name) const { return given_.count(name) != 0; }
  [[nodiscard]] const std::vector<std::string>& words() const { return words_; }
  /// The value given, else the default.
  [[nodiscard]] std::string text(const std::string& name) const;
  /// All values given; none if the option is not.
  [[nodiscard]] std::vector<std::string> all(const std::string& name) const;
  /// A whole number from `least` on. Error: another text.
  [[nodiscard]] Result<long> integer(const std::string& name, long least) const;
  /// A number from 0 on. Error: another text.
  [[nodiscard]] Result<double> seconds(const std::string& name) const;

 private:
  [[nodiscard]] const Option* find(std::string name) const;

  std::string usage_, about_;
  std::vector<Option> options_;
  std::size_t most_words_;
  bool help_ = false;
  std::vector<std::string> words_;
  std::map<std::string, std::vector<std::string>> given_;
};

/// A whole number from `least` on. Error: the text is none; `what` names it.
Result<long> parse_integer(const std::string& text, long least, const std::string& what);

}  // namespace aot_perception
