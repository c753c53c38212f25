// Runs of neighbouring values that one thread filters: what they share it loads once.
#pragma once

#include "plans.h"

namespace hpd {

HPD_HD inline int floor_to(int value, int step) {
  const int rest = value % step;
  return value - (rest < 0 ? rest + step : rest);
}

// Taps in registers, where their number is known.
template <typename Sum, int Count> struct Taps {
  Sum values[Count];

  HPD_HD Taps(const Sum* from, int stride = 1) {
#pragma unroll
    for (int i = 0; i < Count; ++i) values[i] = from[i * stride];
  }
  HPD_HD Sum operator[](int i) const { return values[i]; }
};

// A filter that raises the rate by `Up`: tap i meets a source where phase + i is a multiple of it.
// Add to sums[kRun * Up], of the positions that start at source `from`.
template <int Up, typename Sum, int Count>
HPD_HD void raise(const Sum* from, int stride, const Taps<Sum, Count>& taps, Sum* sums) {
  constexpr int kMost = (Count + Up - 1) / Up;
  Sum values[kRun + kMost];
#pragma unroll
  for (int j = 0; j < kRun + kMost; ++j) values[j] = from[j * stride];
#pragma unroll
  for (int m = 0; m < kRun * Up; ++m) {
    const int phase = m % Up, tap = (Up - phase) % Up, first = m / Up + (phase > 0 ? 1 : 0);
#pragma unroll
    for (int t = 0; t < kMost; ++t) {
      const int i = tap + t * Up;
      if (i < Count) sums[m] += taps[i < Count ? i : 0] * values[first + t];
    }
  }
}

// What position m gets of a row or column of sources, the first of which lies at position 0.
template <typename Sum>
HPD_HD Sum raised_at(int m, const Sum* from, int stride, const Sum* taps, int count, int up) {
  const int phase = m % up;
  from += (m / up + (phase > 0 ? 1 : 0)) * stride;
  Sum sum = 0;
  for (int i = (up - phase) % up; i < count; i += up, from += stride) sum += taps[i] * *from;
  return sum;
}

// A filter of which every `Down`-th value is kept: add to sums[kRun], the first of which has its
// window at `from`.
template <int Down, typename Sum, int Count>
HPD_HD void lower(const Sum* from, int stride, const Taps<Sum, Count>& taps, Sum* sums) {
#pragma unroll
  for (int m = 0; m < (kRun - 1) * Down + Count; ++m) {
    const Sum value = from[m * stride];
#pragma unroll
    for (int o = 0; o < kRun; ++o) {
      const int i = m - o * Down;
      if (i >= 0 && i < Count) sums[o] += taps[i >= 0 && i < Count ? i : 0] * value;
    }
  }
}

// The value whose window is at `from`.
template <typename Sum>
HPD_HD Sum lowered_at(const Sum* from, int stride, const Sum* taps, int tap_stride, int count) {
  Sum sum = 0;
  for (int i = 0; i < count; ++i) sum += taps[i * tap_stride] * from[i * stride];
  return sum;
}

}  // namespace hpd
