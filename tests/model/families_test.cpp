// Families without a preset: configs in the layout of their Hugging Face classes, totals as published.
#include <gtest/gtest.h>

#include "base/json_full.h"
#include "model/hf_config.h"
#include "model/parameters.h"

namespace foretoken {
namespace {

struct Row {
  const char* name;
  std::int64_t total;
  const char* config;
};

class FamilyTotals : public testing::TestWithParam<Row> {};

TEST_P(FamilyTotals, EqualThePublishedCount) {
  const ModelConfig model =
      read_hf_config(parse_json(GetParam().config, "config"), "config", GetParam().name);
  EXPECT_EQ(count_parameters(model).total, GetParam().total);
}

constexpr Row kRows[] = {
    {"falcon-7b", 6'921'720'704, R"({"model_type":"falcon","hidden_size":4544,"num_attention_heads":71,
      "num_hidden_layers":32,"vocab_size":65024,"multi_query":true,"parallel_attn":true,"bias":false,
      "new_decoder_architecture":false,"alibi":false})"},
    {"falcon-40b", 41'303'293'952, R"({"model_type":"falcon","hidden_size":8192,"num_attention_heads":128,
      "num_hidden_layers":60,"vocab_size":65024,"num_kv_heads":8,"parallel_attn":true,"bias":false,
      "new_decoder_architecture":true,"alibi":false})"},
    {"starcoder2-15b", 15'957'889'024,
     R"({"model_type":"starcoder2","hidden_size":6144,"intermediate_size":24576,
      "num_attention_heads":48,"num_key_value_heads":4,"num_hidden_layers":40,"vocab_size":49152,"use_bias":true,
      "sliding_window":4096,"tie_word_embeddings":false})"},
    {"starcoder2-3b", 3'030'371'328,
     R"({"model_type":"starcoder2","hidden_size":3072,"intermediate_size":12288,
      "num_attention_heads":24,"num_key_value_heads":2,"num_hidden_layers":30,"vocab_size":49152,"use_bias":true,
      "sliding_window":4096})"},
    {"gpt-neox-20b", 20'554'567'680, R"({"model_type":"gpt_neox","hidden_size":6144,"intermediate_size":24576,
      "num_attention_heads":64,"num_hidden_layers":44,"vocab_size":50432,"tie_word_embeddings":false})"},
    {"pythia-6.9b", 6'857'302'016, R"({"model_type":"gpt_neox","hidden_size":4096,"intermediate_size":16384,
      "num_attention_heads":32,"num_hidden_layers":32,"vocab_size":50432,"tie_word_embeddings":false})"},
    {"mpt-7b", 6'649'286'656,
     R"({"model_type":"mpt","d_model":4096,"n_heads":32,"n_layers":32,"vocab_size":50432,
      "expansion_ratio":4,"no_bias":true,"max_seq_len":2048,
      "attn_config":{"alibi":true,"attn_type":"multihead_attention","qk_ln":false}})"},
    {"stablelm-2-1.6b", 1'644'515'328,
     R"({"model_type":"stablelm","hidden_size":2048,"intermediate_size":5632,
      "num_attention_heads":32,"num_key_value_heads":32,"num_hidden_layers":24,"vocab_size":100352,
      "use_qkv_bias":true,"tie_word_embeddings":false})"},
    {"gemma-7b", 8'537'680'896, R"({"model_type":"gemma","hidden_size":3072,"intermediate_size":24576,
      "num_attention_heads":16,"num_key_value_heads":16,"head_dim":256,"num_hidden_layers":28,"vocab_size":256000})"},
    {"gemma-2b", 2'506'172'416, R"({"model_type":"gemma","hidden_size":2048,"intermediate_size":16384,
      "num_attention_heads":8,"num_key_value_heads":1,"head_dim":256,"num_hidden_layers":18,"vocab_size":256000})"},
    {"gemma-2-9b", 9'241'705'984, R"({"model_type":"gemma2","hidden_size":3584,"intermediate_size":14336,
      "num_attention_heads":16,"num_key_value_heads":8,"head_dim":256,"num_hidden_layers":42,"vocab_size":256000,
      "sliding_window":4096})"},
    {"gemma-3-4b, keys at their defaults left out", 3'880'263'168, R"({"model_type":"gemma3","text_config":{
      "model_type":"gemma3_text","hidden_size":2560,"intermediate_size":10240,"num_hidden_layers":34,
      "sliding_window":1024},"vision_config":{"hidden_size":1152}})"},
    {"olmo-7b", 6'888'095'744, R"({"model_type":"olmo","hidden_size":4096,"intermediate_size":11008,
      "num_attention_heads":32,"num_hidden_layers":32,"vocab_size":50304,"tie_word_embeddings":false})"},
    {"olmoe-1b-7b", 6'919'161'856, R"({"model_type":"olmoe","hidden_size":2048,"intermediate_size":1024,
      "num_attention_heads":16,"num_key_value_heads":16,"num_hidden_layers":16,"vocab_size":50304,"num_experts":64,
      "num_experts_per_tok":8,"tie_word_embeddings":false})"},
    {"command-r", 34'980'831'232, R"({"model_type":"cohere","hidden_size":8192,"intermediate_size":22528,
      "num_attention_heads":64,"num_key_value_heads":64,"num_hidden_layers":40,"vocab_size":256000})"},
    {"command-r-plus", 103'810'674'688,
     R"({"model_type":"cohere","hidden_size":12288,"intermediate_size":33792,
      "num_attention_heads":96,"num_key_value_heads":8,"num_hidden_layers":64,"vocab_size":256000,
      "use_qk_norm":true})"},
    {"internlm2-7b", 7'737'708'544, R"({"model_type":"internlm2","hidden_size":4096,"intermediate_size":14336,
      "num_attention_heads":32,"num_key_value_heads":8,"num_hidden_layers":32,"vocab_size":92544,"bias":false,
      "tie_word_embeddings":false})"},
    {"baichuan2-7b", 7'505'973'248, R"({"model_type":"baichuan","hidden_size":4096,"intermediate_size":11008,
      "num_attention_heads":32,"num_hidden_layers":32,"vocab_size":125696})"},
    {"phi-3.5-moe", 41'873'153'344, R"({"model_type":"phimoe","hidden_size":4096,"intermediate_size":6400,
      "num_attention_heads":32,"num_key_value_heads":8,"num_hidden_layers":32,"vocab_size":32064,"attention_bias":true,
      "lm_head_bias":true,"num_local_experts":16,"num_experts_per_tok":2,"sliding_window":131072})"},
    {"deepseek-v2", 235'741'434'880,
     R"({"model_type":"deepseek_v2","hidden_size":5120,"intermediate_size":12288,
      "moe_intermediate_size":1536,"num_attention_heads":128,"num_key_value_heads":128,"num_hidden_layers":60,
      "vocab_size":102400,"q_lora_rank":1536,"kv_lora_rank":512,"qk_nope_head_dim":128,"qk_rope_head_dim":64,
      "v_head_dim":128,"n_routed_experts":160,"n_shared_experts":2,"num_experts_per_tok":6,"first_k_dense_replace":1,
      "moe_layer_freq":1,"topk_method":"group_limited_greedy"})"},
    {"qwen1.5-moe-a2.7b", 14'315'784'192,
     R"({"model_type":"qwen2_moe","hidden_size":2048,"intermediate_size":5632,
      "moe_intermediate_size":1408,"shared_expert_intermediate_size":5632,"num_attention_heads":16,
      "num_key_value_heads":16,"num_hidden_layers":24,"vocab_size":151936,"num_experts":60,"num_experts_per_tok":4,
      "decoder_sparse_step":1,"use_sliding_window":false,"tie_word_embeddings":false})"},
    {"smollm3-3b", 3'075'098'624, R"({"model_type":"smollm3","hidden_size":2048,"intermediate_size":11008,
      "num_attention_heads":16,"num_key_value_heads":4,"num_hidden_layers":36,"vocab_size":128256})"},
    {"seed-oss-36b", 36'151'104'512, R"({"model_type":"seed_oss","hidden_size":5120,"intermediate_size":27648,
      "num_attention_heads":80,"num_key_value_heads":8,"head_dim":128,"num_hidden_layers":64,"vocab_size":155136,
      "attention_bias":true,"attention_out_bias":false,"mlp_bias":false,"tie_word_embeddings":false})"},
    {"dbrx", 131'596'523'520,
     R"({"model_type":"dbrx","d_model":6144,"n_heads":48,"n_layers":40,"vocab_size":100352,
      "attn_config":{"kv_n_heads":8,"clip_qkv":8},
      "ffn_config":{"ffn_hidden_size":10752,"moe_num_experts":16,"moe_top_k":4},"tie_word_embeddings":false})"},
    {"jamba-v0.1", 51'570'323'328, R"({"model_type":"jamba","hidden_size":4096,"intermediate_size":14336,
      "num_attention_heads":32,"num_key_value_heads":8,"num_hidden_layers":32,"vocab_size":65536,
      "attn_layer_period":8,"attn_layer_offset":4,"expert_layer_period":2,"expert_layer_offset":1,"num_experts":16,
      "num_experts_per_tok":2,"mamba_d_state":16,"mamba_d_conv":4,"mamba_expand":2,"mamba_dt_rank":256,
      "mamba_conv_bias":true,"mamba_proj_bias":false,"tie_word_embeddings":false})"},
    {"hunyuan-a13b", 80'393'183'232,
     R"({"model_type":"hunyuan_v1_moe","hidden_size":4096,"intermediate_size":3072,
      "num_attention_heads":32,"num_key_value_heads":8,"head_dim":128,"num_hidden_layers":32,"vocab_size":128167,
      "num_experts":64,"moe_topk":[8,8],"num_shared_expert":[1,1],"moe_intermediate_size":[3072,3072],
      "use_mixed_mlp_moe":true,"use_qk_norm":true,"tie_word_embeddings":true})"},
    {"ernie-4.5-0.3b", 360'748'032, R"({"model_type":"ernie4_5","hidden_size":1024,"intermediate_size":3072,
      "num_attention_heads":16,"num_key_value_heads":2,"head_dim":128,"num_hidden_layers":18,"vocab_size":103424,
      "use_bias":false,"tie_word_embeddings":true})"},
    {"kimi-linear-48b", 49'122'681'728,
     R"({"model_type":"kimi_linear","hidden_size":2304,"intermediate_size":9216,
      "moe_intermediate_size":1024,"num_attention_heads":32,"num_key_value_heads":32,"num_hidden_layers":27,
      "vocab_size":163840,"q_lora_rank":null,"kv_lora_rank":512,"qk_nope_head_dim":128,"qk_rope_head_dim":64,
      "v_head_dim":128,"mla_use_nope":true,"num_experts":256,"num_experts_per_token":8,"num_shared_experts":1,
      "first_k_dense_replace":1,"moe_layer_freq":1,"tie_word_embeddings":false,"linear_attn_config":{"head_dim":128,
      "num_heads":32,"short_conv_kernel_size":4,"full_attn_layers":[4,8,12,16,20,24,27],
      "kda_layers":[1,2,3,5,6,7,9,10,11,13,14,15,17,18,19,21,22,23,25,26]}})"},
    {"exaone-3.5-7.8b", 7'818'448'896, R"({"model_type":"exaone","hidden_size":4096,"intermediate_size":14336,
      "num_attention_heads":32,"num_key_value_heads":8,"num_layers":32,"vocab_size":102400,
      "tie_word_embeddings":false})"},
    {"phi-4-mini", 3'836'021'760, R"({"model_type":"phi3","hidden_size":3072,"intermediate_size":8192,
      "num_attention_heads":24,"num_key_value_heads":8,"num_hidden_layers":32,"vocab_size":200064,
      "sliding_window":262144,"tie_word_embeddings":true})"},
    {"command-r7b", 8'028'033'024, R"({"model_type":"cohere2","hidden_size":4096,"intermediate_size":14336,
      "num_attention_heads":32,"num_key_value_heads":8,"num_hidden_layers":32,"vocab_size":256000,
      "sliding_window":4096,"sliding_window_pattern":4})"},
    {"deepseek-v2 beside its inference code", 235'741'434'880,
     R"({"vocab_size":102400,"dim":5120,"inter_dim":12288,
      "moe_inter_dim":1536,"n_layers":60,"n_dense_layers":1,"n_heads":128,"n_routed_experts":160,
      "n_shared_experts":2,"n_activated_experts":6,"n_expert_groups":8,"n_limited_groups":3,"route_scale":16.0,
      "q_lora_rank":1536,"kv_lora_rank":512,"qk_nope_head_dim":128,"qk_rope_head_dim":64,"v_head_dim":128})"},
};

INSTANTIATE_TEST_SUITE_P(Published, FamilyTotals, testing::ValuesIn(kRows), [](const auto& row) {
  std::string name = row.param.name;
  for (char& c : name)
    if (std::isalnum(static_cast<unsigned char>(c)) == 0) c = '_';
  return name;
});

// The published count includes the prediction layer with an embedding and a head of its own.
TEST(PredictionLayers, Glm45Air) {
  const char* config = R"({"model_type":"glm4_moe",
      "hidden_size":4096,"intermediate_size":10944,"moe_intermediate_size":1408,"num_attention_heads":96,
      "num_key_value_heads":8,"head_dim":128,"num_hidden_layers":46,"vocab_size":151552,"n_routed_experts":128,
      "n_shared_experts":1,"num_experts_per_tok":8,"first_k_dense_replace":1,"use_qk_norm":false,
      "attention_bias":true,"num_nextn_predict_layers":1,"tie_word_embeddings":false})";
  const Parameters p =
      count_parameters(read_hf_config(parse_json(config, "config"), "config", "glm-4.5-air"));
  EXPECT_EQ(p.total + p.mtp, 110'468'824'832);
}

}  // namespace
}  // namespace foretoken
