#include "../common/focal_loss.h"
#include "launch.cuh"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <tuple>

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

// ---- tokens: a block of 64 x 4 threads; a thread keeps to its columns, so it asks the mask once, and it loads from
// several rows before it computes with any ----

constexpr int kColumnThreads = 64, kRowThreads = kThreads / kColumnThreads;
constexpr int kRowsAtOnce = 4, kBlockRows = kRowThreads * kRowsAtOnce;
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
    return dim3(grid_blocks(rows, kBlockRows, std::max<int64_t>(1, kMostBlocks / along_batch)), along_batch);
  }
};

// Calls body(batch, first row, column, which of the Width columns count) for the logits that belong to this thread:
// those of kRowsAtOnce rows, kRowThreads apart.
template <int Width, typename Body>
__device__ void for_packs(const Grid& grid, const TextMask& mask, const Body& body) {
  for (int64_t batch = blockIdx.y; batch < grid.batches; batch += gridDim.y)
    for (int64_t column = threadIdx.x * Width; column < grid.columns; column += kColumnThreads * Width) {
      bool counts[Width];
#pragma unroll
      for (int i = 0; i < Width; ++i) counts[i] = mask.counts(batch, column + i);
      for (int64_t row = int64_t(blockIdx.x) * kBlockRows + threadIdx.y; row < grid.rows;
           row += int64_t(gridDim.x) * kBlockRows)
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

// The sum of the losses of every block and, with HasGradient, the gradient of every logit.
template <typename T, typename Target, typename A, int Width, bool HasGradient>
__global__ void __launch_bounds__(kThreads) token_loss_kernel(
    Grid grid, View3d<const T> logits, View3d<const Target> targets, TextMask mask, A alpha, A gamma, A* block_sums,
    A* gradient) {
  A sum = 0;
  for_packs<Width>(grid, mask, [&](int64_t batch, int64_t first_row, int64_t column, const bool (&counts)[Width]) {
    Pack<T, Width> x[kRowsAtOnce];
    Pack<Target, Width> y[kRowsAtOnce];
    const bool is_read = any_counts(counts);
#pragma unroll
    for (int r = 0; r < kRowsAtOnce; ++r) {
      const int64_t row = first_row + r * kRowThreads;
      if (!is_read || row >= grid.rows) continue;
      x[r] = *reinterpret_cast<const Pack<T, Width>*>(logits.at(batch, row, column));
      y[r] = *reinterpret_cast<const Pack<Target, Width>*>(targets.at(batch, row, column));
    }
#pragma unroll
    for (int r = 0; r < kRowsAtOnce; ++r) {
      const int64_t row = first_row + r * kRowThreads;
      if (row >= grid.rows) break;
      Pack<A, Width> slopes;
#pragma unroll
      for (int i = 0; i < Width; ++i) {
        slopes.values[i] = A(0);
        if (!counts[i]) continue;
        const TokenFocalLoss<A> focal(static_cast<A>(x[r].values[i]), static_cast<A>(y[r].values[i]), alpha, gamma);
        sum += focal.value;
        slopes.values[i] = focal.gradient;
      }
      if constexpr (HasGradient)
        *reinterpret_cast<Pack<A, Width>*>(gradient + (batch * grid.rows + row) * grid.columns + column) = slopes;
    }
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

// Memory of the current stream that goes back to PyTorch's allocator at the end of the scope.
class Workspace {
 public:
  explicit Workspace(size_t bytes) {
    TORCH_ERROR_CODE_CHECK(aoti_torch_cuda_caching_allocator_raw_alloc(bytes, &data_));
  }
  ~Workspace() {
    aoti_torch_cuda_caching_allocator_raw_delete(data_);
  }
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;

  template <typename T>
  T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  void* data_ = nullptr;
};

// Writes the sum of the losses and, with HasGradient, the gradient: contiguous, of the dtype of the sum.
template <bool HasGradient>
void launch_token_loss(
    const Tensor& logits, const Tensor& targets, const TextMask& mask, double alpha, double gamma, void* loss,
    void* gradient) {
  const auto y = loadable_targets(targets, logits);
  const Grid grid{logits.size(0), logits.size(1), logits.size(2)};
  const dim3 blocks = grid.blocks(), threads(kColumnThreads, kRowThreads);
  const int64_t count = int64_t(blocks.x) * blocks.y;
  const Workspace workspace(count * sizeof(double));
  const auto stream = current_stream(logits);
  dispatch_tokens(logits, y, [&](auto logit_tag, auto target_tag, auto width) {
    using T = typename decltype(logit_tag)::type;
    using Target = typename decltype(target_tag)::type;
    using A = accumulate_t<T>;
    A* block_sums = workspace.template as<A>();
    token_loss_kernel<T, Target, A, decltype(width)::value, HasGradient><<<blocks, threads, 0, stream>>>(
        grid, View3d<const T>(logits), View3d<const Target>(y), mask, A(alpha), A(gamma), block_sums,
        static_cast<A*>(gradient));
    STD_CUDA_KERNEL_LAUNCH_CHECK();
    add_block_sums_kernel<A><<<1, kThreads, 0, stream>>>(count, block_sums, static_cast<A*>(loss));
  });
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

Tensor token_forward(
    const Tensor& logits, const Tensor& targets, std::optional<Tensor> text_mask, double alpha, double gamma) {
  check_token_focal_loss(logits, targets, text_mask);
  const DeviceGuard guard(logits.get_device_index());
  auto loss = empty_result<0>(logits, {});
  if (logits.numel() == 0) return torch::stable::zero_(loss);
  launch_token_loss<false>(logits, targets, TextMask(text_mask), alpha, gamma, loss.mutable_data_ptr(), nullptr);
  return loss;
}

std::tuple<Tensor, Tensor> token_forward_with_gradient(
    const Tensor& logits, const Tensor& targets, std::optional<Tensor> text_mask, double alpha, double gamma) {
  check_token_focal_loss(logits, targets, text_mask);
  const DeviceGuard guard(logits.get_device_index());
  auto loss = empty_result<0>(logits, {});
  auto gradient = empty_result<3>(logits, {logits.size(0), logits.size(1), logits.size(2)});
  if (logits.numel() == 0) return {torch::stable::zero_(loss), gradient};
  launch_token_loss<true>(
      logits, targets, TextMask(text_mask), alpha, gamma, loss.mutable_data_ptr(), gradient.mutable_data_ptr());
  return {loss, gradient};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(maskrcnn_benchmark, CUDA, m) {
  m.impl("sigmoid_focal_loss", TORCH_BOX(&label_forward));
  m.impl("_sigmoid_focal_loss_backward", TORCH_BOX(&label_backward));
  m.impl("token_sigmoid_focal_loss", TORCH_BOX(&token_forward));
  m.impl("_token_sigmoid_focal_loss_with_gradient", TORCH_BOX(&token_forward_with_gradient));
}

}  // namespace glip
