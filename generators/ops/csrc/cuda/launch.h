// What the kernels offer to the bindings. Each call runs on a stream and returns what CUDA said.
#pragma once

#include <cuda_runtime_api.h>

#include "pointwise.h"
#include "resample.h"

namespace hpd {

enum class DType { kFloat, kHalf, kBFloat16 };

cudaError_t launch_filtered(const FilteredPlan& plan, Act act, DType dtype,
                            const FilteredTensors& tensors, cudaStream_t stream);
cudaError_t launch_resample(const ResamplePlan& plan, DType dtype, const void* in,
                            const float* kernel, void* out, cudaStream_t stream);
// grad: null for the activation, else for its derivative
cudaError_t launch_bias_act(const BiasActPlan& plan, DType dtype, const void* grad, const void* x,
                            const float* bias, void* y, cudaStream_t stream);
cudaError_t launch_raised(const RaisedPlan& plan, float* values, uint8_t* record,
                          cudaStream_t stream);

// Blocks of a grid; kernels loop, so fewer are right, too.
inline unsigned grid_of(int64_t blocks) {
  constexpr int64_t kMost = 1 << 30;
  return unsigned(blocks < kMost ? blocks : kMost);
}

}  // namespace hpd
