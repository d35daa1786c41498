// SPDX-License-Identifier: Apache-2.0
#include "file_reader.hpp"

#include <fcntl.h>
#include <openssl/evp.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <vector>

namespace aot_perception {
namespace {

constexpr std::size_t kChunk = 4 << 20;

Error system_error() {
  return Error{std::strerror(errno), ""};
}

/// Reads until the buffer is full or the file ends; -1 on error.
ssize_t read_at(int descriptor, char* buffer, std::size_t count, std::uint64_t position) {
  std::size_t done = 0;
  while (done < count) {
    const ssize_t got = pread(descriptor, buffer + done, count - done, static_cast<off_t>(position + done));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return -1;
    if (got == 0) break;
    done += static_cast<std::size_t>(got);
  }
  return static_cast<ssize_t>(done);
}

struct FreeDigest {
  void operator()(EVP_MD_CTX* context) const { EVP_MD_CTX_free(context); }
};

}  // namespace

Result<FileReader> FileReader::open(const std::string& path) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) return system_error();
  struct stat about = {};
  if (fstat(descriptor, &about) != 0 || !S_ISREG(about.st_mode)) {
    if (!S_ISREG(about.st_mode)) errno = S_ISDIR(about.st_mode) ? EISDIR : EINVAL;
    const Error error = system_error();
    ::close(descriptor);
    return error;
  }
  return FileReader(descriptor, static_cast<std::uint64_t>(about.st_size));
}

FileReader::~FileReader() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

Result<std::string> FileReader::read(std::uint64_t position, std::size_t count) const {
  if (position >= size_) return std::string();
  std::string data(static_cast<std::size_t>(std::min<std::uint64_t>(count, size_ - position)), '\0');
  const ssize_t got = read_at(descriptor_, data.data(), data.size(), position);
  if (got < 0) return system_error();
  data.resize(static_cast<std::size_t>(got));
  return data;
}

Result<std::string> FileReader::sha256(std::uint64_t count) const {
  const std::unique_ptr<EVP_MD_CTX, FreeDigest> context(EVP_MD_CTX_new());
  if (context == nullptr || EVP_DigestInit_ex(context.get(), EVP_sha256(), nullptr) != 1) {
    return Error{"OpenSSL has no SHA-256", ""};
  }
  std::vector<char> buffer(kChunk);
  for (std::uint64_t position = 0; position < count;) {
    const auto wanted = static_cast<std::size_t>(std::min<std::uint64_t>(count - position, buffer.size()));
    const ssize_t got = read_at(descriptor_, buffer.data(), wanted, position);
    if (got < 0) return system_error();
    if (got == 0) break;
    EVP_DigestUpdate(context.get(), buffer.data(), static_cast<std::size_t>(got));
    position += static_cast<std::uint64_t>(got);
  }
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int length = 0;
  EVP_DigestFinal_ex(context.get(), digest, &length);
  static const char* hex = "0123456789abcdef";
  std::string text;
  for (unsigned int i = 0; i < length; ++i) {
    text += hex[digest[i] >> 4];
    text += hex[digest[i] & 15];
  }
  return text;
}

}  // namespace aot_perception
