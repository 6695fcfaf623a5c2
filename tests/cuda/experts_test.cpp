// The experts of a mixture on the CUDA set against the reference: every storage and activation, rows that
// fill no tile, ranges of experts, and from a recording.
#include "tests/cuda/on_device_products.h"

namespace foretoken {
namespace {

struct ExpertCase {
  Storage up = Storage::kBf16, down = Storage::kBf16;
  std::int64_t hidden = 40, inter = 24, count = 4, first = 0, of = 4, rows = 5, top_k = 2;
  ActivationArgs activation;
  bool biases = false, quantised_x = false;
  float scale = 0, x_scale = 0;  // one for each matrix, and for what it multiplies
  int skipped = -1;              // an expert that nothing is for
};

struct Packing {
  std::vector<std::byte> host;
  std::unique_ptr<DeviceBytes> device;
  Experts experts;
};

// Matrices and biases of all experts behind one another, a distance of 64 bytes' multiples apart.
Packing pack_experts(const Kernels& kernels, const ExpertCase& c, const std::vector<Floats>& weights) {
  const bool on_device = &kernels == &cuda_set();
  const std::int64_t inter = c.activation.gated ? 2 * c.inter : c.inter;
  const auto padded = [](std::size_t bytes) { return (bytes + 63) / 64 * 64; };
  const std::size_t up = padded(kernels.packed_bytes(c.up, inter, c.hidden)),
                    down = padded(kernels.packed_bytes(c.down, c.hidden, c.inter)),
                    up_bias = padded(static_cast<std::size_t>(inter) * 4),
                    down_bias = padded(static_cast<std::size_t>(c.hidden) * 4);
  Packing p;
  const std::size_t stride = up + down + up_bias + down_bias;
  std::byte* base = nullptr;
  if (on_device) {
    p.device = std::make_unique<DeviceBytes>(stride * static_cast<std::size_t>(c.count));
    base = p.device->data();
  } else {
    p.host.resize(stride * static_cast<std::size_t>(c.count) + 64);
    base = p.host.data() + (64 - reinterpret_cast<std::uintptr_t>(p.host.data()) % 64) % 64;
  }
  for (std::int64_t e = 0; e < c.count; ++e) {
    std::byte* const at = base + stride * static_cast<std::size_t>(e);
    const Floats* const own = &weights[static_cast<std::size_t>(4 * e)];
    Threads one;
    const Matrix u = kernels.pack(c.up, inter, c.hidden, reader(own[0], c.hidden), at, one, c.scale),
                 d = kernels.pack(c.down, c.hidden, c.inter, reader(own[1], c.inter), at + up, one, c.scale);
    kernels.memory().copy(at + up + down, own[2].data(), own[2].size() * 4);
    kernels.memory().copy(at + up + down + up_bias, own[3].data(), own[3].size() * 4);
    if (e > 0) continue;
    p.experts.gate_up = u, p.experts.down = d;
    if (c.biases) {
      p.experts.gate_up_bias = reinterpret_cast<const float*>(at + up + down);
      p.experts.down_bias = reinterpret_cast<const float*>(at + up + down + up_bias);
    }
  }
  for (Matrix* m : {&p.experts.gate_up, &p.experts.down}) {
    m->quantised_x = c.quantised_x;
    m->one_x_scale = c.x_scale > 0, m->x_scale = c.x_scale;
  }
  p.experts.stride = stride;
  p.experts.first = c.first, p.experts.count = c.count;
  return p;
}

void experts_are_the_references(const ExpertCase& c, double limit) {
  SCOPED_TRACE(testing::Message() << "storages " << static_cast<int>(c.up) << ", " << static_cast<int>(c.down)
                                  << " hidden " << c.hidden << " inter " << c.inter << " rows " << c.rows
                                  << " experts " << c.first << " + " << c.count << " of " << c.of);
  const std::int64_t inter = c.activation.gated ? 2 * c.inter : c.inter, pairs = c.rows * c.top_k;
  const auto size = [](std::int64_t a, std::int64_t b) { return static_cast<std::size_t>(a * b); };
  std::vector<Floats> weights;
  for (unsigned e = 0; e < c.count; ++e) {
    weights.push_back(normal(size(inter, c.hidden), 20 + 4 * e));
    weights.push_back(normal(size(c.hidden, c.inter), 21 + 4 * e));
    weights.push_back(normal(size(inter, 1), 22 + 4 * e));
    weights.push_back(normal(size(c.hidden, 1), 23 + 4 * e));
  }
  const Packing mine = pack_experts(cuda_set(), c, weights),
                theirs = pack_experts(reference_kernels(), c, weights);
  const auto x = normal(size(c.rows, c.hidden), 14);
  std::mt19937 random(15);
  std::vector<std::int32_t> chosen;
  for (std::int64_t r = 0; r < c.rows; ++r) {
    std::vector<std::int32_t> all;
    for (std::int32_t e = 0; e < c.of; ++e)
      if (e != c.skipped) all.push_back(e);
    std::shuffle(all.begin(), all.end(), random);
    chosen.insert(chosen.end(), all.begin(), all.begin() + c.top_k);
  }

  // The reference, and what it leaves.
  Floats in(size(pairs, c.hidden)), mid(size(pairs, inter)), act(size(pairs, c.inter)),
      out(size(pairs, c.hidden), kPoison);
  std::vector<std::int32_t> place(size(pairs, 1)), order(size(pairs, 1)), begin(size(c.count + 1, 1));
  Threads threads;
  Memory scratch(reference_kernels().expert_scratch(theirs.experts, pairs));
  reference_kernels().run_experts(
      theirs.experts, c.activation, x.data(), chosen.data(), c.rows, c.top_k,
      {in.data(), mid.data(), act.data(), out.data(), place.data(), order.data(), begin.data()},
      scratch.data(), threads);

  const Device<float> on_x(x), on_in(size(pairs, c.hidden)), on_mid(size(pairs, inter)),
      on_act(size(pairs, c.inter)), on_out(Floats(out.size(), kPoison));
  const Device<std::int32_t> on_chosen(chosen), on_place(std::vector<std::int32_t>(place.size(), -9)),
      on_order(std::vector<std::int32_t>(order.size(), -9)), on_begin(begin.size());
  const DeviceBytes on_scratch(cuda_set().expert_scratch(mine.experts, pairs));
  cuda_set().run_experts(mine.experts, c.activation, on_x.data(), on_chosen.data(), c.rows, c.top_k,
                         {on_in.data(), on_mid.data(), on_act.data(), on_out.data(), on_place.data(),
                          on_order.data(), on_begin.data()},
                         on_scratch.data(), threads);
  EXPECT_EQ(on_place.back(), place);
  EXPECT_EQ(on_begin.back(), begin);
  const auto local = static_cast<std::size_t>(begin.back());
  const auto got_order = on_order.back();
  EXPECT_TRUE(std::equal(order.begin(), order.begin() + static_cast<std::int64_t>(local), got_order.begin()));
  EXPECT_TRUE(std::all_of(got_order.begin() + static_cast<std::int64_t>(local), got_order.end(),
                          [](std::int32_t o) { return o == -9; }));
  const auto got = on_out.back();
  const std::size_t values = local * static_cast<std::size_t>(c.hidden);
  for (std::size_t i = values; i < got.size(); ++i) EXPECT_TRUE(std::isnan(got[i])) << i;
  if (values == 0) return;
  EXPECT_LT(distance({got.begin(), got.begin() + static_cast<std::int64_t>(values)},
                     {out.begin(), out.begin() + static_cast<std::int64_t>(values)}),
            limit);
}

double limit_of(Storage storage) {  // where activations are rounded, a few round the other way
  return cuda::exact_product(storage) ? 3e-6 : 2.5e-3;
}

TEST(CudaExperts, OfEveryStorage) {
  for (const Storage storage : kAll)
    for (const std::int64_t rows : {1, 3, 20, 45, 90, 180}) {
      ExpertCase c;
      c.up = c.down = storage;
      c.rows = rows;
      experts_are_the_references(c, limit_of(storage));
    }
}

// x, and what the activation makes, quantised; a few values are rounded the other way.
TEST(CudaExperts, OfQuantisedRows) {
  for (const Storage storage : {Storage::kInt8, Storage::kFp8, Storage::kFp8Block})
    for (const auto& [hidden, inter] : {std::pair<std::int64_t, std::int64_t>{40, 24}, {75, 3}, {130, 133}})
      for (const std::int64_t rows : {1, 3, 31, 90}) {
        ExpertCase c;
        c.up = c.down = storage;
        c.hidden = hidden, c.inter = inter, c.rows = rows;
        c.biases = rows != 31, c.quantised_x = true;
        experts_are_the_references(c, is_fp8(storage) ? 4e-3 : 2.5e-3);
      }
}

TEST(CudaExperts, OfOddWidths) {
  for (const Storage storage : kAll)
    for (const auto& [hidden, inter] :
         {std::pair<std::int64_t, std::int64_t>{1, 1}, {3, 70}, {75, 3}, {130, 133}})
      for (const std::int64_t rows : {2, 31}) {
        ExpertCase c;
        c.up = c.down = storage;
        c.hidden = hidden, c.inter = inter, c.rows = rows;
        c.biases = true;
        experts_are_the_references(c, limit_of(storage));
      }
}

// Tiles that are not whole in any direction, some of them large; blocks that take several by turns.
TEST(CudaExperts, OfManyRows) {
  for (const Storage storage : kAll)
    for (const bool gated : {true, false})
      for (const std::int64_t rows : {5, 150}) {
        ExpertCase c;
        c.up = c.down = storage;
        c.activation.gated = gated;
        c.hidden = 330, c.inter = 290, c.count = 2, c.of = 2, c.rows = rows, c.top_k = 1;
        c.biases = gated;
        experts_are_the_references(c, limit_of(storage));
      }
}

TEST(CudaExperts, OfARange) {
  for (const Storage storage : {Storage::kF32, Storage::kBf16, Storage::kInt4})
    for (const auto& [first, count] : {std::pair<std::int64_t, std::int64_t>{3, 5}, {0, 3}, {8, 1}})
      for (const std::int64_t rows : {1, 4, 70}) {
        ExpertCase c;
        c.up = c.down = storage;
        c.first = first, c.count = count, c.of = 9, c.top_k = 3;
        c.rows = rows;
        c.skipped = 4;
        experts_are_the_references(c, limit_of(storage));
      }
}

// More pairs than threads of a block, and experts beyond a warp's lanes.
TEST(CudaExperts, OfManyPairs) {
  for (const std::int64_t count : {40, 2}) {
    ExpertCase c;
    c.hidden = 8, c.inter = 8;
    c.first = 1, c.count = count, c.of = 43, c.rows = 401, c.top_k = 4;
    experts_are_the_references(c, limit_of(c.up));
  }
}

TEST(CudaExperts, OfTwoStorages) {
  for (const auto& [up, down] : {std::pair{Storage::kF32, Storage::kInt8},
                                 {Storage::kInt8, Storage::kF16},
                                 {Storage::kFp8, Storage::kInt4}})
    for (const std::int64_t rows : {2, 50}) {
      ExpertCase c;
      c.up = up, c.down = down, c.rows = rows;
      experts_are_the_references(c, 2.5e-3);
    }
}

TEST(CudaExperts, OfEveryActivation) {
  for (const Activation kind : {Activation::kSilu, Activation::kGelu, Activation::kGeluTanh,
                                Activation::kRelu, Activation::kReluSquared, Activation::kClampedSwiglu})
    for (const bool gated : {true, false}) {
      if (!gated && kind == Activation::kClampedSwiglu) continue;
      for (const Storage storage : {Storage::kF32, Storage::kBf16})
        for (const std::int64_t rows : {2, 20}) {
          ExpertCase c;
          c.up = c.down = storage;
          c.activation.kind = kind, c.activation.gated = gated;
          c.activation.limit = 1.5f;
          c.inter = 21, c.rows = rows;
          c.biases = true;
          experts_are_the_references(c, limit_of(storage));
        }
    }
}

// Few rows an expert, some, and many.
TEST(CudaExperts, OfOneScale) {
  for (const std::int64_t rows : {3, 20, 200}) {
    ExpertCase c;
    c.up = c.down = Storage::kFp8;
    c.rows = rows, c.quantised_x = true;
    if (rows == 200) c.hidden = 100, c.inter = 72;  // as bytes, by warpgroups
    c.scale = 0.01f, c.x_scale = rows == 20 ? 0.5f : 0.05f;
    experts_are_the_references(c, 4e-3);
  }
}

// The larger tile with products of warpgroups, where there are any, and without.
TEST(CudaExperts, ByWarpgroupsAndWithout) {
  if (!cuda_set().warpgroups()) GTEST_SKIP() << "the device has no products of warpgroups";
  // Quantised: bytes on both sides.
  const std::pair<Storage, bool> storages[] = {{Storage::kBf16, false}, {Storage::kInt8, false},
                                               {Storage::kFp8, false},  {Storage::kInt8, true},
                                               {Storage::kFp8, true},   {Storage::kFp8Block, true}};
  for (const auto& [storage, quantised] : storages)
    for (const auto& [use, gated] : {std::pair{true, true}, {true, false}, {false, true}}) {
      if (quantised && !use && storage != Storage::kFp8Block) continue;  // OfQuantisedRows
      cuda_set().use_warpgroups(use);
      ExpertCase c;
      c.up = c.down = storage;
      c.activation.gated = gated;
      c.hidden = 600, c.inter = 300, c.count = 2, c.of = 2, c.rows = 280, c.top_k = 1;
      c.biases = gated;
      c.quantised_x = quantised;
      experts_are_the_references(c, quantised && is_fp8(storage) ? 4e-3 : limit_of(c.up));
    }
  cuda_set().use_warpgroups(true);
}

TEST(CudaExperts, WithoutRows) {
  const Device<std::int32_t> begin(std::vector<std::int32_t>(4, -9));
  Experts experts;
  experts.gate_up = {Storage::kBf16, 16, 8, nullptr}, experts.down = {Storage::kBf16, 8, 8, nullptr};
  experts.count = 3;
  Threads threads;
  ExpertRows to;
  to.begin = begin.data();
  cuda_set().run_experts(experts, {}, nullptr, nullptr, 0, 2, to, nullptr, threads);
  EXPECT_EQ(begin.back(), (std::vector<std::int32_t>(4, 0)));
}

// A step is recorded and run again with other values.
TEST(CudaExperts, RunAgainFromARecording) {
  const std::int64_t n = 33, k = 70, m = 12;
  const Both packed(Storage::kInt8, n, k, normal(static_cast<std::size_t>(n * k), 16));
  const auto first = normal(static_cast<std::size_t>(m * k), 17), second = normal(first.size(), 18);
  const Device<float> x(first), y(static_cast<std::size_t>(m * n));
  const DeviceBytes scratch(cuda_set().gemm_scratch(packed.device, m));
  const auto graphs = cuda_set().graphs();
  for (const Floats* values : {&first, &second}) {
    cuda_set().memory().copy(x.data(), values->data(), values->size() * sizeof(float));
    graphs->run(1, [&] {
      Threads threads;
      cuda_set().gemm(packed.device, x.data(), k, m, nullptr, false, y.data(), n, scratch.data(), threads);
    });
    Case c;
    c.m = m, c.x = values;
    EXPECT_LT(distance(y.back(), reference_product(packed.reference, c)), kClose);
  }
}

#ifdef FORETOKEN_EMULATED
class CudaExpertOrders : public InOrders {};

TEST_P(CudaExpertOrders, Experts) {
  for (const Storage storage : kAll)
    for (const std::int64_t rows : {3, 30}) {
      ExpertCase c;
      c.up = c.down = storage;
      c.first = 1, c.of = 6, c.rows = rows;
      experts_are_the_references(c, limit_of(storage));
    }
}

INSTANTIATE_TEST_SUITE_P(Orders, CudaExpertOrders,
                         testing::Values(cuda::emulation::Order::kReverse,
                                         cuda::emulation::Order::kShuffled));

// Nothing but kernels and copies touches the device's memory.
TEST(CudaExperts, LeaveTheDevicesMemoryToIt) {
  cuda::emulation::settings().guard_memory = true;
  ExpertCase c;
  experts_are_the_references(c, limit_of(c.up));
  cuda::emulation::settings() = {};
}
#endif

}  // namespace
}  // namespace foretoken
