// What a block of filtered leaky ReLU has around its filters: where its tile lies, what it reads of
// the plane and writes to it, and sums over the tile.
#pragma once

#include "runs.h"

namespace hpd {

template <typename T, Act act> class FilteredRoom {
 public:
  using Sum = typename SumOf<T>::Type;

 protected:
  static constexpr int kParts = 16;

  // up: the factor; matrices: whether the first and the second filter are such.
  HPD_HD FilteredRoom(const FilteredPlan& plan, const FilteredTensors& tensors, int64_t block,
                      Sum* shared, int up, bool first_matrix, bool second_matrix)
      : p(plan), t(tensors), first_matrix_(first_matrix), second_matrix_(second_matrix) {
    a_ = shared, b_ = a_ + p.floats_a, results_ = b_ + p.floats_b;
    sources_ = results_ + (int64_t(p.floats_out) << p.group_shift);
    first_ = sources_ + (int64_t(p.floats_in) << p.group_shift);
    if (p.group_shift == 0) sources_ = first_matrix ? b_ : a_;
    first_across_ = first_ + (first_matrix ? 0 : p.first_taps[0]);
    second_ = first_ + count_of(p.first_taps, first_matrix);
    second_across_ = second_ + (second_matrix ? 0 : p.second_taps[0]);
    parts_ = second_ + count_of(p.second_taps, second_matrix);
    const int64_t bundle = block / p.tiles_of_plane();
    tile_ = int(block - bundle * p.tiles_of_plane());
    image_ = bundle / p.groups();
    first_channel_ = (bundle - image_ * p.groups()) << p.group_shift;
    const int64_t left = p.channels - first_channel_;
    channels_ = left < p.group() ? int(left) : p.group();
    const int at[2] = {tile_ / p.tiles[1], tile_ % p.tiles[1]};
    for (int i = 0; i < 2; ++i) place(i, at[i], up);
  }

  HPD_HD bool sums() const { return act == Act::kDerivative && p.sums; }
  HPD_HD static int count_of(const int* taps, bool matrix) {
    return matrix ? taps[0] * taps[1] : taps[0] + taps[1];
  }

  HPD_HD void place(int i, int at, int up) {
    output_[i] = at * p.tile[i];
    const int needed = output_[i] * p.down + p.offset[i];
    start_[i] = i == 1 ? floor_to(needed, 4) : needed;
    const int position = floor_to(start_[i] - p.pad[i], up);
    before_[i] = start_[i] - p.pad[i] - position;
    ahead_[i] = needed - start_[i] + before_[i];
    source_[i] = position / up;
    // of what several rectangles hold, one counts: what lies before its neighbour's
    own_begin_[i] = at == 0 ? -(1 << 30) : needed;
    own_end_[i] = at + 1 == p.tiles[i] ? 1 << 30 : needed + p.tile[i] * p.down;
  }

  // Take up channel c of the group.
  HPD_HD void enter(int c) {
    const int64_t channel = first_channel_ + c, plane = image_ * p.channels + channel;
    source_room_ = sources_ + int64_t(c) * p.floats_in;
    result_room_ = results_ + int64_t(c) * p.floats_out;
    record_ = t.record ? t.record + plane * p.raised[0] * p.record_width() : nullptr;
    const int64_t out = image_ * p.out_at.image + channel * p.out_at.channel;
    out_ = static_cast<T*>(t.out) + out;
    beside_ = t.beside ? static_cast<const T*>(t.beside) + out : nullptr;
    scaled_ = act == Act::kDerivative ? t.before || t.after : t.after != nullptr;
    scale_ = scale_of(t.after, plane);
    if (act == Act::kDerivative) scale_ *= scale_of(t.before, plane);
    totals_ = sums() ? static_cast<Sum*>(t.totals) + (plane * p.tiles_of_plane() + tile_) * 3
                     : nullptr;
  }

  HPD_HD static Sum scale_of(const void* scales, int64_t plane) {
    return scales ? rounded<T>(static_cast<const Sum*>(scales)[plane]) : Sum(1);
  }

  HPD_HD void load_taps(int thread, int threads, const float* along, const float* across,
                        const int* taps, bool matrix, Sum* to) const {
    const int count = matrix ? taps[0] * taps[1] : taps[0];
    for (int i = thread; i < count; i += threads) to[i] = along[p.flip ? count - 1 - i : i];
    for (int i = thread; i < taps[1] && !matrix; i += threads) {
      to[count + i] = across[p.flip ? taps[1] - 1 - i : i];
    }
  }

  HPD_HD void load(int thread, int threads) {
    load_taps(thread, threads, t.first, t.first_across, p.first_taps, first_matrix_, first_);
    load_taps(thread, threads, t.second, t.second_across, p.second_taps, second_matrix_, second_);
    const T* in = static_cast<const T*>(t.in) + image_ * p.in_at.image;
    const int items = (p.source_tile[0] * p.source_tile[1]) << p.group_shift;
    for (int i = thread; i < items; i += threads) {
      // channels of a group are neighbours in memory
      const int pixel = i >> p.group_shift, c = i & (p.group() - 1);
      const int row = pixel / p.source_tile[1], column = pixel - row * p.source_tile[1];
      const int y = source_[0] + row, x = source_[1] + column;
      if (c >= channels_) continue;
      const bool inside = y >= 0 && y < p.in[0] && x >= 0 && x < p.in[1];
      const int64_t channel = first_channel_ + c;
      sources_[c * p.floats_in + row * p.pitch_source + column] =
          inside ? entered(widen(in[channel * p.in_at.channel + p.in_at.to(y, x)]), channel) : 0;
    }
    if (p.group_shift && sums() && t.beside) load_beside(thread, threads);
  }

  HPD_HD Sum entered(Sum value, int64_t channel) const {
    if (act == Act::kDerivative) return value;
    if (t.before) value *= scale_of(t.before, image_ * p.channels + channel);
    return t.bias ? value + rounded<T>(static_cast<const Sum*>(t.bias)[channel]) : value;
  }

  // Until results come, their room holds what they are multiplied with.
  HPD_HD void load_beside(int thread, int threads) {
    const T* beside = static_cast<const T*>(t.beside) + image_ * p.out_at.image;
    each_output(thread, threads, [&](int room, int64_t at) {
      results_[room] = widen(beside[at]);
    });
  }

  HPD_HD void store(int thread, int threads) {
    T* out = static_cast<T*>(t.out) + image_ * p.out_at.image;
    each_output(thread, threads, [&](int room, int64_t at) { narrow(results_[room], out + at); });
  }

  template <typename Each> HPD_HD void each_output(int thread, int threads, Each&& each) const {
    const int items = (p.tile[0] * p.tile[1]) << p.group_shift;
    for (int i = thread; i < items; i += threads) {
      const int pixel = i >> p.group_shift, c = i & (p.group() - 1);
      const int row = pixel / p.tile[1], column = pixel - row * p.tile[1];
      const int y = output_[0] + row, x = output_[1] + column;
      if (c >= channels_ || y >= p.out[0] || x >= p.out[1]) continue;
      each(c * p.floats_out + row * p.pitch_tile + column,
           (first_channel_ + c) * p.out_at.channel + p.out_at.to(y, x));
    }
  }

  HPD_HD void put(int row, int column, Sum value, Sum* totals) {
    const int y = output_[0] + row, x = output_[1] + column;
    if (y >= p.out[0] || x >= p.out[1]) return;
    Sum* room = result_room_ + row * p.pitch_tile + column;
    const int64_t at = p.out_at.to(y, x);
    if (sums()) {
      totals[0] += value;
      if (beside_) totals[1] += value * (p.group_shift ? *room : Sum(widen(beside_[at])));
    }
    // what a layer that is asked for its own result would have rounded, and then scaled
    if (scaled_) value = (act == Act::kDerivative ? value : rounded<T>(value)) * scale_;
    if (p.group_shift) {
      *room = value;
    } else {
      narrow(value, out_ + at);
    }
  }

  // ---- sums over the tile, in an order that does not depend on which thread is first

  HPD_HD void tell_parts(int thread, const Sum* totals) {
    if (!sums()) return;
    for (int k = 0; k < 2; ++k) parts_[thread * 3 + k] = totals[k];
  }

  HPD_HD void add_parts(int thread, int threads) {
    for (int i = thread; i < kParts * 3; i += threads) {
      const int part = i / 3, k = i - part * 3;
      if (part >= threads) continue;
      Sum sum = 0;
      for (int other = part; other < threads; other += kParts) sum += parts_[other * 3 + k];
      parts_[i] = sum;
    }
  }

  HPD_HD void tell_totals(int thread, int threads) {
    for (int k = thread; k < 3; k += threads) {
      Sum sum = 0;
      for (int part = 0; part < kParts && part < threads; ++part) sum += parts_[part * 3 + k];
      totals_[k] = sum;
    }
  }

  const FilteredPlan& p;
  const FilteredTensors& t;
  Sum *a_, *b_, *sources_, *results_, *source_room_, *result_room_, *parts_, *totals_;
  Sum *first_, *first_across_, *second_, *second_across_;
  T* out_;
  const T* beside_;
  uint8_t* record_;
  const bool first_matrix_, second_matrix_;
  Sum scale_;
  bool scaled_;
  int64_t image_, first_channel_;
  int channels_, tile_;
  int output_[2];  // the tile's first output
  int start_[2];   // the first of the raised plane that the rectangle must hold
  int before_[2];  // positions in front of it
  int ahead_[2];   // position where the window of the first output starts
  int source_[2];  // source at position 0
  int own_begin_[2], own_end_[2];
};

}  // namespace hpd
