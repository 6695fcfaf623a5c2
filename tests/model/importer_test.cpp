// What the importer refuses, and how it says so; names of presets; quantisation of checkpoints.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <functional>

#include "base/error.h"
#include "base/file.h"
#include "base/json_full.h"
#include "model/hf_config.h"
#include "model/kv_cache.h"
#include "model/parameters.h"

namespace foretoken {
namespace {

using testing::HasSubstr;
namespace fs = std::filesystem;
const fs::path kPresets = fs::path(FORETOKEN_SOURCE_DIR) / "model/presets";

Json preset_json(const std::string& name) {
  std::string text = read_file(kPresets / (name + ".json"));
  return parse_json(text, name);
}

ModelConfig read(const Json& config) { return read_hf_config(config, "config.json", "test"); }

// The error of a config after `change`; fails when there is none.
std::pair<std::string, std::string> refusal(const std::string& name,
                                            const std::function<void(Json&)>& change) {
  Json config = preset_json(name);
  change(config);
  try {
    read(config);
  } catch (const Error& e) {
    return {e.where(), e.message()};
  }
  ADD_FAILURE() << name << " was accepted";
  return {};
}

TEST(Importer, UnknownTypeNamesTheNearest) {
  const auto [where, message] = refusal("llama-3.1-8b", [](Json& j) { j["model_type"] = "qwen4"; });
  EXPECT_EQ(where, "config.json:/model_type");
  EXPECT_THAT(message, HasSubstr("\"qwen4\""));
  EXPECT_LT(message.find("qwen3"), message.find("llama"));
}

TEST(Importer, MissingAndWrongKeysAreNamed) {
  EXPECT_EQ(refusal("llama-3.1-8b", [](Json& j) { j.erase("hidden_size"); }).first,
            "config.json:/hidden_size");
  EXPECT_EQ(refusal("llama-3.1-8b", [](Json& j) { j.erase("vocab_size"); }).first, "config.json:/vocab_size");
  EXPECT_EQ(refusal("llama-3.1-8b", [](Json& j) { j.erase("model_type"); }).first, "config.json:/model_type");
  for (const Json& bad :
       {Json(0), Json(-4096), Json(4096.5), Json("4096"), Json(true), Json(Json::array()), Json(1e18)})
    EXPECT_EQ(refusal("llama-3.1-8b", [&](Json& j) { j["hidden_size"] = bad; }).first,
              "config.json:/hidden_size")
        << bad.dump();
  EXPECT_EQ(refusal("llama-3.1-8b", [](Json& j) { j["hidden_size"] = std::nan(""); }).first,
            "config.json:/hidden_size");
  EXPECT_EQ(refusal("llama-3.1-8b", [](Json& j) { j["tie_word_embeddings"] = "no"; }).first,
            "config.json:/tie_word_embeddings");
  EXPECT_EQ(refusal("llama-3.1-8b", [](Json& j) { j["torch_dtype"] = "complex64"; }).first,
            "config.json:/torch_dtype");
}

TEST(Importer, Contradictions) {
  const auto heads = refusal("llama-3.1-8b", [](Json& j) { j["num_key_value_heads"] = 5; });
  EXPECT_EQ(heads.first, "config.json:/num_key_value_heads");
  EXPECT_THAT(heads.second, HasSubstr("32 query heads are no multiple of 5"));
  EXPECT_EQ(refusal("mixtral-8x7b", [](Json& j) { j.erase("num_experts_per_tok"); }).first,
            "config.json:/num_experts_per_tok");
  EXPECT_THAT(refusal("mixtral-8x7b", [](Json& j) { j["num_experts_per_tok"] = 9; }).second,
              HasSubstr("9 experts a token of 8"));
  EXPECT_EQ(refusal("gpt-oss-20b", [](Json& j) { j["layer_types"].erase(0); }).first,
            "config.json:/layer_types");
  EXPECT_EQ(refusal("gpt-oss-20b", [](Json& j) { j["layer_types"][3] = "slidng_attention"; }).first,
            "config.json:/layer_types/3");
  EXPECT_THAT(refusal("gpt-oss-20b", [](Json& j) { j["layer_types"][3] = "slidng_attention"; }).second,
              HasSubstr("did you mean \"sliding_attention\""));
  EXPECT_THAT(
      refusal("nemotron-3-nano-30b-a3b", [](Json& j) { j["hybrid_override_pattern"] = "MEMX"; }).second,
      HasSubstr("letter 'X'"));
  EXPECT_THAT(
      refusal("nemotron-3-nano-30b-a3b", [](Json& j) { j["hybrid_override_pattern"] = "MEM*"; }).second,
      HasSubstr("4 entries for 52 layers"));
  EXPECT_EQ(refusal("mimo-v2-flash", [](Json& j) { j["moe_layer_freq"].push_back(1); }).first,
            "config.json:/moe_layer_freq");
  EXPECT_EQ(refusal("deepseek-v4-flash",
                    [](Json& j) {
                      j["compress_ratios"].erase(0);
                      j["compress_ratios"].erase(0);
                    })
                .first,
            "config.json:/compress_ratios");
  EXPECT_EQ(refusal("kimi-k3", [](Json& j) { j["text_config"]["linear_attn_config"]["kda_layers"].erase(0); })
                .first,
            "config.json:/text_config/linear_attn_config");
  EXPECT_EQ(refusal("llama-3.3-nemotron-super-49b",
                    [](Json& j) { j["block_configs"][7]["ffn"]["replace_with_linear"] = true; })
                .first,
            "config.json:/block_configs/7/ffn/replace_with_linear");
}

// A key that changes a layer's cost and that the family's reader doesn't know is refused, never ignored.
TEST(Importer, NovelBlocksAreRefusedByKey) {
  const std::pair<const char*, Json> keys[] = {
      {"num_local_experts", 8},
      {"kv_lora_rank", 512},
      {"num_kv_shared_layers", 4},
      {"hc_mult", 4},
      {"index_topk", 2048},
      {"mamba_d_state", 16},
      {"sparse_attention_config", Json{{"use_sparse_attention", true}}},
      {"engram_layers", Json::array({1, 2})}};
  for (const auto& [key, value] : keys) {
    const auto error = refusal("llama-3.1-8b", [&, k = key, v = value](Json& j) { j[k] = v; });
    EXPECT_EQ(error.first, std::string("config.json:/") + key);
    EXPECT_THAT(error.second, HasSubstr("not modelled"));
  }
  Json harmless = preset_json("llama-3.1-8b");
  harmless["num_local_experts"] = 0;
  harmless["kv_lora_rank"] = nullptr;
  harmless["use_mamba_kernels"] = true;
  EXPECT_EQ(count_parameters(read(harmless)).total, 8'030'261'248);
}

TEST(Importer, AbsurdSizesAreRefused) {
  const auto error = refusal("mixtral-8x7b", [](Json& j) {
    j["num_local_experts"] = 16384;
    j["intermediate_size"] = 4'000'000;
    j["num_hidden_layers"] = 4096;
  });
  EXPECT_THAT(error.second, HasSubstr("parameters"));
}

TEST(Importer, MultimodalWrappersGiveTheirLanguageModel) {
  const ModelConfig qwen = load_model("qwen3-vl-30b-a3b", kPresets);
  EXPECT_EQ(qwen.model_type, "qwen3_vl_moe_text");
  EXPECT_EQ(count_parameters(qwen).total, 30'532'122'624);
  Json wrapped{{"model_type", "llava"}, {"tie_word_embeddings", false}};
  wrapped["text_config"] = preset_json("mistral-7b-v0.1");
  EXPECT_EQ(count_parameters(read(wrapped)).total, 7'241'732'096);
  wrapped["text_config"].erase("hidden_size");
  try {
    read(wrapped);
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.where(), "config.json:/text_config/hidden_size");
  }
}

TEST(Quantization, FormatsAndWhatTheyLeaveOut) {
  const auto spec = [](const char* name) { return load_model(name, kPresets).quantization; };
  EXPECT_EQ(spec("deepseek-v3").format, WeightFormat::kFp8Block);
  EXPECT_EQ(spec("llama-3.1-8b").format, WeightFormat::kPlain);
  const auto gpt = spec("gpt-oss-120b");
  EXPECT_EQ(gpt.format, WeightFormat::kMxfp4);
  EXPECT_TRUE(gpt.is_excluded("attention"));
  EXPECT_FALSE(gpt.is_excluded("experts"));
  const auto kimi = spec("kimi-k2.5");
  EXPECT_EQ(kimi.format, WeightFormat::kInt4Wo);
  EXPECT_TRUE(kimi.is_excluded("attention") && kimi.is_excluded("shared_experts") && kimi.is_excluded("mlp"));
  EXPECT_FALSE(kimi.is_excluded("experts"));
  const auto minimax = spec("minimax-m2.5");  // "gate" names the router, not gate_up_proj
  EXPECT_FALSE(minimax.is_excluded("experts"));
  EXPECT_EQ(spec("deepseek-v4-flash-nvfp4").experts, WeightFormat::kNvfp4);
  EXPECT_EQ(spec("deepseek-v4-flash").experts, WeightFormat::kMxfp4);
}

TEST(Quantization, Methods) {
  const auto with = [](Json quantization) {
    Json config = preset_json("llama-3.1-8b");
    config["quantization_config"] = std::move(quantization);
    return read(config).quantization;
  };
  EXPECT_EQ(with({{"quant_method", "fp8"}}).format, WeightFormat::kFp8);
  EXPECT_EQ(with({{"quant_method", "fbgemm_fp8"}, {"modules_to_not_convert", {"lm_head"}}}).format,
            WeightFormat::kFp8);
  EXPECT_EQ(with({{"quant_method", "awq"}, {"bits", 4}}).format, WeightFormat::kInt4Wo);
  EXPECT_EQ(with({{"quant_method", "gptq"}, {"bits", 8}}).format, WeightFormat::kInt8);
  const auto modelopt =
      with({{"quant_method", "modelopt"}, {"quant_algo", "NVFP4"}, {"kv_cache_quant_algo", "FP8"}});
  EXPECT_EQ(modelopt.format, WeightFormat::kNvfp4);
  EXPECT_TRUE(modelopt.kv_fp8);
  const Json group{{"weights", {{"num_bits", 8}, {"type", "int"}, {"strategy", "channel"}}}};
  EXPECT_EQ(with({{"quant_method", "compressed-tensors"}, {"config_groups", {{"group_0", group}}}}).format,
            WeightFormat::kInt8);
  // Some layers left out don't make the component plain; most of them do.
  Json some = Json::array(), most = Json::array();
  for (int i = 0; i < 32; ++i)
    (i < 4 ? some : most).push_back("model.layers." + std::to_string(i) + ".self_attn");
  EXPECT_FALSE(
      with({{"quant_method", "modelopt"}, {"quant_algo", "FP8"}, {"ignore", some}}).is_excluded("attention"));
  EXPECT_TRUE(
      with({{"quant_method", "modelopt"}, {"quant_algo", "FP8"}, {"ignore", most}}).is_excluded("attention"));
  EXPECT_TRUE(with({{"quant_method", "fp8"}, {"ignored_layers", {"*.mlp.*"}}}).is_excluded("mlp"));
  for (const auto& [bad, key] : {std::pair<Json, std::string>{{{"quant_method", "exl3"}}, "quant_method"},
                                 {{{"quant_method", "gptq"}, {"bits", 3}}, "bits"},
                                 {{{"quant_method", "fp8"}, {"ignore", {"re:(["}}}, "ignore/0"},
                                 {{{"quant_method", "modelopt"}, {"quant_algo", "NF2"}}, "quant_algo"}}) {
    try {
      with(bad);
      ADD_FAILURE() << bad.dump();
    } catch (const Error& e) {
      EXPECT_EQ(e.where(), "config.json:/quantization_config/" + key);
    }
  }
}

TEST(Presets, NamesIdsAndVariants) {
  const auto name = [](const char* wanted) { return load_model(wanted, kPresets).name; };
  EXPECT_EQ(name("llama-3.1-8b"), "llama-3.1-8b");
  EXPECT_EQ(name("meta-llama/Meta-Llama-3.1-8B"), "llama-3.1-8b");
  EXPECT_EQ(name("META-LLAMA-3.1-8B-Instruct"), "llama-3.1-8b");
  EXPECT_EQ(name("meta-llama/Llama-3.3-70B-Instruct"), "llama-3.3-70b");
  EXPECT_EQ(name("Qwen/Qwen3-30B-A3B-Instruct-2507"), "qwen3-30b-a3b");
  EXPECT_EQ(name("google/gemma-3-27b-it"), "gemma-3-27b");
  EXPECT_EQ(name("deepseek-ai/DeepSeek-R1-0528"), "deepseek-r1");
  EXPECT_EQ(name("mistralai/Mixtral-8x7B-Instruct-v0.1"), "mixtral-8x7b");
  EXPECT_EQ(name("deepseek-v4-flash-fp8"), "deepseek-v4-flash-fp8");  // a preset of its own
  EXPECT_EQ(load_model("Qwen/Qwen3-32B-FP8", kPresets).quantization.format, WeightFormat::kFp8Block);
  EXPECT_EQ(load_model("nvidia/Llama-3.3-70B-Instruct-FP8", kPresets).quantization.format,
            WeightFormat::kFp8);
  EXPECT_EQ(load_model("nvidia/Llama-3.1-8B-Instruct-NVFP4", kPresets).quantization.format,
            WeightFormat::kNvfp4);
  EXPECT_EQ(load_model("Qwen3-32B-AWQ", kPresets).quantization.format, WeightFormat::kInt4Wo);
  EXPECT_EQ(count_parameters(load_model("llama-3.3-70b", kPresets)).total, 70'553'706'496);
}

TEST(Presets, UnknownNamesSuggest) {
  try {
    load_model("lama-3.1-8b", kPresets);
    FAIL();
  } catch (const Error& e) {
    EXPECT_THAT(e.message(), HasSubstr("nearest presets: llama-3.1-8b"));
  }
  EXPECT_THROW(load_model("", kPresets), Error);
  EXPECT_THROW(load_model("no/such/config.json", kPresets), Error);
}

TEST(Presets, PathsAndFolders) {
  const fs::path folder = fs::path(testing::TempDir()) / "foretoken_model_test" / "my-model";
  fs::create_directories(folder);
  fs::copy_file(kPresets / "qwen3-0.6b.json", folder / "config.json", fs::copy_options::overwrite_existing);
  EXPECT_EQ(load_model(folder.string(), kPresets).name, "my-model");
  EXPECT_EQ(load_model((folder / "config.json").string(), kPresets).name, "my-model");
  EXPECT_EQ(load_model("my-model/config.json", kPresets, folder.parent_path()).name, "my-model");
  std::ofstream(folder / "hf_quant_config.json")
      << R"({"quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8", "exclude_modules": ["lm_head"]}})";
  const ModelConfig quantized = load_model(folder.string(), kPresets);
  EXPECT_EQ(quantized.quantization.format, WeightFormat::kFp8);
  EXPECT_TRUE(quantized.quantization.kv_fp8);
  std::ofstream(folder / "config.json") << "{\"model_type\": \"llama\",";
  EXPECT_THROW(load_model(folder.string(), kPresets), Error);
  fs::remove_all(folder.parent_path());
}

TEST(Presets, LoadQuickly) {
  const auto presets = list_presets(kPresets);
  const auto start = std::chrono::steady_clock::now();
  for (const Preset& p : presets) load_model(p.name, kPresets);
  const double ms =
      std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
  EXPECT_LT(ms / static_cast<double>(presets.size()), 25.0);  // 5 ms without sanitisers
}

// Every key of every family's config removed or replaced: a valid model or an Error, never anything else.
TEST(ImporterFuzz, EveryKeyOfEveryPreset) {
  const Json replacements[] = {nullptr,
                               "text",
                               -1,
                               0,
                               1,
                               3,
                               2.5,
                               1e30,
                               true,
                               Json::array(),
                               Json::object(),
                               Json::array({1, "x"}),
                               9007199254740993LL,
                               1 << 20};
  int accepted = 0, refused = 0;
  const auto attempt = [&](const Json& config) {
    try {
      const ModelConfig m = read(config);
      const Parameters p = count_parameters(m);
      EXPECT_GT(p.total, 0);
      EXPECT_GE(p.total, p.active);
      Work work;
      work.prefill = {{16, 4, 1}};
      work.decode_sequences = 2;
      work.contexts = {64};
      work.sampled_rows = 3;
      for (const Op& op : operators(m, Shard{}, work, Precision{}).ops) {
        EXPECT_GE(flops(op).value, 0) << op.name;
        EXPECT_GE(bytes(op).value, 0) << op.name;
      }
      EXPECT_GE(kv_bytes(m, Shard{}, DType::kBf16, 1000, 16), 0);
      ++accepted;
    } catch (const Error& e) {
      EXPECT_FALSE(e.where().empty());
      ++refused;
    }
  };
  for (const char* name :
       {"llama-3.1-8b", "mixtral-8x7b", "deepseek-v3.2", "glm-5.2", "gemma-3-1b", "gemma-4-26b-a4b",
        "gpt-oss-20b", "kimi-k3", "nemotron-3-ultra-550b-a55b", "qwen3.5-35b-a3b", "mimo-v2-flash",
        "minimax-m3", "deepseek-v4-flash-nvfp4", "llama-4-scout", "llama-3.3-nemotron-super-49b", "opt-13b",
        "gpt2", "step-3.7-flash-fp8"}) {
    SCOPED_TRACE(name);
    const Json original = preset_json(name);
    std::vector<Json::json_pointer> keys;
    const std::function<void(const Json&, const Json::json_pointer&, int)> collect =
        [&](const Json& j, const Json::json_pointer& at, int depth) {
          if (!j.is_object() || depth > 3) return;
          for (const auto& [key, value] : j.items()) {
            if (key == "vision_config" || key == "quantized_layers") continue;
            keys.push_back(at / key);
            collect(value, at / key, depth + 1);
          }
        };
    collect(original, Json::json_pointer(), 0);
    for (const auto& key : keys) {
      Json removed = original;
      removed[key.parent_pointer()].erase(key.back());
      attempt(removed);
      for (const Json& value : replacements) {
        Json changed = original;
        changed[key] = value;
        attempt(changed);
      }
    }
  }
  EXPECT_GT(accepted, 1000);
  EXPECT_GT(refused, 1000);
}

}  // namespace
}  // namespace foretoken
