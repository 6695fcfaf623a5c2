// sweep: every combination of listed values, simulated on all cores, or by all processes of a job.
#include <fmt/format.h>
#include <tbb/global_control.h>
#include <tbb/parallel_for.h>
#include <tbb/partitioner.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <memory>
#include <optional>
#include <set>

#include "base/error.h"
#include "base/json_full.h"
#include "base/text.h"
#include "cli/checkpoint.h"
#include "cli/interrupt.h"
#include "cli/progress.h"
#include "cli/scenario_flags.h"
#include "cli/simulate_verb.h"
#include "cli/timing.h"
#include "cli/verbs.h"
#include "cli/version.h"
#include "executor/processes.h"

namespace foretoken {
namespace {

// A process of a job has so many for each of its threads before all meet to hand in what they have.
constexpr std::int64_t kPartsOfRound = 16;
// What processes say instead of lines.
const std::string kInterruptedText = "!interrupted", kStop = "stop";

// The bytes of each file that a text of the scenario or a flag's value names.
std::uint64_t hash_files(const Json& json, const std::filesystem::path& folder, std::uint64_t hash) {
  if (json.is_structured()) {
    for (const Json& part : json) hash = hash_files(part, folder, hash);
    return hash;
  }
  if (!json.is_string() || json.get_ref<const std::string&>().empty()) return hash;
  const std::filesystem::path path = folder / json.get<std::string>();
  std::error_code none;
  return std::filesystem::is_regular_file(path, none) ? hash_bytes(read_file(path), hash) : hash;
}

// What the work is: results of another program, database, scenario or list of values are not its own.
std::string key_of(const Invocation& invocation, const Combinations& all, const World& world) {
  std::string text =
      program_version() + " " + git_commit() + " " + world.database.digest() + "\n" + all.describe();
  std::uint64_t files = 0;
  const std::set<std::string> elsewhere = {"save", "output", "threads", "checkpoint", "db"};
  for (const auto& [option, value] : invocation.values) {
    if (elsewhere.contains(option)) continue;
    text += option + "=" + value + "\n";
    files = hash_files(Json(value), "", files);
  }
  if (!invocation.arguments.empty()) {
    const Json scenario = read_json(invocation.arguments[0]);
    text += scenario.dump();
    files = hash_files(scenario, world.resources.scenario_folder, files);
  }
  return fmt::format("{:016x}{:016x}", hash_bytes(text), files);
}

class Sweep {
 public:
  // job: null where this process is alone.
  Sweep(const Invocation& invocation, const Combinations& all, const World& world, Processes* job)
      : all_(all), world_(world), job_(job), results_(static_cast<std::size_t>(all.size())) {
    if (const int threads = threads_of(invocation))
      limit_.emplace(tbb::global_control::max_allowed_parallelism, threads);
  }

  // On the first process: with what a checkpoint has done.
  void run(Checkpoint* checkpoint) {
    if (checkpoint)
      for (const auto& [i, text] : checkpoint->done())
        if (i >= 0 && i < all_.size()) keep(i, text);
    std::vector<std::int64_t> open;
    for (std::int64_t i = 0; i < all_.size(); ++i)
      if (results_[static_cast<std::size_t>(i)].empty()) open.push_back(i);
    if (!job_) return answer(open, checkpoint), rethrow();
    const auto round = kPartsOfRound * job_->size() *
                       static_cast<std::int64_t>(
                           tbb::global_control::active_value(tbb::global_control::max_allowed_parallelism));
    for (std::size_t at = 0; at < open.size(); at += static_cast<std::size_t>(round)) {
      const std::span<const std::int64_t> parts =
          std::span(open).subspan(at, std::min(open.size() - at, static_cast<std::size_t>(round)));
      std::string text;
      for (const std::int64_t i : parts) text += fmt::format("{} ", i);
      job_->broadcast(text);
      answer(share(parts), checkpoint);
      for (const std::string& theirs : job_->gather("")) try {
          take(theirs, checkpoint);
        } catch (...) {
          if (!failure_) failure_ = std::current_exception();
        }
      if (failure_) break;
    }
    job_->broadcast(kStop);
    rethrow();
  }

  // On the others: what the first one asks for.
  void follow() {
    for (;;) {
      const std::string text = job_->broadcast("");
      if (text == kStop) return;
      std::vector<std::int64_t> parts;
      for (const std::string& part : split(text, ' '))
        if (!part.empty()) parts.push_back(*parse_int(part));
      std::string lines;
      answer(share(parts), nullptr);
      for (const std::int64_t i : share(parts))
        lines += fmt::format("{} {}\n", i, results_[static_cast<std::size_t>(i)]);
      if (failure_) lines = message_of(failure_);
      failure_ = nullptr;
      job_->gather(lines);
    }
  }

  const std::vector<std::string>& results() const { return results_; }

 private:
  std::vector<std::int64_t> share(std::span<const std::int64_t> parts) const {
    std::vector<std::int64_t> mine;
    for (auto i = static_cast<std::size_t>(job_->rank()); i < parts.size();
         i += static_cast<std::size_t>(job_->size()))
      mine.push_back(parts[i]);
    return mine;
  }

  // Into results_, and as it comes into the checkpoint. What fails is kept in failure_.
  void answer(const std::vector<std::int64_t>& parts, Checkpoint* checkpoint) {
    ProgressBar bar("sweeping");
    try {
      tbb::parallel_for(
          std::size_t{0}, parts.size(), std::size_t{1},
          [&](std::size_t p) {
            const std::int64_t i = parts[p];
            const std::string text = answer_one(i);
            if (checkpoint) checkpoint->add(i, text);
            results_[static_cast<std::size_t>(i)] = text;
            bar.update(static_cast<double>(++done_) / static_cast<double>(all_.size()));
          },
          tbb::simple_partitioner());
    } catch (...) {
      failure_ = std::current_exception();
    }
  }

  // What can't be asked of one combination doesn't end the others.
  std::string answer_one(std::int64_t i) const {
    if (stop_flag().load()) throw Interrupted();
    const Invocation one = all_.at(i);
    try {
      const std::string file = one.arguments.empty() ? "" : one.arguments[0];
      return Json::parse(simulate_in(one, read_scenario_input(one, file, false), world_).report.json).dump();
    } catch (const Error& e) {
      return Json{{"error", error_of_flag(e, one).what()}}.dump();
    }
  }

  void keep(std::int64_t i, const std::string& text) {
    results_[static_cast<std::size_t>(i)] = text;
    ++done_;
  }
  void take(const std::string& lines, Checkpoint* checkpoint) {
    if (lines == kInterruptedText) throw Interrupted();
    if (lines.starts_with('!')) throw std::runtime_error(lines.substr(1));
    for (const std::string& line : split(lines, '\n')) {
      if (line.empty()) continue;
      const std::size_t space = line.find(' ');
      const std::int64_t i = *parse_int(line.substr(0, space));
      keep(i, line.substr(space + 1));
      if (checkpoint) checkpoint->add(i, results_[static_cast<std::size_t>(i)]);
    }
  }
  static std::string message_of(const std::exception_ptr& failure) {
    try {
      std::rethrow_exception(failure);
    } catch (const Interrupted&) {
      return kInterruptedText;
    } catch (const std::exception& e) {
      return std::string("!") + e.what();
    }
  }
  void rethrow() const {
    if (failure_) std::rethrow_exception(failure_);
  }

  const Combinations& all_;
  const World& world_;
  Processes* job_;
  std::optional<tbb::global_control> limit_;
  std::vector<std::string> results_;  // JSON in a line, by combination; empty: not done
  std::atomic<std::int64_t> done_{0};
  std::exception_ptr failure_;
};

int report(const Combinations& all, const std::vector<std::string>& results, Output& out) {
  Report r;
  r.title = "Combinations";
  r.tables.push_back(all.table(simulate_columns()));
  Json list = Json::array();
  std::set<std::string> warnings;
  std::string first_error;
  std::int64_t served = 0;
  for (std::int64_t i = 0; i < all.size(); ++i) {
    Json json = Json::parse(results[static_cast<std::size_t>(i)]);
    r.tables[0].add(all.row(i, json, simulate_columns()));
    if (json.contains("error")) {
      if (first_error.empty()) first_error = json["error"].get<std::string>();
    } else {
      const Json& c = json["context"];
      served += json.contains("stability") ? 1 : 0;
      for (const Json& w : c["warnings"])
        if (warnings.insert(w.get<std::string>()).second) print_warnings({w.get<std::string>()});
      if (r.head.empty())
        r.head = {context_line({c["version"].get<std::string>(),
                                c["git_commit"].get<std::string>(),
                                c["database_digest"].get<std::string>(),
                                c["seed"].get<std::int64_t>(),
                                {}})};
    }
    json["combination"] = all.values_at(i);
    if (out.format() == Format::kJson) list.push_back(std::move(json));
  }
  if (r.head.empty()) throw Error("", "no combination can be simulated; the first: " + first_error);
  r.json = dump_json(Json{{"format", 1}, {"results", list}});
  out.write(r);
  return served > 0 ? kDone : kNegative;
}

}  // namespace

// In a job the first process says what to do, keeps what is done, and answers.
int run_sweep(const Invocation& invocation) {
  const auto job = mpi_processes();
  const bool first = !job || job->rank() == 0;
  if (!first)
    for (std::FILE* stream : {stdout, stderr})
      if (std::freopen("/dev/null", "w", stream) == nullptr) return kFault;
  // The same error, if any, in every process.
  if (invocation.has("print-scenario"))
    throw Error("--print-scenario",
                "shows one scenario; ask `foretoken simulate` with one value for each key");
  const Combinations all(invocation, true);
  if (all.empty())
    throw Error("sweep",
                "has nothing to combine: list values in flags, such as --tensor-parallel-size 1,2,4 or "
                "--request-rate "
                "1-64*2, or in the scenario");
  ScenarioInput place;
  place.file = invocation.arguments.empty() ? "command line" : invocation.arguments[0];
  if (!invocation.arguments.empty()) place.folder = std::filesystem::path(place.file).parent_path();
  const World world(invocation, place);
  Sweep sweep(invocation, all, world, job.get());
  mute_warnings(true);
  if (!first) {
    sweep.follow();
    return kDone;
  }
  std::optional<Output> out;
  std::optional<Checkpoint> checkpoint;
  try {
    out.emplace(invocation);
    if (const auto path = invocation.value("checkpoint"))
      checkpoint.emplace(*path, key_of(invocation, all, world));
  } catch (...) {
    if (job) job->broadcast(kStop);
    throw;
  }
  sweep.run(checkpoint ? &*checkpoint : nullptr);
  mute_warnings(false);
  return report(all, sweep.results(), *out);
}

}  // namespace foretoken
