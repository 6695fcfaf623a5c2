// Weights from a hash of where they are: nothing to download, nothing to store, and the same values whatever
// is read first.
#include <cmath>

#include "base/random.h"
#include "executor/checkpoint.h"
#include "executor/storage.h"
#include "executor/vector_clones.h"
#include "executor/weight_shapes.h"

namespace foretoken {
namespace {

// Beyond what norms and gates give of weights like these, and far enough from fp8's least number for what is
// small beside it.
constexpr float kInputScale = 16 / kFp8Largest;
constexpr std::uint64_t kGolden = 0x9e3779b97f4a7c15u;  // 2^64 / golden ratio, odd
// Standard deviation of a sum of four whole numbers uniform on [0, 65535].
const double kSumDeviation = std::sqrt(4 * (65536.0 * 65536.0 - 1) / 12);

// Near normal: the sum of four uniform numbers (Irwin-Hall), up to 3.46 standard deviations.
FORETOKEN_VECTOR_CLONES void fill(std::uint64_t key, float mean, float scale, std::int64_t count,
                                  float* out) {
  for (std::int64_t i = 0; i < count; ++i) {
    const std::uint64_t h = mix64(key + static_cast<std::uint64_t>(i) * kGolden);
    // Two sums of two 16-bit fields side by side.
    const std::uint64_t pairs = (h & 0x0000ffff0000ffffu) + (h >> 16 & 0x0000ffff0000ffffu);
    const auto sum = static_cast<std::int32_t>((pairs & 0xffffffffu) + (pairs >> 32));
    out[i] = mean + scale * static_cast<float>(sum - 2 * 65535);
  }
}

class Synthetic final : public Checkpoint {
 public:
  Synthetic(const ModelConfig& model, const Numerics& numerics, std::uint64_t seed)
      : model_(model), numerics_(numerics), seed_(seed) {}

  Extent extent(Role role, std::int64_t layer, std::int64_t) const override {
    return weight_extent(model_, numerics_, role, layer);
  }

  void read(Role role, std::int64_t layer, std::int64_t expert, std::int64_t first, std::int64_t count,
            float* out) const override {
    const Extent e = extent(role, layer, expert);
    if (role == Role::kLmHead && model_.tied_embeddings) role = Role::kEmbedding;
    if (!is_layer_role(role)) layer = 0;
    if (!is_expert_role(role)) expert = 0;
    std::uint64_t key = mix64(seed_ + kGolden);
    for (const std::uint64_t part : {static_cast<std::uint64_t>(role), static_cast<std::uint64_t>(layer),
                                     static_cast<std::uint64_t>(expert)})
      key = mix64(key + (part + 1) * kGolden);
    const double deviation = standard_deviation(role, e.columns);
    const auto mean = static_cast<float>(
        is_norm_weight(role) ? 1 - (role == Role::kLinearNorm ? 0 : numerics_.norm_offset) : 0);
    const auto scale = static_cast<float>(deviation / kSumDeviation);
    for (std::int64_t row = first; row < first + count; ++row, out += e.columns)
      fill(mix64(key + (static_cast<std::uint64_t>(row) + 1) * kGolden), mean, scale, e.columns, out);
  }
  Fp8Scales fp8_scales() const override { return numerics_.fp8_scales; }
  float input_scale(Role, std::int64_t, std::int64_t) const override { return kInputScale; }

 private:
  double standard_deviation(Role role, std::int64_t columns) const {
    if (is_vector(role)) return 0.1;
    const double sum = 1 / std::sqrt(static_cast<double>(columns));
    // A tied embedding is the head's matrix, too.
    if (role == Role::kEmbedding) return model_.tied_embeddings ? sum : 1 / numerics_.embedding_scale;
    if (role == Role::kPositions) return 0.1;
    return sum;
  }

  ModelConfig model_;
  Numerics numerics_;
  std::uint64_t seed_;
};

}  // namespace

std::unique_ptr<Checkpoint> synthetic_checkpoint(const ModelConfig& model, const Numerics& numerics,
                                                 std::uint64_t seed) {
  return std::make_unique<Synthetic>(model, numerics, seed);
}

}  // namespace foretoken
