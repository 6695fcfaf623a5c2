#include "cli/model_report.h"

#include <fmt/format.h>

#include <variant>

#include "base/json_full.h"
#include "base/units.h"
#include "cli/version.h"
#include "model/activations.h"
#include "model/kv_cache.h"
#include "model/parameters.h"

namespace foretoken {
namespace {

Shard shard_of(const ModelQuestion& q) {
  Shard s;
  s.tensor_parallel = q.tensor_parallel;
  s.moe_tensor_parallel = q.tensor_parallel;
  return s;
}

OpList step(const ModelConfig& model, const ModelQuestion& q, bool decode) {
  Work w;
  if (decode) {
    w.decode_sequences = q.batch;
    for (const std::int64_t window : model.attention_windows()) {
      const std::int64_t seen = q.context + 1;
      w.contexts.push_back(static_cast<double>(q.batch * (window > 0 ? std::min(window, seen) : seen)));
    }
  } else {
    w.prefill = {{q.prompt, 0, q.batch}};
  }
  w.sampled_rows = q.batch;
  return operators(model, shard_of(q), w, q.precision);
}

struct Totals {
  double flops = 0, bytes = 0;
};
Totals totals(const OpList& list) {
  Totals t;
  for (const Op& op : list.ops) {
    t.flops += flops(op).value * static_cast<double>(op.count);
    t.bytes += bytes(op).value * static_cast<double>(op.count);
  }
  return t;
}

// Stored activations of a training step, where the formula's transformer block fits: plain multi-head or
// grouped attention with dense layers throughout (Korthikanti et al. 2022).
Json training_bytes(const ModelConfig& model, const ModelQuestion& q) {
  const GqaAttention* attention = nullptr;
  for (const std::uint8_t kind : model.layers) {
    const LayerKind& k = model.kinds[kind];
    attention = std::get_if<GqaAttention>(&k.mixer);
    if (attention == nullptr || !std::holds_alternative<DenseMlp>(k.mlp)) return nullptr;
  }
  if (attention == nullptr) return nullptr;
  TrainingActivations t{};
  t.hidden = model.hidden;
  t.heads = attention->heads;
  t.layers = model.num_layers;
  t.batch = q.batch;
  t.sequence = q.prompt;
  t.tensor_parallel = q.tensor_parallel;
  return training_activation_bytes(t);
}

std::vector<std::pair<std::string, std::int64_t>> parts(const Parameters& p) {
  return {{"embedding", p.embedding},
          {"attention", p.attention},
          {"mlp", p.mlp},
          {"experts", p.experts},
          {"shared_experts", p.shared_experts},
          {"router", p.router},
          {"norms", p.norms},
          {"lm_head", p.lm_head},
          {"mtp", p.mtp}};
}

Table parameter_table(const ModelConfig& model, const Parameters& p, const ModelQuestion& q) {
  Table t;
  t.title = fmt::format("{}: {} parameters, {} active", model.name, count_text(static_cast<double>(p.total)),
                        count_text(static_cast<double>(p.active)));
  t.columns = {{"component", "component"}, {"parameters", "parameters"}, {"share_percent", "%", 3}};
  for (const auto& [name, n] : parts(p))
    if (n > 0) t.add({name, n, 100.0 * static_cast<double>(n) / static_cast<double>(p.total)});
  t.add({std::string("total"), p.total, 100.0});
  t.add({std::string("active"), p.active,
         100.0 * static_cast<double>(p.active) / static_cast<double>(p.total)});
  t.notes.push_back(
      fmt::format("{} layers, hidden size {}, vocabulary {}, {}; multi-token-prediction layers are "
                  "not in the total.",
                  model.num_layers, model.hidden, model.vocab, name_of(model.dtype)));
  t.notes.push_back(
      fmt::format("Weights of one rank: {}.", to_text(weight_bytes(model, shard_of(q), q.precision))));
  return t;
}

Table operator_table(const std::string& title, const OpList& list) {
  Table t;
  t.title = title;
  t.columns = {{"operator", "operator"},
               {"kind", "kind"},
               {"layers", "layers"},
               {"count", "count"},
               {"gflop", "GFLOP", 4},
               {"mb", "MB", 4},
               {"flops_per_byte", "FLOPs/byte", 3}};
  for (const Op& op : list.ops) {
    const double n = static_cast<double>(op.count), f = flops(op).value * n, b = bytes(op).value * n;
    const std::string layers =
        op.layer_kind < 0 ? "-" : list.kinds[static_cast<std::size_t>(op.layer_kind)].name;
    t.add({std::string(op.name), std::string(kind_name(op)), layers, op.count, f / 1e9, b / 1e6,
           b > 0 ? Cell(f / b) : Cell()});
  }
  const Totals sum = totals(list);
  t.add({std::string("all"),
         {},
         {},
         {},
         sum.flops / 1e9,
         sum.bytes / 1e6,
         sum.bytes > 0 ? Cell(sum.flops / sum.bytes) : Cell()});
  return t;
}

void put_operators(Json& out, const char* phase, const OpList& list) {
  for (const Op& op : list.ops)
    out.push_back(
        Json{{"phase", phase},
             {"name", std::string(op.name)},
             {"kind", std::string(kind_name(op))},
             {"layers", op.layer_kind < 0 ? "" : list.kinds[static_cast<std::size_t>(op.layer_kind)].name},
             {"count", op.count},
             {"flops", flops(op).value},
             {"bytes", bytes(op).value}});
}

Json report_json(const ModelConfig& model, const ModelQuestion& q, const Parameters& p, const OpList& prefill,
                 const OpList& decode, double peak) {
  Json j{{"format", 1},
         {"context",
          Json{{"program", "foretoken"}, {"version", program_version()}, {"git_commit", git_commit()}}},
         {"scenario", Json{{"model", model.name},
                           {"batch_size", q.batch},
                           {"prompt_len", q.prompt},
                           {"context_len", q.context},
                           {"dtype", std::string(name_of(q.precision.activation))},
                           {"kv_cache_dtype", std::string(name_of(q.precision.kv))},
                           {"quantization", std::string(name_of(q.precision.weights))},
                           {"tensor_parallel_size", q.tensor_parallel}}}};
  j["parameters"] = Json{{"total", p.total}, {"active", p.active}};
  for (const auto& [name, n] : parts(p)) j["parameters"][name] = n;
  const Shard shard = shard_of(q);
  j["weights_bytes_per_rank"] = weight_bytes(model, shard, q.precision).value;
  j["kv_cache"] = Json{{"bytes_per_token", kv_bytes_per_token(model, q.precision.kv)},
                       {"bytes_per_token_per_rank", kv_bytes_per_token(model, shard, q.precision.kv)},
                       {"bytes_per_sequence_per_rank", kv_bytes(model, shard, q.precision.kv, q.context, 1)},
                       {"index_cache_bytes_per_token", index_cache_bytes_per_token(model)},
                       {"recurrent_state_bytes_per_sequence", recurrent_state_bytes(model, shard)}};
  j["flops"] = Json{{"prefill", totals(prefill).flops}, {"decode", totals(decode).flops}};
  j["bytes"] = Json{{"prefill", totals(prefill).bytes}, {"decode", totals(decode).bytes}};
  j["activations"] = Json{{"training_bytes", training_bytes(model, q)}, {"inference_peak_bytes", peak}};
  j["operators"] = Json::array();
  put_operators(j["operators"], "prefill", prefill);
  put_operators(j["operators"], "decode", decode);
  return j;
}

}  // namespace

double decode_flops(const ModelConfig& model, const ModelQuestion& q) {
  return totals(step(model, q, true)).flops;
}

Report model_report(const ModelConfig& model, const ModelQuestion& q) {
  const Parameters p = count_parameters(model);
  const OpList prefill = step(model, q, false), decode = step(model, q, true);
  const Shard shard = shard_of(q);
  const double peak = inference_peak_bytes(model, shard, q.precision, q.batch * q.prompt, q.batch).value;

  Table memory;
  memory.title = "Memory beside the weights";
  memory.columns = {{"what", "what"}, {"bytes", "bytes"}, {"readable", ""}};
  auto row = [&](const std::string& what, double bytes_) {
    memory.add({what, static_cast<std::int64_t>(bytes_), to_text(Bytes(bytes_))});
  };
  row("KV cache of a token, whole model", kv_bytes_per_token(model, q.precision.kv));
  row(fmt::format("KV cache of {} tokens, one rank", q.context),
      kv_bytes(model, shard, q.precision.kv, q.context, 1));
  if (const auto parts = kv_components(model, shard, q.precision.kv, q.context); parts.size() > 1)
    for (const KvComponent& part : parts)
      row(fmt::format("  {}, {} layers", part.name, part.layers), part.bytes);
  if (const double state = recurrent_state_bytes(model, shard); state > 0)
    row("recurrent state of a sequence", state);
  row(fmt::format("activation peak of prefill, {} tokens, one rank", q.batch * q.prompt), peak);
  if (const Json training = training_bytes(model, q); training.is_number())
    row("stored activations of a training step, one rank", training.get<double>());

  Report r;
  r.title = model.name;
  r.tables = {parameter_table(model, p, q), memory,
              operator_table(fmt::format("Prefill: {} x {} tokens, one rank of {}", q.batch, q.prompt,
                                         q.tensor_parallel),
                             prefill),
              operator_table(fmt::format("Decode step: {} x 1 token after {}, one rank of {}", q.batch,
                                         q.context, q.tensor_parallel),
                             decode)};
  r.json = dump_json(report_json(model, q, p, prefill, decode, peak));
  return r;
}

}  // namespace foretoken
