// What is read of a config: rotary frequencies against Hugging Face's, both spellings, refusals.
#include "executor/numerics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "../base/expect_error.h"
#include "executor/weight_shapes.h"
#include "golden.h"
#include "model/parameters.h"

namespace foretoken {
namespace {

using testing::HasSubstr;

Numerics numerics_of(const Json& config, std::int64_t longest) {
  return read_numerics(config, read_hf_config(config, "config", "config"), longest, "config");
}

Json preset(const std::string& name) {
  return read_json(std::filesystem::path(FORETOKEN_SOURCE_DIR) / "model" / "presets" / (name + ".json"));
}

// Version 5 of Hugging Face's library keeps all of it in one object.
Json in_new_spelling(Json config) {
  Json own = config.contains("rope_scaling") ? config["rope_scaling"] : Json{{"rope_type", "default"}};
  config.erase("rope_scaling");
  own["rope_theta"] = config.value("rope_theta", 10000.0);
  config.erase("rope_theta");
  for (const char* key : {"partial_rotary_factor", "original_max_position_embeddings"})
    if (config.contains(key)) {
      own[key] = config[key];
      config.erase(key);
    }
  config["rope_parameters"] = own;
  return config;
}

TEST(NumericsTest, RotaryFrequenciesOfEveryScalingAreHuggingFaces) {
  const Json cases = read_json(golden_folder() / "rope.json");
  ASSERT_GE(cases.size(), 15u);
  for (const Json& c : cases) {
    SCOPED_TRACE(c["name"].get<std::string>());
    const auto longest = c["longest"].get<std::int64_t>();
    for (const Json& config : {c["config"], in_new_spelling(c["config"])}) {
      const Numerics n = numerics_of(config, longest);
      ASSERT_EQ(n.ropes.size(), 1u);
      ASSERT_EQ(n.ropes[0].inverse_frequencies.size(), c["inverse_frequencies"].size());
      for (std::size_t i = 0; i < n.ropes[0].inverse_frequencies.size(); ++i) {
        const auto expected = c["inverse_frequencies"][i].get<double>();
        EXPECT_NEAR(n.ropes[0].inverse_frequencies[i], expected, 2e-6 * expected) << i;
      }
      EXPECT_NEAR(n.ropes[0].scale, c["scale"].get<double>(), 1e-6);
    }
  }
}

TEST(NumericsTest, LayerTypesHaveRotationsOfTheirOwnInBothSpellings) {
  const Golden golden("gemma3");
  Json config = golden.config;
  config["rope_parameters"] = {
      {"full_attention", {{"rope_type", "linear"}, {"factor", 8.0}, {"rope_theta", 1e6}}},
      {"sliding_attention", {{"rope_type", "default"}, {"rope_theta", 1e4}}}};
  for (const char* key : {"rope_scaling", "rope_theta", "rope_local_base_freq"}) config.erase(key);
  const Numerics n = numerics_of(config, 32);
  ASSERT_EQ(n.ropes.size(), 2u);
  EXPECT_EQ(n.ropes[0].inverse_frequencies, golden.numerics.ropes[0].inverse_frequencies);
  EXPECT_EQ(n.ropes[1].inverse_frequencies, golden.numerics.ropes[1].inverse_frequencies);
  EXPECT_NE(n.ropes[0].inverse_frequencies, n.ropes[1].inverse_frequencies);
  EXPECT_EQ(n.rope_of_layer, (std::vector<int>{1, 0, 1}));
}

// The weights that the executor asks for are all that the model counts.
TEST(NumericsTest, WeightsOfThePresetsAddUpToTheirParameters) {
  int computed = 0;
  for (const Preset& p : list_presets(std::filesystem::path(FORETOKEN_SOURCE_DIR) / "model" / "presets")) {
    SCOPED_TRACE(p.name);
    if (p.name == "nemotron-h-56b") continue;  // says Infinity, which strict JSON lacks; not computed anyway
    const Json config = preset(p.name);
    const ModelConfig m = read_hf_config(config, p.name, p.name);
    Numerics n;
    try {
      n = read_numerics(config, m, 1024, p.name);
    } catch (const Error& e) {
      EXPECT_THAT(e.what(), HasSubstr("computed by the executor"));
      continue;
    }
    std::int64_t parameters = 0;
    for_each_weight(m, n, [&](Role role, std::int64_t, std::int64_t, Extent e) {
      if (role != Role::kLmHead || !m.tied_embeddings) parameters += e.rows * e.columns;
    });
    EXPECT_EQ(parameters, count_parameters(m).total);
    EXPECT_EQ(n.rope_of_layer.size(), m.layers.size());
    ++computed;
  }
  EXPECT_GE(computed, 45);
}

struct Refusal {
  const char* golden;
  const char* key;
  Json value;
  const char* message;
};

TEST(NumericsTest, KeysThatChangeTheResultAndAreNotComputedAreRefused) {
  const Refusal refusals[] = {
      {"gpt2", "scale_attn_by_inverse_layer_idx", true,
       "config:/scale_attn_by_inverse_layer_idx: true changes"},
      {"gpt2", "activation_function", "mish", "activation \"mish\" is not computed"},
      {"gpt2", "n_positions", 16, "the model has 16 learned positions"},
      {"opt", "word_embed_proj_dim", 16, "config:/word_embed_proj_dim: is not computed"},
      {"opt", "do_layer_norm_before", false, "only true is"},
      {"gemma3", "use_bidirectional_attention", true, "only false is"},
      {"gemma2", "query_pre_attn_scalar", 0, "0 is not above 0"},
      {"gemma2", "final_logit_softcapping", -1, "-1 is below 0"},
      {"llama", "rms_norm_eps", 0, "0 is not above 0"},
      {"llama", "clip_qkv", 8.0, "config:/clip_qkv: 8.0 changes"},
      {"llama", "attn_logit_softcapping", 30.0, "is not computed for llama"},
      {"llama", "rope_scaling", {{"rope_type", "spiral"}}, "\"spiral\" is not computed; these are: default"},
      {"llama", "rope_scaling", {{"rope_type", "linear"}}, "config:/rope_scaling/factor: missing"},
      {"llama", "rope_scaling", {{"rope_type", "linear"}, {"factor", -1}}, "-1 is not above 0"},
      {"llama", "rope_parameters", {{"llama_4_scaling_beta", 0.1}}, "scale queries by position"},
      {"llama", "rope_theta", "big", "expected a number"},
      {"phi3",
       "rope_scaling",
       {{"type", "longrope"}, {"short_factor", {1.0}}, {"long_factor", {1.0}}},
       "long_factor: expected a list of 3 numbers"},
      {"phi3", "partial_rotary_factor", 1.5, "turns 12 dims"},
      {"deepseek_v2", "norm_topk_prob", true, "true is not computed for deepseek_v2"},
      {"deepseek_v2", "topk_method", "random", "greedy and group_limited_greedy are"},
      {"deepseek_v2", "scoring_func", "sigmoid", "\"sigmoid\" is not computed"},
      {"deepseek_v2", "n_group", 3, "8 experts make no 3 groups"},
      {"deepseek_v3", "n_group", 8, "groups of two or more"},
      {"deepseek_v3", "topk_group", 5, "5 of 4 groups"},
      {"deepseek_v3", "topk_group", 1, "hold fewer than the 3 of a token"}};
  for (const Refusal& r : refusals) {
    SCOPED_TRACE(std::string(r.golden) + " " + r.key);
    Json config = read_json(golden_folder() / r.golden / "config.json");
    config[r.key] = r.value;
    EXPECT_THAT(test::error_of([&] { numerics_of(config, 32); }), HasSubstr(r.message));
  }
}

TEST(NumericsTest, OtherFamiliesAreRefusedByName) {
  for (const char* name : {"bloom", "deepseek-v3.2", "llama-4-scout"})
    EXPECT_THAT(test::error_of([&] { numerics_of(preset(name), 32); }),
                testing::AllOf(HasSubstr("model_type"),
                               HasSubstr("is not computed by the executor; these are: llama, "
                                         "mistral, qwen2")));
  Json sparse = preset("deepseek-v3");
  sparse["index_topk"] = 2048;
  sparse["index_n_heads"] = 64;
  sparse["index_head_dim"] = 128;
  EXPECT_THAT(test::error_of([&] { numerics_of(sparse, 32); }), HasSubstr("index_topk: a sparse selection"));
}

TEST(NumericsTest, LanguagePartsOfMultimodalModelsAreRead) {
  const Json config = preset("kimi-k2.5");
  ASSERT_TRUE(config.contains("text_config"));
  const Numerics n = numerics_of(config, 32);
  EXPECT_EQ(n.routing.experts, 384);
  EXPECT_TRUE(n.routing.sigmoid);
}

// 1 / sqrt(192) times (1 + 0.1 mscale_all_dim ln 40)^2, as both models' own code has it.
TEST(NumericsTest, YarnScalesTheScoresOfLatentAttention) {
  const double v3 = 1 + 0.1 * std::log(40.0), v2 = 1 + 0.0707 * std::log(40.0);
  EXPECT_NEAR(numerics_of(preset("deepseek-v3"), 32).attention_scale, v3 * v3 / std::sqrt(192.0), 1e-6);
  EXPECT_NEAR(numerics_of(preset("deepseek-v2-lite"), 32).attention_scale, v2 * v2 / std::sqrt(192.0), 1e-6);
}

// Of configurations as vLLM's llm-compressor, its older AutoFP8 and NVIDIA's ModelOpt write them.
TEST(NumericsTest, ScalesOfFp8) {
  const auto scales = [](const Json& quantization, bool nested = false) {
    Json config = preset("llama-3.2-1b");
    if (nested) config = {{"model_type", "llava"}, {"text_config", config}};
    if (!quantization.is_null()) config["quantization_config"] = quantization;
    return numerics_of(config, 64).fp8_scales;
  };
  const auto groups = [](const Json& weights, const Json& inputs) {
    return Json{{"quant_method", "compressed-tensors"},
                {"config_groups",
                 {{"group_0",
                   {{"weights", {{"num_bits", 8}, {"type", "float"}, {"strategy", weights}}},
                    {"input_activations", inputs}}}}}};
  };
  EXPECT_EQ(scales(nullptr), Fp8Scales::kRows);
  EXPECT_EQ(scales({{"quant_method", "fp8"}, {"activation_scheme", "static"}}), Fp8Scales::kStatic);
  EXPECT_EQ(scales({{"quant_method", "fp8"}, {"activation_scheme", "static"}}, true), Fp8Scales::kStatic);
  EXPECT_EQ(scales({{"quant_method", "fp8"}, {"activation_scheme", "dynamic"}}), Fp8Scales::kTensorToken);
  EXPECT_EQ(scales({{"quant_method", "fp8"}, {"weight_block_size", {128, 128}}}), Fp8Scales::kRows);
  EXPECT_EQ(scales({{"quant_method", "modelopt"}, {"quant_algo", "FP8"}}), Fp8Scales::kStatic);
  EXPECT_EQ(scales({{"quant_method", "modelopt"}, {"quantization", {{"quant_algo", "FP8"}}}}),
            Fp8Scales::kStatic);
  EXPECT_EQ(scales({{"quant_method", "modelopt"}, {"quant_algo", "FP8_PER_CHANNEL_PER_TOKEN"}}),
            Fp8Scales::kRows);
  EXPECT_EQ(scales(groups("tensor", {{"strategy", "tensor"}, {"dynamic", false}})), Fp8Scales::kStatic);
  EXPECT_EQ(scales(groups("tensor", {{"strategy", "token"}, {"dynamic", true}})), Fp8Scales::kTensorToken);
  EXPECT_EQ(scales(groups("tensor", nullptr)), Fp8Scales::kTensorToken);
  EXPECT_EQ(scales(groups("channel", {{"strategy", "token"}, {"dynamic", true}})), Fp8Scales::kRows);
}

}  // namespace
}  // namespace foretoken
