// Deformable convolution on the CPU: each thread gathers and multiplies some rows at a time.
#include "deform_conv2d.h"

#include <torch/csrc/stable/library.h>

#include <atomic>

namespace glip {
namespace deform {
namespace {

// Most rows of a chunk of the forward pass, which stay in the cache of a core until they are multiplied, and the fewest
// that a thread is worth.
constexpr int64_t kForwardRows = 256, kForwardRowsOfThread = 32;

template <typename A>
void forward(const Sampler<A>& sampler, const Tensor& kernel, const std::optional<Tensor>& bias, const Tensor& out) {
  const DeformGeometry& g = sampler.g;
  int64_t total = int64_t(g.batch) * g.locations();
  int64_t threads = torch::stable::get_num_threads();
  int64_t rows = std::clamp((total + threads - 1) / threads, kForwardRowsOfThread, kForwardRows);
  rows = std::min(rows, total);
  int64_t chunks = (total + rows - 1) / rows;
  // A thread that is held up leaves its share to the others.
  std::atomic<int64_t> next{0};
  torch::stable::parallel_for(0, std::min(threads, chunks), 1, [&](int64_t, int64_t) {
    auto columns = torch::stable::new_empty(kernel, {g.groups, rows, g.depth()});
    for (int64_t chunk = next++; chunk < chunks; chunk = next++) {
      int64_t first = chunk * rows, count = std::min(rows, total - first);
      for (int64_t row = 0; row < count; ++row)
        sampler.fill_row(first + row, count, row, columns.template mutable_data_ptr<A>());
      GroupMatrices matrices{g, count};
      for (int64_t group = 0; group < g.groups; ++group) {
        auto result = matrices.outputs(out, group, first, count);
        auto product = matrices.columns(columns, group), factor = matrices.kernel_transposed(kernel, group);
        if (bias) {
          auto start = matrices.bias(*bias, group);
          TORCH_ERROR_CODE_CHECK(
              aoti_torch_cpu_addmm_out(result.get(), start.get(), product.get(), factor.get(), 1, 1));
        } else {
          TORCH_ERROR_CODE_CHECK(aoti_torch_cpu_mm_out(result.get(), product.get(), factor.get()));
        }
      }
    }
  });
}

Tensor forward_cpu(
    const Tensor& input, const Tensor& offset, const std::optional<Tensor>& mask, const Tensor& weight,
    const std::optional<Tensor>& bias, const DeformGeometry& g) {
  CpuArguments arguments(input, offset, mask);
  auto out = torch::stable::new_empty(
      arguments.input, {g.batch, g.out_height, g.out_width, g.out_channels}, arguments.dtype);
  if (g.batch > 0) {
    auto kernel = kernel_rows(in_dtype(weight, arguments.dtype));
    std::optional<Tensor> start;
    if (bias) start = in_dtype(*bias, arguments.dtype);
    if (arguments.dtype == ScalarType::Double)
      forward(arguments.sampler<double>(g), kernel, start, out);
    else
      forward(arguments.sampler<float>(g), kernel, start, out);
  }
  return in_dtype(channels_first(out), input.scalar_type());
}

}  // namespace
}  // namespace deform

STABLE_TORCH_LIBRARY_IMPL(maskrcnn_benchmark, CPU, m) {
  m.impl("deform_conv2d", TORCH_BOX(&deform::forward_operator<deform::forward_cpu>));
}

}  // namespace glip
