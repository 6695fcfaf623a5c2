#include "serving/request_source.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "base/error.h"
#include "base/text.h"
#include "serving/arrivals.h"
#include "serving/content.h"

namespace foretoken {

LengthPair::LengthPair(const WorkloadConfig& config, const std::filesystem::path& folder,
                       const std::string& where)
    : input_(config.input_len.value(), folder, where + "/input_len"),
      output_(config.output_len.value(), folder, where + "/output_len"),
      seed_(static_cast<std::uint64_t>(config.seed)),
      prefix_len_(config.shared_prefix ? config.shared_prefix->prefix_len : 0) {
  const std::int64_t longest = input_.largest() == 0 ? kLongestSample : input_.largest();
  if (prefix_len_ >= longest) {
    throw Error(
        where + "/shared_prefix/prefix_len",
        fmt::format("{} tokens, but input_len, which counts the prefix, is at most {}; raise input_len",
                    with_commas(prefix_len_), with_commas(longest)));
  }
}

std::int64_t LengthPair::input(std::int64_t index) const {
  const CounterRandom random(seed_, random_stream::kInput, static_cast<std::uint64_t>(index));
  return std::max(input_.draw(random), prefix_len_ + 1);
}

std::int64_t LengthPair::output(std::int64_t index) const {
  return output_.draw(CounterRandom(seed_, random_stream::kOutput, static_cast<std::uint64_t>(index)));
}

SyntheticSource::SyntheticSource(const WorkloadConfig& config, std::int64_t total,
                                 const std::filesystem::path& folder, const std::string& where)
    : lengths_(config, folder, where),
      prefix_(config.shared_prefix),
      seed_(static_cast<std::uint64_t>(config.seed)),
      total_(total) {}

void SyntheticSource::next(TraceEntry& entry) {
  const std::int64_t index = index_++;
  entry.arrival = 0;
  entry.turn = 0;
  entry.priority.reset();
  entry.input_len = lengths_.input(index);
  entry.output_len = lengths_.output(index);
  entry.runs.clear();
  if (prefix_ && prefix_->prefix_len > 0) {
    CounterRandom random(seed_, random_stream::kUser, static_cast<std::uint64_t>(index));
    const std::int64_t user = random.uniform_int(0, prefix_->groups * prefix_->users_per_group - 1);
    entry.runs.push_back({shared_prefix_content(user % prefix_->groups), prefix_->prefix_len});
  }
}

Workload::Means SyntheticSource::means() const {
  Workload::Means means{lengths_.mean_input(), lengths_.mean_output(), 0};
  if (prefix_ && total_ > 0)  // each group's first request computes it
    means.shared_len = static_cast<double>(prefix_->prefix_len) *
                       static_cast<double>(total_ - std::min(prefix_->groups, total_)) /
                       static_cast<double>(total_);
  return means;
}

std::int64_t SyntheticSource::longest() const {
  if (lengths_.longest_input() == 0 || lengths_.longest_output() == 0) return 0;
  return lengths_.longest_input() + lengths_.longest_output();
}

TraceSource::TraceSource(const std::filesystem::path& path, TraceSummary summary, double rate_scale)
    : summary_(std::move(summary)), reader_(open_trace(path)), rate_scale_(rate_scale) {}

void TraceSource::next(TraceEntry& entry) {
  if (index_ >= summary_.requests || !reader_->next(entry)) {
    throw Error(reader_->where(), "the trace has become shorter while it was read; run again");
  }
  ++index_;
  if (rate_scale_ != 1) entry.arrival = std::llround(static_cast<double>(entry.arrival) / rate_scale_);
}

Workload::Means TraceSource::means() const {
  const auto n = static_cast<double>(summary_.requests);
  const double seconds = to_seconds(summary_.last_arrival - summary_.first_arrival).value / rate_scale_;
  return {static_cast<double>(summary_.input_tokens) / n, static_cast<double>(summary_.output_tokens) / n,
          summary_.has_arrivals && seconds > 0 ? (n - 1) / seconds : 0};
}

std::string TraceSource::describe() const {
  if (summary_.left_out == 0) return summary_.format + " trace";
  return fmt::format("{} trace without its {} failed requests", summary_.format,
                     with_commas(summary_.left_out));
}

}  // namespace foretoken
