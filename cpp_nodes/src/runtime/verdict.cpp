// SPDX-License-Identifier: Apache-2.0
#include "aot_perception/verdict.hpp"

#include <sys/stat.h>

#include <cerrno>
#include <cstring>

#include "container.hpp"
#include "verdict_texts.hpp"

namespace aot_perception {
namespace {

Verdict refuse(const char* code, std::string reason, std::string remedy) {
  return {"REFUSE", code, std::move(reason), std::move(remedy)};
}

Verdict unreadable(const std::string& file, const std::string& why) {
  return refuse("UNREADABLE", "expected a readable artifact, found " + file + " unreadable (" + why + ")",
                "check its owner and mode with: ls -l");
}

std::string file_name(const std::string& path) {
  const std::size_t slash = path.rfind('/');
  return slash == std::string::npos ? path : path.substr(slash + 1);
}

/// The verdict on a flaw of the container. Damaged bytes are refused; an engine can be built again.
Verdict verdict_on(const ContainerText& found, const std::string& file, Container container) {
  switch (found.flaw) {
    case Flaw::kNotAPackage:
      return refuse("NOT_A_PACKAGE", found.error.reason, found.error.remedy);
    case Flaw::kNoManifest:
      return refuse("NO_MANIFEST", found.error.reason, found.error.remedy);
    case Flaw::kDamaged: {
      if (container == Container::kEngine) {
        const Result<Manifest> manifest = read_manifest(file);
        if (manifest) return {"REBUILD", "DAMAGED", found.error.reason, rebuild_remedy(*manifest)};
      }
      return refuse("DAMAGED", found.error.reason, found.error.remedy);
    }
    case Flaw::kUnreadable:
    case Flaw::kNone:
      break;
  }
  return unreadable(file, found.error.reason);
}

/// What the permissions say, or nothing.
std::optional<Verdict> judge_permissions(const std::string& file, Container container) {
  std::vector<std::string> executed = {file};
  struct stat about = {};
  if (container == Container::kEngine && stat(engine_manifest_path(file).c_str(), &about) == 0) {
    executed.push_back(engine_manifest_path(file));
  }
  for (const std::string& path : executed) {
    const Result<std::optional<Error>> problem = permission_problem(path);
    if (!problem) return unreadable(file, problem.error().reason);
    if (problem->has_value()) return refuse("WORLD_WRITABLE", (*problem)->reason, (*problem)->remedy);
  }
  return std::nullopt;
}

}  // namespace

std::string Verdict::text() const {
  const std::string start = kind + " " + code + ": " + reason;
  return remedy.empty() ? start : start + "; " + remedy;
}

Error Verdict::error() const {
  return Error{kind + " " + code + ": " + reason, remedy};
}

Result<Manifest> read_manifest(const std::string& path) {
  const ContainerText found = read_manifest_json(container_of(path), path);
  if (found.flaw == Flaw::kUnreadable) return unreadable(path, found.error.reason).error();
  if (found.flaw != Flaw::kNone) return found.error;
  return Manifest::from_json(found.text, path);
}

Verdict judge(const std::string& path, const Device& device, const JudgeOptions& options) {
  struct stat about = {};
  if (stat(path.c_str(), &about) != 0) {
    if (errno != ENOENT && errno != ENOTDIR) return unreadable(path, std::strerror(errno));
    return refuse("MISSING_FILE", "expected an artifact, found no file " + path, "check the path, or export the model");
  }
  if (!S_ISREG(about.st_mode)) {
    return refuse("UNREADABLE", "expected an artifact file, found " + path + " is no regular file", "check the path");
  }
  const Container container = container_of(path);
  if (const std::optional<Verdict> problem = judge_permissions(path, container)) return *problem;
  std::optional<std::string> digest;
  if (options.allow_list) {
    const Result<std::string> found = sha256_file(path);
    if (!found) return unreadable(path, found.error().reason);
    digest = *found;
    if (!options.allow_list->contains(*digest)) {
      return refuse(
          "NOT_ALLOWED",
          "expected a digest of " + options.allow_list->source() + ", found SHA-256 " + *digest + " of " + path,
          "if you trust the file, add the line: " + *digest + "  " + file_name(path));
    }
  }
  // The allow-list's digest makes checksums needless, except that an engine is bound to the manifest beside it.
  if (container == Container::kEngine ? options.check_bytes || digest : options.check_bytes && !digest) {
    const ContainerText wrong = check_bytes(container, path, digest);
    if (wrong.flaw != Flaw::kNone) return verdict_on(wrong, path, container);
  }
  const ContainerText text = read_manifest_json(container, path);
  if (text.flaw != Flaw::kNone) return verdict_on(text, path, container);
  bool other_schema = false;
  const Result<Manifest> manifest = Manifest::from_json(text.text, path, &other_schema);
  if (!manifest) {
    if (other_schema) return {"REBUILD", "SCHEMA_VERSION", manifest.error().reason, manifest.error().remedy};
    return refuse("BAD_MANIFEST", manifest.error().reason, manifest.error().remedy);
  }
  const std::string& runtime = manifest->target.runtime;
  if (!runs_on(container, runtime)) {
    return refuse("BAD_MANIFEST",
                  std::string("expected a manifest for ") + suffix_of(container) + ", found one for runtime " +
                      (runtime.empty() ? "AOTInductor" : runtime) + " in " + path,
                  "give the file the suffix that it was written with");
  }
  return judge_manifest(*manifest, device, options.host != nullptr ? *options.host : this_host(), path);
}

Verdict self_test_verdict(const Manifest& manifest, const std::string& file, const std::string& output,
                          const std::string& text, bool non_finite) {
  return refuse(non_finite ? "SELF_TEST_NON_FINITE" : "SELF_TEST_WRONG",
                "self-test of " + file + ": expected output " + output + " to be " + text, rebuild_remedy(manifest));
}

Verdict rejected_verdict(const Manifest& manifest, const std::string& reason) {
  return {"REBUILD", "ENGINE_REJECTED", reason, rebuild_remedy(manifest)};
}

}  // namespace aot_perception
