// Reads, patches and writes scenario files by their field tables.
#include "deployment/scenario.h"

#include "base/fields_json.h"

namespace foretoken {
namespace {

// JSON null means absent, for members of free shape too.
void drop_null(RawJson& raw) {
  if (raw.text == "null") raw.text.clear();
}
template <class T>
void drop_nulls(T& section) {
  for_each_field<T>([&](const auto& f) {
    if constexpr (std::is_same_v<std::remove_cvref_t<decltype(section.*(f.member))>, RawJson>)
      drop_null(section.*(f.member));
  });
}

void erase_nulls(Json& object) {
  Json kept = Json::object();
  for (auto& [key, value] : object.items())
    if (!value.is_null()) kept[key] = std::move(value);
  object = std::move(kept);
}

}  // namespace

Scenario read_scenario(const std::filesystem::path& file, const std::string& patch_json) {
  Json json = read_json(file);
  const std::string where = file.string() + ":";
  if (!json.is_object()) fail_type(json, where + "/", "an object");
  if (!patch_json.empty()) {
    const Json patch = parse_json(patch_json, "patch");
    if (!patch.is_object()) fail_type(patch, "patch", "an object");
    json.merge_patch(patch);
  }
  return scenario_from_json(json, where);
}

Scenario scenario_from_json(const Json& json, const std::string& where) {
  Scenario scenario;
  read_fields(json, scenario, where);
  drop_nulls(scenario);
  drop_nulls(scenario.engine);
  if (scenario.engine.speculative_config) drop_nulls(*scenario.engine.speculative_config);
  drop_nulls(scenario.cluster);
  drop_nulls(scenario.plan);
  return scenario;
}

Json scenario_to_json(const Scenario& scenario) {
  Json json = write_value(scenario);
  erase_nulls(json);
  for (auto& [key, section] : json.items()) {
    if (key == "model" || !section.is_object()) continue;
    erase_nulls(section);
    if (section.contains("kv_tiers"))
      for (Json& tier : section["kv_tiers"]) erase_nulls(tier);
    if (section.contains("speculative_config")) erase_nulls(section["speculative_config"]);
    if (key != "workload" && key != "cluster") continue;
    for (auto& [name, value] : section.items()) {
      if (value.is_object()) erase_nulls(value);
      if (name != "pools" && name != "agentic") continue;
      for (Json& part : value) erase_nulls(part);
    }
  }
  return json;
}

Json scenario_schema() {
  Json schema = Json::object();
  schema["$schema"] = "https://json-schema.org/draft/2020-12/schema";
  schema["title"] = "Foretoken scenario";
  schema.update(schema_of<Scenario>());
  return schema;
}

}  // namespace foretoken
