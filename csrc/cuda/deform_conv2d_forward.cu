// Deformable convolution on CUDA: the samples of a chunk of output positions are gathered into a matrix, which a
// library product multiplies with the weights.
#include "deform_conv2d.cuh"

#include <torch/csrc/stable/library.h>

namespace glip {
namespace deform {
namespace {

// The corners of a sample: pixels of the table and their weights times the mask. No pixel: the sample is 0.
template <typename A>
struct alignas(16) Corners {
  int pixels[4];
  A weights[4];
};

template <typename T>
__device__ Corners<accumulate_t<T>> place_corners(const Chunk<T>& chunk, int row, int sample) {
  using A = accumulate_t<T>;
  Corners<A> result;
  AxisSample<A> vertical, horizontal;
  A scale;
  int image;
  result.pixels[0] = -1;
  if (!chunk.place(row, sample, image, vertical, horizontal, scale)) return result;
  int low = image * chunk.image_pixels + vertical.low * chunk.g.width;
  int high = image * chunk.image_pixels + vertical.high * chunk.g.width;
  result.pixels[0] = low + horizontal.low;
  result.pixels[1] = low + horizontal.high;
  result.pixels[2] = high + horizontal.low;
  result.pixels[3] = high + horizontal.high;
  result.weights[0] = vertical.low_weight * horizontal.low_weight * scale;
  result.weights[1] = vertical.low_weight * horizontal.high_weight * scale;
  result.weights[2] = vertical.high_weight * horizontal.low_weight * scale;
  result.weights[3] = vertical.high_weight * horizontal.high_weight * scale;
  return result;
}

template <typename T, int kVector>
__device__ void blend(const T* pixel, int channels, const Corners<accumulate_t<T>>& corners, T* out) {
  using A = accumulate_t<T>;
  A values[4][kVector], sum[kVector];
#pragma unroll
  for (int k = 0; k < 4; ++k) load_constant<T, kVector>(pixel + int64_t(corners.pixels[k]) * channels, values[k]);
#pragma unroll
  for (int i = 0; i < kVector; ++i)
    sum[i] = corners.weights[0] * values[0][i] + corners.weights[1] * values[1][i] +
        corners.weights[2] * values[2][i] + corners.weights[3] * values[3][i];
  store<T, kVector>(out, sum);
}

// Writes the matrix of a chunk. The threads of a block first place its samples, each once, then gather them.
// kPasses: how often the lanes of a sample go over its channels, 0 where it is not known when compiling.
template <typename T, int kVector, bool kOneGroup, int kPasses>
__global__ void __launch_bounds__(kThreads) fill_columns(Chunk<T> chunk, Tile tile, T* __restrict__ columns) {
  using A = accumulate_t<T>;
  extern __shared__ uint4 shared[];
  auto* corners = reinterpret_cast<Corners<A>*>(shared);
  const DeformGeometry& g = chunk.g;
  const int first_row = blockIdx.x << tile.row_bits, first_sample = blockIdx.y * tile.samples;
  const int rows = min(1 << tile.row_bits, chunk.rows - first_row);
  const int samples = min(tile.samples, chunk.samples() - first_sample);
  for (int i = threadIdx.x; i < samples << tile.row_bits; i += kThreads) {
    int row = i & ((1 << tile.row_bits) - 1), sample = i >> tile.row_bits;
    if (row < rows) corners[row * samples + sample] = place_corners(chunk, first_row + row, first_sample + sample);
  }
  __syncthreads();

  const int lane = threadIdx.x & (tile.lanes - 1), step = tile.lanes * kVector;
  const int channels = g.channels, own = g.offset_channels(), passes = kPasses ? kPasses : (own + step - 1) / step;
  const int count = rows * samples;
#pragma unroll 2
  for (int i = threadIdx.x / tile.lanes; i < count; i += kThreads / tile.lanes) {
    const Corners<A> placed = corners[i];
    const int row = kOneGroup ? 0 : i / samples, sample = kOneGroup ? i : first_sample + i - row * samples;
    const int offset_group = kOneGroup ? 0 : sample / g.taps();
    const ColumnIndex<kOneGroup> index(g, chunk.rows, first_row + row, sample - offset_group * g.taps());
#pragma unroll
    for (int pass = 0; pass < passes; ++pass) {
      const int within = lane * kVector + pass * step;
      if (kPasses == 0 && within >= own) break;
      const int channel = offset_group * own + within;
      T* out = columns + index(channel);
      if (placed.pixels[0] < 0)
        store<T, kVector>(out, {});
      else
        blend<T, kVector>(chunk.input + channel, channels, placed, out);
    }
  }
}

template <typename T, int kVector, bool kOneGroup>
void launch_fill(const Chunk<T>& chunk, T* columns, cudaStream_t stream) {
  Tile tile(chunk, kVector);
  int step = tile.lanes * kVector, own = chunk.g.offset_channels();
  auto kernel = own == step   ? fill_columns<T, kVector, kOneGroup, 1>
      : own == 2 * step ? fill_columns<T, kVector, kOneGroup, 2>
                              : fill_columns<T, kVector, kOneGroup, 0>;
  size_t bytes = tile.count() * sizeof(Corners<accumulate_t<T>>);
  kernel<<<tile.grid(chunk), kThreads, bytes, stream>>>(chunk, tile, columns);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

template <typename T>
void fill(const Chunk<T>& chunk, const Tensor& columns, cudaStream_t stream) {
  T* out = static_cast<T*>(columns.mutable_data_ptr());
  const DeformGeometry& g = chunk.g;
  if (!is_wide<T>(g))
    launch_fill<T, 1, false>(chunk, out, stream);
  else if (has_one_group_of_samples(g))
    launch_fill<T, kWideVector<T>, true>(chunk, out, stream);
  else
    launch_fill<T, kWideVector<T>, false>(chunk, out, stream);
}

// Rows of a chunk: whole waves of the blocks of 128 rows that a matrix product is divided into, where they fit.
int64_t chunk_rows(const Tensor& input, const DeformGeometry& g) {
  int processors = 1;
  STD_CUDA_CHECK(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, input.get_device_index()));
  const int64_t wave = int64_t(processors) * 128, most = workspace_rows(input, g);
  return std::min(int64_t(g.batch) * g.locations(), most >= wave ? most / wave * wave : most);
}

template <typename T>
void forward(
    const DeformGeometry& g,
    const PixelTable& pixels,
    const Tensor& offset,
    const std::optional<Tensor>& mask,
    const Tensor& kernel,
    const std::optional<Tensor>& bias,
    const Tensor& out) {
  auto stream = current_stream(pixels.tensor);
  int64_t total = int64_t(g.batch) * g.locations(), rows = chunk_rows(pixels.tensor, g);
  auto columns = torch::stable::new_empty(kernel, {rows * g.depth() * g.groups});
  auto chunk = first_chunk<T>(g, pixels, offset, mask);
  for (int64_t first = 0; first < total; first += rows) {
    chunk.first_row = first;
    chunk.rows = static_cast<int>(std::min(rows, total - first));
    fill<T>(chunk, columns, stream);
    GroupMatrices matrices{g, chunk.rows};
    for (int64_t group = 0; group < g.groups; ++group) {
      auto result = matrices.outputs(out, group, first, chunk.rows);
      auto samples = matrices.columns(columns, group), factor = matrices.kernel_transposed(kernel, group);
      if (bias)
        multiply_add(result, matrices.bias(*bias, group), samples, factor);
      else
        multiply(result, samples, factor);
    }
  }
}

Tensor forward_cuda(
    const Tensor& input, const Tensor& offset, const std::optional<Tensor>& mask, const Tensor& weight,
    const std::optional<Tensor>& bias, const DeformGeometry& g) {
  DeviceGuard guard(input.get_device_index());
  auto out = torch::stable::new_empty(input, {g.batch, g.out_height, g.out_width, g.out_channels});
  if (g.batch > 0) {
    PixelTable pixels(input);
    auto kernel = kernel_rows(weight);
    dispatch_floating(input, "input", [&](auto tag) {
      forward<typename decltype(tag)::type>(g, pixels, offset, mask, kernel, bias, out);
    });
  }
  return channels_first(out);
}

}  // namespace
}  // namespace deform

STABLE_TORCH_LIBRARY_IMPL(maskrcnn_benchmark, CUDA, m) {
  m.impl("deform_conv2d", TORCH_BOX(&deform::forward_operator<deform::forward_cuda>));
}

}  // namespace glip
