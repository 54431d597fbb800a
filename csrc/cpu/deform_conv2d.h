// What the forward and the backward pass of a deformable convolution on the CPU share. Taps are gathered pixel by
// pixel, all channels at once, into the rows of a matrix that is multiplied with the weights. Numbers of 16 bits are
// computed in float.
#pragma once

#include "../common/deform_conv2d_tensors.h"

#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cpu.h>

#include <algorithm>
#include <vector>

// Vectors as wide as the processor has, chosen when the library is loaded.
#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__)
#define GLIP_VECTOR_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define GLIP_VECTOR_CLONES
#endif
#define GLIP_INLINE inline __attribute__((always_inline))

namespace glip {
namespace deform {

// The four pixels of a tap: their channels, and what each counts.
template <typename A>
struct Corners {
  const A* pixels[4];
  A weights[4];
};

template <typename A>
GLIP_INLINE void blend_loop(const Corners<A>& corners, int64_t channels, A* __restrict out) {
  const A *a = corners.pixels[0], *b = corners.pixels[1], *c = corners.pixels[2], *d = corners.pixels[3];
  A u = corners.weights[0], v = corners.weights[1], w = corners.weights[2], x = corners.weights[3];
  for (int64_t i = 0; i < channels; ++i) out[i] = u * a[i] + v * b[i] + w * c[i] + x * d[i];
}
GLIP_VECTOR_CLONES static void blend(const Corners<float>& corners, int64_t channels, float* out) {
  blend_loop(corners, channels, out);
}
GLIP_VECTOR_CLONES static void blend(const Corners<double>& corners, int64_t channels, double* out) {
  blend_loop(corners, channels, out);
}

// Neighbouring channels that share their offsets and their group of the convolution.
struct Run {
  int offset_group, group, channel, channel_in_group, length;
};

inline std::vector<Run> channel_runs(const DeformGeometry& g) {
  std::vector<Run> runs;
  for (int channel = 0; channel < g.channels;) {
    int offset_group = channel / g.offset_channels(), group = channel / g.group_channels();
    int end = std::min((offset_group + 1) * g.offset_channels(), (group + 1) * g.group_channels());
    runs.push_back({offset_group, group, channel, channel % g.group_channels(), end - channel});
    channel = end;
  }
  return runs;
}

// The tensors of a call in the dtype A of the computation, and where its taps lie.
template <typename A>
struct Sampler {
  DeformGeometry g;
  std::vector<Run> runs = channel_runs(g);
  PixelTable pixels;
  LocationMap offset, mask;
  const A* input = pixels.tensor.const_data_ptr<A>();

  // A tap at an output position; the pixels of the corners are those of channel 0.
  struct Tap {
    bool is_on_map;
    AxisSample<A> vertical, horizontal;
    A scale;
    int64_t pixels[4];
    A weights[4];  // without the mask
  };

  Tap tap(int64_t location, int offset_group, int tap) const {
    Tap result;
    int image = static_cast<int>(location / g.locations()), position = static_cast<int>(location % g.locations());
    auto &v = result.vertical, &h = result.horizontal;
    result.is_on_map = place_tap<A>(
        g, offset, mask, image, offset_group, tap, position / g.out_width, position % g.out_width, v, h, result.scale);
    if (!result.is_on_map) return result;
    int64_t first = image * pixels.image_pixels;
    for (int k = 0; k < 4; ++k) {
      result.pixels[k] = first + int64_t(k < 2 ? v.low : v.high) * g.width + (k % 2 ? h.high : h.low);
      result.weights[k] = (k < 2 ? v.low_weight : v.high_weight) * (k % 2 ? h.high_weight : h.low_weight);
    }
    return result;
  }

  Corners<A> corners(const Tap& tap, int channel) const {
    Corners<A> result;
    for (int k = 0; k < 4; ++k) {
      result.pixels[k] = input + tap.pixels[k] * g.channels + channel;
      result.weights[k] = tap.weights[k] * tap.scale;
    }
    return result;
  }

  // Where the samples of a run at a row of a chunk of `rows` begin in its matrix (groups, rows, depth).
  int64_t column(const Run& run, int64_t rows, int64_t row, int tap) const {
    return (run.group * rows + row) * g.depth() + int64_t(tap) * g.group_channels() + run.channel_in_group;
  }

  // Calls body(offset_group, tap, placed tap) for all taps at a location.
  template <typename Body>
  void each_tap(int64_t location, const Body& body) const {
    for (int offset_group = 0; offset_group < g.offset_groups; ++offset_group)
      for (int k = 0; k < g.taps(); ++k) body(offset_group, k, tap(location, offset_group, k));
  }

  template <typename Body>
  void each_run(int offset_group, const Body& body) const {
    for (const Run& run : runs)
      if (run.offset_group == offset_group) body(run);
  }

  // The samples of a location, as a row of the matrix of a chunk.
  void fill_row(int64_t location, int64_t rows, int64_t row, A* columns) const {
    each_tap(location, [&](int offset_group, int k, const Tap& placed) {
      each_run(offset_group, [&](const Run& run) {
        A* out = columns + column(run, rows, row, k);
        if (placed.is_on_map)
          blend(corners(placed, run.channel), run.length, out);
        else
          std::fill_n(out, run.length, A(0));
      });
    });
  }
};

inline Tensor in_dtype(const Tensor& tensor, ScalarType dtype) {
  return tensor.scalar_type() == dtype ? tensor : torch::stable::to(tensor, dtype);
}

// The arguments of the operator after the tensors.
struct CpuArguments {
  ScalarType dtype;
  Tensor input, offset;
  std::optional<Tensor> mask;

  CpuArguments(const Tensor& input, const Tensor& offset, const std::optional<Tensor>& mask)
      : dtype(accumulate_dtype(input.scalar_type())),
        input(in_dtype(input, dtype)),
        offset(in_dtype(offset, dtype)) {
    if (mask) this->mask = in_dtype(*mask, dtype);
  }

  template <typename A>
  Sampler<A> sampler(const DeformGeometry& g) const {
    return {g, channel_runs(g), PixelTable(input), LocationMap(offset, dtype),
            mask ? LocationMap(*mask, dtype) : LocationMap()};
  }
};

}  // namespace deform
}  // namespace glip
