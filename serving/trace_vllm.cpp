// vLLM's `bench serve --save-detailed` result as a trace: arrays start_times, input_lens and output_lens.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/error.h"
#include "base/file.h"
#include "base/json_full.h"
#include "base/text.h"
#include "serving/trace_reader.h"

namespace foretoken::trace_detail {
namespace {

// Several objects, one after the other: `--append-result`, or a JSONL trace whose first line is broken.
[[noreturn]] void refuse_array(const Json& json, const std::string& where) {
  if (!json.empty() && json[0].is_object() && json[0].contains("conversations")) {
    throw Error(
        where,
        "ShareGPT conversations are texts, and their token counts depend on a tokenizer; convert them to "
        "a trace with token counts first, for example a CSV with num_prefill_tokens,num_decode_tokens");
  }
  throw Error(where, fmt::format("a JSON array is not a trace; {}", kFormatsRead));
}

std::vector<double> numbers(const Json& results, std::string_view key, std::size_t count,
                            const std::string& where) {
  const auto it = results.find(key);
  const std::string at = fmt::format("{}:/{}", where, key);
  if (it == results.end() || !it->is_array()) {
    throw Error(at, "the array is missing; run `vllm bench serve` with --save-result --save-detailed");
  }
  if (it->size() != count) {
    throw Error(at, fmt::format("{} values, but input_lens has {}; the file is damaged", it->size(), count));
  }
  std::vector<double> values;
  values.reserve(it->size());
  for (const Json& v : *it) {
    if (!v.is_number()) {
      throw Error(fmt::format("{}/{}", at, values.size()),
                  "not a number; remove the request from every array");
    }
    values.push_back(v.get<double>());
  }
  return values;
}

class VllmResults : public TraceReader {
 public:
  explicit VllmResults(const std::filesystem::path& path) : path_(path) {
    const Json json = parse_json(read_file(path), path.string());
    if (json.is_array()) refuse_array(json, path.string());
    if (!json.is_object() || !json.contains("input_lens")) {
      throw Error(path.string(), fmt::format("not a trace (no input_lens); {}", kFormatsRead));
    }
    const std::size_t count = json["input_lens"].is_array() ? json["input_lens"].size() : 0;
    input_ = numbers(json, "input_lens", count, path.string());
    output_ = numbers(json, "output_lens", count, path.string());
    if (json.contains("start_times")) start_ = numbers(json, "start_times", count, path.string());
    // Requests are listed in the order of the data set; with a concurrency limit they start in nearly that
    // order.
    order_.resize(count);
    std::iota(order_.begin(), order_.end(), std::size_t{0});
    if (has_arrivals()) {
      std::stable_sort(order_.begin(), order_.end(),
                       [&](std::size_t a, std::size_t b) { return start_[a] < start_[b]; });
    }
  }

  bool next(TraceEntry& entry) override {
    while (next_ < order_.size()) {
      current_ = order_[next_++];
      if (output_[current_] == 0) {  // vLLM's mark of a failed request
        ++left_out_;
        continue;
      }
      entry.runs.clear();
      entry.turn = 0;
      entry.priority.reset();
      entry.input_len = whole(input_[current_], "input_lens");
      entry.output_len = whole(output_[current_], "output_lens");
      check_lengths(entry, "input_lens", "output_lens", where());
      entry.arrival = 0;
      if (has_arrivals())
        entry.arrival = clock_time(start_[current_] - start_[order_[0]], 1e12, "start_times", where());
      return true;
    }
    return false;
  }

  std::string format() const override { return "vLLM"; }
  bool has_arrivals() const override { return !start_.empty(); }
  std::string where() const override { return fmt::format("{}:/input_lens/{}", path_.string(), current_); }
  std::string sort_command() const override { return "not needed: start_times are sorted when read"; }
  std::int64_t left_out() const override { return left_out_; }

 private:
  std::int64_t whole(double value, std::string_view name) const {
    if (value != std::floor(value) || std::abs(value) > 9e15) {
      throw Error(where(), fmt::format("{} holds {}; tokens are whole numbers", name, value));
    }
    return static_cast<std::int64_t>(value);
  }

  std::filesystem::path path_;
  std::vector<double> input_, output_, start_;
  std::vector<std::size_t> order_;
  std::size_t next_ = 0, current_ = 0;
  std::int64_t left_out_ = 0;
};

}  // namespace

std::unique_ptr<TraceReader> open_vllm_results(const std::filesystem::path& path) {
  return std::make_unique<VllmResults>(path);
}

}  // namespace foretoken::trace_detail
