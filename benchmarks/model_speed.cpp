// A whole model's speed on this processor, or on a CUDA device, a round at a time, for scripts that let
// another program run between rounds (compare_llama_cpp.py):
//
//   model_speed CONFIG.json FORMAT THREADS [PROMPT [OUTPUT]]
//
// loads synthetic weights of the config's shape (FORMAT: float32, bfloat16, float16, int8, int4_wo or fp8;
// the cache in bfloat16, for float32 and float16 weights like them). Each line of stdin runs one prompt and
// then decodes, greedily; each answer is a line of JSON: seconds of the prompt, seconds a token, the last
// token, milliseconds by operator, and the rate at which a token's weights were read over what the same
// threads read from memory between the tokens.
//
// FORETOKEN_BENCHMARK_BACKEND=cuda runs it on a device (gpu_model_speed measures more there); nothing is then
// said of what memory gives.
#include <algorithm>
#include <ctime>
#include <fstream>
#include <iostream>
#include <iterator>
#include <map>
#include <numeric>
#include <string>
#include <vector>

#include "base/json_full.h"
#include "benchmarks/chosen_kernels.h"
#include "benchmarks/memory_reader.h"
#include "benchmarks/model_formats.h"
#include "executor/checkpoint.h"
#include "executor/transformer.h"
#include "model/hf_config.h"
#include "model/parameters.h"

namespace foretoken {
namespace {

double processor_time() { return static_cast<double>(std::clock()) / CLOCKS_PER_SEC; }

struct Timed {
  double seconds = 0, processor = 0;        // processor: of all threads together
  std::map<std::string, double> operators;  // milliseconds
};

int run(const Kernels& kernels, const std::string& file, const Format& format, int thread_count,
        std::int64_t prompt, std::int64_t output) {
  std::ifstream in(file);
  const std::string text((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
  const Json json = parse_json(text, file);
  const ModelConfig config = read_hf_config(json, file, "model");
  const std::int64_t longest = prompt + output + 1;
  const Numerics numerics = read_numerics(json, config, longest, file);
  Layout layout;
  layout.weights = format.weights, layout.plain = layout.cache = format.plain;
  layout.num_blocks = (longest + layout.block_size - 1) / layout.block_size;
  layout.max_tokens = prompt, layout.max_sequences = 1, layout.max_length = longest;
  if (kernels.graphs()) layout.step_sizes = {1};
  Threads threads(thread_count);
  const Precision precision{format.activation, format.activation, format.listed};
  Transformer transformer(config, numerics, *synthetic_checkpoint(config, numerics, 1), kernels, layout,
                          precision, threads);
  // A table of embeddings that is no output matrix is hardly read.
  double token_bytes = weight_bytes(config, Shard{}, precision).value;
  if (!config.tied_embeddings)
    token_bytes -= static_cast<double>(config.vocab * config.hidden) * bytes_of(format.activation);
  const bool on_host = kernels.memory().host_reads();
  MemoryReader memory;
  std::vector<double> rates;
  Arena scratch_memory(kernels.sampling_scratch(1, config.vocab), kernels.memory());
  std::byte* const scratch = scratch_memory.bytes(scratch_memory.size());
  std::vector<std::int32_t> blocks(static_cast<std::size_t>(layout.num_blocks)), tokens;
  std::iota(blocks.begin(), blocks.end(), 0);
  for (std::int64_t i = 0; i < prompt; ++i)
    tokens.push_back(static_cast<std::int32_t>((i * i * 7 + i * 13 + 31) % config.vocab));

  const auto step = [&](std::span<const std::int32_t> fresh, std::int64_t cached, Timed& t) {
    const StepSequence sequence{fresh, cached, blocks.data(), cached > 0, true};
    const double start = now(), before = processor_time();
    const auto logits = transformer.step({&sequence, 1});
    std::int32_t token = 0;
    kernels.best_tokens(logits.data(), 1, config.vocab, 1, &token, scratch);
    t.seconds += now() - start, t.processor += processor_time() - before;
    for (const OperatorRun& o : transformer.operators_run())
      t.operators[std::string(o.op.name)] += o.seconds * 1e3;
    return token;
  };
  std::cout << "{\"ready\": true}" << std::endl;
  for (std::string line; std::getline(std::cin, line);) {
    Timed whole, one;
    std::int32_t token = step(tokens, 0, whole);
    for (std::int64_t i = 0; i < output; ++i) {
      token = step({&token, 1}, prompt + i, one);
      if (on_host) rates.push_back(memory.read(threads));
    }
    for (auto& [name, ms] : one.operators) ms /= static_cast<double>(output);
    Json answer{{"prompt_seconds", whole.seconds},
                {"token_seconds", one.seconds / static_cast<double>(output)},
                {"prompt_processor", whole.processor},
                {"token_processor", one.processor / static_cast<double>(output)},
                {"last_token", token},
                {"prompt_ms", whole.operators},
                {"token_ms", one.operators}};
    if (on_host) {
      const auto middle = rates.begin() + static_cast<std::ptrdiff_t>(rates.size() / 2);
      std::nth_element(rates.begin(), middle, rates.end());
      answer["of_memory_read"] = token_bytes * static_cast<double>(output) / one.seconds / *middle;
    }
    std::cout << answer.dump() << std::endl;
  }
  return 0;
}

}  // namespace
}  // namespace foretoken

int main(int count, char** arguments) {
  using namespace foretoken;
  const Format* format = count < 4 ? nullptr : format_of(arguments[2]);
  if (format == nullptr) {
    std::cerr
        << "model_speed CONFIG.json float32|bfloat16|float16|int8|int4_wo|fp8 THREADS [PROMPT [OUTPUT]]\n";
    return 2;
  }
  try {
    const ChosenKernels backend = open_backend(wanted_backend("cpu"));
    if (backend.kernels == nullptr) throw std::runtime_error(backend.why_not);
    return run(*backend.kernels, arguments[1], *format, std::max(1, std::atoi(arguments[3])),
               count > 4 ? std::max(1, std::atoi(arguments[4])) : 512,
               count > 5 ? std::max(1, std::atoi(arguments[5])) : 32);
  } catch (const std::exception& e) {
    std::cerr << "error: " << e.what() << "\n";
    return 1;
  }
}
