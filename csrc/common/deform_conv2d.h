// Deformable convolution: the checks of its arguments and where its taps lie, shared by the CPU and the CUDA kernels.
//
// Output (y, x), tap (i, j) and offset group g read the input at
//   (y * stride_h - pad_h + i * dilation_h + offset[2k], x * stride_w - pad_w + j * dilation_w + offset[2k + 1]),
// k = (g * kernel_h + i) * kernel_w + j, bilinearly, with zeros beyond the border. A tap that is a pixel or more
// outside, or whose offset is not a number, samples 0 and has no gradient. A sample is multiplied by mask[k].
#pragma once

#include "dispatch.h"

#include <cmath>
#include <limits>
#include <optional>
#include <tuple>

namespace glip {

struct DeformGeometry {
  int batch, channels, height, width;
  int out_channels, out_height, out_width;
  int kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w;
  int groups, offset_groups;

  GLIP_HOST_DEVICE int taps() const { return kernel_h * kernel_w; }
  // Output positions of one image.
  GLIP_HOST_DEVICE int locations() const { return out_height * out_width; }
  // Input channels of a group of the convolution, and of one that shares its offsets.
  GLIP_HOST_DEVICE int group_channels() const { return channels / groups; }
  GLIP_HOST_DEVICE int offset_channels() const { return channels / offset_groups; }
  // Numbers that one output is the scalar product of.
  int64_t depth() const { return int64_t(taps()) * group_channels(); }
};

// The two pixels around a coordinate, clamped into the map, and their weights, 0 where the pixel was outside of it.
template <typename A>
struct AxisSample {
  int low, high;
  A low_weight, high_weight;
  bool is_low_inside, is_high_inside;

  // False where the coordinate is a pixel or more outside, or not a number.
  GLIP_HOST_DEVICE bool place(A position, int size) {
    if (!(position > A(-1) && position < A(size))) return false;
    A below = floor(position);
    low = static_cast<int>(below);
    high = low + 1;
    is_low_inside = low >= 0;
    is_high_inside = high < size;
    low_weight = is_low_inside ? A(1) - (position - below) : A(0);
    high_weight = is_high_inside ? position - below : A(0);
    low = is_low_inside ? low : 0;
    high = is_high_inside ? high : size - 1;
    return true;
  }
};

// A (B, K, H', W') tensor with any strides: offsets or masks, in the dtype of the input or in the wider one.
struct LocationMap {
  const void* data = nullptr;
  int64_t strides[4] = {};
  bool is_wide = false;

  LocationMap() = default;
  LocationMap(const Tensor& tensor, ScalarType input_dtype)
      : data(tensor.const_data_ptr()), is_wide(tensor.scalar_type() == accumulate_dtype(input_dtype)) {
    for (int i = 0; i < 4; ++i) strides[i] = tensor.stride(i);
  }

  template <typename T>
  GLIP_HOST_DEVICE accumulate_t<T> at(int image, int channel, int y, int x) const {
    using A = accumulate_t<T>;
    int64_t index = image * strides[0] + channel * strides[1] + y * strides[2] + x * strides[3];
    return is_wide ? static_cast<const A*>(data)[index] : static_cast<A>(static_cast<const T*>(data)[index]);
  }
};

// One tap at one output position. Returns whether it lies on the map; scale is its mask.
template <typename T>
GLIP_HOST_DEVICE bool place_tap(
    const DeformGeometry& g,
    const LocationMap& offset,
    const LocationMap& mask,
    int image,
    int offset_group,
    int tap,
    int y,
    int x,
    AxisSample<accumulate_t<T>>& vertical,
    AxisSample<accumulate_t<T>>& horizontal,
    accumulate_t<T>& scale) {
  using A = accumulate_t<T>;
  int k = offset_group * g.taps() + tap;
  A row = A(y * g.stride_h - g.pad_h + tap / g.kernel_w * g.dilation_h) + offset.at<T>(image, 2 * k, y, x);
  A column = A(x * g.stride_w - g.pad_w + tap % g.kernel_w * g.dilation_w) + offset.at<T>(image, 2 * k + 1, y, x);
  scale = mask.data ? mask.at<T>(image, k, y, x) : A(1);
  return vertical.place(row, g.height) && horizontal.place(column, g.width);
}

// What a tap gives its offsets (dy, dx) and its mask. sums: over channels, of the gradient of its sample times each of
// the pixels (low, low), (low, high), (high, low), (high, high) of (y, x).
template <typename A>
struct CoordinateGradient {
  A y = A(0), x = A(0), scale = A(0);

  GLIP_HOST_DEVICE CoordinateGradient() {}
  GLIP_HOST_DEVICE CoordinateGradient(
      const AxisSample<A>& vertical, const AxisSample<A>& horizontal, A mask, const A sums[4]) {
    A low_row = horizontal.low_weight * sums[0] + horizontal.high_weight * sums[1];
    A high_row = horizontal.low_weight * sums[2] + horizontal.high_weight * sums[3];
    A low_column = vertical.low_weight * sums[0] + vertical.high_weight * sums[2];
    A high_column = vertical.low_weight * sums[1] + vertical.high_weight * sums[3];
    y = mask * ((vertical.is_high_inside ? high_row : A(0)) - (vertical.is_low_inside ? low_row : A(0)));
    x = mask * ((horizontal.is_high_inside ? high_column : A(0)) - (horizontal.is_low_inside ? low_column : A(0)));
    scale = vertical.low_weight * low_row + vertical.high_weight * high_row;
  }
};

// Below 2^28 no coordinate of a tap leaves the range of int.
inline int deform_size(int64_t value, const char* name, int64_t least) {
  constexpr int64_t most = int64_t(1) << 28;
  STD_TORCH_CHECK(
      value >= least && value <= most, name, " must be between ", least, " and ", most, ", got ", value);
  return static_cast<int>(value);
}

inline void check_deform_map(const Tensor& map, const char* name, const Tensor& input) {
  check_same_device(map, name, input, "input");
  STD_TORCH_CHECK(
      map.scalar_type() == input.scalar_type() || map.scalar_type() == accumulate_dtype(input.scalar_type()),
      name,
      " must be ",
      dtype_text(input.scalar_type()),
      " like input, or ",
      dtype_text(accumulate_dtype(input.scalar_type())),
      ", got ",
      dtype_text(map.scalar_type()));
}

// The integers of the schema.
struct DeformSettings {
  int64_t stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, groups, offset_groups;
};

// Checks the arguments of the operator and puts its sizes together.
inline DeformGeometry deform_geometry(
    const Tensor& input,
    const Tensor& offset,
    const std::optional<Tensor>& mask,
    const Tensor& weight,
    const std::optional<Tensor>& bias,
    const DeformSettings& settings) {
  auto [stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, groups, offset_groups] = settings;
  check_dim(input, "input", 4, "(B, C, H, W)");
  check_dim(weight, "weight", 4, "(O, C / groups, kernel height, kernel width)");
  check_floating(input, "input");
  check_same_dtype(weight, "weight", input, "input");
  check_same_device(weight, "weight", input, "input");
  check_deform_map(offset, "offset", input);
  DeformGeometry g;
  g.batch = deform_size(input.size(0), "the batch", 0);
  g.channels = deform_size(input.size(1), "the number of input channels", 1);
  g.height = deform_size(input.size(2), "the height of input", 1);
  g.width = deform_size(input.size(3), "the width of input", 1);
  g.out_channels = deform_size(weight.size(0), "the number of output channels", 1);
  g.kernel_h = deform_size(weight.size(2), "the height of the kernel", 1);
  g.kernel_w = deform_size(weight.size(3), "the width of the kernel", 1);
  g.stride_h = deform_size(stride_h, "stride_h", 1);
  g.stride_w = deform_size(stride_w, "stride_w", 1);
  g.pad_h = deform_size(pad_h, "pad_h", 0);
  g.pad_w = deform_size(pad_w, "pad_w", 0);
  g.dilation_h = deform_size(dilation_h, "dilation_h", 1);
  g.dilation_w = deform_size(dilation_w, "dilation_w", 1);
  g.groups = deform_size(groups, "groups", 1);
  g.offset_groups = deform_size(offset_groups, "offset_groups", 1);
  // Before anything is computed from it, which an expanded tensor of little memory could overflow.
  deform_size(weight.size(2) * weight.size(3), "the number of taps of the kernel", 1);
  STD_TORCH_CHECK(
      g.channels % g.groups == 0 && g.out_channels % g.groups == 0 && weight.size(1) == g.group_channels(),
      "weight ",
      shape_text(weight),
      " does not fit input ",
      shape_text(input),
      " with ",
      groups,
      " groups");
  STD_TORCH_CHECK(
      g.channels % g.offset_groups == 0, offset_groups, " offset groups do not divide ", g.channels, " channels");
  int64_t reach_h = input.size(2) + 2 * pad_h - dilation_h * (weight.size(2) - 1) - 1;
  int64_t reach_w = input.size(3) + 2 * pad_w - dilation_w * (weight.size(3) - 1) - 1;
  STD_TORCH_CHECK(
      reach_h >= 0 && reach_w >= 0, "input ", shape_text(input), " is smaller than the dilated kernel of weight ",
      shape_text(weight));
  g.out_height = deform_size(reach_h / stride_h + 1, "the height of the output", 1);
  g.out_width = deform_size(reach_w / stride_w + 1, "the width of the output", 1);
  int64_t samples = offset_groups * g.taps();
  check_shape(offset, "offset", {g.batch, 2 * samples, g.out_height, g.out_width});
  if (mask) {
    check_deform_map(*mask, "mask", input);
    check_shape(*mask, "mask", {g.batch, samples, g.out_height, g.out_width});
  }
  if (bias) {
    check_same_dtype(*bias, "bias", input, "input");
    check_same_device(*bias, "bias", input, "input");
    check_shape(*bias, "bias", {g.out_channels});
  }
  // One int counts the pixels of an image, one the corners of its samples.
  STD_TORCH_CHECK(
      input.size(2) * input.size(3) <= std::numeric_limits<int>::max() &&
          int64_t(g.out_height) * g.out_width * samples <= std::numeric_limits<int>::max() / 4,
      "input ",
      shape_text(input),
      " and offset ",
      shape_text(offset),
      " are too large for one image: at most 2^31 - 1 pixels and 2^29 - 1 samples");
  return g;
}

inline void check_deform_grad(const Tensor& grad, const Tensor& input, const DeformGeometry& g) {
  check_same_dtype(grad, "grad", input, "input");
  check_same_device(grad, "grad", input, "input");
  check_shape(grad, "grad", {g.batch, g.out_channels, g.out_height, g.out_width});
}

// Which gradients of the operator are computed; those of offset and mask, and of weight and bias, go together.
struct NeededGradients {
  bool input, coordinates, parameters;
};

using DeformGradients = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;  // input, offset, mask, weight, bias

namespace deform {

// The operator with the arguments of its schema, around the function of a device that takes their geometry.
template <auto Forward>
Tensor forward_operator(
    const Tensor& input, const Tensor& offset, const std::optional<Tensor>& mask, const Tensor& weight,
    const std::optional<Tensor>& bias, int64_t stride_h, int64_t stride_w, int64_t pad_h, int64_t pad_w,
    int64_t dilation_h, int64_t dilation_w, int64_t groups, int64_t offset_groups) {
  const auto g = deform_geometry(
      input, offset, mask, weight, bias,
      {stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, groups, offset_groups});
  return Forward(input, offset, mask, weight, bias, g);
}

template <auto Backward>
DeformGradients backward_operator(
    const Tensor& grad, const Tensor& input, const Tensor& offset, const std::optional<Tensor>& mask,
    const Tensor& weight, const std::optional<Tensor>& bias, int64_t stride_h, int64_t stride_w, int64_t pad_h,
    int64_t pad_w, int64_t dilation_h, int64_t dilation_w, int64_t groups, int64_t offset_groups, bool needs_input,
    bool needs_coordinates, bool needs_parameters) {
  const auto g = deform_geometry(
      input, offset, mask, weight, bias,
      {stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, groups, offset_groups});
  check_deform_grad(grad, input, g);
  const NeededGradients needed{needs_input, needs_coordinates, needs_parameters};
  return Backward(grad, input, offset, mask, weight, bias, g, needed);
}

}  // namespace deform

}  // namespace glip
