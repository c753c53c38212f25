// Finite impulse responses along one axis, for every factor of up- and downsampling.
//
// out[o] = sum_i taps[i] * in[(o * down + i - pad) / up] over the i that divide. The outputs fall
// into `period` phases; those of one phase use the same taps at a source that moves by `advance`,
// so that no product with an inserted zero is computed.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <numeric>
#include <vector>

#include "lanes.h"

namespace hpd {

struct Phase {
  int64_t first;   // the first output of this phase, relative to the first of all outputs
  int64_t start;   // its first source
  int64_t tap;     // the first tap that meets a source
  int64_t offset;  // where its taps start, once they are sorted by phase
  int64_t count;   // number of taps
};

struct Axis {
  int64_t taps, up, outputs;  // outputs: how many
  int64_t period, advance;
  int64_t low, high;  // sources that are used: [low, high)
  std::vector<Phase> phases;

  Axis() = default;
  // Outputs begin ... end - 1.
  Axis(int64_t taps, int64_t up, int64_t down, int64_t pad, int64_t begin, int64_t end)
      : taps(taps), up(up), outputs(std::max<int64_t>(end - begin, 0)) {
    const int64_t common = std::gcd(up, down);
    period = up / common, advance = down / common;
    low = INT64_MAX, high = INT64_MIN;
    for (int64_t i = 0; i < std::min(period, outputs); ++i) {
      const int64_t position = (begin + i) * down - pad;
      const int64_t tap = ((-position) % up + up) % up;
      const int64_t start = (position + tap) / up;
      const int64_t count = tap < taps ? (taps - tap + up - 1) / up : 0;
      phases.push_back({i, start, tap, offset_of(tap), count});
      const int64_t last = start + (outputs - 1 - i) / period * advance;
      if (count) low = std::min(low, start), high = std::max(high, last + count);
    }
    if (low > high) low = high = 0;
  }

  int64_t width() const { return high - low; }
  const Phase& phase(int64_t output) const { return phases[output % period]; }
  int64_t start(int64_t output) const {
    return phase(output).start + output / period * advance;
  }

  // Sort taps by phase: those of the phase with first tap j are j, j + up, j + 2 up ...
  template <typename A> void sort(const A* taps_in_order, A* sorted) const {
    for (int64_t j = 0; j < std::min(up, taps); ++j) {
      for (int64_t i = j; i < taps; i += up) *sorted++ = taps_in_order[i];
    }
  }

 private:
  int64_t offset_of(int64_t tap) const {
    int64_t offset = 0;
    for (int64_t j = 0; j < tap && j < taps; ++j) offset += (taps - j + up - 1) / up;
    return offset;
  }
};

// ---- sums of products; Count and Step are 0 where they are known at run time only

// to[j * to_step] (+)= sum_t taps[t] * from[j * step + t * tap_step]
template <typename A> struct Products {
  Lanes<A>* to;
  int64_t to_step;
  const Lanes<A>* from;
  int64_t step, tap_step, outputs;
  const A* taps;
  int64_t count;
};

template <typename A, int Count, int Step, bool Across, bool Add>
void sum_products(const Products<A>& p) {
  const int64_t step = Step ? Step : p.step, tap_step = Across ? 1 : p.tap_step;
  const Lanes<A>* from = p.from;
  Lanes<A>* to = p.to;
  if constexpr (Count > 0) {
    Lanes<A> taps[Count];
    for (int t = 0; t < Count; ++t) taps[t] = broadcast(p.taps[t]);
    int64_t j = 0;
    // two outputs at a time share most of their loads
    for (; Step && Across && j + 2 <= p.outputs; j += 2, from += 2 * step, to += 2 * p.to_step) {
      Lanes<A> a = Add ? to[0] : Lanes<A>{}, b = Add ? to[p.to_step] : Lanes<A>{};
#pragma GCC unroll 32
      for (int t = 0; t < Count + Step; ++t) {
        const Lanes<A> value = from[t];
        if (t < Count) a = !Add && t == 0 ? taps[0] * value : a + taps[t < Count ? t : 0] * value;
        const int s = t - Step;
        if (s >= 0) b = !Add && s == 0 ? taps[0] * value : b + taps[s >= 0 ? s : 0] * value;
      }
      to[0] = a;
      to[p.to_step] = b;
    }
    for (; j < p.outputs; ++j, from += step, to += p.to_step) {
      Lanes<A> a = Add ? to[0] + taps[0] * from[0] : taps[0] * from[0];
#pragma GCC unroll 32
      for (int t = 1; t < Count; ++t) a += taps[t] * from[t * tap_step];
      to[0] = a;
    }
  } else {
    for (int64_t j = 0; j < p.outputs; ++j, from += step, to += p.to_step) {
      Lanes<A> a = Add ? to[0] : Lanes<A>{};
      for (int64_t t = 0; t < p.count; ++t) a += broadcast(p.taps[t]) * from[t * tap_step];
      to[0] = a;
    }
  }
}

template <typename A, int Step, bool Across, bool Add>
void sum_products_by_count(const Products<A>& p) {
  // float64 is for checks: it need not be fast, and would take as long again to compile
  if constexpr (sizeof(A) == 8) return sum_products<A, 0, 0, Across, Add>(p);
  switch (p.count) {
#define HPD_CASE(N) \
  case N: return sum_products<A, N, Step, Across, Add>(p);
    HPD_CASE(1) HPD_CASE(2) HPD_CASE(3) HPD_CASE(4) HPD_CASE(6) HPD_CASE(8) HPD_CASE(12)
#undef HPD_CASE
    default: return sum_products<A, 0, 0, Across, Add>(p);
  }
}

// Along the rows.
template <typename A, bool Add> void sum_across(const Products<A>& p) {
  if (p.step == 1) return sum_products_by_count<A, 1, true, Add>(p);
  if (p.step == 2) return sum_products_by_count<A, 2, true, Add>(p);
  return sum_products_by_count<A, 0, true, Add>(p);
}

// Along the columns: source rows are `tap_step` apart.
template <typename A> void sum_along(const Products<A>& p) {
  return sum_products_by_count<A, 1, false, false>(p);
}

// ---- two-dimensional filters

// Taps in the order in which they meet growing sources: `all` [kh, kw] row by row, or, where that
// is empty, the outer product of `rows` [kh] and `columns` [kw].
struct Taps {
  std::vector<double> rows, columns, all;
  int64_t kh, kw;
};

// The two axes of a filter with its taps sorted by phase. A matrix of taps that is a product of
// two vectors is found out and used as such.
template <typename A> struct Filter {
  Axis along, across;  // along columns, along rows
  bool separable;
  std::vector<A> along_taps;   // [kh], where separable
  std::vector<A> across_taps;  // [kw] where separable, else [kh, kw]

  Filter() = default;
  Filter(Axis along_axis, Axis across_axis, const Taps& taps)
      : along(std::move(along_axis)), across(std::move(across_axis)) {
    const int64_t kh = along.taps, kw = across.taps;
    std::vector<double> rows(taps.rows), columns(taps.columns), all_taps(taps.all);
    separable = all_taps.empty() || factorise(all_taps, kh, kw, rows, columns);
    if (separable) {
      const std::vector<A> a(rows.begin(), rows.end()), b(columns.begin(), columns.end());
      along_taps.resize(kh), across_taps.resize(kw);
      along.sort(a.data(), along_taps.data());
      across.sort(b.data(), across_taps.data());
    } else {
      const std::vector<A> all(all_taps.begin(), all_taps.end());
      across_taps.resize(kh * kw);
      for (int64_t i = 0; i < kh; ++i) across.sort(&all[i * kw], &across_taps[i * kw]);
    }
  }

 private:
  static bool factorise(const std::vector<double>& taps, int64_t kh, int64_t kw,
                        std::vector<double>& rows, std::vector<double>& columns) {
    rows.resize(kh), columns.resize(kw);
    const auto larger = [](double a, double b) { return std::abs(a) < std::abs(b); };
    const int64_t pivot = std::max_element(taps.begin(), taps.end(), larger) - taps.begin();
    const double peak = taps[pivot];
    // infinite taps have no factors; NaN fails the comparison
    if (!(std::abs(peak) <= 1e300)) return false;
    const double scale = peak == 0 ? 0 : 1 / peak;
    for (int64_t i = 0; i < kh; ++i) rows[i] = taps[i * kw + pivot % kw];
    for (int64_t j = 0; j < kw; ++j) columns[j] = taps[pivot / kw * kw + j] * scale;
    for (int64_t i = 0; i < kh; ++i) {
      for (int64_t j = 0; j < kw; ++j) {
        // the rounding of an outer product in A, not more
        const double limit = std::abs(peak) * (sizeof(A) == 4 ? 2e-7 : 5e-16);
        if (!(std::abs(taps[i * kw + j] - rows[i] * columns[j]) <= limit)) return false;
      }
    }
    return true;
  }
};

// ---- scratch

template <typename A> class Rows {
 public:
  Rows() = default;
  Rows(int64_t rows, int64_t width) : width_(std::max<int64_t>(width, 1)) {
    const size_t bytes = size_t(std::max<int64_t>(rows, 1) * width_) * sizeof(Lanes<A>);
    data_.reset(static_cast<Lanes<A>*>(std::aligned_alloc(64, (bytes + 63) / 64 * 64)));
    std::memset(data_.get(), 0, bytes);
  }
  Lanes<A>* row(int64_t index) const { return data_.get() + index * width_; }
  int64_t width() const { return width_; }

 private:
  struct Free {
    void operator()(Lanes<A>* pointer) const { std::free(pointer); }
  };
  std::unique_ptr<Lanes<A>, Free> data_;
  int64_t width_ = 0;
};

// A window on the rows of a tall image: rows arrive in order, at least the last `keep` stay.
template <typename A> class Window {
 public:
  Window(int64_t keep, int64_t width)
      : keep_(keep), capacity_(3 * keep + 8), rows_(capacity_, width) {}

  void restart() { first_ = next_ = INT64_MIN; }
  int64_t next() const { return next_; }
  int64_t width() const { return rows_.width(); }
  Lanes<A>* row(int64_t index) const { return rows_.row(index - first_); }

  // Make `index` the next row to come, unless it came already.
  void seek(int64_t index) {
    if (index > next_) first_ = next_ = index;
  }
  // Return the place of the next row. Columns that nobody writes stay zero.
  Lanes<A>* append() {
    if (next_ - first_ == capacity_) {
      std::memmove(rows_.row(0), rows_.row(capacity_ - keep_),
                   size_t(keep_ * rows_.width()) * sizeof(Lanes<A>));
      first_ = next_ - keep_;
    }
    return row(next_++);
  }
  void append_zeros() { std::memset(append(), 0, size_t(rows_.width()) * sizeof(Lanes<A>)); }

 private:
  int64_t keep_, capacity_;
  Rows<A> rows_;
  int64_t first_ = INT64_MIN, next_ = INT64_MIN;
};

// Apply the horizontal taps `taps` to `from`, whose column 0 is source across.low.
template <typename A, bool Add>
void filter_across(const Axis& across, const A* taps, const Lanes<A>* from, Lanes<A>* to) {
  for (const Phase& phase : across.phases) {
    const int64_t outputs = (across.outputs - phase.first + across.period - 1) / across.period;
    Products<A> p{to + phase.first, across.period, from + (phase.start - across.low),
                  across.advance, 1, outputs, taps + phase.offset, phase.count};
    if (phase.count) {
      sum_across<A, Add>(p);
    } else if (!Add) {
      for (int64_t j = 0; j < outputs; ++j) p.to[j * p.to_step] = Lanes<A>{};
    }
  }
}

// Fill a window with the rows of an image up to row `end`; rows outside the image are zero.
template <typename T, typename A>
void pull(const Planes<T>& image, const Group<T>& group, const Axis& across, Lanes<A> add,
          int64_t end, Window<A>& window) {
  const int64_t begin = std::max<int64_t>(across.low, 0), stop = std::min(across.high, image.width);
  while (window.next() < end) {
    const int64_t y = window.next();
    if (y < 0 || y >= image.height || begin >= stop) {
      window.append_zeros();
    } else {
      group.template load<A>(y, begin, stop, add, window.append() + (begin - across.low));
    }
  }
}

// Compute output row `output` of a filter, vertically first, from a window on its sources that
// holds the rows wanted; `row` is scratch as wide as the window.
template <typename A>
void filter_row(const Filter<A>& filter, int64_t output, const Window<A>& window, Lanes<A>* row,
                Lanes<A>* to) {
  const Phase& phase = filter.along.phase(output);
  const int64_t start = filter.along.start(output);
  if (!phase.count || !filter.across.width()) {
    std::memset(to, 0, size_t(filter.across.outputs) * sizeof(Lanes<A>));
  } else if (filter.separable) {
    sum_along<A>({row, 1, window.row(start), 1, window.width(), filter.across.width(),
                  filter.along_taps.data() + phase.offset, phase.count});
    filter_across<A, false>(filter.across, filter.across_taps.data(), row, to);
  } else {
    for (int64_t t = 0; t < phase.count; ++t) {
      const A* taps = &filter.across_taps[(phase.tap + t * filter.along.up) * filter.across.taps];
      if (t == 0) {
        filter_across<A, false>(filter.across, taps, window.row(start), to);
      } else {
        filter_across<A, true>(filter.across, taps, window.row(start + t), to);
      }
    }
  }
}

}  // namespace hpd
