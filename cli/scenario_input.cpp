#include "cli/scenario_input.h"

#include <fmt/format.h>

#include <atomic>

#include "base/error.h"
#include "base/json_full.h"
#include "cli/progress.h"
#include "cli/scenario_flags.h"
#include "cli/version.h"
#include "simulator/step_model.h"

namespace foretoken {
namespace {

constexpr char kFlags[] = "command line";

void require(const ScenarioInput& input, bool present, const std::string& pointer,
             const std::string& message) {
  if (!present) throw Error(input.file == kFlags ? "--" + pointer : input.file + ":/" + pointer, message);
}

}  // namespace

ScenarioInput read_scenario_input(const Invocation& invocation, const std::string& file, bool lists) {
  Json json = Json::object();
  if (file.empty()) {
    if (invocation.values.empty() || (!invocation.has("model") && !invocation.has("from-vllm")))
      throw Error(invocation.verb,
                  "needs a scenario file, or at least --model and --device; see `foretoken " +
                      invocation.verb + " --help`");
  } else {
    json = read_json(file);
    if (!json.is_object()) throw Error(file, "a scenario is a JSON object; see `foretoken schema`");
    if (!invocation.patch.empty()) json.merge_patch(Json::parse(invocation.patch));
  }
  if (const auto command = invocation.value("from-vllm"))
    json.merge_patch(Json::parse(patch_from_vllm_command(*command)));
  apply_flags(json, invocation, lists, !file.empty());
  return scenario_input(json, std::filesystem::path(file).parent_path(), file.empty() ? kFlags : file, lists);
}

ScenarioInput scenario_input(const Json& json, const std::filesystem::path& folder, const std::string& file,
                             bool lists) {
  ScenarioInput input;
  input.folder = folder;
  input.file = file;
  input.scenario = scenario_from_json(json, input.file + ":");
  const Scenario& s = input.scenario;
  require(input, !s.model.text.empty(), "model", "is missing: a preset, or the path of a config.json");
  const bool searched = s.plan.search.text.find("\"device\"") != std::string::npos;
  require(input, !s.hardware.device.empty() || (lists && searched),
          input.file == kFlags ? "device" : "hardware/device",
          "is missing; `foretoken hw list` shows the devices");
  if (input.scenario.hardware.device.empty())
    input.scenario.hardware.device = Json::parse(s.plan.search.text)["device"].at(0).get<std::string>();
  if (input.scenario.name.empty()) {
    const Json model = Json::parse(s.model.text);
    input.scenario.name = file != kFlags      ? std::filesystem::path(file).stem().string()
                          : model.is_string() ? model.get<std::string>()
                                              : "model";
  }
  return input;
}

World::World(const Invocation& invocation, const ScenarioInput& input)
    : paths(find_data_paths(invocation)), database(Database::open(paths.builtin, paths.user)) {
  resources.database = &database;
  resources.preset_folder = paths.presets;
  resources.scenario_folder = input.folder;
  resources.scenario_file = input.file;
}

std::shared_ptr<const KernelTable> World::kernels(const Device& device, const std::string& engine) const {
  const std::lock_guard lock(mutex_);
  auto& table = kernels_[{device.name, engine}];
  if (!table) table = std::make_shared<const KernelTable>(database.kernels(device, engine));
  return table;
}

WorkloadSummary World::workload(const ScenarioInput& input) const {
  const std::string asked =
      input.folder.string() + "\n" + scenario_to_json(input.scenario)["workload"].dump();
  const std::lock_guard lock(mutex_);
  if (asked != last_workload_) {
    const auto workload = make_workload(input.scenario.workload, input.folder, input.file + ":/workload");
    summary_ = {workload->means(), workload->describe(), workload->longest()};
    last_workload_ = asked;
  }
  return summary_;
}

std::vector<CostModel> make_cost_models(const Deployment& d, const Prepared& p) {
  std::vector<CostModel> costs;
  for (const Deployment* kind : d.kinds()) costs.push_back(make_cost_model(*kind, *p.kernels[costs.size()]));
  return costs;
}

Prepared prepare(const ScenarioInput& input, const World& world) {
  Prepared p;
  const ModelConfig model = load_scenario_model(input.scenario, world.resources);
  const WorkloadSummary workload = world.workload(input);
  p.load = workload.means;
  p.workload = workload.description;
  p.verdict =
      resolve(input.scenario, world.resources, model, p.load.input_len + p.load.output_len, workload.longest);
  if (auto* d = std::get_if<Deployment>(&p.verdict)) {
    for (const Deployment* kind : d->kinds())
      p.kernels.push_back(world.kernels(kind->device, kind->behavior.measured_engine()));
    take_step_overhead(*d, *p.kernels.front());
  }
  return p;
}

ReportContext report_context(const Scenario& scenario, const World& world,
                             std::vector<std::string> warnings) {
  return {program_version(), git_commit(), world.database.digest(), scenario.workload.seed,
          std::move(warnings)};
}

std::string context_line(const ReportContext& c) {
  return fmt::format("foretoken {}{}, database {}, seed {}", c.program_version,
                     c.git_commit.empty() ? "" : " (" + c.git_commit + ")", c.database_digest, c.seed);
}

void print_message(const std::string& kind, const std::string& text) {
  if (colours_wanted())
    fmt::print(stderr, "\033[1;{}m{}:\033[0m {}\n", kind == "error" ? 31 : 33, kind, text);
  else
    fmt::print(stderr, "{}: {}\n", kind, text);
}

namespace {
std::atomic<bool> muted{false};
}

void mute_warnings(bool mute) { muted = mute; }

void print_warnings(const std::vector<std::string>& warnings) {
  if (muted.load()) return;
  for (const std::string& w : warnings) print_message("warning", w);
}

}  // namespace foretoken
