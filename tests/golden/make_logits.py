#!/usr/bin/env python3
"""Makes the golden files of the executor: for each family a tiny random model of Hugging Face's own class, its
config.json and model.safetensors, and the logits that the class computes in float64 (logits.json); and the
rotary frequencies of all kinds of scaling (rope.json).

    python3 -m venv venv && venv/bin/pip install torch transformers==4.57.6 safetensors
    venv/bin/python tests/golden/make_logits.py
"""
import copy
import json
import pathlib
import sys

import torch
import transformers as tf
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

HERE = pathlib.Path(__file__).parent
TOKENS, VOCAB = 32, 96
# Epsilons, windows and limits are such that leaving one out shows in the logits.
SMALL = dict(vocab_size=VOCAB, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=64, rms_norm_eps=0.02, pad_token_id=None,
             bos_token_id=1, eos_token_id=2)
MOE = dict(SMALL, num_hidden_layers=2)
MLA = dict(MOE, num_hidden_layers=3, num_key_value_heads=4, kv_lora_rank=16, qk_nope_head_dim=12, qk_rope_head_dim=8,
           v_head_dim=10, n_routed_experts=8, moe_intermediate_size=16, first_k_dense_replace=1)
YARN = dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=16, beta_fast=32.0, beta_slow=1.0)


def families():
    yield "llama", tf.LlamaConfig(**SMALL), "bfloat16"
    yield "llama_llama3_rope", tf.LlamaConfig(
        **dict(SMALL, rope_theta=500000.0, head_dim=12, attention_bias=True, mlp_bias=True, tie_word_embeddings=True),
        rope_scaling=dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                          original_max_position_embeddings=16)), "float16"
    yield "mistral", tf.MistralConfig(**dict(SMALL, sliding_window=9, rope_theta=1e4)), "bfloat16"
    yield "qwen2", tf.Qwen2Config(**SMALL, rope_theta=1e6, use_sliding_window=True, sliding_window=7,
                                  max_window_layers=1, tie_word_embeddings=True), "bfloat16"
    yield "qwen3", tf.Qwen3Config(**SMALL, head_dim=16, rope_theta=1e6), "bfloat16"
    yield "qwen2_moe", tf.Qwen2MoeConfig(
        **MOE, num_experts=6, num_experts_per_tok=2, moe_intermediate_size=16, shared_expert_intermediate_size=24,
        decoder_sparse_step=1, mlp_only_layers=[1], norm_topk_prob=False), "bfloat16"
    yield "qwen3_moe", tf.Qwen3MoeConfig(
        **MOE, head_dim=12, num_experts=8, num_experts_per_tok=3, moe_intermediate_size=16, norm_topk_prob=True,
        rope_scaling=dict(YARN)), "bfloat16"
    yield "mixtral", tf.MixtralConfig(**dict(MOE, intermediate_size=24), num_local_experts=6, num_experts_per_tok=2,
                                      sliding_window=None), "bfloat16"
    yield "deepseek_v2_lite", tf.DeepseekV2Config(
        **MLA, q_lora_rank=None, num_experts_per_tok=3, n_shared_experts=2, topk_method="greedy",
        routed_scaling_factor=1.0, norm_topk_prob=False), "bfloat16"
    yield "deepseek_v2", tf.DeepseekV2Config(
        **MLA, q_lora_rank=20, num_experts_per_tok=3, n_shared_experts=1, topk_method="group_limited_greedy",
        n_group=4, topk_group=2, routed_scaling_factor=1.7, norm_topk_prob=False, attention_bias=True,
        rope_scaling=dict(YARN)), "bfloat16"
    yield "deepseek_v3", tf.DeepseekV3Config(
        **MLA, q_lora_rank=20, num_experts_per_tok=3, n_shared_experts=1, n_group=4, topk_group=2,
        routed_scaling_factor=2.5, norm_topk_prob=True,
        rope_scaling=dict(YARN, mscale=1.0, mscale_all_dim=0.8)), "bfloat16"
    yield "gemma", tf.GemmaConfig(**SMALL, head_dim=12), "bfloat16"
    yield "gemma2", tf.Gemma2Config(**SMALL, head_dim=12, sliding_window=8, query_pre_attn_scalar=10,
                                    attn_logit_softcapping=2.0, final_logit_softcapping=3.0), "bfloat16"
    yield "gemma3", tf.Gemma3TextConfig(**SMALL, head_dim=12, sliding_window=8, query_pre_attn_scalar=10,
                                        rope_theta=1e6, rope_local_base_freq=1e4,
                                        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
                                        rope_scaling=dict(rope_type="linear", factor=8.0)), "bfloat16"
    yield "gpt_oss", tf.GptOssConfig(
        **dict(MOE, intermediate_size=20), head_dim=12, num_local_experts=6, num_experts_per_tok=2, sliding_window=8,
        attention_bias=True, rope_theta=150000.0,
        rope_scaling=dict(YARN, truncate=False)), "bfloat16"
    yield "phi3", tf.Phi3Config(
        **SMALL, partial_rotary_factor=0.75, original_max_position_embeddings=16, sliding_window=20,
        rope_scaling=dict(type="longrope", short_factor=[1.0, 1.1, 1.2], long_factor=[1.0, 1.5, 3.0])), "bfloat16"
    yield "gpt2", tf.GPT2Config(vocab_size=VOCAB, n_embd=32, n_layer=3, n_head=4, n_positions=48, n_inner=40,
                                layer_norm_epsilon=0.02,
                                bos_token_id=1, eos_token_id=2), "float32"
    yield "opt", tf.OPTConfig(vocab_size=VOCAB, hidden_size=32, word_embed_proj_dim=32, ffn_dim=48,
                              num_hidden_layers=3, num_attention_heads=4, max_position_embeddings=48, pad_token_id=1,
                              bos_token_id=2, eos_token_id=2), "float16"
    yield "qwen3_next", tf.Qwen3NextConfig(
        **SMALL, head_dim=12, partial_rotary_factor=0.5, num_experts=6, num_experts_per_tok=2, moe_intermediate_size=16,
        shared_expert_intermediate_size=24, norm_topk_prob=True, mlp_only_layers=[1], linear_conv_kernel_dim=4,
        linear_key_head_dim=8, linear_value_head_dim=6, linear_num_key_heads=2, linear_num_value_heads=4,
        layer_types=["linear_attention", "full_attention", "linear_attention"]), "bfloat16"


def fill(model, generator, dtype):
    """Non-trivial values everywhere, rounded to the type that they are stored in."""
    offset_one = model.config.model_type.startswith("gemma") or model.config.model_type == "qwen3_next"
    with torch.no_grad():
        for name, value in model.state_dict().items():
            random = torch.randn(value.shape, generator=generator, dtype=torch.float64)
            if "norm" in name or ".ln_" in name:
                zero = offset_one and "linear_attn.norm" not in name  # added to one
                random = 0.2 * random + (0 if zero or name.endswith("bias") else 1)
            elif "e_score_correction_bias" in name:
                random = 0.1 * random
            elif "bias" in name:
                random = 0.3 * random
            elif "sinks" in name:
                pass
            elif "embed" in name or ".wte" in name or ".wpe" in name:
                random = 0.7 * random
            elif "gate_up_proj" in name and value.dim() == 3:  # so that the activation's limits are reached
                random = 4 * random / value.shape[-2] ** 0.5
            elif value.dim() == 3 or ".c_" in name:  # [..., inputs, outputs]
                random = 1.3 * random / value.shape[-2] ** 0.5
            else:
                random = 1.3 * random / value.shape[-1] ** 0.5
            value.copy_(random.to(dtype).to(value.dtype))


def make(name, config, dtype_name, seed):
    folder = HERE / name
    folder.mkdir(exist_ok=True)
    dtype = getattr(torch, dtype_name)
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    model = tf.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    fill(model, torch.Generator().manual_seed(seed), dtype)
    copy.deepcopy(model).to(dtype).save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    tokens = torch.randint(0, VOCAB, (1, TOKENS), generator=torch.Generator().manual_seed(seed + 1))
    if config.pad_token_id is not None:  # the embedding of padding is not special in a forward pass
        tokens[tokens == config.pad_token_id] = 5
    if config.model_type != "deepseek_v3":  # whose class adds experts up in float32
        model = model.double()
    with torch.no_grad():
        logits = model(tokens, use_cache=False).logits[0]
    assert logits.shape == (TOKENS, VOCAB) and torch.isfinite(logits).all()
    rows = ",\n".join("[" + ",".join(f"{v:.6f}" for v in row) + "]" for row in logits.tolist())
    (folder / "logits.json").write_text(f'{{"tokens": {tokens[0].tolist()},\n"logits": [\n{rows}]}}\n')
    size = sum(f.stat().st_size for f in folder.iterdir())
    print(f"{name}: {logits.std():.3f} standard deviation, {size} bytes")


def ropes():
    base = dict(vocab_size=8, hidden_size=64, num_attention_heads=2, num_hidden_layers=1, intermediate_size=8,
                max_position_embeddings=4096)
    llama3 = dict(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=256)
    long = dict(short_factor=[1 + 0.05 * i for i in range(16)], long_factor=[1 + 0.5 * i for i in range(16)])
    yarn = dict(rope_type="yarn", factor=40.0, original_max_position_embeddings=1024)
    cases = [
        ("default", {}, None, 8), ("base", dict(rope_theta=1e7), None, 8),
        ("linear", {}, dict(rope_type="linear", factor=3.0), 8),
        ("dynamic short", {}, dict(rope_type="dynamic", factor=2.0), 100),
        ("dynamic long", {}, dict(rope_type="dynamic", factor=2.0), 10000),
        ("llama3", dict(rope_theta=5e5), dict(llama3, rope_type="llama3"), 8),
        ("yarn", {}, yarn, 8),
        ("yarn mscale", {}, dict(yarn, mscale=1.0, mscale_all_dim=0.707), 8),
        ("yarn attention_factor", {}, dict(yarn, attention_factor=1.25), 8),
        ("yarn betas", {}, dict(yarn, beta_fast=16.0, beta_slow=2.0, truncate=False), 8),
        ("yarn without original", {}, dict(rope_type="yarn", factor=4.0), 8),
        ("longrope short", {}, dict(long, rope_type="longrope", factor=4.0), 100),
        ("longrope long", {}, dict(long, rope_type="longrope", factor=4.0), 5000),
        ("longrope original", dict(original_max_position_embeddings=512), dict(long, rope_type="longrope"), 600),
        ("partial", dict(partial_rotary_factor=0.5), dict(rope_type="linear", factor=2.0), 8),
    ]
    out = []
    for name, extra, scaling, longest in cases:
        config = tf.LlamaConfig(**base, **extra)
        config.rope_scaling = scaling
        kind = "default" if scaling is None else scaling["rope_type"]
        frequencies, factor = ROPE_INIT_FUNCTIONS[kind](config, "cpu", seq_len=longest)
        plain = dict(model_type="llama", **base, **extra)
        if scaling is not None:
            plain["rope_scaling"] = scaling
        out.append(dict(name=name, longest=longest, config=plain, inverse_frequencies=frequencies.tolist(),
                        scale=factor))
    (HERE / "rope.json").write_text("[" + ",\n".join(json.dumps(case) for case in out) + "]\n")


if __name__ == "__main__":
    assert tf.__version__.startswith("4.57."), tf.__version__
    ropes()
    for number, (family, family_config, stored) in enumerate(families()):
        if len(sys.argv) < 2 or family in sys.argv[1:]:
            make(family, family_config, stored, 1000 + 10 * number)
