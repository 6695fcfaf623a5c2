// Queries over a model's layers.
#include "model/model_config.h"

#include <algorithm>

#include "base/error.h"

namespace foretoken {

std::vector<std::int64_t> ModelConfig::attention_windows() const {
  std::vector<std::int64_t> windows;
  attention_windows(windows);
  return windows;
}

void ModelConfig::attention_windows(std::vector<std::int64_t>& windows) const {
  windows.assign(1, 0);
  const auto note = [&windows](std::int64_t w) {
    if (std::find(windows.begin(), windows.end(), w) == windows.end()) windows.push_back(w);
  };
  for (const LayerKind& kind : kinds) {
    if (const auto* a = std::get_if<GqaAttention>(&kind.mixer)) note(a->window);
    if (const auto* c = std::get_if<CompressedAttention>(&kind.mixer)) note(c->window);
  }
}

std::int64_t ModelConfig::layers_of_kind(std::size_t kind, int first, int last) const {
  return std::count(layers.begin() + first, layers.begin() + std::max(first, last), kind);
}

bool ModelConfig::is_recurrent() const {
  return std::any_of(layers.begin(), layers.end(), [&](std::uint8_t kind) {
    return std::holds_alternative<RecurrentMixer>(kinds[kind].mixer);
  });
}

ModelConfig prediction_model(const ModelConfig& model) {
  if (model.mtp_layers <= 0 || model.mtp_kind < 0)
    throw Error(model.name, "has no multi-token-prediction layers; draft with another model or from n-grams");
  ModelConfig draft = model;
  draft.name += "-prediction";
  draft.kinds = {model.kinds[static_cast<std::size_t>(model.mtp_kind)]};
  draft.layers.assign(static_cast<std::size_t>(model.mtp_layers), 0);
  draft.num_layers = model.mtp_layers;
  draft.position_table = 0;
  draft.embedding_norm = false;
  draft.is_prediction = true;
  draft.final_norm_parameters = 0;
  draft.other_parameters = model.mtp_layers * model.mtp_extra_parameters;
  draft.mtp_layers = 0;
  draft.mtp_kind = -1;
  return draft;
}

bool QuantizationSpec::is_excluded(std::string_view component) const {
  return std::find(excluded.begin(), excluded.end(), component) != excluded.end();
}

}  // namespace foretoken
