// The gradient of the input of a deformable convolution: each pixel lists the samples that read it, and sums over them.
#pragma once

#include "deform_conv2d.cuh"

namespace glip {
namespace deform {
namespace {

// A sample that reads a pixel: which, and how much of it.
template <typename A>
struct alignas(2 * sizeof(A)) Reader {
  int item;  // row * taps + tap
  A weight;
};

// Counts the readers of each pixel and offset group of a chunk, or (kList) puts them where `cursors` says.
template <typename T, bool kList>
__global__ void __launch_bounds__(kThreads)
    list_readers(Chunk<T> chunk, int* __restrict__ cursors, Reader<accumulate_t<T>>* __restrict__ readers) {
  using A = accumulate_t<T>;
  const DeformGeometry& g = chunk.g;
  const int count = chunk.rows * chunk.samples();
  const int first_image = static_cast<int>(chunk.first_row / g.locations());
  for (int64_t i = grid_thread(); i < count; i += grid_threads()) {
    // Neighbouring threads take neighbouring positions, so that they read neighbouring offsets.
    const int sample = static_cast<int>(i / chunk.rows), row = static_cast<int>(i - int64_t(sample) * chunk.rows);
    AxisSample<A> vertical, horizontal;
    A scale;
    int image;
    if (!chunk.place(row, sample, image, vertical, horizontal, scale)) continue;
    const int offset_group = sample / g.taps(), tap = sample - offset_group * g.taps();
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const A weight = (k < 2 ? vertical.low_weight : vertical.high_weight) *
          (k % 2 ? horizontal.high_weight : horizontal.low_weight);
      if (weight == A(0)) continue;
      const int y = k < 2 ? vertical.low : vertical.high, x = k % 2 ? horizontal.high : horizontal.low;
      const int pixel = ((image - first_image) * g.height + y) * g.width + x;
      const int place = atomicAdd(cursors + pixel * g.offset_groups + offset_group, 1);
      if constexpr (kList) readers[place] = {row * g.taps() + tap, weight * scale};
    }
  }
}

// Gives each list its place: cursors[i] = where the list of counts[i] readers begins. Lists are in no order.
__global__ void __launch_bounds__(kThreads)
    place_lists(int count, const int* __restrict__ counts, int* __restrict__ cursors, int* __restrict__ total) {
  __shared__ int warp_sums[kThreads / kWarp];
  __shared__ int begin;
  const int i = blockIdx.x * kThreads + threadIdx.x, lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int own = i < count ? counts[i] : 0;
  int sum = own;  // of the lanes up to this one
#pragma unroll
  for (int distance = 1; distance < kWarp; distance *= 2) {
    int before = __shfl_up_sync(0xffffffffu, sum, distance);
    if (lane >= distance) sum += before;
  }
  if (lane == kWarp - 1) warp_sums[warp] = sum;
  __syncthreads();
  if (threadIdx.x == 0) {
    int all = 0;
    for (int w = 0; w < kThreads / kWarp; ++w) {
      int own_sum = warp_sums[w];
      warp_sums[w] = all;
      all += own_sum;
    }
    begin = atomicAdd(total, all);
  }
  __syncthreads();
  if (i < count) cursors[i] = begin + warp_sums[warp] + sum - own;
}

// The gradient of each pixel and offset group: the sum over its readers. ends: behind the last reader of each.
template <typename T, int kVector, bool kOneGroup>
__global__ void __launch_bounds__(kThreads) sum_readers(
    DeformGeometry g,
    int rows,
    int lists,
    int lanes,
    const T* __restrict__ grad_columns,
    const int* __restrict__ counts,
    const int* __restrict__ ends,
    const Reader<accumulate_t<T>>* __restrict__ readers,
    T* __restrict__ grad_input) {
  using A = accumulate_t<T>;
  constexpr int kAtOnce = 4;
  const int64_t list = grid_thread() / lanes;
  if (list >= lists) return;
  const int pixel = static_cast<int>(list / g.offset_groups);
  const int offset_group = static_cast<int>(list) - pixel * g.offset_groups;
  const int own = g.offset_channels(), end = ends[list], begin = end - counts[list];
  const ColumnIndex<kOneGroup> index(g, rows, 0, 0);
  for (int within = (threadIdx.x & (lanes - 1)) * kVector; within < own; within += lanes * kVector) {
    const int channel = offset_group * own + within;
    const T* column = grad_columns + index(channel);
    A sum[kVector] = {};
    for (int i = begin; i < end; i += kAtOnce) {
      A values[kAtOnce][kVector], weights[kAtOnce];
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j) {
        const Reader<A> reader = readers[min(i + j, end - 1)];
        weights[j] = i + j < end ? reader.weight : A(0);
        load_constant<T, kVector>(column + int64_t(reader.item) * g.group_channels(), values[j]);
      }
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j)
        if (i + j < end)
#pragma unroll
          for (int v = 0; v < kVector; ++v) sum[v] += weights[j] * values[j][v];
    }
    store<T, kVector>(grad_input + int64_t(pixel) * g.channels + channel, sum);
  }
}

}  // namespace
}  // namespace deform
}  // namespace glip
