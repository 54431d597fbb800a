// Greedy suppression, hard and soft. The boxes come sorted where it matters.
#include "../common/nms.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <limits>
#include <numeric>
#include <tuple>
#include <vector>

namespace glip {
namespace {

// Suppression among the boxes with the indices [begin, end), best first.
template <typename T>
void sweep_group(const T* boxes, const int64_t* begin, const int64_t* end, double threshold, bool* keep) {
  std::vector<Corners> kept;
  for (const int64_t* i = begin; i != end; ++i) {
    Corners box = load_corners(boxes + 4 * *i);
    keep[*i] = std::none_of(kept.begin(), kept.end(), [&](const Corners& b) { return overlap(b, box) > threshold; });
    if (keep[*i]) kept.push_back(box);
  }
}

// Suppression in one image: the boxes of each label are a group, and threads share the groups out.
template <typename T>
void sweep_image(const T* boxes, const int64_t* labels, int64_t count, double threshold, bool* keep) {
  std::vector<int64_t> order(count), starts{0};
  std::iota(order.begin(), order.end(), 0);
  if (labels) {
    std::stable_sort(order.begin(), order.end(), [&](int64_t i, int64_t j) { return labels[i] < labels[j]; });
    for (int64_t i = 1; i < count; ++i)
      if (labels[order[i]] != labels[order[i - 1]]) starts.push_back(i);
  }
  starts.push_back(count);
  torch::stable::parallel_for(0, static_cast<int64_t>(starts.size()) - 1, 8, [&](int64_t begin, int64_t end) {
    for (int64_t g = begin; g < end; ++g)
      sweep_group(boxes, order.data() + starts[g], order.data() + starts[g + 1], threshold, keep);
  });
}

Tensor nms_keep_mask_cpu(
    const Tensor& boxes,
    const std::optional<Tensor>& labels,
    const std::optional<Tensor>& counts,
    double iou_threshold) {
  check_keep_mask(boxes, labels, counts);
  int64_t batch = boxes.size(0), num_boxes = boxes.size(1);
  auto keep = torch::stable::new_zeros(boxes, {batch, num_boxes}, ScalarType::Bool);
  auto dense = torch::stable::contiguous(boxes);
  auto dense_labels = labels ? torch::stable::contiguous(*labels) : dense;
  auto dense_counts = counts ? torch::stable::contiguous(*counts) : dense;
  bool* out = keep.mutable_data_ptr<bool>();
  dispatch_floating(boxes, "boxes", [&](auto tag) {
    using scalar_t = typename decltype(tag)::type;
    for (int64_t b = 0; b < batch; ++b) {
      int64_t count = counts ? dense_counts.const_data_ptr<int64_t>()[b] : num_boxes;
      sweep_image(
          dense.const_data_ptr<scalar_t>() + 4 * b * num_boxes,
          labels ? dense_labels.const_data_ptr<int64_t>() + b * num_boxes : nullptr,
          std::clamp<int64_t>(count, 0, num_boxes),
          iou_threshold,
          out + b * num_boxes);
    }
  });
  return keep;
}

// Takes boxes by descending score; a score becomes "not a number" when its box is taken or dropped.
template <typename T>
int64_t soft_sweep(const std::vector<Corners>& corners, T threshold, T sigma, T* scores, int64_t* order, T* taken) {
  int64_t num_boxes = static_cast<int64_t>(corners.size());
  for (int64_t count = 0; count < num_boxes; ++count) {
    int64_t best = -1;
    for (int64_t i = 0; i < num_boxes; ++i)
      if (!std::isnan(scores[i]) && (best < 0 || scores[i] > scores[best])) best = i;
    if (best < 0) return count;
    order[count] = best;
    taken[count] = scores[best];
    scores[best] = std::numeric_limits<T>::quiet_NaN();
    for (int64_t i = 0; i < num_boxes; ++i) {
      T score = lowered_score(scores[i], overlap(corners[best], corners[i]), sigma);
      scores[i] = score >= threshold ? score : std::numeric_limits<T>::quiet_NaN();
    }
  }
  return num_boxes;
}

std::tuple<Tensor, Tensor, Tensor> soft_nms_cpu(
    const Tensor& boxes,
    const Tensor& scores,
    double score_threshold,
    double sigma) {
  check_soft_nms(boxes, scores, sigma);
  ScalarType wide = accumulate_dtype(scores.scalar_type());
  auto dense = torch::stable::contiguous(boxes);
  auto current = torch::stable::new_empty(scores, {scores.size(0)}, wide);
  torch::stable::copy_(current, scores);
  auto order = torch::stable::new_zeros(scores, {scores.size(0)}, ScalarType::Long);
  auto taken = torch::stable::new_zeros(scores, {scores.size(0)}, wide);
  auto count = torch::stable::new_zeros(scores, {1}, ScalarType::Long);
  dispatch_floating(boxes, "boxes", [&](auto tag) {
    using scalar_t = typename decltype(tag)::type;
    using score_t = accumulate_t<scalar_t>;
    std::vector<Corners> corners(boxes.size(0));
    for (size_t i = 0; i < corners.size(); ++i) corners[i] = load_corners(dense.const_data_ptr<scalar_t>() + 4 * i);
    *count.mutable_data_ptr<int64_t>() = soft_sweep<score_t>(
        corners,
        static_cast<score_t>(score_threshold),
        static_cast<score_t>(sigma),
        current.mutable_data_ptr<score_t>(),
        order.mutable_data_ptr<int64_t>(),
        taken.mutable_data_ptr<score_t>());
  });
  return {order, torch::stable::to(taken, scores.scalar_type()), count};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(maskrcnn_benchmark, CPU, m) {
  m.impl("nms_keep_mask", TORCH_BOX(&nms_keep_mask_cpu));
  m.impl("soft_nms", TORCH_BOX(&soft_nms_cpu));
}

}  // namespace glip
