// Vectors whose lanes are channels, and rows of images moved between memory and such vectors.
//
// All kernels here put one plane (one channel of one image) into each lane, so a filter along
// either axis is a sum of whole vectors: no shuffles, no unaligned loads, no remainders, whatever
// the factors and sizes are. Moving rows in and out costs one transposition each way, or nothing
// where memory is channels-last.
#pragma once

#include <cstdint>
#include <cstring>
#include <utility>

#if defined(__AVX__) || defined(__F16C__)
#include <immintrin.h>
#endif

#include "number.h"

namespace hpd {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#else
constexpr int kLanes = 8;
#endif

template <typename A> struct LanesOf;
template <> struct LanesOf<float> {
  typedef float type __attribute__((vector_size(kLanes * 4)));
  typedef int32_t mask __attribute__((vector_size(kLanes * 4)));
};
template <> struct LanesOf<double> {
  typedef double type __attribute__((vector_size(kLanes * 8)));
  typedef int64_t mask __attribute__((vector_size(kLanes * 8)));
};
template <typename A> using Lanes = typename LanesOf<A>::type;
template <typename A> using Mask = typename LanesOf<A>::mask;

template <typename A> inline Lanes<A> broadcast(A value) { return value - Lanes<A>{}; }

// Where one is NaN they return b, as the instructions of x86 do.
template <typename V> inline V larger(V a, V b) { return a > b ? a : b; }
template <typename V> inline V smaller(V a, V b) { return a < b ? a : b; }

// ---- conversion of kLanes neighbours in memory

inline Lanes<float> load_lanes(const float* from) {
  Lanes<float> value;
  std::memcpy(&value, from, sizeof(value));
  return value;
}

inline Lanes<double> load_lanes(const double* from) {
  Lanes<double> value;
  std::memcpy(&value, from, sizeof(value));
  return value;
}

typedef uint16_t Words __attribute__((vector_size(kLanes * 2)));
typedef uint32_t DoubleWords __attribute__((vector_size(kLanes * 4)));

inline Lanes<float> load_lanes(const BFloat16* from) {
  Words words;
  std::memcpy(&words, from, sizeof(words));
  return reinterpret_cast<Lanes<float>>(__builtin_convertvector(words, DoubleWords) << 16);
}

inline Lanes<float> load_lanes(const Half* from) {
#if defined(__F16C__) && defined(__AVX__) && !defined(__AVX512F__)
  return Lanes<float>(_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))));
#else
  Lanes<float> value;
  for (int lane = 0; lane < kLanes; ++lane) value[lane] = widen(from[lane]);
  return value;
#endif
}

inline void store_lanes(float* to, Lanes<float> value) { std::memcpy(to, &value, sizeof(value)); }
inline void store_lanes(double* to, Lanes<double> value) { std::memcpy(to, &value, sizeof(value)); }

inline void store_lanes(BFloat16* to, Lanes<float> value) {
  const DoubleWords bits = reinterpret_cast<DoubleWords>(value);
  // to nearest, ties to even; a NaN must stay one, which the carry could undo
  const DoubleWords rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
  const DoubleWords words = value == value ? rounded : (bits >> 16 | 0x40);
  const Words narrow = __builtin_convertvector(words, Words);
  std::memcpy(to, &narrow, sizeof(narrow));
}

inline void store_lanes(Half* to, Lanes<float> value) {
#if defined(__F16C__) && defined(__AVX__) && !defined(__AVX512F__)
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm256_cvtps_ph(__m256(value), 0));
#else
  for (int lane = 0; lane < kLanes; ++lane) narrow(value[lane], to + lane);
#endif
}

// ---- transposition of kLanes x kLanes values

template <typename V, int... I>
inline V shuffle(V a, V b, std::integer_sequence<int, I...>) {
#if defined(__clang__) || __GNUC__ >= 12
  return __builtin_shufflevector(a, b, I...);
#else
  using M = std::conditional_t<sizeof(V) / kLanes == 4, Mask<float>, Mask<double>>;
  return __builtin_shuffle(a, b, M{I...});
#endif
}

// the six shuffles: what each lane of the result takes from the 2 * kLanes lanes of (a, b)
struct TakeLow {  // a0 b0 a1 b1 of every four lanes
  static constexpr int at(int l) { return (l & ~3) + (l & 3) / 2 + (l & 1) * kLanes; }
};
struct TakeHigh {  // a2 b2 a3 b3
  static constexpr int at(int l) { return TakeLow::at(l) + 2; }
};
template <int Block> struct TakeEven {  // blocks of lanes: a0 b0 a2 b2 ...
  static constexpr int at(int l) { return l & Block ? l - Block + kLanes : l; }
};
template <int Block> struct TakeOdd {  // a1 b1 a3 b3 ...
  static constexpr int at(int l) { return l & Block ? l + kLanes : l + Block; }
};

template <typename Take, typename V, int... L>
inline V take(V a, V b, std::integer_sequence<int, L...>) {
  return shuffle(a, b, std::integer_sequence<int, Take::at(L)...>{});
}
template <typename Take, typename V> inline V take(V a, V b) {
  return take<Take>(a, b, std::make_integer_sequence<int, kLanes>{});
}

template <int Block, typename V> inline void exchange_blocks(V* rows) {
  for (int i = 0; i < kLanes; ++i) {
    if (i & Block) continue;
    const V a = rows[i], b = rows[i + Block];
    rows[i] = take<TakeEven<Block>>(a, b);
    rows[i + Block] = take<TakeOdd<Block>>(a, b);
  }
}

template <typename V> inline void transpose(V* rows) {
  for (int i = 0; i < kLanes; i += 4) {
    const V a = take<TakeLow>(rows[i], rows[i + 1]), b = take<TakeHigh>(rows[i], rows[i + 1]);
    const V c = take<TakeLow>(rows[i + 2], rows[i + 3]);
    const V d = take<TakeHigh>(rows[i + 2], rows[i + 3]);
    rows[i] = take<TakeEven<2>>(a, c);
    rows[i + 1] = take<TakeOdd<2>>(a, c);
    rows[i + 2] = take<TakeEven<2>>(b, d);
    rows[i + 3] = take<TakeOdd<2>>(b, d);
  }
  exchange_blocks<4>(rows);
  if constexpr (kLanes == 16) exchange_blocks<8>(rows);
}

// ---- rows of planes

// A strided [N, C, H, W] in memory; its planes are numbered n * C + c.
template <typename T> struct Planes {
  T* data;
  int64_t images, channels, height, width;
  int64_t stride_n, stride_c, stride_h, stride_w;

  int64_t count() const { return images * channels; }
  int64_t groups() const { return (count() + kLanes - 1) / kLanes; }
};

// kLanes neighbouring planes; the last group repeats its last plane in the lanes left over.
template <typename T> class Group {
 public:
  Group(const Planes<T>& planes, int64_t index)
      : stride_h_(planes.stride_h), stride_w_(planes.stride_w) {
    const int64_t first = index * kLanes, count = planes.count();
    used_ = int(count - first < kLanes ? count - first : kLanes);
    for (int lane = 0; lane < kLanes; ++lane) {
      const int64_t plane = first + (lane < used_ ? lane : used_ - 1);
      const int64_t n = plane / planes.channels, c = plane % planes.channels;
      channel_[lane] = c;
      base_[lane] = planes.data + n * planes.stride_n + c * planes.stride_c;
      neighbours_ = neighbours_ && base_[lane] == base_[0] + lane;
    }
  }

  int64_t channel(int lane) const { return channel_[lane]; }
  int used() const { return used_; }

  // Read columns [begin, end) of row y, plus `add`, to to[0 ...].
  template <typename A>
  void load(int64_t y, int64_t begin, int64_t end, Lanes<A> add, Lanes<A>* to) const {
    const int64_t start = y * stride_h_;
    int64_t x = begin;
    if (neighbours_) {
      for (; x < end; ++x) *to++ = load_lanes(base_[0] + start + x * stride_w_) + add;
      return;
    }
    if (stride_w_ == 1) {
      for (; x + kLanes <= end; x += kLanes, to += kLanes) {
        Lanes<A> rows[kLanes];
        for (int lane = 0; lane < kLanes; ++lane) {
          rows[lane] = load_lanes(base_[lane] + start + x);
        }
        transpose(rows);
        for (int i = 0; i < kLanes; ++i) to[i] = rows[i] + add;
      }
    }
    for (; x < end; ++x, ++to) {
      Lanes<A> value;
      for (int lane = 0; lane < kLanes; ++lane) {
        value[lane] = widen(base_[lane][start + x * stride_w_]);
      }
      *to = value + add;
    }
  }

  // Write from[0 ... width) to row y.
  template <typename A> void store(int64_t y, int64_t width, const Lanes<A>* from) const {
    const int64_t start = y * stride_h_;
    int64_t x = 0;
    if (neighbours_) {
      for (; x < width; ++x) store_lanes(base_[0] + start + x * stride_w_, from[x]);
      return;
    }
    if (stride_w_ == 1) {
      for (; x + kLanes <= width; x += kLanes) {
        Lanes<A> rows[kLanes];
        for (int i = 0; i < kLanes; ++i) rows[i] = from[x + i];
        transpose(rows);
        for (int lane = 0; lane < used_; ++lane) store_lanes(base_[lane] + start + x, rows[lane]);
      }
    }
    for (; x < width; ++x) {
      for (int lane = 0; lane < used_; ++lane) {
        narrow(from[x][lane], base_[lane] + start + x * stride_w_);
      }
    }
  }

 private:
  T* base_[kLanes];
  int64_t channel_[kLanes];
  int64_t stride_h_, stride_w_;
  int used_;
  bool neighbours_ = true;
};

}  // namespace hpd
