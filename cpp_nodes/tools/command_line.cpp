// SPDX-License-Identifier: Apache-2.0
#include "command_line.hpp"

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdlib>
#include <utility>

namespace aot_perception {

CommandLine::CommandLine(std::string usage, std::string about, std::vector<Option> options, std::size_t most_words)
    : usage_(std::move(usage)), about_(std::move(about)), options_(std::move(options)), most_words_(most_words) {}

const Option* CommandLine::find(std::string name) const {
  std::replace(name.begin(), name.end(), '-', '_');
  const auto found =
      std::find_if(options_.begin(), options_.end(), [&](const Option& one) { return one.name == name; });
  return found == options_.end() ? nullptr : &*found;
}

Result<void> CommandLine::parse(int argc, char** argv) {
  const std::vector<std::string> arguments(argv + 1, argv + argc);
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    const std::string& argument = arguments[i];
    if (argument == "--help" || argument == "-h") {
      help_ = true;
      return {};
    }
    if (argument.substr(0, 2) != "--") {
      if (words_.size() == most_words_) return Error{"expected options, found " + argument, "see --help"};
      words_.push_back(argument);
      continue;
    }
    const std::size_t equals = argument.find('=');
    const Option* const option = find(argument.substr(2, equals == std::string::npos ? equals : equals - 2));
    if (option == nullptr) return Error{"expected an option that --help lists, found " + argument, ""};
    std::vector<std::string> values;
    if (equals != std::string::npos) values.push_back(argument.substr(equals + 1));
    while (values.size() < option->values && i + 1 < arguments.size())
      values.push_back(arguments[++i]);
    if (values.size() != option->values) {
      return Error{"expected " + std::to_string(option->values) + " values of --" + option->name + ", found " +
                       std::to_string(values.size()),
                   "see --help"};
    }
    given_[option->name] = values;
  }
  return {};
}

std::string CommandLine::help_text() const {
  std::string text = "usage: " + usage_ + "\n\n" + about_ + "\n\n";
  for (const Option& option : options_) {
    std::string line = "  --" + option.name;
    for (std::size_t i = 0; i < option.values; ++i)
      line += " X";
    line.resize(std::max<std::size_t>(line.size() + 2, 26), ' ');
    text += line + option.help + (option.otherwise.empty() ? "" : " (default " + option.otherwise + ")") + "\n";
  }
  return text;
}

std::string CommandLine::text(const std::string& name) const {
  const auto given = given_.find(name);
  if (given != given_.end() && !given->second.empty()) return given->second[0];
  const Option* const option = find(name);
  return option == nullptr ? "" : option->otherwise;
}

std::vector<std::string> CommandLine::all(const std::string& name) const {
  const auto given = given_.find(name);
  return given == given_.end() ? std::vector<std::string>{} : given->second;
}

Result<long> CommandLine::integer(const std::string& name, long least) const {
  return parse_integer(text(name), least, "--" + name);
}

Result<double> CommandLine::seconds(const std::string& name) const {
  const std::string given = text(name);
  char* end = nullptr;
  const double value = std::strtod(given.c_str(), &end);
  if (given.empty() || *end != '\0' || !std::isfinite(value) || value < 0 || value > 1e9) {
    return Error{"expected seconds from 0 on for --" + name + ", found '" + given + "'", ""};
  }
  return value;
}

Result<long> parse_integer(const std::string& text, long least, const std::string& what) {
  char* end = nullptr;
  errno = 0;
  const long value = std::strtol(text.c_str(), &end, 10);
  if (text.empty() || *end != '\0' || errno != 0 || value < least) {
    return Error{"expected a whole number from " + std::to_string(least) + " on for " + what + ", found '" + text + "'",
                 ""};
  }
  return value;
}

}  // namespace aot_perception
