// Operators beside their measured times: rows of a file priced in blocks, on all cores.
#include <fmt/format.h>
#include <tbb/global_control.h>
#include <tbb/parallel_for_each.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <execution>
#include <limits>
#include <memory>

#include "base/error.h"
#include "hwdb/filter.h"
#include "simulator/cost_model.h"
#include "simulator/validation.h"

namespace foretoken {
namespace {

constexpr std::size_t kBlock = 32'768;  // rows held as text at a time

// Device, kernels of one engine, and the model that prices with them.
struct Pricer {
  Pricer(const Database& database, const std::string& name, const std::string& engine,
         const std::string& moe_kernel)
      : device(database.device(name, "device")),
        topology(database.topology(device, 8)),
        kernels(database.kernels(device, engine, moe_kernel)),
        cost(device, topology, kernels) {}
  Device device;
  Topology topology;
  KernelTable kernels;
  CostModel cost;
};

// Price of what a row timed together; of several operators the sum, as sure as its parts on average.
Price sum_of(const std::vector<Op>& ops, const CostModel& cost) {
  Price sum = cost.price(ops.front());
  for (std::size_t i = 1; i < ops.size(); ++i) {
    const Price p = cost.price(ops[i]);
    const Seconds whole = sum.time + p.time;
    sum.relative_error =
        (sum.time.value * sum.relative_error + p.time.value * p.relative_error) / whole.value;
    sum.time = whole;
    sum.limit += p.limit;
    sum.basis = std::max(sum.basis, p.basis);
  }
  return sum;
}

class OperatorValidation {
 public:
  OperatorValidation(const Database& database, const ValidateOptions& options)
      : database_(database), options_(options) {
    result_.title = "Operators";
    result_.group_title = "device, engine and type";
    result_.part_title = "device, operator and basis";
    result_.metrics = {"seconds"};
  }

  Validation run(const std::filesystem::path& file, const std::string& kind) {
    ImportReport report;
    MeasurementReader reader;
    reader.twins = true;
    reader.device_name = [&](const std::string& name) { return canonical(name); };
    reader.row = [&](const Measurement& m) { take(report.read, m); };
    reader.dropped = [&](std::string_view reason, const Measurement& m) { refuse(report.read, reason, m); };
    read_measurements(file, kind, reader, report);
    if (report.read == 0)
      throw Error(file.string() + ":1", "the file has no rows; there is nothing to validate");
    price_block();
    if (impossible_ > 0)
      result_.notes.push_back(fmt::format(
          "{} rows are faster than 1.05 times the datasheet's limit (operands in a cache, or errors "
          "of measurement); no prediction is.",
          impossible_));
    summarize(result_);
    return std::move(result_);
  }

 private:
  struct Pending {
    std::size_t line;
    Measurement measurement;
    const std::unique_ptr<Pricer>* pricer;
  };
  struct Outcome {
    bool modelled = false, impossible = false;
    Price price;
  };

  const std::string& canonical(const std::string& name) {
    const auto [at, added] = canonical_.emplace(name, std::string());
    if (added) {
      try {
        at->second = database_.device(name, "device").name;
      } catch (const Error&) {  // unknown: its rows are refused
      }
    }
    return at->second;
  }

  // Where the pricer of a series is, once `load_pricers` has made it.
  const std::unique_ptr<Pricer>* pricer(const MeasurementSeries& s) {
    const bool chosen = s.kind == MeasuredKind::kMoe || s.kind == MeasuredKind::kExpertExchange;
    return &pricers_[{s.device, s.engine, chosen ? s.kernel : ""}];
  }

  void load_pricers() {
    tbb::parallel_for_each(pricers_, [&](auto& entry) {
      auto& [of, pricer] = entry;
      if (!pricer) pricer = std::make_unique<Pricer>(database_, of[0], of[1], of[2]);
    });
  }

  ValidationLine& add_line(std::int64_t row, const Measurement& m) {
    const MeasurementSeries& s = m.series;
    const std::string& known = canonical(s.device);
    ValidationLine line;
    line.row = row;
    line.group = groups_.of(fmt::format("{}, {}, {}", known.empty() ? s.device : known, s.engine, s.dtype));
    line.measured = m.point.seconds > 0 ? m.point.seconds : std::numeric_limits<double>::quiet_NaN();
    result_.lines.push_back(line);
    return result_.lines.back();
  }

  void refuse(std::int64_t row, std::string_view reason, const Measurement& m) {
    add_line(row, m).refusal = refusals_.of(std::string(reason));
  }

  void take(std::int64_t row, const Measurement& m) {
    add_line(row, m);
    pending_.push_back({result_.lines.size() - 1, m, pricer(m.series)});
    if (pending_.size() >= kBlock) price_block();
  }

  void price_block() {
    if (options_.stop && options_.stop->load()) throw Interrupted();
    load_pricers();
    std::vector<Outcome> outcomes(pending_.size());
    std::vector<std::size_t> order(pending_.size());
    for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
    std::for_each(std::execution::par, order.begin(), order.end(), [&](std::size_t i) {
      const Pending& p = pending_[i];
      const std::vector<Op> ops = ops_of(p.measurement.series, p.measurement.point);
      if (ops.empty()) return;
      const Pricer& pricer = **p.pricer;
      outcomes[i] = {true, !implausible(p.measurement, pricer.device, pricer.topology).empty(),
                     sum_of(ops, pricer.cost)};
    });
    for (std::size_t i = 0; i < pending_.size(); ++i) {
      const MeasurementSeries& s = pending_[i].measurement.series;
      ValidationLine& line = result_.lines[pending_[i].line];
      const Outcome& o = outcomes[i];
      if (!o.modelled) {
        line.refusal =
            refusals_.of(fmt::format("{} with type {}: no such operator", name_of(s.kind), s.dtype));
        continue;
      }
      impossible_ += o.impossible;
      const double t = o.price.time.value, r = o.price.relative_error;
      line.predicted = t;
      line.low = t * std::max(0.0, 1 - r);
      line.high = t * (1 + r);
      line.basis = o.price.basis;
      line.part = parts_.of(fmt::format("{}, {}, {}", s.device, name_of(s.kind), name_of(o.price.basis)));
    }
    pending_.clear();
  }

  const Database& database_;
  const ValidateOptions& options_;
  Validation result_;
  NameIndex groups_{result_.group_names}, parts_{result_.part_names}, refusals_{result_.refusal_names};
  std::map<std::array<std::string, 3>, std::unique_ptr<Pricer>> pricers_;
  std::map<std::string, std::string> canonical_;
  std::vector<Pending> pending_;
  std::int64_t impossible_ = 0;
};

}  // namespace

Validation validate_operators(const std::filesystem::path& file, const std::string& kind,
                              const Database& database, const ValidateOptions& options) {
  std::unique_ptr<tbb::global_control> limit;
  if (options.threads > 0)
    limit = std::make_unique<tbb::global_control>(tbb::global_control::max_allowed_parallelism,
                                                  static_cast<std::size_t>(options.threads));
  return OperatorValidation(database, options).run(file, kind);
}

}  // namespace foretoken
