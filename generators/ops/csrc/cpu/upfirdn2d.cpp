// hpd::upfirdn2d on the CPU; see schema.py for what it computes.
#include "tensors.h"

namespace hpd {
namespace {

template <typename T, typename A> class Resampler {
 public:
  Resampler(const Planes<const T>& in, const Planes<T>& out, const Filter<A>& filter)
      : in_(in), out_(out), filter_(filter),
        sources_(filter.along.taps / filter.along.up + 2, filter.across.width()),
        scratch_(1, filter.across.width()), result_(1, out.width) {}

  void run(int64_t index) {
    const Group<const T> source(in_, index);
    const Group<T> target(out_, index);
    sources_.restart();
    for (int64_t y = 0; y < out_.height; ++y) {
      const int64_t start = filter_.along.start(y);
      sources_.seek(start);
      pull(in_, source, filter_.across, Lanes<A>{}, start + filter_.along.phase(y).count, sources_);
      filter_row(filter_, y, sources_, scratch_.row(0), result_.row(0));
      target.template store<A>(y, out_.width, result_.row(0));
    }
  }

 private:
  const Planes<const T> in_;
  const Planes<T> out_;
  const Filter<A>& filter_;
  Window<A> sources_;
  Rows<A> scratch_, result_;
};

at::Tensor upfirdn2d(const at::Tensor& x, const at::Tensor& kernel, int64_t up, int64_t down,
                     at::IntArrayRef pad, at::IntArrayRef size, double gain, bool flip) {
  TORCH_CHECK(x.dim() == 4, "upfirdn2d: x is [N, C, H, W], got ", x.sizes());
  Taps taps = taps_of(kernel, flip);
  for (double& tap : taps.all.empty() ? taps.rows : taps.all) tap *= gain;
  const at::Tensor y = empty_like_of(x, size[0], size[1]);
  by_dtype(x, "upfirdn2d", [&](auto storage, auto sum) {
    using T = decltype(storage);
    using A = decltype(sum);
    const Filter<A> filter(Axis(taps.kh, up, down, pad[0], 0, size[0]),
                           Axis(taps.kw, up, down, pad[1], 0, size[1]), taps);
    const Planes<const T> in = planes_of<const T>(x);
    const Planes<T> out = planes_of<T>(y);
    at::parallel_for(0, in.groups(), 1, [&](int64_t begin, int64_t end) {
      Resampler<T, A> resampler(in, out, filter);
      for (int64_t group = begin; group < end; ++group) resampler.run(group);
    });
  });
  return y;
}

}  // namespace

TORCH_LIBRARY_IMPL(hpd, CPU, m) { m.impl("upfirdn2d", &upfirdn2d); }

}  // namespace hpd
