#include "simulator/results/part.h"

#include <fmt/format.h>

#include <cmath>

#include "base/error.h"
#include "base/json_full.h"

namespace foretoken {
namespace {

const Json* member(const Json& json, const std::string& key) {
  const auto found = json.find(key);
  return found == json.end() || found->is_null() ? nullptr : &*found;
}

[[noreturn]] void refuse(const Part& part, const std::string& key, const Json& value, const char* expected) {
  throw Error(part.where + "/" + key,
              fmt::format("holds {} where {} is expected", value.dump().substr(0, 40), expected));
}

}  // namespace

bool Part::has(const std::string& key) const { return member(json, key) != nullptr; }

std::optional<Part> Part::object(const std::string& key) const {
  const Json* const found = member(json, key);
  if (found == nullptr) return std::nullopt;
  if (!found->is_object()) refuse(*this, key, *found, "an object of statistics");
  return Part{*found, where + "/" + key};
}

std::optional<double> Part::number(const std::string& key) const {
  const Json* const found = member(json, key);
  if (found == nullptr) return std::nullopt;
  if (found->is_string() && (*found == "NaN" || *found == "Infinity" || *found == "-Infinity"))
    throw Error(where + "/" + key,
                fmt::format("is {}: nothing was measured there; measure again, or take the key out",
                            found->get<std::string>()));
  if (!found->is_number()) refuse(*this, key, *found, "a number");
  const double v = found->get<double>();
  if (v < 0)
    throw Error(where + "/" + key,
                fmt::format("is {}, below 0; measure again, or take the key out", found->dump()));
  return v;
}

std::optional<std::int64_t> Part::count(const std::string& key) const {
  const auto v = number(key);
  if (!v) return std::nullopt;
  if (*v != std::floor(*v) || *v > 1e12) refuse(*this, key, json[key], "a whole number");
  return static_cast<std::int64_t>(*v);
}

std::string Part::text(const std::string& key, const std::string& absent) const {
  const Json* const found = member(json, key);
  if (found == nullptr) return absent;
  if (!found->is_string()) refuse(*this, key, *found, "a text");
  return found->get<std::string>();
}

bool Part::flag(const std::string& key) const {
  const Json* const found = member(json, key);
  return found != nullptr && found->is_boolean() && found->get<bool>();
}

std::string Part::first_text(const std::string& key) const {
  const Json* found = member(json, key);
  if (found != nullptr && found->is_array() && !found->empty()) found = &found->front();
  return found != nullptr && found->is_string() ? found->get<std::string>() : std::string();
}

void put(MeasuredRun& run, const Part& from, const std::string& theirs, const std::string& ours,
         double scale) {
  if (const auto v = from.number(theirs)) run.metrics[ours] = *v * scale;
}

void put_failed(MeasuredRun& run, double failed) {
  run.failed = failed;
  if (failed > 0) run.notes.push_back(fmt::format("{}: {} requests failed", run.name, failed));
}

void take_totals(MeasuredRun& run) {
  const auto at = [&](const char* key) {
    const auto found = run.metrics.find(key);
    return found == run.metrics.end() ? 0.0 : found->second;
  };
  const double completed = at("completed");
  if (completed <= 0) return;
  if (!run.load.num_prompts)
    run.load.num_prompts = static_cast<std::int64_t>(std::llround(completed + run.failed));
  const auto mean = [&](const char* total, std::optional<MeasuredLength>& length) {
    if (at(total) <= 0) return;
    if (!length) length.emplace();
    length->mean = at(total) / completed;
  };
  mean("total_input_tokens", run.load.input_len);
  mean("total_output_tokens", run.load.output_len);
}

double to_ms_factor(const std::string& unit, const std::string& where) {
  if (unit == "ms" || unit.empty()) return 1;
  if (unit == "s" || unit == "sec" || unit == "seconds") return 1e3;
  if (unit == "us") return 1e-3;
  if (unit == "ns") return 1e-6;
  throw Error(where, "the unit \"" + unit + "\" is not one of s, ms, us, ns");
}

}  // namespace foretoken
