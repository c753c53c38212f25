// One block's share of filtered leaky ReLU on a GPU: a tile of one plane, in shared memory.
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
#pragma once

#include "number.h"

namespace hpd {

enum class Act { kActivate, kRecord, kDerivative };

// All of one problem but its tensors. Index 0 is y, 1 is x.
struct FilteredPlan {
  int64_t planes, channels;
  int in[2], raised[2], out[2];
  int up, down, first_taps, second_taps;
  int pad[2], offset[2];
  bool flip;  // whether taps are to be reversed: a true convolution
  float gain, slope, clamp;
  bool clamped;
  // tiles
  int tile[2], tiles[2];
  int raised_tile[2];  // rectangle of the raised plane, in positions
  int source_tile[2];
  int pitch_a, pitch_b;  // odd, so that neighbours in a column lie in different banks
  int floats_a, floats_b;

  HPD_HD int64_t blocks() const { return planes * tiles[0] * tiles[1]; }
  HPD_HD int record_width() const { return (raised[1] + 3) / 4; }
  HPD_HD int shared_floats() const { return floats_a + floats_b + first_taps + second_taps; }
};

// Where its tensors lie.
struct FilteredTensors {
  const void* in;
  const float *bias, *first, *second;  // bias may be null
  uint8_t* record;                     // null for Act::kActivate
  void* out;
};

// Of a block.
constexpr int kThreads = 256;

HPD_HD inline int floor_to(int value, int step) {
  const int rest = value % step;
  return value - (rest < 0 ? rest + step : rest);
}
HPD_HD inline int round_up(int value, int step) { return floor_to(value + step - 1, step); }
HPD_HD inline int smaller_of(int a, int b) { return a < b ? a : b; }

// Shared memory that every GPU gives a block without being asked: 48 KiB.
constexpr int kSharedFloats = 12 * 1024;

// Runs of outputs that one thread computes from values it keeps; tiles are multiples of them.
constexpr int kRun = 4;

// Lay out tiles of at most `largest` outputs a side.
inline void lay_out(FilteredPlan& p, int largest) {
  for (int i = 0; i < 2; ++i) {
    const int count = (p.out[i] + largest - 1) / largest;
    p.tile[i] = round_up((p.out[i] + count - 1) / (count < 1 ? 1 : count), kRun);
    if (p.tile[i] < kRun) p.tile[i] = kRun;
    p.tiles[i] = (p.out[i] + p.tile[i] - 1) / p.tile[i];
    const int needed = (p.tile[i] - 1) * p.down + p.second_taps;
    // columns round to whole bytes at both ends, rows and columns to whole sources at the first
    const int bytes = i == 1 ? 3 + 3 : 0;
    p.raised_tile[i] = round_up(needed + bytes + p.up - 1, p.up * kRun);
    p.source_tile[i] = p.raised_tile[i] / p.up + (p.first_taps + p.up - 1) / p.up;
  }
  const int widest_a = p.raised_tile[1] > p.source_tile[1] ? p.raised_tile[1] : p.source_tile[1];
  const int rows_a = p.raised_tile[0] > p.source_tile[0] ? p.raised_tile[0] : p.source_tile[0];
  const int widest_b = p.source_tile[1] > p.tile[1] ? p.source_tile[1] : p.tile[1];
  p.pitch_a = widest_a | 1, p.pitch_b = widest_b | 1;
  p.floats_a = p.pitch_a * rows_a, p.floats_b = p.pitch_b * p.raised_tile[0];
}

// Choose the largest tiles that fit; false where none does.
inline bool fit(FilteredPlan& p) {
  for (int largest = 32; largest >= kRun; largest /= 2) {
    lay_out(p, largest);
    if (p.shared_floats() <= kSharedFloats) return true;
  }
  return false;
}

// Up, Down, FirstTaps and SecondTaps may be 0, which means known at run time only.
template <typename T, Act act, int Up, int Down, int FirstTaps, int SecondTaps>
class FilteredTile {
 public:
  HPD_HD FilteredTile(const FilteredPlan& plan, const T* in, const float* bias, const float* first,
                      const float* second, uint8_t* record, T* out, int64_t block, float* shared)
      : p(plan), first_(first), second_(second) {
    a_ = shared, b_ = a_ + p.floats_a, first_taps_ = b_ + p.floats_b;
    second_taps_ = first_taps_ + p.first_taps;
    const int64_t plane = block / (int64_t(p.tiles[0]) * p.tiles[1]);
    const int tile = int(block - plane * p.tiles[0] * p.tiles[1]);
    const int at[2] = {tile / p.tiles[1], tile % p.tiles[1]};
    for (int i = 0; i < 2; ++i) {
      output_[i] = at[i] * p.tile[i];
      const int needed = output_[i] * p.down + p.offset[i];
      start_[i] = i == 1 ? floor_to(needed, 4) : needed;
      const int position = floor_to(start_[i] - p.pad[i], up());
      before_[i] = start_[i] - p.pad[i] - position;
      ahead_[i] = needed - start_[i] + before_[i];
      source_[i] = position / up();
    }
    in_ = in + plane * p.in[0] * p.in[1];
    out_ = out + plane * p.out[0] * p.out[1];
    record_ = record ? record + plane * p.raised[0] * p.record_width() : nullptr;
    bias_ = bias ? bias[plane % p.channels] : 0.f;
  }

  template <typename Executor> HPD_HD void run(Executor&& each) {
    each([&](int i, int n) { load(i, n); });
    each([&](int i, int n) { up_along(i, n); });
    each([&](int i, int n) { up_across(i, n); });
    if (act != Act::kActivate) each([&](int i, int n) { use_record(i, n); });
    each([&](int i, int n) { down_across(i, n); });
    each([&](int i, int n) { down_along(i, n); });
  }

 private:
  HPD_HD int up() const { return Up ? Up : p.up; }
  HPD_HD int down() const { return Down ? Down : p.down; }

  HPD_HD void load(int thread, int threads) {
    for (int i = thread; i < p.first_taps; i += threads) {
      first_taps_[i] = first_[p.flip ? p.first_taps - 1 - i : i];
    }
    for (int i = thread; i < p.second_taps; i += threads) {
      second_taps_[i] = second_[p.flip ? p.second_taps - 1 - i : i];
    }
    const int items = p.source_tile[0] * p.source_tile[1];
    for (int i = thread; i < items; i += threads) {
      const int row = i / p.source_tile[1], column = i - row * p.source_tile[1];
      const int y = source_[0] + row, x = source_[1] + column;
      const bool inside = y >= 0 && y < p.in[0] && x >= 0 && x < p.in[1];
      a_[row * p.pitch_a + column] =
          inside ? widen(in_[int64_t(y) * p.in[1] + x]) + bias_ : 0.f;
    }
  }

  // Sources [rows of sources, columns of sources] in A to raised rows in B.
  HPD_HD void up_along(int thread, int threads) {
    const int columns = p.source_tile[1], runs = p.raised_tile[0] / (up() * kRun);
    float taps[kHeld];
    hold(first_taps_, FirstTaps, taps);
    for (int i = thread; i < columns * runs; i += threads) {
      const int run = i / columns, column = i - run * columns;
      raise(a_ + run * kRun * p.pitch_a + column, p.pitch_a, taps,
            [&](int m, float value) {
              b_[(run * kRun * up() + m) * p.pitch_b + column] = value;
            });
    }
  }

  // Raised rows in B to raised rows and columns in A; what lies outside the plane is 0.
  HPD_HD void up_across(int thread, int threads) {
    const int rows = p.raised_tile[0], runs = p.raised_tile[1] / (up() * kRun);
    float taps[kHeld];
    hold(first_taps_, FirstTaps, taps);
    for (int i = thread; i < rows * runs; i += threads) {
      const int run = i / rows, row = i - run * rows;
      const int y = start_[0] - before_[0] + row;
      const bool row_inside = y >= 0 && y < p.raised[0];
      raise(b_ + row * p.pitch_b + run * kRun, 1, taps, [&](int m, float value) {
        const int column = run * kRun * up() + m, x = start_[1] - before_[1] + column;
        const bool inside = row_inside && x >= 0 && x < p.raised[1];
        a_[row * p.pitch_a + column] = inside ? activated(value) : 0.f;
      });
    }
  }

  HPD_HD float activated(float value) const {
    value *= p.gain;
    if (act == Act::kDerivative) return value;
    if (!(value > 0)) value *= p.slope;
    if (p.clamped) {
      value = value > p.clamp ? p.clamp : value;
      value = value < -p.clamp ? -p.clamp : value;
    }
    return value;
  }

  // Write the record of what is in A, or multiply A by the derivative that it tells. A value at
  // the clamp was clamped; the gain is positive and the slope not negative, so signs stay.
  HPD_HD void use_record(int thread, int threads) {
    const int bytes = (p.raised_tile[1] - before_[1]) / 4, rows = p.raised_tile[0] - before_[0];
    for (int i = thread; i < bytes * rows; i += threads) {
      const int row = i / bytes, byte = i - row * bytes;
      const int y = start_[0] + row, x = start_[1] + byte * 4;
      if (y < 0 || y >= p.raised[0] || x < 0 || x >= p.raised[1]) continue;
      float* values = a_ + (row + before_[0]) * p.pitch_a + before_[1] + byte * 4;
      uint8_t* place = record_ + int64_t(y) * p.record_width() + x / 4;
      if (act == Act::kRecord) {
        int bits = 0;
        for (int k = 0; k < 4; ++k) bits |= record_bits(values[k]) << 2 * k;
        *place = uint8_t(bits);
      } else {
        const int bits = *place;
        for (int k = 0; k < 4; ++k) values[k] = derivative(values[k], bits >> 2 * k);
      }
    }
  }

  HPD_HD int record_bits(float value) const {
    const bool kept = !p.clamped || (value > -p.clamp && value < p.clamp);
    return (value > 0 ? 1 : 0) | (kept ? 2 : 0);
  }
  HPD_HD float derivative(float value, int bits) const {
    return bits & 2 ? (bits & 1 ? value : value * p.slope) : 0.f;
  }

  // Raised rows and columns in A to output columns in B.
  HPD_HD void down_across(int thread, int threads) {
    const int rows = p.raised_tile[0], runs = p.tile[1] / kRun;
    float taps[kHeld];
    hold(second_taps_, SecondTaps, taps);
    for (int i = thread; i < rows * runs; i += threads) {
      const int run = i / rows, row = i - run * rows;
      lower(a_ + row * p.pitch_a + ahead_[1] + run * kRun * down(), 1, taps,
            [&](int o, float value) { b_[row * p.pitch_b + run * kRun + o] = value; });
    }
  }

  // Output columns in B to outputs.
  HPD_HD void down_along(int thread, int threads) {
    const int columns = p.tile[1], runs = p.tile[0] / kRun;
    float taps[kHeld];
    hold(second_taps_, SecondTaps, taps);
    for (int i = thread; i < columns * runs; i += threads) {
      const int run = i / columns, column = i - run * columns, x = output_[1] + column;
      if (x >= p.out[1]) continue;
      lower(b_ + (ahead_[0] + run * kRun * down()) * p.pitch_b + column, p.pitch_b, taps,
            [&](int o, float value) {
              const int y = output_[0] + run * kRun + o;
              if (y < p.out[0]) narrow(value, out_ + int64_t(y) * p.out[1] + x);
            });
    }
  }

  // ---- runs

  static constexpr int kHeld = FirstTaps > SecondTaps ? FirstTaps : (SecondTaps ? SecondTaps : 1);

  // Keep taps in registers, where their number is known.
  HPD_HD static void hold(const float* from, int count, float* taps) {
#pragma unroll
    for (int i = 0; i < kHeld; ++i) taps[i] = i < count ? from[i] : 0.f;
  }

  // From sources to kRun * up raised values: put(position, value).
  template <typename Put>
  HPD_HD void raise(const float* from, int stride, const float* taps, Put&& put) const {
    if constexpr (Up && FirstTaps) {
      constexpr int kSources = kRun + (FirstTaps + Up - 1) / Up;
      float values[kSources];
#pragma unroll
      for (int j = 0; j < kSources; ++j) values[j] = from[j * stride];
#pragma unroll
      for (int j = 0; j < kRun; ++j) {
#pragma unroll
        for (int phase = 0; phase < Up; ++phase) {
          // tap i meets a source where phase + i is a multiple of Up
          constexpr int kMost = (FirstTaps + Up - 1) / Up;
          const int tap = (Up - phase) % Up, skip = phase > 0 ? 1 : 0;
          float sum = 0.f;
#pragma unroll
          for (int t = 0; t < kMost; ++t) {
            const int i = tap + t * Up;
            if (i < FirstTaps) sum += taps[i < FirstTaps ? i : 0] * values[j + skip + t];
          }
          put(j * Up + phase, sum);
        }
      }
    } else {
      for (int j = 0; j < kRun; ++j) {
        for (int phase = 0; phase < p.up; ++phase) {
          const int skip = phase > 0 ? 1 : 0;
          float sum = 0.f;
          for (int i = (p.up - phase) % p.up, t = 0; i < p.first_taps; i += p.up, ++t) {
            sum += first_taps_[i] * from[(j + skip + t) * stride];
          }
          put(j * p.up + phase, sum);
        }
      }
    }
  }

  // From raised values to kRun outputs.
  template <typename Put>
  HPD_HD void lower(const float* from, int stride, const float* taps, Put&& put) const {
    if constexpr (Down && SecondTaps) {
      constexpr int kValues = (kRun - 1) * Down + SecondTaps;
      float sums[kRun] = {};
#pragma unroll
      for (int m = 0; m < kValues; ++m) {
        const float value = from[m * stride];
#pragma unroll
        for (int o = 0; o < kRun; ++o) {
          const int i = m - o * Down;
          if (i >= 0 && i < SecondTaps) sums[o] += taps[i] * value;
        }
      }
#pragma unroll
      for (int o = 0; o < kRun; ++o) put(o, sums[o]);
    } else {
      for (int o = 0; o < kRun; ++o) {
        float sum = 0.f;
        for (int i = 0; i < p.second_taps; ++i) {
          sum += second_taps_[i] * from[(o * p.down + i) * stride];
        }
        put(o, sum);
      }
    }
  }

  const FilteredPlan& p;
  const float *first_, *second_;
  float *a_, *b_, *first_taps_, *second_taps_;
  const T* in_;
  T* out_;
  uint8_t* record_;
  float bias_;
  int output_[2];  // the tile's first output
  int start_[2];   // the first of the raised plane that the rectangle must hold
  int before_[2];  // positions in front of it
  int ahead_[2];   // position where the window of the first output starts
  int source_[2];  // source at position 0
};

}  // namespace hpd
