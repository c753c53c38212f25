// Runs the kernels of csrc/cuda on the host: the same headers, with threads one after the other.
//
// Steps between which a GPU's threads wait for each other are run for all threads in turn, first
// to last or last to first: if that changes anything, threads of one step depend on each other.
// Shared memory starts as NaN in every block, between margins that nothing may touch.
#include <cmath>
#include <limits>
#include <vector>

#include "cuda/pointwise.h"
#include "cuda/resample.h"

namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr int kMargin = 4096;

struct Threads {
  int count;
  bool backwards;

  template <typename Step> void operator()(Step&& step) const {
    for (int i = 0; i < count; ++i) step(backwards ? count - 1 - i : i, count);
  }
};

// Call each(block, shared memory) for all blocks; false if a margin was written to.
template <typename Each> bool for_all_blocks(int64_t blocks, int floats, const Each& each) {
  std::vector<float> memory(floats + 2 * kMargin);
  for (int64_t block = 0; block < blocks; ++block) {
    std::fill(memory.begin(), memory.end(), kNan);
    each(block, memory.data() + kMargin);
    for (int i = 0; i < kMargin; ++i) {
      if (!std::isnan(memory[i]) || !std::isnan(memory[memory.size() - 1 - i])) return false;
    }
  }
  return true;
}

struct Call {
  hpd::FilteredPlan plan;
  const float *bias, *first, *second;
  uint8_t* record;
  Threads threads;
};

template <typename T, hpd::Act act, int Up, int Down, int FirstTaps, int SecondTaps>
bool filtered(const Call& c, const void* in, void* out) {
  return for_all_blocks(c.plan.blocks(), c.plan.shared_floats(), [&](int64_t block, float* shared) {
    hpd::FilteredTile<T, act, Up, Down, FirstTaps, SecondTaps> tile(
        c.plan, static_cast<const T*>(in), c.bias, c.first, c.second, c.record,
        static_cast<T*>(out), block, shared);
    tile.run(c.threads);
  });
}

template <typename T, hpd::Act act> bool by_filters(const Call& c, const void* in, void* out) {
  const hpd::FilteredPlan& p = c.plan;
  const auto is = [&](int up, int down, int first, int second) {
    return p.up == up && p.down == down && p.first_taps == first && p.second_taps == second;
  };
  if (is(2, 2, 12, 12)) return filtered<T, act, 2, 2, 12, 12>(c, in, out);
  if (is(4, 2, 24, 12)) return filtered<T, act, 4, 2, 24, 12>(c, in, out);
  if (is(2, 4, 12, 24)) return filtered<T, act, 2, 4, 12, 24>(c, in, out);
  return filtered<T, act, 0, 0, 0, 0>(c, in, out);
}

template <typename T> bool by_act(const Call& c, hpd::Act act, const void* in, void* out) {
  switch (act) {
    case hpd::Act::kActivate: return by_filters<T, hpd::Act::kActivate>(c, in, out);
    case hpd::Act::kRecord: return by_filters<T, hpd::Act::kRecord>(c, in, out);
    default: return by_filters<T, hpd::Act::kDerivative>(c, in, out);
  }
}

template <typename T, int Up, int Down>
bool resampled(const hpd::ResamplePlan& p, const Threads& threads, const void* in,
               const float* kernel, void* out) {
  return for_all_blocks(p.blocks(), p.shared_floats(), [&](int64_t block, float* shared) {
    hpd::ResampleTile<T, Up, Down> tile(p, static_cast<const T*>(in), kernel,
                                        static_cast<T*>(out), block, shared);
    tile.run(threads);
  });
}

}  // namespace

extern "C" {

// ints: planes, channels, in, raised, out, up, down, taps, pad, offset (pairs are y, x), flip,
// clamped, dtype (0 float32, 1 float16, 2 bfloat16), act, threads, backwards. Returns 0 if all is
// well, 1 if the tile does not fit, 2 if something was written outside of shared memory.
int emulate_filtered(const int* v, const float* forms, const void* in, const float* bias,
                     const float* first, const float* second, uint8_t* record, void* out) {
  Call c{{v[0], v[1], {v[2], v[3]}, {v[4], v[5]}, {v[6], v[7]}, v[8], v[9], v[10], v[11],
          {v[12], v[13]}, {v[14], v[15]}, v[16] != 0, forms[0], forms[1], forms[2], v[17] != 0,
          {}, {}, {}, {}, 0, 0, 0, 0},
         bias, first, second, record, {v[20], v[21] != 0}};
  if (!hpd::fit(c.plan)) return 1;
  const hpd::Act act = hpd::Act(v[19]);
  const bool well = v[18] == 0   ? by_act<float>(c, act, in, out)
                    : v[18] == 1 ? by_act<hpd::Half>(c, act, in, out)
                                 : by_act<hpd::BFloat16>(c, act, in, out);
  return well ? 0 : 2;
}

// The same from a plan as Python lays it out, with the tiles that it chose.
int emulate_filtered_plan(const hpd::FilteredPlan* plan, int dtype, int act, const void* in,
                          const float* bias, const float* first, const float* second,
                          uint8_t* record, void* out) {
  const Call c{*plan, bias, first, second, record, {64, false}};
  const bool well = dtype == 0   ? by_act<float>(c, hpd::Act(act), in, out)
                    : dtype == 1 ? by_act<hpd::Half>(c, hpd::Act(act), in, out)
                                 : by_act<hpd::BFloat16>(c, hpd::Act(act), in, out);
  return well ? 0 : 2;
}

int emulate_resample_plan(const hpd::ResamplePlan* plan, int dtype, const void* in,
                          const float* kernel, void* out) {
  const Threads threads{64, false};
  const bool well = dtype == 0   ? resampled<float, 0, 0>(*plan, threads, in, kernel, out)
                    : dtype == 1 ? resampled<hpd::Half, 0, 0>(*plan, threads, in, kernel, out)
                                 : resampled<hpd::BFloat16, 0, 0>(*plan, threads, in, kernel, out);
  return well ? 0 : 2;
}

void emulate_bias_act_plan(const hpd::BiasActPlan* plan, int dtype, const void* grad,
                           const void* x, const float* bias, void* y) {
  const auto run = [&](auto like) {
    using T = decltype(like);
    hpd::bias_act_values(*plan, static_cast<const T*>(grad), static_cast<const T*>(x), bias,
                         static_cast<T*>(y), 0, 0, 1);
  };
  if (dtype == 0) run(float{});
  if (dtype == 1) run(hpd::Half{});
  if (dtype == 2) run(hpd::BFloat16{});
}

void emulate_raised_plan(const hpd::RaisedPlan* plan, float* values, uint8_t* record) {
  hpd::act_on_raised(*plan, values, record, 0, 1);
}

// Sizes of the plans, and the tiles that C++ chooses, written into the plan that is given.
int plan_size(int which) {
  const int sizes[] = {sizeof(hpd::FilteredPlan), sizeof(hpd::ResamplePlan),
                       sizeof(hpd::BiasActPlan), sizeof(hpd::RaisedPlan)};
  return sizes[which];
}
int fit_filtered(hpd::FilteredPlan* plan) { return hpd::fit(*plan); }
int fit_resample(hpd::ResamplePlan* plan) { return hpd::fit(*plan); }

// ints: planes, in, out, taps, pad (pairs are y, x), up, down, separable, flip, threads, backwards.
int emulate_resample(const int* v, float gain, const float* in, const float* kernel, float* out) {
  hpd::ResamplePlan p{v[0], {v[1], v[2]}, {v[3], v[4]}, {v[5], v[6]}, {v[7], v[8]}, v[9], v[10],
                      v[11] != 0, v[12] != 0, gain, {}, {}, {}};
  if (!hpd::fit(p)) return 1;
  const Threads threads{v[13], v[14] != 0};
  bool well;
  if (p.up == 1 && p.down == 1) {
    well = resampled<float, 1, 1>(p, threads, in, kernel, out);
  } else if (p.up == 2 && p.down == 1) {
    well = resampled<float, 2, 1>(p, threads, in, kernel, out);
  } else if (p.up == 1 && p.down == 2) {
    well = resampled<float, 1, 2>(p, threads, in, kernel, out);
  } else {
    well = resampled<float, 0, 0>(p, threads, in, kernel, out);
  }
  return well ? 0 : 2;
}

// Half of the values as packs of four, as a grid of 5 threads would, and the rest one by one.
void emulate_bias_act(int64_t count, int64_t inner, int64_t channels, const float* forms,
                      int clamped, int of_result, const float* grad, const float* x,
                      const float* bias, float* y) {
  const hpd::BiasActPlan p{count, inner, channels, forms[0], forms[1], forms[2], clamped != 0,
                           of_result != 0};
  using Pack = hpd::Pack<float>;
  for (int i = 0; i < 5; ++i) {
    hpd::bias_act_packs(p, reinterpret_cast<const Pack*>(grad), reinterpret_cast<const Pack*>(x),
                        bias, reinterpret_cast<Pack*>(y), i, 5);
    hpd::bias_act_values(p, grad, x, bias, y, count / Pack::kSize * Pack::kSize, i, 5);
  }
}

void emulate_raised(int64_t planes, int height, int width, const float* forms, int clamped,
                    int act, float* values, uint8_t* record) {
  const hpd::RaisedPlan p{planes,   height,   width,        forms[0],
                          forms[1], forms[2], clamped != 0, hpd::Act(act)};
  for (int i = 0; i < 3; ++i) hpd::act_on_raised(p, values, record, i, 3);
}
}
