#include "cli/combinations.h"

#include <optional>

#include "base/error.h"
#include "base/json_full.h"
#include "cli/scenario_flags.h"

namespace foretoken {
namespace {

constexpr std::int64_t kMost = 10'000;

std::string text_of(const Json& v) { return v.is_string() ? v.get<std::string>() : v.dump(); }

// Of a list in the file; empty where the key holds none.
std::vector<Json> listed_in(const Json& scenario, const ScenarioKey& key, const std::string& file) {
  const Json::json_pointer at(key.pointer);
  if ((key.type == "json" && key.pointer != "/model") || !scenario.contains(at) ||
      !scenario.at(at).is_array())
    return {};
  const Json& list = scenario.at(at);
  if (list.empty()) throw Error(file + ":" + key.pointer, "is an empty list; give at least one value");
  return {list.begin(), list.end()};
}

bool is_reason(const AnswerColumn& c) { return std::string_view(c.key) == "reason"; }

Cell cell_of(const Json& json, const char* pointer) {
  const Json::json_pointer at(pointer);
  if (!json.contains(at)) return {};
  const Json& v = json.at(at);
  if (v.is_number_integer()) return v.get<std::int64_t>();
  if (v.is_number()) return v.get<double>();
  if (v.is_boolean()) return v.get<bool>();
  return v.is_string() && !v.get<std::string>().empty() ? Cell(v.get<std::string>()) : Cell();
}

}  // namespace

Combinations::Combinations(const Invocation& invocation, bool in_file) : invocation_(invocation) {
  const std::string file = invocation.arguments.empty() ? "" : invocation.arguments[0];
  const Json scenario = in_file && !file.empty() ? read_json(file) : Json::object();
  for (const ScenarioKey& key : scenario_keys()) {
    if (key.type == "object" || key.list) continue;
    Axis axis{key.flag, key.pointer};
    if (const auto text = invocation.value(key.flag)) {
      axis.values = flag_values(key, *text);
      if (axis.values.size() < 2) continue;
    } else {
      axis.in_file = true;
      axis.values = listed_in(scenario, key, file);
      if (axis.values.empty()) continue;
    }
    size_ *= std::ssize(axis.values);
    if (size_ > kMost)
      throw Error(axis.in_file ? file + ":" + key.pointer : "--" + key.flag,
                  "more than 10000 combinations; list fewer values");
    axes_.push_back(std::move(axis));
  }
}

template <class F>
void Combinations::for_each_value(std::int64_t i, F f) const {
  std::int64_t stride = size_;
  for (const Axis& a : axes_) {
    stride /= std::ssize(a.values);
    f(a, a.values[static_cast<std::size_t>(i / stride)]);
    i %= stride;
  }
}

Invocation Combinations::at(std::int64_t i) const {
  Invocation one = invocation_;
  Json patch = Json::object();
  for_each_value(i, [&](const Axis& a, const Json& value) {
    if (a.in_file)
      patch[Json::json_pointer(a.pointer)] = value;
    else
      one.values.emplace_back(a.flag, text_of(value));  // the last one given counts
  });
  if (!patch.empty()) one.patch = patch.dump();
  return one;
}

Json Combinations::values_at(std::int64_t i) const {
  Json values = Json::object();
  for_each_value(i, [&](const Axis& a, const Json& value) { values["--" + a.flag] = text_of(value); });
  return values;
}

std::string Combinations::describe() const {
  std::string text;
  for (const Axis& a : axes_) text += a.flag + " " + Json(a.values).dump() + "\n";
  return text;
}

Table Combinations::table(std::span<const AnswerColumn> columns) const {
  Table t;
  t.title = "Combinations";
  for (const Axis& a : axes_) t.columns.push_back({a.flag, "--" + a.flag});
  for (const AnswerColumn& c : columns) t.columns.push_back({c.key, c.title, c.digits, c.wrap, c.narrowest});
  return t;
}

std::vector<Cell> Combinations::row(std::int64_t i, const Json& answer,
                                    std::span<const AnswerColumn> columns) const {
  std::vector<Cell> row;
  for_each_value(i, [&](const Axis&, const Json& value) { row.emplace_back(text_of(value)); });
  for (const AnswerColumn& c : columns)
    row.push_back(is_reason(c) && answer.contains("error") ? cell_of(answer, "/error")
                                                           : cell_of(answer, c.pointer));
  return row;
}

}  // namespace foretoken
