#include "../common/roi_align.h"
#include "launch.cuh"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

namespace glip {
namespace {

// The sizes and strides of a map (B, C, H, W).
struct MapLayout {
  int64_t batch_size, channels, height, width;
  int64_t image_stride, channel_stride, row_stride, column_stride;

  GLIP_HOST_DEVICE int64_t offset(int64_t batch, int64_t channel) const {
    return batch * image_stride + channel * channel_stride;
  }
  GLIP_HOST_DEVICE int64_t cell(int64_t row, int64_t column) const { return row * row_stride + column * column_stride; }
};

MapLayout layout_of(const Tensor& map) {
  return {map.size(0), map.size(1), map.size(2), map.size(3), map.stride(0), map.stride(1), map.stride(2), map.stride(3)};
}

// One thread per bin and channel. A region whose image is not in the batch gives NaN: the host cannot see it.
template <typename T, typename A>
__global__ void forward_kernel(
    int64_t count, const T* maps, MapLayout layout, const A* rois, RoiAlignOptions options, T* output) {
  for (int64_t i = grid_thread(); i < count; i += grid_threads()) {
    const int64_t column = i % options.pooled_width, row = i / options.pooled_width % options.pooled_height;
    const int64_t plane = i / options.pooled_width / options.pooled_height;
    const int64_t channel = plane % layout.channels, index = plane / layout.channels;
    const Region<A> region(rois + 5 * index, options);
    if (region.batch < 0 || region.batch >= layout.batch_size) {
      output[i] = T(A(NAN));
      continue;
    }
    const T* map = maps + layout.offset(region.batch, channel);
    A sum = 0;
    region.for_samples(row, column, layout.height, layout.width, [&](const BilinearSample<A>& sample) {
      sum += sample.weights[0] * static_cast<A>(map[layout.cell(sample.y_low, sample.x_low)]) +
          sample.weights[1] * static_cast<A>(map[layout.cell(sample.y_low, sample.x_high)]) +
          sample.weights[2] * static_cast<A>(map[layout.cell(sample.y_high, sample.x_low)]) +
          sample.weights[3] * static_cast<A>(map[layout.cell(sample.y_high, sample.x_high)]);
    });
    output[i] = static_cast<T>(sum / region.samples());
  }
}

template <typename T, typename A>
__global__ void backward_kernel(
    int64_t count, const T* grad, const A* rois, RoiAlignOptions options, MapLayout layout, A* sums) {
  for (int64_t i = grid_thread(); i < count; i += grid_threads()) {
    const int64_t column = i % options.pooled_width, row = i / options.pooled_width % options.pooled_height;
    const int64_t plane = i / options.pooled_width / options.pooled_height;
    const int64_t channel = plane % layout.channels, index = plane / layout.channels;
    const Region<A> region(rois + 5 * index, options);
    if (region.batch < 0 || region.batch >= layout.batch_size) continue;
    const A share = static_cast<A>(grad[i]) / region.samples();
    A* map = sums + layout.offset(region.batch, channel);
    region.for_samples(row, column, layout.height, layout.width, [&](const BilinearSample<A>& sample) {
      const int64_t cells[4] = {
          layout.cell(sample.y_low, sample.x_low), layout.cell(sample.y_low, sample.x_high),
          layout.cell(sample.y_high, sample.x_low), layout.cell(sample.y_high, sample.x_high)};
#pragma unroll
      for (int k = 0; k < 4; ++k)
        if (sample.weights[k] != A(0)) atomicAdd(map + cells[k], sample.weights[k] * share);
    });
  }
}

Tensor forward(
    const Tensor& input, const Tensor& rois, double spatial_scale, int64_t pooled_height, int64_t pooled_width,
    int64_t sampling_ratio, bool is_aligned) {
  const RoiAlignOptions options{spatial_scale, pooled_height, pooled_width, sampling_ratio, is_aligned};
  check_roi_align(input, rois, options);
  const DeviceGuard guard(input.get_device_index());
  const auto regions = torch::stable::contiguous(torch::stable::to(rois, position_dtype(input)));
  auto output = torch::stable::new_empty(input, {rois.size(0), input.size(1), pooled_height, pooled_width});
  const int64_t count = output.numel();
  if (count == 0) return output;
  dispatch_floating(input, "input", [&](auto tag) {
    using T = typename decltype(tag)::type;
    using A = accumulate_t<T>;
    forward_kernel<T, A><<<grid_blocks(count), kThreads, 0, current_stream(input)>>>(
        count, input.template const_data_ptr<T>(), layout_of(input), regions.template const_data_ptr<A>(), options,
        output.template mutable_data_ptr<T>());
  });
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return output;
}

Tensor backward(
    const Tensor& grad, const Tensor& rois, double spatial_scale, int64_t pooled_height, int64_t pooled_width,
    int64_t sampling_ratio, bool is_aligned, int64_t batch_size, int64_t channels, int64_t height, int64_t width) {
  const RoiAlignOptions options{spatial_scale, pooled_height, pooled_width, sampling_ratio, is_aligned};
  check_roi_align_backward(grad, rois, options, {batch_size, channels, height, width});
  const DeviceGuard guard(grad.get_device_index());
  const auto wide = accumulate_dtype(grad.scalar_type());
  const auto regions = torch::stable::contiguous(torch::stable::to(rois, wide));
  const auto source = torch::stable::contiguous(grad);
  auto sums = torch::stable::new_zeros(grad, {batch_size, channels, height, width}, wide);
  const int64_t count = source.numel();
  if (count > 0) {
    dispatch_floating(source, "grad", [&](auto tag) {
      using T = typename decltype(tag)::type;
      using A = accumulate_t<T>;
      backward_kernel<T, A><<<grid_blocks(count), kThreads, 0, current_stream(grad)>>>(
          count, source.template const_data_ptr<T>(), regions.template const_data_ptr<A>(), options, layout_of(sums),
          sums.template mutable_data_ptr<A>());
    });
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }
  return torch::stable::to(sums, grad.scalar_type());
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(maskrcnn_benchmark, CUDA, m) {
  m.impl("roi_align", TORCH_BOX(&forward));
  m.impl("_roi_align_backward", TORCH_BOX(&backward));
}

}  // namespace glip
