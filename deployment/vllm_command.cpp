// Deployments as `vllm serve` commands and back.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/json_full.h"
#include "base/text.h"
#include "deployment/deployment.h"
#include "deployment/parts.h"
#include "deployment/vllm_flags.h"

namespace foretoken {

std::string model_id(const Deployment& d) {
  const std::string& text = d.scenario.model.text;
  const Json json = text.empty() ? Json() : parse_json(text, "/model");
  const std::string name = json.is_string() ? json.get<std::string>() : d.model.name;
  if (d.preset_folder.empty()) return name;
  for (const Preset& preset : list_presets(d.preset_folder))
    if ((iequals(preset.name, name) || iequals(preset.name, d.model.name)) && !preset.hugging_face_id.empty())
      return preset.hugging_face_id;
  return name;
}

namespace {

// The weight format as vLLM's flag; empty where the checkpoint itself says it. `note`: what the flag can't
// do.
std::string quantization_flag(const Deployment& d, std::string& note) {
  const WeightFormat format = d.precision.weights;
  if (format == d.model.quantization.format) return {};
  if (format != WeightFormat::kFp8 && format != WeightFormat::kFp8Block)
    note = fmt::format("serve a checkpoint with {} weights", name_of(format));
  if (format == WeightFormat::kInt4Wo) return "awq";
  for (const QuantizationName& q : vllm_quantizations())
    if (q.ours == name_of(format)) return std::string(q.vllm);
  return {};  // int8 has no flag
}

// Whole numbers as vLLM reads them: 32k is 32,000, 32K is 32,768.
std::int64_t human_integer(const std::string& text, const std::string& where) {
  std::string digits = text;
  double factor = 1;
  constexpr std::pair<char, double> kSuffixes[] = {{'k', 1e3},    {'m', 1e6},       {'g', 1e9},
                                                   {'K', 1024.0}, {'M', 1048576.0}, {'G', 1073741824.0}};
  for (const auto& [suffix, value] : kSuffixes) {
    if (digits.empty() || digits.back() != suffix) continue;
    factor = value;
    digits.pop_back();
    break;
  }
  const auto number = parse_double(digits);
  const double value = number ? *number * factor : 0.5;
  if (value != std::floor(value) || std::abs(value) > 9.0e15)
    throw Error(where, fmt::format("a whole number is expected, not \"{}\"", text));
  return static_cast<std::int64_t>(value);
}

struct Words {
  std::vector<std::string> words;
  std::size_t next = 0;
  bool more() const { return next < words.size(); }
  bool more_values() const {
    return more() && (!words[next].starts_with("-") || parse_double(words[next]).has_value());
  }
};

class CommandReader {
 public:
  CommandReader(const std::string& command, std::string where) : where_(std::move(where)) {
    words_.words = shell_words(command, where_);
  }

  Json read() {
    skip_program();
    while (words_.more()) {
      const std::string word = words_.words[words_.next++];
      if (word.starts_with("-") && word.size() > 1)
        read_flag(word);
      else
        take_model(word);
    }
    if (model_.empty()) throw Error(where_, "the command names no model");
    Json patch = Json::object();
    patch["model"] = model_;
    // vLLM reads the other flags of adapters only beside --enable-lora.
    if (enable_lora_) engine_["lora"] = lora_;
    if (!engine_.empty()) patch["engine"] = engine_;
    return patch;
  }

 private:
  // Environment settings, then `vllm serve` or the old module.
  void skip_program() {
    auto& [words, next] = words_;
    while (next < words.size() && !words[next].starts_with("-") && words[next].find('=') != std::string::npos)
      ++next;
    const auto is = [&](std::size_t at, std::string_view text) {
      return at < words.size() && words[at] == text;
    };
    const auto ends = [&](std::size_t at, std::string_view text) {
      return at < words.size() && words[at].ends_with(text);
    };
    if (ends(next, "vllm") && is(next + 1, "serve")) {
      next += 2;
    } else if (next < words.size() && words[next].find("python") != std::string::npos && is(next + 1, "-m") &&
               is(next + 2, "vllm.entrypoints.openai.api_server")) {
      next += 3;
    } else {
      throw Error(where_, "a command that begins with `vllm serve` is expected");
    }
  }

  void take_model(const std::string& name) {
    if (!model_.empty())
      throw Error(where_, fmt::format("\"{}\" is not expected: the model is \"{}\" already", name, model_));
    model_ = name;
  }

  void read_flag(const std::string& word) {
    const auto equals = word.find('=');
    const std::string written = word.substr(0, equals);
    std::string flag = written;
    if (flag.starts_with("--"))
      std::replace(flag.begin(), flag.end(), '_', '-');  // vLLM takes both spellings
    std::optional<std::string> value;
    if (equals != std::string::npos) value = word.substr(equals + 1);
    if (flag == "--model") return take_model(need(value, flag));
    if (flag == "--lora-modules") return count_adapters(value);
    std::vector<std::string> known{"--model", "--lora-modules"};
    for (const VllmFlag& f : vllm_flags()) {
      if (flag == f.name || (!f.alias.empty() && flag == f.alias)) return set(f, value, false);
      known.emplace_back(f.name);
      if (f.kind != FlagKind::kSwitch) continue;
      const std::string negative = "--no-" + std::string(f.name.substr(2));
      if (flag == negative) return set(f, value, true);
      known.push_back(negative);
    }
    for (const IgnoredFlag& f : ignored_vllm_flags()) {
      known.emplace_back(f.name);
      if (flag != f.name && flag != "--no-" + std::string(f.name.substr(2))) continue;
      if (!value && f.values != Values::kNone && flag == f.name) need(value, flag);
      if (!value && f.values == Values::kSeveral)
        while (words_.more_values()) ++words_.next;
      return;
    }
    throw Error(where_,
                fmt::format("{} is not understood by this build{}", written, did_you_mean(flag, known)));
  }

  std::string need(std::optional<std::string> value, const std::string& flag) {
    if (value) return *value;
    if (!words_.more_values()) throw Error(where_, fmt::format("{} needs a value", flag));
    return words_.words[words_.next++];
  }

  void set(const VllmFlag& f, const std::optional<std::string>& value, bool negative) {
    const std::string key(f.key), name(f.name), at = where_ + " " + name;
    switch (f.kind) {
      case FlagKind::kSwitch:
        if (value) throw Error(at, fmt::format("takes no value, not \"{}\"", *value));
        if (key == "lora") {
          enable_lora_ = !negative;
          return;
        }
        engine_[key] = !negative;
        return;
      case FlagKind::kInteger: {
        const std::string text = need(value, name);
        // "auto" and -1 leave the choice to vLLM, as leaving the key out does.
        if (key == "max_model_len" && (text == "auto" || text == "-1"))
          engine_.erase(key);
        else if (key.starts_with("lora/"))
          lora_[key.substr(5)] = human_integer(text, at);
        else
          engine_[key] = human_integer(text, at);
        return;
      }
      case FlagKind::kNumber: {
        const std::string text = need(value, name);
        const auto number = parse_double(text);
        if (!number) throw Error(at, fmt::format("a number is expected, not \"{}\"", text));
        engine_[key] = *number;
        return;
      }
      case FlagKind::kText: {
        const std::string text = need(value, name);
        if (key == "quantization")
          set_quantization(text, at);
        else
          engine_[key] = key == "dtype" ? dtype(text) : text;
        return;
      }
      case FlagKind::kIntegers: {
        Json sizes = Json::array();
        if (value) {
          for (const std::string& part : split(*value, ',')) sizes.push_back(human_integer(part, at));
        } else {
          while (words_.more_values()) sizes.push_back(human_integer(words_.words[words_.next++], at));
        }
        if (sizes.empty()) throw Error(where_, fmt::format("{} needs a value", name));
        engine_[key] = sizes;
        return;
      }
      case FlagKind::kJson:
        if (key == "eplb_config")
          read_eplb(parse_json(need(value, name), at), at);
        else
          engine_[key] = parse_json(need(value, name), at);
        return;
    }
  }

  // name=path, one or several.
  void count_adapters(const std::optional<std::string>& value) {
    std::int64_t count = value ? 1 : 0;
    for (; words_.more_values(); ++words_.next) ++count;
    if (count == 0) throw Error(where_, "--lora-modules needs a value");
    lora_["num_adapters"] = count;
  }

  // Its other keys say how often loads are looked at and copied; here they are always known.
  void read_eplb(const Json& config, const std::string& at) {
    if (!config.is_object()) throw Error(at, "a JSON object is expected");
    if (config.contains("num_redundant_experts"))
      engine_["num_redundant_experts"] = config["num_redundant_experts"];
  }

  void set_quantization(const std::string& text, const std::string& at) {
    std::vector<std::string> known{"compressed-tensors", "modelopt"};
    for (const std::string& own : known)
      if (text == own) return;  // the format that the checkpoint's configuration names
    for (const QuantizationName& q : vllm_quantizations()) {
      if (text == q.vllm) {
        engine_["quantization"] = std::string(q.ours);
        return;
      }
      known.emplace_back(q.vllm);
    }
    throw Error(at,
                fmt::format("\"{}\" is not one of {}{}", text, join(known, ", "), did_you_mean(text, known)));
  }

  static std::string dtype(const std::string& text) {
    if (text == "half") return "float16";
    if (text == "float") return "float32";
    return text;
  }

  std::string where_;
  Words words_;
  std::string model_;
  Json engine_ = Json::object(), lora_ = Json::object();
  bool enable_lora_ = false;
};

// Acceptance is a prediction's, not the server's.
std::string speculative_json(const Speculation& speculation, const SpeculativeSection& s) {
  Json j{{"method", *s.method}, {"num_speculative_tokens", *s.num_speculative_tokens}};
  if (speculation.draft) {
    j["model"] = model_id(*speculation.draft);
    j["draft_tensor_parallel_size"] = *s.draft_tensor_parallel_size;
  } else {
    j["prompt_lookup_max"] = *s.prompt_lookup_max;
    j["prompt_lookup_min"] = *s.prompt_lookup_min;
  }
  return j.dump();
}

}  // namespace

std::string vllm_command(const Deployment& d) {
  const EngineSection& e = d.scenario.engine;
  const Behavior& b = d.behavior;
  std::string out = "vllm serve " + shell_quote(model_id(d)), note;
  const auto add = [&](std::string_view flag, const auto& value) {
    out += fmt::format(" {} {}", flag, value);
  };
  const auto add_if = [&](bool wanted, std::string_view flag, const auto& value) {
    if (wanted) add(flag, value);
  };
  const auto add_switch = [&](bool value, bool otherwise, std::string_view flag) {
    if (value != otherwise) out += fmt::format(" --{}{}", value ? "" : "no-", flag);
  };
  const Mapping& m = d.mapping;
  add_if(m.tensor_parallel > 1, "--tensor-parallel-size", m.tensor_parallel);
  add_if(m.pipeline_parallel > 1, "--pipeline-parallel-size", m.pipeline_parallel);
  add_if(m.data_parallel > 1, "--data-parallel-size", m.data_parallel);
  add_switch(m.expert_parallel > 1, false, "enable-expert-parallel");
  if (m.expert_parallel > 1 && m.expert_parallel != m.tensor_parallel * m.data_parallel)
    note = fmt::format("vLLM splits the experts over all {} tensor x data ranks, not {}",
                       m.tensor_parallel * m.data_parallel, m.expert_parallel);
  if (e.enable_eplb) {
    out += " --enable-eplb";
    add_if(e.num_redundant_experts > 0, "--eplb-config",
           fmt::format(R"('{{"num_redundant_experts": {}}}')", e.num_redundant_experts));
  }
  add_if(d.precision.activation != d.model.dtype, "--dtype", name_of(d.precision.activation));
  if (m.data_parallel > 1 && m.expert_parallel == 1 && has_experts(d.model))
    note = "vLLM splits the experts over the data-parallel ranks too; independent ranks are separate servers";
  if (const std::string flag = quantization_flag(d, note); !flag.empty()) add("--quantization", flag);
  add_if(d.precision.kv != d.precision.activation, "--kv-cache-dtype", e.kv_cache_dtype);
  add_if(*e.max_model_len != d.model.max_positions, "--max-model-len", *e.max_model_len);

  const BatchLimits limits = default_limits(b, d.device.memory.value / kGiB, d.device.name);
  add_if(*e.max_num_seqs != std::min(limits.max_num_seqs, *e.max_num_batched_tokens), "--max-num-seqs",
         *e.max_num_seqs);
  add_if(*e.max_num_batched_tokens != limits.max_num_batched_tokens, "--max-num-batched-tokens",
         *e.max_num_batched_tokens);
  add_if(*e.block_size != b.block_size, "--block-size", *e.block_size);
  add_if(*e.gpu_memory_utilization != b.gpu_memory_utilization, "--gpu-memory-utilization",
         *e.gpu_memory_utilization);
  add_switch(*e.enable_chunked_prefill, b.chunked_prefill, "enable-chunked-prefill");
  add_switch(*e.enable_prefix_caching, default_prefix_caching(b, d.model), "enable-prefix-caching");
  add_if(*e.long_prefill_token_threshold != 0, "--long-prefill-token-threshold",
         *e.long_prefill_token_threshold);
  add_switch(*e.scheduler_reserve_full_isl, b.reserve_full_prompt, "scheduler-reserve-full-isl");
  add_switch(*e.async_scheduling, default_async_scheduling(b, m.pipeline_parallel), "async-scheduling");
  if (d.speculation) {
    add("--speculative-config", shell_quote(speculative_json(*d.speculation, *e.speculative_config)));
    if (e.speculative_config->tree_widths) note = "vLLM verifies trees of EAGLE's drafts alone";
  }
  if (d.scheduler.by_priority) out += " --scheduling-policy priority";
  add_if(*e.watermark != 0, "--watermark", *e.watermark);
  add_switch(e.enforce_eager, false, "enforce-eager");
  if (!e.enforce_eager && d.graph_sizes != default_graph_sizes(b, *e.max_num_seqs)) {
    if (d.graph_sizes.empty())
      out += " --enforce-eager";
    else
      add("--cudagraph-capture-sizes", fmt::format("{}", fmt::join(d.graph_sizes, " ")));
  }
  if (e.enable_sequence_parallelism.value_or(false))
    out += R"( --compilation-config '{"pass_config": {"enable_sequence_parallelism": true}}')";
  if (e.lora) {
    out += " --enable-lora";
    add_if(e.lora->max_loras != 1, "--max-loras", e.lora->max_loras);
    add_if(e.lora->max_lora_rank != 16, "--max-lora-rank", e.lora->max_lora_rank);
    add_if(*e.lora->max_cpu_loras != e.lora->max_loras, "--max-cpu-loras", *e.lora->max_cpu_loras);
  }
  if (e.num_gpu_blocks_override) add("--num-gpu-blocks-override", *e.num_gpu_blocks_override);
  add_if(e.cpu_offload_gib.value_or(0) > 0, "--cpu-offload-gb", e.cpu_offload_gib.value_or(0));
  if (e.preemption_mode.value_or("") == "swap") {
    add("--preemption-mode swap --swap-space", *e.swap_space_gib);
    note = "vLLM's V0 engine alone swaps";
  }
  if (e.kv_tiers.size() == 1 && e.kv_tiers[0].kind == "host" && !e.kv_tiers[0].shared)
    add("--kv-offloading-backend native --kv-offloading-size",
        *e.kv_tiers[0].capacity_gib * static_cast<double>(d.mapping.tensor_parallel));
  else if (!e.kv_tiers.empty())
    note = "vLLM reaches such KV tiers through a --kv-transfer-config";
  if (d.streaming.layers > 0) note = "vLLM has no layer streaming of this kind";
  if (d.scheduler.reservation != KvReservation::kPaged) note = "vLLM's KV memory is paged";
  if (!note.empty()) out += "  # " + note;
  return out;
}

std::string patch_from_vllm_command(const std::string& command, const std::string& where) {
  return dump_json(CommandReader(command, where).read(), -1);
}

}  // namespace foretoken
