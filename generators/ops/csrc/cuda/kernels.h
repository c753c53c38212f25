// The kernels themselves. HPD_... define those of one dtype, factors and filters, each by a name
// that generators/ops/kernels.py makes; kernels.cu is all of them, and NVRTC is asked for one.
#pragma once

#include "filtered.h"
#include "pointwise.h"
#include "resample.h"

namespace hpd {

// What the threads of a block do in a step, before they wait for each other.
struct Together {
  template <typename Step> __device__ void operator()(Step&& step) const {
    step(int(threadIdx.x), int(blockDim.x));
    __syncthreads();
  }
};

template <typename Tile, typename Plan, typename Tensors>
__device__ void run_tiles(const Plan& plan, const Tensors& tensors) {
  extern __shared__ float shared[];
  for (int64_t block = blockIdx.x; block < plan.blocks(); block += gridDim.x) {
    Tile(plan, tensors, block, shared).run(Together());
  }
}

__device__ inline int64_t own_first() { return int64_t(blockIdx.x) * blockDim.x + threadIdx.x; }
__device__ inline int64_t all_threads() { return int64_t(gridDim.x) * blockDim.x; }

template <typename T>
__device__ void bias_act(const BiasActPlan& plan, const T* grad, const T* x, const float* bias,
                         T* y, bool packed) {
  int64_t begin = 0;
  if (packed) {
    bias_act_packs(plan, reinterpret_cast<const Pack<T>*>(grad),
                   reinterpret_cast<const Pack<T>*>(x), bias, reinterpret_cast<Pack<T>*>(y),
                   own_first(), all_threads());
    begin = plan.count / Pack<T>::kSize * Pack<T>::kSize;
  }
  bias_act_values(plan, grad, x, bias, y, begin, own_first(), all_threads());
}

}  // namespace hpd

#define HPD_KERNEL extern "C" __global__ void __launch_bounds__(hpd::kThreads)

#define HPD_FILTERED(name, T, act, up, down, first, second, full)                               \
  HPD_KERNEL name(const hpd::FilteredPlan plan, const hpd::FilteredTensors tensors) {           \
    using namespace hpd;                                                                        \
    run_tiles<FilteredTile<T, Act::act, up, down, first, second, Full::full>>(plan, tensors);   \
  }

#define HPD_RESAMPLE(name, T, up, down)                                                         \
  HPD_KERNEL name(const hpd::ResamplePlan plan, const hpd::ResampleTensors tensors) {           \
    using namespace hpd;                                                                        \
    run_tiles<ResampleTile<T, up, down>>(plan, tensors);                                        \
  }

#define HPD_BIAS_ACT(name, T)                                                                   \
  HPD_KERNEL name(const hpd::BiasActPlan plan, const void* grad, const void* x,                 \
                  const float* bias, void* y, bool packed) {                                    \
    using namespace hpd;                                                                        \
    bias_act(plan, static_cast<const T*>(grad), static_cast<const T*>(x), bias,                 \
             static_cast<T*>(y), packed);                                                       \
  }

#define HPD_TOTALS(name, T)                                                                     \
  HPD_KERNEL name(const hpd::TotalsPlan plan, const float* tiles, const float* bias,            \
                  const float* before, const float* after, float* totals) {                     \
    using namespace hpd;                                                                        \
    add_totals<T>(plan, tiles, bias, before, after, totals, own_first(), all_threads());        \
  }

#define HPD_RAISED(name)                                                                        \
  HPD_KERNEL name(const hpd::RaisedPlan plan, float* values, uint8_t* record) {                 \
    hpd::act_on_raised(plan, values, record, hpd::own_first(), hpd::all_threads());             \
  }
