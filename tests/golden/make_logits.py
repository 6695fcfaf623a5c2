#!/usr/bin/env python3
"""Makes tests/golden/FAMILY/{config.json, model.safetensors, logits.json}: tiny random models of Hugging Face
transformers with the features of their family switched on, and what they say of a fixed row of tokens.

    python3 -m venv V && V/bin/pip install torch transformers safetensors
    V/bin/python tests/golden/make_logits.py [FAMILY...]

Logits are computed in float32 from weights that are rounded to bfloat16 and stored so, to keep the files small.
Made with transformers 4.57.6 and torch 2.15.0."""
import json, pathlib, sys

import torch
from safetensors.torch import save_file
import transformers as t

HERE = pathlib.Path(__file__).resolve().parent
BASE = dict(vocab_size=128, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=64, tie_word_embeddings=False)
MLA = dict(q_lora_rank=16, kv_lora_rank=16, qk_nope_head_dim=8, qk_rope_head_dim=8, v_head_dim=8, num_key_value_heads=4,
           n_routed_experts=8, n_shared_experts=1, num_experts_per_tok=2, moe_intermediate_size=16, first_k_dense_replace=1,
           n_group=4, topk_group=2)
YARN = dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=16, beta_fast=32, beta_slow=1)
FAMILIES = {
    "llama": (t.LlamaConfig, dict(BASE, mlp_bias=True, attention_bias=True)),
    "llama3": (t.LlamaConfig, dict(BASE, tie_word_embeddings=True, rope_theta=500.0, rope_scaling=dict(
        rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=16))),
    "llama_linear": (t.LlamaConfig, dict(BASE, rope_scaling=dict(rope_type="linear", factor=2.0))),
    "llama_dynamic": (t.LlamaConfig, dict(BASE, max_position_embeddings=16, rope_scaling=dict(rope_type="dynamic", factor=2.0))),
    "mistral": (t.MistralConfig, dict(BASE, sliding_window=8)),
    "mixtral": (t.MixtralConfig, dict(BASE, num_local_experts=4, num_experts_per_tok=2)),
    "qwen2": (t.Qwen2Config, dict(BASE)),
    "qwen2_yarn": (t.Qwen2Config, dict(BASE, rope_scaling=YARN)),
    "qwen3": (t.Qwen3Config, dict(BASE, head_dim=16)),
    "qwen2_moe": (t.Qwen2MoeConfig, dict(BASE, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16,
                                         shared_expert_intermediate_size=24, norm_topk_prob=False)),
    "qwen3_moe": (t.Qwen3MoeConfig, dict(BASE, head_dim=16, num_experts=8, num_experts_per_tok=2, moe_intermediate_size=16,
                                         norm_topk_prob=True)),
    "deepseek_v2": (t.DeepseekV2Config, dict(BASE, **MLA, topk_method="group_limited_greedy", routed_scaling_factor=2.0,
                                             rope_scaling=YARN)),  # transformers' V2 ignores mscale_all_dim, its authors don't
    "deepseek_v2_lite": (t.DeepseekV2Config, dict(BASE, **dict(MLA, q_lora_rank=None, n_group=1, topk_group=1), topk_method="greedy",
                                                  routed_scaling_factor=1.0)),
    "deepseek_v3": (t.DeepseekV3Config, dict(BASE, **MLA, norm_topk_prob=True, routed_scaling_factor=2.5, topk_method="noaux_tc",
                                             scoring_func="sigmoid",
                                             rope_scaling=dict(YARN, mscale=1.0, mscale_all_dim=1.0))),
    "gemma": (t.GemmaConfig, dict(BASE, head_dim=8, tie_word_embeddings=True)),
    "gemma2": (t.Gemma2Config, dict(BASE, head_dim=8, sliding_window=8, query_pre_attn_scalar=12, attn_logit_softcapping=2.0,
                                    final_logit_softcapping=3.0, tie_word_embeddings=True)),
    "gemma3": (t.Gemma3TextConfig, dict(BASE, num_hidden_layers=3, head_dim=8, sliding_window=8, query_pre_attn_scalar=12,
                                        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
                                        rope_theta=10000.0, rope_local_base_freq=100.0, tie_word_embeddings=True)),
    "gpt_oss": (t.GptOssConfig, dict(BASE, head_dim=8, sliding_window=8, num_local_experts=4, num_experts_per_tok=2,
                                     layer_types=["sliding_attention", "full_attention"], swiglu_limit=7.0,
                                     rope_theta=150000.0, rope_scaling=dict(YARN, truncate=False))),
    "phi3": (t.Phi3Config, dict(BASE, sliding_window=8, pad_token_id=0)),
    "phi3_longrope": (t.Phi3Config, dict(BASE, original_max_position_embeddings=16, partial_rotary_factor=0.5, pad_token_id=0,
                                         rope_scaling=dict(type="longrope", short_factor=[1.0, 1.5], long_factor=[2.0, 3.0]))),
    "gpt2": (t.GPT2Config, dict(vocab_size=128, n_embd=32, n_layer=2, n_head=4, n_positions=64)),
    "opt": (t.OPTConfig, dict(vocab_size=128, hidden_size=32, word_embed_proj_dim=32, ffn_dim=48, num_hidden_layers=2,
                              num_attention_heads=4, max_position_embeddings=64)),
}
TOKENS = [(i * i * 7 + i * 13 + 5) % 128 for i in range(24)]

for name in sys.argv[1:] or FAMILIES:
    kind, options = FAMILIES[name]
    torch.manual_seed(sum(map(ord, name)))
    config = kind(**options)
    config._attn_implementation = "eager"
    model = t.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for key, p in model.named_parameters():
            vector = p.dim() == 1
            norm = vector and "norm" in key or ".ln_" in key and key.endswith("weight")
            p.copy_(torch.randn_like(p) * (0.3 if vector else 1.2 / p.shape[-1] ** 0.5) +
                    (0 if not norm or "gemma" in name or key.endswith("bias") else 1))
            p.copy_(p.to(torch.bfloat16))
        for key, b in model.named_buffers():
            if "e_score_correction_bias" in key:
                b.copy_((torch.randn_like(b) * 0.2).to(torch.bfloat16))
    model = model.float().eval()
    out = HERE / name
    out.mkdir(exist_ok=True)
    with torch.no_grad():
        logits = model(torch.tensor([TOKENS]), use_cache=False).logits[0]
    state = {k: v.to(torch.bfloat16).contiguous().clone() for k, v in model.state_dict().items()
             if not k.endswith(("rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias"))}
    if config.tie_word_embeddings:
        state.pop("lm_head.weight", None)
    save_file(state, out / "model.safetensors")
    text = config.to_diff_dict() | {"model_type": config.model_type, "torch_dtype": "float32"}
    full = config.to_dict()
    for key in options:
        text[key] = full.get(key, options[key])
    text.pop("_attn_implementation_autoset", None), text.pop("dtype", None), text.pop("transformers_version", None)
    (out / "config.json").write_text(json.dumps(text, indent=1, sort_keys=True) + "\n")
    (out / "logits.json").write_text(json.dumps({"tokens": TOKENS, "logits": [[float(f"{v:.7g}") for v in row] for row in logits.tolist()]}) + "\n")
    size = sum(f.stat().st_size for f in out.iterdir())
    print(name, logits.abs().max().item(), size)
