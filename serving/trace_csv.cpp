// Traces in CSV: Azure, BurstGPT, Splitwise, Vidur, LLMServingSim, APEX.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <optional>
#include <span>
#include <utility>

#include "base/csv.h"
#include "base/error.h"
#include "base/text.h"
#include "serving/trace_reader.h"

namespace foretoken::trace_detail {
namespace {

enum class Clock { kTimestamp, kSeconds, kNanoseconds };

struct CsvFormat {
  std::string_view name, input, output, arrival;
  Clock clock = Clock::kSeconds;
  bool from_first = false;         // arrivals count from the first row: the recorded clock has another origin
  bool failures = false;           // rows without output are failed requests, known in this data set
  std::string_view must_be_one{};  // column that has to hold 1 in every row
  std::array<std::string_view, 5> others{};  // columns that say nothing about the load
};

constexpr CsvFormat kFormats[] = {
    {"Azure",
     "ContextTokens",
     "GeneratedTokens",
     "TIMESTAMP",
     Clock::kTimestamp,
     true,
     false,
     {},
     {"arrival_s"}},
    {"APEX", "ContextTokens", "GeneratedTokens", "StartTimeOffset", Clock::kNanoseconds},
    {"Azure", "ContextTokens", "GeneratedTokens", "arrival_s", Clock::kSeconds},
    {"APEX",
     "context_tokens",
     "generated_tokens",
     "arrival_ns",
     Clock::kNanoseconds,
     false,
     false,
     {},
     {"tokenizer", "workload", "rate"}},
    // Zhuang et al., "BurstGPT": rows with 0 response tokens are requests that failed.
    {"BurstGPT",
     "Request tokens",
     "Response tokens",
     "Timestamp",
     Clock::kSeconds,
     true,
     true,
     {},
     {"Model", "Total tokens", "Log Type", "Session ID", "Elapsed time"}},
    {"Splitwise",
     "prompt_size",
     "token_size",
     "arrival_timestamp",
     Clock::kSeconds,
     true,
     false,
     "batch_size",
     {"request_id", "request_type", "application_id"}},
    {"Vidur",
     "num_prefill_tokens",
     "num_decode_tokens",
     "arrived_at",
     Clock::kSeconds,
     false,
     false,
     {},
     {"num_total_tokens", "pd_ratio"}},
    {"LLMServingSim",
     "input_toks",
     "output_toks",
     "arrival_time_ns",
     Clock::kNanoseconds,
     false,
     false,
     {},
     {"request_id"}},
};

bool has(const std::vector<std::string>& header, std::string_view name) {
  return std::find(header.begin(), header.end(), name) != header.end();
}

const CsvFormat& tell_format(const std::vector<std::string>& header, const std::string& where) {
  const CsvFormat *without_arrivals = nullptr, *half = nullptr;
  for (const CsvFormat& f : kFormats) {
    const bool input = has(header, f.input), output = has(header, f.output);
    if (input && output && has(header, f.arrival)) return f;
    if (input && output && !without_arrivals) without_arrivals = &f;
    if ((input || output) && !half) half = &f;
  }
  if (without_arrivals) return *without_arrivals;
  if (half) {
    throw Error(where, fmt::format("the column {} is missing: a trace of {} has both {} and {}",
                                   has(header, half->input) ? half->output : half->input, half->name,
                                   half->input, half->output));
  }
  std::string columns = join(header, ",");
  if (columns.size() > 80) columns = columns.substr(0, 77) + "...";
  throw Error(where, fmt::format("not a trace (its header is \"{}\"); {}", columns, kFormatsRead));
}

class CsvTrace : public TraceReader {
 public:
  explicit CsvTrace(const std::filesystem::path& path)
      : path_(path), csv_(path), format_(tell_format(csv_.header(), csv_.where())) {
    input_ = csv_.column(format_.input);
    output_ = csv_.column(format_.output);
    arrival_ = csv_.find_column(format_.arrival);
    priority_ = csv_.find_column(kPriority);
    if (!format_.must_be_one.empty()) must_be_one_ = csv_.find_column(format_.must_be_one);
    for (const std::string& column : csv_.header()) {
      const bool known =
          column == format_.input || column == format_.output || column == format_.arrival ||
          column == format_.must_be_one || column == kPriority ||
          std::find(format_.others.begin(), format_.others.end(), column) != format_.others.end();
      if (!known || column.empty()) {
        throw Error(csv_.where(),
                    fmt::format("\"{}\" is not a column of {} traces; remove it", column, format_.name));
      }
    }
  }

  bool next(TraceEntry& entry) override {
    while (csv_.next()) {
      entry.runs.clear();
      entry.turn = 0;
      entry.input_len = integer(input_, format_.input);
      entry.output_len = integer(output_, format_.output);
      entry.arrival = arrival_ ? arrival() : 0;
      entry.priority.reset();
      if (priority_) entry.priority = checked_priority(integer(*priority_, kPriority), where());
      if (format_.failures && entry.output_len == 0) {
        ++left_out_;
        continue;
      }
      if (must_be_one_ && integer(*must_be_one_, format_.must_be_one) != 1) {
        throw Error(where(),
                    fmt::format("{} is not 1; batched requests are not modelled, write one row for each",
                                format_.must_be_one));
      }
      check_lengths(entry, format_.input, format_.output, where());
      return true;
    }
    return false;
  }

  std::string format() const override { return std::string(format_.name); }
  bool has_arrivals() const override { return arrival_.has_value(); }
  std::string where() const override { return csv_.where(); }
  std::int64_t left_out() const override { return left_out_; }
  std::string sort_command() const override {
    const std::string file = path_.filename().string();
    const bool gzip = file.ends_with(".gz");
    const std::size_t key = arrival_.value_or(0) + 1;
    return fmt::format(
        "{0} {1} | {{ IFS= read -r header; echo \"$header\"; LC_ALL=C sort -s -t, -k{2},{2}{3}; }} > "
        "sorted.csv",
        gzip ? "zcat" : "cat", file, key, format_.clock == Clock::kTimestamp ? "" : "g");
  }

 private:
  void check_filled(std::size_t column, std::string_view name) const {
    if (trim(csv_.text(column)).empty()) {
      throw Error(where(), fmt::format("{} is empty; fill it in or remove the row", name));
    }
  }
  std::int64_t integer(std::size_t column, std::string_view name) const {
    check_filled(column, name);
    return csv_.integer(column);
  }
  Picoseconds arrival() {
    check_filled(*arrival_, format_.arrival);
    if (format_.clock == Clock::kTimestamp) {
      const Timestamp t = parse_timestamp(csv_.text(*arrival_), where());
      if (!first_time_) first_time_ = t;
      const std::int64_t seconds = t.seconds - first_time_->seconds;
      if (seconds > 9'000'000)
        return clock_time(static_cast<double>(seconds), 1e12, format_.arrival, where());
      // Earlier than the first row: reported as out of order where arrivals matter.
      if (seconds < -9'000'000) return -9'000'000'000'000'000'000;
      return seconds * 1'000'000'000'000 + (t.picoseconds - first_time_->picoseconds);
    }
    double value = csv_.number(*arrival_);
    const double unit = format_.clock == Clock::kSeconds ? 1e12 : 1e3;
    if (!format_.from_first) return clock_time(value, unit, format_.arrival, where());
    if (!first_) first_ = value;
    value -= *first_;
    return value < 0 ? -clock_time(-value, unit, format_.arrival, where())
                     : clock_time(value, unit, format_.arrival, where());
  }

  std::filesystem::path path_;
  CsvReader csv_;
  const CsvFormat& format_;
  std::size_t input_ = 0, output_ = 0;
  std::optional<std::size_t> arrival_, must_be_one_, priority_;
  std::optional<Timestamp> first_time_;
  std::optional<double> first_;
  std::int64_t left_out_ = 0;
};

}  // namespace

std::unique_ptr<TraceReader> open_csv_trace(const std::filesystem::path& path) {
  return std::make_unique<CsvTrace>(path);
}

}  // namespace foretoken::trace_detail
