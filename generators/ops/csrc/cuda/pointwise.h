// Operations on single values, as each thread of a GPU does them. `first` to `last`, in steps of
// `stride`, are the items of one thread.
#pragma once

#include "filtered.h"

namespace hpd {

// y = clamp(x * (x > 0 ? rising : falling)) of x plus the bias of channel (i / inner) % channels.
struct BiasActPlan {
  int64_t count, inner, channels;
  float rising, falling, clamp;
  bool clamped, of_result;

  HPD_HD float with_bias(float x, const float* bias, int64_t i) const {
    if (!bias) return x;
    // 64 bits take a GPU several times as long to divide
    if (count > INT32_MAX) return x + bias[i / inner % channels];
    return x + bias[uint32_t(i) / uint32_t(inner) % uint32_t(channels)];
  }
  HPD_HD float act(float x) const {
    x *= x > 0 ? rising : falling;
    if (!clamped) return x;
    x = x > clamp ? clamp : x;
    return x < -clamp ? -clamp : x;
  }
  HPD_HD float slope_at(float x, float grad) const {
    const float factor = x > 0 ? rising : falling;
    if (!clamped) return grad * factor;
    if (!of_result) x *= factor;
    return x > -clamp && x < clamp ? grad * factor : 0.f;
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
  for (int64_t i = first; i < p.count / kSize; i += stride) {
    const Pack<T> from = x[i];
    Pack<T> to = grad ? grad[i] : from;
#pragma unroll
    for (int k = 0; k < kSize; ++k) {
      const float value = p.with_bias(widen(from.values[k]), bias, i * kSize + k);
      narrow(grad ? p.slope_at(value, widen(to.values[k])) : p.act(value), to.values + k);
    }
    y[i] = to;
  }
}

// Item i is value i, from `begin` on.
template <typename T>
HPD_HD void bias_act_values(const BiasActPlan& p, const T* grad, const T* x, const float* bias,
                            T* y, int64_t begin, int64_t first, int64_t stride) {
  for (int64_t i = begin + first; i < p.count; i += stride) {
    const float value = p.with_bias(widen(x[i]), bias, i);
    narrow(grad ? p.slope_at(value, widen(grad[i])) : p.act(value), y + i);
  }
}

// Act on raised planes [planes, height, width] in memory, where no tile holds them: item i is a
// byte of the record, four values of a row.
struct RaisedPlan {
  int64_t planes;
  int height, width;
  float gain, slope, clamp;
  bool clamped;
  Act act;

  HPD_HD int64_t items() const { return planes * height * ((width + 3) / 4); }
};

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

}  // namespace hpd
