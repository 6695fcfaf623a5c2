// What the parts of the operator list share: the sizes of this rank and a way to append operators. Internal.
#pragma once

#include "model/operators.h"
#include "model/weights.h"

namespace foretoken {

class OpBuilder {
 public:
  OpBuilder(const ModelConfig& model, const Shard& shard, const Work& work, const Precision& precision,
            const Fusion& fusion, OpList& list);
  void build();

 private:
  void layer(const LayerKind& kind);
  void mix(const LayerKind& kind);
  void feed_forward(const LayerKind& kind);
  // operators_attention.cpp
  void mixer(const NoMixer&) {}
  void mixer(const GqaAttention& a);
  void mixer(const MlaAttention& a);
  void mixer(const CompressedAttention& a);
  // operators_recurrent.cpp
  void mixer(const RecurrentMixer& r);
  void recurrence(std::string_view name, RecurrentShape s);
  // One operator a prefill chunk, one for all decoding sequences.
  void unfused_attention(const AttentionShape& chunk);
  void causal_attention(const AttentionShape& prefill, const AttentionShape& decode, int group);
  double decode_context(int group, std::int64_t window) const;
  void concatenate(double bytes, std::int64_t window);
  void indexer(std::int64_t q_width, std::int64_t heads, std::int64_t dim, std::int64_t top_k,
               double key_bytes, std::int64_t ratio, bool head_weights);
  // The adapted part of a fused projection, after it.
  void lora(LoraModule module);
  // operators_mlp.cpp
  void mlp(const NoMlp&) {}
  void mlp(const DenseMlp& m);
  void mlp(const MoeMlp& m);
  void experts(const MoeMlp& m);
  void exchange(std::string_view name, const MoeMlp& m, double tokens, double bytes, int ranks);

  void add(std::string_view name, Shape shape, OpScope scope = OpScope::kTokens, std::int64_t uses = 1,
           int group = 0);
  void gemm(std::string_view name, std::int64_t rows, std::int64_t n, std::int64_t k, WeightFormat format,
            std::int64_t batch = 1, OpScope scope = OpScope::kTokens, bool quantised_input = false);
  // A product of what the layer's last norm left.
  void of_normed(std::string_view name, std::int64_t n, WeightFormat format) {
    gemm(name, rows_, n, model_.hidden, format, 1, OpScope::kTokens, reads_8_bits_);
  }
  // A gate, and the product that alone reads it.
  void gate(std::string_view name, std::int64_t width, bool gated, WeightFormat format);
  void of_gate(std::string_view name, std::int64_t width, WeightFormat format) {
    gemm(name, rows_, model_.hidden, width, format, 1, OpScope::kTokens, quantises(format));
  }
  // Whether a norm or a gate whose only readers are products by such weights rounds for them.
  bool quantises(WeightFormat format) const {
    return fusion_.quantisation && takes_8_bits(format) && shard_.lora.rank <= 0;
  }
  // The 8 bits that the layer's norm before attention, or before its dense part, writes; kPlain: none.
  WeightFormat attention_input(const LayerKind& kind) const;
  WeightFormat mlp_input(const LayerKind& kind) const;
  void elementwise(std::string_view name, std::int64_t rows, double values_per_row, double flops_per_row,
                   std::int64_t uses = 1);
  void collective(std::string_view name, Collective kind, double bytes, int ranks,
                  OpScope scope = OpScope::kTokens);
  // All-reduce, or reduce-scatter under sequence parallelism.
  void reduce(std::string_view all_reduce, std::string_view scatter, int ranks);
  // Of a rank's own rows under sequence parallelism, after which `gather` makes them whole.
  // quantised: in which 8 bits one norm writes; kPlain: activations.
  void norms(std::string_view name, int uses, std::string_view gather,
             WeightFormat quantised = WeightFormat::kPlain);
  bool is_layer_norm() const;
  WeightFormat format(Component c) const { return component_format(model_, precision_.weights, c); }
  std::int64_t split(std::int64_t n) const {
    return (n + shard_.tensor_parallel - 1) / shard_.tensor_parallel;
  }
  bool has_decode() const { return work_.decode_sequences > 0; }
  std::int64_t decode_rows() const { return work_.decode_sequences * work_.decode_queries; }

  const ModelConfig& model_;
  const Shard& shard_;
  const Work& work_;
  const Precision& precision_;
  const Fusion& fusion_;
  OpList& list_;
  std::int64_t rows_ = 0;       // rows of token-wise operators
  std::int64_t norm_rows_ = 0;  // of norms: split under sequence parallelism
  double element_ = 2;          // bytes of an activation
  int kind_ = -1;
  std::int64_t layers_ = 1;
  bool reads_8_bits_ = false;  // the layer's products of its normed input find it rounded
  bool on_host_ = false;       // weights of the operators at hand are read from host memory
};

}  // namespace foretoken
