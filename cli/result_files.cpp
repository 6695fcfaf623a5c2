#include "cli/result_files.h"

#include <fmt/format.h>

#include <filesystem>

#include "base/error.h"
#include "base/file.h"
#include "base/json_full.h"
#include "base/text.h"

namespace foretoken {
namespace {

constexpr const char* kLatencies[] = {"ttft", "tpot", "itl", "e2el"};
constexpr const char* kStatistics[] = {"mean", "median", "std", "p50", "p90", "p95", "p99"};

void put(ResultColumn& r, const Json& from, const std::string& theirs, const std::string& ours,
         double scale = 1) {
  const auto found = from.find(theirs);
  if (found != from.end() && found->is_number()) r.metrics[ours] = found->get<double>() * scale;
}

// Ours, `vllm bench serve` and SGLang share names; SGLang says e2e_latency for e2el.
ResultColumn read_vllm(const Json& j, const std::string& name, const std::string& kind) {
  ResultColumn r{name, kind, {}, {}};
  for (const ComparedMetric& m : compared_metrics()) put(r, j, m.key, m.key);
  put(r, j, "request_goodput:", "request_goodput");  // the key of older vLLM versions
  for (const char* statistic : kStatistics)
    put(r, j, fmt::format("{}_e2e_latency_ms", statistic), fmt::format("{}_e2el_ms", statistic));
  if (r.metrics.count("median_ttft_ms") == 0) put(r, j, "p50_ttft_ms", "median_ttft_ms");
  const auto failed = j.find("failed");
  if (failed != j.end() && failed->is_number() && failed->get<double>() > 0)
    r.notes.push_back(fmt::format("{}: {} requests failed", name, failed->get<double>()));
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
ResultColumn read_aiperf(const Json& top, const std::string& name, const std::string& path) {
  ResultColumn r{name, "AIPerf", {}, {}};
  const Json& j = top.contains("records") && top["records"].is_object() ? top["records"] : top;
  const std::pair<const char*, const char*> latencies[] = {{"time_to_first_token", "ttft"},
                                                           {"inter_token_latency", "tpot"},
                                                           {"inter_chunk_latency", "itl"},
                                                           {"request_latency", "e2el"}};
  for (const auto& [theirs, ours] : latencies) {
    const auto m = j.find(theirs);
    if (m == j.end() || !m->is_object()) continue;
    const double scale = to_ms_factor(m->value("unit", std::string()), path + ":/" + theirs + "/unit");
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
    if (const auto m = j.find(theirs); m != j.end() && m->is_object()) put(r, *m, "avg", ours);
  if (const auto m = j.find("benchmark_duration"); m != j.end() && m->is_object())
    put(r, *m, "avg", "duration",
        to_ms_factor(m->value("unit", std::string("s")), path + ":/benchmark_duration/unit") / 1e3);
  r.notes.push_back(name + ": AIPerf's inter_token_latency is shown as TPOT, its inter_chunk_latency as ITL");
  return r;
}

// GuideLLM. Its ITL is our TPOT; its own TPOT includes the time to first token and has no equal here; latency
// is in seconds.
ResultColumn read_guidellm(const Json& metrics, const std::string& name) {
  ResultColumn r{name, "GuideLLM", {}, {}};
  auto successful = [&](const char* key) -> const Json* {
    const auto m = metrics.find(key);
    if (m == metrics.end() || !m->is_object() || !m->contains("successful")) return nullptr;
    return (*m)["successful"].is_object() ? &(*m)["successful"] : nullptr;
  };
  auto latency = [&](const char* theirs, const std::string& ours, double scale) {
    const Json* m = successful(theirs);
    if (m == nullptr) return;
    put(r, *m, "mean", "mean_" + ours + "_ms", scale);
    put(r, *m, "median", "median_" + ours + "_ms", scale);
    put(r, *m, "std_dev", "std_" + ours + "_ms", scale);
    if (const auto p = m->find("percentiles"); p != m->end() && p->is_object())
      for (const char* q : {"p50", "p90", "p95", "p99"})
        put(r, *p, q, fmt::format("{}_{}_ms", q, ours), scale);
  };
  latency("time_to_first_token_ms", "ttft", 1);
  latency("inter_token_latency_ms", "tpot", 1);
  latency("request_latency", "e2el", 1e3);
  if (const Json* m = successful("requests_per_second")) put(r, *m, "mean", "request_throughput");
  if (const Json* m = successful("output_tokens_per_second")) put(r, *m, "mean", "output_throughput");
  if (const Json* m = successful("tokens_per_second")) put(r, *m, "mean", "total_token_throughput");
  if (const auto totals = metrics.find("request_totals"); totals != metrics.end() && totals->is_object())
    put(r, *totals, "successful", "completed");
  if (const Json* m = successful("output_token_count")) put(r, *m, "total_sum", "total_output_tokens");
  if (const Json* m = successful("prompt_token_count")) put(r, *m, "total_sum", "total_input_tokens");
  r.notes.push_back(name +
                    ": GuideLLM's inter_token_latency_ms is shown as TPOT; its time_per_output_token_ms "
                    "includes the time to first token and is left out");
  return r;
}

bool is_metric(const Json& j, const char* key) {
  const auto m = j.find(key);
  return m != j.end() && m->is_object() && m->contains("avg");
}

std::vector<ResultColumn> read_object(const Json& j, const std::string& name, const std::string& path) {
  if (!j.is_object()) throw Error(path, "is neither a scenario nor a result of a known tool");
  if (j.contains("benchmarks") && j["benchmarks"].is_array()) {
    std::vector<ResultColumn> all;
    const Json& list = j["benchmarks"];
    for (std::size_t i = 0; i < list.size(); ++i) {
      if (!list[i].is_object() || !list[i].contains("metrics") || !list[i]["metrics"].is_object())
        throw Error(fmt::format("{}:/benchmarks/{}", path, i), "has no metrics; is this a GuideLLM report?");
      all.push_back(
          read_guidellm(list[i]["metrics"], list.size() > 1 ? fmt::format("{}#{}", name, i + 1) : name));
    }
    if (all.empty()) throw Error(path + ":/benchmarks", "is empty");
    return all;
  }
  const Json& records = j.contains("records") && j["records"].is_object() ? j["records"] : j;
  if (is_metric(records, "request_latency") || is_metric(records, "time_to_first_token"))
    return {read_aiperf(j, name, path)};
  if (j.contains("format") && j.contains("context")) {
    if (!j.contains("request_throughput"))
      throw Error(
          path, "is no result of `foretoken simulate`; compare takes those, scenarios, and benchmark files");
    return {read_vllm(j, name, "foretoken")};
  }
  if (j.contains("mean_e2e_latency_ms")) return {read_vllm(j, name, "SGLang bench_serving")};
  if (j.contains("request_throughput") && j.contains("completed"))
    return {read_vllm(j, name, "vllm bench serve")};
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
  if (all.empty()) throw Error(path, "holds no result of a known tool");
  return all;
}

}  // namespace foretoken
