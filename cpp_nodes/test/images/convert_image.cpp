// SPDX-License-Identifier: Apache-2.0
// For tests in Python: converts image messages.
//
// On stdin a request: {"images": [{"encoding", "height", "width", "step", "is_bigendian", "file", "desired"} or
// {"format", "file", "desired"}], "folder": D}; desired "" asks for the view of a plain encoding.
// On stdout: {"results": [{"error"} or {"shape", "type"}]}; pixels as files D/<index>.bin.
#include <fstream>
#include <iostream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <opencv2/core.hpp>
#include <string>

#include "aot_perception/images.hpp"

namespace {

using namespace aot_perception;
using nlohmann::json;

Result<cv::Mat> convert(const json& told, const std::vector<char>& bytes) {
  const auto* data = reinterpret_cast<const std::uint8_t*>(bytes.data());
  const auto desired = told.at("desired").get<std::string>();
  if (told.contains("format")) return convert_compressed(told["format"], data, bytes.size(), desired);
  ImageFields fields;
  fields.encoding = told.at("encoding");
  fields.height = told.at("height");
  fields.width = told.at("width");
  fields.step = told.at("step");
  fields.is_bigendian = told.at("is_bigendian");
  fields.data = data;
  fields.size = bytes.size();
  return desired.empty() ? image_view(fields, told.value("allow_nan", true)) : convert_image(fields, desired);
}

}  // namespace

int main() {
  const std::string text{std::istreambuf_iterator<char>(std::cin), {}};
  const json request = json::parse(text);
  json results = json::array();
  for (const json& told : request.at("images")) {
    std::ifstream file(told.at("file").get<std::string>(), std::ios::binary);
    const std::vector<char> bytes{std::istreambuf_iterator<char>(file), {}};
    const Result<cv::Mat> pixels = convert(told, bytes);
    if (!pixels) {
      results.push_back({{"error", pixels.error().message()}});
      continue;
    }
    const cv::Mat whole = pixels->clone();
    std::ofstream(request.at("folder").get<std::string>() + "/" + std::to_string(results.size()) + ".bin",
                  std::ios::binary)
        .write(reinterpret_cast<const char*>(whole.data),
               static_cast<std::streamsize>(whole.total() * whole.elemSize()));
    results.push_back(
        {{"shape", {whole.rows, whole.cols, whole.channels()}}, {"type", cv::depthToString(whole.depth())}});
  }
  std::cout << json{{"results", results}}.dump() << "\n";
  return 0;
}
