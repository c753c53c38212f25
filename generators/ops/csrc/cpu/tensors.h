// Between torch's tensors and the kernels: views, taps, results, and the choice by dtype.
#pragma once

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <c10/util/Exception.h>
#include <torch/library.h>

#include <optional>
#include <vector>

#include "fir.h"

namespace hpd {

template <typename T> Planes<T> planes_of(const at::Tensor& x) {
  using Plain = std::remove_const_t<T>;
  return {static_cast<Plain*>(x.data_ptr()), x.size(0), x.size(1), x.size(2), x.size(3),
          x.stride(0), x.stride(1), x.stride(2), x.stride(3)};
}

inline std::vector<double> numbers_of(const at::Tensor& values) {
  const at::Tensor dense = values.to(at::kDouble).contiguous();
  const double* data = dense.const_data_ptr<double>();
  return {data, data + dense.numel()};
}

// A kernel [k] (its outer product with itself) or [kh, kw], reversed for a true convolution.
inline Taps taps_of(const at::Tensor& kernel, bool flip) {
  TORCH_CHECK((kernel.dim() == 1 || kernel.dim() == 2) && kernel.numel() > 0,
              "a filter is [k] or [k, k] and not empty, got ", kernel.sizes());
  std::vector<double> values = numbers_of(kernel);
  if (flip) std::reverse(values.begin(), values.end());
  if (kernel.dim() == 1) return {values, values, {}, kernel.size(0), kernel.size(0)};
  return {{}, {}, values, kernel.size(0), kernel.size(1)};
}

// channels-last for x that is so and nothing else, as the fake kernels say too
inline at::MemoryFormat format_of(const at::Tensor& x) {
  const bool last = x.dim() == 4 && x.is_contiguous(at::MemoryFormat::ChannelsLast) && !x.is_contiguous();
  return last ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous;
}

inline at::Tensor empty_like_of(const at::Tensor& x, int64_t height, int64_t width) {
  return at::empty({x.size(0), x.size(1), height, width}, x.options(), format_of(x));
}

// Call with a value of the storage type and one of the type of sums.
template <typename F> void by_dtype(const at::Tensor& x, const char* name, F&& call) {
  switch (x.scalar_type()) {
    case at::kFloat: return call(float{}, float{});
    case at::kDouble: return call(double{}, double{});
    case at::kHalf: return call(Half{}, float{});
    case at::kBFloat16: return call(BFloat16{}, float{});
    default: TORCH_CHECK(false, name, ": no kernel for ", x.scalar_type());
  }
}

inline at::ScalarType sum_type(const at::Tensor& x) {
  return x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

}  // namespace hpd
