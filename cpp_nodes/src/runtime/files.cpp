// SPDX-License-Identifier: Apache-2.0
#include "aot_perception/files.hpp"

#include <sys/stat.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <sstream>
#include <utility>

#include "file_reader.hpp"
#include "python_text.hpp"

namespace aot_perception {
namespace {

constexpr std::size_t kMaxList = 16 << 20;
constexpr char kWriteList[] = "write the list with: sha256sum *.pt2 > allow.txt";

std::string trimmed(const std::string& text) {
  const std::size_t first = text.find_first_not_of(" \t\r\f\v");
  if (first == std::string::npos) return "";
  return text.substr(first, text.find_last_not_of(" \t\r\f\v") - first + 1);
}

std::string lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) { return std::tolower(c); });
  return text;
}

/// The file itself, through links; "" on error.
std::string resolved(const std::string& path) {
  const std::unique_ptr<char, decltype(&std::free)> real(realpath(path.c_str(), nullptr), std::free);
  return real == nullptr ? "" : real.get();
}

}  // namespace

Result<std::string> sha256_file(const std::string& path) {
  const Result<FileReader> file = FileReader::open(path);
  if (!file) return file.error();
  return file->sha256(file->size());
}

Result<std::optional<Error>> permission_problem(const std::string& path) {
  const std::string file = resolved(path);
  struct stat about = {}, folder_about = {};
  const std::size_t slash = file.rfind('/');
  const std::string folder = slash == std::string::npos || slash == 0 ? "/" : file.substr(0, slash);
  if (file.empty() || stat(file.c_str(), &about) != 0 || stat(folder.c_str(), &folder_about) != 0) {
    return Error{std::strerror(errno), ""};
  }
  if ((about.st_mode & S_IWOTH) != 0) {
    return std::optional<Error>(
        Error{"expected a file that only its owner can change, found " + file + " writable for everybody",
              "run chmod o-w " + file});
  }
  if ((folder_about.st_mode & S_IWOTH) != 0 && (folder_about.st_mode & S_ISVTX) == 0) {
    return std::optional<Error>(Error{"expected a folder where strangers cannot replace " + file.substr(slash + 1) +
                                          ", found " + folder + " writable for everybody",
                                      "run chmod o-w " + folder});
  }
  return std::optional<Error>();
}

AllowList::AllowList(std::set<std::string> digests, std::string source) : source_(std::move(source)) {
  for (const std::string& digest : digests)
    digests_.insert(lower(digest));
}

Result<AllowList> AllowList::read(const std::string& path) {
  const Result<FileReader> file = FileReader::open(path);
  const Result<std::string> text = file ? file->read(0, kMaxList) : Result<std::string>(file.error());
  if (!text || !is_utf8(*text)) {
    return Error{"expected an allow-list of SHA-256 digests, found " + path + " unreadable (" +
                     (text ? "not UTF-8" : text.error().reason) + ")",
                 "write it with: sha256sum *.pt2 > allow.txt"};
  }
  std::set<std::string> digests;
  std::istringstream lines(*text);
  std::string line;
  for (int number = 1; std::getline(lines, line); ++number) {
    line = trimmed(line);
    if (line.empty() || line[0] == '#') continue;
    const std::string digest = lower(line.substr(0, 64));
    const bool is_digest = digest.size() == 64 && digest.find_first_not_of("0123456789abcdef") == std::string::npos;
    if (!is_digest || (line.size() > 64 && line[64] != ' ' && line[64] != '\t')) {
      return Error{"expected '<64 hex digits>  <name>', found " + python_repr(first_characters(line, 80)) + " in " +
                       path + " line " + std::to_string(number),
                   kWriteList};
    }
    digests.insert(digest);
  }
  return AllowList(std::move(digests), path);
}

bool AllowList::contains(const std::string& digest) const {
  return digests_.count(lower(digest)) != 0;
}

}  // namespace aot_perception
