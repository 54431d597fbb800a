// What the forward and the backward pass of a deformable convolution on CUDA share: 16-byte accesses, the arguments of
// a kernel, how a block divides its work, and matrix products.
//
// Both passes go over a chunk of output positions ("rows") at a time, so that the matrix of samples, 9 times as large
// as the input for a 3x3 kernel, stays small. One tap at one row for one offset group is a sample; a group of lanes
// serves a sample, each lane with 16 bytes of channels.
#pragma once

#include "../common/deform_conv2d_tensors.h"
#include "launch.cuh"

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cuda.h>

namespace glip {
namespace deform {

// Bytes of the matrix of samples of a chunk.
constexpr int64_t kWorkspaceBytes = int64_t(256) << 20;
constexpr int kWarp = 32;
// Most samples of a block.
constexpr int kTileSamples = 512;

template <typename T>
constexpr int kWideVector = 16 / sizeof(T);

__device__ inline void unpack(uint4 raw, float (&out)[4], const float*) {
  out[0] = __uint_as_float(raw.x), out[1] = __uint_as_float(raw.y);
  out[2] = __uint_as_float(raw.z), out[3] = __uint_as_float(raw.w);
}
__device__ inline void unpack(uint4 raw, double (&out)[2], const double*) {
  out[0] = __hiloint2double(raw.y, raw.x), out[1] = __hiloint2double(raw.w, raw.z);
}
__device__ inline void unpack(uint4 raw, float (&out)[8], const BFloat16*) {
  const unsigned words[] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    out[2 * i] = __uint_as_float(words[i] << 16);
    out[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
  }
}
__device__ inline void unpack(uint4 raw, float (&out)[8], const Half*) {
  const unsigned words[] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    float2 pair = __half22float2(*reinterpret_cast<const __half2*>(&words[i]));
    out[2 * i] = pair.x, out[2 * i + 1] = pair.y;
  }
}

__device__ inline uint4 pack(const float (&in)[4], const float*) {
  return make_uint4(__float_as_uint(in[0]), __float_as_uint(in[1]), __float_as_uint(in[2]), __float_as_uint(in[3]));
}
__device__ inline uint4 pack(const double (&in)[2], const double*) {
  return make_uint4(
      __double2loint(in[0]), __double2hiint(in[0]), __double2loint(in[1]), __double2hiint(in[1]));
}
__device__ inline unsigned pack_pair(float low, float high, const BFloat16*) {
  __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<unsigned*>(&pair);
}
__device__ inline unsigned pack_pair(float low, float high, const Half*) {
  __half2 pair = __floats2half2_rn(low, high);
  return *reinterpret_cast<unsigned*>(&pair);
}
template <typename T>
__device__ inline uint4 pack(const float (&in)[8], const T* type) {
  return make_uint4(
      pack_pair(in[0], in[1], type), pack_pair(in[2], in[3], type), pack_pair(in[4], in[5], type),
      pack_pair(in[6], in[7], type));
}

// N neighbouring numbers of T in the wider type: 16 bytes, or one number.
template <typename T, int N>
__device__ inline void load(const T* from, accumulate_t<T> (&out)[N]) {
  if constexpr (N == 1)
    out[0] = static_cast<accumulate_t<T>>(*from);
  else
    unpack(*reinterpret_cast<const uint4*>(from), out, from);
}
// For memory that the kernel does not write to.
template <typename T, int N>
__device__ inline void load_constant(const T* from, accumulate_t<T> (&out)[N]) {
  if constexpr (N == 1)
    out[0] = static_cast<accumulate_t<T>>(*from);
  else
    unpack(__ldg(reinterpret_cast<const uint4*>(from)), out, from);
}
template <typename T, int N>
__device__ inline void store(T* to, const accumulate_t<T> (&in)[N]) {
  if constexpr (N == 1)
    *to = static_cast<T>(in[0]);
  else
    *reinterpret_cast<uint4*>(to) = pack(in, to);
}

// What a kernel reads of a chunk.
template <typename T>
struct Chunk {
  DeformGeometry g;
  LocationMap offset, mask;
  const T* input;     // a pixel table
  int image_pixels;   // from an image of it to the next
  int64_t first_row;  // of all rows (image, y, x)
  int rows;

  GLIP_HOST_DEVICE int samples() const { return g.offset_groups * g.taps(); }

  // Places a sample of a row; pixels are counted from the first of the image.
  __device__ bool place(
      int row,
      int sample,
      int& image,
      AxisSample<accumulate_t<T>>& vertical,
      AxisSample<accumulate_t<T>>& horizontal,
      accumulate_t<T>& scale) const {
    int64_t location = first_row + row;
    image = static_cast<int>(location / g.locations());
    int position = static_cast<int>(location - int64_t(image) * g.locations());
    int y = position / g.out_width, x = position - y * g.out_width;
    int offset_group = sample / g.taps();
    return place_tap<T>(
        g, offset, mask, image, offset_group, sample - offset_group * g.taps(), y, x, vertical, horizontal, scale);
  }
};

// How a block divides samples: it takes 2^row_bits rows, and of each up to `samples` samples beginning at
// blockIdx.y * samples. `lanes`, a power of 2, serve a sample.
struct Tile {
  int row_bits, samples, lanes;

  template <typename T>
  Tile(const Chunk<T>& chunk, int vector) {
    samples = std::min(chunk.samples(), kTileSamples);
    row_bits = 5;
    while (row_bits > 0 && (samples << row_bits) > kTileSamples) --row_bits;
    lanes = 1;
    while (lanes < kWarp && lanes * vector < chunk.g.offset_channels()) lanes *= 2;
  }
  template <typename T>
  dim3 grid(const Chunk<T>& chunk) const {
    return dim3((chunk.rows + (1 << row_bits) - 1) >> row_bits, (chunk.samples() + samples - 1) / samples);
  }
  size_t count() const { return size_t(samples) << row_bits; }
};

// Where a lane finds channel `channel` of a sample in the matrix of a chunk, (groups, rows, taps, C / groups).
template <bool kOneGroup>
struct ColumnIndex {
  int64_t item;  // row * taps + tap
  int64_t group_stride;
  int group_channels;

  __device__ ColumnIndex(const DeformGeometry& g, int rows, int row, int tap)
      : item(int64_t(row) * g.taps() + tap),
        group_stride(int64_t(rows) * g.taps() * g.group_channels()),
        group_channels(g.group_channels()) {}
  __device__ int64_t operator()(int channel) const {
    if constexpr (kOneGroup) return item * group_channels + channel;
    int group = channel / group_channels;
    return group * group_stride + item * group_channels + (channel - group * group_channels);
  }
};

// Whether 16-byte accesses stay within the channels of a group and of an offset group.
template <typename T>
bool is_wide(const DeformGeometry& g) {
  return g.group_channels() % kWideVector<T> == 0 && g.offset_channels() % kWideVector<T> == 0;
}

// Whether all channels share their taps and a block takes all taps of its rows: they lie one after the other.
inline bool has_one_group_of_samples(const DeformGeometry& g) {
  return g.groups == 1 && g.offset_groups == 1 && g.taps() <= kTileSamples;
}

inline void multiply(const Tensor& out, const Tensor& left, const Tensor& right) {
  TORCH_ERROR_CODE_CHECK(aoti_torch_cuda_mm_out(out.get(), left.get(), right.get()));
}
inline void multiply_add(const Tensor& out, const Tensor& start, const Tensor& left, const Tensor& right) {
  TORCH_ERROR_CODE_CHECK(aoti_torch_cuda_addmm_out(out.get(), start.get(), left.get(), right.get(), 1, 1));
}

// Most rows of a chunk that fit the workspace, at least 1.
inline int64_t workspace_rows(const Tensor& input, const DeformGeometry& g) {
  const int64_t row_bytes = g.depth() * g.groups * static_cast<int64_t>(input.element_size());
  const int64_t samples = int64_t(g.taps()) * g.offset_groups;
  return std::max<int64_t>(std::min(kWorkspaceBytes / row_bytes, std::numeric_limits<int>::max() / (4 * samples)), 1);
}

template <typename T>
Chunk<T> first_chunk(
    const DeformGeometry& g, const PixelTable& pixels, const Tensor& offset, const std::optional<Tensor>& mask) {
  STD_TORCH_CHECK(
      g.batch * pixels.image_pixels <= std::numeric_limits<int>::max(),
      "input ",
      shape_text(pixels.tensor),
      " is too large: at most 2^31 - 1 pixels");
  auto dtype = pixels.tensor.scalar_type();
  return {g,
          LocationMap(offset, dtype),
          mask ? LocationMap(*mask, dtype) : LocationMap(),
          static_cast<const T*>(pixels.tensor.const_data_ptr()),
          static_cast<int>(pixels.image_pixels),
          0,
          0};
}

}  // namespace deform
}  // namespace glip
