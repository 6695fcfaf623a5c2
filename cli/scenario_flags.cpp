#include "cli/scenario_flags.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <map>

#include "base/fields_json.h"
#include "base/text.h"
#include "deployment/scenario.h"
#include "simulator/search_space.h"

namespace foretoken {
namespace {

std::string limits_text(const Limits& l) {
  const bool low = std::isfinite(l.min), high = std::isfinite(l.max);
  const std::string from = (l.exclusive_min ? "above " : "at least ") + describe_number(l.min);
  if (low && high) return from + ", at most " + describe_number(l.max);
  if (low) return from;
  return high ? "at most " + describe_number(l.max) : "";
}

template <class M>
std::string type_name() {
  if constexpr (IsOptional<M>::value)
    return type_name<typename M::value_type>();
  else if constexpr (IsVector<M>::value)
    return HasFields<typename M::value_type> ? "json" : type_name<typename M::value_type>();
  else if constexpr (std::is_same_v<M, LengthDistribution>)
    return "length";
  else if constexpr (HasFields<M>)
    return "object";
  else if constexpr (std::is_same_v<M, RawJson>)
    return "json";
  else if constexpr (std::is_same_v<M, bool>)
    return "boolean";
  else if constexpr (std::is_same_v<M, std::string>)
    return "text";
  else
    return std::is_integral_v<M> ? "integer" : "number";
}

template <class M>
struct Inner {
  using type = M;
};
template <class M>
struct Inner<std::optional<M>> {
  using type = typename Inner<M>::type;
};
template <class M>
struct Inner<std::vector<M>> {
  using type = M;
};

template <class T>
void collect(const T& defaults, const std::string& pointer, std::vector<ScenarioKey>& keys) {
  for_each_field<T>([&](const auto& f) {
    using M = std::remove_cvref_t<decltype(defaults.*(f.member))>;
    using I = typename Inner<M>::type;
    ScenarioKey key;
    key.pointer = pointer + "/" + std::string(f.name);
    key.section = pointer.empty() ? "scenario" : split(pointer, '/')[1];
    key.type = type_name<M>();
    key.list = !std::is_same_v<M, I> && IsVector<M>::value;
    if constexpr (IsOptional<M>::value) key.list = IsVector<typename M::value_type>::value;
    key.help = f.help;
    key.limits = limits_text(f.limits);
    for (const auto name : f.limits.one_of) key.choices.emplace_back(name);
    if constexpr (!HasFields<M>) key.preset = write_value(defaults.*(f.member)).dump();
    keys.push_back(key);
    if constexpr (HasFields<I> && !(IsVector<M>::value)) {
      if constexpr (std::is_same_v<M, I>)
        collect(defaults.*(f.member), key.pointer, keys);
      else
        collect(I{}, key.pointer, keys);
    }
  });
}

std::string dashes(std::string s) {
  std::replace(s.begin(), s.end(), '_', '-');
  return s;
}

// Names that options of the program already have.
bool taken(const std::string& name) { return name == "trace" || name == "method"; }
// A technique's own keys leave the short names to keys that every scenario has.
bool yields(const ScenarioKey& key) { return key.pointer.starts_with("/engine/speculative_config/"); }

Json one_value(const ScenarioKey& key, const std::string& text) {
  const std::string where = "--" + key.flag;
  if (text == "null") return nullptr;
  if (key.type == "integer" || key.type == "number") {
    const auto v = parse_double(text);
    if (!v)
      throw Error(
          where,
          fmt::format("\"{}\" is not a number; lists are written 1,2,4 and ranges 1-8+1 or 1-64*2", text));
    if (const auto n = parse_int(text)) return *n;
    return *v;
  }
  if (key.type == "boolean") {
    if (text != "true" && text != "false")
      throw Error(where, fmt::format("\"{}\" is neither true nor false", text));
    return text == "true";
  }
  const bool looks_like_json = !text.empty() && (text[0] == '{' || text[0] == '[');
  if (key.type == "json") return looks_like_json ? parse_json(text, where) : Json(text);
  if (key.type == "length") {
    if (looks_like_json) return parse_json(text, where);
    if (const auto n = parse_double(text)) return Json{{"distribution", "fixed"}, {"value", *n}};
    const auto colon = text.find(':');
    Json length{{"distribution", text.substr(0, colon)}};
    if (colon == std::string::npos)
      throw Error(where,
                  fmt::format("\"{}\" is no length; write 1000, or lognormal:mean=1200,p99=8000", text));
    for (const std::string& part : split(text.substr(colon + 1), ',')) {
      const auto equals = part.find('=');
      if (equals == std::string::npos)
        throw Error(where, fmt::format("\"{}\" is not key=value; write lognormal:mean=1200,p99=8000", part));
      const std::string value = part.substr(equals + 1);
      const auto number = parse_double(value);
      length[part.substr(0, equals)] = number ? Json(*number) : Json(value);
    }
    return length;
  }
  return text;
}

// "1-64*2" or "1-9+2"; false when the text is no range.
bool expand_range(const ScenarioKey& key, const std::string& text, std::vector<Json>& out) {
  const auto dash = text.find('-', 1);
  if (dash == std::string::npos) return false;
  const auto sign = text.find_first_of("*+", dash + 1);
  const auto first = parse_double(text.substr(0, dash));
  const auto last = parse_double(text.substr(dash + 1, sign == std::string::npos ? sign : sign - dash - 1));
  const auto step = sign == std::string::npos ? std::optional(1.0) : parse_double(text.substr(sign + 1));
  if (!first || !last || !step) return false;
  const bool multiply = sign != std::string::npos && text[sign] == '*';
  const std::string where = "--" + key.flag;
  if (multiply ? *step <= 1 || *first <= 0 : *step <= 0)
    throw Error(where, fmt::format("the range \"{}\" never ends; write 1-64*2 or 1-8+1", text));
  if (*last < *first) throw Error(where, fmt::format("the range \"{}\" ends before it starts", text));
  constexpr std::size_t kMost = 100'000;
  for (std::int64_t i = 0;; ++i) {
    const double v =
        multiply ? *first * std::pow(*step, static_cast<double>(i)) : *first + static_cast<double>(i) * *step;
    if (v > *last * (1 + 1e-12)) break;
    if (out.size() >= kMost)
      throw Error(where, fmt::format("the range \"{}\" has more than {} values", text, kMost));
    if (v == std::floor(v) && std::abs(v) < 1e15)
      out.emplace_back(static_cast<std::int64_t>(v));
    else
      out.emplace_back(v);
  }
  return true;
}

void set_pointer(Json& json, const std::string& pointer, const Json& value) {
  Json* at = &json;
  const auto names = split(std::string_view(pointer).substr(1), '/');
  for (std::size_t i = 0; i + 1 < names.size(); ++i) {
    at = &(*at)[names[i]];
    if (!at->is_object()) *at = Json::object();
  }
  (*at)[names.back()] = value;
}

std::string last_name(const std::string& pointer) { return pointer.substr(pointer.rfind('/') + 1); }

// Paths in flags are the caller's; those in the file are relative to the file.
std::string absolute_if_file(const std::string& text) {
  std::error_code ignored;
  return std::filesystem::exists(text, ignored) ? std::filesystem::absolute(text).lexically_normal().string()
                                                : text;
}

// What a plan without plan.search tries, as lists.
Json default_search() {
  Json search = Json::object();
  for (const SearchPoint& point : search_space(Scenario{}, "").points) {
    const Json patch = Json::parse(point.patch);
    for (const auto& section : patch.items())
      for (const auto& item : section.value().items()) {
        Json& list = search[item.key()];
        if (!list.is_array()) list = Json::array();
        if (std::find(list.begin(), list.end(), item.value()) == list.end()) list.push_back(item.value());
      }
  }
  return search;
}

bool searchable(const ScenarioKey& key) {
  return (key.section == "engine" || key.section == "cluster" || key.section == "hardware") &&
         std::count(key.pointer.begin(), key.pointer.end(), '/') == 2;
}

// Where the flag's values go in `plan`; false when they belong to the scenario itself.
bool put_into_search(Json& scenario, const ScenarioKey& key, const std::vector<Json>& values) {
  const std::string name = last_name(key.pointer);
  if (!searchable(key)) {
    if (values.size() > 1)
      throw Error("--" + key.flag, "plan searches keys of hardware, engine and cluster; give one value here");
    return false;
  }
  Json& plan = scenario["plan"];
  if (!plan.is_object()) plan = Json::object();
  const bool has_search = plan.contains("search") && plan["search"].is_object();
  if (!has_search) {
    const Json search = default_search();
    if (values.size() == 1 && !search.contains(name)) return false;
    plan["search"] = search;
  } else if (values.size() == 1 && !plan["search"].contains(name)) {
    return false;
  }
  plan["search"][name] = values;
  return values.size() == 1 ? false : true;
}

}  // namespace

std::vector<ScenarioKey> scenario_keys() {
  std::vector<ScenarioKey> keys;
  collect(Scenario{}, "", keys);
  std::map<std::string, int> uses;
  // Parts of the cluster go by its name for them, whoever else has the key.
  const auto of_part = [](const ScenarioKey& k) {
    return k.section == "cluster" && std::count(k.pointer.begin(), k.pointer.end(), '/') > 2;
  };
  for (const ScenarioKey& k : keys)
    if (k.type != "object" && !of_part(k) && !yields(k)) ++uses[last_name(k.pointer)];
  for (ScenarioKey& k : keys) {
    if (k.pointer == "/engine/speculative_config") k.type = "json";  // as a whole, too: vLLM's own flag
    const std::string name = last_name(k.pointer);
    k.flag = dashes(name);
    if (of_part(k) || uses[name] > (yields(k) ? 0 : 1) || taken(k.flag)) {
      const std::string parent = k.pointer.substr(0, k.pointer.rfind('/'));
      k.flag = dashes(last_name(parent) + "_" + name);
    }
  }
  return keys;
}

std::vector<OptionSpec> scenario_option_specs() {
  std::vector<OptionSpec> specs;
  for (const ScenarioKey& k : scenario_keys()) {
    if (k.type == "object") continue;
    OptionSpec o;
    o.name = k.flag;
    o.help = k.help;
    if (!k.limits.empty()) o.help += " (" + k.limits + ")";
    o.section = k.section;
    o.choices = k.choices;
    o.negatable = k.type == "boolean";
    if (k.type == "integer") o.value = "N";
    if (k.type == "number") o.value = "X";
    if (k.type == "text") o.value = k.choices.empty() ? "TEXT" : "NAME";
    if (k.type == "length") o.value = "LENGTH";
    if (k.type == "json") o.value = "JSON";
    o.completes_files = k.flag == "workload-trace" || last_name(k.pointer) == "model";
    specs.push_back(std::move(o));
  }
  return specs;
}

std::vector<Json> flag_values(const ScenarioKey& key, const std::string& text) {
  const bool number = key.type == "integer" || key.type == "number";
  const bool names = key.type == "text" && (!key.choices.empty() || key.pointer == "/hardware/device" ||
                                            key.pointer == "/engine/behavior");
  if (!number && !names && key.type != "boolean") return {one_value(key, text)};
  std::vector<Json> values;
  for (const std::string& part : split(text, ',')) {
    const std::string item(trim(part));
    if (item.empty()) throw Error("--" + key.flag, fmt::format("an empty value in \"{}\"", text));
    if (number && !parse_double(item) && expand_range(key, item, values)) continue;
    values.push_back(one_value(key, item));
  }
  return values;
}

void apply_flags(Json& scenario, const Invocation& invocation, bool lists, bool file_given) {
  const auto keys = scenario_keys();
  for (auto given = invocation.values.begin(); given != invocation.values.end(); ++given) {
    const auto& [name, text] = *given;
    const auto same = [&](const auto& later) { return later.first == given->first; };
    if (std::any_of(std::next(given), invocation.values.end(), same)) continue;  // the last one counts
    const auto key = std::find_if(keys.begin(), keys.end(), [&](const ScenarioKey& k) {
      return k.flag == given->first && k.type != "object";
    });
    if (key == keys.end()) continue;
    const bool path = key->pointer == "/workload/trace" || last_name(key->pointer) == "model" ||
                      last_name(key->pointer) == "file";
    std::vector<Json> values = flag_values(*key, path && file_given ? absolute_if_file(text) : text);
    if (key->list) {
      if (key->type != "json") values = {Json(values)};
    } else if (lists) {
      if (put_into_search(scenario, *key, values)) continue;
    } else if (values.size() > 1) {
      throw Error("--" + key->flag,
                  "takes one value here; lists are for estimate, simulate, sweep, capacity and plan");
    }
    set_pointer(scenario, key->pointer, values.front());
  }
}

std::string flag_of_pointer(const Invocation& invocation, const std::string& pointer) {
  for (const ScenarioKey& k : scenario_keys()) {
    const bool same = pointer == k.pointer || pointer.rfind(k.pointer + "/", 0) == 0;
    if (same && k.type != "object" && invocation.has(k.flag))
      return "--" + k.flag + pointer.substr(k.pointer.size());
  }
  return "";
}

Error error_of_flag(const Error& error, const Invocation& invocation) {
  const auto pointer = error.where().find(":/");
  const std::string flag =
      pointer == std::string::npos ? "" : flag_of_pointer(invocation, error.where().substr(pointer + 1));
  return flag.empty() ? error : Error(flag, error.message());
}

}  // namespace foretoken
