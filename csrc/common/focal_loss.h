// Mathematics and checks of the focal losses (arXiv:1708.02002), the same on every device.
#pragma once

#include "dispatch.h"

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/ops.h>

#include <array>
#include <cmath>
#include <optional>

namespace glip {

// Probability, its complement and their logarithms of a logit, none of which loses its precision for large logits.
template <typename T>
struct Sigmoid {
  T p, q, log_p, log_q;

  GLIP_HOST_DEVICE explicit Sigmoid(T logit) {
    const T small = std::exp(-std::abs(logit));  // in (0, 1]
    const T large_side = T(1) / (T(1) + small), small_side = small * large_side;
    const bool is_positive = logit >= T(0);
    p = is_positive ? large_side : small_side;
    q = is_positive ? small_side : large_side;
    const T correction = std::log1p(small);
    log_p = (is_positive ? T(0) : logit) - correction;
    log_q = (is_positive ? -logit : T(0)) - correction;
    if (logit != logit) p = q = log_p = log_q = logit;
  }
};

template <typename T>
GLIP_HOST_DEVICE inline T focal_power(T base, T gamma) {
  return gamma == T(2) ? base * base : std::pow(base, gamma);
}

// The loss of one logit against "this class" or "not this class".
template <typename T>
GLIP_HOST_DEVICE inline T label_focal_loss(T logit, bool is_target, T gamma, T alpha) {
  const Sigmoid<T> s(logit);
  return is_target ? -alpha * focal_power(s.q, gamma) * s.log_p : -(T(1) - alpha) * focal_power(s.p, gamma) * s.log_q;
}

template <typename T>
GLIP_HOST_DEVICE inline T label_focal_gradient(T logit, bool is_target, T gamma, T alpha) {
  const Sigmoid<T> s(logit);
  return is_target ? alpha * focal_power(s.q, gamma) * (gamma * s.p * s.log_p - s.q)
                   : (T(1) - alpha) * focal_power(s.p, gamma) * (s.p - gamma * s.q * s.log_q);
}

// Weight of a target between 0 and 1; a negative alpha means none.
template <typename T>
GLIP_HOST_DEVICE inline T target_weight(T target, T alpha) {
  return alpha < T(0) ? T(1) : alpha * target + (T(1) - alpha) * (T(1) - target);
}

// The loss of one logit against a target between 0 and 1, and its derivative with respect to the logit.
template <typename T>
struct TokenFocalLoss {
  T value, gradient;

  GLIP_HOST_DEVICE TokenFocalLoss(T logit, T target, T alpha, T gamma) {
    const Sigmoid<T> s(logit);
    const T weight = target_weight(target, alpha);
    const T cross_entropy = -(target * s.log_p + (T(1) - target) * s.log_q);
    const T miss = s.p * (T(1) - target) + s.q * target;  // 1 minus the probability of the target
    const T change = s.p * s.q * (T(1) - T(2) * target);  // of the miss
    if (gamma == T(2)) {
      value = cross_entropy * (miss * miss) * weight;
      gradient = miss * (miss * (s.p - target) + T(2) * cross_entropy * change) * weight;
    } else {
      const T power = std::pow(miss, gamma);
      const T relative = miss > T(0) ? change / miss : T(0);  // 0 where the power of the miss is
      value = cross_entropy * power * weight;
      gradient = power * ((s.p - target) + gamma * cross_entropy * relative) * weight;
    }
  }
};

// Which tokens count: (B, T) of any dtype and layout, larger than 0 for those that do; all of them without data.
struct TextMask {
  const void* data = nullptr;
  ScalarType dtype = ScalarType::Bool;
  int64_t batch_stride = 0, token_stride = 0;

  explicit TextMask(const std::optional<Tensor>& mask) {
    if (!mask.has_value()) return;
    data = mask->const_data_ptr();
    dtype = mask->scalar_type();
    batch_stride = mask->stride(0);
    token_stride = mask->stride(1);
  }

  GLIP_HOST_DEVICE bool counts(int64_t batch, int64_t token) const {
    if (data == nullptr) return true;
    const int64_t index = batch * batch_stride + token * token_stride;
    switch (dtype) {
      case ScalarType::Bool:
      case ScalarType::Byte:
        return static_cast<const uint8_t*>(data)[index] > 0;
      case ScalarType::Int:
        return static_cast<const int32_t*>(data)[index] > 0;
      case ScalarType::Long:
        return static_cast<const int64_t*>(data)[index] > 0;
      case ScalarType::Double:
        return static_cast<const double*>(data)[index] > 0;
      case ScalarType::Half:
        return static_cast<float>(static_cast<const Half*>(data)[index]) > 0;
      case ScalarType::BFloat16:
        return static_cast<float>(static_cast<const BFloat16*>(data)[index]) > 0;
      default:
        return static_cast<const float*>(data)[index] > 0;
    }
  }
};

// Where the number (batch, location, token) of a tensor of any layout is.
template <typename T>
struct View3d {
  T* data;
  int64_t batch_stride, row_stride, token_stride;

  explicit View3d(const Tensor& tensor)
      : data(static_cast<T*>(const_cast<void*>(tensor.const_data_ptr()))),
        batch_stride(tensor.stride(0)),
        row_stride(tensor.stride(1)),
        token_stride(tensor.stride(2)) {}

  GLIP_HOST_DEVICE T* at(int64_t batch, int64_t row, int64_t token) const {
    return data + batch * batch_stride + row * row_stride + token * token_stride;
  }
};

inline void check_label_focal_loss(const Tensor& logits, const Tensor& labels) {
  check_dim(logits, "logits", 2, "(N, C)");
  check_floating(logits, "logits");
  check_shape(labels, "labels", {logits.size(0)});
  check_same_device(labels, "labels", logits, "logits");
  const auto dtype = labels.scalar_type();
  STD_TORCH_CHECK(
      dtype == ScalarType::Long || dtype == ScalarType::Int, "labels must be Long or Int, got ", dtype_text(dtype));
}

inline void check_token_focal_loss(
    const Tensor& logits,
    const Tensor& targets,
    const std::optional<Tensor>& text_mask) {
  check_dim(logits, "logits", 3, "(B, N, T)");
  check_floating(logits, "logits");
  check_shape(targets, "targets", {logits.size(0), logits.size(1), logits.size(2)});
  check_same_device(targets, "targets", logits, "logits");
  if (!text_mask.has_value()) return;
  check_shape(*text_mask, "text_mask", {logits.size(0), logits.size(2)});
  check_same_device(*text_mask, "text_mask", logits, "logits");
  const auto dtype = text_mask->scalar_type();
  STD_TORCH_CHECK(
      is_floating(dtype) || dtype == ScalarType::Bool || dtype == ScalarType::Byte || dtype == ScalarType::Int ||
          dtype == ScalarType::Long,
      "text_mask must be Bool, Byte, Int, Long or floating, got ",
      dtype_text(dtype));
}

// What the token loss returns, not yet computed: the sum and the gradient, contiguous, of the type they are summed in.
// Asks the allocator of the device directly: new_empty finds its way there by name, which takes longer than the rest.
template <size_t Dim>
Tensor empty_result(const Tensor& logits, const std::array<int64_t, Dim>& sizes) {
  std::array<int64_t, Dim> strides;
  int64_t stride = 1;
  for (size_t i = Dim; i-- > 0; stride *= sizes[i]) strides[i] = stride;
  int32_t device_type;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(logits.get(), &device_type));
  const bool is_double = logits.scalar_type() == ScalarType::Double;
  AtenTensorHandle result = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(
      Dim,
      sizes.data(),
      strides.data(),
      is_double ? aoti_torch_dtype_float64() : aoti_torch_dtype_float32(),
      device_type,
      logits.get_device_index(),
      &result));
  return Tensor(result);
}

// Targets of the dtype of the logits or of the type they are summed in, converted if they are neither.
inline Tensor loadable_targets(const Tensor& targets, const Tensor& logits) {
  const auto wide = accumulate_dtype(logits.scalar_type());
  const bool is_loadable = targets.scalar_type() == logits.scalar_type() || targets.scalar_type() == wide;
  return is_loadable ? targets : torch::stable::to(targets, wide);
}

// Calls body(tag of the logits' type, tag of the targets' type) for targets that loadable_targets returned.
template <typename Body>
void dispatch_token_focal_loss(const Tensor& logits, const Tensor& targets, Body&& body) {
  dispatch_floating(logits, "logits", [&](auto logit_tag) {
    using logit_t = typename decltype(logit_tag)::type;
    if (targets.scalar_type() == logits.scalar_type())
      body(logit_tag, logit_tag);
    else
      body(logit_tag, TypeTag<accumulate_t<logit_t>>{});
  });
}

}  // namespace glip
