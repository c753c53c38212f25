// What kernels are told beside values: geometry, tiles, and where tensors lie. All of it is laid
// out by generators/ops/plans.py, whose structures are these; tiles are chosen there, too.
//
// Pairs are y, x. A filter is two vectors of taps, along (y) and across (x), or, where it is
// `full`, a matrix in rows.
#pragma once

#include "number.h"

namespace hpd {

enum class Act { kActivate, kRecord, kDerivative };

// Which of two filters is a matrix; kAsked: the plan says so.
enum class Full { kNeither, kFirst, kSecond, kAsked };

// Of a block.
constexpr int kThreads = 256;

// Runs of outputs that one thread computes from values it keeps; tiles are multiples of them.
constexpr int kRun = 4;

// What is added up: values of 64 bits only where tests run the kernels on the host.
template <typename T> struct SumOf { using Type = float; };
template <> struct SumOf<double> { using Type = double; };

// A value as it is stored.
template <typename T> HPD_HD typename SumOf<T>::Type rounded(typename SumOf<T>::Type value) {
  T stored;
  narrow(value, &stored);
  return widen(stored);
}

// From a value to its neighbours, in values.
struct Strides {
  int64_t image, channel;
  int row, column;

  HPD_HD int64_t to(int y, int x) const { return int64_t(y) * row + int64_t(x) * column; }
};

// Division by a number d that is known before, as a product. With m = ceil(2^64 / d) the quotient is
// floor(n m / 2^64) wherever n d <= 2^64: m is too large by less than 1, so the product over 2^64 by
// less than n / 2^64 <= 1 / d.
struct Divider {
  uint64_t divisor, multiplier;  // multiplier: 0 for a divisor of 1

  HPD_HD uint64_t quotient(uint64_t n) const {
    if (multiplier == 0) return n;
#if defined(__CUDA_ARCH__)
    return __umul64hi(n, multiplier);
#else
    return uint64_t(static_cast<unsigned __int128>(n) * multiplier >> 64);
#endif
  }
};

struct FilteredPlan {
  int64_t images, channels;
  Strides in_at, out_at;
  int in[2], raised[2], out[2];
  int up, down, first_taps[2], second_taps[2];
  int pad[2], offset[2];
  float gain, slope, clamp;
  bool clamped, flip;  // flip: taps are to be reversed, which makes a true convolution
  bool first_full, second_full;
  bool sums;  // whether sums over planes are wanted beside the derivative
  // tiles
  int group_shift;  // channels that a block takes: 2^this, more than 1 where they are neighbours
  int tile[2], tiles[2];
  int raised_tile[2];  // rectangle of the raised plane, in positions
  int source_tile[2];
  int pitch_source, pitch_raised, pitch_tile;  // odd: neighbours in a column lie in other banks
  int floats_a, floats_b;                      // of shared memory, for one plane at a time
  int floats_in, floats_out;                   // for each channel of a group

  HPD_HD int group() const { return 1 << group_shift; }
  HPD_HD int64_t groups() const { return (channels + group() - 1) >> group_shift; }
  HPD_HD int64_t tiles_of_plane() const { return int64_t(tiles[0]) * tiles[1]; }
  HPD_HD int64_t blocks() const { return images * groups() * tiles_of_plane(); }
  HPD_HD int record_width() const { return (raised[1] + 3) / 4; }
};

struct FilteredTensors {
  const void* in;
  const void *bias, *before, *after;  // sums: [C], [N, C], [N, C], each may be null
  const float *first, *first_across, *second, *second_across;
  uint8_t* record;     // null for Act::kActivate
  void* out;
  const void* beside;  // like out: what results are multiplied with for the second sum, or null
  void* totals;        // [N, C, tiles, 3], where sums are wanted
};

struct ResamplePlan {
  int64_t images, channels;
  Strides in_at, out_at;
  int in[2], out[2], taps[2], pad[2];
  int up, down;
  bool full, flip;
  float gain;
  int group_shift, tile[2], tiles[2], source_tile[2];

  HPD_HD int group() const { return 1 << group_shift; }
  HPD_HD int64_t groups() const { return (channels + group() - 1) >> group_shift; }
  HPD_HD int64_t blocks() const { return images * groups() * tiles[0] * tiles[1]; }
};

struct ResampleTensors {
  const void* in;
  const float *along, *across;
  void* out;
};

// y = clamp(x * (x > 0 ? rising : falling)) of x plus the bias of channel (i / inner) % channels.
struct BiasActPlan {
  int64_t count;
  Divider by_inner, by_channels;
  float rising, falling, clamp;
  bool clamped, of_result;
};

// Act on raised planes [planes, height, width] in memory, where no tile holds them.
struct RaisedPlan {
  int64_t planes;
  int height, width;
  float gain, slope, clamp;
  bool clamped;
  Act act;

  HPD_HD int64_t items() const { return planes * height * ((width + 3) / 4); }
};

// Add up the sums of tiles, and make of them what derivatives by bias and scales need.
struct TotalsPlan {
  int64_t planes, channels, tiles;
};

}  // namespace hpd
