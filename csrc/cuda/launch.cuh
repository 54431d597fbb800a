// What every CUDA launcher needs: PyTorch's current stream, the size of the grid, and loops over it.
#pragma once

#include "../common/checks.h"

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>

#include <algorithm>
#include <cstdint>

namespace glip {

using torch::stable::accelerator::DeviceGuard;

// The stream that PyTorch works on, on the device of the tensor. A launch elsewhere escapes CUDA graphs.
inline cudaStream_t current_stream(const Tensor& tensor) {
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream));
  return static_cast<cudaStream_t>(stream);
}

constexpr int kThreads = 256;

// Blocks for one thread per item; a loop over grid_thread() serves the items beyond `most` blocks.
inline unsigned grid_blocks(int64_t items, int64_t threads = kThreads, int64_t most = 65535) {
  return static_cast<unsigned>(std::max<int64_t>(1, std::min<int64_t>((items + threads - 1) / threads, most)));
}

// for (int64_t i = grid_thread(); i < n; i += grid_threads())
__device__ inline int64_t grid_thread() {
  return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}
__device__ inline int64_t grid_threads() {
  return static_cast<int64_t>(gridDim.x) * blockDim.x;
}

}  // namespace glip
