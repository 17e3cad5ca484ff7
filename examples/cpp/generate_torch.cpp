// Images with libtorch, of a TorchScript file: see README.md.

#include <ATen/Parallel.h>
#include <torch/script.h>

#include <memory>

#include "program.hpp"

namespace {

Run load(const Options& options, dcgan::Spec& spec) {
  if (options.threads) at::set_num_threads(options.threads);
  torch::jit::ExtraFilesMap extra{{"dcgan.spec", ""}};
  const auto model = std::make_shared<torch::jit::Module>(torch::jit::load(options.model, c10::kCPU, extra));
  spec = dcgan::read_spec(extra["dcgan.spec"]);

  std::vector<float> z = dcgan::latents(options.seed, options.n, static_cast<std::size_t>(spec.latent_dim));
  const std::int64_t n = options.n;
  std::vector<torch::jit::IValue> inputs{torch::from_blob(z.data(), {n, spec.latent_dim}).clone()};
  std::vector<std::int64_t> label = labels_of(options, spec);
  if (spec.classes) {
    inputs.emplace_back(torch::from_blob(label.data(), {n}, torch::kInt64).clone());
  }
  return [model, inputs] {
    const c10::InferenceMode guard;
    const torch::Tensor images = model->forward(inputs).toTensor().contiguous();
    const auto* first = static_cast<const char*>(images.const_data_ptr());
    return Images{{first, first + images.nbytes()}, true};
  };
}

}  // namespace

int main(int argc, char** argv) { return run_program(argc, argv, load); }
