// Which weights a model has, and their extents; the same for every source of them.
#pragma once

#include "executor/checkpoint.h"

namespace foretoken {

class Extents {
 public:
  Extents(const ModelConfig& model, const Numerics& numerics);
  Extent of(Role role, std::int64_t layer) const;
  const ModelConfig& model() const { return *model_; }
  // Every (role, layer, expert) that the model has, in a fixed order.
  template <class F>
  void for_each(F&& f) const {
    for (int r = 0; r < kRoles; ++r) {
      const auto role = static_cast<Role>(r);
      const bool once = is_outside(role);
      for (std::int64_t l = 0; l < (once ? 1 : model_->num_layers); ++l) {
        if (of(role, l).rows == 0) continue;
        const std::int64_t experts = of_expert(role) ? experts_of(l) : 1;
        for (std::int64_t e = 0; e < experts; ++e) f(role, l, e);
      }
    }
  }
  static bool of_expert(Role role) { return role >= Role::kExpertGate && role <= Role::kExpertDownBias; }
  static bool is_outside(Role role) { return role <= Role::kFinalNormBias; }
  std::int64_t experts_of(std::int64_t layer) const;

 private:
  static constexpr int kRoles = static_cast<int>(Role::kSharedMix) + 1;
  const ModelConfig* model_;
  bool layer_norm_, sandwich_, correction_;
};

}  // namespace foretoken
