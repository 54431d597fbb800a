// The gradients of a deformable convolution on the CPU, some rows at a time. Threads share the rows, but where pixels
// are added to they share the channels: nothing depends on their number.
#include "deform_conv2d.h"

#include <torch/csrc/stable/library.h>

#include <tuple>

namespace glip {
namespace deform {
namespace {

// Numbers in the matrix of a chunk of the backward pass.
constexpr int64_t kBackwardNumbers = int64_t(1) << 22;
constexpr int kLanes = 16;


// Adds the scalar product of grad and each of the four pixels to sums.
template <typename A>
GLIP_INLINE void dot_loop(const Corners<A>& corners, const A* grad, int64_t channels, A* sums) {
  for (int k = 0; k < 4; ++k) {
    const A* pixel = corners.pixels[k];
    A lanes[kLanes] = {};
    int64_t i = 0;
    for (; i + kLanes <= channels; i += kLanes)
      for (int j = 0; j < kLanes; ++j) lanes[j] += grad[i + j] * pixel[i + j];
    for (; i < channels; ++i) sums[k] += grad[i] * pixel[i];
    for (int j = 0; j < kLanes; ++j) sums[k] += lanes[j];
  }
}
GLIP_VECTOR_CLONES void dot(const Corners<float>& corners, const float* grad, int64_t channels, float* sums) {
  dot_loop(corners, grad, channels, sums);
}
GLIP_VECTOR_CLONES void dot(const Corners<double>& corners, const double* grad, int64_t channels, double* sums) {
  dot_loop(corners, grad, channels, sums);
}

template <typename A>
GLIP_INLINE void add_scaled_loop(A scale, const A* __restrict from, int64_t channels, A* __restrict to) {
  for (int64_t i = 0; i < channels; ++i) to[i] += scale * from[i];
}
GLIP_VECTOR_CLONES void add_scaled(float scale, const float* from, int64_t channels, float* to) {
  add_scaled_loop(scale, from, channels, to);
}
GLIP_VECTOR_CLONES void add_scaled(double scale, const double* from, int64_t channels, double* to) {
  add_scaled_loop(scale, from, channels, to);
}

// What the backward pass computes, in the dtype of the computation; a null pointer where nobody needs it.
template <typename A>
struct Gradients {
  A *input, *offset, *mask;  // (B, H, W, C), (B, 2K, H', W'), (B, K, H', W')
  const Tensor* kernel;      // (O, depth)
};

template <typename A>
class Backward {
 public:
  Backward(const Sampler<A>& sampler, const Tensor& grad, const Tensor& kernel, const Gradients<A>& gradients)
      : sampler_(sampler), g_(sampler.g), grad_(grad), kernel_(kernel), gradients_(gradients) {}

  // A chunk of locations at a time. Nothing depends on the number of threads.
  void run() {
    int64_t total = int64_t(g_.batch) * g_.locations();
    int64_t row_numbers = g_.depth() * g_.groups;
    int64_t rows = std::min(std::max<int64_t>(kBackwardNumbers / row_numbers, 1), total);
    auto grad_columns = torch::stable::new_empty(kernel_, {rows * row_numbers});
    auto columns = torch::stable::new_empty(kernel_, {rows * row_numbers});
    for (int64_t first = 0; first < total; first += rows)
      run_chunk(first, std::min(rows, total - first), grad_columns, columns);
  }

 private:
  using Tap = typename Sampler<A>::Tap;

  void run_chunk(int64_t first, int64_t rows, const Tensor& grad_columns, const Tensor& columns) {
    GroupMatrices matrices{g_, rows};
    for (int64_t group = 0; group < g_.groups; ++group) {
      auto result = matrices.columns(grad_columns, group);
      auto grad = matrices.outputs(grad_, group, first, rows), factor = matrices.kernel(kernel_, group);
      TORCH_ERROR_CODE_CHECK(aoti_torch_cpu_mm_out(result.get(), grad.get(), factor.get()));
    }
    const A* from = grad_columns.const_data_ptr<A>();
    if (gradients_.offset)
      torch::stable::parallel_for(0, rows, 16, [&](int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; ++row) add_coordinates(first, row, rows, from);
      });
    if (gradients_.input)
      torch::stable::parallel_for(0, g_.channels, 4 * kLanes, [&](int64_t begin, int64_t end) {
        for (int64_t row = 0; row < rows; ++row) scatter(first, row, rows, from, begin, end);
      });
    if (!gradients_.kernel) return;
    torch::stable::parallel_for(0, rows, 16, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row)
        sampler_.fill_row(first + row, rows, row, columns.mutable_data_ptr<A>());
    });
    for (int64_t group = 0; group < g_.groups; ++group) {
      auto result = matrices.kernel(*gradients_.kernel, group);
      auto grad = matrices.outputs_transposed(grad_, group, first, rows), factor = matrices.columns(columns, group);
      TORCH_ERROR_CODE_CHECK(
          aoti_torch_cpu_addmm_out(result.get(), result.get(), grad.get(), factor.get(), 1, 1));
    }
  }

  // The gradients of the offsets and the masks at a location, from the scalar products with the four corners.
  void add_coordinates(int64_t first, int64_t row, int64_t rows, const A* from) const {
    sampler_.each_tap(first + row, [&](int offset_group, int k, const Tap& tap) {
      A sums[4] = {};
      if (tap.is_on_map)
        sampler_.each_run(offset_group, [&](const Run& run) {
          dot(sampler_.corners(tap, run.channel), from + sampler_.column(run, rows, row, k), run.length, sums);
        });
      CoordinateGradient<A> result;
      if (tap.is_on_map) result = CoordinateGradient<A>(tap.vertical, tap.horizontal, tap.scale, sums);
      int64_t location = first + row, image = location / g_.locations(), position = location % g_.locations();
      int64_t channel = (image * g_.offset_groups + offset_group) * g_.taps() + k;
      gradients_.offset[2 * channel * g_.locations() + position] = result.y;
      gradients_.offset[(2 * channel + 1) * g_.locations() + position] = result.x;
      if (gradients_.mask) gradients_.mask[channel * g_.locations() + position] = result.scale;
    });
  }

  // Adds the gradients of a range of channels to the pixels that a location was computed from.
  void scatter(int64_t first, int64_t row, int64_t rows, const A* from, int64_t begin, int64_t end) const {
    sampler_.each_tap(first + row, [&](int offset_group, int k, const Tap& tap) {
      if (!tap.is_on_map) return;
      sampler_.each_run(offset_group, [&](const Run& run) {
        int64_t low = std::max<int64_t>(begin, run.channel), high = std::min<int64_t>(end, run.channel + run.length);
        if (low >= high) return;
        const A* source = from + sampler_.column(run, rows, row, k) + (low - run.channel);
        int64_t image = (first + row) / g_.locations();
        for (int corner = 0; corner < 4; ++corner) {
          if (tap.weights[corner] == 0) continue;
          // The table may keep images apart; the gradient does not.
          int64_t pixel = tap.pixels[corner] - image * (sampler_.pixels.image_pixels - int64_t(g_.height) * g_.width);
          add_scaled(tap.weights[corner] * tap.scale, source, high - low, gradients_.input + pixel * g_.channels + low);
        }
      });
    });
  }

  const Sampler<A>& sampler_;
  const DeformGeometry& g_;
  const Tensor &grad_, &kernel_;
  const Gradients<A>& gradients_;
};

DeformGradients backward_cpu(
    const Tensor& grad, const Tensor& input, const Tensor& offset, const std::optional<Tensor>& mask,
    const Tensor& weight, const std::optional<Tensor>& bias, const DeformGeometry& g, const NeededGradients& needed) {
  const bool needs_input = needed.input, needs_coordinates = needed.coordinates, needs_parameters = needed.parameters;
  CpuArguments arguments(input, offset, mask);
  auto zeros = [&](bool is_needed, std::initializer_list<int64_t> sizes) {
    return is_needed ? torch::stable::new_zeros(arguments.input, sizes) : no_gradient(arguments.input);
  };
  auto grad_input = zeros(needs_input, {g.batch, g.height, g.width, g.channels});
  int64_t samples = int64_t(g.offset_groups) * g.taps();
  auto grad_offset = zeros(needs_coordinates, {g.batch, 2 * samples, g.out_height, g.out_width});
  auto grad_mask = zeros(needs_coordinates && mask, {g.batch, samples, g.out_height, g.out_width});
  auto grad_kernel = zeros(needs_parameters, {g.out_channels, g.depth()});
  auto grad_bias = no_gradient(arguments.input);
  auto grad_rows = PixelTable(in_dtype(grad, arguments.dtype), true).tensor;
  auto kernel = kernel_rows(in_dtype(weight, arguments.dtype));
  auto compute = [&](auto tag) {
    using A = typename decltype(tag)::type;
    auto sampler = arguments.sampler<A>(g);
    auto pointer = [](const Tensor& tensor) { return tensor.numel() ? tensor.mutable_data_ptr<A>() : nullptr; };
    Gradients<A> gradients{
        pointer(grad_input), pointer(grad_offset), pointer(grad_mask), needs_parameters ? &grad_kernel : nullptr};
    Backward<A>(sampler, grad_rows, kernel, gradients).run();
  };
  if (g.batch > 0) {
    if (arguments.dtype == ScalarType::Double)
      compute(TypeTag<double>{});
    else
      compute(TypeTag<float>{});
  }
  if (needs_parameters && bias) {
    int64_t axes[] = {0, 2, 3};
    grad_bias = torch::stable::sum(grad_rows, torch::headeronly::IntHeaderOnlyArrayRef(axes, 3));
  }
  return {
      in_dtype(needs_input ? channels_first(grad_input) : grad_input, input.scalar_type()),
      in_dtype(grad_offset, offset.scalar_type()),
      in_dtype(grad_mask, mask ? mask->scalar_type() : offset.scalar_type()),
      in_dtype(needs_parameters ? kernel_from_rows(grad_kernel, weight) : grad_kernel, weight.scalar_type()),
      in_dtype(grad_bias, weight.scalar_type())};
}

}  // namespace
}  // namespace deform

STABLE_TORCH_LIBRARY_IMPL(maskrcnn_benchmark, CPU, m) {
  m.impl("_deform_conv2d_backward", TORCH_BOX(&deform::backward_operator<deform::backward_cpu>));
}

}  // namespace glip
