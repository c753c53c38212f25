// One block's share of filtered leaky ReLU on a GPU: a tile of a plane, in shared memory, or of a
// few channels one after another, where these are neighbours in memory.
//
// The algorithm is a list of steps; in each, threads share out independent items, and all wait at
// its end. `run` hands the steps to an executor, which on a GPU is a block of threads, and in tests
// a loop on the host, so that the arithmetic of indices is the same code in both.
//
// A tile of outputs needs a rectangle of the raised plane. Its columns start at a multiple of four,
// because a byte of the record holds four neighbours of a row (two bits each: positive, kept), and
// whole bytes must be known to whoever writes them. Inside the rectangle values are addressed by
// their position m against the grid of sources: source j of the rectangle lies at m = up * j, so
// that phases are the same in every tile.
//
// Two rooms of shared memory take turns: sources in A (in B where the first filter is a matrix),
// raised rows in B, the raised rectangle in A, its lowered columns in B. Channels of a group have
// sources and results in rooms of their own, which are filled and emptied for all of them at once.
#pragma once

#include "room.h"

namespace hpd {

// Up, Down, FirstTaps and SecondTaps are 0 where they are known at run time only.
template <typename T, Act act, int Up, int Down, int FirstTaps, int SecondTaps, Full full>
class FilteredTile : private FilteredRoom<T, act> {
  using Room = FilteredRoom<T, act>;

 public:
  using typename Room::Sum;

  HPD_HD FilteredTile(const FilteredPlan& plan, const FilteredTensors& tensors, int64_t block,
                      Sum* shared)
      : Room(plan, tensors, block, shared, Up ? Up : plan.up, is_full(plan, Full::kFirst),
             is_full(plan, Full::kSecond)) {}

  template <typename Executor> HPD_HD void run(Executor&& each) {
    each([&](int i, int n) { load(i, n); });
    for (int c = 0; c < channels_; ++c) {
      enter(c);
      if (first_full()) {
        each([&](int i, int n) { up_both(i, n); });
      } else {
        each([&](int i, int n) { up_along(i, n); });
        each([&](int i, int n) { up_across(i, n); });
      }
      if (act != Act::kActivate) each([&](int i, int n) { use_record(i, n); });
      if (second_full()) {
        each([&](int i, int n) { down_both(i, n); });
      } else {
        each([&](int i, int n) { down_across(i, n); });
        each([&](int i, int n) { down_along(i, n); });
      }
      if (sums()) {
        each([&](int i, int n) { add_parts(i, n); });
        each([&](int i, int n) { tell_totals(i, n); });
      }
    }
    if (p.group_shift) each([&](int i, int n) { store(i, n); });
  }

 private:
  static constexpr bool kKnown = Up && Down && FirstTaps && SecondTaps;

  using Room::a_, Room::b_, Room::ahead_, Room::before_, Room::channels_, Room::first_;
  using Room::first_across_, Room::own_begin_, Room::own_end_, Room::p, Room::parts_;
  using Room::record_, Room::second_, Room::second_across_, Room::source_room_, Room::start_;
  using Room::add_parts, Room::enter, Room::load, Room::put, Room::store, Room::sums;
  using Room::tell_parts, Room::tell_totals;

  HPD_HD int up() const { return Up ? Up : p.up; }
  HPD_HD int down() const { return Down ? Down : p.down; }
  HPD_HD static bool is_full(const FilteredPlan& plan, Full which) {
    if (full != Full::kAsked) return full == which;
    return which == Full::kFirst ? plan.first_full : plan.second_full;
  }
  HPD_HD bool first_full() const { return is_full(p, Full::kFirst); }
  HPD_HD bool second_full() const { return is_full(p, Full::kSecond); }

  // Sources [rows of sources, columns of sources] to raised rows in B.
  HPD_HD void up_along(int thread, int threads) {
    const int columns = p.source_tile[1], runs = p.raised_tile[0] / (up() * kRun);
    raise_runs<true>(thread, threads, columns, runs, source_room_, p.pitch_source, first_,
                     p.first_taps[0], [&](int column, int row, Sum value) {
                       b_[row * p.pitch_source + column] = value;
                     });
  }

  // Raised rows in B to raised rows and columns in A; what lies outside the plane is 0.
  HPD_HD void up_across(int thread, int threads) {
    const int rows = p.raised_tile[0], runs = p.raised_tile[1] / (up() * kRun);
    raise_runs<false>(thread, threads, rows, runs, b_, p.pitch_source, first_across_,
                      p.first_taps[1],
                      [&](int row, int column, Sum value) { keep(row, column, value); });
  }

  // Runs along columns (`Along`) or rows, of which there are `lines`: put(line, position, value).
  template <bool Along, typename Put>
  HPD_HD void raise_runs(int thread, int threads, int lines, int runs, const Sum* from, int pitch,
                         const Sum* taps, int count, Put&& put) const {
    const int line_step = Along ? 1 : pitch, step = Along ? pitch : 1;
    if constexpr (kKnown) {
      const Taps<Sum, FirstTaps> held(taps);
      for (int i = thread; i < lines * runs; i += threads) {
        const int run = i / lines, line = i - run * lines;
        Sum values[kRun * Up] = {};
        raise<Up>(from + line * line_step + run * kRun * step, step, held, values);
#pragma unroll
        for (int m = 0; m < kRun * Up; ++m) put(line, run * kRun * Up + m, values[m]);
      }
    } else {
      const int positions = runs * kRun * up();
      for (int i = thread; i < lines * positions; i += threads) {
        const int m = i / lines, line = i - m * lines;
        put(line, m, raised_at(m, from + line * line_step, step, taps, count, up()));
      }
    }
  }

  // Sources to raised rows and columns in A, by a matrix of taps.
  HPD_HD void up_both(int thread, int threads) {
    const int rows = p.raised_tile[0], runs = p.raised_tile[1] / (up() * kRun);
    for (int i = thread; i < rows * runs; i += threads) {
      const int run = i / rows, row = i - run * rows, phase = row % up();
      const Sum* from = source_room_ + (row / up() + (phase > 0 ? 1 : 0)) * p.pitch_source;
      from += run * kRun;
      const int first = (up() - phase) % up();
      if constexpr (kKnown) {
        Sum values[kRun * Up] = {};
        for (int tap = first; tap < FirstTaps; tap += Up, from += p.pitch_source) {
          raise<Up>(from, 1, Taps<Sum, FirstTaps>(first_ + tap * FirstTaps), values);
        }
#pragma unroll
        for (int m = 0; m < kRun * Up; ++m) keep(row, run * kRun * Up + m, values[m]);
      } else {
        for (int m = 0; m < kRun * up(); ++m) {
          Sum value = 0;
          const Sum* line = from;
          for (int tap = first; tap < p.first_taps[0]; tap += up(), line += p.pitch_source) {
            const Sum* taps = first_ + tap * p.first_taps[1];
            value += raised_at(m, line, 1, taps, p.first_taps[1], up());
          }
          keep(row, run * kRun * up() + m, value);
        }
      }
    }
  }

  // Put a raised value to its place in A.
  HPD_HD void keep(int row, int column, Sum value) {
    const int y = start_[0] - before_[0] + row, x = start_[1] - before_[1] + column;
    const bool inside = y >= 0 && y < p.raised[0] && x >= 0 && x < p.raised[1];
    a_[row * p.pitch_raised + column] = inside ? activated(value) : 0;
  }

  HPD_HD Sum activated(Sum value) const {
    value *= p.gain;
    if (act == Act::kDerivative) return value;
    if (!(value > 0)) value *= p.slope;
    if (p.clamped) {
      value = value > p.clamp ? Sum(p.clamp) : value;
      value = value < -p.clamp ? Sum(-p.clamp) : value;
    }
    return value;
  }

  // Write the record of what is in A, or multiply A by the derivative that it tells. A value at
  // the clamp was clamped; the gain is positive and the slope not negative, so signs stay.
  HPD_HD void use_record(int thread, int threads) {
    const int bytes = (p.raised_tile[1] - before_[1]) / 4, rows = p.raised_tile[0] - before_[0];
    Sum clamped = 0;
    for (int i = thread; i < bytes * rows; i += threads) {
      const int row = i / bytes, byte = i - row * bytes;
      const int y = start_[0] + row, x = start_[1] + byte * 4;
      if (y < 0 || y >= p.raised[0] || x < 0 || x >= p.raised[1]) continue;
      Sum* values = a_ + (row + before_[0]) * p.pitch_raised + before_[1] + byte * 4;
      uint8_t* place = record_ + int64_t(y) * p.record_width() + x / 4;
      if (act == Act::kRecord) {
        int bits = 0;
        for (int k = 0; k < 4; ++k) bits |= record_bits(values[k]) << 2 * k;
        *place = uint8_t(bits);
      } else {
        const int bits = *place;
        const bool own = sums() && y >= own_begin_[0] && y < own_end_[0];
        for (int k = 0; k < 4; ++k) {
          const int its = bits >> 2 * k;
          if (own && !(its & 2) && x + k >= own_begin_[1] && x + k < own_end_[1]) {
            clamped += its & 1 ? values[k] : -values[k];
          }
          values[k] = derivative(values[k], its);
        }
      }
    }
    if (sums()) parts_[thread * 3 + 2] = clamped * (Sum(p.clamp) / Sum(p.gain));
  }

  HPD_HD int record_bits(Sum value) const {
    const bool kept = !p.clamped || (value > -p.clamp && value < p.clamp);
    return (value > 0 ? 1 : 0) | (kept ? 2 : 0);
  }
  HPD_HD Sum derivative(Sum value, int bits) const {
    return bits & 2 ? (bits & 1 ? value : value * p.slope) : Sum(0);
  }

  // Raised rows and columns in A to output columns in B.
  HPD_HD void down_across(int thread, int threads) {
    const int rows = p.raised_tile[0], runs = p.tile[1] / kRun;
    lower_runs(thread, threads, rows, runs, p.pitch_raised, 1, a_ + ahead_[1], second_across_,
               p.second_taps[1], [&](int row, int column, Sum value) {
                 b_[row * p.pitch_tile + column] = value;
               });
  }

  // Output columns in B to outputs.
  HPD_HD void down_along(int thread, int threads) {
    Sum totals[2] = {0, 0};
    lower_runs(thread, threads, p.tile[1], p.tile[0] / kRun, 1, p.pitch_tile,
               b_ + ahead_[0] * p.pitch_tile, second_, p.second_taps[0],
               [&](int column, int row, Sum value) { put(row, column, value, totals); });
    tell_parts(thread, totals);
  }

  // put(line, output, value) of runs along lines that are `line_step` apart.
  template <typename Put>
  HPD_HD void lower_runs(int thread, int threads, int lines, int runs, int line_step, int step,
                         const Sum* from, const Sum* taps, int count, Put&& put) const {
    if constexpr (kKnown) {
      const Taps<Sum, SecondTaps> held(taps);
      for (int i = thread; i < lines * runs; i += threads) {
        const int run = i / lines, line = i - run * lines;
        Sum values[kRun] = {};
        lower<Down>(from + line * line_step + run * kRun * Down * step, step, held, values);
#pragma unroll
        for (int o = 0; o < kRun; ++o) put(line, run * kRun + o, values[o]);
      }
    } else {
      for (int i = thread; i < lines * runs * kRun; i += threads) {
        const int output = i / lines, line = i - output * lines;
        const Sum* window = from + line * line_step + output * down() * step;
        put(line, output, lowered_at(window, step, taps, 1, count));
      }
    }
  }

  // Raised rows and columns in A to outputs, by a matrix of taps; runs go down columns.
  HPD_HD void down_both(int thread, int threads) {
    const int columns = p.tile[1], runs = p.tile[0] / kRun;
    Sum totals[2] = {0, 0};
    for (int i = thread; i < columns * runs; i += threads) {
      const int run = i / columns, column = i - run * columns;
      const Sum* from = a_ + (ahead_[0] + run * kRun * down()) * p.pitch_raised + ahead_[1];
      from += column * down();
      Sum values[kRun] = {};
      if constexpr (kKnown) {
        for (int tap = 0; tap < SecondTaps; ++tap) {
          const Taps<Sum, SecondTaps> held(second_ + tap, SecondTaps);
          lower<Down>(from + tap, p.pitch_raised, held, values);
        }
      } else {
        for (int o = 0; o < kRun; ++o) {
          const Sum* window = from + o * down() * p.pitch_raised;
          for (int tap = 0; tap < p.second_taps[1]; ++tap) {
            values[o] += lowered_at(window + tap, p.pitch_raised, second_ + tap, p.second_taps[1],
                                    p.second_taps[0]);
          }
        }
      }
#pragma unroll
      for (int o = 0; o < kRun; ++o) put(run * kRun + o, column, values[o], totals);
    }
    tell_parts(thread, totals);
  }

};

}  // namespace hpd
