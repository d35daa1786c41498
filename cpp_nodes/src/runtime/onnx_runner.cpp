// SPDX-License-Identifier: Apache-2.0
// ONNX Runtime through its C interface, which throws nothing and keeps its layout from version to version.
#include <ATen/Parallel.h>
#include <onnxruntime_c_api.h>

#include <array>
#include <cstdlib>
#include <memory>
#include <string>
#include <utility>

#include "aot_perception/device_memory.hpp"
#include "python_text.hpp"
#include "runner.hpp"

namespace aot_perception {
namespace {

/// The interface; nullptr where the library is older than the headers that this was built with.
const OrtApi* api() {
  static const OrtApi* const found = OrtGetApiBase()->GetApi(ORT_API_VERSION);
  return found;
}

struct Release {
  void operator()(OrtEnv* item) const { api()->ReleaseEnv(item); }
  void operator()(OrtSession* item) const { api()->ReleaseSession(item); }
  void operator()(OrtSessionOptions* item) const { api()->ReleaseSessionOptions(item); }
  void operator()(OrtIoBinding* item) const { api()->ReleaseIoBinding(item); }
  void operator()(OrtMemoryInfo* item) const { api()->ReleaseMemoryInfo(item); }
  void operator()(OrtValue* item) const { api()->ReleaseValue(item); }
  void operator()(OrtTensorTypeAndShapeInfo* item) const { api()->ReleaseTensorTypeAndShapeInfo(item); }
  void operator()(OrtCUDAProviderOptionsV2* item) const { api()->ReleaseCUDAProviderOptions(item); }
};
template <class T>
using Owned = std::unique_ptr<T, Release>;

// In the order of DType.
constexpr std::array<ONNXTensorElementDataType, 10> kElementTypes = {
    ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT,  ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16, ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16,
    ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64,   ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32,
    ONNX_TENSOR_ELEMENT_DATA_TYPE_INT16,  ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8,    ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8,
    ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL};

/// Calls one after the other until one fails; its words stay.
class Steps {
 public:
  Steps& operator<<(OrtStatus* status) {
    if (status == nullptr) return *this;
    if (failure_.empty()) {
      const std::string text = api()->GetErrorMessage(status);
      failure_ = text.substr(0, text.find('\n'));
      if (failure_.empty()) failure_ = "no reason given";
    }
    api()->ReleaseStatus(status);
    return *this;
  }
  bool good() const { return failure_.empty(); }
  const std::string& failure() const { return failure_; }

 private:
  std::string failure_;
};

/// Gives `call` the address of a raw pointer and takes what it puts there.
template <class T, class Call>
void take(Steps& steps, Owned<T>& out, Call&& call) {
  if (!steps.good()) return;
  T* raw = nullptr;
  steps << call(&raw);
  out.reset(raw);
}

Result<OrtEnv*> environment() {
  static std::string failure;
  static const Owned<OrtEnv> env = [] {
    Steps steps;
    Owned<OrtEnv> made;
    take(steps, made, [](OrtEnv** out) { return api()->CreateEnv(ORT_LOGGING_LEVEL_ERROR, "aot_perception", out); });
    failure = steps.failure();
    return made;
  }();
  if (env == nullptr) return Error{"expected onnxruntime to start, found " + failure, "install it again"};
  return env.get();
}

class OnnxRunner final : public Runner {
 public:
  OnnxRunner(const Manifest& manifest, const Device& device) : device_(device) {
    for (const TensorSpec& spec : manifest.inputs)
      input_names_.push_back(spec.name);
    for (const TensorSpec& spec : manifest.outputs)
      output_names_.push_back(spec.name);
  }

  /// "" or why the session does not open.
  std::string open(OrtEnv* env, const std::string& path) {
    Steps steps;
    Owned<OrtSessionOptions> options;
    take(steps, options, [](OrtSessionOptions** out) { return api()->CreateSessionOptions(out); });
    if (!steps.good()) return steps.failure();
    steps << api()->SetSessionLogSeverityLevel(options.get(), 3)
          << api()->SetIntraOpNumThreads(options.get(), at::get_num_threads());
    // ONNX Runtime does not read OpenMP's variables; what they say is meant for every pool of threads.
    const char* policy = std::getenv("OMP_WAIT_POLICY");
    if (policy != nullptr && (std::string(policy) == "passive" || std::string(policy) == "PASSIVE")) {
      steps << api()->AddSessionConfigEntry(options.get(), "session.intra_op.allow_spinning", "0");
    }
    if (device_.cuda) add_cuda(steps, options.get());
    take(steps, session_,
         [&](OrtSession** out) { return api()->CreateSession(env, path.c_str(), options.get(), out); });
    take(steps, memory_, [&](OrtMemoryInfo** out) {
      return device_.cuda ? api()->CreateMemoryInfo("Cuda", OrtDeviceAllocator, device_.index, OrtMemTypeDefault, out)
                          : api()->CreateCpuMemoryInfo(OrtDeviceAllocator, OrtMemTypeDefault, out);
    });
    return steps.failure();
  }

  Result<std::vector<Tensor>> run(const std::vector<Tensor>& inputs) override {
    if (Result<void> ready = synchronise(device_); !ready) return ready.error();
    Steps steps;
    Owned<OrtIoBinding> binding;
    take(steps, binding, [&](OrtIoBinding** out) { return api()->CreateIoBinding(session_.get(), out); });
    std::vector<Owned<OrtValue>> values(inputs.size());
    for (std::size_t i = 0; i < inputs.size() && steps.good(); ++i) {
      const Tensor& input = inputs[i];
      take(steps, values[i], [&](OrtValue** out) {
        return api()->CreateTensorWithDataAsOrtValue(memory_.get(), const_cast<void*>(input.data()), input.bytes(),
                                                     input.shape().data(), input.shape().size(),
                                                     kElementTypes[static_cast<std::size_t>(input.dtype())], out);
      });
      if (steps.good()) steps << api()->BindInput(binding.get(), input_names_[i].c_str(), values[i].get());
    }
    for (const std::string& name : output_names_) {
      if (steps.good()) steps << api()->BindOutputToDevice(binding.get(), name.c_str(), memory_.get());
    }
    if (steps.good()) steps << api()->RunWithBinding(session_.get(), nullptr, binding.get());
    if (steps.good()) steps << api()->SynchronizeBoundOutputs(binding.get());
    std::vector<Tensor> outputs;
    if (steps.good()) take_outputs(steps, binding.get(), outputs);
    if (!steps.good()) {
      return Error{"expected onnxruntime to run the model, found " + steps.failure(), "export the model again"};
    }
    return outputs;
  }

  bool capturable() const override { return false; }  // it synchronises

 private:
  void add_cuda(Steps& steps, OrtSessionOptions* options) const {
    Owned<OrtCUDAProviderOptionsV2> cuda;
    take(steps, cuda, [](OrtCUDAProviderOptionsV2** out) { return api()->CreateCUDAProviderOptions(out); });
    if (!steps.good()) return;
    const std::string index = std::to_string(device_.index);
    const char *key = "device_id", *value = index.c_str();
    steps << api()->UpdateCUDAProviderOptions(cuda.get(), &key, &value, 1);
    if (steps.good()) steps << api()->SessionOptionsAppendExecutionProvider_CUDA_V2(options, cuda.get());
  }

  /// The outputs, in the order in which they were bound; ONNX Runtime's memory is freed with the tensors.
  void take_outputs(Steps& steps, OrtIoBinding* binding, std::vector<Tensor>& outputs) const {
    OrtAllocator* allocator = nullptr;
    steps << api()->GetAllocatorWithDefaultOptions(&allocator);
    OrtValue** found = nullptr;
    std::size_t count = 0;
    if (steps.good()) steps << api()->GetBoundOutputValues(binding, allocator, &found, &count);
    if (!steps.good()) return;
    std::vector<std::shared_ptr<OrtValue>> values;
    for (std::size_t i = 0; i < count; ++i)
      values.emplace_back(found[i], Release());
    if (found != nullptr) steps << api()->AllocatorFree(allocator, found);
    for (const std::shared_ptr<OrtValue>& value : values) {
      if (!steps.good()) return;
      Owned<OrtTensorTypeAndShapeInfo> info;
      take(steps, info,
           [&](OrtTensorTypeAndShapeInfo** out) { return api()->GetTensorTypeAndShape(value.get(), out); });
      if (!steps.good()) return;
      ONNXTensorElementDataType type = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
      std::size_t rank = 0;
      void* data = nullptr;
      steps << api()->GetTensorElementType(info.get(), &type) << api()->GetDimensionsCount(info.get(), &rank);
      Shape shape(rank);
      steps << api()->GetDimensions(info.get(), shape.data(), rank) << api()->GetTensorMutableData(value.get(), &data);
      for (std::size_t i = 0; i < kElementTypes.size(); ++i) {
        if (kElementTypes[i] != type) continue;
        outputs.push_back(Tensor::view(static_cast<DType>(i), std::move(shape), data, device_, value));
        break;
      }
    }
  }

  Device device_;
  std::vector<std::string> input_names_, output_names_;
  Owned<OrtSession> session_;
  Owned<OrtMemoryInfo> memory_;
};

}  // namespace

std::string onnxruntime_version() {
  return api() == nullptr ? "" : OrtGetApiBase()->GetVersionString();
}

OpenedRunner open_onnx(const std::string& path, const Manifest& manifest, const Device& device) {
  const Result<OrtEnv*> env = environment();
  if (!env) return env.error();
  auto runner = std::make_unique<OnnxRunner>(manifest, device);
  const std::string failure = runner->open(*env, path);
  if (failure.empty()) return OpenedRunner(std::move(runner));
  if (device.cuda) {
    return Error{"expected onnxruntime " + onnxruntime_version() + " with CUDAExecutionProvider to load " + path +
                     ", found " + failure,
                 "install onnxruntime-gpu, or load it with device cpu"};
  }
  return Error{"expected a model that onnxruntime " + onnxruntime_version() + " can load, found " + path +
                   " rejected: " + failure,
               "update onnxruntime, or export the model again"};
}

}  // namespace aot_perception
