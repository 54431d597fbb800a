#include "../common/roi_align.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <vector>

namespace glip {
namespace {

// Every region must name an image of the batch.
template <typename A>
void check_images(const A* rois, int64_t count, int64_t batch_size) {
  for (int64_t i = 0; i < count; ++i)
    STD_TORCH_CHECK(
        rois[5 * i] >= 0 && rois[5 * i] < A(batch_size),
        "the image index of region ",
        i,
        " must be in [0, ",
        batch_size,
        "), got ",
        rois[5 * i]);
}

Tensor as_positions(const Tensor& rois, const Tensor& features) {
  return torch::stable::contiguous(torch::stable::to(rois, position_dtype(features)));
}

Tensor forward(
    const Tensor& input,
    const Tensor& rois,
    double spatial_scale,
    int64_t pooled_height,
    int64_t pooled_width,
    int64_t sampling_ratio,
    bool is_aligned) {
  const RoiAlignOptions options{spatial_scale, pooled_height, pooled_width, sampling_ratio, is_aligned};
  check_roi_align(input, rois, options);
  const auto regions = as_positions(rois, input);
  const int64_t channels = input.size(1), height = input.size(2), width = input.size(3);
  const int64_t bins = pooled_height * pooled_width;
  auto output = torch::stable::new_empty(input, {rois.size(0), channels, pooled_height, pooled_width});
  dispatch_floating(input, "input", [&](auto tag) {
    using T = typename decltype(tag)::type;
    using A = accumulate_t<T>;
    const A* roi = regions.template const_data_ptr<A>();
    check_images(roi, rois.size(0), input.size(0));
    const T* maps = input.template const_data_ptr<T>();
    T* out = output.template mutable_data_ptr<T>();
    const int64_t image_stride = input.stride(0), channel_stride = input.stride(1);
    const int64_t row_stride = input.stride(2), column_stride = input.stride(3);
    torch::stable::parallel_for(0, rois.size(0) * bins, 1, [&](int64_t begin, int64_t end) {
      std::vector<A> sums(channels);
      for (int64_t item = begin; item < end; ++item) {
        const int64_t index = item / bins, bin = item % bins;
        const Region<A> region(roi + 5 * index, options);
        const T* image = maps + region.batch * image_stride;
        std::fill(sums.begin(), sums.end(), A(0));
        region.for_samples(bin / pooled_width, bin % pooled_width, height, width, [&](const BilinearSample<A>& sample) {
          const int64_t low = sample.y_low * row_stride, high = sample.y_high * row_stride;
          const int64_t left = sample.x_low * column_stride, right = sample.x_high * column_stride;
          for (int64_t channel = 0; channel < channels; ++channel) {
            const T* map = image + channel * channel_stride;
            sums[channel] += sample.weights[0] * static_cast<A>(map[low + left]) +
                sample.weights[1] * static_cast<A>(map[low + right]) +
                sample.weights[2] * static_cast<A>(map[high + left]) +
                sample.weights[3] * static_cast<A>(map[high + right]);
          }
        });
        for (int64_t channel = 0; channel < channels; ++channel)
          out[(index * channels + channel) * bins + bin] = static_cast<T>(sums[channel] / region.samples());
      }
    });
  });
  return output;
}

Tensor backward(
    const Tensor& grad,
    const Tensor& rois,
    double spatial_scale,
    int64_t pooled_height,
    int64_t pooled_width,
    int64_t sampling_ratio,
    bool is_aligned,
    int64_t batch_size,
    int64_t channels,
    int64_t height,
    int64_t width) {
  const RoiAlignOptions options{spatial_scale, pooled_height, pooled_width, sampling_ratio, is_aligned};
  check_roi_align_backward(grad, rois, options, {batch_size, channels, height, width});
  const auto wide = accumulate_dtype(grad.scalar_type());
  const auto regions = as_positions(rois, grad);
  const auto source = torch::stable::contiguous(torch::stable::to(grad, wide));
  auto sums = torch::stable::new_zeros(grad, {batch_size, channels, height, width}, wide);
  const int64_t bins = pooled_height * pooled_width;
  dispatch_floating(source, "grad", [&](auto tag) {
    using A = accumulate_t<typename decltype(tag)::type>;
    const A* roi = regions.template const_data_ptr<A>();
    check_images(roi, rois.size(0), batch_size);
    const A* from = source.template const_data_ptr<A>();
    A* to = sums.template mutable_data_ptr<A>();
    // A thread owns whole channels, so no two write to the same cell.
    torch::stable::parallel_for(0, channels, 1, [&](int64_t begin, int64_t end) {
      for (int64_t index = 0; index < rois.size(0); ++index) {
        const Region<A> region(roi + 5 * index, options);
        for (int64_t bin = 0; bin < bins; ++bin)
          region.for_samples(bin / pooled_width, bin % pooled_width, height, width, [&](const BilinearSample<A>& sample) {
            for (int64_t channel = begin; channel < end; ++channel) {
              const A share = from[(index * channels + channel) * bins + bin] / region.samples();
              A* map = to + (region.batch * channels + channel) * height * width;
              map[sample.y_low * width + sample.x_low] += sample.weights[0] * share;
              map[sample.y_low * width + sample.x_high] += sample.weights[1] * share;
              map[sample.y_high * width + sample.x_low] += sample.weights[2] * share;
              map[sample.y_high * width + sample.x_high] += sample.weights[3] * share;
            }
          });
      }
    });
  });
  return torch::stable::to(sums, grad.scalar_type());
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(maskrcnn_benchmark, CPU, m) {
  m.impl("roi_align", TORCH_BOX(&forward));
  m.impl("_roi_align_backward", TORCH_BOX(&backward));
}

}  // namespace glip
