// Overlaps of boxes with inclusive ends, for suppression. Everything is computed in float64 and every operation is
// rounded on its own, so that each device, and plain PyTorch, takes the same decisions.
#pragma once

#include "dispatch.h"

#include <cmath>
#include <optional>

namespace glip {

// A box with exclusive ends and its area.
struct Corners {
  double x1, y1, x2, y2, area;
};

// A product that no compiler fuses with a following sum; the host is compiled with -ffp-contract=off.
GLIP_HOST_DEVICE inline double rounded_product(double a, double b) {
#ifdef __CUDA_ARCH__
  return __dmul_rn(a, b);
#else
  return a * b;
#endif
}

template <typename T>
GLIP_HOST_DEVICE inline Corners load_corners(const T* box) {
  double x1 = static_cast<double>(box[0]), y1 = static_cast<double>(box[1]);
  double x2 = static_cast<double>(box[2]) + 1.0, y2 = static_cast<double>(box[3]) + 1.0;
  return {x1, y1, x2, y2, rounded_product(x2 - x1, y2 - y1)};
}

// Intersection over union; not a number where a coordinate is not.
GLIP_HOST_DEVICE inline double overlap(const Corners& a, const Corners& b) {
  double width = (a.x2 < b.x2 ? a.x2 : b.x2) - (a.x1 > b.x1 ? a.x1 : b.x1);
  double height = (a.y2 < b.y2 ? a.y2 : b.y2) - (a.y1 > b.y1 ? a.y1 : b.y1);
  double intersection = rounded_product(width > 0 ? width : 0.0, height > 0 ? height : 0.0);
  return intersection / (a.area + b.area - intersection);
}

// Score of a box after one with this overlap was taken; an overlap that is not a number changes nothing.
template <typename T>
GLIP_HOST_DEVICE inline T lowered_score(T score, double overlap, T sigma) {
  T narrow = static_cast<T>(overlap);
  return narrow > 0 ? score * std::exp(-(narrow * narrow) / sigma) : score;
}

inline void check_box_data(const Tensor& tensor, const char* name, const Tensor& boxes, ScalarType dtype) {
  STD_TORCH_CHECK(
      tensor.scalar_type() == dtype,
      name,
      " must be ",
      dtype_text(dtype),
      ", got ",
      dtype_text(tensor.scalar_type()));
  check_same_device(tensor, name, boxes, "boxes");
}

inline void check_keep_mask(
    const Tensor& boxes,
    const std::optional<Tensor>& labels,
    const std::optional<Tensor>& counts) {
  STD_TORCH_CHECK(
      boxes.dim() == 3 && boxes.size(2) == 4, "boxes must have the shape (B, K, 4), got ", shape_text(boxes));
  check_floating(boxes, "boxes");
  if (labels) {
    check_shape(*labels, "labels", {boxes.size(0), boxes.size(1)});
    check_box_data(*labels, "labels", boxes, ScalarType::Long);
  }
  if (counts) {
    check_shape(*counts, "counts", {boxes.size(0)});
    check_box_data(*counts, "counts", boxes, ScalarType::Long);
  }
}

inline void check_soft_nms(const Tensor& boxes, const Tensor& scores, double sigma) {
  STD_TORCH_CHECK(
      boxes.dim() == 2 && boxes.size(1) == 4, "boxes must have the shape (N, 4), got ", shape_text(boxes));
  check_floating(boxes, "boxes");
  check_shape(scores, "scores", {boxes.size(0)});
  check_box_data(scores, "scores", boxes, boxes.scalar_type());
  STD_TORCH_CHECK(sigma > 0, "sigma must be positive, got ", sigma);
}

}  // namespace glip
