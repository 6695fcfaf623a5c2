// Queries over a model's layers.
#include "model/model_config.h"

#include <algorithm>

namespace foretoken {

std::vector<std::int64_t> ModelConfig::attention_windows() const {
  std::vector<std::int64_t> windows{0};
  const auto note = [&windows](std::int64_t w) {
    if (std::find(windows.begin(), windows.end(), w) == windows.end()) windows.push_back(w);
  };
  for (const LayerKind& kind : kinds) {
    if (const auto* a = std::get_if<GqaAttention>(&kind.mixer)) note(a->window);
    if (const auto* c = std::get_if<CompressedAttention>(&kind.mixer)) note(c->window);
  }
  return windows;
}

bool QuantizationSpec::is_excluded(std::string_view component) const {
  return std::find(excluded.begin(), excluded.end(), component) != excluded.end();
}

}  // namespace foretoken
