#include "cli/command.h"

#include <algorithm>
#include <stdexcept>

#include "cli/scenario_flags.h"

namespace foretoken {
namespace {

OptionSpec file_option(std::string name, std::string help) {
  OptionSpec o;
  o.name = std::move(name);
  o.value = "FILE";
  o.help = std::move(help);
  o.completes_files = true;
  return o;
}

OptionSpec number_option(std::string name, std::string help) {
  OptionSpec o;
  o.name = std::move(name);
  o.value = "N";
  o.help = std::move(help);
  return o;
}

OptionSpec switch_option(std::string name, std::string help) {
  OptionSpec o;
  o.name = std::move(name);
  o.help = std::move(help);
  return o;
}

std::vector<OptionSpec> output_options() {
  OptionSpec format;
  format.name = "output";
  format.letter = 'o';
  format.value = "FORMAT";
  format.help = "form of the result (default: text)";
  format.choices = {"text", "md", "csv", "json", "html"};
  return {format, file_option("save", "write the result to a file, replaced when the work has ended")};
}

OptionSpec database_option() {
  return file_option("db",
                     "your hardware database, layered over the built-in one "
                     "(default: $XDG_DATA_HOME/foretoken/hw.sqlite)");
}

OptionSpec threads_option() { return number_option("threads", "cores to use (default: all)"); }

OptionSpec timing_option() {
  return switch_option("timing", "add wall_seconds to the JSON result (it is on stderr anyway)");
}

std::vector<OptionSpec> validate_options() {
  OptionSpec kind = number_option("kind", "what the file of --operators holds, where its columns don't tell");
  kind.value = "KIND";
  OptionSpec tolerance = number_option(
      "tolerance", "exit with 1 when the mean error over all rows is above this fraction, for any metric");
  tolerance.value = "FRACTION";
  return {file_option("operators", "measured operators, in the columns that `hw import` reads"),
          kind,
          file_option("end-to-end", "measured servers: a deployment, its load and its latencies a row"),
          file_option("recipes",
                      "server flags for rows of --end-to-end that don't state them (default: "
                      "those of published benchmarks)"),
          file_option("runs", "folder of runs, each a folder with scenario.json and measured.json"),
          switch_option("without-rows",
                        "with --runs: without the rows.csv of that folder, by the databases alone"),
          tolerance,
          switch_option("intervals", "simulate both ends of the interval of each row too")};
}

std::vector<OptionSpec> scenario_options() {
  OptionSpec vllm;
  vllm.name = "from-vllm";
  vllm.value = "COMMAND";
  vllm.help = "take model and engine from a \"vllm serve ...\" command line";
  return {vllm, switch_option("print-scenario", "print the resolved scenario and stop"), database_option(),
          timing_option()};
}

VerbSpec verb(std::string name, std::string arguments, int least, int most, std::string help,
              std::vector<std::string> examples, std::vector<std::vector<OptionSpec>> options = {}) {
  VerbSpec v;
  v.name = std::move(name);
  v.arguments = std::move(arguments);
  v.least_arguments = least;
  v.most_arguments = most;
  v.help = std::move(help);
  v.examples = std::move(examples);
  for (auto& group : options) v.options.insert(v.options.end(), group.begin(), group.end());
  return v;
}

OptionSpec with_choices(OptionSpec o, std::vector<std::string> choices) {
  o.choices = std::move(choices);
  return o;
}

std::vector<OptionSpec> model_show_options() {
  OptionSpec dtype = number_option("dtype", "type of activations and plain weights (default: the model's)");
  dtype.value = "TYPE";
  OptionSpec kv =
      number_option("kv-cache-dtype", "element type of the KV cache (default: that of activations)");
  kv.value = "TYPE";
  return {number_option("batch-size", "sequences (default 1)"),
          number_option("prompt-len", "prompt tokens of a sequence, for prefill (default 1024)"),
          number_option("context-len", "cached tokens of a sequence, for decode (default: prompt-len)"),
          with_choices(dtype, {"auto", "bfloat16", "float16", "float32"}),
          with_choices(kv, {"auto", "bfloat16", "float16", "fp8", "fp8_e4m3", "fp8_e5m2", "int8"}),
          number_option("tensor-parallel-size", "devices that split every layer (default 1)")};
}

OptionSpec activation_format_option() {
  OptionSpec o = with_choices(
      number_option(
          "activation-format",
          "what products by fp8 and int8 weights round activations to (default auto: the weights' own)"),
      {"auto", "bf16", "fp8", "int8"});
  o.value = "FORMAT";
  return o;
}

OptionSpec fp8_scales_option() {
  OptionSpec o = with_choices(
      number_option(
          "fp8-scales",
          "what fp8 numbers share a scale: a row of weights and a token; a matrix, and a token, all "
          "tokens of a product (tensor) or one that was calibrated (static) (default auto: the "
          "checkpoint's)"),
      {"auto", "row", "tensor-token", "tensor", "static"});
  o.value = "SCALES";
  return o;
}

std::vector<OptionSpec> run_options() {
  return {
      with_choices(number_option("backend", "what executes (default cpu)"), {"cpu", "cuda"}),
      file_option("weights", "safetensors file or folder; without it the weights are synthetic"),
      file_option("draft-weights", "the same for the draft model of speculative decoding"),
      with_choices(number_option("isa", "kernels (default: the fastest that this processor has)"),
                   {"float64", "scalar", "avx2", "avx512", "avx512-bf16"}),
      file_option("tokens", "write the produced token ids as JSON, a list for each request"),
      file_option("record",
                  "add the run to this folder, its scenario.json and measured.json, for `validate --runs`"),
      with_choices(number_option("operator-times",
                                 "time each operator, or the step alone (default on; cupti: by what a "
                                 "device's driver records of each kernel)"),
                   {"on", "off", "cupti"}),
      activation_format_option(),
      fp8_scales_option(),
      number_option("threads",
                    "threads of the executor (default 1; all processors to load a device's weights)")};
}

std::vector<OptionSpec> calibrate_options() {
  OptionSpec fit = number_option("fit",
                                 "with --from: terms to fit, keys of engine.host_times with commas between "
                                 "them (default: as many of the "
                                 "engine's usual ones as the runs allow)");
  fit.value = "TERMS";
  return {
      file_option(
          "from",
          "results of a benchmark tool on your own server, and more after it: fits the engine's terms "
          "to them instead of measuring here"),
      file_option("scenario", "with --from: the server that was measured"),
      fit,
      with_choices(number_option("backend", "what executes (default cpu)"), {"cpu", "cuda"}),
      with_choices(number_option("isa", "kernels (default: the fastest that this processor has)"),
                   {"float64", "scalar", "avx2", "avx512", "avx512-bf16"}),
      activation_format_option(),
      fp8_scales_option(),
      number_option("budget", "seconds to measure for (default 60); every size is measured once at least"),
      number_option("threads",
                    "threads of the executor (default 1; all processors to load a device's weights); with "
                    "--from: cores (default: all)")};
}

constexpr int kAny = 1000;

}  // namespace

std::vector<VerbSpec> verb_specs() {
  std::vector<VerbSpec> v;
  const auto out = output_options();
  v.push_back(verb("estimate", "[SCENARIO]", 0, 1,
                   "memory plan, prefill and decode step times, what bounds them; no events, instant",
                   {"foretoken estimate scenarios/llama-3.1-8b-l40s.json",
                    "foretoken estimate --model llama-3.1-8b --device h100 --request-rate 4 --input-len 1000 "
                    "--output-len 200"},
                   {out, scenario_options()}));
  v.push_back(
      verb("simulate", "[SCENARIO]", 0, 1,
           "serves the workload in virtual time: latencies, throughput, what they rest on",
           {"foretoken simulate scenarios/qwen3-30b-a3b-chat.json --request-rate 12",
            "foretoken simulate scenarios/llama-3.1-8b-l40s.json --trace timeline.json -o json --save "
            "result.json"},
           {out,
            scenario_options(),
            {file_option("trace", "write a timeline that ui.perfetto.dev opens"),
             switch_option("save-detailed",
                           "per-request arrays in the JSON result, as vLLM writes them, with what the times "
                           "to first token are made of; load "
                           "and KV memory over time; the slowest first tokens in the text"),
             switch_option("require-slo", "exit with 1 when the SLO is missed"),
             switch_option("no-spans",
                           "one event for each step instead of spans of decode steps; slower, "
                           "same result")}}));
  OptionSpec checkpoint = file_option("checkpoint",
                                      "keep what is done in this file; a sweep that was stopped goes on from "
                                      "it, a finished one answers at once");
  v.push_back(verb(
      "sweep", "[SCENARIO]", 0, 1,
      "simulates every combination of listed values, on all cores and, under mpirun, on many machines",
      {"foretoken sweep scenarios/llama-3.1-8b-l40s.json --tensor-parallel-size 1,2 --request-rate 1-16*2",
       "foretoken sweep grid.json --checkpoint grid.checkpoint -o csv --save grid.csv",
       "mpirun foretoken sweep grid.json -o csv --save grid.csv"},
      {out, scenario_options(), {checkpoint, threads_option()}}));
  v.push_back(verb(
      "run", "[SCENARIO]", 0, 1,
      "executes the scenario on this machine, through the same scheduler: measured latencies beside "
      "predicted "
      "ones",
      {"foretoken run scenarios/cpu-dense.json", "foretoken run scenarios/cpu-moe.json --threads 2 --seed 7"},
      {out, scenario_options(), run_options()}));
  v.push_back(
      verb("calibrate", "SCENARIO", 0, kAny,
           "measures the operators of a scenario's model on this machine, or fits the engine's terms to what "
           "another tool measured on your server (--from), into your hardware database",
           {"foretoken calibrate scenarios/cpu-dense.json --budget 60",
            "foretoken calibrate --from c1.json c8.json c32.json --scenario server.json"},
           {out, scenario_options(), calibrate_options()}));
  OptionSpec tolerance = number_option(
      "tolerance", "how far above the answer a load that fails may lie, as a fraction of it (default 0.01)");
  tolerance.value = "FRACTION";
  v.push_back(verb("capacity", "[SCENARIO]", 0, 1,
                   "the highest load that a deployment serves within its SLO, or keeps up with where it has "
                   "none, and what limits it",
                   {"foretoken capacity scenarios/llama-3.1-8b-l40s.json",
                    "foretoken capacity --model llama-3.1-8b --device h100 --input-len 1000 --output-len 200 "
                    "--ttft-ms 500 --tpot-ms 40 --tensor-parallel-size 1,2"},
                   {out, scenario_options(), {tolerance, threads_option()}}));
  v.push_back(verb("plan", "[SCENARIO]", 0, 1,
                   "searches deployments: fewest devices, lowest cost or best goodput under the SLO",
                   {"foretoken plan scenarios/llama-3.3-70b-azure.json",
                    "foretoken plan --model qwen3-30b-a3b --device h100,h200 --tensor-parallel-size 1,2,4 "
                    "--request-rate 8 --input-len 1000 --output-len 300 --ttft-ms 1000 --tpot-ms 50"},
                   {out, scenario_options(), {threads_option()}}));
  v.push_back(verb("validate", "[SCENARIO]", 0, 1,
                   "predictions beside measurements: the built-in sets, files of your own, or a scenario "
                   "that is executed here",
                   {"foretoken validate", "foretoken validate scenarios/cpu-dense.json",
                    "foretoken validate --operators h200_gemm.csv.gz",
                    "foretoken validate --end-to-end servers.csv -o csv --save rows.csv"},
                   {out, validate_options(), {database_option(), threads_option(), timing_option()}}));
  v.push_back(verb("compare", "A B ...", 2, kAny,
                   "scenarios, results, or vllm bench / AIPerf / GuideLLM files side by side",
                   {"foretoken compare result.json vllm-bench.json",
                    "foretoken compare scenarios/llama-3.1-8b-l40s.json profile_export_aiperf.json"},
                   {out, {database_option()}}));
  v.push_back(verb("model list", "", 0, 0, "the built-in model presets", {"foretoken model list"}, {out}));
  v.push_back(verb(
      "model show", "MODEL", 1, 1,
      "parameters, FLOPs and bytes by operator, activations and KV cache of a model",
      {"foretoken model show llama-3.3-70b", "foretoken model show path/to/config.json --prompt-len 4096"},
      {out, model_show_options()}));
  v.push_back(verb("hw list", "", 0, 0, "the devices of the hardware database", {"foretoken hw list"},
                   {out, {database_option()}}));
  v.push_back(verb("hw show", "DEVICE", 1, 1, "one device: facts with sources, measured operators",
                   {"foretoken hw show h200"}, {out, {database_option()}}));
  OptionSpec kind = number_option("kind", "what the file holds, where its columns don't tell");
  kind.value = "KIND";
  v.push_back(verb("hw import", "FILE...", 1, kAny, "adds measured operators to your hardware database",
                   {"foretoken hw import h200_gemm.csv.gz --kind gemm"}, {out, {database_option(), kind}}));
  v.push_back(verb("hw export", "DEVICE", 1, 1, "writes the measured operators of a device as CSV",
                   {"foretoken hw export h200 --save h200.csv"}, {{out[1], database_option()}}));
  OptionSpec engine = number_option("engine", "only those of this engine, as modelled");
  engine.value = "NAME";
  v.push_back(verb("hw forget", "DEVICE", 1, 1,
                   "removes the engine terms that `calibrate --from` fitted for a device",
                   {"foretoken hw forget h200 --engine vllm-0.19"}, {out, {database_option(), engine}}));
  v.push_back(verb("strategies", "", 0, 0,
                   "every technique that is modelled, and those that are refused by name",
                   {"foretoken strategies", "foretoken strategies -o md"}, {out}));
  v.push_back(verb("schema", "", 0, 0, "JSON Schema of the scenario file",
                   {"foretoken schema > scenario.schema.json"}, {{out[1]}}));
  v.push_back(verb("completion", "SHELL", 1, 1, "completion script for bash, zsh or fish",
                   {"source <(foretoken completion bash)"}, {{out[1]}}));
  const auto text = [](const char* name, const char* value, const char* help) {
    OptionSpec o = number_option(name, help);
    o.value = value;
    return o;
  };
  OptionSpec theme = text("theme", "NAME", "colours");
  theme.choices = {"light", "dark"};
  v.push_back(verb("gui", "[SCENARIO]", 0, 1, "the window: change a scenario and see what moves",
                   {"foretoken gui", "foretoken gui scenario.json --screenshot memory.png --view Memory"},
                   {{text("screenshot", "FILE", "write a picture (PNG) and end; needs no display"),
                     text("view", "NAME", "the view in front, such as \"Roofline\""),
                     text("size", "WxH", "of the window, such as 1280x800"), theme}}));
  v.push_back(verb("reference", "WHAT", 1, 1, "reference pages: man, scenario or cli",
                   {"foretoken reference man"}, {{out[1]}}));
  v.back().hidden = true;

  for (VerbSpec& s : v) {
    s.takes_scenario = s.name == "estimate" || s.name == "simulate" || s.name == "sweep" || s.name == "run" ||
                       s.name == "calibrate" || s.name == "capacity" || s.name == "plan" ||
                       s.name == "compare";
    if (!s.takes_scenario) continue;
    const auto flags = scenario_option_specs();
    s.options.insert(s.options.end(), flags.begin(), flags.end());
  }
  return v;
}

const VerbSpec& find_verb(const std::vector<VerbSpec>& verbs, std::string_view name) {
  const auto found =
      std::find_if(verbs.begin(), verbs.end(), [&](const VerbSpec& v) { return v.name == name; });
  if (found == verbs.end()) throw std::logic_error("no verb " + std::string(name));
  return *found;
}

std::optional<std::string> Invocation::value(std::string_view option) const {
  for (auto v = values.rbegin(); v != values.rend(); ++v)
    if (v->first == option) return v->second;
  return std::nullopt;
}

}  // namespace foretoken
