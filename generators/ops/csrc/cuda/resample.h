// One block's share of upfirdn2d on a GPU: a tile of one plane, in shared memory. See filtered.h
// for how the steps are run.
#pragma once

#include "filtered.h"

namespace hpd {

// Index 0 is y, 1 is x; taps: of the kernel [taps[0], taps[1]], or of both its factors.
struct ResamplePlan {
  int64_t planes;
  int in[2], out[2], taps[2], pad[2];
  int up, down;
  bool separable, flip;
  float gain;
  int tile[2], tiles[2], source_tile[2];

  HPD_HD int64_t blocks() const { return planes * tiles[0] * tiles[1]; }
  HPD_HD int kernel_size() const { return separable ? taps[0] : taps[0] * taps[1]; }
  HPD_HD int shared_floats() const {
    const int between = separable ? tile[0] * source_tile[1] : 0;
    return source_tile[0] * source_tile[1] + between + kernel_size();
  }
};

// Choose the largest tiles that fit; false where none does.
inline bool fit(ResamplePlan& p) {
  for (int largest = 32; largest >= 1; largest /= 2) {
    p.tile[0] = largest, p.tile[1] = largest == 32 ? 64 : largest;
    for (int i = 0; i < 2; ++i) {
      p.tile[i] = smaller_of(p.tile[i], p.out[i] > 0 ? p.out[i] : 1);
      p.tiles[i] = (p.out[i] + p.tile[i] - 1) / p.tile[i];
      p.source_tile[i] = ((p.tile[i] - 1) * p.down + p.up - 1 + p.taps[i] - 1) / p.up + 1;
    }
    if (p.shared_floats() <= kSharedFloats) return true;
  }
  return false;
}

// Up and Down may be 0, which means known at run time only.
template <typename T, int Up, int Down> class ResampleTile {
 public:
  HPD_HD ResampleTile(const ResamplePlan& plan, const T* in, const float* kernel, T* out,
                      int64_t block, float* shared)
      : p(plan), kernel_(kernel) {
    sources_ = shared;
    between_ = sources_ + p.source_tile[0] * p.source_tile[1];
    taps_ = between_ + (p.separable ? p.tile[0] * p.source_tile[1] : 0);
    const int64_t plane = block / (int64_t(p.tiles[0]) * p.tiles[1]);
    const int tile = int(block - plane * p.tiles[0] * p.tiles[1]);
    const int at[2] = {tile / p.tiles[1], tile % p.tiles[1]};
    for (int i = 0; i < 2; ++i) {
      output_[i] = at[i] * p.tile[i];
      position_[i] = floor_to(output_[i] * down() - p.pad[i], up());
      source_[i] = position_[i] / up();
    }
    in_ = in + plane * p.in[0] * p.in[1];
    out_ = out + plane * p.out[0] * p.out[1];
  }

  template <typename Executor> HPD_HD void run(Executor&& each) {
    each([&](int i, int n) { load(i, n); });
    if (p.separable) {
      each([&](int i, int n) { along(i, n); });
      each([&](int i, int n) { across(i, n); });
    } else {
      each([&](int i, int n) { both(i, n); });
    }
  }

 private:
  HPD_HD int up() const { return Up ? Up : p.up; }
  HPD_HD int down() const { return Down ? Down : p.down; }

  HPD_HD void load(int thread, int threads) {
    const int size = p.kernel_size();
    for (int i = thread; i < size; i += threads) taps_[i] = kernel_[p.flip ? size - 1 - i : i];
    const int items = p.source_tile[0] * p.source_tile[1];
    for (int i = thread; i < items; i += threads) {
      const int row = i / p.source_tile[1], column = i - row * p.source_tile[1];
      const int y = source_[0] + row, x = source_[1] + column;
      const bool inside = y >= 0 && y < p.in[0] && x >= 0 && x < p.in[1];
      sources_[i] = inside ? widen(in_[int64_t(y) * p.in[1] + x]) : 0.f;
    }
  }

  // The first tap that meets a source at this output of the tile, and that source in the tile.
  HPD_HD int first_tap(int axis, int output, int* source) const {
    const int position = (output_[axis] + output) * down() - p.pad[axis] - position_[axis];
    const int tap = (up() - position % up()) % up();
    *source = (position + tap) / up();
    return tap;
  }

  HPD_HD void along(int thread, int threads) {
    const int columns = p.source_tile[1];
    for (int i = thread; i < p.tile[0] * columns; i += threads) {
      const int row = i / columns, column = i - row * columns;
      int source;
      float sum = 0.f;
      for (int tap = first_tap(0, row, &source); tap < p.taps[0]; tap += up(), ++source) {
        sum += taps_[tap] * sources_[source * columns + column];
      }
      between_[i] = sum;
    }
  }

  HPD_HD void across(int thread, int threads) {
    for (int i = thread; i < p.tile[0] * p.tile[1]; i += threads) {
      const int row = i / p.tile[1], column = i - row * p.tile[1];
      int source;
      float sum = 0.f;
      for (int tap = first_tap(1, column, &source); tap < p.taps[1]; tap += up(), ++source) {
        sum += taps_[tap] * between_[row * p.source_tile[1] + source];
      }
      put(row, column, sum);
    }
  }

  HPD_HD void both(int thread, int threads) {
    for (int i = thread; i < p.tile[0] * p.tile[1]; i += threads) {
      const int row = i / p.tile[1], column = i - row * p.tile[1];
      int y, x;
      float sum = 0.f;
      const int left = first_tap(1, column, &x);
      for (int above = first_tap(0, row, &y); above < p.taps[0]; above += up(), ++y) {
        const float* from = sources_ + y * p.source_tile[1] + x;
        for (int tap = left; tap < p.taps[1]; tap += up(), ++from) {
          sum += taps_[above * p.taps[1] + tap] * *from;
        }
      }
      put(row, column, sum);
    }
  }

  HPD_HD void put(int row, int column, float sum) {
    const int y = output_[0] + row, x = output_[1] + column;
    if (y < p.out[0] && x < p.out[1]) narrow(sum * p.gain, out_ + int64_t(y) * p.out[1] + x);
  }

  const ResamplePlan& p;
  const float* kernel_;
  float *sources_, *between_, *taps_;
  const T* in_;
  T* out_;
  int output_[2], position_[2], source_[2];
};

}  // namespace hpd
