#include "../common/focal_loss.h"
#include "launch.cuh"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

namespace glip {
namespace {

// ---- labels: one thread per logit ----

template <typename T, typename A>
__global__ void label_forward_kernel(
    int64_t count, int64_t columns, const T* logits, const int64_t* labels, A gamma, A alpha, A* loss) {
  for (int64_t i = grid_thread(); i < count; i += grid_threads()) {
    const int64_t row = i / columns, label = labels[row];
    loss[i] = label < 0
        ? A(0)
        : label_focal_loss<A>(static_cast<A>(logits[i]), label == i - row * columns + 1, gamma, alpha);
  }
}

template <typename T, typename A>
__global__ void label_backward_kernel(
    int64_t count, int64_t columns, const A* grad, const T* logits, const int64_t* labels, A gamma, A alpha, T* out) {
  for (int64_t i = grid_thread(); i < count; i += grid_threads()) {
    const int64_t row = i / columns, label = labels[row];
    out[i] = label < 0
        ? T(A(0))
        : static_cast<T>(
              grad[i] *
              label_focal_gradient<A>(static_cast<A>(logits[i]), label == i - row * columns + 1, gamma, alpha));
  }
}

Tensor label_forward(const Tensor& logits, const Tensor& labels, double gamma, double alpha) {
  check_label_focal_loss(logits, labels);
  const DeviceGuard guard(logits.get_device_index());
  const auto x = torch::stable::contiguous(logits);
  const auto y = torch::stable::contiguous(torch::stable::to(labels, ScalarType::Long));
  auto loss = torch::stable::new_empty(x, x.sizes(), accumulate_dtype(x.scalar_type()));
  const int64_t count = x.numel();
  if (count == 0) return loss;
  dispatch_floating(x, "logits", [&](auto tag) {
    using T = typename decltype(tag)::type;
    using A = accumulate_t<T>;
    label_forward_kernel<T, A><<<grid_blocks(count), kThreads, 0, current_stream(x)>>>(
        count, x.size(1), x.template const_data_ptr<T>(), y.template const_data_ptr<int64_t>(), A(gamma), A(alpha),
        loss.template mutable_data_ptr<A>());
  });
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return loss;
}

Tensor label_backward(const Tensor& grad, const Tensor& logits, const Tensor& labels, double gamma, double alpha) {
  check_label_focal_loss(logits, labels);
  check_shape(grad, "grad", {logits.size(0), logits.size(1)});
  check_same_device(grad, "grad", logits, "logits");
  const DeviceGuard guard(logits.get_device_index());
  const auto x = torch::stable::contiguous(logits);
  const auto y = torch::stable::contiguous(torch::stable::to(labels, ScalarType::Long));
  const auto g = torch::stable::contiguous(torch::stable::to(grad, accumulate_dtype(x.scalar_type())));
  auto result = torch::stable::empty_like(x);
  const int64_t count = x.numel();
  if (count == 0) return result;
  dispatch_floating(x, "logits", [&](auto tag) {
    using T = typename decltype(tag)::type;
    using A = accumulate_t<T>;
    label_backward_kernel<T, A><<<grid_blocks(count), kThreads, 0, current_stream(x)>>>(
        count, x.size(1), g.template const_data_ptr<A>(), x.template const_data_ptr<T>(),
        y.template const_data_ptr<int64_t>(), A(gamma), A(alpha), result.template mutable_data_ptr<T>());
  });
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return result;
}

// ---- tokens: a block of 64 x 4 threads covers 4 rows; a thread keeps to its columns, so it asks the mask once ----

constexpr int kColumnThreads = 64, kRowThreads = kThreads / kColumnThreads;
constexpr int64_t kMostBlocks = 2048;
constexpr int kWide = 4;  // numbers that a thread loads at once

template <typename T, int Width>
struct alignas(sizeof(T) * Width) Pack {
  T values[Width];
};

struct Grid {
  int64_t batches, rows, columns;

  // Blocks along the rows and along the batch; loops in the kernels serve what is beyond them.
  dim3 blocks() const {
    const int64_t along_batch = std::min<int64_t>(batches, kMostBlocks);
    return dim3(grid_blocks(rows, kRowThreads, std::max<int64_t>(1, kMostBlocks / along_batch)), along_batch);
  }
};

// Calls body(batch, row, column, which of the Width columns count) for the logits that belong to this thread.
template <int Width, typename Body>
__device__ void for_packs(const Grid& grid, const TextMask& mask, const Body& body) {
  for (int64_t batch = blockIdx.y; batch < grid.batches; batch += gridDim.y)
    for (int64_t column = threadIdx.x * Width; column < grid.columns; column += kColumnThreads * Width) {
      bool counts[Width];
#pragma unroll
      for (int i = 0; i < Width; ++i) counts[i] = mask.counts(batch, column + i);
      for (int64_t row = int64_t(blockIdx.x) * kRowThreads + threadIdx.y; row < grid.rows;
           row += int64_t(gridDim.x) * kRowThreads)
        body(batch, row, column, counts);
    }
}

template <int Width>
__device__ bool any_counts(const bool (&counts)[Width]) {
  bool any = false;
#pragma unroll
  for (int i = 0; i < Width; ++i) any |= counts[i];
  return any;
}

// The sum over a block, on its first thread; every order of additions is fixed.
template <typename A>
__device__ A block_sum(A value) {
  __shared__ A warp_sums[kThreads / 32];
  const int thread = threadIdx.y * blockDim.x + threadIdx.x;
  for (int step = 16; step > 0; step /= 2) value += __shfl_down_sync(0xffffffffu, value, step);
  if (thread % 32 == 0) warp_sums[thread / 32] = value;
  __syncthreads();
  if (thread == 0)
    for (int warp = 1; warp < kThreads / 32; ++warp) value += warp_sums[warp];
  return value;
}

template <typename T, typename Target, typename A, int Width>
__global__ void __launch_bounds__(kThreads) token_forward_kernel(
    Grid grid, View3d<const T> logits, View3d<const Target> targets, TextMask mask, A alpha, A gamma, A* block_sums) {
  A sum = 0;
  for_packs<Width>(grid, mask, [&](int64_t batch, int64_t row, int64_t column, const bool (&counts)[Width]) {
    if (!any_counts(counts)) return;
    const auto x = *reinterpret_cast<const Pack<T, Width>*>(logits.at(batch, row, column));
    const auto y = *reinterpret_cast<const Pack<Target, Width>*>(targets.at(batch, row, column));
#pragma unroll
    for (int i = 0; i < Width; ++i)
      if (counts[i])
        sum += token_focal_loss<A>(static_cast<A>(x.values[i]), static_cast<A>(y.values[i]), alpha, gamma);
  });
  sum = block_sum(sum);
  if (threadIdx.x == 0 && threadIdx.y == 0) block_sums[blockIdx.y * gridDim.x + blockIdx.x] = sum;
}

template <typename A>
__global__ void __launch_bounds__(kThreads) add_block_sums_kernel(int64_t count, const A* block_sums, A* total) {
  double sum = 0;
  for (int64_t i = threadIdx.x; i < count; i += kThreads) sum += block_sums[i];
  sum = block_sum(sum);
  if (threadIdx.x == 0) *total = static_cast<A>(sum);
}

template <typename T, typename Target, typename A, int Width>
__global__ void __launch_bounds__(kThreads) token_backward_kernel(
    Grid grid, const A* grad, View3d<const T> logits, View3d<const Target> targets, TextMask mask, A alpha, A gamma,
    T* out) {
  const A scale = *grad;
  for_packs<Width>(grid, mask, [&](int64_t batch, int64_t row, int64_t column, const bool (&counts)[Width]) {
    Pack<T, Width> result;
#pragma unroll
    for (int i = 0; i < Width; ++i) result.values[i] = T(A(0));
    if (any_counts(counts)) {
      const auto x = *reinterpret_cast<const Pack<T, Width>*>(logits.at(batch, row, column));
      const auto y = *reinterpret_cast<const Pack<Target, Width>*>(targets.at(batch, row, column));
#pragma unroll
      for (int i = 0; i < Width; ++i)
        if (counts[i])
          result.values[i] = static_cast<T>(
              scale * token_focal_gradient<A>(static_cast<A>(x.values[i]), static_cast<A>(y.values[i]), alpha, gamma));
    }
    *reinterpret_cast<Pack<T, Width>*>(out + (batch * grid.rows + row) * grid.columns + column) = result;
  });
}

// Whether kWide numbers from any multiple of kWide columns on lie side by side at an address that can be loaded at once.
bool is_wide(const Tensor& tensor) {
  const auto address = reinterpret_cast<uintptr_t>(tensor.const_data_ptr());
  return tensor.size(2) % kWide == 0 && tensor.stride(2) == 1 && tensor.stride(1) % kWide == 0 &&
      tensor.stride(0) % kWide == 0 && address % (kWide * tensor.element_size()) == 0;
}

// Calls body with the types of the logits and the targets and the number of columns that a thread loads at once.
template <typename Body>
void dispatch_tokens(const Tensor& logits, const Tensor& targets, const Body& body) {
  const bool both_wide = is_wide(logits) && is_wide(targets);
  dispatch_token_focal_loss(logits, targets, [&](auto logit_tag, auto target_tag) {
    if (both_wide)
      body(logit_tag, target_tag, std::integral_constant<int, kWide>{});
    else
      body(logit_tag, target_tag, std::integral_constant<int, 1>{});
  });
}

Tensor token_forward(
    const Tensor& logits, const Tensor& targets, std::optional<Tensor> text_mask, double alpha, double gamma) {
  check_token_focal_loss(logits, targets, text_mask);
  const DeviceGuard guard(logits.get_device_index());
  const auto dtype = accumulate_dtype(logits.scalar_type());
  auto loss = torch::stable::new_empty(logits, {}, dtype);
  if (logits.numel() == 0) return torch::stable::zero_(loss);
  const auto y = loadable_targets(targets, logits);
  const Grid grid{logits.size(0), logits.size(1), logits.size(2)};
  const dim3 blocks = grid.blocks(), threads(kColumnThreads, kRowThreads);
  const int64_t count = int64_t(blocks.x) * blocks.y;
  auto sums = torch::stable::new_empty(logits, {count}, dtype);
  const TextMask mask(text_mask);
  const auto stream = current_stream(logits);
  dispatch_tokens(logits, y, [&](auto logit_tag, auto target_tag, auto width) {
    using T = typename decltype(logit_tag)::type;
    using Target = typename decltype(target_tag)::type;
    using A = accumulate_t<T>;
    A* block_sums = sums.template mutable_data_ptr<A>();
    token_forward_kernel<T, Target, A, decltype(width)::value><<<blocks, threads, 0, stream>>>(
        grid, View3d<const T>(logits), View3d<const Target>(y), mask, A(alpha), A(gamma), block_sums);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
    add_block_sums_kernel<A><<<1, kThreads, 0, stream>>>(count, block_sums, loss.template mutable_data_ptr<A>());
  });
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return loss;
}

Tensor token_backward(
    const Tensor& grad, const Tensor& logits, const Tensor& targets, std::optional<Tensor> text_mask, double alpha,
    double gamma) {
  check_token_focal_loss(logits, targets, text_mask);
  check_shape(grad, "grad", {});
  check_same_device(grad, "grad", logits, "logits");
  const DeviceGuard guard(logits.get_device_index());
  auto result = torch::stable::new_empty(logits, logits.sizes());
  if (logits.numel() == 0) return result;
  const auto y = loadable_targets(targets, logits);
  const auto wide = accumulate_dtype(logits.scalar_type());
  const auto g = grad.scalar_type() == wide ? grad : torch::stable::to(grad, wide);
  const Grid grid{logits.size(0), logits.size(1), logits.size(2)};
  const dim3 threads(kColumnThreads, kRowThreads);
  const TextMask mask(text_mask);
  dispatch_tokens(logits, y, [&](auto logit_tag, auto target_tag, auto width) {
    using T = typename decltype(logit_tag)::type;
    using Target = typename decltype(target_tag)::type;
    using A = accumulate_t<T>;
    token_backward_kernel<T, Target, A, decltype(width)::value><<<grid.blocks(), threads, 0, current_stream(logits)>>>(
        grid, g.template const_data_ptr<A>(), View3d<const T>(logits), View3d<const Target>(y), mask, A(alpha),
        A(gamma), result.template mutable_data_ptr<T>());
  });
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return result;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(maskrcnn_benchmark, CUDA, m) {
  m.impl("sigmoid_focal_loss", TORCH_BOX(&label_forward));
  m.impl("_sigmoid_focal_loss_backward", TORCH_BOX(&label_backward));
  m.impl("token_sigmoid_focal_loss", TORCH_BOX(&token_forward));
  m.impl("_token_sigmoid_focal_loss_backward", TORCH_BOX(&token_backward));
}

}  // namespace glip
