// The gradients of a deformable convolution on CUDA, some images at a time:
//   1. grad columns = grad x weights, a library product;
//   2. of the input: each pixel lists the samples that read it, then sums their gradients. Nothing is added atomically
//      but counters, and each pixel is written once;
//   3. of offsets and masks, from the products of the gradient of a sample with the four pixels around it. The same
//      pass replaces the gradient of the sample by the sample itself;
//   4. of the weights = grad^T x columns, a library product.
#include "deform_conv2d_readers.cuh"

#include <torch/csrc/stable/library.h>

#include <tuple>

namespace glip {
namespace deform {
namespace {

// A placed sample, in shared memory; then its gradients.
template <typename A>
struct alignas(16) PlacedSample {
  int pixels[4];  // of the table; none where the sample is 0
  AxisSample<A> vertical, horizontal;
  A scale;
  CoordinateGradient<A> gradient;
};

// Sums over `lanes` neighbouring lanes; all of them get the result.
template <typename A>
__device__ A sum_lanes(A value, int lanes) {
  for (int distance = lanes / 2; distance > 0; distance /= 2) value += __shfl_xor_sync(0xffffffffu, value, distance);
  return value;
}

// Where the gradients of the offsets and the masks go, contiguous; null where there is none.
template <typename T>
struct CoordinateOutput {
  void *offset, *mask;
  bool is_offset_wide, is_mask_wide;

  // k: which sample of the images, (image, offset group, tap).
  __device__ void write(int64_t k, int64_t position, int64_t locations, CoordinateGradient<accumulate_t<T>> gradient) {
    if (offset) {
      write(offset, is_offset_wide, 2 * k * locations + position, gradient.y);
      write(offset, is_offset_wide, (2 * k + 1) * locations + position, gradient.x);
    }
    if (mask) write(mask, is_mask_wide, k * locations + position, gradient.scale);
  }
  __device__ static void write(void* to, bool is_wide, int64_t index, accumulate_t<T> value) {
    if (is_wide)
      static_cast<accumulate_t<T>*>(to)[index] = value;
    else
      static_cast<T*>(to)[index] = static_cast<T>(value);
  }
};

// Reads the gradients of samples from `columns`, writes those of offsets and masks, and puts the samples there instead.
template <typename T, int kVector, bool kOneGroup, bool kCoordinates, bool kColumns>
__global__ void __launch_bounds__(kThreads)
    differentiate_samples(Chunk<T> chunk, Tile tile, T* columns, CoordinateOutput<T> output) {
  using A = accumulate_t<T>;
  extern __shared__ uint4 shared[];
  auto* placed = reinterpret_cast<PlacedSample<A>*>(shared);
  const DeformGeometry& g = chunk.g;
  const int first_row = blockIdx.x << tile.row_bits, first_sample = blockIdx.y * tile.samples;
  const int rows = min(1 << tile.row_bits, chunk.rows - first_row);
  const int samples = min(tile.samples, chunk.samples() - first_sample);
  for (int i = threadIdx.x; i < samples << tile.row_bits; i += kThreads) {
    const int row = i & ((1 << tile.row_bits) - 1), sample = i >> tile.row_bits;
    if (row >= rows) continue;
    PlacedSample<A>& own = placed[row * samples + sample];
    int image;
    if (chunk.place(first_row + row, first_sample + sample, image, own.vertical, own.horizontal, own.scale)) {
      for (int k = 0; k < 4; ++k)
        own.pixels[k] = image * chunk.image_pixels + (k < 2 ? own.vertical.low : own.vertical.high) * g.width +
            (k % 2 ? own.horizontal.high : own.horizontal.low);
    } else {
      own.pixels[0] = -1;
    }
    own.gradient = CoordinateGradient<A>();
  }
  __syncthreads();

  const int lane = threadIdx.x & (tile.lanes - 1), own_channels = g.offset_channels(), count = rows * samples;
  const int slots = kThreads / tile.lanes;
  // All lanes of a warp take part in its sums: they go round equally often.
  for (int first = 0; first < count; first += slots) {
    const int i = first + threadIdx.x / tile.lanes;
    const bool is_sample = i < count;
    PlacedSample<A>& own = placed[is_sample ? i : 0];
    const bool is_on_map = is_sample && own.pixels[0] >= 0;
    const int row = kOneGroup ? 0 : (is_sample ? i : 0) / samples;
    const int sample = kOneGroup ? i : first_sample + (is_sample ? i : 0) - row * samples;
    const int offset_group = kOneGroup ? 0 : sample / g.taps();
    const ColumnIndex<kOneGroup> index(g, chunk.rows, first_row + row, sample - offset_group * g.taps());
    A sums[4] = {};
    for (int within = lane * kVector; is_sample && within < own_channels; within += tile.lanes * kVector) {
      const int channel = offset_group * own_channels + within;
      T* column = columns + index(channel);
      A result[kVector] = {};
      if (is_on_map) {
        const T* pixel = chunk.input + channel;
        A grad[kVector], values[4][kVector];
#pragma unroll
        for (int k = 0; k < 4; ++k)
          load_constant<T, kVector>(pixel + int64_t(own.pixels[k]) * g.channels, values[k]);
        if constexpr (kCoordinates) load<T, kVector>(column, grad);
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          const A weight = (k < 2 ? own.vertical.low_weight : own.vertical.high_weight) *
              (k % 2 ? own.horizontal.high_weight : own.horizontal.low_weight) * own.scale;
#pragma unroll
          for (int v = 0; v < kVector; ++v) {
            if constexpr (kCoordinates) sums[k] += grad[v] * values[k][v];
            if constexpr (kColumns) result[v] += weight * values[k][v];
          }
        }
      }
      if constexpr (kColumns) store<T, kVector>(column, result);
    }
    if constexpr (kCoordinates) {
#pragma unroll
      for (int k = 0; k < 4; ++k) sums[k] = sum_lanes(sums[k], tile.lanes);
      if (lane == 0 && is_on_map)
        own.gradient = CoordinateGradient<A>(own.vertical, own.horizontal, own.scale, sums);
    }
  }
  if constexpr (!kCoordinates) return;
  __syncthreads();
  for (int i = threadIdx.x; i < samples << tile.row_bits; i += kThreads) {
    const int row = i & ((1 << tile.row_bits) - 1), sample = first_sample + (i >> tile.row_bits);
    if (row >= rows) continue;
    const CoordinateGradient<A> gradient = placed[row * samples + sample - first_sample].gradient;
    const int64_t location = chunk.first_row + first_row + row, image = location / g.locations();
    const int64_t k = image * chunk.samples() + sample, position = location - image * g.locations();
    output.write(k, position, g.locations(), gradient);
  }
}

template <typename T, int kVector, bool kOneGroup>
class Backward {
 public:
  using A = accumulate_t<T>;

  // grad: (rows, O); kernel: (O, depth); partial_kernels: (chunks, O, depth) of A or absent.
  Backward(const Chunk<T>& chunk, int64_t images, const Tensor& grad, const Tensor& kernel)
      : chunk_(chunk),
        g_(chunk.g),
        images_(images),
        stream_(current_stream(grad)),
        grad_(grad),
        kernel_(kernel),
        columns_(torch::stable::new_empty(kernel, {images * g_.locations() * g_.depth() * g_.groups})) {}

  void run(T* grad_input, const CoordinateOutput<T>& output, const Tensor* partial_kernels) {
    std::optional<Tensor> lists, readers;
    const int64_t most_lists = images_ * g_.height * g_.width * g_.offset_groups;
    if (grad_input) {
      STD_TORCH_CHECK(
          most_lists <= std::numeric_limits<int>::max(),
          "input ",
          g_.height,
          " x ",
          g_.width,
          " with ",
          g_.offset_groups,
          " offset groups is too large for its gradient");
      // A sample has up to four readers, each as large as two numbers of A.
      lists = torch::stable::new_empty(grad_, {2 * most_lists + 1}, ScalarType::Int);
      readers = torch::stable::new_empty(
          grad_, {images_ * g_.locations() * chunk_.samples() * 8}, accumulate_dtype(grad_.scalar_type()));
    }
    for (int64_t image = 0, part = 0; image < g_.batch; image += images_, ++part) {
      const int64_t images = std::min(images_, g_.batch - image);
      chunk_.first_row = image * g_.locations();
      chunk_.rows = static_cast<int>(images * g_.locations());
      const GroupMatrices matrices{g_, chunk_.rows};
      for (int64_t group = 0; (grad_input || output.offset) && group < g_.groups; ++group)
        multiply(
            matrices.columns(columns_, group), matrices.outputs(grad_, group, chunk_.first_row, chunk_.rows),
            matrices.kernel(kernel_, group));
      if (grad_input)
        add_input(images, *lists, *readers, grad_input + image * g_.height * g_.width * g_.channels);
      differentiate(output, partial_kernels != nullptr);
      for (int64_t group = 0; partial_kernels && group < g_.groups; ++group)
        multiply_transposed(matrices, group, part, *partial_kernels);
    }
  }

 private:
  void add_input(int64_t images, Tensor& lists, Tensor& readers, T* grad_input) {
    const int count = static_cast<int>(images * g_.height * g_.width * g_.offset_groups);
    int* total = lists.mutable_data_ptr<int>();
    int *counts = total + 1, *cursors = counts + count;
    auto* list = reinterpret_cast<Reader<A>*>(readers.mutable_data_ptr());
    STD_CUDA_CHECK(cudaMemsetAsync(total, 0, sizeof(int) * (count + 1), stream_));
    const unsigned blocks = grid_blocks(int64_t(chunk_.rows) * chunk_.samples());
    list_readers<T, false><<<blocks, kThreads, 0, stream_>>>(chunk_, counts, list);
    place_lists<<<grid_blocks(count, kThreads, count), kThreads, 0, stream_>>>(count, counts, cursors, total);
    list_readers<T, true><<<blocks, kThreads, 0, stream_>>>(chunk_, cursors, list);
    const int lanes = Tile(chunk_, kVector).lanes;
    const int64_t threads = int64_t(count) * lanes;
    sum_readers<T, kVector, kOneGroup><<<grid_blocks(threads, kThreads, threads), kThreads, 0, stream_>>>(
        g_, chunk_.rows, count, lanes, static_cast<const T*>(columns_.const_data_ptr()), counts, cursors, list,
        grad_input);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }

  void differentiate(const CoordinateOutput<T>& output, bool needs_columns) {
    if (!output.offset && !needs_columns) return;
    auto kernel = !output.offset ? differentiate_samples<T, kVector, kOneGroup, false, true>
        : needs_columns          ? differentiate_samples<T, kVector, kOneGroup, true, true>
                                 : differentiate_samples<T, kVector, kOneGroup, true, false>;
    const Tile tile(chunk_, kVector);
    const size_t bytes = tile.count() * sizeof(PlacedSample<A>);
    STD_CUDA_CHECK(cudaFuncSetAttribute(
        reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)));
    kernel<<<tile.grid(chunk_), kThreads, bytes, stream_>>>(
        chunk_, tile, static_cast<T*>(columns_.mutable_data_ptr()), output);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }

  void multiply_transposed(const GroupMatrices& matrices, int64_t group, int64_t part, const Tensor& partial_kernels) {
    const int64_t size = g_.out_channels * g_.depth();
    const auto result = matrix_view(
        partial_kernels, part * size + group * matrices.width() * g_.depth(), matrices.width(), g_.depth(), g_.depth());
    const auto grad = matrices.outputs_transposed(grad_, group, chunk_.first_row, chunk_.rows);
    const auto samples = matrices.columns(columns_, group);
    if (sizeof(T) < sizeof(A)) {
      int32_t dtype;
      TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(partial_kernels.get(), &dtype));
      TORCH_ERROR_CODE_CHECK(aoti_torch_cuda_mm_dtype_out(result.get(), grad.get(), samples.get(), dtype));
    } else {
      multiply(result, grad, samples);
    }
  }

  Chunk<T> chunk_;
  const DeformGeometry& g_ = chunk_.g;
  const int64_t images_;
  const cudaStream_t stream_;
  const Tensor &grad_, &kernel_;
  Tensor columns_;
};

DeformGradients backward_cuda(
    const Tensor& grad, const Tensor& input, const Tensor& offset, const std::optional<Tensor>& mask,
    const Tensor& weight, const std::optional<Tensor>& bias, const DeformGeometry& g, const NeededGradients& needed) {
  const bool needs_input = needed.input, needs_coordinates = needed.coordinates, needs_parameters = needed.parameters;
  const DeviceGuard guard(input.get_device_index());
  const auto dtype = input.scalar_type();
  auto gradient = [&](bool is_needed, const Tensor& like, std::initializer_list<int64_t> sizes) {
    return is_needed ? torch::stable::new_empty(like, sizes) : no_gradient(like);
  };
  const int64_t samples = int64_t(g.offset_groups) * g.taps();
  auto grad_input = gradient(needs_input, input, {g.batch, g.height, g.width, g.channels});
  auto grad_offset = gradient(needs_coordinates, offset, {g.batch, 2 * samples, g.out_height, g.out_width});
  auto grad_mask =
      gradient(needs_coordinates && mask, mask ? *mask : offset, {g.batch, samples, g.out_height, g.out_width});
  const auto grad_rows = PixelTable(grad, true).tensor;
  auto grad_weight = no_gradient(weight);
  if (g.batch == 0) {
    if (needs_parameters) grad_weight = torch::stable::new_zeros(weight, weight.sizes());
  } else {
    const PixelTable pixels(input);
    const int64_t images = std::clamp<int64_t>(workspace_rows(input, g) / g.locations(), 1, g.batch);
    const int64_t parts = (g.batch + images - 1) / images;
    std::optional<Tensor> partial;
    if (needs_parameters)
      partial = torch::stable::new_empty(
          input, {parts, int64_t(g.out_channels) * g.depth()}, accumulate_dtype(dtype));
    const auto kernel = kernel_rows(weight);
    auto run = [&](auto tag, auto vector, auto has_one_group) {
      using T = typename decltype(tag)::type;
      CoordinateOutput<T> output{
          needs_coordinates ? grad_offset.mutable_data_ptr() : nullptr,
          needs_coordinates && mask ? grad_mask.mutable_data_ptr() : nullptr,
          offset.scalar_type() == accumulate_dtype(dtype),
          mask && mask->scalar_type() == accumulate_dtype(dtype)};
      auto chunk = first_chunk<T>(g, pixels, offset, mask);
      Backward<T, decltype(vector)::value, decltype(has_one_group)::value>(chunk, images, grad_rows, kernel)
          .run(needs_input ? static_cast<T*>(grad_input.mutable_data_ptr()) : nullptr, output,
               partial ? &*partial : nullptr);
    };
    dispatch_floating(input, "input", [&](auto tag) {
      using T = typename decltype(tag)::type;
      if (!is_wide<T>(g))
        run(tag, std::integral_constant<int, 1>{}, std::false_type{});
      else if (has_one_group_of_samples(g))
        run(tag, std::integral_constant<int, kWideVector<T>>{}, std::true_type{});
      else
        run(tag, std::integral_constant<int, kWideVector<T>>{}, std::false_type{});
    });
    if (needs_parameters) {
      int64_t axis = 0;
      auto sum = torch::stable::sum(*partial, torch::headeronly::IntHeaderOnlyArrayRef(&axis, 1));
      grad_weight = torch::stable::to(kernel_from_rows(sum, weight), weight.scalar_type());
    }
  }
  auto grad_bias = no_gradient(weight);
  if (needs_parameters && bias) {
    int64_t axes[] = {0, 2, 3};
    grad_bias = torch::stable::sum(grad_rows, torch::headeronly::IntHeaderOnlyArrayRef(axes, 3));
  }
  return {needs_input ? channels_first(grad_input) : grad_input, grad_offset, grad_mask, grad_weight, grad_bias};
}

}  // namespace
}  // namespace deform

STABLE_TORCH_LIBRARY_IMPL(maskrcnn_benchmark, CUDA, m) {
  m.impl("_deform_conv2d_backward", TORCH_BOX(&deform::backward_operator<deform::backward_cuda>));
}

}  // namespace glip
