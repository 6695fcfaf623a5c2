#include "simulator/serving_measurement.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/csv.h"
#include "base/error.h"
#include "base/json_full.h"
#include "base/text.h"

namespace foretoken {
namespace {

constexpr std::string_view kColumns[] = {"model",
                                         "device",
                                         "num_devices",
                                         "tensor_parallel_size",
                                         "pipeline_parallel_size",
                                         "data_parallel_size",
                                         "expert_parallel_size",
                                         "dtype",
                                         "quantization",
                                         "kv_cache_dtype",
                                         "behavior",
                                         "input_len",
                                         "output_len",
                                         "max_concurrency",
                                         "request_rate",
                                         "batch_size",
                                         "ttft_ms",
                                         "tpot_ms",
                                         "e2el_ms",
                                         "output_throughput",
                                         "source",
                                         "num_prompts",
                                         "length_ratio",
                                         "statistic",
                                         "max_num_seqs",
                                         "max_num_batched_tokens",
                                         "enable_prefix_caching",
                                         "num_speculative_tokens"};
constexpr std::string_view kPeer = "peer:";
constexpr double kLongest = 1 << 30, kMostRequests = 10'000'000;

constexpr std::string_view kEnginePrefix = "engine.";

// Filled cells of the columns "engine.KEY".
std::map<std::string, std::string> engine_cells(const CsvReader& csv) {
  std::map<std::string, std::string> cells;
  for (std::size_t i = 0; i < csv.header().size(); ++i) {
    const std::string& name = csv.header()[i];
    const std::string value(trim(csv.text(i)));
    if (name.starts_with(kEnginePrefix) && !value.empty()) cells[name.substr(kEnginePrefix.size())] = value;
  }
  return cells;
}

// "a.b" of the scenario's engine section as JSON; a cell that is no JSON is text.
void set_engine_cell(Json& engine, const std::string& key, const std::string& cell) {
  Json value = Json::parse(cell, nullptr, false);
  if (value.is_discarded() || value.is_object()) value = cell;
  Json* at = &engine;
  std::string_view rest = key;
  for (auto dot = rest.find('.'); dot != std::string_view::npos; dot = rest.find('.')) {
    at = &(*at)[std::string(rest.substr(0, dot))];
    rest.remove_prefix(dot + 1);
  }
  (*at)[std::string(rest)] = value;
}

class Reader {
 public:
  explicit Reader(const std::filesystem::path& file) : csv_(file) {}

  ServingMeasurements read() {
    ServingMeasurements all;
    check_columns(all);
    while (csv_.next()) {
      all.rows.push_back(row());
      all.rows.back().row = static_cast<std::int64_t>(all.rows.size());
    }
    if (all.rows.empty()) throw Error(csv_.where(), "the file has no rows; there is nothing to validate");
    return all;
  }

 private:
  struct PeerColumn {
    std::string column, name;
    std::size_t metric = 0;
  };
  PeerColumn peer_of(const std::string& column) const {
    const auto colon = column.rfind(':');
    const std::string metric = column.substr(colon + 1);
    const auto* const at = std::find(std::begin(kServingMetrics), std::end(kServingMetrics), metric);
    if (colon <= kPeer.size() || at == std::end(kServingMetrics))
      throw Error(csv_.where(),
                  fmt::format("column \"{}\" is none of the form peer:NAME:METRIC with a metric "
                              "of ttft_ms, tpot_ms, e2el_ms, output_throughput",
                              column));
    return {column, column.substr(kPeer.size(), colon - kPeer.size()),
            static_cast<std::size_t>(at - std::begin(kServingMetrics))};
  }

  void check_columns(ServingMeasurements& all) {
    const std::vector<std::string> known(std::begin(kColumns), std::end(kColumns));
    for (const std::string& name : csv_.header()) {
      if (std::find(known.begin(), known.end(), name) != known.end()) continue;
      if (name.starts_with(kPeer)) {
        peers_.push_back(peer_of(name));
        continue;
      }
      if (name.starts_with(kEnginePrefix)) continue;
      if (const std::string near = did_you_mean(name, known); !near.empty())
        throw Error(csv_.where(), fmt::format("unknown column \"{}\"{}", name, near));
      all.unknown_columns.push_back(name);
    }
    for (const char* needed : {"model", "device", "input_len", "output_len"}) csv_.column(needed);
    if (std::none_of(std::begin(kServingMetrics), std::end(kServingMetrics),
                     [&](std::string_view m) { return csv_.find_column(m).has_value(); }))
      throw Error(csv_.where(),
                  "no measured column; one of ttft_ms, tpot_ms, e2el_ms, output_throughput is needed");
  }

  std::string text(std::string_view column) const {
    const auto c = csv_.find_column(column);
    return c ? std::string(trim(csv_.text(*c))) : std::string();
  }
  std::string needed(std::string_view column) const {
    std::string t = text(column);
    if (t.empty()) throw Error(csv_.where(), fmt::format("column \"{}\" is empty", column));
    return t;
  }
  std::optional<double> positive(std::string_view column) const {
    if (text(column).empty()) return std::nullopt;
    const double v = csv_.number(csv_.column(column));
    if (v <= 0) throw Error(csv_.where(), fmt::format("{} is {}; it must be above 0", column, v));
    return v;
  }
  double length(std::string_view column) const {
    needed(column);
    const double v = *positive(column);
    if (v < 1 || v > kLongest)
      throw Error(csv_.where(), fmt::format("{} is {}; it must be from 1 to {} tokens", column, v, kLongest));
    return v;
  }
  std::optional<std::int64_t> count(std::string_view column, std::int64_t least = 1) const {
    if (text(column).empty()) return std::nullopt;
    const std::int64_t v = csv_.integer(csv_.column(column));
    if (v < least || static_cast<double>(v) > kMostRequests)
      throw Error(csv_.where(),
                  fmt::format("{} is {}; it must be from {} to {}", column, v, least, kMostRequests));
    return v;
  }
  std::optional<bool> flag(std::string_view column) const {
    const std::string t = lower(text(column));
    if (t.empty()) return std::nullopt;
    if (t == "true" || t == "1") return true;
    if (t == "false" || t == "0") return false;
    throw Error(csv_.where(), fmt::format("{} is \"{}\"; it must be true, false or empty", column, t));
  }

  ServingMeasurement row() const {
    ServingMeasurement m;
    m.where = csv_.where();
    m.model = needed("model");
    m.device = needed("device");
    m.dtype = text("dtype");
    m.quantization = text("quantization");
    m.kv_cache_dtype = text("kv_cache_dtype");
    m.behavior = text("behavior");
    m.num_devices = count("num_devices");
    m.tensor_parallel = count("tensor_parallel_size");
    m.pipeline_parallel = count("pipeline_parallel_size");
    m.data_parallel = count("data_parallel_size");
    m.expert_parallel = count("expert_parallel_size");
    m.input_len = length("input_len");
    m.output_len = length("output_len");
    m.max_concurrency = count("max_concurrency");
    m.request_rate = positive("request_rate");
    m.batch_size = count("batch_size");
    m.num_prompts = count("num_prompts");
    m.max_num_seqs = count("max_num_seqs");
    m.max_num_batched_tokens = count("max_num_batched_tokens");
    m.num_speculative_tokens = count("num_speculative_tokens", 0);
    m.enable_prefix_caching = flag("enable_prefix_caching");
    m.engine = engine_cells(csv_);
    m.source = text("source");
    m.length_ratio = positive("length_ratio");
    if (m.length_ratio.value_or(1) > 1)
      throw Error(m.where,
                  fmt::format("length_ratio is {}; it must be above 0 and at most 1", *m.length_ratio));
    if (const std::string s = lower(text("statistic")); !s.empty()) {
      if (s != "mean" && s != "median")
        throw Error(m.where, fmt::format("statistic is \"{}\"; it must be mean or median", s));
      m.median = s == "median";
    }
    bool any = false;
    for (std::size_t i = 0; i < m.measured.size(); ++i) {
      m.measured[i] = positive(kServingMetrics[i]);
      any |= m.measured[i].has_value();
    }
    if (!any)
      throw Error(m.where,
                  "nothing was measured: ttft_ms, tpot_ms, e2el_ms and output_throughput are all empty");
    for (const PeerColumn& p : peers_)
      if (const auto value = positive(p.column)) m.peers.push_back({p.name, p.metric, *value});
    return m;
  }

  CsvReader csv_;
  std::vector<PeerColumn> peers_;
};

LengthDistribution lengths(double longest, double ratio) {
  LengthDistribution d;
  const double shortest = std::max(1.0, std::floor(longest * ratio));
  if (shortest >= longest) {
    d.distribution = "fixed";
    d.value = longest;
  } else {
    d.distribution = "uniform";
    d.min = shortest;
    d.max = longest;
  }
  return d;
}

std::string load_of(const ServingMeasurement& m, Scenario& s) {
  WorkloadConfig& w = s.workload;
  w.input_len = lengths(m.input_len, m.length_ratio.value_or(1));
  w.output_len = lengths(m.output_len, m.length_ratio.value_or(1));
  w.num_prompts = m.num_prompts;
  if (m.batch_size) {
    if (m.max_concurrency || m.request_rate) return "a static batch with a concurrency or a rate besides";
    // Further batches would repeat the first.
    w.all_at_once = true;
    w.num_prompts = *m.batch_size;
    // The engine must be willing to run them together; the default is above 256 everywhere it is known.
    if (!m.max_num_seqs && *m.batch_size > 256) s.engine.max_num_seqs = *m.batch_size;
  } else if (m.max_concurrency || m.request_rate) {
    w.max_concurrency = m.max_concurrency;
    w.request_rate = m.request_rate;
  } else {
    return "no load: max_concurrency, request_rate and batch_size are empty";
  }
  return {};
}

}  // namespace

ServingMeasurements read_serving_measurements(const std::filesystem::path& file) {
  return Reader(file).read();
}

namespace {
// Stands among the sources of a recipe for rows whose source no recipe names, with that length_ratio, or with
// none: benchmarks are known by how they draw lengths.
constexpr std::string_view kOtherwise = "otherwise length_ratio=";
}  // namespace

ServerRecipes::ServerRecipes(const std::filesystem::path& file) {
  CsvReader csv(file);
  constexpr std::string_view kMatched[] = {"source",
                                           "model",
                                           "device",
                                           "behavior",
                                           "quantization",
                                           "tensor_parallel_size",
                                           "input_len",
                                           "output_len",
                                           "data_parallel_size",
                                           "expert_parallel_size"};
  std::vector<std::string> known(std::begin(kMatched), std::end(kMatched));
  known.insert(known.end(), {"min_concurrency", "max_concurrency", "length_ratio", "script"});
  for (const std::string& name : csv.header())
    if (!name.starts_with(kEnginePrefix) && std::find(known.begin(), known.end(), name) == known.end())
      throw Error(csv.where(), fmt::format("unknown column \"{}\"{}", name, did_you_mean(name, known)));
  while (csv.next()) {
    Recipe r;
    r.where = csv.where();
    r.engine = engine_cells(csv);
    for (const std::string_view name : kMatched)
      if (const auto c = csv.find_column(name); c && !trim(csv.text(*c)).empty())
        r.match[std::string(name)] = lower(trim(csv.text(*c)));
    const auto bound = [&](const char* column, std::int64_t otherwise) {
      const auto c = csv.find_column(column);
      return c && !trim(csv.text(*c)).empty() ? csv.integer(*c) : otherwise;
    };
    if (const auto c = csv.find_column("length_ratio"); c && !trim(csv.text(*c)).empty())
      r.length_ratio = csv.number(*c);
    r.least = bound("min_concurrency", 0);
    r.most = bound("max_concurrency", std::numeric_limits<std::int64_t>::max());
    if (const auto source = r.match.find("source"); source != r.match.end())
      for (const std::string& begins : split(source->second, '|')) {
        if (!begins.starts_with(kOtherwise))
          sources_.push_back(begins);
        else if (begins != kOtherwise && !parse_double(begins.substr(kOtherwise.size())))
          throw Error(r.where, fmt::format("\"{}\" in the column source; after \"{}\" stands a number or "
                                           "nothing",
                                           begins, kOtherwise));
      }
    recipes_.push_back(std::move(r));
  }
}

namespace {

double size_of(const std::string& name, const ServingMeasurement& m) {
  if (name == "input_len") return m.input_len;
  if (name == "output_len") return m.output_len;
  return static_cast<double>((name == "tensor_parallel_size" ? m.tensor_parallel
                              : name == "data_parallel_size" ? m.data_parallel
                                                             : m.expert_parallel)
                                 .value_or(1));
}

}  // namespace

bool ServerRecipes::from(std::string_view sources, const ServingMeasurement& m) const {
  const std::string source = lower(m.source);
  const auto begins = [&](const std::string& b) { return source.starts_with(b); };
  const bool named = std::any_of(sources_.begin(), sources_.end(), begins);
  for (const std::string& s : split(sources, '|')) {
    if (!s.starts_with(kOtherwise)) {
      if (begins(s)) return true;
      continue;
    }
    // Without a load of many clients it is no run of these benchmarks.
    if (named || !m.max_concurrency) continue;
    const std::string ratio = s.substr(kOtherwise.size());
    if (ratio.empty() ? !m.length_ratio : m.length_ratio && m.length_ratio == parse_double(ratio))
      return true;
  }
  return false;
}

bool ServerRecipes::fits(const Recipe& r, const ServingMeasurement& m) const {
  const std::int64_t load = m.max_concurrency.value_or(0);
  if (load < r.least || load > r.most) return false;
  const auto begins_with = [](std::string_view begins, const std::string& text) {
    while (true) {
      const auto bar = begins.find('|');
      if (lower(text).starts_with(begins.substr(0, bar))) return true;
      if (bar == std::string_view::npos) return false;
      begins.remove_prefix(bar + 1);
    }
  };
  for (const auto& [name, wanted] : r.match) {
    bool same = false;
    if (name == "source")
      same = from(wanted, m);
    else if (name == "behavior")
      same = begins_with(wanted, m.behavior);
    else if (name == "model")
      same = begins_with(wanted, m.model.substr(m.model.rfind('/') + 1));
    else if (name == "device")
      same = begins_with(wanted, m.device);
    else if (name == "quantization")
      same = wanted == lower(m.quantization);
    else
      same = wanted == fmt::format("{}", size_of(name, m));
    if (!same) return false;
  }
  return true;
}

namespace {

// "isl*2", "conc+isl+64": a sum of products of the row's sizes and numbers; other text stays as it is.
std::string value_of(const std::string& text, const ServingMeasurement& m, const std::string& where) {
  if (text.find("isl") == std::string::npos && text.find("conc") == std::string::npos &&
      text.find("tp") == std::string::npos)
    return text;
  double sum = 0;
  for (const std::string& term : split(text, '+')) {
    double product = 1;
    for (const std::string& factor : split(term, '*')) {
      const auto number = Json::parse(factor, nullptr, false);
      product *=
          factor == "isl"    ? m.input_len
          : factor == "conc" ? static_cast<double>(m.max_concurrency.value_or(1))
          : factor == "tp"   ? static_cast<double>(m.tensor_parallel.value_or(1))
          : number.is_number()
              ? number.get<double>()
              : throw Error(where, fmt::format("\"{}\" is neither a number nor isl, conc or tp", factor));
    }
    sum += product;
  }
  return fmt::format("{}", std::llround(sum));
}

}  // namespace

bool ServerRecipes::complete(ServingMeasurement& m) const {
  bool any = false;
  for (const Recipe& r : recipes_) {
    if (!fits(r, m)) continue;
    any = true;
    if (!m.length_ratio) m.length_ratio = r.length_ratio;
    for (const auto& [key, value] : r.engine) {
      const bool stated = (key == "kv_cache_dtype" && !m.kv_cache_dtype.empty()) ||
                          (key == "max_num_seqs" && m.max_num_seqs) ||
                          (key == "max_num_batched_tokens" && m.max_num_batched_tokens) ||
                          (key == "enable_prefix_caching" && m.enable_prefix_caching);
      if (!stated) m.engine.emplace(key, value_of(value, m, r.where));
    }
  }
  return any;
}

std::string engine_family(const std::string& behavior) {
  const std::string name = lower(trim(behavior));
  if (name.empty()) return "vllm";
  if (name.starts_with("tensorrt")) return "trtllm";
  const std::string family = name.substr(0, name.find_first_of("-_ 0123456789"));
  return family.empty() ? name : family;
}

RowScenario scenario_of(const ServingMeasurement& m) {
  RowScenario r;
  Scenario& s = r.scenario;
  s.name = m.model;
  s.model.text = Json(m.model).dump();
  s.hardware.device = m.device;
  EngineSection& e = s.engine;
  if (!m.behavior.empty()) e.behavior = m.behavior;
  e.tensor_parallel_size = m.tensor_parallel.value_or(1);
  e.pipeline_parallel_size = m.pipeline_parallel.value_or(1);
  e.data_parallel_size = m.data_parallel.value_or(1);
  e.expert_parallel_size = m.expert_parallel.value_or(1);
  if (!m.dtype.empty()) e.dtype = m.dtype;
  if (!m.quantization.empty()) e.quantization = m.quantization;
  if (!m.kv_cache_dtype.empty()) e.kv_cache_dtype = m.kv_cache_dtype;
  e.max_num_seqs = m.max_num_seqs;
  e.max_num_batched_tokens = m.max_num_batched_tokens;
  e.enable_prefix_caching = m.enable_prefix_caching;
  if (m.num_speculative_tokens.value_or(0) > 0)
    r.refusal = "speculative decoding with a method and an acceptance that the row does not say";
  const std::int64_t replica = e.tensor_parallel_size * e.pipeline_parallel_size * e.data_parallel_size;
  if (m.num_devices) {
    if (*m.num_devices % replica != 0)
      r.refusal = "num_devices is no multiple of tensor x pipeline x data-parallel size";
    else
      s.cluster.replicas = *m.num_devices / replica;
  }
  // A client or balancer in front of replicas and data-parallel ranks sends to the least busy.
  s.cluster.router = "least_outstanding";
  if (const std::string load = load_of(m, s); !load.empty()) r.refusal = load;
  if (!m.engine.empty()) {
    Json json = scenario_to_json(s);
    for (const auto& [key, cell] : m.engine) set_engine_cell(json["engine"], key, cell);
    s = scenario_from_json(json, m.where);
  }
  return r;
}

}  // namespace foretoken
