#include "../common/focal_loss.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <tuple>
#include <vector>

namespace glip {
namespace {

constexpr int64_t kGrain = 4096;  // logits that are worth a thread

// Calls body(begin, end) for ranges of rows of `columns` logits each.
template <typename Body>
void for_rows(int64_t rows, int64_t columns, const Body& body) {
  torch::stable::parallel_for(0, rows, std::max<int64_t>(1, kGrain / std::max<int64_t>(1, columns)), body);
}

// out[i] = formula(i, logit, is_target) of the logits whose label is not negative, 0 elsewhere.
template <typename T, typename Out, typename Formula>
void fill_labelled(const Tensor& logits, const Tensor& labels, Tensor& out, const Formula& formula) {
  const auto* logit = logits.const_data_ptr<T>();
  const auto* label = labels.const_data_ptr<int64_t>();
  auto* result = out.mutable_data_ptr<Out>();
  const int64_t columns = logits.size(1);
  for_rows(logits.size(0), columns, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row)
      for (int64_t column = 0; column < columns; ++column) {
        const int64_t i = row * columns + column;
        result[i] = label[row] < 0
            ? Out(0)
            : static_cast<Out>(formula(i, static_cast<accumulate_t<T>>(logit[i]), label[row] == column + 1));
      }
  });
}

Tensor label_forward(const Tensor& logits, const Tensor& labels, double gamma, double alpha) {
  check_label_focal_loss(logits, labels);
  const auto x = torch::stable::contiguous(logits);
  const auto y = torch::stable::contiguous(torch::stable::to(labels, ScalarType::Long));
  auto loss = torch::stable::new_empty(x, x.sizes(), accumulate_dtype(x.scalar_type()));
  dispatch_floating(x, "logits", [&](auto tag) {
    using T = typename decltype(tag)::type;
    using A = accumulate_t<T>;
    fill_labelled<T, A>(x, y, loss, [&](int64_t, A logit, bool is_target) {
      return label_focal_loss<A>(logit, is_target, A(gamma), A(alpha));
    });
  });
  return loss;
}

Tensor label_backward(const Tensor& grad, const Tensor& logits, const Tensor& labels, double gamma, double alpha) {
  check_label_focal_loss(logits, labels);
  check_shape(grad, "grad", {logits.size(0), logits.size(1)});
  check_same_device(grad, "grad", logits, "logits");
  const auto x = torch::stable::contiguous(logits);
  const auto y = torch::stable::contiguous(torch::stable::to(labels, ScalarType::Long));
  const auto g = torch::stable::contiguous(torch::stable::to(grad, accumulate_dtype(x.scalar_type())));
  auto result = torch::stable::empty_like(x);
  dispatch_floating(x, "logits", [&](auto tag) {
    using T = typename decltype(tag)::type;
    using A = accumulate_t<T>;
    const auto* scale = g.template const_data_ptr<A>();
    fill_labelled<T, T>(x, y, result, [&](int64_t i, A logit, bool is_target) {
      return scale[i] * label_focal_gradient<A>(logit, is_target, A(gamma), A(alpha));
    });
  });
  return result;
}

// The sum of the losses and, unless it is null, the gradient: contiguous, of the dtype of the sum.
Tensor token_loss(
    const Tensor& logits,
    const Tensor& targets,
    const std::optional<Tensor>& text_mask,
    double alpha,
    double gamma,
    Tensor* gradient) {
  const auto y = loadable_targets(targets, logits);
  const TextMask mask(text_mask);
  const int64_t locations = logits.size(1), tokens = logits.size(2), rows = logits.size(0) * locations;
  auto loss = empty_result<0>(logits, {});
  dispatch_token_focal_loss(logits, y, [&](auto logit_tag, auto target_tag) {
    using A = accumulate_t<typename decltype(logit_tag)::type>;
    const View3d<const typename decltype(logit_tag)::type> x_view(logits);
    const View3d<const typename decltype(target_tag)::type> y_view(y);
    A* slopes = gradient == nullptr ? nullptr : gradient->template mutable_data_ptr<A>();
    std::vector<double> sums(rows);  // added in one order, whatever the number of threads
    for_rows(rows, tokens, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        const int64_t batch = row / locations, location = row % locations;
        for (int64_t token = 0; token < tokens; ++token) {
          const bool counts = mask.counts(batch, token);
          if (!counts && slopes != nullptr) slopes[row * tokens + token] = A(0);
          if (!counts) continue;
          const TokenFocalLoss<A> focal(
              static_cast<A>(*x_view.at(batch, location, token)),
              static_cast<A>(*y_view.at(batch, location, token)),
              A(alpha),
              A(gamma));
          sums[row] += focal.value;
          if (slopes != nullptr) slopes[row * tokens + token] = focal.gradient;
        }
      }
    });
    double sum = 0;
    for (const double row_sum : sums) sum += row_sum;
    *loss.template mutable_data_ptr<A>() = static_cast<A>(sum);
  });
  return loss;
}

Tensor token_forward(
    const Tensor& logits,
    const Tensor& targets,
    std::optional<Tensor> text_mask,
    double alpha,
    double gamma) {
  check_token_focal_loss(logits, targets, text_mask);
  return token_loss(logits, targets, text_mask, alpha, gamma, nullptr);
}

std::tuple<Tensor, Tensor> token_forward_with_gradient(
    const Tensor& logits,
    const Tensor& targets,
    std::optional<Tensor> text_mask,
    double alpha,
    double gamma) {
  check_token_focal_loss(logits, targets, text_mask);
  auto gradient = empty_result<3>(logits, {logits.size(0), logits.size(1), logits.size(2)});
  auto loss = token_loss(logits, targets, text_mask, alpha, gamma, &gradient);
  return {loss, gradient};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(maskrcnn_benchmark, CPU, m) {
  m.impl("sigmoid_focal_loss", TORCH_BOX(&label_forward));
  m.impl("_sigmoid_focal_loss_backward", TORCH_BOX(&label_backward));
  m.impl("token_sigmoid_focal_loss", TORCH_BOX(&token_forward));
  m.impl("_token_sigmoid_focal_loss_with_gradient", TORCH_BOX(&token_forward_with_gradient));
}

}  // namespace glip
