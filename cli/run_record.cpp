#include "cli/run_record.h"

#include <algorithm>
#include <cmath>
#include <ctime>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "base/json_full.h"
#include "base/quantiles.h"
#include "cli/version.h"

namespace foretoken {
namespace {

namespace fs = std::filesystem;

std::string now() {
  const std::time_t time = std::time(nullptr);
  std::tm parts{};
  gmtime_r(&time, &parts);
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &parts);
  return text;
}

bool is_path(const Json& model) {
  return model.is_string() && model.get_ref<const std::string&>().ends_with(".json");
}

// Readable from the record's folder: models that are files are written out, other files named from there.
Json scenario_of(const RunRecord& record, const fs::path& folder) {
  const Deployment& d = *record.deployment;
  Json scenario = scenario_to_json(d.scenario);
  if (is_path(scenario["model"])) scenario["model"] = Json{{"config", Json::parse(record.model.text)}};
  if (d.speculation) {
    Json& speculative = scenario["engine"]["speculative_config"];
    if (is_path(speculative["model"]))
      speculative["model"] = Json{{"config", Json::parse(d.speculation->draft_text.text)}};
    speculative["acceptance_rate"] = d.speculation->acceptance;
    if (d.speculation->method == Speculation::Method::kNgram)
      speculative["proposal_rate"] = d.speculation->proposal;
  }
  for (const char* file : {"/workload/trace", "/workload/input_len/file", "/workload/output_len/file"}) {
    const Json::json_pointer at(file);
    const std::string name =
        scenario.contains(at) && scenario[at].is_string() ? scenario[at].get<std::string>() : "";
    if (name.empty()) continue;
    const fs::path path = record.scenario_folder / name;
    scenario[at] = fs::relative(fs::absolute(path), fs::absolute(folder)).generic_string();
  }
  return scenario;
}

Json measured_once(const RunRecord& record) {
  const Json& result = *record.result;
  Json once{{"date", now()},
            {"foretoken", program_version() + (git_commit().empty() ? "" : " (" + git_commit() + ")")},
            {"command", record.command}};
  if (result.contains("device_condition")) once["device_condition"] = result.at("device_condition");
  for (const auto& [key, value] : result.at("measured").items())
    if (value.is_number() && std::isfinite(value.get<double>())) once[key] = value;
  return once;
}

void write(const fs::path& file, const Json& json) {
  OutputFile out(file);
  out.write(json.dump(1) + "\n");
  out.commit();
}

}  // namespace

void record_run(const fs::path& folder, const RunRecord& record) {
  std::error_code failed;
  fs::create_directories(folder, failed);
  if (failed) throw Error(folder.string(), "cannot be created: " + failed.message());
  const Json scenario = scenario_of(record, folder);
  const fs::path scenario_file = folder / "scenario.json", measured_file = folder / "measured.json";
  Json measured{{"executor", record.result->at("executor")}, {"device", record.deployment->device.name}};
  Json repeats = Json::array();
  if (fs::exists(scenario_file) && fs::exists(measured_file)) {
    if (read_json(scenario_file) != scenario)
      throw Error(folder.string(), "holds a run of another scenario; name another folder or remove this one");
    repeats = read_json(measured_file).value("repeats", Json::array());
  }
  repeats.push_back(measured_once(record));
  Json spread = Json::object();
  for (const auto& [key, value] : repeats.back().items()) {
    if (!value.is_number()) continue;
    std::vector<double> values;
    for (const Json& r : repeats)
      if (r.contains(key)) values.push_back(r[key].get<double>());
    std::sort(values.begin(), values.end());
    const double median = linear_quantile(values, 0.5);
    measured[key] = values.size() == 1 ? value : Json(median);
    if (values.size() > 1 && median > 0) spread[key] = (values.back() - values.front()) / 2 / median;
  }
  if (!spread.empty()) measured["spread"] = spread;
  measured["repeats"] = repeats;
  // The scenario last: a record is whole once it is there.
  write(measured_file, measured);
  write(scenario_file, scenario);
}

}  // namespace foretoken
