#include "cli/answer.h"

#include <algorithm>

#include "base/error.h"
#include "base/json_full.h"
#include "cli/interrupt.h"
#include "cli/scenario_flags.h"
#include "cli/verbs.h"

namespace foretoken {
namespace {

struct Axis {
  std::string flag;
  std::vector<std::string> values;
};

// Flags with several values. Keys that are lists themselves take theirs whole.
std::vector<Axis> axes_of(const Invocation& invocation) {
  std::vector<Axis> axes;
  for (const ScenarioKey& key : scenario_keys()) {
    const auto text = key.type == "object" || key.list ? std::nullopt : invocation.value(key.flag);
    if (!text) continue;
    Axis axis{key.flag, {}};
    for (const Json& v : flag_values(key, *text))
      axis.values.push_back(v.is_string() ? v.get<std::string>() : v.dump());
    if (axis.values.size() > 1) axes.push_back(std::move(axis));
  }
  return axes;
}

Cell cell_of(const Json& json, const char* pointer) {
  const Json::json_pointer at(pointer);
  if (!json.contains(at)) return {};
  const Json& v = json.at(at);
  if (v.is_number_integer()) return v.get<std::int64_t>();
  if (v.is_number()) return v.get<double>();
  if (v.is_boolean()) return v.get<bool>();
  return v.is_string() && !v.get<std::string>().empty() ? Cell(v.get<std::string>()) : Cell();
}

Report table_of(const std::vector<Axis>& axes, std::span<const AnswerColumn> columns) {
  Report all;
  all.title = "Combinations";
  Table t;
  t.title = all.title;
  for (const Axis& a : axes) t.columns.push_back({a.flag, "--" + a.flag});
  for (const AnswerColumn& c : columns) t.columns.push_back({c.key, c.title, c.digits});
  all.tables.push_back(std::move(t));
  return all;
}

int answer_combinations(const Invocation& invocation, const std::vector<Axis>& axes, Output& out,
                        Answer (*one)(const Invocation&), std::span<const AnswerColumn> columns) {
  constexpr std::size_t kMost = 10'000;
  std::size_t total = 1;
  for (const Axis& a : axes) {
    total *= a.values.size();
    if (total > kMost) throw Error("--" + a.flag, "more than 10000 combinations; list fewer values");
  }
  for (const char* single : {"trace", "save-detailed"})
    if (invocation.has(single))
      throw Error(std::string("--") + single, "needs one run; the flags hold lists of values");

  Report all = table_of(axes, columns);
  Json results = Json::array();
  std::string text;
  int code = kNegative;  // unless one of them is not
  for (std::size_t i = 0; i < total; ++i) {
    if (stop_flag().load()) throw Interrupted();
    Invocation single = invocation;
    std::vector<Cell> row;
    std::size_t stride = total, rest = i;
    Json varied = Json::object();
    for (const Axis& a : axes) {  // the last one varies fastest
      stride /= a.values.size();
      const std::string& value = a.values[rest / stride];
      rest %= stride;
      single.values.emplace_back(a.flag, value);  // the last one given counts
      row.emplace_back(value);
      varied["--" + a.flag] = value;
    }
    const Answer answer = one(single);
    code = std::min(code, answer.code);
    text += answer.text;
    if (!answer.text.empty()) continue;
    Json json = Json::parse(answer.report.json);
    for (const AnswerColumn& c : columns) row.push_back(cell_of(json, c.pointer));
    all.tables[0].add(std::move(row));
    json["combination"] = varied;
    results.push_back(std::move(json));
    if (all.head.empty()) all.head = answer.report.head;
  }
  if (!text.empty()) {
    out.write_text(text);
    return code;
  }
  all.json = dump_json(Json{{"format", 1}, {"results", results}});
  out.write(all);
  return code;
}

}  // namespace

int answer_all(const Invocation& invocation, Answer (*one)(const Invocation&),
               std::span<const AnswerColumn> columns) {
  Output out(invocation);
  if (const auto axes = axes_of(invocation); !axes.empty())
    return answer_combinations(invocation, axes, out, one, columns);
  const Answer answer = one(invocation);
  if (answer.text.empty())
    out.write(answer.report);
  else
    out.write_text(answer.text);
  return answer.code;
}

Answer infeasible_answer(const std::string& title, const Infeasible& no, const Scenario& scenario,
                         const World& world) {
  const ReportContext context = report_context(scenario, world);
  Json json = context_json(context, scenario);
  const std::string verdict = no.category + ": " + no.reason;
  if (no.memory) json["memory"] = memory_json(*no.memory);
  json["memory"]["fits"] = false;
  json["memory"]["reason"] = verdict;
  Table t;
  t.title = "This deployment can't be";
  t.columns = {{"category", "category"}, {"reason", "reason"}};
  t.add({no.category, no.reason});
  return {
      {title, {context_line(context), "Verdict: " + verdict}, {t}, 0, dump_json(json), {}}, "", kNegative};
}

std::optional<Answer> answer_without_serving(const Invocation& invocation, const std::string& title,
                                             const ScenarioInput& input, const World& world,
                                             const Prepared& p) {
  if (const auto* no = std::get_if<Infeasible>(&p.verdict))
    return infeasible_answer(title, *no, input.scenario, world);
  const Deployment& d = std::get<Deployment>(p.verdict);
  if (invocation.has("print-scenario")) return Answer{{}, dump_json(scenario_to_json(d.scenario)), kDone};
  print_warnings(d.warnings);
  for (const Deployment* kind : d.kinds())
    if (!kind->memory.fits)
      return infeasible_answer(title, {"does not fit in memory", kind->memory.reason, kind->memory},
                               d.scenario, world);
  return std::nullopt;
}

}  // namespace foretoken
