// Speculative decoding of a scenario: who drafts, which tree of tokens, how likely they are accepted, and
// what the draft model runs for it.
#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "base/text.h"
#include "deployment/parts.h"

namespace foretoken {
namespace {

constexpr int kMostDrafts = 1024;

bool names_ngram(const SpeculativeSection& s) {
  return s.model.text == "\"ngram\"" || s.model.text == "\"[ngram]\"";
}

// vLLM finds the method from the model's name where none is given.
Speculation::Method method_of(SpeculativeSection& s, const std::string& at) {
  if (!s.method && names_ngram(s)) {
    s.method = "ngram";
    s.model.text.clear();
  }
  if (!s.method) s.method = "draft_model";
  if (*s.method == "draft_model") return Speculation::Method::kDraftModel;
  if (*s.method == "ngram") return Speculation::Method::kNgram;
  throw Error(
      at + "/method",
      fmt::format("\"{}\" is not modelled by this build; it models draft_model and ngram", *s.method));
}

// The tree, and num_speculative_tokens with it.
std::vector<int> widths_of(SpeculativeSection& s, const std::string& at) {
  std::vector<int> widths;
  if (s.tree_widths) {
    std::int64_t nodes = 1, all = 0;
    for (const std::int64_t width : *s.tree_widths) {
      nodes *= width;
      all += nodes;
      if (all > kMostDrafts)
        throw Error(at + "/tree_widths",
                    fmt::format("the tree has more than {} tokens; lower its widths", kMostDrafts));
      widths.push_back(static_cast<int>(width));
    }
    if (widths.empty()) throw Error(at + "/tree_widths", "is empty; leave it out for a chain");
    if (s.num_speculative_tokens && *s.num_speculative_tokens != all)
      throw Error(at + "/num_speculative_tokens",
                  fmt::format("{} contradicts tree_widths, which drafts {} tokens; leave it out",
                              *s.num_speculative_tokens, all));
    s.num_speculative_tokens = all;
    return widths;
  }
  if (!s.num_speculative_tokens)
    throw Error(at + "/num_speculative_tokens", "how many tokens are drafted is needed, such as 4");
  widths.assign(static_cast<std::size_t>(*s.num_speculative_tokens), 1);
  return widths;
}

// The target's deployment with another model.
std::variant<std::shared_ptr<Deployment>, Infeasible> draft_deployment(
    const Deployment& target, const Scenario& asked, SpeculativeSection& s, const Resources& resources,
    const std::string& where, const std::string& at, std::vector<std::string>& warnings) {
  auto d = std::make_shared<Deployment>(target);
  d->speculation.reset();
  d->streaming = {};
  d->fusion.sorts_logits = false;  // drafts are the likeliest tokens
  d->warnings.clear();
  d->model = load_model_of(s.model, "draft", at + "/model", resources);
  const std::int64_t longest = *target.scenario.engine.max_model_len;
  if (d->model.vocab != target.model.vocab)
    throw Error(at + "/model",
                fmt::format("{} has a vocabulary of {} tokens, {} one of {}: drafts can't be "
                            "verified; choose a draft model with the target's tokenizer",
                            d->model.name, d->model.vocab, target.model.name, target.model.vocab));
  if (d->model.max_positions > 0 && d->model.max_positions < longest)
    throw Error(at + "/model", fmt::format("{} has {} positions, max_model_len is {}; lower max_model_len",
                                           d->model.name, d->model.max_positions, longest));
  if (d->model.attention_windows().size() > kMaxAttentionGroups)
    throw Error(at + "/model",
                fmt::format("{} has {} different attention windows; at most {} are modelled", d->model.name,
                            d->model.attention_windows().size(), kMaxAttentionGroups));
  if (d->model.is_recurrent())
    throw Error(at + "/model",
                fmt::format("{} keeps recurrent states, which can't be rolled back to the last "
                            "accepted token; choose another draft model",
                            d->model.name));
  EngineSection& e = d->scenario.engine;
  e.speculative_config.reset();
  d->scenario.model = s.model;
  e.quantization = s.quantization;
  e.dtype = asked.engine.dtype;
  e.kv_cache_dtype = asked.engine.kv_cache_dtype;
  if (!has_experts(d->model)) {
    e.expert_parallel_size = 1, e.enable_expert_parallel = false;
    e.enable_eplb = false, e.num_redundant_experts = 0;
    d->scenario.workload.expert_skew.reset();
  }
  auto precision = choose_precision(e, d->model, d->device, d->behavior, where, warnings);
  if (auto* verdict = std::get_if<Infeasible>(&precision)) return std::move(*verdict);
  d->precision = std::get<Precision>(precision);
  s.quantization = e.quantization;
  auto mapping = make_mapping(d->scenario, d->model, d->precision.weights, where);
  if (auto* verdict = std::get_if<Infeasible>(&mapping)) return std::move(*verdict);
  d->mapping = std::move(std::get<Mapping>(mapping));
  for (std::size_t i = 0; i < d->mapping.stages.size(); ++i)
    d->mapping.stages[i].expert_all_to_all = target.mapping.stages[i].expert_all_to_all;
  return d;
}

std::int64_t window_sum(std::int64_t full, std::int64_t sequences, std::int64_t window) {
  return window > 0 ? std::min(full, sequences * window) : full;
}

}  // namespace

bool looks_up_drafts(const EngineSection& engine) {
  const auto& s = engine.speculative_config;
  return s && (s->method ? *s->method == "ngram" : names_ngram(*s));
}

int Speculation::nodes(int level) const {
  int n = 1;
  for (int i = 0; i <= level; ++i) n *= widths[static_cast<std::size_t>(i)];
  return n;
}

int Speculation::tokens() const {
  int n = 0;
  for (int i = 0; i < levels(); ++i) n += nodes(i);
  return n;
}

int Speculation::whole_levels(int drafted) const {
  int level = 0;
  for (; level < levels() && nodes(level) <= drafted; ++level) drafted -= nodes(level);
  return level;
}

void require_acceptance(const Speculation& s) {
  if (s.acceptance.empty())
    throw Error(s.where + "/acceptance_rate",
                "how often drafted tokens are accepted is needed to predict; give it, such as [0.7] "
                "(`foretoken run` measures it)");
}

double expected_tokens(const Speculation& s) {
  require_acceptance(s);
  double tokens = 1, reached = 1;
  for (const double a : s.acceptance) tokens += s.proposal * (reached *= a);
  return tokens;
}

std::variant<std::optional<Speculation>, Infeasible> make_speculation(Deployment& d, const Scenario& asked,
                                                                      const Resources& resources,
                                                                      const std::string& where) {
  auto& section = d.scenario.engine.speculative_config;
  if (!section) return std::optional<Speculation>();
  SpeculativeSection& s = *section;
  const std::string at = where + "/engine/speculative_config";
  Speculation result;
  result.where = at;
  result.method = method_of(s, at);
  if (d.scenario.engine.enable_mixed_chunk.value_or(false))
    throw Error(where + "/engine/enable_mixed_chunk",
                "SGLang drafts tokens without it; leave it out beside speculative decoding");
  if (d.mapping.pipeline_parallel > 1)
    throw Error(at, "speculative decoding is not modelled with pipeline_parallel_size above 1; use 1");
  const EngineSection& e = d.scenario.engine;
  if (e.kv_layout.value_or("") == "contiguous")
    throw Error(where + "/engine/kv_layout",
                "contiguous regions have no room for drafted tokens; use paged beside speculative decoding");
  if (e.preemption_mode.value_or("") == "swap")
    throw Error(where + "/engine/preemption_mode",
                "swap is not modelled with drafted tokens and a draft model's cache; use recompute beside "
                "speculative decoding");
  if (e.lora)
    throw Error(where + "/engine/lora",
                "adapters are not modelled with speculative decoding; leave one of the two out");
  if (d.streaming.layers > 0 && result.method == Speculation::Method::kDraftModel)
    throw Error(
        where + "/engine/layer_streaming",
        "is not modelled beside a draft model, during whose passes layers would be fetched; leave one "
        "of them out");
  if (d.model.is_recurrent())
    throw Error(at, fmt::format("{} keeps recurrent states, which can't be rolled back to the last accepted "
                                "token; leave it out",
                                d.model.name));
  const bool ngram = result.method == Speculation::Method::kNgram;
  if (ngram && s.tree_widths) throw Error(at + "/tree_widths", "ngram drafts a chain; leave it out");
  if (ngram && !s.model.text.empty()) throw Error(at + "/model", "ngram needs no model; leave it out");
  if (ngram && s.quantization) throw Error(at + "/quantization", "ngram needs no model; leave it out");
  if (!ngram && (s.prompt_lookup_max || s.prompt_lookup_min || s.proposal_rate))
    throw Error(at + (s.prompt_lookup_max   ? "/prompt_lookup_max"
                      : s.prompt_lookup_min ? "/prompt_lookup_min"
                                            : "/proposal_rate"),
                "is ngram's; leave it out");
  result.widths = widths_of(s, at);
  if (s.acceptance_rate) {
    const auto& rates = *s.acceptance_rate;
    if (rates.empty()) throw Error(at + "/acceptance_rate", "is empty; give a number, such as [0.7]");
    if (rates.size() > result.widths.size())
      throw Error(at + "/acceptance_rate", fmt::format("has {} numbers for {} drafted positions; leave the "
                                                       "last ones out",
                                                       rates.size(), result.widths.size()));
    result.acceptance = rates;
    result.acceptance.resize(result.widths.size(), rates.back());
  }
  if (*s.num_speculative_tokens >= *d.scenario.engine.max_num_batched_tokens)
    throw Error(at + "/num_speculative_tokens",
                fmt::format("{} drafted tokens and the one before them don't fit max_num_batched_tokens {}",
                            *s.num_speculative_tokens, *d.scenario.engine.max_num_batched_tokens));
  if (ngram) {
    // vLLM: 5 where neither is given, the other where one is.
    if (!s.prompt_lookup_max) s.prompt_lookup_max = s.prompt_lookup_min.value_or(5);
    if (!s.prompt_lookup_min) s.prompt_lookup_min = *s.prompt_lookup_max;
    if (*s.prompt_lookup_min > *s.prompt_lookup_max)
      throw Error(at + "/prompt_lookup_min", fmt::format("{} is above prompt_lookup_max {}",
                                                         *s.prompt_lookup_min, *s.prompt_lookup_max));
    result.lookup_max = static_cast<int>(*s.prompt_lookup_max);
    result.lookup_min = static_cast<int>(*s.prompt_lookup_min);
    result.proposal = s.proposal_rate.value_or(1);
    return std::optional(std::move(result));
  }
  if (s.model.text.empty())
    throw Error(at + "/model", "the draft model is needed: a preset or a path to a config.json");
  const std::int64_t tensor = d.mapping.tensor_parallel;
  if (s.draft_tensor_parallel_size.value_or(tensor) != tensor)
    throw Error(at + "/draft_tensor_parallel_size",
                fmt::format("{} is not tensor_parallel_size {}: vLLM runs draft and target on the same ranks",
                            *s.draft_tensor_parallel_size, tensor));
  s.draft_tensor_parallel_size = tensor;
  auto draft = draft_deployment(d, asked, s, resources, where, at, d.warnings);
  if (auto* verdict = std::get_if<Infeasible>(&draft)) {
    verdict->reason = "draft model: " + verdict->reason;
    return std::move(*verdict);
  }
  result.draft = std::get<std::shared_ptr<Deployment>>(std::move(draft));
  result.draft_text = model_text_of(s.model, at + "/model", resources);
  return std::optional(std::move(result));
}

void draft_passes(const Batch& batch, const Deployment& d, std::vector<DraftPass>& passes) {
  passes.clear();
  if (!d.speculation || !d.speculation->draft || batch.empty()) return;
  const Speculation& s = *d.speculation;
  const std::vector<std::int64_t> windows = s.draft->model.attention_windows();
  std::int64_t context = batch.contexts[0];
  std::int32_t sequences = batch.decode_sequences;
  for (const PrefillPart& p : batch.prefill) {
    if (!p.last) continue;
    ++sequences;
    context += p.cached + p.new_tokens + 1;
  }
  const auto pass = [&](std::int32_t drafted, std::int64_t deeper) {
    Batch b;
    b.decode_sequences = sequences;
    b.drafted = drafted;
    for (std::size_t g = 0; g < b.contexts.size() && g < std::max<std::size_t>(windows.size(), 1); ++g)
      b.contexts[g] = window_sum(context + deeper * sequences, sequences, windows.empty() ? 0 : windows[g]);
    b.sampled_rows = sequences;
    return b;
  };
  // vLLM's draft model takes all rows that the target took and one more of each sequence; the executor's the
  // two newest tokens, as its cache holds the others.
  DraftPass first{
      pass(d.behavior.own_executor ? batch.decode_sequences : batch.drafted + batch.decode_sequences, 0)};
  first.batch.prefill = batch.prefill;
  passes.push_back(first);
  if (sequences == 0) return;
  for (int level = 1; level < s.levels();) {
    int last = level;  // levels of a chain are alike
    while (last + 1 < s.levels() && s.nodes(last) == s.nodes(level - 1)) ++last;
    const int rows = s.nodes(level - 1);
    DraftPass next{pass(sequences * (rows - 1), (level + last) / 2)};
    next.batch.sampled_rows = sequences * rows;
    next.times = last - level + 1;
    passes.push_back(next);
    level = last + 1;
  }
}

}  // namespace foretoken
