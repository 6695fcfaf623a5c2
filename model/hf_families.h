// The readers of the model families and what they share. Internal.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <string_view>

#include "model/config_reader.h"
#include "model/model_config.h"

namespace foretoken {

// Adds layers, giving equal kinds one index. Throws when there are more kinds than can be told apart.
class LayerList {
 public:
  LayerList(ModelConfig& model, const ConfigReader& reader) : model_(model), reader_(reader) {}
  void add(LayerKind kind);
  int kind_index(LayerKind kind);

 private:
  ModelConfig& model_;
  const ConfigReader& reader_;
};

// How norms count: RMS norms one vector, layer norms with a bias two, non-parametric norms none.
struct FamilyTraits {
  bool qkv_bias = false, output_bias = false;  // where the config has no attention_bias
  bool mlp_bias = false;
  bool gated = true;
  GqaAttention::QkNorm qk_norm = GqaAttention::QkNorm::kNone;
  int norms = 2;  // a layer
  int norm_vectors = 1;
  bool tied = false;  // default of tie_word_embeddings
  bool parallel = false;
  enum class Window { kNone, kAll, kFlag, kAlternate, kPattern } window = Window::kNone;
  std::int64_t pattern = 0;        // default of sliding_window_pattern
  bool bias_from_config = true;    // attention_bias sets both biases
  bool bias_covers_output = true;  // attention_bias includes the output projection
};

// hidden_size, vocab_size, number of layers, positions, dtype.
void read_common(const ConfigReader& r, ModelConfig& m, bool tied_default);
std::int64_t read_head_dim(const ConfigReader& r, std::int64_t hidden, std::int64_t heads);
GqaAttention read_gqa(const ConfigReader& r, const ModelConfig& m, const FamilyTraits& t);
// Window of each layer; 0 full, negative: chunk of that many tokens.
std::vector<std::int64_t> read_windows(const ConfigReader& r, const ModelConfig& m, const FamilyTraits& t);
// Routed experts; checks top-k against experts.
MoeMlp read_moe(const ConfigReader& r);
// Layer types of the right length with known names only; empty when absent.
std::vector<std::string> read_layer_types(const ConfigReader& r, std::string_view key, std::int64_t layers,
                                          std::initializer_list<std::string_view> known);
void check_pattern_length(const ConfigReader& r, std::string_view key, std::size_t length,
                          std::int64_t layers);
std::string describe(const LayerKind& kind);
// MTP layers of the kind; own: the checkpoint has an embedding and a head for them.
void set_mtp(const ConfigReader& r, ModelConfig& m, std::int64_t layers, const LayerKind& kind,
             bool own_embeddings);

using FamilyReader = void (*)(const ConfigReader&, ModelConfig&);
using Families = std::map<std::string, FamilyReader, std::less<>>;
void add_llama_families(Families& f);
void add_moe_families(Families& f);
void add_other_moe_families(Families& f);
void add_gemma_families(Families& f);
void add_deepseek_families(Families& f);
void add_hybrid_families(Families& f);
void add_legacy_families(Families& f);

void read_quantization(const ConfigReader& r, ModelConfig& m);

}  // namespace foretoken
