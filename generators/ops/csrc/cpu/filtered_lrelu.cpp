// hpd::filtered_lrelu and hpd::filtered_mask on the CPU; see schema.py for what they compute.
#include "filtered.h"
#include "tensors.h"

namespace hpd {
namespace {

constexpr int64_t kColumns = 64;  // of outputs, for which the scratch fits the inner caches

// Plan and run; wide images are done in strips of columns.
template <Act act, typename T, typename A>
void run_all(const Filtered<T, A>& whole, const Geometry& g, const Taps& first,
             const Taps& second) {
  const int64_t width = whole.out.width, strips = (width + kColumns - 1) / kColumns;
  const int64_t step = width > 3 * kColumns / 2 ? (width + strips - 1) / strips : width;
  std::vector<Filtered<T, A>> parts;
  for (int64_t x = 0; x < width; x += step) {
    Geometry strip = g;
    strip.offset[1] += x * g.down, strip.out[1] = std::min(step, width - x);
    parts.push_back(whole);
    parts.back().out.data += x * whole.out.stride_w, parts.back().out.width = strip.out[1];
    plan_filters(strip, first, second, act == Act::kDerivative, parts.back());
  }
  at::parallel_for(0, whole.in.groups(), 1, [&](int64_t begin, int64_t end) {
    std::vector<FilteredRunner<T, A, act>> runners(parts.begin(), parts.end());
    for (int64_t group = begin; group < end; ++group) {
      for (auto& runner : runners) runner.run(group);
    }
  });
}

std::tuple<at::Tensor, at::Tensor> filtered_lrelu(
    const at::Tensor& x, const std::optional<at::Tensor>& bias, const at::Tensor& up_kernel,
    const at::Tensor& down_kernel, int64_t up, int64_t down, at::IntArrayRef padding, double gain,
    double slope, std::optional<double> clamp, bool record) {
  TORCH_CHECK(x.dim() == 4, "filtered_lrelu: x is [N, C, H, W], got ", x.sizes());
  const Taps first = taps_of(up_kernel, true), second = taps_of(down_kernel, true);
  Geometry g{up, down, {padding[2], padding[0]}, {0, 0}, {}, {}};
  g.raised[0] = x.size(2) * up + padding[2] + padding[3] - (first.kh - 1);
  g.raised[1] = x.size(3) * up + padding[0] + padding[1] - (first.kw - 1);
  g.out[0] = (g.raised[0] - (second.kh - 1) + down - 1) / down;
  g.out[1] = (g.raised[1] - (second.kw - 1) + down - 1) / down;
  TORCH_CHECK(std::min(g.raised[0] - second.kh, g.raised[1] - second.kw) >= 0,
              "filtered_lrelu: nothing is left of ", x.sizes(), " behind these filters");
  const at::Tensor y = empty_like_of(x, g.out[0], g.out[1]);
  const int64_t planes = x.size(0) * x.size(1);
  const auto bytes = x.options().dtype(at::kByte);
  // zeros: what no output needs is not computed, but must not be random
  const at::Tensor mask =
      record ? at::zeros({(planes + 15) / 16, g.raised[0], g.raised[1], 4}, bytes)
             : at::empty({0}, bytes);
  by_dtype(x, "filtered_lrelu", [&](auto storage, auto sum) {
    using T = decltype(storage);
    using A = decltype(sum);
    const at::Tensor offsets =
        bias ? bias->to(x.scalar_type()).to(sum_type(x)).contiguous() : at::Tensor();
    Filtered<T, A> p{};
    p.in = planes_of<const T>(x), p.out = planes_of<T>(y);
    p.bias = bias ? offsets.const_data_ptr<A>() : nullptr;
    p.activation = {A(gain * up * up), A(slope), A(clamp.value_or(0)), clamp.has_value()};
    if (!record) return run_all<Act::kActivate>(p, g, first, second);
    p.record = mask.mutable_data_ptr<uint8_t>();
    run_all<Act::kRecord>(p, g, first, second);
  });
  return {y, mask};
}

std::tuple<at::Tensor, at::Tensor> filtered_mask(
    const at::Tensor& x, const at::Tensor& mask, const at::Tensor& first_kernel,
    const at::Tensor& second_kernel, int64_t up, int64_t down, at::IntArrayRef pad,
    at::IntArrayRef offset, at::IntArrayRef raised, at::IntArrayRef out, double gain, double slope, bool clamped,
    bool flip, bool sums) {
  TORCH_CHECK(x.dim() == 4, "filtered_mask: x is [N, C, H, W], got ", x.sizes());
  const Taps first = taps_of(first_kernel, flip), second = taps_of(second_kernel, flip);
  const Geometry g{up, down, {pad[0], pad[1]}, {offset[0], offset[1]},
                   {raised[0], raised[1]}, {out[0], out[1]}};
  const int64_t planes = x.size(0) * x.size(1);
  TORCH_CHECK(mask.is_contiguous() && mask.dim() == 4 && mask.size(0) == (planes + 15) / 16 &&
                  mask.size(1) == raised[0] && mask.size(2) == raised[1],
              "filtered_mask: the record ", mask.sizes(), " does not fit ", x.sizes());
  const at::Tensor y = empty_like_of(x, g.out[0], g.out[1]);
  const at::Tensor total = sums ? at::zeros({x.size(0), x.size(1)}, x.options().dtype(sum_type(x)))
                                : at::empty({0}, x.options().dtype(sum_type(x)));
  by_dtype(x, "filtered_mask", [&](auto storage, auto sum) {
    using T = decltype(storage);
    using A = decltype(sum);
    Filtered<T, A> p{};
    p.in = planes_of<const T>(x), p.out = planes_of<T>(y);
    p.sums = sums ? total.mutable_data_ptr<A>() : nullptr;
    p.activation = {A(gain), A(slope), A(0), clamped};
    p.record = static_cast<uint8_t*>(mask.data_ptr());
    run_all<Act::kDerivative>(p, g, first, second);
  });
  return {y, total};
}

}  // namespace

TORCH_LIBRARY_IMPL(hpd, CPU, m) {
  m.impl("filtered_lrelu", &filtered_lrelu);
  m.impl("filtered_mask", &filtered_mask);
}

}  // namespace hpd
