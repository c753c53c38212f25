// One block's share of upfirdn2d on a GPU: a tile of a plane, or of a few channels that are
// neighbours in memory, in shared memory. See filtered.h for how the steps are run.
//
// Channels of a group stay neighbours: a row of the tile has width * group values, and what is
// next to a value in its own plane lies a group further.
#pragma once

#include "runs.h"

namespace hpd {

// Up and Down are 0 where they are known at run time only.
template <typename T, int Up, int Down> class ResampleTile {
 public:
  using Sum = typename SumOf<T>::Type;

  HPD_HD ResampleTile(const ResamplePlan& plan, const ResampleTensors& tensors, int64_t block,
                      Sum* shared)
      : p(plan), t(tensors), width_(plan.source_tile[1] << plan.group_shift) {
    sources_ = shared;
    between_ = sources_ + p.source_tile[0] * width_;
    along_ = between_ + (p.full ? 0 : p.tile[0] * width_);
    across_ = along_ + (p.full ? 0 : p.taps[0]);
    const int64_t tiles = int64_t(p.tiles[0]) * p.tiles[1], bundle = block / tiles;
    const int tile = int(block - bundle * tiles);
    const int64_t image = bundle / p.groups();
    const int64_t channel = (bundle - image * p.groups()) << p.group_shift;
    channels_ = p.channels - channel < p.group() ? int(p.channels - channel) : p.group();
    const int at[2] = {tile / p.tiles[1], tile % p.tiles[1]};
    for (int i = 0; i < 2; ++i) {
      output_[i] = at[i] * p.tile[i];
      position_[i] = floor_to(output_[i] * down() - p.pad[i], up());
      source_[i] = position_[i] / up();
    }
    in_ = static_cast<const T*>(t.in) + image * p.in_at.image + channel * p.in_at.channel;
    out_ = static_cast<T*>(t.out) + image * p.out_at.image + channel * p.out_at.channel;
  }

  template <typename Executor> HPD_HD void run(Executor&& each) {
    each([&](int i, int n) { load(i, n); });
    if (p.full) {
      each([&](int i, int n) { both(i, n); });
    } else {
      each([&](int i, int n) { along(i, n); });
      each([&](int i, int n) { across(i, n); });
    }
  }

 private:
  HPD_HD int up() const { return Up ? Up : p.up; }
  HPD_HD int down() const { return Down ? Down : p.down; }

  HPD_HD void load(int thread, int threads) {
    const int count = p.full ? p.taps[0] * p.taps[1] : p.taps[0];
    for (int i = thread; i < count; i += threads) along_[i] = t.along[p.flip ? count - 1 - i : i];
    for (int i = thread; i < p.taps[1] && !p.full; i += threads) {
      across_[i] = t.across[p.flip ? p.taps[1] - 1 - i : i];
    }
    for (int i = thread; i < p.source_tile[0] * width_; i += threads) {
      const int row = i / width_, rest = i - row * width_;
      const int column = rest >> p.group_shift, c = rest & (p.group() - 1);
      const int y = source_[0] + row, x = source_[1] + column;
      const bool inside = y >= 0 && y < p.in[0] && x >= 0 && x < p.in[1] && c < channels_;
      sources_[i] = inside ? Sum(widen(in_[c * p.in_at.channel + p.in_at.to(y, x)])) : Sum(0);
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
    for (int i = thread; i < p.tile[0] * width_; i += threads) {
      const int row = i / width_, place = i - row * width_;
      int source;
      Sum sum = 0;
      for (int tap = first_tap(0, row, &source); tap < p.taps[0]; tap += up(), ++source) {
        sum += along_[tap] * sources_[source * width_ + place];
      }
      between_[i] = sum;
    }
  }

  HPD_HD void across(int thread, int threads) {
    each_output(thread, threads, [&](int row, int column, int c) {
      int source;
      Sum sum = 0;
      for (int tap = first_tap(1, column, &source); tap < p.taps[1]; tap += up(), ++source) {
        sum += across_[tap] * between_[row * width_ + (source << p.group_shift) + c];
      }
      return sum;
    });
  }

  HPD_HD void both(int thread, int threads) {
    each_output(thread, threads, [&](int row, int column, int c) {
      int y, x;
      Sum sum = 0;
      const int left = first_tap(1, column, &x);
      for (int above = first_tap(0, row, &y); above < p.taps[0]; above += up(), ++y) {
        const Sum* from = sources_ + y * width_ + (x << p.group_shift) + c;
        for (int tap = left; tap < p.taps[1]; tap += up(), from += p.group()) {
          sum += along_[above * p.taps[1] + tap] * *from;
        }
      }
      return sum;
    });
  }

  template <typename Value> HPD_HD void each_output(int thread, int threads, Value&& value) const {
    const int width = p.tile[1] << p.group_shift;
    for (int i = thread; i < p.tile[0] * width; i += threads) {
      const int row = i / width, rest = i - row * width;
      const int column = rest >> p.group_shift, c = rest & (p.group() - 1);
      const int y = output_[0] + row, x = output_[1] + column;
      if (y >= p.out[0] || x >= p.out[1] || c >= channels_) continue;
      narrow(value(row, column, c) * p.gain, out_ + c * p.out_at.channel + p.out_at.to(y, x));
    }
  }

  const ResamplePlan& p;
  const ResampleTensors& t;
  const int width_;
  Sum *sources_, *between_, *along_, *across_;
  const T* in_;
  T* out_;
  int channels_, output_[2], position_[2], source_[2];
};

}  // namespace hpd
