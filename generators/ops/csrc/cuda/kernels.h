// The kernels themselves, as nvcc compiles them for the launchers, or NVRTC where there is no nvcc.
#pragma once

#include "pointwise.h"
#include "resample.h"

namespace hpd {

template <typename T, Act act, int Up, int Down, int FirstTaps, int SecondTaps>
__global__ void __launch_bounds__(kThreads)
    filtered_kernel(const FilteredPlan plan, const FilteredTensors t) {
  extern __shared__ float shared[];
  for (int64_t block = blockIdx.x; block < plan.blocks(); block += gridDim.x) {
    FilteredTile<T, act, Up, Down, FirstTaps, SecondTaps> tile(
        plan, static_cast<const T*>(t.in), t.bias, t.first, t.second, t.record,
        static_cast<T*>(t.out), block, shared);
    tile.run([](auto step) {
      step(int(threadIdx.x), int(blockDim.x));
      __syncthreads();
    });
  }
}

template <typename T, int Up, int Down>
__global__ void __launch_bounds__(kThreads)
    resample_kernel(const ResamplePlan plan, const T* in, const float* kernel, T* out) {
  extern __shared__ float shared[];
  for (int64_t block = blockIdx.x; block < plan.blocks(); block += gridDim.x) {
    ResampleTile<T, Up, Down> tile(plan, in, kernel, out, block, shared);
    tile.run([](auto step) {
      step(int(threadIdx.x), int(blockDim.x));
      __syncthreads();
    });
  }
}

__device__ inline int64_t own_first() { return int64_t(blockIdx.x) * blockDim.x + threadIdx.x; }
__device__ inline int64_t all_threads() { return int64_t(gridDim.x) * blockDim.x; }

template <typename T>
__global__ void __launch_bounds__(kThreads)
    bias_act_kernel(const BiasActPlan plan, const T* grad, const T* x, const float* bias, T* y,
                    bool packed) {
  int64_t begin = 0;
  if (packed) {
    bias_act_packs(plan, reinterpret_cast<const Pack<T>*>(grad),
                   reinterpret_cast<const Pack<T>*>(x), bias, reinterpret_cast<Pack<T>*>(y),
                   own_first(), all_threads());
    begin = plan.count / Pack<T>::kSize * Pack<T>::kSize;
  }
  bias_act_values(plan, grad, x, bias, y, begin, own_first(), all_threads());
}

template <int = 0>
__global__ void __launch_bounds__(kThreads)
    raised_kernel(const RaisedPlan plan, float* values, uint8_t* record) {
  act_on_raised(plan, values, record, own_first(), all_threads());
}

}  // namespace hpd
