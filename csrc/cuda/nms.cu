// Greedy suppression, hard and soft, without a step on the host.
#include "../common/nms.h"
#include "launch.cuh"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <tuple>

namespace glip {
namespace {

constexpr int kBlock = 64;  // boxes per word
constexpr int kSweepThreads = 1024;
constexpr int64_t kWorkspaceWords = int64_t{1} << 24;  // 128 MiB

using Word = unsigned long long;

// Boxes of a batch, best first; the rows [first_row, first_row + num_rows) of its overlap matrix are at work.
template <typename T>
struct Batch {
  const T* boxes;         // (size, num_boxes, 4)
  const int64_t* labels;  // (size, num_boxes) or null
  const int64_t* counts;  // (size,) or null
  int64_t size, num_boxes, num_words;
  double threshold;
  int64_t first_row, num_rows;
  Word* removed;   // (size, num_words): boxes that rows before first_row suppress
  Word* overlaps;  // (size, num_words, num_rows): which of the 64 boxes of a word overlap the box of a row

  __device__ int64_t count(int64_t image) const {
    return counts ? min(max(counts[image], int64_t{0}), num_boxes) : num_boxes;
  }
};

// One thread per row and word of later boxes. In the word that has the row itself the bits of earlier boxes are set.
template <typename T>
__global__ void __launch_bounds__(kBlock) overlap_kernel(Batch<T> batch) {
  __shared__ Corners columns[kBlock];
  __shared__ int64_t column_labels[kBlock];
  int64_t word = blockIdx.x, row_word = batch.first_row / kBlock + blockIdx.y;
  if (word < row_word) return;
  int64_t row = row_word * kBlock + threadIdx.x, column = word * kBlock + threadIdx.x;
  for (int64_t image = blockIdx.z; image < batch.size; image += gridDim.z) {
    int64_t count = batch.count(image);
    if (word * kBlock >= count) continue;
    const T* boxes = batch.boxes + 4 * image * batch.num_boxes;
    const int64_t* labels = batch.labels ? batch.labels + image * batch.num_boxes : nullptr;
    __syncthreads();
    if (column < count) {
      columns[threadIdx.x] = load_corners(boxes + 4 * column);
      column_labels[threadIdx.x] = labels ? labels[column] : 0;
    }
    __syncthreads();
    Word bits = 0;
    bool is_removed = batch.removed[image * batch.num_words + row_word] >> threadIdx.x & 1;
    if (row < count && !is_removed) {
      Corners box = load_corners(boxes + 4 * row);
      int64_t label = labels ? labels[row] : 0;
      int64_t columns_left = count - word * kBlock;
      int end = word == row_word ? threadIdx.x : static_cast<int>(columns_left < kBlock ? columns_left : kBlock);
      for (int j = 0; j < end; ++j)
        if (column_labels[j] == label && overlap(box, columns[j]) > batch.threshold) bits |= Word{1} << j;
    }
    batch.overlaps[(image * batch.num_words + word) * batch.num_rows + row - batch.first_row] = bits;
  }
}

__device__ Word warp_or(Word value) {
  for (int distance = 16; distance > 0; distance /= 2) value |= __shfl_xor_sync(~0u, value, distance);
  return value;
}

// Greedy choice among the boxes of one word, by one warp. `earlier` has, for the boxes `lane` and `lane + 32`, the
// better boxes of the word that overlap them. Each round settles at least the first box that was undecided.
__device__ Word settle_word(Word alive, const Word (&earlier)[2], int lane) {
  Word kept = alive;
  while (true) {
    unsigned low = __ballot_sync(~0u, (alive >> lane & 1) && !(earlier[0] & kept));
    unsigned high = __ballot_sync(~0u, (alive >> (lane + 32) & 1) && !(earlier[1] & kept));
    Word next = Word{high} << 32 | low;
    if (next == kept) return kept;
    kept = next;
  }
}

// One block per image walks over the words from the best boxes to the worst.
template <typename T>
__global__ void __launch_bounds__(kSweepThreads) sweep_kernel(Batch<T> batch, bool* keep) {
  extern __shared__ Word kept[];  // of the rows at work
  __shared__ Word partial[kSweepThreads / 32];
  int64_t image = blockIdx.x, count = batch.count(image);
  int64_t first_word = batch.first_row / kBlock, last_row = batch.first_row + batch.num_rows;
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  for (int64_t word = first_word; word * kBlock < count; ++word) {
    const Word* overlaps = batch.overlaps + (image * batch.num_words + word) * batch.num_rows;
    bool is_settled_here = word * kBlock < last_row;
    Word earlier[2] = {0, 0};
    if (is_settled_here && warp == 0) {
      int64_t row = word * kBlock - batch.first_row + lane;
      earlier[0] = overlaps[row];
      earlier[1] = overlaps[row + 32];
    }
    Word found = 0;
    int64_t num_before = min(word * kBlock, last_row) - batch.first_row;
    for (int64_t row = threadIdx.x; row < num_before; row += kSweepThreads)
      if (kept[row / kBlock] >> (row % kBlock) & 1) found |= overlaps[row];
    found = warp_or(found);
    if (lane == 0) partial[warp] = found;
    __syncthreads();
    if (warp == 0) {
      Word removed = warp_or(partial[lane]) | batch.removed[image * batch.num_words + word];
      if (is_settled_here) {
        int64_t left = count - word * kBlock;
        Word valid = left < kBlock ? (Word{1} << left) - 1 : ~Word{0};
        Word chosen = settle_word(valid & ~removed, earlier, lane);
        if (lane == 0) kept[word - first_word] = chosen;
        bool* out = keep + image * batch.num_boxes + word * kBlock;
        if (lane < left) out[lane] = chosen >> lane & 1;
        if (lane + 32 < left) out[lane + 32] = chosen >> (lane + 32) & 1;
      } else if (lane == 0) {
        batch.removed[image * batch.num_words + word] = removed;
      }
    }
    __syncthreads();
  }
}

// Works through the overlap matrix in as many rows at a time as the workspace holds.
template <typename T>
void launch_keep_mask(
    const Tensor& boxes,
    const int64_t* labels,
    const int64_t* counts,
    double iou_threshold,
    Tensor& keep) {
  int64_t size = boxes.size(0), num_boxes = boxes.size(1), num_words = (num_boxes + kBlock - 1) / kBlock;
  int64_t rows_at_once = std::clamp<int64_t>(kWorkspaceWords / (size * num_words) / kBlock, 1, num_words) * kBlock;
  auto removed = torch::stable::new_zeros(boxes, {size, num_words}, ScalarType::Long);
  auto overlaps = torch::stable::new_empty(boxes, {size, num_words, rows_at_once}, ScalarType::Long);
  Batch<T> batch{boxes.const_data_ptr<T>(), labels, counts, size, num_boxes, num_words, iou_threshold};
  batch.removed = reinterpret_cast<Word*>(removed.mutable_data_ptr<int64_t>());
  batch.overlaps = reinterpret_cast<Word*>(overlaps.mutable_data_ptr<int64_t>());
  cudaStream_t stream = current_stream(boxes);
  for (batch.first_row = 0; batch.first_row < num_boxes; batch.first_row += rows_at_once) {
    batch.num_rows = std::min(rows_at_once, num_words * kBlock - batch.first_row);
    int64_t row_words = batch.num_rows / kBlock;
    dim3 grid(num_words, row_words, std::min<int64_t>(size, 65535));
    overlap_kernel<T><<<grid, kBlock, 0, stream>>>(batch);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
    sweep_kernel<T><<<size, kSweepThreads, row_words * sizeof(Word), stream>>>(batch, keep.mutable_data_ptr<bool>());
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }
}

Tensor nms_keep_mask_cuda(
    const Tensor& boxes,
    const std::optional<Tensor>& labels,
    const std::optional<Tensor>& counts,
    double iou_threshold) {
  check_keep_mask(boxes, labels, counts);
  DeviceGuard guard(boxes.get_device_index());
  auto keep = torch::stable::new_zeros(boxes, {boxes.size(0), boxes.size(1)}, ScalarType::Bool);
  if (keep.numel() == 0) return keep;
  auto dense = torch::stable::contiguous(boxes);
  auto dense_labels = labels ? torch::stable::contiguous(*labels) : dense;
  auto dense_counts = counts ? torch::stable::contiguous(*counts) : dense;
  auto* label_data = labels ? dense_labels.const_data_ptr<int64_t>() : nullptr;
  auto* count_data = counts ? dense_counts.const_data_ptr<int64_t>() : nullptr;
  dispatch_floating(boxes, "boxes", [&](auto tag) {
    launch_keep_mask<typename decltype(tag)::type>(dense, label_data, count_data, iou_threshold, keep);
  });
  return keep;
}

// The best score of a thread, a warp or the block; index -1 where there is none.
template <typename T>
struct Best {
  T score;
  int64_t index;

  __device__ void add(T other_score, int64_t other_index) {
    bool is_better = index < 0 || other_score > score || (other_score == score && other_index < index);
    if (other_index >= 0 && is_better) {
      score = other_score;
      index = other_index;
    }
  }
};

template <typename T>
__device__ Best<T> warp_best(Best<T> best) {
  for (int distance = 16; distance > 0; distance /= 2) {
    T score = __shfl_down_sync(~0u, best.score, distance);
    best.add(score, __shfl_down_sync(~0u, best.index, distance));
  }
  return best;
}

// One block takes box after box; a score becomes "not a number" when its box is taken or dropped.
template <typename T, typename Score>
__global__ void __launch_bounds__(kSweepThreads) soft_nms_kernel(
    const T* boxes,
    int64_t num_boxes,
    Score threshold,
    Score sigma,
    Score* scores,
    int64_t* order,
    Score* taken,
    int64_t* count) {
  __shared__ Best<Score> partial[kSweepThreads / 32];
  __shared__ Best<Score> best;
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  Best<Score> own{0, -1};
  for (int64_t i = threadIdx.x; i < num_boxes; i += kSweepThreads)
    if (!isnan(scores[i])) own.add(scores[i], i);
  for (int64_t step = 0; step < num_boxes; ++step) {
    own = warp_best(own);
    if (lane == 0) partial[warp] = own;
    __syncthreads();
    if (warp == 0) {
      own = warp_best(partial[lane]);
      if (lane == 0) {
        best = own;
        if (own.index >= 0) {
          order[step] = own.index;
          taken[step] = own.score;
          *count = step + 1;
        }
      }
    }
    __syncthreads();
    int64_t chosen = best.index;
    if (chosen < 0) return;
    Corners box = load_corners(boxes + 4 * chosen);
    own = {0, -1};
    for (int64_t i = threadIdx.x; i < num_boxes; i += kSweepThreads) {
      Score score = scores[i];
      if (isnan(score)) continue;
      score = lowered_score(score, overlap(box, load_corners(boxes + 4 * i)), sigma);
      bool is_out = i == chosen || !(score >= threshold);
      scores[i] = is_out ? static_cast<Score>(NAN) : score;
      if (!is_out) own.add(score, i);
    }
  }
}

template <typename T>
void launch_soft_nms(
    const Tensor& boxes,
    Tensor& current,
    double threshold,
    double sigma,
    Tensor& order,
    Tensor& taken,
    Tensor& count) {
  using score_t = accumulate_t<T>;
  soft_nms_kernel<T, score_t><<<1, kSweepThreads, 0, current_stream(boxes)>>>(
      boxes.const_data_ptr<T>(),
      boxes.size(0),
      static_cast<score_t>(threshold),
      static_cast<score_t>(sigma),
      current.mutable_data_ptr<score_t>(),
      order.mutable_data_ptr<int64_t>(),
      taken.mutable_data_ptr<score_t>(),
      count.mutable_data_ptr<int64_t>());
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

std::tuple<Tensor, Tensor, Tensor> soft_nms_cuda(
    const Tensor& boxes,
    const Tensor& scores,
    double score_threshold,
    double sigma) {
  check_soft_nms(boxes, scores, sigma);
  DeviceGuard guard(boxes.get_device_index());
  ScalarType wide = accumulate_dtype(scores.scalar_type());
  auto dense = torch::stable::contiguous(boxes);
  auto current = torch::stable::new_empty(scores, {scores.size(0)}, wide);
  torch::stable::copy_(current, scores);
  auto order = torch::stable::new_zeros(scores, {scores.size(0)}, ScalarType::Long);
  auto taken = torch::stable::new_zeros(scores, {scores.size(0)}, wide);
  auto count = torch::stable::new_zeros(scores, {1}, ScalarType::Long);
  if (scores.size(0) > 0) {
    dispatch_floating(boxes, "boxes", [&](auto tag) {
      launch_soft_nms<typename decltype(tag)::type>(dense, current, score_threshold, sigma, order, taken, count);
    });
  }
  return {order, torch::stable::to(taken, scores.scalar_type()), count};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(maskrcnn_benchmark, CUDA, m) {
  m.impl("nms_keep_mask", TORCH_BOX(&nms_keep_mask_cuda));
  m.impl("soft_nms", TORCH_BOX(&soft_nms_cuda));
}

}  // namespace glip
