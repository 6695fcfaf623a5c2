// Whole models on a CUDA device, with synthetic weights of a config's shape:
//
//   gpu_model_speed CONFIG.json FORMAT [BATCHES [CONTEXTS [PROMPT]]]     (1,64  1024,4096  8192)
//
// One decoding step of every batch at every context, recorded and launched kernel by kernel, with the time of
// each operator and without; then a prompt as one step. FORMAT: bfloat16, fp8, int8, int4_wo or another of
// model_speed's. Each line of stdout is JSON; step_ms is the host's time from asking for a step to having its
// logits, the median of its repeats. Caches hold what the model's own prompts wrote. bytes and flops are the
// operator list's, as the simulator prices it; FORETOKEN_PEAK_TFLOPS and FORETOKEN_PEAK_TB_PER_S add what
// share of them was reached (mfu, mbu).
//
// Without a device it says so on stderr and ends well. FORETOKEN_BENCHMARK_BACKEND=cpu runs on the processor:
// to try this program.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <fstream>
#include <functional>
#include <iostream>
#include <map>
#include <memory>
#include <numeric>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "base/json_full.h"
#include "benchmarks/chosen_kernels.h"
#include "benchmarks/model_formats.h"
#include "executor/checkpoint.h"
#include "executor/cuda/clocks.h"
#include "executor/transformer.h"
#include "model/hf_config.h"

namespace foretoken {
namespace {

constexpr int kBlock = 16;
constexpr std::int64_t kStepTokens = 8192;  // of a prompt, in the steps that fill a cache

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double quantile(std::vector<double> v, double q) {
  std::sort(v.begin(), v.end());
  return v[static_cast<std::size_t>(std::lround(q * static_cast<double>(v.size() - 1)))];
}

struct Question {
  std::string file;
  const Format* format = nullptr;
  bool quantised_x = false;  // activations of 8 bits too
  std::vector<std::int64_t> batches{1, 64}, contexts{1024, 4096};
  std::int64_t prompt = 8192;
};

class ModelSpeed {
 public:
  ModelSpeed(const ChosenKernels& backend, const Question& q)
      : q_(q), kernels_(*backend.kernels), clocks_(backend.device ? backend.device->pci_bus_id : "") {
    std::ifstream in(q.file);
    const std::string text((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
    const Json json = parse_json(text, q.file);
    config_ = read_hf_config(json, q.file, "model");
    longest_ = std::max(q.prompt, *std::max_element(q.contexts.begin(), q.contexts.end())) + 1;
    numerics_ = read_numerics(json, config_, longest_, q.file);
    const double start = now();
    const Precision precision{q.format->activation, q.format->activation, q.format->listed};
    weights_ = std::make_unique<Transformer>(config_, numerics_, *synthetic_checkpoint(config_, numerics_, 1),
                                             kernels_, layout(1, 1, false, true), precision, threads_);
    Json line = about("weights");
    line["seconds"] = now() - start;
    print(line);
  }

  void decode() {
    const bool records = kernels_.graphs() != nullptr;
    const std::vector<std::int64_t> first{q_.contexts.front()};
    if (records) attempt("decode", [&] { decode(true, false, q_.contexts); });
    attempt("decode", [&] { decode(false, false, records ? first : q_.contexts); });
    attempt("decode", [&] { decode(records, true, first); });
  }

  void prompt() {
    attempt("prompt", [&] {
      const auto model = weights_->twin(layout(1, q_.prompt, false, true));
      const std::vector<std::int32_t> tokens = some_tokens(q_.prompt, 0);
      std::vector<std::int32_t> blocks(static_cast<std::size_t>(model->layout().num_blocks));
      std::iota(blocks.begin(), blocks.end(), 0);
      const StepSequence sequence{tokens, 0, blocks.data(), false, true};
      Json line = about("prompt");
      line["length"] = q_.prompt;
      repeat(
          line, 1, 5,
          [&] {
            return model->step({&sequence, 1});
          },
          *model);
      line["operators_ms"] = operators_ms(*model);
      print(line);
    });
  }

 private:
  Layout layout(std::int64_t sequences, std::int64_t tokens, bool recorded, bool operator_times) const {
    Layout l;
    l.weights = q_.format->weights, l.plain = l.cache = q_.format->plain;
    l.quantised_x = q_.quantised_x;
    l.block_size = kBlock;
    l.num_blocks = sequences * ((tokens + kBlock) / kBlock);
    l.max_tokens = std::min(sequences * tokens, kStepTokens);
    l.max_sequences = sequences, l.max_length = longest_;
    if (tokens == q_.prompt && sequences == 1) l.max_tokens = std::max(l.max_tokens, tokens);
    if (recorded) l.step_sizes = q_.batches;
    l.operator_times = operator_times ? OperatorTimes::kMarks : OperatorTimes::kNone;
    return l;
  }

  void decode(bool recorded, bool operator_times, const std::vector<std::int64_t>& contexts) {
    const std::int64_t most = *std::max_element(q_.batches.begin(), q_.batches.end()),
                       longest = *std::max_element(contexts.begin(), contexts.end());
    const auto model = weights_->twin(layout(most, longest, recorded, operator_times));
    const std::int64_t each = model->layout().num_blocks / most;
    std::vector<std::int32_t> blocks(static_cast<std::size_t>(model->layout().num_blocks));
    std::iota(blocks.begin(), blocks.end(), 0);
    const double start = now();
    fill(*model, most, longest - 1, blocks.data(), each);
    Json filled = about("fill");
    filled["tokens"] = most * (longest - 1), filled["seconds"] = now() - start;
    print(filled);
    for (const std::int64_t context : contexts)
      for (const std::int64_t batch : q_.batches) {
        std::vector<std::int32_t> tokens = some_tokens(batch, 5);
        const auto step = [&] {
          std::vector<StepSequence> sequences;
          for (std::int64_t i = 0; i < batch; ++i)
            sequences.push_back({{&tokens[static_cast<std::size_t>(i)], 1},
                                 context - 1,
                                 &blocks[static_cast<std::size_t>(i * each)],
                                 true,
                                 true});
          return model->step(sequences);
        };
        Json line = about("decode");
        line["batch"] = batch, line["context"] = context;
        line["recorded"] = recorded, line["operator_times"] = operator_times;
        repeat(line, batch, 30, step, *model, &tokens);
        if (operator_times) line["operators_ms"] = operators_ms(*model);
        print(line);
      }
  }

  // Prompts of `tokens` in each of `sequences` caches.
  void fill(Transformer& model, std::int64_t sequences, std::int64_t tokens, const std::int32_t* blocks,
            std::int64_t each) const {
    std::vector<std::vector<std::int32_t>> prompts;
    for (std::int64_t i = 0; i < sequences; ++i) prompts.push_back(some_tokens(tokens, i));
    std::vector<StepSequence> step;
    std::int64_t room = model.layout().max_tokens;
    const auto run = [&] {
      if (!step.empty()) model.step(step);
      step.clear(), room = model.layout().max_tokens;
    };
    for (std::int64_t i = 0; i < sequences; ++i)
      for (std::int64_t at = 0; at < tokens;) {
        if (room == 0) run();
        const std::int64_t n = std::min(room, tokens - at);
        step.push_back({std::span(prompts[static_cast<std::size_t>(i)])
                            .subspan(static_cast<std::size_t>(at), static_cast<std::size_t>(n)),
                        at, blocks + i * each});
        at += n, room -= n;
      }
    run();
  }

  std::vector<std::int32_t> some_tokens(std::int64_t count, std::int64_t seed) const {
    std::vector<std::int32_t> tokens;
    for (std::int64_t i = 0; i < count; ++i)
      tokens.push_back(static_cast<std::int32_t>((i * i * 7 + i * (13 + seed) + 31 * seed) % config_.vocab));
    return tokens;
  }

  // step() until half a second and `least` times are over; then the likeliest token of each row, apart.
  void repeat(Json& line, std::int64_t rows, std::size_t least,
              const std::function<std::span<const float>()>& step, const Transformer& model,
              std::vector<std::int32_t>* next = nullptr) {
    Arena memory(kernels_.sampling_scratch(rows, config_.vocab), kernels_.memory());
    std::byte* const scratch = memory.bytes(memory.size());
    std::vector<std::int32_t> tokens(static_cast<std::size_t>(rows));
    const std::vector<double> uniforms(tokens.size(), 0.5);
    const Json before = clocks();
    for (int i = 0; i < 3; ++i) step();
    std::vector<double> steps, samples;
    const double end = now() + (kernels_.memory().host_reads() ? 0 : 0.5);
    while (steps.size() < least || now() < end) {
      const double start = now();
      const auto logits = step();
      const double between = now();
      kernels_.sample({}, logits.data(), config_.vocab, uniforms, tokens.data(), scratch);
      steps.push_back(between - start), samples.push_back(now() - between);
      if (next != nullptr) *next = tokens;
    }
    const double median = quantile(steps, 0.5);
    line["repeats"] = steps.size();
    line["step_ms"] = 1e3 * median;
    line["step_ms_p10"] = 1e3 * quantile(steps, 0.1), line["step_ms_p90"] = 1e3 * quantile(steps, 0.9);
    line["sample_ms"] = 1e3 * quantile(samples, 0.5);
    line["tokens_per_s"] = static_cast<double>(rows) / (median + quantile(samples, 0.5));
    double moved = 0, work = 0;
    for (const OperatorRun& o : model.operators_run()) moved += bytes(o.op).value, work += flops(o.op).value;
    line["bytes"] = moved, line["flops"] = work;
    line["tb_per_s"] = moved / median / 1e12, line["tflop_per_s"] = work / median / 1e12;
    const auto share = [&](const char* variable, const char* key, double reached) {
      const char* const text = std::getenv(variable);
      if (text != nullptr && std::atof(text) > 0) line[key] = reached / std::atof(text);
    };
    share("FORETOKEN_PEAK_TFLOPS", "mfu", work / median / 1e12);
    share("FORETOKEN_PEAK_TB_PER_S", "mbu", moved / median / 1e12);
    line["clocks_before"] = before, line["clocks_after"] = clocks();
  }

  static std::map<std::string, double> operators_ms(const Transformer& model) {
    std::map<std::string, double> ms;
    for (const OperatorRun& o : model.operators_run()) ms[std::string(o.op.name)] += 1e3 * o.seconds;
    return ms;
  }

  Json clocks() const {
    const cuda::Clocks c = clocks_.read();
    Json json = Json::object();
    if (c.sm_mhz) json["sm_mhz"] = *c.sm_mhz;
    if (c.memory_mhz) json["memory_mhz"] = *c.memory_mhz;
    if (c.power_w) json["watt"] = *c.power_w;
    if (c.temperature_c) json["celsius"] = *c.temperature_c;
    if (c.throttle_reasons) json["throttle"] = cuda::throttle_text(*c.throttle_reasons);
    return json;
  }

  Json about(const char* what) const {
    const std::size_t slash = q_.file.rfind('/');
    return Json{{"what", what},
                {"model", q_.file.substr(slash == std::string::npos ? 0 : slash + 1)},
                {"format", q_.format->name + std::string(q_.quantised_x ? "_x" : "")},
                {"kernels", kernels_.name()},
                {"machine", kernels_.machine()}};
  }

  // What can't be measured, as when memory doesn't hold it, is a line too.
  void attempt(const char* what, const std::function<void()>& measure) const {
    try {
      measure();
    } catch (const std::exception& e) {
      Json line = about(what);
      line["not_measured"] = e.what();
      print(line);
    }
  }
  static void print(const Json& line) { std::cout << line.dump() << std::endl; }

  const Question q_;
  const Kernels& kernels_;
  cuda::ClockReader clocks_;
  Threads threads_{static_cast<int>(std::max(1u, std::thread::hardware_concurrency()))};
  ModelConfig config_;
  Numerics numerics_;
  std::int64_t longest_ = 0;
  std::unique_ptr<Transformer> weights_;
};

std::vector<std::int64_t> numbers(const std::string& text) {
  std::vector<std::int64_t> list;
  std::istringstream in(text);
  for (std::string part; std::getline(in, part, ',');) list.push_back(std::max(1, std::atoi(part.c_str())));
  if (list.empty()) throw std::runtime_error("\"" + text + "\" is no list of numbers");
  std::sort(list.begin(), list.end());
  return list;
}

}  // namespace
}  // namespace foretoken

int main(int count, char** arguments) {
  using namespace foretoken;
  Question q;
  std::string format = count < 3 ? "" : arguments[2];
  q.quantised_x = format.ends_with("_x");
  if (q.quantised_x) format.resize(format.size() - 2);
  q.format = format.empty() ? nullptr : format_of(format);
  if (q.quantised_x && q.format != nullptr && format != "fp8" && format != "int8") q.format = nullptr;
  if (q.format == nullptr) {
    std::cerr << "gpu_model_speed CONFIG.json float32|bfloat16|float16|int8|int4_wo|fp8|int8_x|fp8_x "
                 "[BATCHES [CONTEXTS "
                 "[PROMPT]]]\n";
    return 2;
  }
  try {
    q.file = arguments[1];
    if (count > 3) q.batches = numbers(arguments[3]);
    if (count > 4) q.contexts = numbers(arguments[4]);
    if (count > 5) q.prompt = numbers(arguments[5]).front();
    const ChosenKernels backend = open_backend(wanted_backend("cuda"));
    if (backend.kernels == nullptr) {
      std::cerr << backend.why_not << "; nothing was measured\n";
      return 0;
    }
    ModelSpeed speed(backend, q);
    speed.decode();
    speed.prompt();
    return 0;
  } catch (const std::exception& e) {
    std::cerr << "error: " << e.what() << "\n";
    return 1;
  }
}
