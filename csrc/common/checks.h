// Checks of the arguments of an operator. Each names the argument and prints the offending value.
#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <cstdint>
#include <initializer_list>
#include <sstream>
#include <string>

namespace glip {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline std::string shape_text(const int64_t* begin, size_t count) {
  std::ostringstream text;
  text << "(";
  for (size_t i = 0; i < count; ++i) text << (i ? ", " : "") << begin[i];
  text << (count == 1 ? ",)" : ")");
  return text.str();
}

// The shape as Python prints it: "(2, 3)".
inline std::string shape_text(const Tensor& tensor) {
  return shape_text(tensor.sizes().data(), tensor.sizes().size());
}

inline std::string device_text(const Tensor& tensor) {
  if (tensor.is_cpu()) return "cpu";
  return (tensor.is_cuda() ? "cuda:" : "device ") + std::to_string(tensor.get_device_index());
}

inline const char* dtype_text(ScalarType dtype) {
  return torch::headeronly::toString(dtype);
}

inline bool is_floating(ScalarType dtype) {
  return dtype == ScalarType::Double || dtype == ScalarType::Float || dtype == ScalarType::Half ||
      dtype == ScalarType::BFloat16;
}

// layout: what the axes are, like "(B, C, H, W)".
inline void check_dim(const Tensor& tensor, const char* name, int64_t dim, const char* layout) {
  STD_TORCH_CHECK(
      tensor.dim() == dim, name, " must have the shape ", layout, ", got ", shape_text(tensor));
}

inline void check_shape(const Tensor& tensor, const char* name, std::initializer_list<int64_t> expected) {
  bool is_equal = tensor.dim() == static_cast<int64_t>(expected.size());
  for (size_t i = 0; is_equal && i < expected.size(); ++i)
    is_equal = tensor.size(static_cast<int64_t>(i)) == expected.begin()[i];
  STD_TORCH_CHECK(
      is_equal,
      name,
      " must have the shape ",
      shape_text(expected.begin(), expected.size()),
      ", got ",
      shape_text(tensor));
}

inline void check_floating(const Tensor& tensor, const char* name) {
  STD_TORCH_CHECK(
      is_floating(tensor.scalar_type()),
      name,
      " must be Float, Double, Half or BFloat16, got ",
      dtype_text(tensor.scalar_type()));
}

inline void check_same_dtype(
    const Tensor& tensor,
    const char* name,
    const Tensor& reference,
    const char* reference_name) {
  STD_TORCH_CHECK(
      tensor.scalar_type() == reference.scalar_type(),
      name,
      " must have the dtype of ",
      reference_name,
      ", ",
      dtype_text(reference.scalar_type()),
      ", got ",
      dtype_text(tensor.scalar_type()));
}

inline void check_same_device(
    const Tensor& tensor,
    const char* name,
    const Tensor& reference,
    const char* reference_name) {
  STD_TORCH_CHECK(
      tensor.is_cpu() == reference.is_cpu() && tensor.is_cuda() == reference.is_cuda() &&
          tensor.get_device_index() == reference.get_device_index(),
      name,
      " must be on the device of ",
      reference_name,
      ", ",
      device_text(reference),
      ", got ",
      device_text(tensor));
}

}  // namespace glip
