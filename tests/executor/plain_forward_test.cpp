// Numerics, checkpoints and the plain forward pass against logits that Hugging Face's classes computed.
#include "plain_forward.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <set>

#include "executor/weight_shapes.h"
#include "golden.h"

namespace foretoken {
namespace {

class PlainForward : public testing::TestWithParam<std::string> {};

TEST_P(PlainForward, ComputesTheLogitsOfHuggingFace) {
  const Golden golden(GetParam());
  const Rows logits = plain_forward(golden.model, golden.numerics, *golden.checkpoint(), golden.tokens);
  ASSERT_EQ(logits.size(), golden.logits.size());
  double worst = 0;
  for (std::size_t t = 0; t < logits.size(); ++t) {
    ASSERT_EQ(logits[t].size(), golden.logits[t].size());
    for (std::size_t i = 0; i < logits[t].size(); ++i)
      worst = std::max(worst, std::abs(logits[t][i] - golden.logits[t][i]));
    const auto best = [](const std::vector<double>& row) {
      return std::max_element(row.begin(), row.end()) - row.begin();
    };
    EXPECT_EQ(best(logits[t]), best(golden.logits[t])) << "token " << t;
  }
  EXPECT_LT(worst, 1e-4);
  RecordProperty("largest_difference", std::to_string(worst));
}

INSTANTIATE_TEST_SUITE_P(Families, PlainForward, testing::ValuesIn(golden_names()),
                         [](const auto& family) { return family.param; });

double difference(const Rows& a, const Rows& b) {
  double worst = 0;
  for (std::size_t t = 0; t < a.size(); ++t)
    for (std::size_t i = 0; i < a[t].size(); ++i) worst = std::max(worst, std::abs(a[t][i] - b[t][i]));
  return worst;
}

constexpr double kSeen = 1e-3;  // ten times what the comparison with the golden logits allows

// One role's weights as if they were not there.
class Without final : public Checkpoint {
 public:
  Without(const Checkpoint& from, Role role, float neutral) : from_(from), role_(role), neutral_(neutral) {}
  Extent extent(Role role, std::int64_t layer, std::int64_t expert) const override {
    return from_.extent(role, layer, expert);
  }
  void read(Role role, std::int64_t layer, std::int64_t expert, std::int64_t first, std::int64_t count,
            float* out) const override {
    from_.read(role, layer, expert, first, count, out);
    if (role == role_) std::fill(out, out + count * from_.extent(role, layer, expert).columns, neutral_);
  }

 private:
  const Checkpoint& from_;
  Role role_;
  float neutral_;
};

// So that the golden logits test every one of them.
TEST_P(PlainForward, EveryWeightShowsInTheLogits) {
  const Golden golden(GetParam());
  const auto checkpoint = golden.checkpoint();
  const bool turns = golden.numerics.rope_of_layer[0] >= 0;
  std::set<Role> roles;
  for_each_weight(golden.model, golden.numerics,
                  [&](Role role, std::int64_t, std::int64_t, Extent) { roles.insert(role); });
  for (const Role role : roles) {
    // Without rotation the keys' bias adds the same to all scores of a query.
    if (role == Role::kKBias && !turns) continue;
    const Without without(*checkpoint, role, is_norm_weight(role) ? 1 - golden.numerics.norm_offset : 0);
    EXPECT_GT(difference(plain_forward(golden.model, golden.numerics, without, golden.tokens), golden.logits),
              kSeen)
        << "role " << static_cast<int>(role);
  }
}

struct Mistake {
  const char* golden;
  const char* name;
  std::function<void(ModelConfig&, Numerics&)> make;
};

template <class Change>
void for_attention(ModelConfig& m, Change change) {
  for (LayerKind& kind : m.kinds) change(std::get<GqaAttention>(kind.mixer));
}

TEST(PlainForwardTest, EveryFeatureShowsInTheLogits) {
  const auto add_window = [](int tokens) {
    return [tokens](ModelConfig& m, Numerics&) {
      for_attention(m, [&](GqaAttention& a) {
        if (a.window > 0) a.window += tokens;
      });
    };
  };
  const Mistake mistakes[] = {
      {"mistral", "window too wide", add_window(1)},
      {"mistral", "window too narrow", add_window(-1)},
      {"qwen2", "window too wide", add_window(1)},
      {"gemma2", "window too wide", add_window(1)},
      {"gemma3", "window too wide", add_window(1)},
      {"gpt_oss", "window too wide", add_window(1)},
      {"phi3", "window too wide", add_window(1)},
      {"gpt_oss", "no limit", [](ModelConfig&, Numerics& n) { n.activation.limit = 100; }},
      {"gpt_oss", "alpha", [](ModelConfig&, Numerics& n) { n.activation.alpha = 1; }},
      {"gpt_oss", "softmax over all",
       [](ModelConfig&, Numerics& n) {
         n.routing.softmax_over_selected = false;
         n.routing.normalise = false;
       }},
      {"gpt_oss", "scale of yarn", [](ModelConfig&, Numerics& n) { n.ropes[0].scale = 1; }},
      {"qwen3_moe", "not normalised", [](ModelConfig&, Numerics& n) { n.routing.normalise = false; }},
      {"qwen2_moe", "normalised", [](ModelConfig&, Numerics& n) { n.routing.normalise = true; }},
      {"mixtral", "not normalised", [](ModelConfig&, Numerics& n) { n.routing.normalise = false; }},
      {"deepseek_v2", "no groups",
       [](ModelConfig&, Numerics& n) { n.routing.groups = n.routing.top_groups = 1; }},
      {"deepseek_v2", "groups by two", [](ModelConfig&, Numerics& n) { n.routing.group_by_top_two = true; }},
      {"deepseek_v2", "scale of experts", [](ModelConfig&, Numerics& n) { n.routing.scale = 1; }},
      {"deepseek_v2", "latent epsilon",
       [](ModelConfig&, Numerics& n) { n.latent_norm_epsilon = n.norm_epsilon; }},
      {"deepseek_v2", "pairs", [](ModelConfig&, Numerics& n) { n.ropes[0].interleaved = false; }},
      {"deepseek_v2", "scale of yarn", [](ModelConfig&, Numerics& n) { n.ropes[0].scale = 1; }},
      {"deepseek_v3", "pairs", [](ModelConfig&, Numerics& n) { n.ropes[0].interleaved = false; }},
      {"deepseek_v3", "no groups",
       [](ModelConfig&, Numerics& n) { n.routing.groups = n.routing.top_groups = 1; }},
      {"deepseek_v3", "groups by one", [](ModelConfig&, Numerics& n) { n.routing.group_by_top_two = false; }},
      {"deepseek_v3", "not normalised", [](ModelConfig&, Numerics& n) { n.routing.normalise = false; }},
      {"deepseek_v3", "scale of scores",
       [](ModelConfig&, Numerics& n) { n.attention_scale = 1 / std::sqrt(20.0f); }},
      {"gemma", "exact gelu", [](ModelConfig&, Numerics& n) { n.activation.kind = Activation::kGelu; }},
      {"gemma2", "no softcap of scores", [](ModelConfig&, Numerics& n) { n.attention_softcap = 0; }},
      {"gemma2", "no softcap of logits", [](ModelConfig&, Numerics& n) { n.final_softcap = 0; }},
      {"gemma2", "scale by head",
       [](ModelConfig&, Numerics& n) { n.attention_scale = 1 / std::sqrt(12.0f); }},
      {"gemma2", "no embedding scale", [](ModelConfig&, Numerics& n) { n.embedding_scale = 1; }},
      {"gemma2", "no offset", [](ModelConfig&, Numerics& n) { n.norm_offset = 0; }},
      {"gemma3", "one rotation", [](ModelConfig&, Numerics& n) { n.ropes[1] = n.ropes[0]; }},
      {"gemma3", "other layers' rotation",
       [](ModelConfig&, Numerics& n) {
         n.rope_of_layer = {0, 1, 0};
       }},
      {"phi3", "scale of longrope", [](ModelConfig&, Numerics& n) { n.ropes[0].scale = 1; }},
      {"opt", "position offset", [](ModelConfig&, Numerics& n) { n.position_offset = 1; }},
      {"gpt2", "exact gelu", [](ModelConfig&, Numerics& n) { n.activation.kind = Activation::kGelu; }},
      {"llama", "silu", [](ModelConfig&, Numerics& n) { n.activation.kind = Activation::kGelu; }}};
  for (const Mistake& mistake : mistakes) {
    const Golden golden(mistake.golden);
    ModelConfig model = golden.model;
    Numerics numerics = golden.numerics;
    mistake.make(model, numerics);
    const auto checkpoint = golden.checkpoint();
    EXPECT_GT(difference(plain_forward(model, numerics, *checkpoint, golden.tokens), golden.logits), kSeen)
        << mistake.golden << ": " << mistake.name;
  }
  for (const std::string& name : golden_names()) {
    const Golden golden(name);
    const auto checkpoint = golden.checkpoint();
    Numerics numerics = golden.numerics;
    numerics.norm_epsilon /= 4;
    if (name != "opt") {  // whose epsilon is fixed, at 1e-5
      EXPECT_GT(difference(plain_forward(golden.model, numerics, *checkpoint, golden.tokens), golden.logits),
                kSeen)
          << name;
    }
    numerics = golden.numerics;
    for (Rope& rope : numerics.ropes) {
      rope.inverse_frequencies[1] *= 1.05f;
      EXPECT_GT(difference(plain_forward(golden.model, numerics, *checkpoint, golden.tokens), golden.logits),
                kSeen)
          << name;
    }
  }
}

}  // namespace
}  // namespace foretoken
