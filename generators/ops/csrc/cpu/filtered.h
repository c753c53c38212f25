// Upsample, act on every value, downsample: one pass over the planes, rows at a time, in scratch
// that fits the inner caches. The plane at the raised rate is never stored.
#pragma once

#include "fir.h"

namespace hpd {

// What is done at the raised rate: activate; activate and record which values were positive and
// which were not clamped; or multiply by the derivative that such a record gives.
enum class Act { kActivate, kRecord, kDerivative };

using Bits = std::conditional_t<kLanes == 8, uint8_t, uint16_t>;

template <typename A> struct Activation {
  A gain, slope, clamp;
  bool clamped;
};

inline Bits bits_of(Mask<float> mask) {
#if defined(__AVX512F__) && defined(__AVX512DQ__)
  return Bits(_mm512_movepi32_mask(__m512i(mask)));
#elif defined(__AVX__) && !defined(__AVX512F__)
  return Bits(_mm256_movemask_ps(__m256(mask)));
#else
  uint32_t bits = 0;
  for (int lane = 0; lane < kLanes; ++lane) bits |= uint32_t(mask[lane] & 1) << lane;
  return Bits(bits);
#endif
}

inline Bits bits_of(Mask<double> mask) {
  uint32_t bits = 0;
  for (int lane = 0; lane < kLanes; ++lane) bits |= uint32_t(mask[lane] & 1) << lane;
  return Bits(bits);
}

template <typename A> inline Mask<A> mask_of(Bits bits) {
  using Word = std::conditional_t<sizeof(A) == 4, int32_t, int64_t>;
  Mask<A> lane_bit;
  for (int lane = 0; lane < kLanes; ++lane) lane_bit[lane] = Word(1) << lane;
  return ((Mask<A>{} + Word(bits)) & lane_bit) != 0;
}

// The gain is in the taps of the first filter already, unless it is negative. `Mild` slopes are
// in (0, 1], where leaky ReLU is a maximum.
template <typename A, Act act, bool Clamp, bool Mild>
void act_on_row(const Activation<A>& f, Lanes<A>* row, int64_t width, Bits* record) {
  const Lanes<A> slope = broadcast(f.slope), zero = {};
  const Lanes<A> least = broadcast(-f.clamp), most = broadcast(f.clamp);
  for (int64_t c = 0; c < width; ++c, record += 2) {
    Lanes<A> x = row[c];
    const Lanes<A> leaked = x * slope;
    if constexpr (act == Act::kDerivative) {
      x = mask_of<A>(record[0]) ? x : leaked;
      row[c] = Clamp ? (mask_of<A>(record[1]) ? x : zero) : x;
    } else {
      if constexpr (act == Act::kRecord) record[0] = bits_of(x > zero);
      if constexpr (Mild) {
        x = larger(leaked, x);
      } else {
        x = (x > zero ? x : leaked) * f.gain;
      }
      if constexpr (Clamp) {
        if constexpr (act == Act::kRecord) record[1] = bits_of((x > least) & (x < most));
        x = larger(least, smaller(most, x));
      }
      row[c] = x;
    }
  }
}

template <typename A, Act act>
void act_on_row(const Activation<A>& f, Lanes<A>* row, int64_t width, Bits* record) {
  const bool mild = f.gain == 1 && f.slope > 0 && f.slope <= 1;
  if (f.clamped && mild) return act_on_row<A, act, true, true>(f, row, width, record);
  if (f.clamped) return act_on_row<A, act, true, false>(f, row, width, record);
  if (mild) return act_on_row<A, act, false, true>(f, row, width, record);
  return act_on_row<A, act, false, false>(f, row, width, record);
}

template <typename T, typename A> struct Filtered {
  Planes<const T> in;
  Planes<T> out;
  const A* bias;  // [C] or null
  A* sums;        // [N * C], to which the sum of the result over each plane is added, or null
  uint8_t* record;
  int64_t raised_height, raised_width;
  Activation<A> activation;
  Filter<A> up, down;
  // what of the raised plane any output needs
  int64_t row_begin, row_end, column_begin, column_end;
};

// Where the filter `first` is followed by `second`: factors, pads and offsets are (y, x).
struct Geometry {
  int64_t up, down;
  int64_t pad[2];     // zeros before the source, at the raised rate
  int64_t offset[2];  // where the window of output 0 starts in the raised plane
  int64_t raised[2], out[2];
};

// `linear`: the activation is a derivative, which takes any gain out of it.
template <typename T, typename A>
void plan_filters(const Geometry& g, Taps first, const Taps& second, bool linear,
                  Filtered<T, A>& p) {
  if (linear || p.activation.gain > 0) {
    for (double& tap : first.all.empty() ? first.rows : first.all) tap *= p.activation.gain;
    p.activation.gain = 1;
  }
  int64_t begin[2], end[2];
  const int64_t taps[2] = {second.kh, second.kw};
  for (int i = 0; i < 2; ++i) {
    begin[i] = std::max<int64_t>(g.offset[i], 0);
    end[i] = std::min(g.raised[i], (g.out[i] - 1) * g.down + g.offset[i] + taps[i]);
    end[i] = std::max(begin[i], end[i]);
  }
  p.raised_height = g.raised[0], p.raised_width = g.raised[1];
  p.row_begin = begin[0], p.row_end = end[0], p.column_begin = begin[1], p.column_end = end[1];
  p.up = Filter<A>(Axis(first.kh, g.up, 1, g.pad[0], begin[0], end[0]),
                   Axis(first.kw, g.up, 1, g.pad[1], begin[1], end[1]), first);
  p.down = Filter<A>(Axis(second.kh, 1, g.down, -g.offset[0], 0, g.out[0]),
                     Axis(second.kw, 1, g.down, -g.offset[1], 0, g.out[1]), second);
}

template <typename T, typename A, Act act> class FilteredRunner {
 public:
  explicit FilteredRunner(const Filtered<T, A>& problem)
      : p_(problem),
        sources_(p_.up.along.taps / p_.up.along.up + 2, p_.up.across.width()),
        raised_(p_.down.along.taps, p_.down.separable ? p_.out.width : p_.down.across.width()),
        row_(1, p_.down.across.width()),
        scratch_(1, std::max(p_.up.across.width(), p_.down.across.width())),
        result_(1, p_.out.width) {}

  // Do kLanes planes.
  void run(int64_t index) {
    const Group<const T> source(p_.in, index);
    const Group<T> target(p_.out, index);
    Lanes<A> bias = {}, sum = {};
    if (p_.bias) {
      for (int lane = 0; lane < kLanes; ++lane) bias[lane] = p_.bias[source.channel(lane)];
    }
    Bits* record = reinterpret_cast<Bits*>(p_.record);
    if (record) record += index * p_.raised_height * p_.raised_width * 2;
    sources_.restart(), raised_.restart();
    for (int64_t y = 0; y < p_.out.height; ++y) {
      const int64_t start = p_.down.along.start(y);
      raised_.seek(start);
      while (raised_.next() < start + p_.down.along.taps) raise_row(source, bias, record);
      filter_down(y);
      if (p_.sums) {
        Lanes<A> part = {};
        for (int64_t x = 0; x < p_.out.width; ++x) part += result_.row(0)[x];
        sum += part;
      }
      target.template store<A>(y, p_.out.width, result_.row(0));
    }
    for (int lane = 0; p_.sums && lane < source.used(); ++lane) {
      p_.sums[index * kLanes + lane] += sum[lane];
    }
  }

 private:
  // Append the next row at the raised rate, filtered horizontally where the filter is separable.
  void raise_row(const Group<const T>& source, Lanes<A> bias, Bits* record) {
    const int64_t r = raised_.next(), width = p_.column_end - p_.column_begin;
    if (r < p_.row_begin || r >= p_.row_end || width <= 0) return raised_.append_zeros();
    const int64_t output = r - p_.row_begin, start = p_.up.along.start(output);
    sources_.seek(start);
    pull(p_.in, source, p_.up.across, bias, start + p_.up.along.phase(output).count, sources_);
    Lanes<A>* whole = p_.down.separable ? row_.row(0) : raised_.append();
    Lanes<A>* row = whole + (p_.column_begin - p_.down.across.low);
    filter_row(p_.up, output, sources_, scratch_.row(0), row);
    if (record) record += (r * p_.raised_width + p_.column_begin) * 2;
    act_on_row<A, act>(p_.activation, row, width, record);
    if (p_.down.separable) {
      filter_across<A, false>(p_.down.across, p_.down.across_taps.data(), whole, raised_.append());
    }
  }

  void filter_down(int64_t y) {
    if (!p_.down.separable) {
      return filter_row(p_.down, y, raised_, scratch_.row(0), result_.row(0));
    }
    const Phase& phase = p_.down.along.phase(y);
    sum_along<A>({result_.row(0), 1, raised_.row(p_.down.along.start(y)), 1, raised_.width(),
                  p_.out.width, p_.down.along_taps.data() + phase.offset, phase.count});
  }

  const Filtered<T, A>& p_;
  Window<A> sources_, raised_;
  Rows<A> row_, scratch_, result_;
};

}  // namespace hpd
