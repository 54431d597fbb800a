// Geometry and checks of RoIAlign (arXiv:1703.06870), the same on every device.
#pragma once

#include "dispatch.h"

#include <cmath>

namespace glip {

struct RoiAlignOptions {
  double spatial_scale;
  int64_t pooled_height, pooled_width, sampling_ratio;
  bool is_aligned;
};

// A bilinear sample: where its four cells are on the map, and their weights. Weight 0 outside the map.
template <typename T>
struct BilinearSample {
  int64_t y_low, y_high, x_low, x_high;
  T weights[4];  // of (y_low, x_low), (y_low, x_high), (y_high, x_low), (y_high, x_high)

  GLIP_HOST_DEVICE BilinearSample(T y, T x, int64_t height, int64_t width)
      : y_low(0), y_high(0), x_low(0), x_high(0), weights{T(0), T(0), T(0), T(0)} {
    // Not "y < -1 || ...", so that NaN is outside.
    if (!(y >= T(-1) && y <= T(height) && x >= T(-1) && x <= T(width))) return;
    const T y_far = place(y, height, y_low, y_high), x_far = place(x, width, x_low, x_high);
    weights[0] = (T(1) - y_far) * (T(1) - x_far);
    weights[1] = (T(1) - y_far) * x_far;
    weights[2] = y_far * (T(1) - x_far);
    weights[3] = y_far * x_far;
  }

 private:
  // The two cells around a position along an axis; returns the weight of the second.
  GLIP_HOST_DEVICE static T place(T position, int64_t size, int64_t& low, int64_t& high) {
    position = position > T(0) ? position : T(0);
    low = static_cast<int64_t>(position);
    if (low >= size - 1) {
      low = high = size - 1;
      return T(0);
    }
    high = low + 1;
    return position - T(low);
  }
};

// A region on the map: its image, corner, size of a bin, and how many samples a bin has along each axis.
template <typename T>
struct Region {
  int64_t batch;
  T y, x, bin_height, bin_width;
  int64_t samples_y, samples_x;

  template <typename Roi>
  GLIP_HOST_DEVICE Region(const Roi* roi, const RoiAlignOptions& options) {
    const T scale = T(options.spatial_scale), shift = options.is_aligned ? T(0.5) : T(0);
    batch = static_cast<int64_t>(static_cast<T>(roi[0]));
    x = static_cast<T>(roi[1]) * scale - shift;
    y = static_cast<T>(roi[2]) * scale - shift;
    T width = static_cast<T>(roi[3]) * scale - shift - x;
    T height = static_cast<T>(roi[4]) * scale - shift - y;
    if (!options.is_aligned) {
      width = width > T(1) ? width : T(1);
      height = height > T(1) ? height : T(1);
    }
    bin_height = height / T(options.pooled_height);
    bin_width = width / T(options.pooled_width);
    samples_y = options.sampling_ratio > 0 ? options.sampling_ratio : adaptive_samples(bin_height);
    samples_x = options.sampling_ratio > 0 ? options.sampling_ratio : adaptive_samples(bin_width);
  }

  // One sample per cell; bounded, so that a region of absurd or undefined size ends.
  GLIP_HOST_DEVICE static int64_t adaptive_samples(T bin_size) {
    if (!(bin_size > T(0))) return bin_size == bin_size ? 0 : 1;
    return static_cast<int64_t>(std::ceil(bin_size < T(4096) ? bin_size : T(4096)));
  }

  GLIP_HOST_DEVICE T samples() const {
    const int64_t count = samples_y * samples_x;
    return T(count > 1 ? count : 1);
  }

  // Calls body(sample) for the samples of the bin (row, column).
  template <typename Body>
  GLIP_HOST_DEVICE void for_samples(int64_t row, int64_t column, int64_t height, int64_t width, const Body& body) const {
    for (int64_t i = 0; i < samples_y; ++i)
      for (int64_t j = 0; j < samples_x; ++j)
        body(BilinearSample<T>(
            y + (T(row) + (T(i) + T(0.5)) / T(samples_y)) * bin_height,
            x + (T(column) + (T(j) + T(0.5)) / T(samples_x)) * bin_width,
            height,
            width));
  }
};

inline void check_rois(const Tensor& rois, const Tensor& features, const char* name, const RoiAlignOptions& options) {
  check_floating(features, name);
  check_dim(rois, "rois", 2, "(R, 5)");
  check_shape(rois, "rois", {rois.size(0), 5});
  check_floating(rois, "rois");
  check_same_device(rois, "rois", features, name);
  STD_TORCH_CHECK(
      options.pooled_height > 0 && options.pooled_width > 0,
      "the output size must be positive, got (",
      options.pooled_height,
      ", ",
      options.pooled_width,
      ")");
}

inline void check_roi_align(const Tensor& input, const Tensor& rois, const RoiAlignOptions& options) {
  check_dim(input, "input", 4, "(B, C, H, W)");
  STD_TORCH_CHECK(
      input.size(2) > 0 && input.size(3) > 0, "input must have cells to sample, got the shape ", shape_text(input));
  check_rois(rois, input, "input", options);
}

inline void check_roi_align_backward(
    const Tensor& grad,
    const Tensor& rois,
    const RoiAlignOptions& options,
    std::initializer_list<int64_t> sizes) {
  const int64_t channels = sizes.begin()[1], height = sizes.begin()[2], width = sizes.begin()[3];
  STD_TORCH_CHECK(
      sizes.begin()[0] >= 0 && channels >= 0 && height > 0 && width > 0,
      "input must have cells to sample, got the shape ",
      shape_text(sizes.begin(), sizes.size()));
  check_rois(rois, grad, "grad", options);
  check_shape(grad, "grad", {rois.size(0), channels, options.pooled_height, options.pooled_width});
}

// Regions in the type that positions are computed in: float32, or float64 for features of float64.
inline ScalarType position_dtype(const Tensor& features) {
  return accumulate_dtype(features.scalar_type());
}

}  // namespace glip
