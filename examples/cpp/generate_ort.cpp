// Images with onnxruntime: see README.md.

#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <memory>

#include "program.hpp"

namespace {

// A session, and the inputs of it, whose tensors point into the vectors beside them.
struct Model {
  Ort::Env env{ORT_LOGGING_LEVEL_WARNING, "generate"};
  Ort::Session session{nullptr};
  std::int64_t seed = 0, n = 0;
  std::vector<float> z;
  std::vector<std::int64_t> label;
  std::vector<const char*> names;
  std::vector<Ort::Value> inputs;
  std::string output;
};

template <typename Number>
Ort::Value tensor(Number* data, std::size_t count, const std::vector<std::int64_t>& shape) {
  const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  return Ort::Value::CreateTensor<Number>(memory, data, count, shape.data(), shape.size());
}

Run load(const Options& options, dcgan::Spec& spec) {
  const auto model = std::make_shared<Model>();
  Ort::SessionOptions settings;
  settings.SetIntraOpNumThreads(options.threads);
  model->session = Ort::Session(model->env, std::filesystem::path(options.model).c_str(), settings);

  Ort::AllocatorWithDefaultOptions allocator;
  model->output = model->session.GetOutputNameAllocated(0, allocator).get();
  std::vector<std::string> taken;
  for (std::size_t i = 0; i < model->session.GetInputCount(); ++i) {
    taken.emplace_back(model->session.GetInputNameAllocated(i, allocator).get());
  }
  const auto takes = [&](const char* name) { return std::find(taken.begin(), taken.end(), name) != taken.end(); };
  const auto json = model->session.GetModelMetadata().LookupCustomMetadataMapAllocated("dcgan.spec", allocator);
  spec = dcgan::read_spec(json ? json.get() : "");

  const auto give = [&](const char* name, Ort::Value value) {
    model->names.push_back(name);
    model->inputs.push_back(std::move(value));
  };
  const std::int64_t n = model->n = options.n;
  if (takes("seed")) {  // the model makes its latents itself
    model->seed = static_cast<std::int64_t>(options.seed);
    give("seed", tensor(&model->seed, 1, {}));
    give("n", tensor(&model->n, 1, {}));
    model->label = asked_of(options, spec);
    if (model->label.empty()) model->label = {-1};
  } else {
    model->z = dcgan::latents(options.seed, options.n, static_cast<std::size_t>(spec.latent_dim));
    give("z", tensor(model->z.data(), model->z.size(), {n, spec.latent_dim}));
    model->label = labels_of(options, spec);
  }
  if (takes("label")) {
    give("label", tensor(model->label.data(), model->label.size(), {static_cast<std::int64_t>(model->label.size())}));
  }

  return [model] {
    const char* output = model->output.c_str();
    const auto images = std::move(model->session.Run(Ort::RunOptions{}, model->names.data(), model->inputs.data(),
                                                     model->inputs.size(), &output, 1)[0]);
    const auto info = images.GetTensorTypeAndShapeInfo();
    const bool floats = info.GetElementType() == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
    const auto* first = static_cast<const char*>(images.GetTensorRawData());
    return Images{{first, first + info.GetElementCount() * (floats ? sizeof(float) : 1)}, floats};
  };
}

}  // namespace

int main(int argc, char** argv) {
  // Or onnxruntime writes a device id into ~/.cache and looks up a host of Microsoft's. It reads this with the first Ort::Env.
#ifdef _WIN32
  if (!std::getenv("ORT_DISABLE_TELEMETRY")) _putenv_s("ORT_DISABLE_TELEMETRY", "1");
#else
  setenv("ORT_DISABLE_TELEMETRY", "1", 0);  // 0: a value that is there stays
#endif
  return run_program(argc, argv, load);
}
