// SPDX-License-Identifier: Apache-2.0
// The `.onnx` container: a walk over the top-level fields of a ModelProto; see aot_runtime/backends/onnx_file.py.
#include <sys/stat.h>

#include <functional>

#include "aot_perception/files.hpp"
#include "aot_perception/manifest.hpp"
#include "container.hpp"
#include "file_reader.hpp"
#include "python_text.hpp"

namespace aot_perception {
namespace {

constexpr char kDigestKey[] = "aot_perception.sha256";
constexpr char kExternalKey[] = "aot_perception.external_data";
// Field numbers of ModelProto and of StringStringEntryProto in onnx.proto.
constexpr std::uint64_t kMetadataProps = 14;
constexpr std::uint64_t kGraph = 7;
constexpr std::uint64_t kKey = 1;
constexpr std::uint64_t kValue = 2;
constexpr unsigned kVarint = 0;
constexpr unsigned kFixed64 = 1;
constexpr unsigned kLengthDelimited = 2;
constexpr unsigned kFixed32 = 5;
constexpr std::uint64_t kMaxProperty = 16 << 20;

/// One top-level field: where its tag begins, its number, and its payload if it is length-delimited.
struct Field {
  std::uint64_t start = 0;
  std::uint64_t number = 0;
  std::uint64_t payload = 0;
  std::uint64_t length = 0;
  bool delimited = false;
};

/// A number of 7 bits a byte from `position` on; "" or what is wrong.
std::string read_varint(const std::string& data, std::size_t& position, std::uint64_t& value) {
  value = 0;
  for (unsigned shift = 0; shift < 70; shift += 7) {
    if (position >= data.size()) return "the end of the file within a number";
    const auto byte = static_cast<unsigned char>(data[position++]);
    if (shift == 63 && byte > 1) break;
    value |= static_cast<std::uint64_t>(byte & 127U) << shift;
    if (byte < 128) return "";
  }
  return "a number of more than 64 bits";
}

class OnnxFile {
 public:
  OnnxFile(const std::string& path, const FileReader& file) : path_(path), file_(file) {}

  /// Calls `visit` with every field until it finds a flaw; a model without a graph is flawed too.
  ContainerText walk(const std::function<ContainerText(const Field&)>& visit) const {
    bool has_graph = false;
    for (std::uint64_t position = 0; position < file_.size();) {
      Field field;
      ContainerText flaw = next(position, field);
      if (flaw.flaw != Flaw::kNone) return flaw;
      has_graph = has_graph || field.number == kGraph;
      flaw = visit(field);
      if (flaw.flaw != Flaw::kNone) return flaw;
    }
    return has_graph ? ContainerText{} : not_a_model("no graph");
  }

  /// Key and value of a metadata property.
  ContainerText property(const Field& field, std::string& key, std::string& value) const {
    if (field.length > kMaxProperty) {
      return flawed(Flaw::kDamaged,
                    "expected metadata properties of at most " + std::to_string(kMaxProperty) + " bytes, found " +
                        std::to_string(field.length) + " in " + path_,
                    kCopyAgain);
    }
    const Result<std::string> data = file_.read(field.payload, static_cast<std::size_t>(field.length));
    if (!data) return flawed(Flaw::kUnreadable, data.error().reason, "");
    key.clear();
    value.clear();
    for (std::size_t position = 0; position < data->size();) {
      std::uint64_t tag = 0, length = 0;
      std::string wrong = read_varint(*data, position, tag);
      if (wrong.empty()) wrong = read_varint(*data, position, length);
      if (!wrong.empty()) return not_a_model(wrong);
      if ((tag & 7U) != kLengthDelimited || length > data->size() - position) {
        return not_a_model("a malformed metadata property");
      }
      if (tag >> 3 == kKey) key = data->substr(position, static_cast<std::size_t>(length));
      if (tag >> 3 == kValue) value = data->substr(position, static_cast<std::size_t>(length));
      position += static_cast<std::size_t>(length);
    }
    if (!is_utf8(key) || !is_utf8(value)) {
      return flawed(Flaw::kDamaged, "expected metadata in UTF-8, found other bytes in " + path_, kCopyAgain);
    }
    return {};
  }

  ContainerText not_a_model(const std::string& why) const {
    return flawed(Flaw::kNotAPackage,
                  "expected an ONNX model, found " + path_ + " truncated or no model (" + std::to_string(file_.size()) +
                      " bytes; " + why + ")",
                  kCopyAgain);
  }

 private:
  /// The field at `position`, which moves behind it.
  ContainerText next(std::uint64_t& position, Field& field) const {
    const Result<std::string> head = file_.read(position, 20);
    if (!head) return flawed(Flaw::kUnreadable, head.error().reason, "");
    std::size_t used = 0;
    std::uint64_t tag = 0, number = 0;
    std::string wrong = read_varint(*head, used, tag);
    if (!wrong.empty()) return not_a_model(wrong);
    field.start = position;
    field.number = tag >> 3;
    const auto kind = static_cast<unsigned>(tag & 7U);
    std::uint64_t behind = 0;  // bytes of the payload
    if (kind == kLengthDelimited || kind == kVarint) {
      wrong = read_varint(*head, used, number);
      if (!wrong.empty()) return not_a_model(wrong);
      field.delimited = kind == kLengthDelimited;
      behind = field.delimited ? number : 0;
    } else if (kind == kFixed64 || kind == kFixed32) {
      behind = kind == kFixed64 ? 8 : 4;
    } else {
      return not_a_model("wire type " + std::to_string(kind) + " at byte " + std::to_string(position));
    }
    field.payload = position + used;
    field.length = behind;
    if (field.number == 0 || behind > file_.size() - field.payload) {
      return not_a_model("a field at byte " + std::to_string(position) + " of " + std::to_string(behind) + " bytes");
    }
    position = field.payload + behind;
    return {};
  }

  const std::string& path_;
  const FileReader& file_;
};

ContainerText check_external(const std::string& path, const std::string& told) {
  const std::string digits = told.substr(0, 64);
  const std::string name = told.size() > 66 ? told.substr(66) : "";
  if (digits.find_first_not_of("0123456789abcdef") != std::string::npos || told.substr(0, 66) != digits + "  " ||
      name.empty() || name.find_first_of(std::string("/\\\0", 3)) != std::string::npos) {
    return flawed(
        Flaw::kDamaged,
        "expected '<64 hex digits>  <file>', found " + first_characters(python_repr(told), 90) + " in " + path,
        kCopyAgain);
  }
  const std::size_t slash = path.rfind('/');
  const std::string weights = (slash == std::string::npos ? "" : path.substr(0, slash + 1)) + name;
  struct stat about = {};
  if (stat(weights.c_str(), &about) != 0 || !S_ISREG(about.st_mode)) {
    return flawed(Flaw::kDamaged, "expected the weights of " + path + " beside it, found no file " + weights,
                  "copy " + name + " along with it");
  }
  const Result<std::string> found = sha256_file(weights);
  if (!found) return flawed(Flaw::kUnreadable, found.error().reason, "");
  if (*found != digits) {
    return flawed(Flaw::kDamaged, "expected the weights that the export wrote, found others in " + weights, kCopyAgain);
  }
  return {};
}

}  // namespace

ContainerText read_onnx_manifest(const std::string& path) {
  const Result<FileReader> reader = FileReader::open(path);
  if (!reader) return flawed(Flaw::kUnreadable, reader.error().reason, "");
  const OnnxFile file(path, *reader);
  bool found = false;
  ContainerText result;
  ContainerText flaw = file.walk([&](const Field& field) -> ContainerText {
    if (field.number != kMetadataProps || !field.delimited) return {};
    std::string key, value;
    ContainerText wrong = file.property(field, key, value);
    if (wrong.flaw == Flaw::kNone && key == kMetadataKey) {
      found = true;
      result.text = value;
    }
    return wrong;
  });
  if (flaw.flaw != Flaw::kNone) return flaw;
  if (found) return result;
  return flawed(Flaw::kNoManifest,
                std::string("expected a manifest (metadata property ") + kMetadataKey + "), found none in " + path,
                kExport);
}

ContainerText check_onnx(const std::string& path) {
  const Result<FileReader> reader = FileReader::open(path);
  if (!reader) return flawed(Flaw::kUnreadable, reader.error().reason, "");
  const OnnxFile file(path, *reader);
  std::string expected, external;
  std::uint64_t covered = 0;
  ContainerText flaw = file.walk([&](const Field& field) -> ContainerText {
    if (field.number == kMetadataProps && field.delimited) {
      std::string key, value;
      ContainerText wrong = file.property(field, key, value);
      if (wrong.flaw == Flaw::kNone && key == kDigestKey) {
        expected = value;
        covered = field.start;
      } else if (wrong.flaw == Flaw::kNone && key == kExternalKey) {
        external = value;
      }
      return wrong;
    }
    if (expected.empty()) return {};
    return flawed(Flaw::kDamaged, "expected the digest to end the file, found more after it in " + path, kCopyAgain);
  });
  if (flaw.flaw != Flaw::kNone) return flaw;
  if (expected.empty()) {
    return flawed(Flaw::kNoManifest,
                  std::string("expected a digest (metadata property ") + kDigestKey + "), found none in " + path,
                  kExport);
  }
  const Result<std::string> found = reader->sha256(covered);
  if (!found) return flawed(Flaw::kUnreadable, found.error().reason, "");
  if (*found != expected) {
    return flawed(Flaw::kDamaged, "expected the bytes that the export wrote, found others in " + path, kCopyAgain);
  }
  return external.empty() ? ContainerText{} : check_external(path, external);
}

}  // namespace aot_perception
