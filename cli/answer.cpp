#include "cli/answer.h"

#include <algorithm>

#include "base/error.h"
#include "base/json_full.h"
#include "cli/interrupt.h"
#include "cli/verbs.h"

namespace foretoken {
namespace {

int answer_combinations(const Invocation& invocation, const Combinations& combinations, Output& out,
                        Answer (*one)(const Invocation&), std::span<const AnswerColumn> columns) {
  for (const char* single : {"trace", "save-detailed"})
    if (invocation.has(single))
      throw Error(std::string("--") + single, "needs one run; the flags hold lists of values");
  Report all;
  all.title = "Combinations";
  all.tables.push_back(combinations.table(columns));
  Json results = Json::array();
  std::string text;
  int code = kNegative;  // unless one of them is not
  for (std::int64_t i = 0; i < combinations.size(); ++i) {
    if (stop_flag().load()) throw Interrupted();
    const Answer answer = one(combinations.at(i));
    code = std::min(code, answer.code);
    text += answer.text;
    if (!answer.text.empty()) continue;
    Json json = Json::parse(answer.report.json);
    all.tables[0].add(combinations.row(i, json, columns));
    json["combination"] = combinations.values_at(i);
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
  if (const Combinations combinations(invocation, false); !combinations.empty())
    return answer_combinations(invocation, combinations, out, one, columns);
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
