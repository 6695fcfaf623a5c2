// Traces of one JSON object a line: Mooncake, Qwen Bailian, LLMServingSim, APEX.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <optional>

#include "base/error.h"
#include "base/file.h"
#include "base/json_full.h"
#include "base/text.h"
#include "serving/content.h"
#include "serving/trace_json.h"
#include "serving/trace_reader.h"

namespace foretoken::trace_detail {
double number(const Json& object, std::string_view key, const std::string& where) {
  const auto it = object.find(key);
  if (it == object.end() || it->is_null()) {
    throw Error(where, fmt::format("{} is missing; fill it in or remove the line", key));
  }
  if (!it->is_number())
    throw Error(where, fmt::format("{} is not a number; correct or remove the line", key));
  return it->get<double>();
}

std::int64_t integer(const Json& object, std::string_view key, const std::string& where) {
  const double value = number(object, key, where);
  if (value != std::floor(value) || std::abs(value) > 9e15) {
    throw Error(where, fmt::format("{} is {}; tokens are whole numbers", key, value));
  }
  return static_cast<std::int64_t>(value);
}

std::vector<std::int64_t> token_ids(const Json& ids, std::int64_t count, std::string_view key,
                                    std::string_view count_key, const std::string& where) {
  if (!ids.is_array() || static_cast<std::int64_t>(ids.size()) != count)
    throw Error(where, fmt::format("{} does not hold {} token ids; correct the line or remove the key", key,
                                   count_key));
  std::vector<std::int64_t> tokens;
  tokens.reserve(ids.size());
  for (const Json& id : ids) {
    if (!id.is_number_integer())
      throw Error(where, fmt::format("{} holds something that is not a token id", key));
    tokens.push_back(id.get<std::int64_t>());
  }
  return tokens;
}

void add_tokens(const std::vector<std::int64_t>& ids, std::vector<ContentRun>& runs) {
  constexpr std::size_t kBlock = 16;
  std::uint64_t hash = 0;
  for (std::size_t begin = 0; begin < ids.size(); begin += kBlock) {
    const std::size_t end = std::min(begin + kBlock, ids.size());
    std::string bytes;
    for (std::size_t i = begin; i < end; ++i) bytes += fmt::format("{},", ids[i]);
    hash = hash_bytes(bytes, hash);
    runs.push_back({hashed_block_content(hash), static_cast<std::int64_t>(end - begin)});
  }
}

namespace {

struct JsonFormat {
  std::string_view name, marker, input, output, arrival;  // marker: key that tells the format
  double unit = 1;                                        // of the arrival, in picoseconds
  bool from_first = false;
  std::int64_t block = 0;  // tokens of one of hash_ids
  std::array<std::string_view, 4>
      others{};  // further keys that are understood, or say nothing about the load
};

constexpr JsonFormat kFormats[] = {
    {"Qwen Bailian",
     "chat_id",
     "input_length",
     "output_length",
     "timestamp",
     1e12,
     true,
     16,
     {"chat_id", "parent_chat_id", "type", "turn"}},
    {"Mooncake", "input_length", "input_length", "output_length", "timestamp", 1e9, false, 512, {}},
    {"LLMServingSim",
     "input_toks",
     "input_toks",
     "output_toks",
     "arrival_time_ns",
     1e3,
     false,
     0,
     {"input_tok_ids", "output_tok_ids"}},
    {"APEX", "ContextTokens", "ContextTokens", "GeneratedTokens", "StartTimeOffset", 1e3, false, 0, {}},
};

const JsonFormat& tell_format(const Json& object, const std::string& where) {
  for (const JsonFormat& f : kFormats) {
    if (object.contains(f.marker)) return f;
  }
  throw Error(where,
              fmt::format("not a trace (the first object has none of the known keys); {}", kFormatsRead));
}

std::uint64_t hash_of(const Json& id, const std::string& where) {
  if (id.is_number_unsigned()) return id.get<std::uint64_t>();
  if (id.is_number_integer()) return static_cast<std::uint64_t>(id.get<std::int64_t>());
  if (id.is_string()) return hash_bytes(id.get_ref<const std::string&>());
  throw Error(where, "hash_ids holds something that is neither a whole number nor a text; correct the line");
}

// One run a block; what the ids leave over at the end (some writers hash full blocks only) is the request's
// own and gets no run.
void add_blocks(const Json& ids, std::int64_t block, TraceEntry& entry, const std::string& where) {
  if (!ids.is_array()) throw Error(where, "hash_ids is not an array; correct the line");
  const auto count = static_cast<std::int64_t>(ids.size());
  const std::int64_t full = entry.input_len / block, all = (entry.input_len + block - 1) / block;
  if (count < full || count > all) {
    throw Error(where, fmt::format("{} hash_ids do not fit {} prompt tokens: blocks of {} tokens make {}",
                                   count, entry.input_len, block, all));
  }
  for (std::int64_t i = 0; i < count; ++i) {
    entry.runs.push_back({hashed_block_content(hash_of(ids[static_cast<std::size_t>(i)], where)),
                          std::min(block, entry.input_len - i * block)});
  }
}

class JsonlTrace : public TraceReader {
 public:
  explicit JsonlTrace(const std::filesystem::path& path) : path_(path), lines_(path) {
    if (!advance()) throw Error(path.string(), "the file is empty");
    format_ = &tell_format(pending_, lines_.where());
    has_arrivals_ = pending_.contains(format_->arrival);
  }

  bool next(TraceEntry& entry) override {
    if (!have_pending_ && !advance()) return false;
    have_pending_ = false;
    const std::string at = where();
    check_keys(at);
    entry.runs.clear();
    entry.input_len = integer(pending_, format_->input, at);
    entry.output_len = integer(pending_, format_->output, at);
    check_lengths(entry, format_->input, format_->output, at);
    entry.turn = pending_.contains("turn") ? static_cast<std::int32_t>(integer(pending_, "turn", at)) : 0;
    entry.arrival = has_arrivals_ ? arrival(at) : 0;
    entry.priority.reset();
    if (pending_.contains(kPriority)) entry.priority = checked_priority(integer(pending_, kPriority, at), at);
    if (const auto ids = pending_.find("hash_ids"); ids != pending_.end()) {
      add_blocks(*ids, format_->block, entry, at);
    } else if (const auto tokens = pending_.find("input_tok_ids");
               tokens != pending_.end() && !tokens->is_null()) {
      add_tokens(token_ids(*tokens, entry.input_len, "input_tok_ids", "input_toks", at), entry.runs);
    }
    return true;
  }

  std::string format() const override { return std::string(format_->name); }
  bool has_arrivals() const override { return has_arrivals_; }
  std::string where() const override { return lines_.where(); }
  std::string sort_command() const override {
    const std::string file = path_.filename().string();
    return fmt::format("{} {} | jq -c -s 'sort_by(.{})[]' > sorted.jsonl",
                       file.ends_with(".gz") ? "zcat" : "cat", file, format_->arrival);
  }

 private:
  bool advance() {
    while (lines_.next(line_)) {
      if (trim(line_).empty()) continue;
      pending_ = parse_json(line_, lines_.where());
      if (!pending_.is_object()) {
        throw Error(lines_.where(),
                    "the line is not a JSON object; a JSONL trace has one request on each line");
      }
      have_pending_ = true;
      return true;
    }
    return false;
  }

  void check_keys(const std::string& at) const {
    for (const auto& [key, value] : pending_.items()) {
      const bool known =
          key == format_->input || key == format_->output || key == format_->arrival || key == kPriority ||
          (key == "hash_ids" && format_->block > 0) ||
          std::find(format_->others.begin(), format_->others.end(), key) != format_->others.end();
      if (!known) {
        throw Error(
            at, fmt::format("\"{}\" is not a key of {} traces; remove it, and keep to one format in a file",
                            key, format_->name));
      }
    }
  }

  Picoseconds arrival(const std::string& at) {
    double value = number(pending_, format_->arrival, at);
    if (!format_->from_first) return clock_time(value, format_->unit, format_->arrival, at);
    if (!first_) first_ = value;
    value -= *first_;
    return value < 0 ? -clock_time(-value, format_->unit, format_->arrival, at)
                     : clock_time(value, format_->unit, format_->arrival, at);
  }

  std::filesystem::path path_;
  LineReader lines_;
  std::string line_;
  Json pending_;
  bool have_pending_ = false, has_arrivals_ = false;
  const JsonFormat* format_ = nullptr;
  std::optional<double> first_;
};

// vLLM writes its results as one line, other programs may have indented them: then the first line alone is no
// JSON.
bool is_whole_value(const std::filesystem::path& path) {
  LineReader lines(path);
  std::string line;
  while (lines.next(line) && trim(line).empty()) {
  }
  if (trim(line).front() == '[') return true;
  const Json first = Json::parse(line, nullptr, /*allow_exceptions=*/false);
  return first.is_discarded() || first.contains("input_lens");
}

}  // namespace

std::unique_ptr<TraceReader> open_jsonl_trace(const std::filesystem::path& path) {
  if (is_whole_value(path)) return open_vllm_results(path);
  return std::make_unique<JsonlTrace>(path);
}

}  // namespace foretoken::trace_detail
