// Views of the tensors of a deformable convolution as the matrices that its products take.
#pragma once

#include "deform_conv2d.h"

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/ops.h>

#include <vector>

namespace glip {

using torch::headeronly::MemoryFormat;

// A matrix within the storage of a tensor, beginning `begin` numbers after it.
inline Tensor matrix_view(
    const Tensor& tensor,
    int64_t begin,
    int64_t rows,
    int64_t columns,
    int64_t row_stride,
    int64_t column_stride = 1) {
  int64_t sizes[] = {rows, columns}, strides[] = {row_stride, column_stride};
  AtenTensorHandle view = nullptr;
  TORCH_ERROR_CODE_CHECK(
      aoti_torch__reinterpret_tensor(tensor.get(), 2, sizes, strides, tensor.storage_offset() + begin, &view));
  return Tensor(view);
}

// (B, H, W, C) seen as (B, C, H, W).
inline Tensor channels_first(const Tensor& tensor) {
  return torch::stable::transpose(torch::stable::transpose(tensor, 1, 3), 2, 3);
}

// (B, C, H, W) whose pixels lie row by row with all channels of a pixel side by side; images may be apart.
struct PixelTable {
  Tensor tensor;
  int64_t image_pixels;  // from an image to the next

  // Copies only where the layout or the alignment of 16 bytes asks for it; is_dense: leaves nothing between images.
  explicit PixelTable(const Tensor& source, bool is_dense = false) : tensor(source) {
    int64_t channels = source.size(1), height = source.size(2), width = source.size(3);
    auto has_stride = [&](int64_t axis, int64_t stride) {
      return source.size(axis) == 1 || source.stride(axis) == stride;
    };
    bool is_table = has_stride(1, 1) && has_stride(3, channels) && has_stride(2, width * channels) &&
        (is_dense ? has_stride(0, height * width * channels)
                  : source.size(0) <= 1 || source.stride(0) % channels == 0) &&
        reinterpret_cast<uintptr_t>(source.const_data_ptr()) % 16 == 0;
    if (!is_table) {
      auto rows = torch::stable::new_empty(source, {source.size(0), height, width, channels});
      tensor = channels_first(rows);
      torch::stable::copy_(tensor, source);
    }
    image_pixels = source.size(0) <= 1 ? height * width : tensor.stride(0) / channels;
  }
};

// The weights (O, C / groups, kh, kw) as (O, depth), tap by tap.
inline Tensor kernel_rows(const Tensor& weight) {
  auto rows = torch::stable::new_empty(weight, {weight.size(0), weight.size(2), weight.size(3), weight.size(1)});
  auto view = channels_first(rows);
  torch::stable::copy_(view, weight);
  return matrix_view(rows, 0, weight.size(0), rows.numel() / weight.size(0), rows.numel() / weight.size(0));
}

// (O, depth) back in the shape of the weights, contiguous.
inline Tensor kernel_from_rows(const Tensor& rows, const Tensor& weight) {
  auto taps_last = torch::stable::reshape(rows, {weight.size(0), weight.size(2), weight.size(3), weight.size(1)});
  return torch::stable::contiguous(channels_first(taps_last));
}

// What stands for a gradient that nobody needs.
inline Tensor no_gradient(const Tensor& like) {
  return torch::stable::new_empty(like, {0});
}

// The products of one group of channels. `columns` is (groups, rows, depth), `outputs` (rows, O), `kernel` (O, depth).
struct GroupMatrices {
  const DeformGeometry& g;
  int64_t rows;

  Tensor columns(const Tensor& tensor, int64_t group, int64_t first = 0, int64_t count = -1) const {
    return matrix_view(
        tensor, (group * rows + first) * g.depth(), count < 0 ? rows : count, g.depth(), g.depth());
  }
  Tensor outputs(const Tensor& tensor, int64_t group, int64_t first, int64_t count) const {
    return matrix_view(tensor, first * g.out_channels + group * width(), count, width(), g.out_channels);
  }
  // (O / groups, count)
  Tensor outputs_transposed(const Tensor& tensor, int64_t group, int64_t first, int64_t count) const {
    return matrix_view(tensor, first * g.out_channels + group * width(), width(), count, 1, g.out_channels);
  }
  Tensor kernel(const Tensor& tensor, int64_t group) const {
    return matrix_view(tensor, group * width() * g.depth(), width(), g.depth(), g.depth());
  }
  // (depth, O / groups)
  Tensor kernel_transposed(const Tensor& tensor, int64_t group) const {
    return matrix_view(tensor, group * width() * g.depth(), g.depth(), width(), 1, g.depth());
  }
  // A row of the group's numbers of the bias.
  Tensor bias(const Tensor& tensor, int64_t group) const {
    int64_t sizes[] = {width()}, strides[] = {tensor.stride(0)};
    AtenTensorHandle view = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch__reinterpret_tensor(
        tensor.get(), 1, sizes, strides, tensor.storage_offset() + group * width() * strides[0], &view));
    return Tensor(view);
  }
  int64_t width() const { return g.out_channels / g.groups; }
};

}  // namespace glip
