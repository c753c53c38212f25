// hpd::bias_act and hpd::bias_act_slope on the CPU; see schema.py for what they compute.
//
// Values are streamed once. Memory is seen as rows: [N * C, H * W] with one bias per row where
// planes are dense, [N * H * W, C] with a row of biases where channels are.
#include "tensors.h"

namespace hpd {
namespace {

constexpr int64_t kGrain = 16384;  // values that make a thread worth its while

// y = clamp(x * (x > 0 ? rising : falling)); all are of type V: one value or kLanes of them
template <typename V> struct Form {
  V rising, falling, most;
  bool clamped;

  template <typename W> Form<W> spread() const {
    return {rising - W{}, falling - W{}, most - W{}, clamped};
  }
};

template <typename V> inline V act(V x, const Form<V>& f) {
  x *= x > V{} ? f.rising : f.falling;
  // the branch is the same for all values, so it costs nothing
  return f.clamped ? larger(-f.most, smaller(f.most, x)) : x;
}

// The derivative of `act`, times grad, where x is what `act` got or, `of_result`, what it gave; at
// the clamp it is 0, as torch has it, and so it is of NaN then.
template <typename V> inline V slope_at(V x, V grad, const Form<V>& f, bool of_result) {
  const V factor = x > V{} ? f.rising : f.falling;
  grad *= factor;
  if (!f.clamped) return grad;
  if (!of_result) x *= factor;
  return x > -f.most ? (x < f.most ? grad : V{}) : V{};
}

// `rows` of `length`; bias: one for each value of a row, or one for each of `period` rows
struct Layout {
  int64_t rows, length;
  bool bias_along_row;
  int64_t period;
};

Layout layout_of(const at::Tensor& x) {
  const int64_t channels = x.size(1), images = x.size(0);
  const int64_t pixels = x.numel() / std::max<int64_t>(channels * images, 1);
  if (pixels == 1 || !x.is_contiguous()) return {images * pixels, channels, true, 1};
  return {images * channels, pixels, false, channels};
}

// Do f(row) for every row.
template <typename F> void by_row(const Layout& layout, const F& f) {
  const int64_t grain = std::max<int64_t>(kGrain / std::max<int64_t>(layout.length, 1), 1);
  at::parallel_for(0, layout.rows, grain, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) f(row);
  });
}

template <typename T, typename A>
void act_rows(const Layout& layout, const Form<A>& form, const T* x, const A* bias, T* y) {
  const Form<Lanes<A>> wide = form.template spread<Lanes<A>>();
  by_row(layout, [&](int64_t row) {
    const T* from = x + row * layout.length;
    T* to = y + row * layout.length;
    const A* along = layout.bias_along_row ? bias : nullptr;
    const A add = bias && !along ? bias[row % layout.period] : A(0);
    int64_t i = 0;
    for (; i + kLanes <= layout.length; i += kLanes) {
      const Lanes<A> offset = along ? load_lanes(along + i) : broadcast(add);
      store_lanes(to + i, act(load_lanes(from + i) + offset, wide));
    }
    for (; i < layout.length; ++i) {
      narrow(act(widen(from[i]) + (along ? along[i] : add), form), to + i);
    }
  });
}

template <typename T, typename A>
void slope_rows(const Layout& layout, const Form<A>& form, const T* grad, const T* x,
                const A* bias, bool of_result, T* dx) {
  const Form<Lanes<A>> wide = form.template spread<Lanes<A>>();
  by_row(layout, [&](int64_t row) {
    const int64_t start = row * layout.length;
    const A* along = layout.bias_along_row ? bias : nullptr;
    const A add = bias && !along ? bias[row % layout.period] : A(0);
    int64_t i = 0;
    for (; i + kLanes <= layout.length; i += kLanes) {
      const Lanes<A> offset = along ? load_lanes(along + i) : broadcast(add);
      const Lanes<A> value = load_lanes(x + start + i) + offset;
      const Lanes<A> rise = load_lanes(grad + start + i);
      store_lanes(dx + start + i, slope_at(value, rise, wide, of_result));
    }
    for (; i < layout.length; ++i) {
      const A value = widen(x[start + i]) + (along ? along[i] : add);
      narrow(slope_at(value, A(widen(grad[start + i])), form, of_result), dx + start + i);
    }
  });
}

// Bias [C] rounded to the dtype of x, in the type of sums.
at::Tensor offsets_of(const at::Tensor& x, const std::optional<at::Tensor>& bias) {
  if (!bias) return {};
  TORCH_CHECK(bias->dim() == 1 && bias->size(0) == x.size(1), "bias_act: a bias is [C], got ",
              bias->sizes(), " for ", x.sizes());
  return bias->to(x.scalar_type()).to(sum_type(x)).contiguous();
}

template <typename A> Form<A> form_of(double scale, double slope, std::optional<double> clamp) {
  return {A(scale), A(scale * slope), A(clamp.value_or(0)), clamp.has_value()};
}

at::Tensor bias_act(const at::Tensor& input, const std::optional<at::Tensor>& bias, double scale,
                    double slope, std::optional<double> clamp) {
  TORCH_CHECK(input.dim() >= 2, "bias_act: x is [N, C, ...], got ", input.sizes());
  const at::Tensor x = input.contiguous(format_of(input)), offsets = offsets_of(x, bias);
  const at::Tensor y = at::empty(x.sizes(), x.options(), format_of(x));
  by_dtype(x, "bias_act", [&](auto storage, auto sum) {
    using T = decltype(storage);
    using A = decltype(sum);
    act_rows<T, A>(layout_of(x), form_of<A>(scale, slope, clamp),
                   static_cast<const T*>(x.const_data_ptr()),
                   bias ? offsets.const_data_ptr<A>() : nullptr, static_cast<T*>(y.data_ptr()));
  });
  return y;
}

at::Tensor bias_act_slope(const at::Tensor& grad, const at::Tensor& input,
                          const std::optional<at::Tensor>& bias, double scale, double slope,
                          std::optional<double> clamp, bool of_result) {
  TORCH_CHECK(grad.sizes() == input.sizes() && input.dim() >= 2, "bias_act_slope: got ",
              grad.sizes(), " and ", input.sizes());
  const at::Tensor x = input.contiguous(format_of(input)), offsets = offsets_of(x, bias);
  const at::Tensor along = grad.contiguous(format_of(x));
  const at::Tensor dx = at::empty(x.sizes(), x.options(), format_of(x));
  by_dtype(x, "bias_act_slope", [&](auto storage, auto sum) {
    using T = decltype(storage);
    using A = decltype(sum);
    slope_rows<T, A>(layout_of(x), form_of<A>(scale, slope, clamp),
                     static_cast<const T*>(along.const_data_ptr()),
                     static_cast<const T*>(x.const_data_ptr()),
                     bias ? offsets.const_data_ptr<A>() : nullptr, of_result,
                     static_cast<T*>(dx.data_ptr()));
  });
  return dx;
}

}  // namespace

TORCH_LIBRARY_IMPL(hpd, CPU, m) {
  m.impl("bias_act", &bias_act);
  m.impl("bias_act_slope", &bias_act_slope);
}

}  // namespace hpd
