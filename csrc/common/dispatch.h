// From the dtype of a tensor to a C++ type, and the type that sums of it are held in.
#pragma once

#include "checks.h"

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#ifdef __CUDACC__
#define GLIP_HOST_DEVICE __host__ __device__
#else
#define GLIP_HOST_DEVICE
#endif

namespace glip {

using BFloat16 = torch::headeronly::BFloat16;
using Half = torch::headeronly::Half;

// float for float and the 16-bit types, double for double.
template <typename T>
struct AccumulateType {
  using type = float;
};
template <>
struct AccumulateType<double> {
  using type = double;
};
template <typename T>
using accumulate_t = typename AccumulateType<T>::type;

// The dtype of results that are never of 16 bits.
inline ScalarType accumulate_dtype(ScalarType dtype) {
  return dtype == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

// Stands for a type in the arguments of a generic lambda: `using scalar_t = typename decltype(tag)::type;`
template <typename T>
struct TypeTag {
  using type = T;
};

// Calls body(TypeTag<T>) with the type of a floating dtype; name is the tensor's, for the message.
template <typename Body>
void dispatch_floating(const Tensor& tensor, const char* name, Body&& body) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float:
      return body(TypeTag<float>{});
    case ScalarType::Double:
      return body(TypeTag<double>{});
    case ScalarType::Half:
      return body(TypeTag<Half>{});
    case ScalarType::BFloat16:
      return body(TypeTag<BFloat16>{});
    default:
      check_floating(tensor, name);
  }
}

}  // namespace glip
