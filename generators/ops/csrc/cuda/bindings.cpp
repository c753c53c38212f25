// The operations of schema.py on CUDA: dense tensors in, one launch each where a tile fits.
//
// Kernels see planes that are dense. What is channels-last is copied on the way in and out, since
// a plane's neighbours would lie a cache line apart.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include <cmath>
#include <optional>
#include <tuple>

#include "launch.h"

namespace hpd {
namespace {

using OptionalTensor = std::optional<at::Tensor>;

at::MemoryFormat format_of(const at::Tensor& x) {
  const bool last = x.dim() == 4 && x.is_contiguous(at::MemoryFormat::ChannelsLast) &&
                    !x.is_contiguous();
  return last ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous;
}

DType dtype_of(const at::Tensor& x, const char* name) {
  switch (x.scalar_type()) {
    case at::kFloat: return DType::kFloat;
    case at::kHalf: return DType::kHalf;
    case at::kBFloat16: return DType::kBFloat16;
    default: TORCH_CHECK(false, name, ": no kernel for ", x.scalar_type());
  }
}

cudaStream_t stream_of(const at::Tensor& x) {
  return c10::cuda::getCurrentCUDAStream(x.device().index()).stream();
}

at::Tensor taps_of(const at::Tensor& kernel, const at::Tensor& x) {
  TORCH_CHECK((kernel.dim() == 1 || kernel.dim() == 2) && kernel.numel() > 0,
              "a filter is [k] or [k, k] and not empty, got ", kernel.sizes());
  TORCH_CHECK(kernel.device() == x.device(), "a filter on ", kernel.device(), " for ", x.device());
  return kernel.to(at::kFloat).contiguous();
}

// Bias [C] rounded to the dtype of x, as float32.
at::Tensor offsets_of(const at::Tensor& x, const OptionalTensor& bias) {
  if (!bias) return {};
  TORCH_CHECK(bias->dim() == 1 && bias->size(0) == x.size(1) && bias->device() == x.device(),
              "a bias is [C], got ", bias->sizes(), " on ", bias->device(), " for ", x.sizes());
  return bias->to(x.scalar_type()).to(at::kFloat).contiguous();
}

const float* data_or_null(const at::Tensor& x) {
  return x.defined() ? x.const_data_ptr<float>() : nullptr;
}

int narrow_int(int64_t value) {
  TORCH_CHECK(std::abs(value) < (int64_t(1) << 30), "too large for the kernels: ", value);
  return int(value);
}

void check_image(const at::Tensor& x, const char* name) {
  TORCH_CHECK(x.dim() == 4, name, ": x is [N, C, H, W], got ", x.sizes());
}

// ---- upfirdn2d

struct Resampling {
  int64_t up, down;
  at::IntArrayRef pad, size;
  double gain;
  bool flip;
};

// x: dense
at::Tensor resample(const at::Tensor& x, const at::Tensor& kernel, const Resampling& r) {
  const at::Tensor taps = taps_of(kernel, x);
  ResamplePlan plan{};
  plan.planes = x.size(0) * x.size(1);
  for (int i = 0; i < 2; ++i) {
    plan.in[i] = narrow_int(x.size(2 + i)), plan.out[i] = narrow_int(r.size[i]);
    plan.taps[i] = narrow_int(taps.size(taps.dim() == 1 ? 0 : i));
    plan.pad[i] = narrow_int(r.pad[i]);
  }
  plan.up = narrow_int(r.up), plan.down = narrow_int(r.down);
  plan.separable = taps.dim() == 1, plan.flip = r.flip, plan.gain = float(r.gain);
  TORCH_CHECK(fit(plan), "upfirdn2d: a filter ", taps.sizes(), " is too large; HPD_OPS=reference ",
              "takes it");
  const at::Tensor y = at::empty({x.size(0), x.size(1), r.size[0], r.size[1]}, x.options());
  C10_CUDA_CHECK(launch_resample(plan, dtype_of(x, "upfirdn2d"), x.const_data_ptr(),
                                 taps.const_data_ptr<float>(), y.mutable_data_ptr(),
                                 stream_of(x)));
  return y;
}

at::Tensor upfirdn2d(const at::Tensor& x, const at::Tensor& kernel, int64_t up, int64_t down,
                     at::IntArrayRef pad, at::IntArrayRef size, double gain, bool flip) {
  check_image(x, "upfirdn2d");
  const c10::cuda::CUDAGuard guard(x.device());
  return resample(x.contiguous(), kernel, {up, down, pad, size, gain, flip})
      .contiguous(format_of(x));
}

// ---- filtered leaky ReLU

struct Filtering {
  int64_t up, down;
  int64_t pad[2], offset[2], raised[2], out[2];
  double gain, slope;
  std::optional<double> clamp;
  bool flip;
};

// Launch the fused kernel, or return nothing where no tile or no sign fits it.
at::Tensor filtered_in_tiles(const at::Tensor& x, const at::Tensor& offsets,
                             const at::Tensor& first, const at::Tensor& second,
                             const Filtering& f, Act act, const at::Tensor& record) {
  if (first.dim() != 1 || second.dim() != 1 || f.gain <= 0 || f.slope < 0) return {};
  FilteredPlan plan{};
  plan.planes = x.size(0) * x.size(1), plan.channels = x.size(1);
  for (int i = 0; i < 2; ++i) {
    plan.in[i] = narrow_int(x.size(2 + i)), plan.raised[i] = narrow_int(f.raised[i]);
    plan.out[i] = narrow_int(f.out[i]), plan.pad[i] = narrow_int(f.pad[i]);
    plan.offset[i] = narrow_int(f.offset[i]);
  }
  plan.up = narrow_int(f.up), plan.down = narrow_int(f.down), plan.flip = f.flip;
  plan.first_taps = narrow_int(first.numel()), plan.second_taps = narrow_int(second.numel());
  plan.gain = float(f.gain), plan.slope = float(f.slope);
  plan.clamp = float(f.clamp.value_or(0)), plan.clamped = f.clamp.has_value();
  if (!fit(plan)) return {};
  const at::Tensor y = at::empty({x.size(0), x.size(1), f.out[0], f.out[1]}, x.options());
  uint8_t* bytes = act == Act::kActivate ? nullptr : static_cast<uint8_t*>(record.data_ptr());
  const FilteredTensors tensors{x.const_data_ptr(),           data_or_null(offsets),
                                first.const_data_ptr<float>(), second.const_data_ptr<float>(),
                                bytes,                         y.mutable_data_ptr()};
  C10_CUDA_CHECK(launch_filtered(plan, act, dtype_of(x, "filtered_lrelu"), tensors, stream_of(x)));
  return y;
}

// The same through memory, in float32: matrices of taps, long filters, signs that change.
at::Tensor filtered_in_steps(const at::Tensor& x, const at::Tensor& offsets,
                             const at::Tensor& first, const at::Tensor& second,
                             const Filtering& f, Act act, const at::Tensor& record) {
  at::Tensor wide = x.to(at::kFloat);
  if (offsets.defined()) wide = wide.add(offsets.reshape({1, -1, 1, 1}));
  wide = resample(wide, first, {f.up, 1, f.pad, f.raised, 1.0, f.flip});
  const RaisedPlan plan{wide.size(0) * wide.size(1), narrow_int(f.raised[0]),
                        narrow_int(f.raised[1]),     float(f.gain),
                        float(f.slope),              float(f.clamp.value_or(0)),
                        f.clamp.has_value(),         act};
  uint8_t* bytes = act == Act::kActivate ? nullptr : static_cast<uint8_t*>(record.data_ptr());
  C10_CUDA_CHECK(launch_raised(plan, wide.mutable_data_ptr<float>(), bytes, stream_of(x)));
  const int64_t pad[2] = {-f.offset[0], -f.offset[1]};
  return resample(wide, second, {1, f.down, pad, f.out, 1.0, f.flip}).to(x.scalar_type());
}

at::Tensor filtered(const at::Tensor& x, const OptionalTensor& bias, const at::Tensor& first,
                    const at::Tensor& second, const Filtering& f, Act act,
                    const at::Tensor& record) {
  const at::Tensor dense = x.contiguous(), offsets = offsets_of(x, bias);
  const at::Tensor before = taps_of(first, x), after = taps_of(second, x);
  at::Tensor y = filtered_in_tiles(dense, offsets, before, after, f, act, record);
  if (!y.defined()) y = filtered_in_steps(dense, offsets, before, after, f, act, record);
  return y.contiguous(format_of(x));
}

std::tuple<at::Tensor, at::Tensor> filtered_lrelu(
    const at::Tensor& x, const OptionalTensor& bias, const at::Tensor& up_kernel,
    const at::Tensor& down_kernel, int64_t up, int64_t down, at::IntArrayRef padding, double gain,
    double slope, std::optional<double> clamp, bool record) {
  check_image(x, "filtered_lrelu");
  const c10::cuda::CUDAGuard guard(x.device());
  Filtering f{up, down, {padding[2], padding[0]}, {0, 0}, {}, {}, gain * double(up * up), slope,
              clamp, true};
  for (int i = 0; i < 2; ++i) {
    const int64_t first = up_kernel.size(-i), second = down_kernel.size(-i);
    f.raised[i] = x.size(2 + i) * up + padding[2 - 2 * i] + padding[3 - 2 * i] - (first - 1);
    f.out[i] = (f.raised[i] - (second - 1) + down - 1) / down;
    TORCH_CHECK(f.raised[i] >= second, "filtered_lrelu: nothing is left of ", x.sizes(),
                " behind these filters");
  }
  const auto bytes = x.options().dtype(at::kByte);
  // zeros: what no output needs is not computed, but must not be random
  const at::Tensor written =
      record ? at::zeros({x.size(0) * x.size(1), f.raised[0], (f.raised[1] + 3) / 4}, bytes)
             : at::empty({0}, bytes);
  const Act act = record ? Act::kRecord : Act::kActivate;
  return {filtered(x, bias, up_kernel, down_kernel, f, act, written), written};
}

std::tuple<at::Tensor, at::Tensor> filtered_mask(
    const at::Tensor& x, const at::Tensor& record, const at::Tensor& first,
    const at::Tensor& second, int64_t up, int64_t down, at::IntArrayRef pad,
    at::IntArrayRef offset, at::IntArrayRef raised, at::IntArrayRef out, double gain, double slope,
    bool clamped, bool flip, bool sums) {
  check_image(x, "filtered_mask");
  const c10::cuda::CUDAGuard guard(x.device());
  TORCH_CHECK(record.is_contiguous() && record.dim() == 3 &&
                  record.size(0) == x.size(0) * x.size(1) && record.size(1) == raised[0] &&
                  record.size(2) == (raised[1] + 3) / 4,
              "filtered_mask: the record ", record.sizes(), " does not fit ", x.sizes());
  const Filtering f{up, down, {pad[0], pad[1]}, {offset[0], offset[1]}, {raised[0], raised[1]},
                    {out[0], out[1]}, gain, slope,
                    clamped ? std::optional<double>(0) : std::nullopt, flip};
  const at::Tensor y = filtered(x, std::nullopt, first, second, f, Act::kDerivative, record);
  const at::Tensor total =
      sums ? y.sum({2, 3}, false, at::kFloat) : at::empty({0}, x.options().dtype(at::kFloat));
  return {y, total};
}

// ---- bias with activation

at::Tensor pointwise(const at::Tensor* grad, const at::Tensor& input, const OptionalTensor& bias,
                     double scale, double slope, std::optional<double> clamp, bool of_result) {
  TORCH_CHECK(input.dim() >= 2, "bias_act: x is [N, C, ...], got ", input.sizes());
  const c10::cuda::CUDAGuard guard(input.device());
  const at::MemoryFormat format = format_of(input);
  const at::Tensor x = input.contiguous(format), offsets = offsets_of(x, bias);
  const at::Tensor along = grad ? grad->contiguous(format) : at::Tensor();
  const at::Tensor y = at::empty(x.sizes(), x.options(), format);
  const int64_t outer = std::max<int64_t>(x.size(0) * x.size(1), 1);
  const int64_t inner = format == at::MemoryFormat::Contiguous ? x.numel() / outer : 1;
  const BiasActPlan plan{x.numel(),           std::max<int64_t>(inner, 1),
                         std::max<int64_t>(x.size(1), 1), float(scale),
                         float(scale * slope), float(clamp.value_or(0)),
                         clamp.has_value(),   of_result};
  C10_CUDA_CHECK(launch_bias_act(plan, dtype_of(x, "bias_act"),
                                 grad ? along.const_data_ptr() : nullptr, x.const_data_ptr(),
                                 data_or_null(offsets), y.mutable_data_ptr(), stream_of(x)));
  return y;
}

at::Tensor bias_act(const at::Tensor& x, const OptionalTensor& bias, double scale, double slope,
                    std::optional<double> clamp) {
  return pointwise(nullptr, x, bias, scale, slope, clamp, false);
}

at::Tensor bias_act_slope(const at::Tensor& grad, const at::Tensor& x, const OptionalTensor& bias,
                          double scale, double slope, std::optional<double> clamp,
                          bool of_result) {
  TORCH_CHECK(grad.sizes() == x.sizes() && grad.scalar_type() == x.scalar_type(),
              "bias_act_slope: got ", grad.sizes(), " and ", x.sizes());
  return pointwise(&grad, x, bias, scale, slope, clamp, of_result);
}

}  // namespace

TORCH_LIBRARY_IMPL(hpd, CUDA, m) {
  m.impl("bias_act", &bias_act);
  m.impl("bias_act_slope", &bias_act_slope);
  m.impl("upfirdn2d", &upfirdn2d);
  m.impl("filtered_lrelu", &filtered_lrelu);
  m.impl("filtered_mask", &filtered_mask);
}

}  // namespace hpd
