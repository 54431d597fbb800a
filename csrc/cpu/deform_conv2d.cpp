// Deformable convolution on the CPU: taps are gathered pixel by pixel, all channels at once, into the rows of a matrix,
// and the matrix is multiplied with the weights. Numbers of 16 bits are computed in float.
#include "../common/deform_conv2d_tensors.h"

#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cpu.h>
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <atomic>
#include <tuple>

// Vectors as wide as the processor has, chosen when the library is loaded.
#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__)
#define GLIP_VECTOR_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define GLIP_VECTOR_CLONES
#endif
#define GLIP_INLINE inline __attribute__((always_inline))

namespace glip {
namespace {

// Most rows of a chunk of the forward pass, which stay in the cache of a core until they are multiplied, and the fewest
// that a thread is worth.
constexpr int64_t kForwardRows = 256, kForwardRowsOfThread = 32;
// Numbers in the matrix of a chunk of the backward pass.
constexpr int64_t kBackwardNumbers = int64_t(1) << 22;
constexpr int kLanes = 16;

// The four pixels of a tap: their channels, and what each counts.
template <typename A>
struct Corners {
  const A* pixels[4];
  A weights[4];
};

template <typename A>
GLIP_INLINE void blend_loop(const Corners<A>& corners, int64_t channels, A* __restrict out) {
  const A *a = corners.pixels[0], *b = corners.pixels[1], *c = corners.pixels[2], *d = corners.pixels[3];
  A u = corners.weights[0], v = corners.weights[1], w = corners.weights[2], x = corners.weights[3];
  for (int64_t i = 0; i < channels; ++i) out[i] = u * a[i] + v * b[i] + w * c[i] + x * d[i];
}
GLIP_VECTOR_CLONES void blend(const Corners<float>& corners, int64_t channels, float* out) {
  blend_loop(corners, channels, out);
}
GLIP_VECTOR_CLONES void blend(const Corners<double>& corners, int64_t channels, double* out) {
  blend_loop(corners, channels, out);
}

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

// Neighbouring channels that share their offsets and their group of the convolution.
struct Run {
  int offset_group, group, channel, channel_in_group, length;
};

std::vector<Run> channel_runs(const DeformGeometry& g) {
  std::vector<Run> runs;
  for (int channel = 0; channel < g.channels;) {
    int offset_group = channel / g.offset_channels(), group = channel / g.group_channels();
    int end = std::min((offset_group + 1) * g.offset_channels(), (group + 1) * g.group_channels());
    runs.push_back({offset_group, group, channel, channel % g.group_channels(), end - channel});
    channel = end;
  }
  return runs;
}

// The tensors of a call in the dtype A of the computation, and where its taps lie.
template <typename A>
struct Sampler {
  DeformGeometry g;
  std::vector<Run> runs = channel_runs(g);
  PixelTable pixels;
  LocationMap offset, mask;
  const A* input = pixels.tensor.const_data_ptr<A>();

  // A tap at an output position; the pixels of the corners are those of channel 0.
  struct Tap {
    bool is_on_map;
    AxisSample<A> vertical, horizontal;
    A scale;
    int64_t pixels[4];
    A weights[4];  // without the mask
  };

  Tap tap(int64_t location, int offset_group, int tap) const {
    Tap result;
    int image = static_cast<int>(location / g.locations()), position = static_cast<int>(location % g.locations());
    auto &v = result.vertical, &h = result.horizontal;
    result.is_on_map = place_tap<A>(
        g, offset, mask, image, offset_group, tap, position / g.out_width, position % g.out_width, v, h, result.scale);
    if (!result.is_on_map) return result;
    int64_t first = image * pixels.image_pixels;
    for (int k = 0; k < 4; ++k) {
      result.pixels[k] = first + int64_t(k < 2 ? v.low : v.high) * g.width + (k % 2 ? h.high : h.low);
      result.weights[k] = (k < 2 ? v.low_weight : v.high_weight) * (k % 2 ? h.high_weight : h.low_weight);
    }
    return result;
  }

  Corners<A> corners(const Tap& tap, int channel) const {
    Corners<A> result;
    for (int k = 0; k < 4; ++k) {
      result.pixels[k] = input + tap.pixels[k] * g.channels + channel;
      result.weights[k] = tap.weights[k] * tap.scale;
    }
    return result;
  }

  // Where the samples of a run at a row of a chunk of `rows` begin in its matrix (groups, rows, depth).
  int64_t column(const Run& run, int64_t rows, int64_t row, int tap) const {
    return (run.group * rows + row) * g.depth() + int64_t(tap) * g.group_channels() + run.channel_in_group;
  }

  // Calls body(offset_group, tap, placed tap) for all taps at a location.
  template <typename Body>
  void each_tap(int64_t location, const Body& body) const {
    for (int offset_group = 0; offset_group < g.offset_groups; ++offset_group)
      for (int k = 0; k < g.taps(); ++k) body(offset_group, k, tap(location, offset_group, k));
  }

  template <typename Body>
  void each_run(int offset_group, const Body& body) const {
    for (const Run& run : runs)
      if (run.offset_group == offset_group) body(run);
  }

  // The samples of a location, as a row of the matrix of a chunk.
  void fill_row(int64_t location, int64_t rows, int64_t row, A* columns) const {
    each_tap(location, [&](int offset_group, int k, const Tap& placed) {
      each_run(offset_group, [&](const Run& run) {
        A* out = columns + column(run, rows, row, k);
        if (placed.is_on_map)
          blend(corners(placed, run.channel), run.length, out);
        else
          std::fill_n(out, run.length, A(0));
      });
    });
  }
};

Tensor in_dtype(const Tensor& tensor, ScalarType dtype) {
  return tensor.scalar_type() == dtype ? tensor : torch::stable::to(tensor, dtype);
}

// The arguments of the operator after the tensors.
struct CpuArguments {
  ScalarType dtype;
  Tensor input, offset;
  std::optional<Tensor> mask;

  CpuArguments(const Tensor& input, const Tensor& offset, const std::optional<Tensor>& mask)
      : dtype(accumulate_dtype(input.scalar_type())),
        input(in_dtype(input, dtype)),
        offset(in_dtype(offset, dtype)) {
    if (mask) this->mask = in_dtype(*mask, dtype);
  }

  template <typename A>
  Sampler<A> sampler(const DeformGeometry& g) const {
    return {g, channel_runs(g), PixelTable(input), LocationMap(offset, dtype),
            mask ? LocationMap(*mask, dtype) : LocationMap()};
  }
};

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
    const Tensor& input,
    const Tensor& offset,
    const std::optional<Tensor>& mask,
    const Tensor& weight,
    const std::optional<Tensor>& bias,
    int64_t stride_h,
    int64_t stride_w,
    int64_t pad_h,
    int64_t pad_w,
    int64_t dilation_h,
    int64_t dilation_w,
    int64_t groups,
    int64_t offset_groups) {
  auto g = deform_geometry(
      input, offset, mask, weight, bias,
      {stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, groups, offset_groups});
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

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> backward_cpu(
    const Tensor& grad,
    const Tensor& input,
    const Tensor& offset,
    const std::optional<Tensor>& mask,
    const Tensor& weight,
    const std::optional<Tensor>& bias,
    int64_t stride_h,
    int64_t stride_w,
    int64_t pad_h,
    int64_t pad_w,
    int64_t dilation_h,
    int64_t dilation_w,
    int64_t groups,
    int64_t offset_groups,
    bool needs_input,
    bool needs_coordinates,
    bool needs_parameters) {
  auto g = deform_geometry(
      input, offset, mask, weight, bias,
      {stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, groups, offset_groups});
  check_deform_grad(grad, input, g);
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

STABLE_TORCH_LIBRARY_IMPL(maskrcnn_benchmark, CPU, m) {
  m.impl("deform_conv2d", TORCH_BOX(&forward_cpu));
  m.impl("_deform_conv2d_backward", TORCH_BOX(&backward_cpu));
}

}  // namespace glip
