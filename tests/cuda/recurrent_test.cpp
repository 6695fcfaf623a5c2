// Recurrent layers on the device against the reference: convolutions, the delta rule's inputs, recurrences.
#include "tests/cuda/both_sets.h"

namespace foretoken {
namespace {

struct Batch {
  std::vector<std::int64_t> lengths, cached;
};
const Batch kBatches[] = {{{1}, {4}},
                          {{1, 1, 1}, {0, 7, 1}},
                          {{2}, {0}},
                          {{9, 1, 2, 19, 3, 8}, {3, 0, 5, 0, 2, 1}},
                          {{0, 2, 0}, {1, 1, 0}}};

// Slots in no order.
Indices slots_of(const Batch& batch) {
  Indices slots(batch.lengths.size());
  for (std::size_t i = 0; i < slots.size(); ++i)
    slots[i] = static_cast<std::int32_t>((i * 5 + 2) % 6 + i / 6 * 6);
  return slots;
}
constexpr std::int64_t kSlots = 6;

TEST(CudaRecurrent, Convolutions) {
  for (const std::int64_t taps : {1, 2, 4, 12})
    for (const std::int64_t channels : {5, 8, 516})
      for (const Batch& batch : kBatches)
        for (const bool silu : {false, true}) {
          if (channels > 8 && !silu) continue;
          const Rows rows(batch.lengths, batch.cached, 4);
          const Indices slots = slots_of(batch);
          const OnDevice<std::int32_t> device_slots(slots);
          const std::int64_t x_stride = channels + 4, values = (taps - 1) * channels,
                             y_stride = channels + (silu ? 0 : 8);
          const Floats x = normal(size_of(rows.end() * x_stride), 24),
                       w = normal(size_of(channels * taps), 25), b = normal(size_of(channels), 26);
          const std::string what = std::to_string(taps) + " taps of " + std::to_string(channels) + ", " +
                                   std::to_string(batch.lengths.size()) + " sequences";
          // The states lie behind what is written, both are compared.
          Floats before(size_of(rows.end() * y_stride), kPoison);
          before.resize((before.size() + 3) / 4 * 4 + 4, kPoison);
          const auto at = static_cast<std::int64_t>(before.size());
          const Floats states = normal(size_of(kSlots * values), 27);
          before.insert(before.end(), states.begin(), states.end());
          for (const bool bias : {false, true})
            compare(
                before,
                [&](const Kernels& kernels, const Put& put, float* out) {
                  const auto* where = &kernels == &reference ? slots.data() : device_slots.data();
                  kernels.causal_conv(rows.of(kernels), {out + at, values, where}, put(x), x_stride, channels,
                                      taps, put(w), bias ? put(b) : nullptr, silu, out, y_stride);
                },
                1e-6, what);
        }
}

TEST(CudaRecurrent, DeltaInputs) {
  for (const DeltaArgs& shape :
       {DeltaArgs{2, 4, 8, 12}, DeltaArgs{1, 3, 5, 3}, DeltaArgs{3, 3, 128, 64}, DeltaArgs{1, 40, 160, 16}})
    for (const std::int64_t count : {0, 1, 4}) {
      DeltaArgs args(shape);
      const std::int64_t first = 1, rows = first + count + 1;
      const std::int64_t qk = rows * args.heads * args.k_dim, v = rows * args.heads * args.v_dim,
                         gates = rows * args.heads;
      const Floats x = normal(size_of(rows * (2 * args.groups * args.k_dim + args.heads * args.v_dim)), 28);
      Floats g = normal(size_of(2 * gates), 29);
      for (float& value : g) value *= 12;  // beyond where softplus is linear
      const Floats decay = normal(size_of(args.heads), 30), steps = normal(size_of(args.heads), 31);
      compare(
          Floats(size_of(2 * qk + v + 2 * gates), kPoison),
          [&](const Kernels& kernels, const Put& put, float* out) {
            args.decay = put(decay), args.step = put(steps);
            kernels.delta_inputs(args, put(x), put(g), first, count, out, out + qk, out + 2 * qk,
                                 out + 2 * qk + v, out + 2 * qk + v + gates);
          },
          1e-6, std::to_string(args.heads) + " heads of " + std::to_string(args.k_dim));
    }
}

TEST(CudaRecurrent, Recurrence) {
  struct Shape {
    std::int64_t heads, k_dim, v_dim;
  };
  Threads threads;
  for (const auto& [heads, k_dim, v_dim] :
       {Shape{1, 128, 64}, Shape{3, 4, 4}, Shape{2, 64, 36}, Shape{2, 100, 12}, Shape{1, 256, 8},
        Shape{2, 5, 3}, Shape{1, 300, 4}})
    for (const Batch& batch : kBatches)
      for (const bool delta : {true, false}) {
        const Rows rows(batch.lengths, batch.cached, 4);
        const Indices slots = slots_of(batch);
        const OnDevice<std::int32_t> device_slots(slots);
        const std::int64_t values = heads * k_dim * v_dim;
        Floats q = normal(size_of(rows.end() * heads * k_dim), 32), k = normal(q.size(), 33);
        const Floats v = normal(size_of(rows.end() * heads * v_dim), 34);
        for (float& value : q) value /= std::sqrt(static_cast<float>(k_dim));
        for (float& value : k) value /= std::sqrt(static_cast<float>(k_dim));
        Floats decay = normal(size_of(rows.end() * heads), 35), beta = normal(decay.size(), 36);
        for (float& value : decay) value = -0.3f * std::fabs(value);
        for (float& value : beta) value = 1 / (1 + std::exp(-value));
        // The states lie behind what is written, both are compared.
        Floats before(size_of(rows.end() * heads * v_dim), kPoison);
        before.resize((before.size() + 3) / 4 * 4 + 4, kPoison);
        const auto at = static_cast<std::int64_t>(before.size());
        const Floats states = normal(size_of(kSlots * values), 37);
        before.insert(before.end(), states.begin(), states.end());
        compare(
            before,
            [&](const Kernels& kernels, const Put& put, float* out) {
              const auto* where = &kernels == &reference ? slots.data() : device_slots.data();
              kernels.recurrence({heads, k_dim, v_dim, delta}, rows.of(kernels), {out + at, values, where},
                                 put(q), put(k), put(v), put(decay), put(beta), out, threads);
            },
            1e-6,
            std::to_string(k_dim) + " x " + std::to_string(v_dim) + ", " +
                std::to_string(batch.lengths.size()) + " sequences");
      }
}

}  // namespace
}  // namespace foretoken
