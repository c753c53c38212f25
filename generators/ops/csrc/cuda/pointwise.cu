// Launches upfirdn2d, bias with activation, and the activation of raised planes.
#include "kernels.h"
#include "launch.h"

namespace hpd {
namespace {

template <typename T, int Up, int Down>
cudaError_t resample(const ResamplePlan& p, const void* in, const float* kernel, void* out,
                     cudaStream_t stream) {
  const size_t bytes = size_t(p.shared_floats()) * sizeof(float);
  resample_kernel<T, Up, Down><<<grid_of(p.blocks()), kThreads, bytes, stream>>>(
      p, static_cast<const T*>(in), kernel, static_cast<T*>(out));
  return cudaGetLastError();
}

template <typename T>
cudaError_t by_factors(const ResamplePlan& p, const void* in, const float* kernel, void* out,
                       cudaStream_t stream) {
  if (p.up == 1 && p.down == 1) return resample<T, 1, 1>(p, in, kernel, out, stream);
  if (p.up == 2 && p.down == 1) return resample<T, 2, 1>(p, in, kernel, out, stream);
  if (p.up == 1 && p.down == 2) return resample<T, 1, 2>(p, in, kernel, out, stream);
  return resample<T, 0, 0>(p, in, kernel, out, stream);
}

template <typename T>
cudaError_t bias_act(const BiasActPlan& p, const void* grad, const void* x, const float* bias,
                     void* y, cudaStream_t stream) {
  const uintptr_t places = reinterpret_cast<uintptr_t>(grad) | reinterpret_cast<uintptr_t>(x) |
                           reinterpret_cast<uintptr_t>(y);
  const int64_t items = p.count / Pack<T>::kSize + Pack<T>::kSize;
  bias_act_kernel<T><<<grid_of((items + kThreads - 1) / kThreads), kThreads, 0, stream>>>(
      p, static_cast<const T*>(grad), static_cast<const T*>(x), bias, static_cast<T*>(y),
      places % sizeof(Pack<T>) == 0);
  return cudaGetLastError();
}

}  // namespace

cudaError_t launch_resample(const ResamplePlan& plan, DType dtype, const void* in,
                            const float* kernel, void* out, cudaStream_t stream) {
  if (plan.blocks() == 0) return cudaSuccess;
  switch (dtype) {
    case DType::kFloat: return by_factors<float>(plan, in, kernel, out, stream);
    case DType::kHalf: return by_factors<Half>(plan, in, kernel, out, stream);
    default: return by_factors<BFloat16>(plan, in, kernel, out, stream);
  }
}

cudaError_t launch_bias_act(const BiasActPlan& plan, DType dtype, const void* grad, const void* x,
                            const float* bias, void* y, cudaStream_t stream) {
  if (plan.count == 0) return cudaSuccess;
  switch (dtype) {
    case DType::kFloat: return bias_act<float>(plan, grad, x, bias, y, stream);
    case DType::kHalf: return bias_act<Half>(plan, grad, x, bias, y, stream);
    default: return bias_act<BFloat16>(plan, grad, x, bias, y, stream);
  }
}

cudaError_t launch_raised(const RaisedPlan& plan, float* values, uint8_t* record,
                          cudaStream_t stream) {
  if (plan.items() == 0) return cudaSuccess;
  const int64_t blocks = (plan.items() + kThreads - 1) / kThreads;
  raised_kernel<0><<<grid_of(blocks), kThreads, 0, stream>>>(plan, values, record);
  return cudaGetLastError();
}

}  // namespace hpd
