#include "cli/result_files.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <optional>

#include "base/error.h"
#include "base/file.h"
#include "base/json_full.h"
#include "base/text.h"
#include "cli/scenario_flags.h"

namespace foretoken {
namespace {

constexpr const char* kLatencies[] = {"ttft", "tpot", "itl", "e2el"};
constexpr const char* kStatistics[] = {"mean", "median", "std", "p50", "p90", "p95", "p99"};

constexpr const char* kKnownTools =
    "foretoken simulate, vllm bench serve, SGLang bench_serving, AIPerf (GenAI-Perf), GuideLLM";

// A part of a result file and where it is: "file:/records".
struct Part {
  const Json& json;
  std::string where;  // ends with ":" at the top

  // A member that must be an object; absent and null are the same.
  std::optional<Part> object(const std::string& key) const {
    const auto found = json.find(key);
    if (found == json.end() || found->is_null()) return std::nullopt;
    if (!found->is_object())
      throw Error(where + "/" + key,
                  "holds " + found->dump().substr(0, 40) + " where an object of statistics is expected");
    return Part{*found, where + "/" + key};
  }
  std::optional<double> number(const std::string& key) const {
    const auto found = json.find(key);
    if (found == json.end() || found->is_null()) return std::nullopt;
    if (!found->is_number())
      throw Error(where + "/" + key, "holds " + found->dump().substr(0, 40) + " where a number is expected");
    return found->get<double>();
  }
  std::string text(const std::string& key, const std::string& absent) const {
    const auto found = json.find(key);
    if (found == json.end() || found->is_null()) return absent;
    if (!found->is_string())
      throw Error(where + "/" + key, "holds " + found->dump().substr(0, 40) + " where a text is expected");
    return found->get<std::string>();
  }
};

void put(ResultColumn& r, const Part& from, const std::string& theirs, const std::string& ours,
         double scale = 1) {
  if (const auto v = from.number(theirs)) r.metrics[ours] = *v * scale;
}

// Ours, `vllm bench serve` and SGLang share names; SGLang says e2e_latency for e2el.
ResultColumn read_vllm(const Part& j, const std::string& name, const std::string& kind) {
  ResultColumn r{name, kind, {}, {}};
  for (const ComparedMetric& m : compared_metrics()) put(r, j, m.key, m.key);
  put(r, j, "request_goodput:", "request_goodput");  // the key of older vLLM versions
  for (const char* statistic : kStatistics)
    put(r, j, fmt::format("{}_e2e_latency_ms", statistic), fmt::format("{}_e2el_ms", statistic));
  if (r.metrics.count("median_ttft_ms") == 0) put(r, j, "p50_ttft_ms", "median_ttft_ms");
  if (const auto failed = j.number("failed"); failed && *failed > 0)
    r.notes.push_back(fmt::format("{}: {} requests failed", name, *failed));
  return r;
}

double to_ms_factor(const std::string& unit, const std::string& where) {
  if (unit == "ms" || unit.empty()) return 1;
  if (unit == "s" || unit == "sec" || unit == "seconds") return 1e3;
  if (unit == "us") return 1e-3;
  if (unit == "ns") return 1e-6;
  throw Error(where, "the unit \"" + unit + "\" is not one of s, ms, us, ns");
}

// AIPerf and GenAI-Perf. Their inter_token_latency is (latency - ttft)/(osl - 1), our TPOT; our ITL is their
// inter_chunk_latency.
ResultColumn read_aiperf(const Part& top, const std::string& name) {
  ResultColumn r{name, "AIPerf", {}, {}};
  const Part j = top.object("records").value_or(top);
  const std::pair<const char*, const char*> latencies[] = {{"time_to_first_token", "ttft"},
                                                           {"inter_token_latency", "tpot"},
                                                           {"inter_chunk_latency", "itl"},
                                                           {"request_latency", "e2el"}};
  for (const auto& [theirs, ours] : latencies) {
    const auto m = j.object(theirs);
    if (!m) continue;
    const double scale = to_ms_factor(m->text("unit", ""), m->where + "/unit");
    put(r, *m, "avg", fmt::format("mean_{}_ms", ours), scale);
    put(r, *m, "std", fmt::format("std_{}_ms", ours), scale);
    put(r, *m, "p50", fmt::format("median_{}_ms", ours), scale);
    for (const char* p : {"p50", "p90", "p95", "p99"}) put(r, *m, p, fmt::format("{}_{}_ms", p, ours), scale);
  }
  const std::pair<const char*, const char*> rates[] = {{"request_throughput", "request_throughput"},
                                                       {"output_token_throughput", "output_throughput"},
                                                       {"goodput", "request_goodput"},
                                                       {"request_goodput", "request_goodput"},
                                                       {"request_count", "completed"},
                                                       {"total_osl", "total_output_tokens"},
                                                       {"total_isl", "total_input_tokens"}};
  for (const auto& [theirs, ours] : rates)
    if (const auto m = j.object(theirs)) put(r, *m, "avg", ours);
  if (const auto m = j.object("benchmark_duration"))
    put(r, *m, "avg", "duration", to_ms_factor(m->text("unit", "s"), m->where + "/unit") / 1e3);
  r.notes.push_back(name + ": AIPerf's inter_token_latency is shown as TPOT, its inter_chunk_latency as ITL");
  return r;
}

// GuideLLM. Its ITL is our TPOT; its own TPOT includes the time to first token and has no equal here; latency
// is in seconds.
ResultColumn read_guidellm(const Part& metrics, const std::string& name) {
  ResultColumn r{name, "GuideLLM", {}, {}};
  auto successful = [&](const char* key) -> std::optional<Part> {
    const auto m = metrics.object(key);
    return m ? m->object("successful") : std::nullopt;
  };
  auto latency = [&](const char* theirs, const std::string& ours, double scale) {
    const auto m = successful(theirs);
    if (!m) return;
    put(r, *m, "mean", "mean_" + ours + "_ms", scale);
    put(r, *m, "median", "median_" + ours + "_ms", scale);
    put(r, *m, "std_dev", "std_" + ours + "_ms", scale);
    if (const auto p = m->object("percentiles"))
      for (const char* q : {"p50", "p90", "p95", "p99"})
        put(r, *p, q, fmt::format("{}_{}_ms", q, ours), scale);
  };
  latency("time_to_first_token_ms", "ttft", 1);
  latency("inter_token_latency_ms", "tpot", 1);
  latency("request_latency", "e2el", 1e3);
  if (const auto m = successful("requests_per_second")) put(r, *m, "mean", "request_throughput");
  if (const auto m = successful("output_tokens_per_second")) put(r, *m, "mean", "output_throughput");
  if (const auto m = successful("tokens_per_second")) put(r, *m, "mean", "total_token_throughput");
  if (const auto totals = metrics.object("request_totals")) put(r, *totals, "successful", "completed");
  if (const auto m = successful("output_token_count")) put(r, *m, "total_sum", "total_output_tokens");
  if (const auto m = successful("prompt_token_count")) put(r, *m, "total_sum", "total_input_tokens");
  r.notes.push_back(name +
                    ": GuideLLM's inter_token_latency_ms is shown as TPOT; its time_per_output_token_ms "
                    "includes the time to first token and is left out");
  return r;
}

[[noreturn]] void fail_unknown_tool(const std::string& path) {
  throw Error(path,
              fmt::format("is neither a scenario nor a result of a known tool; those are: {}", kKnownTools));
}

bool is_metric(const Json& j, const char* key) {
  const auto m = j.find(key);
  return m != j.end() && m->is_object() && m->contains("avg");
}

std::vector<ResultColumn> read_object(const Json& j, const std::string& name, const std::string& path) {
  if (!j.is_object()) fail_unknown_tool(path);
  if (j.contains("benchmarks") && j["benchmarks"].is_array()) {
    std::vector<ResultColumn> all;
    const Json& list = j["benchmarks"];
    for (std::size_t i = 0; i < list.size(); ++i) {
      if (!list[i].is_object() || !list[i].contains("metrics") || !list[i]["metrics"].is_object())
        throw Error(fmt::format("{}:/benchmarks/{}", path, i), "has no metrics; is this a GuideLLM report?");
      all.push_back(read_guidellm({list[i]["metrics"], fmt::format("{}:/benchmarks/{}/metrics", path, i)},
                                  list.size() > 1 ? fmt::format("{}#{}", name, i + 1) : name));
    }
    if (all.empty()) throw Error(path + ":/benchmarks", "is empty");
    return all;
  }
  const Part top{j, path + ":"};
  const Json& records = j.contains("records") && j["records"].is_object() ? j["records"] : j;
  if (is_metric(records, "request_latency") || is_metric(records, "time_to_first_token"))
    return {read_aiperf(top, name)};
  if (j.contains("format") && j.contains("context")) {
    if (!j.contains("request_throughput"))
      throw Error(
          path, "is no result of `foretoken simulate`; compare takes those, scenarios, and benchmark files");
    return {read_vllm(top, name, "foretoken")};
  }
  if (j.contains("mean_e2e_latency_ms")) return {read_vllm(top, name, "SGLang bench_serving")};
  if (j.contains("request_throughput") && j.contains("completed"))
    return {read_vllm(top, name, "vllm bench serve")};
  const auto keys = scenario_keys();
  const bool scenario = std::any_of(j.items().begin(), j.items().end(), [&](const auto& member) {
    return std::any_of(keys.begin(), keys.end(),
                       [&](const ScenarioKey& k) { return split(k.pointer, '/').at(1) == member.key(); });
  });
  if (!scenario) fail_unknown_tool(path);
  return {};
}

}  // namespace

std::vector<ComparedMetric> compared_metrics() {
  std::vector<ComparedMetric> all = {
      {"completed", "requests completed"},    {"duration", "duration (s)"},
      {"total_input_tokens", "input tokens"}, {"total_output_tokens", "output tokens"},
      {"request_throughput", "requests/s"},   {"output_throughput", "output tokens/s"},
      {"total_token_throughput", "tokens/s"}, {"request_goodput", "goodput (requests/s)"}};
  const char* const titles[] = {"TTFT", "TPOT", "ITL", "E2EL"};
  for (std::size_t i = 0; i < 4; ++i)
    for (const char* statistic : {"mean", "median", "p90", "p95", "p99"})
      all.push_back({fmt::format("{}_{}_ms", statistic, kLatencies[i]),
                     fmt::format("{} {} (ms)", statistic, titles[i])});
  all.push_back({"prefix_cache_hit_rate", "prefix cache hit rate"});
  all.push_back({"usd_per_million_tokens", "$ per million output tokens"});
  return all;
}

std::vector<ResultColumn> read_result_file(const std::string& path) {
  const std::string name = std::filesystem::path(path).filename().string();
  const std::string text = read_file(path);
  // JSON lines: `vllm bench serve --append-result` and SGLang write one result a line.
  std::vector<std::string> lines;
  for (const std::string& line : split(text, '\n'))
    if (!trim(line).empty()) lines.emplace_back(trim(line));
  const bool json_lines = lines.size() > 1 && lines[0].front() == '{' && lines[0].back() == '}' &&
                          lines[1].front() == '{' && lines[1].back() == '}';
  if (!json_lines) return read_object(parse_json(text, path), name, path);
  std::vector<ResultColumn> all;
  for (std::size_t i = 0; i < lines.size(); ++i) {
    const std::string where = fmt::format("{}:{}", path, i + 1);
    for (ResultColumn& r : read_object(parse_json(lines[i], where), fmt::format("{}#{}", name, i + 1), where))
      all.push_back(std::move(r));
  }
  if (all.empty()) fail_unknown_tool(path);
  return all;
}

}  // namespace foretoken
