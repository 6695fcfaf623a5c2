// Weights from safetensors by the names that Hugging Face's models give them. A weight is a tensor, a first
// element and two strides: fused projections, transposed matrices and experts side by side are read where
// they lie.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <map>
#include <tuple>

#include "base/error.h"
#include "executor/checkpoint_extents.h"
#include "executor/safetensors.h"

namespace foretoken {
namespace {

struct Source {
  std::string name;
  std::vector<std::int64_t> shape;  // that the tensor must have
  std::int64_t first = 0, row_stride = 0, column_stride = 1;
};

class Names {
 public:
  Names(const Extents& extents, const TensorFiles& files, std::string type)
      : extents_(extents), files_(files), type_(std::move(type)) {}

  Source source(Role role, std::int64_t layer, std::int64_t expert) const {
    const Extent e = extents_.of(role, layer);
    const ModelConfig& m = extents_.model();
    if (type_ == "gpt2") return gpt2(role, layer, e);
    if (role == Role::kLmHead) {
      if (files_.find("lm_head.weight")) return plain("lm_head.weight", e);
      return source(Role::kEmbedding, 0, 0);  // tied
    }
    if (type_ == "opt") return plain(opt(role, layer), e);
    if (role == Role::kEmbedding) return plain("model.embed_tokens.weight", e);
    if (role == Role::kFinalNorm) return plain("model.norm.weight", e);
    const std::string at = fmt::format("model.layers.{}.", layer);
    if (type_ == "phi3" && (role == Role::kQ || role == Role::kK || role == Role::kV)) {
      const std::int64_t q = extents_.of(Role::kQ, layer).rows, k = extents_.of(Role::kK, layer).rows;
      Source s = plain(at + "self_attn.qkv_proj.weight", {q + 2 * k, m.hidden});
      s.first = (role == Role::kQ ? 0 : role == Role::kK ? q : q + k) * m.hidden;
      return s;
    }
    if (type_ == "phi3" && (role == Role::kGate || role == Role::kUp)) {
      Source s = plain(at + "mlp.gate_up_proj.weight", {2 * e.rows, e.columns});
      s.first = role == Role::kUp ? e.rows * e.columns : 0;
      return s;
    }
    if (Extents::of_expert(role)) return expert_source(role, layer, expert, e, at);
    return plain(at + name(role), e);
  }

 private:
  static Source plain(std::string name, Extent e) {
    const bool vector = e.rows == 1 && !name.ends_with("shared_expert_gate.weight");
    return {std::move(name), vector ? std::vector{e.columns} : std::vector{e.rows, e.columns}, 0, e.columns,
            1};
  }

  std::string name(Role role) const {
    const bool gemma = type_ == "gemma2" || type_ == "gemma3_text", mixtral = type_ == "mixtral";
    switch (role) {
      case Role::kInputNorm:
        return "input_layernorm.weight";
      case Role::kPostNorm:
        return gemma ? "pre_feedforward_layernorm.weight" : "post_attention_layernorm.weight";
      case Role::kAttnOutputNorm:
        return "post_attention_layernorm.weight";
      case Role::kMlpOutputNorm:
        return "post_feedforward_layernorm.weight";
      case Role::kQ:
        return "self_attn.q_proj.weight";
      case Role::kK:
        return "self_attn.k_proj.weight";
      case Role::kV:
        return "self_attn.v_proj.weight";
      case Role::kO:
        return "self_attn.o_proj.weight";
      case Role::kQBias:
        return "self_attn.q_proj.bias";
      case Role::kKBias:
        return "self_attn.k_proj.bias";
      case Role::kVBias:
        return "self_attn.v_proj.bias";
      case Role::kOBias:
        return "self_attn.o_proj.bias";
      case Role::kQNorm:
        return "self_attn.q_norm.weight";
      case Role::kKNorm:
        return "self_attn.k_norm.weight";
      case Role::kSinks:
        return "self_attn.sinks";
      case Role::kQA:
        return "self_attn.q_a_proj.weight";
      case Role::kQABias:
        return "self_attn.q_a_proj.bias";
      case Role::kQANorm:
        return "self_attn.q_a_layernorm.weight";
      case Role::kQB:
        return "self_attn.q_b_proj.weight";
      case Role::kKvA:
        return "self_attn.kv_a_proj_with_mqa.weight";
      case Role::kKvABias:
        return "self_attn.kv_a_proj_with_mqa.bias";
      case Role::kKvANorm:
        return "self_attn.kv_a_layernorm.weight";
      case Role::kKvB:
        return "self_attn.kv_b_proj.weight";
      case Role::kGate:
        return "mlp.gate_proj.weight";
      case Role::kGateBias:
        return "mlp.gate_proj.bias";
      case Role::kUp:
        return "mlp.up_proj.weight";
      case Role::kUpBias:
        return "mlp.up_proj.bias";
      case Role::kDown:
        return "mlp.down_proj.weight";
      case Role::kDownBias:
        return "mlp.down_proj.bias";
      case Role::kRouter:
        return mixtral              ? "block_sparse_moe.gate.weight"
               : type_ == "gpt_oss" ? "mlp.router.weight"
                                    : "mlp.gate.weight";
      case Role::kRouterBias:
        return type_ == "gpt_oss" ? "mlp.router.bias" : "mlp.gate.bias";
      case Role::kRouterCorrection:
        return "mlp.gate.e_score_correction_bias";
      case Role::kSharedGate:
        return shared() + "gate_proj.weight";
      case Role::kSharedUp:
        return shared() + "up_proj.weight";
      case Role::kSharedDown:
        return shared() + "down_proj.weight";
      case Role::kSharedMix:
        return "mlp.shared_expert_gate.weight";
      default:
        throw Error("weights", fmt::format("role {} has no name in {}", static_cast<int>(role), type_));
    }
  }
  std::string shared() const { return type_ == "qwen2_moe" ? "mlp.shared_expert." : "mlp.shared_experts."; }

  // Experts one by one, or all in one tensor: gpt-oss [expert, in, 2 x out] with gate and up in turn.
  Source expert_source(Role role, std::int64_t layer, std::int64_t x, Extent e, const std::string& at) const {
    if (type_ != "gpt_oss") {
      if (type_ == "mixtral") {
        const char* w = role == Role::kExpertGate ? "w1" : role == Role::kExpertUp ? "w3" : "w2";
        return plain(fmt::format("{}block_sparse_moe.experts.{}.{}.weight", at, x, w), e);
      }
      const char* w = role == Role::kExpertGate ? "gate_proj"
                      : role == Role::kExpertUp ? "up_proj"
                                                : "down_proj";
      return plain(fmt::format("{}mlp.experts.{}.{}.weight", at, x, w), e);
    }
    const std::int64_t experts = extents_.experts_of(layer), h = extents_.model().hidden,
                       inter = extents_.of(Role::kExpertUp, layer).rows;
    const std::int64_t up = role == Role::kExpertUp || role == Role::kExpertUpBias ? 1 : 0;
    switch (role) {
      case Role::kExpertDown:
        return {at + "mlp.experts.down_proj", {experts, inter, h}, x * inter * h, 1, h};
      case Role::kExpertDownBias:
        return {at + "mlp.experts.down_proj_bias", {experts, h}, x * h, h, 1};
      case Role::kExpertGateBias:
      case Role::kExpertUpBias:
        return {at + "mlp.experts.gate_up_proj_bias", {experts, 2 * inter}, x * 2 * inter + up, 0, 2};
      default:
        return {
            at + "mlp.experts.gate_up_proj", {experts, h, 2 * inter}, x * h * 2 * inter + up, 2, 2 * inter};
    }
  }

  // Matrices are stored [in, out]; query, key and value side by side. With and without "transformer." before.
  Source gpt2(Role role, std::int64_t layer, Extent e) const {
    const std::string top = files_.find("transformer.wte.weight") ? "transformer." : "";
    const std::string at = fmt::format("{}h.{}.", top, layer);
    const std::int64_t h = extents_.model().hidden;
    const auto transposed = [&](const std::string& name, std::int64_t width, std::int64_t first) {
      return Source{at + name + ".weight", {e.columns, width}, first, 1, width};
    };
    const auto bias = [&](const std::string& name, std::int64_t width, std::int64_t first) {
      return Source{at + name + ".bias", {width}, first, 0, 1};
    };
    switch (role) {
      case Role::kEmbedding:
      case Role::kLmHead:
        return plain(top + "wte.weight", e);
      case Role::kPositions:
        return plain(top + "wpe.weight", e);
      case Role::kFinalNorm:
        return plain(top + "ln_f.weight", e);
      case Role::kFinalNormBias:
        return plain(top + "ln_f.bias", e);
      case Role::kInputNorm:
        return plain(at + "ln_1.weight", e);
      case Role::kInputNormBias:
        return plain(at + "ln_1.bias", e);
      case Role::kPostNorm:
        return plain(at + "ln_2.weight", e);
      case Role::kPostNormBias:
        return plain(at + "ln_2.bias", e);
      case Role::kQ:
        return transposed("attn.c_attn", 3 * h, 0);
      case Role::kK:
        return transposed("attn.c_attn", 3 * h, h);
      case Role::kV:
        return transposed("attn.c_attn", 3 * h, 2 * h);
      case Role::kQBias:
        return bias("attn.c_attn", 3 * h, 0);
      case Role::kKBias:
        return bias("attn.c_attn", 3 * h, h);
      case Role::kVBias:
        return bias("attn.c_attn", 3 * h, 2 * h);
      case Role::kO:
        return transposed("attn.c_proj", h, 0);
      case Role::kOBias:
        return bias("attn.c_proj", h, 0);
      case Role::kUp:
        return transposed("mlp.c_fc", e.rows, 0);
      case Role::kUpBias:
        return bias("mlp.c_fc", e.columns, 0);
      case Role::kDown:
        return transposed("mlp.c_proj", h, 0);
      case Role::kDownBias:
        return bias("mlp.c_proj", h, 0);
      default:
        throw Error("weights", fmt::format("role {} has no name in gpt2", static_cast<int>(role)));
    }
  }

  static std::string opt(Role role, std::int64_t layer) {
    static const std::map<Role, const char*> inside = {{Role::kInputNorm, "self_attn_layer_norm.weight"},
                                                       {Role::kInputNormBias, "self_attn_layer_norm.bias"},
                                                       {Role::kPostNorm, "final_layer_norm.weight"},
                                                       {Role::kPostNormBias, "final_layer_norm.bias"},
                                                       {Role::kQ, "self_attn.q_proj.weight"},
                                                       {Role::kQBias, "self_attn.q_proj.bias"},
                                                       {Role::kK, "self_attn.k_proj.weight"},
                                                       {Role::kKBias, "self_attn.k_proj.bias"},
                                                       {Role::kV, "self_attn.v_proj.weight"},
                                                       {Role::kVBias, "self_attn.v_proj.bias"},
                                                       {Role::kO, "self_attn.out_proj.weight"},
                                                       {Role::kOBias, "self_attn.out_proj.bias"},
                                                       {Role::kUp, "fc1.weight"},
                                                       {Role::kUpBias, "fc1.bias"},
                                                       {Role::kDown, "fc2.weight"},
                                                       {Role::kDownBias, "fc2.bias"}};
    switch (role) {
      case Role::kEmbedding:
        return "model.decoder.embed_tokens.weight";
      case Role::kPositions:
        return "model.decoder.embed_positions.weight";
      case Role::kFinalNorm:
        return "model.decoder.final_layer_norm.weight";
      case Role::kFinalNormBias:
        return "model.decoder.final_layer_norm.bias";
      default:
        return fmt::format("model.decoder.layers.{}.{}", layer, inside.at(role));
    }
  }

  const Extents& extents_;
  const TensorFiles& files_;
  std::string type_;
};

class Safetensors final : public Checkpoint {
 public:
  Safetensors(const std::filesystem::path& path, const ModelConfig& model, const Numerics& numerics)
      : files_(path), extents_(model, numerics), names_(extents_, files_, model.model_type) {
    const auto text = [](const std::vector<std::int64_t>& shape) {
      return fmt::format("[{}]", fmt::join(shape, ", "));
    };
    extents_.for_each([&](Role role, std::int64_t layer, std::int64_t expert) {
      const Source s = names_.source(role, layer, expert);
      const TensorView* t = files_.find(s.name);
      if (!t) throw Error(path.string(), "tensor " + s.name + " is missing; the model needs it");
      const std::string where = t->file + ": tensor " + s.name;
      if (t->shape != s.shape)
        throw Error(where,
                    fmt::format("has the shape {}; the model needs {}", text(t->shape), text(s.shape)));
      if (t->type != TensorType::kF32 && t->type != TensorType::kF16 && t->type != TensorType::kBf16)
        throw Error(where, "has a type that can't be read; F32, F16 and BF16 can");
      sources_.emplace(std::tuple(role, layer, expert), Place{t, s.first, s.row_stride, s.column_stride});
    });
  }

  Extent extent(Role role, std::int64_t layer, std::int64_t) const override {
    return extents_.of(role, layer);
  }

  void read(Role role, std::int64_t layer, std::int64_t expert, std::int64_t first, std::int64_t count,
            float* out) const override {
    const Place& p =
        sources_.at({role, Extents::is_outside(role) ? 0 : layer, Extents::of_expert(role) ? expert : 0});
    const std::int64_t width = extents_.of(role, layer).columns;
    for (std::int64_t r = 0; r < count; ++r)
      p.tensor->read(p.first + (first + r) * p.row_stride, p.column_stride, width, out + r * width);
  }

 private:
  TensorFiles files_;
  Extents extents_;
  Names names_;
  struct Place {
    const TensorView* tensor;
    std::int64_t first, row_stride, column_stride;
  };
  std::map<std::tuple<Role, std::int64_t, std::int64_t>, Place> sources_;
};

}  // namespace

std::unique_ptr<Checkpoint> safetensors_checkpoint(const std::filesystem::path& path,
                                                   const ModelConfig& model, const Numerics& numerics) {
  return std::make_unique<Safetensors>(path, model, numerics);
}

}  // namespace foretoken
