// Operations on single values, as each thread of a GPU does them. `first` to `last`, in steps of
// `stride`, are the items of one thread.
#pragma once

#include "plans.h"

namespace hpd {

HPD_HD inline float acted(const BiasActPlan& p, float x) {
  x *= x > 0 ? p.rising : p.falling;
  if (!p.clamped) return x;
  x = x > p.clamp ? p.clamp : x;
  return x < -p.clamp ? -p.clamp : x;
}

HPD_HD inline float slope_at(const BiasActPlan& p, float x, float grad) {
  const float factor = x > 0 ? p.rising : p.falling;
  if (!p.clamped) return grad * factor;
  if (!p.of_result) x *= factor;
  return x > -p.clamp && x < p.clamp ? grad * factor : 0.f;
}

// The bias of value after value. Where the first of them lies is found out by two products in
// place of divisions; the next ones are counted on.
struct Biases {
  const BiasActPlan& p;
  const float* bias;
  uint64_t left, channel;  // left: of the values of this channel, before the next one comes

  HPD_HD Biases(const BiasActPlan& plan, const float* bias, int64_t value) : p(plan), bias(bias) {
    if (!bias) return;
    const uint64_t plane = p.by_inner.quotient(value);
    channel = plane - p.by_channels.quotient(plane) * p.by_channels.divisor;
    left = (plane + 1) * p.by_inner.divisor - value;
  }

  HPD_HD float next(float x) {
    if (!bias) return x;
    x += bias[channel];
    if (--left == 0) {
      left = p.by_inner.divisor;
      channel = channel + 1 < p.by_channels.divisor ? channel + 1 : 0;
    }
    return x;
  }
};

// Values that a thread moves at once: 16 bytes.
template <typename T> struct alignas(16) Pack {
  static constexpr int kSize = 16 / sizeof(T);
  T values[kSize];
};

// Item i is pack i. `grad` is null for the activation, else its derivative is taken.
template <typename T>
HPD_HD void bias_act_packs(const BiasActPlan& p, const Pack<T>* grad, const Pack<T>* x,
                           const float* bias, Pack<T>* y, int64_t first, int64_t stride) {
  constexpr int kSize = Pack<T>::kSize;
  // not unrolled: for that the compiler would divide, to learn how often
#pragma unroll 1
  for (int64_t i = first; i < p.count / kSize; i += stride) {
    const Pack<T> from = x[i];
    Pack<T> to = grad ? grad[i] : from;
    Biases biases(p, bias, i * kSize);
#pragma unroll
    for (int k = 0; k < kSize; ++k) {
      const float value = biases.next(widen(from.values[k]));
      narrow(grad ? slope_at(p, value, widen(to.values[k])) : acted(p, value), to.values + k);
    }
    y[i] = to;
  }
}

// Item i is value i, from `begin` on.
template <typename T>
HPD_HD void bias_act_values(const BiasActPlan& p, const T* grad, const T* x, const float* bias,
                            T* y, int64_t begin, int64_t first, int64_t stride) {
#pragma unroll 1
  for (int64_t i = begin + first; i < p.count; i += stride) {
    const float value = Biases(p, bias, i).next(widen(x[i]));
    narrow(grad ? slope_at(p, value, widen(grad[i])) : acted(p, value), y + i);
  }
}

// Item i is a byte of the record, four values of a row.
HPD_HD inline void act_on_raised(const RaisedPlan& p, float* values, uint8_t* record,
                                 int64_t first, int64_t stride) {
  const int bytes = (p.width + 3) / 4;
  for (int64_t i = first; i < p.items(); i += stride) {
    const int64_t row = i / bytes;
    const int x = int(i - row * bytes) * 4;
    int bits = p.act == Act::kDerivative ? record[i] : 0;
    for (int k = 0; k < 4 && x + k < p.width; ++k) {
      float* value = values + row * p.width + x + k;
      float v = *value;
      if (p.act == Act::kDerivative) {
        const int own = bits >> 2 * k;
        v = own & 2 ? v * p.gain * (own & 1 ? 1.f : p.slope) : 0.f;
      } else {
        const bool positive = v > 0;
        v = (positive ? v : v * p.slope) * p.gain;
        const bool kept = !p.clamped || (v > -p.clamp && v < p.clamp);
        bits |= (positive ? 1 : 0) << 2 * k | (kept ? 2 : 0) << 2 * k;
        if (p.clamped) v = v > p.clamp ? p.clamp : v < -p.clamp ? -p.clamp : v;
      }
      *value = v;
    }
    if (p.act == Act::kRecord) record[i] = uint8_t(bits);
  }
}

// Item i is a plane. With q = U^T M D^T g, the derivative before its scales, the tiles told the
// sums over the plane of q, of q x, and of what clamped values got of g times the clamp: s0, s1,
// s2. As leaky ReLU is linear where the record tells the slopes, the result before its own scale
// sums to b s1 + bias s0 + s2 against g, so that it need not be there:
// [3, planes] are a s0, a s1 and b s1 + bias s0 + s2 with the scales b before and a after.
template <typename T, typename Sum = typename SumOf<T>::Type>
HPD_HD void add_totals(const TotalsPlan& p, const Sum* tiles, const Sum* bias, const Sum* before,
                       const Sum* after, Sum* totals, int64_t first, int64_t stride) {
  for (int64_t i = first; i < p.planes; i += stride) {
    Sum sums[3] = {0, 0, 0};
    for (int64_t tile = 0; tile < p.tiles; ++tile) {
      for (int k = 0; k < 3; ++k) sums[k] += tiles[(i * p.tiles + tile) * 3 + k];
    }
    const Sum a = after ? rounded<T>(after[i]) : Sum(1);
    const Sum b = before ? rounded<T>(before[i]) : Sum(1);
    const Sum offset = bias ? rounded<T>(bias[i % p.channels]) : Sum(0);
    totals[i] = a * sums[0];
    totals[p.planes + i] = a * sums[1];
    totals[2 * p.planes + i] = b * sums[1] + offset * sums[0] + sums[2];
  }
}

}  // namespace hpd
