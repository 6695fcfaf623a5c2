#include "simulator/results/measured_run.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/file.h"
#include "base/json_full.h"
#include "base/text.h"
#include "simulator/results/part.h"

namespace foretoken {
namespace {

// Python's json writes NaN, Infinity and -Infinity, which are no JSON: as texts they are.
std::string quote_python_numbers(std::string_view text) {
  std::string out;
  bool in_text = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_text) {
      out += c;
      if (c == '\\' && i + 1 < text.size())
        out += text[++i];
      else if (c == '"')
        in_text = false;
      continue;
    }
    bool quoted = false;
    for (const std::string_view word : {"NaN", "-Infinity", "Infinity"})
      if (!quoted && text.substr(i).starts_with(word)) {
        out += fmt::format("\"{}\"", word);
        i += word.size() - 1;
        quoted = true;
      }
    if (quoted) continue;
    in_text = c == '"';
    out += c;
  }
  return out;
}

bool is_object(const std::string& line) { return line.front() == '{' && line.back() == '}'; }

}  // namespace

const std::vector<MeasuredMetric>& measured_metrics() {
  static const std::vector<MeasuredMetric> metrics = [] {
    std::vector<MeasuredMetric> all = {
        {"completed", "requests completed"},    {"duration", "duration (s)"},
        {"total_input_tokens", "input tokens"}, {"total_output_tokens", "output tokens"},
        {"request_throughput", "requests/s"},   {"output_throughput", "output tokens/s"},
        {"total_token_throughput", "tokens/s"}, {"request_goodput", "goodput (requests/s)"}};
    const std::pair<const char*, const char*> latencies[] = {
        {"ttft", "TTFT"}, {"tpot", "TPOT"}, {"itl", "ITL"}, {"e2el", "E2EL"}};
    for (const auto& [key, title] : latencies)
      for (const char* statistic : {"mean", "median", "p90", "p95", "p99"})
        all.push_back({fmt::format("{}_{}_ms", statistic, key), fmt::format("{} {} (ms)", statistic, title)});
    all.push_back({"prefix_cache_hit_rate", "prefix cache hit rate"});
    all.push_back({"usd_per_million_tokens", "$ per million output tokens"});
    return all;
  }();
  return metrics;
}

std::string known_tools() {
  return "vllm bench serve / throughput / latency, SGLang bench_serving / "
         "bench_one_batch, AIPerf (GenAI-Perf), GuideLLM";
}

std::vector<MeasuredRun> measured_runs(const Json& json, const std::string& name, const std::string& where) {
  if (!json.is_object()) return {};
  const Part top{json, where};
  // The most particular content first.
  for (const ResultReader reader : {read_guidellm, read_aiperf, read_foretoken, read_sglang, read_vllm})
    if (auto runs = reader(top, name); !runs.empty()) return runs;
  return {};
}

std::vector<std::string> short_names(const std::vector<std::string>& files) {
  std::vector<std::filesystem::path> rest(files.begin(), files.end());
  std::vector<std::string> names;
  for (std::filesystem::path& p : rest) {
    names.push_back(p.filename().string());
    p = p.parent_path();
  }
  for (bool longer = true; longer;) {
    longer = false;
    const std::vector<std::string> now = names;
    for (std::size_t i = 0; i < files.size(); ++i) {
      if (std::count(now.begin(), now.end(), now[i]) == 1 || rest[i].filename().empty()) continue;
      names[i] = (rest[i].filename() / names[i]).string();
      rest[i] = rest[i].parent_path();
      longer = true;
    }
  }
  return names;
}

std::vector<MeasuredRun> read_measured_runs(const std::filesystem::path& file, const std::string& name,
                                            UnknownResult unknown) {
  const std::string path = file.string();
  const std::string text = quote_python_numbers(read_file(file));
  // JSON lines: `vllm bench serve --append-result` and SGLang write one result a line.
  std::vector<std::string> lines;
  for (const std::string& line : split(text, '\n'))
    if (!trim(line).empty()) lines.emplace_back(trim(line));
  const bool json_lines = lines.size() > 1 && is_object(lines[0]) && is_object(lines[1]);
  std::vector<MeasuredRun> all;
  const auto take = [&](const Json& json, const std::string& of, const std::string& where) {
    std::vector<MeasuredRun> runs = measured_runs(json, of, where);
    if (runs.empty()) runs = unknown(json, where.substr(0, where.size() - 1));
    for (MeasuredRun& run : runs) {
      if (!run.load.trace.empty()) run.load.trace = json_lines ? "" : path;
      all.push_back(std::move(run));
    }
  };
  if (!json_lines) {
    take(parse_json(text, path), name, path + ":");
    return all;
  }
  for (std::size_t i = 0; i < lines.size(); ++i) {
    const std::string where = fmt::format("{}:{}", path, i + 1);
    take(parse_json(lines[i], where), fmt::format("{}#{}", name, i + 1), where + ":");
  }
  return all;
}

}  // namespace foretoken
