// Launches filtered leaky ReLU: kernels for the factors and filters of alias-free generators, and
// one for all others.
#include "kernels.h"
#include "launch.h"

namespace hpd {
namespace {

template <typename T, Act act, int Up, int Down, int FirstTaps, int SecondTaps>
cudaError_t start(const FilteredPlan& plan, const FilteredTensors& t, cudaStream_t stream) {
  const size_t bytes = size_t(plan.shared_floats()) * sizeof(float);
  filtered_kernel<T, act, Up, Down, FirstTaps, SecondTaps>
      <<<grid_of(plan.blocks()), kThreads, bytes, stream>>>(plan, t);
  return cudaGetLastError();
}

template <typename T, Act act>
cudaError_t by_filters(const FilteredPlan& p, const FilteredTensors& t, cudaStream_t stream) {
  const auto is = [&](int up, int down, int first, int second) {
    return p.up == up && p.down == down && p.first_taps == first && p.second_taps == second;
  };
  if (is(2, 2, 12, 12)) return start<T, act, 2, 2, 12, 12>(p, t, stream);
  if (is(4, 2, 24, 12)) return start<T, act, 4, 2, 24, 12>(p, t, stream);
  if (is(2, 4, 12, 24)) return start<T, act, 2, 4, 12, 24>(p, t, stream);
  return start<T, act, 0, 0, 0, 0>(p, t, stream);
}

template <typename T>
cudaError_t by_act(const FilteredPlan& p, Act act, const FilteredTensors& t, cudaStream_t stream) {
  switch (act) {
    case Act::kActivate: return by_filters<T, Act::kActivate>(p, t, stream);
    case Act::kRecord: return by_filters<T, Act::kRecord>(p, t, stream);
    default: return by_filters<T, Act::kDerivative>(p, t, stream);
  }
}

}  // namespace

cudaError_t launch_filtered(const FilteredPlan& plan, Act act, DType dtype,
                            const FilteredTensors& tensors, cudaStream_t stream) {
  if (plan.blocks() == 0) return cudaSuccess;
  switch (dtype) {
    case DType::kFloat: return by_act<float>(plan, act, tensors, stream);
    case DType::kHalf: return by_act<Half>(plan, act, tensors, stream);
    default: return by_act<BFloat16>(plan, act, tensors, stream);
  }
}

}  // namespace hpd
