// SPDX-License-Identifier: Apache-2.0
// Every verdict: its kind, its code, and the words of its reason and remedy.
#include <gtest/gtest.h>

#include <random>

#include "aot_perception/verdict.hpp"
#include "cases.hpp"
#include "packages.hpp"

namespace aot_perception {
namespace {

using nlohmann::json;
using testing::base_host;
using testing::file_text;
using testing::plain_manifest;
using testing::says;
using testing::write_file;

TEST(VerdictTable, SharedWithPython) {
  const json table = testing::table("verdict_cases.json");
  ASSERT_GT(table.at("cases").size(), 30U);
  for (const json& item : table.at("cases")) {
    json document = table.at("base_manifest"), host = table.at("base_host");
    document.merge_patch(item.at("manifest"));
    // A merge patch takes null for "remove"; Python's table never patches with null.
    host.merge_patch(item.at("host"));
    const Result<Manifest> manifest = Manifest::from_json(document.dump());
    ASSERT_TRUE(manifest) << item.at("name") << manifest.error().message();
    const Verdict verdict = judge_manifest(*manifest, *Device::parse(item.at("device").get<std::string>()),
                                           testing::host_of(host), "/a/f.pt2");
    EXPECT_EQ(verdict.kind, item.at("kind")) << item.at("name");
    EXPECT_EQ(verdict.code, item.at("code")) << item.at("name");
    for (const json& words : item.at("says")) {
      std::string text = words.get<std::string>();
      for (std::size_t at; (at = text.find("FILE")) != std::string::npos;)
        text.replace(at, 4, "/a/f.pt2");
      EXPECT_TRUE(says(verdict.reason + "; " + verdict.remedy, text)) << item.at("name");
    }
  }
}

class VerdictOnFiles : public testing::Scratch {
 protected:
  std::string package(const json& manifest, const std::string& name = "m.pt2") {
    const std::string path = (folder_ / name).string(), text = manifest.dump();
    testing::write_package(path, &text);
    return path;
  }

  std::string onnx(const json& manifest) {
    const std::string path = (folder_ / "m.onnx").string();
    const std::string body = testing::delimited(7, "graph") + testing::property(kMetadataKey, manifest.dump());
    write_file(path, body);
    const std::string digest = sha256_file(path).value();
    write_file(path, body + testing::property("aot_perception.sha256", digest));
    return path;
  }

  std::string engine(json manifest) {
    const std::string path = (folder_ / "m.engine").string();
    write_file(path, std::string(1000, 'e'));
    manifest["target"].update(
        {{"device", "cuda"}, {"runtime", "tensorrt"}, {"runtime_version", "10.3.0.26"}, {"compute_capability", "8.9"}});
    manifest["file_sha256"] = sha256_file(path).value();
    write_file(path + ".json", manifest.dump());
    return path;
  }

  Verdict judged(const std::string& path, std::optional<AllowList> allowed = {}, bool check = true,
                 const char* device = "cpu") const {
    JudgeOptions options;
    options.allow_list = std::move(allowed);
    options.check_bytes = check;
    options.host = &host_;
    return judge(path, *Device::parse(device), options);
  }

  static void expect(const Verdict& verdict, const std::string& kind, const std::string& code,
                     const std::vector<std::string>& words = {}) {
    EXPECT_EQ(verdict.kind, kind) << verdict.text();
    EXPECT_EQ(verdict.code, code) << verdict.text();
    for (const std::string& word : words)
      EXPECT_TRUE(says(verdict.reason + "; " + verdict.remedy, word));
    EXPECT_TRUE(verdict.ok() || !verdict.remedy.empty());
  }

  Host host_ = base_host();
};

TEST_F(VerdictOnFiles, AGoodPackage) {
  const std::string path = package(plain_manifest());
  expect(judged(path), "OK", "OK", {path + " may run here"});
  EXPECT_EQ(read_manifest(path)->family, "tiny");
}

TEST_F(VerdictOnFiles, MissingFile) {
  expect(judged((folder_ / "no.pt2").string()), "REFUSE", "MISSING_FILE", {"found no file", "export"});
  EXPECT_FALSE(read_manifest((folder_ / "no.pt2").string()));
}

TEST_F(VerdictOnFiles, AFolder) {
  expect(judged(folder_.string()), "REFUSE", "UNREADABLE", {"no regular file"});
}

TEST_F(VerdictOnFiles, TruncatedFile) {
  const std::string path = package(plain_manifest()), whole = file_text(path);
  for (const std::size_t keep :
       {std::size_t{0}, std::size_t{1}, std::size_t{100}, whole.size() - 1, whole.size() - 50}) {
    write_file(path, whole.substr(0, keep));
    expect(judged(path), "REFUSE", "NOT_A_PACKAGE", {"truncated or no archive", "copy it again", "export"});
  }
}

TEST_F(VerdictOnFiles, ATextFileIsNoPackage) {
  const std::string path = (folder_ / "a.pt2").string();
  write_file(path, "version https://git-lfs.github.com/spec/v1\n");
  expect(judged(path), "REFUSE", "NOT_A_PACKAGE", {"43 bytes"});
}

TEST_F(VerdictOnFiles, AChangedByteInAnyMember) {
  const std::string path = package(plain_manifest()), whole = file_text(path);
  std::size_t found = 0;
  for (std::size_t at = whole.find("PK\x03\x04"); at != std::string::npos;
       at = whole.find("PK\x03\x04", at + 1), ++found) {
    const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(whole[at + i]); };
    const std::size_t name = byte(26) + byte(27) * 256U, extra = byte(28) + byte(29) * 256U;
    std::string changed = whole;
    changed[at + 30 + name + extra + 5] ^= 1;
    write_file(path, changed);
    expect(judged(path), "REFUSE", "DAMAGED", {whole.substr(at + 30, name), "changed in", "copy it again"});
  }
  EXPECT_EQ(found, 3U);
}

TEST_F(VerdictOnFiles, AChangedByteIsSeenOnlyWhenBytesAreChecked) {
  const std::string path = package(plain_manifest());
  std::string bytes = file_text(path);
  bytes[bytes.find(std::string("\x10\x11\x12\x13\x14", 5))] ^= 1;
  write_file(path, bytes);
  EXPECT_TRUE(judged(path, {}, false).ok());
  expect(judged(path), "REFUSE", "DAMAGED", {"a.wrapper.so"});
}

TEST_F(VerdictOnFiles, MissingManifest) {
  const std::string path = (folder_ / "m.pt2").string();
  testing::write_package(path, nullptr);
  expect(judged(path), "REFUSE", "NO_MANIFEST", {"found none in " + path, "export command of its family"});
  testing::write_zip(path, {{"readme.txt", "hello"}});
  expect(judged(path), "REFUSE", "NO_MANIFEST", {"found no metadata"});
}

TEST_F(VerdictOnFiles, MetadataThatClaimsToBeHuge) {
  const std::string path = (folder_ / "bomb.pt2").string();
  testing::write_zip(path, {{testing::kMember + "a.wrapper_metadata.json", std::string(17 << 20, ' ')}},
                     ZIP_CM_DEFLATE);
  expect(judged(path), "REFUSE", "DAMAGED", {"metadata of at most 16777216 bytes, found 17825792"});
}

TEST_F(VerdictOnFiles, MetadataThatIsNoJsonObject) {
  for (const std::string& content :
       {std::string("[]"), std::string("nonsense"), std::string(100000, '['), std::string("\xff")}) {
    const std::string path = (folder_ / "a.pt2").string();
    testing::write_zip(path, {{testing::kMember + "a.wrapper_metadata.json", content}});
    expect(judged(path), "REFUSE", "DAMAGED", {"JSON"});
  }
}

TEST_F(VerdictOnFiles, MalformedManifest) {
  const std::string path = (folder_ / "m.pt2").string(), text = "{";
  testing::write_package(path, &text);
  expect(judged(path), "REFUSE", "BAD_MANIFEST", {"expected JSON", "export the artifact again"});
  json manifest = plain_manifest();
  manifest.erase("golden");
  expect(judged(package(manifest)), "REFUSE", "BAD_MANIFEST", {"manifest.golden"});
}

TEST_F(VerdictOnFiles, SchemaVersion) {
  json manifest = plain_manifest();
  manifest["schema_version"] = 99;
  expect(judged(package(manifest)), "REBUILD", "SCHEMA_VERSION", {"schema version 1, found 99"});
}

TEST_F(VerdictOnFiles, AManifestOfAnotherRuntime) {
  json manifest = plain_manifest();
  manifest["target"]["runtime"] = "onnxruntime";
  expect(judged(package(manifest)), "REFUSE", "BAD_MANIFEST",
         {"a manifest for .pt2, found one for runtime onnxruntime"});
}

TEST_F(VerdictOnFiles, WorldWritable) {
  const std::string path = package(plain_manifest());
  std::filesystem::permissions(path, std::filesystem::perms(0666));
  expect(judged(path), "REFUSE", "WORLD_WRITABLE", {"writable for everybody", "chmod o-w"});
  std::filesystem::permissions(path, std::filesystem::perms(0644));
  std::filesystem::permissions(folder_, std::filesystem::perms(0777));
  expect(judged(path), "REFUSE", "WORLD_WRITABLE", {"strangers cannot replace m.pt2", "chmod o-w"});
  std::filesystem::permissions(folder_, std::filesystem::perms(01777));
  EXPECT_TRUE(judged(path).ok());
}

TEST_F(VerdictOnFiles, AllowListOfDigests) {
  const std::string path = package(plain_manifest()), digest = sha256_file(path).value();
  EXPECT_TRUE(judged(path, AllowList({digest})).ok());
  expect(judged(path, AllowList({std::string(64, '0')}, "allow.txt")), "REFUSE", "NOT_ALLOWED",
         {"digest of allow.txt", digest, "add the line: " + digest + "  m.pt2"});
  EXPECT_EQ(judged(path, AllowList({})).code, "NOT_ALLOWED");
  const std::string list = (folder_ / "allow.txt").string();
  write_file(list,
             "# mine\n\n" + digest + "  m.pt2\n" + std::string(64, 'A') + " *other\n" + std::string(64, '1') + "\n");
  const Result<AllowList> read = AllowList::read(list);
  ASSERT_TRUE(read) << read.error().message();
  EXPECT_EQ(read->size(), 3U);
  EXPECT_TRUE(read->contains(std::string(64, 'a')));
  EXPECT_TRUE(judged(path, *read).ok());
  write_file(list, digest + "\nnonsense\n");
  EXPECT_TRUE(says(AllowList::read(list).error().message(), "found 'nonsense' in " + list + " line 2"));
  EXPECT_TRUE(says(AllowList::read("/nowhere").error().message(), "found /nowhere unreadable (No such file"));
}

TEST_F(VerdictOnFiles, RandomWeightsRunButSaySo) {
  json manifest = plain_manifest();
  manifest["checkpoint"] = {{"file", "random"}, {"sha256", ""}, {"licence", ""}, {"random_seed", 11}};
  const Verdict verdict = judged(package(manifest));
  expect(verdict, "OK", "RANDOM_WEIGHTS", {"random (seed 11)", "--checkpoint"});
  EXPECT_TRUE(verdict.random_weights());
}

TEST_F(VerdictOnFiles, Onnx) {
  json manifest = plain_manifest();
  manifest["target"]["runtime"] = "onnxruntime";
  const std::string path = onnx(manifest), whole = file_text(path);
  expect(judged(path), "REFUSE", "RUNTIME_MISSING", {"expected onnxruntime to run"});
  host_.onnxruntime = "1.20.0";
  expect(judged(path), "OK", "OK");
  for (std::size_t at = 0; at < whole.size(); at += 7) {
    std::string changed = whole;
    changed[at] ^= 4;
    write_file(path, changed);
    EXPECT_FALSE(judged(path).ok()) << at;
  }
  write_file(path, whole.substr(0, whole.size() - 1));
  expect(judged(path), "REFUSE", "NOT_A_PACKAGE", {"expected an ONNX model, found", "truncated or no model"});
  write_file(path, whole + testing::delimited(2, "later"));
  expect(judged(path), "REFUSE", "DAMAGED", {"expected the digest to end the file"});
  write_file(path, testing::property("a", "b"));
  expect(judged(path), "REFUSE", "NOT_A_PACKAGE", {"no graph"});
  write_file(path, testing::delimited(7, "g"));
  expect(judged(path), "REFUSE", "NO_MANIFEST", {"expected a digest"});
}

TEST_F(VerdictOnFiles, OnnxWithWeightsBesideIt) {
  json manifest = plain_manifest();
  manifest["target"]["runtime"] = "onnxruntime";
  host_.onnxruntime = "1.20.0";
  const std::string weights = (folder_ / "w.data").string(), path = (folder_ / "m.onnx").string();
  write_file(weights, "numbers");
  const auto write = [&](const std::string& external) {
    const std::string body = testing::delimited(7, "graph") +
                             testing::property("aot_perception.external_data", external) +
                             testing::property(kMetadataKey, manifest.dump());
    write_file(path, body);
    write_file(path, body + testing::property("aot_perception.sha256", sha256_file(path).value()));
  };
  const std::string digest = sha256_file(weights).value();
  write(digest + "  w.data");
  expect(judged(path), "OK", "OK");
  write_file(weights, "numbers?");
  expect(judged(path), "REFUSE", "DAMAGED", {"found others in " + weights});
  std::filesystem::remove(weights);
  expect(judged(path), "REFUSE", "DAMAGED", {"found no file " + weights, "copy w.data along with it"});
  for (const char* name : {"../w.data", "", "/etc/passwd"}) {
    write(digest + "  " + name);
    expect(judged(path), "REFUSE", "DAMAGED", {"expected '<64 hex digits>  <file>'"});
  }
}

TEST_F(VerdictOnFiles, Engine) {
  host_.tensorrt = "10.3.0.26";
  host_.compute_capabilities = {"8.9"};
  const std::string path = engine(plain_manifest());
  expect(judged(path, {}, true, "cuda"), "OK", "OK");
  host_.compute_capabilities = {"9.0"};
  expect(judged(path, {}, true, "cuda"), "REBUILD", "COMPUTE_CAPABILITY");
  write_file(path, "other bytes");
  expect(judged(path, {}, true, "cuda"), "REBUILD", "DAMAGED",
         {"(11 bytes) in " + path, "rebuild it on this machine: export_tiny"});
  // An allow-list does not replace the pair's own digest.
  expect(judged(path, AllowList({sha256_file(path).value()}), false, "cuda"), "REBUILD", "DAMAGED");
  write_file(path + ".json", "{");
  expect(judged(path, {}, true, "cuda"), "REFUSE", "BAD_MANIFEST", {"expected JSON"});
  std::filesystem::permissions(path + ".json", std::filesystem::perms(0666));
  expect(judged(path, {}, true, "cuda"), "REFUSE", "WORLD_WRITABLE", {"m.engine.json writable"});
  std::filesystem::remove(path + ".json");
  expect(judged(path, {}, true, "cuda"), "REFUSE", "NO_MANIFEST", {"found no such file", "build_engine"});
}

TEST(Devices, AreParsed) {
  EXPECT_EQ(*Device::parse("cpu"), (Device{false, 0}));
  EXPECT_EQ(*Device::parse("cuda"), (Device{true, 0}));
  EXPECT_EQ(*Device::parse("cuda:3"), (Device{true, 3}));
  for (const char* wrong : {"gpu", "cpu:0", "cuda:", "cuda:-1", "", "cuda:1 ", "cuda:1234"}) {
    const Result<Device> device = Device::parse(wrong);
    ASSERT_FALSE(device) << wrong;
    EXPECT_TRUE(says(device.error().message(), "expected a device cpu, cuda or cuda:N, found '"));
  }
}

TEST(Hosts, FlagsOfACpu) {
  EXPECT_EQ(cpu_flags_of("model name\t: x\nflags\t\t: fpu avx2 sse4_1 md_clear\nflags : avx\n"),
            (std::set<std::string>{"avx2", "sse4_1"}));
  EXPECT_EQ(cpu_flags_of("Features\t: fp asimd sve\n"), (std::set<std::string>{"asimd", "sve"}));
  EXPECT_TRUE(cpu_flags_of("").empty());
  EXPECT_EQ(this_host().os, "linux");
  EXPECT_FALSE(this_host().machine.empty());
}

TEST_F(VerdictOnFiles, MutatedBytesGetAVerdictAndNothingElse) {
  json as_onnx = plain_manifest();
  as_onnx["target"]["runtime"] = "onnxruntime";
  host_.onnxruntime = "1.20.0";
  host_.tensorrt = "10.3.0.26";
  host_.compute_capabilities = {"8.9"};
  std::mt19937 random(3);
  for (const std::string& path : {package(plain_manifest()), onnx(as_onnx), engine(plain_manifest()) + ".json"}) {
    const std::string whole = file_text(path);
    // Half of the changes go to a zip's central directory, which is what a reader believes.
    const std::size_t directory = std::min(whole.find("PK\x01\x02"), whole.size() - 1);
    for (int i = 0; i < 600; ++i) {
      std::string bytes = whole;
      for (unsigned n = 0; n < 1 + random() % 5 && bytes.size() > directory; ++n) {
        const std::size_t low = random() % 2 == 0 ? std::min(directory, bytes.size() - 1) : 0;
        const std::size_t at = low + random() % (bytes.size() - low);
        switch (random() % 3) {
          case 0:
            bytes[at] = static_cast<char>(random());
            break;
          case 1:
            bytes.erase(at, 1 + random() % 40);
            break;
          default:
            bytes.insert(at, 1 + random() % 40, static_cast<char>(random()));
        }
      }
      write_file(path, bytes);
      const std::string file = path.substr(path.size() - 5) == ".json" ? path.substr(0, path.size() - 5) : path;
      for (const bool check : {true, false}) {
        const Verdict verdict = judged(file, {}, check, file == path ? "cpu" : "cuda");
        EXPECT_TRUE(verdict.kind == "OK" || verdict.kind == "REBUILD" || verdict.kind == "REFUSE");
      }
    }
  }
}

}  // namespace
}  // namespace aot_perception
