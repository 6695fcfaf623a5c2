// Weights from a counter: every value depends on seed, role, layer, expert, row and column alone, so every
// sharding and every storage starts from the same model.
#include <cmath>

#include "base/random.h"
#include "executor/checkpoint_extents.h"

namespace foretoken {
namespace {

class Synthetic final : public Checkpoint {
 public:
  Synthetic(const ModelConfig& model, const Numerics& numerics, std::uint64_t seed)
      : extents_(model, numerics), offset_(numerics.norm_offset), seed_(seed) {}

  Extent extent(Role role, std::int64_t layer, std::int64_t) const override {
    return extents_.of(role, layer);
  }

  void read(Role role, std::int64_t layer, std::int64_t expert, std::int64_t first, std::int64_t count,
            float* out) const override {
    const Extent e = extents_.of(role, layer);
    const std::uint64_t matrix =
        mix64(seed_ ^ mix64(static_cast<std::uint64_t>(role) << 48 ^ static_cast<std::uint64_t>(layer) << 24 ^
                            static_cast<std::uint64_t>(expert)));
    // Products of normal inputs stay of order one; embeddings and biases are small, norms near one.
    const bool norm = is_norm(role), vector = e.rows == 1;
    const float spread = role == Role::kEmbedding || role == Role::kPositions ? 1.0f
                         : vector                                             ? 0.1f
                                  : 1.0f / std::sqrt(static_cast<float>(e.columns));
    const float centre = norm ? 1.0f - offset_ : 0.0f;
    for (std::int64_t r = 0; r < count; ++r) {
      const std::uint64_t row = mix64(matrix + static_cast<std::uint64_t>(first + r) * 0x9e3779b97f4a7c15ULL);
      float* to = out + r * e.columns;
      // Four numbers a hash: sums of two uniform halves, which have a normal's variance after scaling.
      for (std::int64_t c = 0; c < e.columns; c += 2) {
        const std::uint64_t bits = mix64(row + static_cast<std::uint64_t>(c));
        to[c] = centre + spread * triangular(static_cast<std::uint32_t>(bits));
        if (c + 1 < e.columns)
          to[c + 1] = centre + spread * triangular(static_cast<std::uint32_t>(bits >> 32));
      }
    }
  }

 private:
  // Of variance 1: the sum of two uniform numbers, each of variance 1/12, times sqrt(6).
  static float triangular(std::uint32_t bits) {
    constexpr float kScale = 2.449489743f / 65536.0f;
    return (static_cast<float>(bits & 0xffff) + static_cast<float>(bits >> 16) - 65535.0f) * kScale;
  }
  static bool is_norm(Role role) {
    switch (role) {
      case Role::kFinalNorm:
      case Role::kInputNorm:
      case Role::kPostNorm:
      case Role::kAttnOutputNorm:
      case Role::kMlpOutputNorm:
      case Role::kQNorm:
      case Role::kKNorm:
      case Role::kQANorm:
      case Role::kKvANorm:
        return true;
      default:
        return false;
    }
  }

  Extents extents_;
  float offset_;
  std::uint64_t seed_;
};

}  // namespace

std::unique_ptr<Checkpoint> synthetic_checkpoint(const ModelConfig& model, const Numerics& numerics,
                                                 std::uint64_t seed) {
  return std::make_unique<Synthetic>(model, numerics, seed);
}

}  // namespace foretoken
