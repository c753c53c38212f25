// A driver of NVIDIA that runs the kernels of csrc/cuda on the host, thread after thread.
//
// Steps between which a GPU's threads wait for each other are run for all threads in turn, first
// to last or last to first: if that changes anything, threads of one step depend on each other.
// Shared memory starts as NaN in every block, between margins that nothing may touch. As on a GPU,
// more than 48 KiB of it must have been asked for, and no more than the card has.
//
// `definitions.inc`, which is made by the tests, names the kernels as kernels.cu does.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <map>
#include <string>
#include <vector>

#include "cuda/filtered.h"
#include "cuda/pointwise.h"
#include "cuda/resample.h"

namespace {

constexpr int kMargin = 4096;
constexpr int kGiven = 48 * 1024;

struct Card {
  int shared = 227 * 1024, processors = 132, threads = hpd::kThreads;
  bool backwards = false;
  void* context = nullptr;
};
Card card;

struct Threads {
  template <typename Step> void operator()(Step&& step) const {
    const int count = card.threads;
    for (int i = 0; i < count; ++i) step(card.backwards ? count - 1 - i : i, count);
  }
};

// What a launch gives: the addresses of arguments, the grid, bytes of shared memory.
struct Given {
  void** arguments;
  unsigned blocks;
  unsigned shared;

  template <typename T> const T& at(int i) const { return *static_cast<const T*>(arguments[i]); }
};
using Kernel = std::function<bool(const Given&)>;
std::map<std::string, Kernel>& kernels() {
  static std::map<std::string, Kernel> all;
  return all;
}
struct Entry {
  Entry(const char* name, Kernel kernel) { kernels()[name] = std::move(kernel); }
};

// Run every tile; false if a margin was written to.
template <typename Tile, typename Plan, typename Tensors> bool run_tiles(const Given& given) {
  using Sum = typename Tile::Sum;
  const Plan& plan = given.at<Plan>(0);
  const Sum nan = std::numeric_limits<Sum>::quiet_NaN();
  const size_t count = given.shared / sizeof(Sum);
  std::vector<Sum> memory(count + 2 * kMargin);
  for (int64_t first = 0; first < given.blocks; ++first) {
    for (int64_t block = first; block < plan.blocks(); block += given.blocks) {
      std::fill(memory.begin(), memory.end(), nan);
      Tile tile(plan, given.at<Tensors>(1), block, memory.data() + kMargin);
      tile.run(Threads());
      for (int i = 0; i < kMargin; ++i) {
        if (!std::isnan(memory[i]) || !std::isnan(memory[memory.size() - 1 - i])) return false;
      }
    }
  }
  return true;
}

// One thread of each block is enough where they have nothing in common; item 0, stride 3 and so on.
template <typename Each> bool in_turn(const Each& each) {
  for (int i = 0; i < 3; ++i) each(i, 3);
  return true;
}

}  // namespace

#define HPD_FILTERED(name, T, act, up, down, first, second, full)                              \
  namespace { const Entry entry_##name(#name, [](const Given& given) {                         \
    using namespace hpd;                                                                       \
    using Tile = FilteredTile<T, Act::act, up, down, first, second, Full::full>;               \
    return run_tiles<Tile, FilteredPlan, FilteredTensors>(given);                              \
  }); }

#define HPD_RESAMPLE(name, T, up, down)                                                        \
  namespace { const Entry entry_##name(#name, [](const Given& given) {                         \
    using namespace hpd;                                                                       \
    return run_tiles<ResampleTile<T, up, down>, ResamplePlan, ResampleTensors>(given);         \
  }); }

#define HPD_BIAS_ACT(name, T)                                                                  \
  namespace { const Entry entry_##name(#name, [](const Given& g) {                             \
    using namespace hpd;                                                                       \
    const BiasActPlan& plan = g.at<BiasActPlan>(0);                                            \
    const T *grad = g.at<const T*>(1), *x = g.at<const T*>(2);                                 \
    T* y = g.at<T*>(4);                                                                        \
    const bool packed = g.at<bool>(5);                                                         \
    return in_turn([&](int64_t i, int64_t n) {                                                 \
      int64_t begin = 0;                                                                       \
      if (packed) {                                                                            \
        begin = plan.count / Pack<T>::kSize * Pack<T>::kSize;                                  \
        bias_act_packs(plan, reinterpret_cast<const Pack<T>*>(grad),                           \
                       reinterpret_cast<const Pack<T>*>(x), g.at<const float*>(3),             \
                       reinterpret_cast<Pack<T>*>(y), i, n);                                   \
      }                                                                                        \
      bias_act_values(plan, grad, x, g.at<const float*>(3), y, begin, i, n);                   \
    });                                                                                        \
  }); }

#define HPD_TOTALS(name, T)                                                                    \
  namespace { const Entry entry_##name(#name, [](const Given& g) {                             \
    using Sum = hpd::SumOf<T>::Type;                                                           \
    return in_turn([&](int64_t i, int64_t n) {                                                 \
      hpd::add_totals<T>(g.at<hpd::TotalsPlan>(0), g.at<const Sum*>(1), g.at<const Sum*>(2),   \
                         g.at<const Sum*>(3), g.at<const Sum*>(4), g.at<Sum*>(5), i, n);       \
    });                                                                                        \
  }); }

#define HPD_RAISED(name)                                                                       \
  namespace { const Entry entry_##name(#name, [](const Given& g) {                             \
    return in_turn([&](int64_t i, int64_t n) {                                                 \
      hpd::act_on_raised(g.at<hpd::RaisedPlan>(0), g.at<float*>(1), g.at<uint8_t*>(2), i, n);  \
    });                                                                                        \
  }); }

#include "definitions.inc"

namespace {

// A function of the driver: a kernel, and what it was allowed.
struct Function {
  std::string name;
  int allowed = kGiven;
};
std::map<std::pair<void*, std::string>, Function> functions;

constexpr int kInvalid = 1, kNotFound = 500, kNoBinary = 209, kNoContext = 201, kFailed = 719;

}  // namespace

extern "C" {

void pretend_card(int shared, int processors) {
  card.shared = shared, card.processors = processors;
}
void pretend_threads(int threads, int backwards) {
  card.threads = threads, card.backwards = backwards != 0;
}
void pretend_new_thread() { card.context = nullptr; }

int cuInit(unsigned) { return 0; }
int cuCtxGetCurrent(void** context) { return *context = card.context, 0; }
int cuCtxSetCurrent(void* context) { return card.context = context, 0; }
int cuDeviceGet(int* device, int index) { return *device = index, 0; }
int cuDevicePrimaryCtxRetain(void** context, int) { return *context = &card, 0; }
int cuDeviceGetAttribute(int* value, int which, int) {
  *value = which == 16 ? card.processors : which == 97 ? card.shared : -1;
  return 0;
}
int cuGetErrorName(int error, const char** name) {
  static const std::map<int, const char*> names = {
      {kInvalid, "CUDA_ERROR_INVALID_VALUE"},   {kNoContext, "CUDA_ERROR_INVALID_CONTEXT"},
      {kNoBinary, "CUDA_ERROR_NO_BINARY_FOR_GPU"}, {kNotFound, "CUDA_ERROR_NOT_FOUND"},
      {kFailed, "CUDA_ERROR_LAUNCH_FAILED"}};
  const auto found = names.find(error);
  *name = found == names.end() ? nullptr : found->second;
  return 0;
}
int cuModuleLoadData(void** module, const void* code) {
  if (!card.context) return kNoContext;
  if (std::strncmp(static_cast<const char*>(code), "elsewhere", 9) == 0) return kNoBinary;
  static int modules = 0;
  *module = reinterpret_cast<void*>(intptr_t(++modules));
  return 0;
}
int cuModuleGetFunction(void** function, void* module, const char* name) {
  if (!module || !kernels().count(name)) return kNotFound;
  Function& its = functions[{module, name}];
  its.name = name;
  *function = &its;
  return 0;
}
int cuFuncSetAttribute(void* function, int which, int value) {
  if (which != 8 || value > card.shared) return kInvalid;
  static_cast<Function*>(function)->allowed = value;
  return 0;
}
int cuLaunchKernel(void* function, unsigned blocks, unsigned, unsigned, unsigned threads, unsigned,
                   unsigned, unsigned shared, void*, void** arguments, void**) {
  const Function& its = *static_cast<Function*>(function);
  if (!card.context) return kNoContext;
  if (blocks == 0 || threads != hpd::kThreads || int(shared) > its.allowed) return kInvalid;
  return kernels()[its.name]({arguments, blocks, shared}) ? 0 : kFailed;
}

// What Python lays out must be as large.
int plan_size(int which) {
  const int sizes[] = {
      sizeof(hpd::FilteredPlan),    sizeof(hpd::FilteredTensors), sizeof(hpd::ResamplePlan),
      sizeof(hpd::ResampleTensors), sizeof(hpd::BiasActPlan),     sizeof(hpd::RaisedPlan),
      sizeof(hpd::TotalsPlan)};
  return sizes[which];
}

uint64_t quotient(const hpd::Divider* divider, uint64_t value) { return divider->quotient(value); }
}
