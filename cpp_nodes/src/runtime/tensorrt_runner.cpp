// SPDX-License-Identifier: Apache-2.0
// TensorRT or TensorRT-RTX: engines read and write torch's memory in place, on torch's stream.
#include <ATen/ops/empty.h>
#include <NvInfer.h>
#include <c10/cuda/CUDAGraphsC10Utils.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>
#ifndef AOT_PERCEPTION_TENSORRT_RTX
#include <NvInferPlugin.h>
#endif

#include "file_reader.hpp"
#include "python_text.hpp"
#include "runner.hpp"
#include "torch_tensor.hpp"

namespace aot_perception {
namespace {

constexpr std::size_t kMaxMessages = 20;
constexpr std::size_t kMaxText = 600;

/// Keeps the last errors, so that ours can tell them.
class Log final : public nvinfer1::ILogger {
 public:
  void log(Severity severity, const char* message) noexcept override {
    if (severity != Severity::kERROR && severity != Severity::kINTERNAL_ERROR) return;
    try {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (messages_.size() < kMaxMessages) messages_.emplace_back(message);
    } catch (const std::exception&) {
      // No memory for a message: the error itself is told without words.
    }
  }

  /// What the library said went wrong since the last call, on one line.
  std::string take() {
    const std::lock_guard<std::mutex> lock(mutex_);
    std::string text = join(messages_, "; ");
    messages_.clear();
    if (text.size() > kMaxText) text = text.substr(0, kMaxText) + "...";  // some name a whole graph
    return text.empty() ? "no reason given" : text;
  }

 private:
  std::mutex mutex_;
  std::vector<std::string> messages_;
};

/// One for the process, as TensorRT asks; with the plugins that engines may name.
Log& library_log() {
  static Log log;
#ifndef AOT_PERCEPTION_TENSORRT_RTX
  static const bool registered = initLibNvInferPlugins(&log, "");
  (void)registered;
#endif
  return log;
}

std::optional<DType> dtype_of_engine(nvinfer1::DataType type) {
  switch (type) {
    case nvinfer1::DataType::kFLOAT:
      return DType::kFloat32;
    case nvinfer1::DataType::kHALF:
      return DType::kFloat16;
    case nvinfer1::DataType::kBF16:
      return DType::kBFloat16;
    case nvinfer1::DataType::kINT64:
      return DType::kInt64;
    case nvinfer1::DataType::kINT32:
      return DType::kInt32;
    case nvinfer1::DataType::kINT8:
      return DType::kInt8;
    case nvinfer1::DataType::kUINT8:
      return DType::kUInt8;
    case nvinfer1::DataType::kBOOL:
      return DType::kBool;
    default:
      return std::nullopt;  // a type that no artifact has (fp8, int4)
  }
}

/// "input x float32", by name.
using Described = std::map<std::string, std::string>;

std::string tell(const Described& tensors) {
  std::vector<std::string> texts;
  for (const auto& item : tensors)
    texts.push_back(item.second);
  return join(texts);
}

std::string describe(bool is_input, const std::string& name, const std::string& dtype) {
  return (is_input ? "input " : "output ") + name + " " + dtype;
}

/// A context has one scratch memory: runs follow each other, even on different streams.
class TensorRtRunner final : public Runner {
 public:
  TensorRtRunner(std::string path, const Manifest& manifest, const Device& device)
      : path_(std::move(path)), manifest_(manifest), device_(device) {}

  ~TensorRtRunner() override {
    // The runtime has to outlive the engine, and the engine its context.
    context_.reset();
    engine_.reset();
    runtime_.reset();
  }

  /// What TensorRT has against the bytes, or nothing.
  std::optional<Error> open(const std::string& bytes) {
    const c10::cuda::CUDAGuard on(torch_device(device_));
    (void)library_log().take();
    runtime_.reset(nvinfer1::createInferRuntime(library_log()));
    if (runtime_ == nullptr) return rejected("no runtime: " + library_log().take());
    engine_.reset(runtime_->deserializeCudaEngine(bytes.data(), bytes.size()));
    if (engine_ == nullptr) return rejected("the engine rejected: " + library_log().take());
    Described found, wanted;
    for (std::int32_t i = 0; i < engine_->getNbIOTensors(); ++i) {
      const char* name = engine_->getIOTensorName(i);
      const std::optional<DType> dtype = dtype_of_engine(engine_->getTensorDataType(name));
      found[name] = describe(engine_->getTensorIOMode(name) == nvinfer1::TensorIOMode::kINPUT, name,
                             dtype ? dtype_name(*dtype) : "of another type");
    }
    for (const TensorSpec& spec : manifest_.inputs)
      wanted[spec.name] = describe(true, spec.name, dtype_name(spec.dtype));
    for (const TensorSpec& spec : manifest_.outputs) {
      wanted[spec.name] = describe(false, spec.name, dtype_name(spec.dtype));
    }
    if (found != wanted) return rejected("tensors " + tell(found) + " where the manifest has " + tell(wanted));
    context_.reset(engine_->createExecutionContext());
    if (context_ == nullptr) return rejected("no execution context: " + library_log().take());
    return std::nullopt;
  }

  Result<std::vector<Tensor>> run(const std::vector<Tensor>& inputs) override {
    return guarded("a run of the engine", [&]() -> Result<std::vector<Tensor>> {
      const c10::cuda::CUDAGuard on(torch_device(device_));
      const c10::cuda::CUDAStream stream = c10::cuda::getCurrentCUDAStream();
      const bool capturing = c10::cuda::currentStreamCaptureStatusMayInitCtx() != c10::cuda::CaptureStatus::None;
      // A capture may not depend on work outside of it; whoever captures has waited.
      if (last_ && *last_ != stream && !capturing) last_->synchronize();
      last_ = stream;
      return run_on(stream, inputs);
    });
  }

  bool capturable() const override { return true; }

 private:
  Result<std::vector<Tensor>> run_on(const c10::cuda::CUDAStream& stream, const std::vector<Tensor>& inputs) {
    // TensorRT wants an address for empty tensors too.
    const at::TensorOptions bytes = at::TensorOptions().dtype(at::kByte).device(torch_device(device_));
    std::vector<at::Tensor> kept;
    const auto address = [&](void* data, bool empty) {
      if (!empty) return data;
      kept.push_back(at::empty({1}, bytes));
      return kept.back().data_ptr();
    };
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      const std::string& name = manifest_.inputs[i].name;
      const Shape& shape = inputs[i].shape();
      nvinfer1::Dims dims = {};
      if (shape.size() > static_cast<std::size_t>(nvinfer1::Dims::MAX_DIMS)) {
        return failed("shape " + shape_text(shape) + " of input " + name + " of too many axes");
      }
      dims.nbDims = static_cast<std::int32_t>(shape.size());
      for (std::size_t axis = 0; axis < shape.size(); ++axis)
        dims.d[axis] = shape[axis];
      if (!context_->setInputShape(name.c_str(), dims)) {
        return failed("shape " + shape_text(shape) + " of input " + name + " refused");
      }
      auto* data = const_cast<void*>(inputs[i].data());
      if (!context_->setTensorAddress(name.c_str(), address(data, inputs[i].numel() == 0))) {
        return failed("the memory of input " + name + " refused");
      }
    }
    std::vector<Tensor> outputs;
    for (const TensorSpec& spec : manifest_.outputs) {
      const nvinfer1::Dims dims = context_->getTensorShape(spec.name.c_str());
      Shape shape;
      for (std::int32_t axis = 0; axis < dims.nbDims; ++axis)
        shape.push_back(dims.d[axis]);
      for (const std::int64_t size : shape) {
        if (size < 0) {
          return failed("output " + spec.name + " of shape " + shape_text(shape) + ", whose size only its values tell");
        }
      }
      Result<Tensor> output = from_torch(at::empty(shape, bytes.dtype(scalar_type(spec.dtype))));
      if (!output) return output.error();
      if (!context_->setTensorAddress(spec.name.c_str(), address(output->data(), output->numel() == 0))) {
        return failed("the memory of output " + spec.name + " refused");
      }
      outputs.push_back(std::move(*output));
    }
    if (!context_->enqueueV3(stream.stream())) return failed("that it did not start");
    return outputs;
  }

  Error rejected(const std::string& found) const {
    return Error{"expected an engine that " + tensorrt_name() + " " + tensorrt_version() + " can load, found " + found +
                     " in " + path_,
                 "build it again on this machine"};
  }

  Error failed(const std::string& found) const {
    return Error{"expected " + tensorrt_name() + " to run the engine, found " + found + ": " + library_log().take(),
                 "check nvidia-smi and the sizes the engine was built for with inspect_artifact"};
  }

  std::string path_;
  Manifest manifest_;
  Device device_;
  std::unique_ptr<nvinfer1::IRuntime> runtime_;
  std::unique_ptr<nvinfer1::ICudaEngine> engine_;
  std::unique_ptr<nvinfer1::IExecutionContext> context_;
  std::optional<c10::cuda::CUDAStream> last_;
};

}  // namespace

std::string tensorrt_name() {
#ifdef AOT_PERCEPTION_TENSORRT_RTX
  return "tensorrt_rtx";
#else
  return "tensorrt";
#endif
}

std::string tensorrt_version() {
  return std::to_string(getInferLibMajorVersion()) + "." + std::to_string(getInferLibMinorVersion()) + "." +
         std::to_string(getInferLibPatchVersion()) + "." + std::to_string(getInferLibBuildVersion());
}

OpenedRunner open_engine(const std::string& path, const Manifest& manifest, const Device& device, Verdict* verdict) {
  const Result<FileReader> file = FileReader::open(path);
  if (!file) return Error{"expected an engine, found " + file.error().reason + " in " + path, ""};
  const Result<std::string> bytes = file->read(0, static_cast<std::size_t>(file->size()));
  if (!bytes) return Error{"expected an engine, found " + bytes.error().reason + " in " + path, ""};
  return guarded("an engine that loads", [&]() -> OpenedRunner {
    auto runner = std::make_unique<TensorRtRunner>(path, manifest, device);
    if (const std::optional<Error> wrong = runner->open(*bytes)) {
      const Verdict found = rejected_verdict(manifest, wrong->reason);
      if (verdict != nullptr) *verdict = found;
      return found.error();
    }
    return OpenedRunner(std::move(runner));
  });
}

}  // namespace aot_perception
