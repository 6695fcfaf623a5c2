// A whole model's speed on this processor, a round at a time, for scripts that let another program run
// between rounds (compare_llama_cpp.py):
//
//   model_speed CONFIG.json FORMAT THREADS [PROMPT [OUTPUT]]
//
// loads synthetic weights of the config's shape (FORMAT: float32, bfloat16, float16, int8, int4_wo or fp8;
// the cache in bfloat16, for float32 and float16 weights like them). Each line of stdin runs one prompt and
// then decodes, greedily; each answer is a line of JSON: seconds of the prompt, seconds a token, the last
// token, milliseconds by operator, and the rate at which a token's weights were read over what the same
// threads read from memory between the tokens.
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
#include "benchmarks/memory_reader.h"
#include "executor/checkpoint.h"
#include "executor/transformer.h"
#include "model/hf_config.h"
#include "model/parameters.h"

namespace foretoken {
namespace {

struct Format {
  const char* name;
  Storage weights, plain;
  DType activation;
  WeightFormat listed;
};
constexpr Format kFormats[] = {
    {"float32", Storage::kF32, Storage::kF32, DType::kF32, WeightFormat::kPlain},
    {"bfloat16", Storage::kBf16, Storage::kBf16, DType::kBf16, WeightFormat::kPlain},
    {"float16", Storage::kF16, Storage::kF16, DType::kF16, WeightFormat::kPlain},
    {"int8", Storage::kInt8, Storage::kBf16, DType::kBf16, WeightFormat::kInt8},
    {"int4_wo", Storage::kInt4, Storage::kBf16, DType::kBf16, WeightFormat::kInt4Wo},
    {"fp8", Storage::kFp8, Storage::kBf16, DType::kBf16, WeightFormat::kFp8}};

double processor_time() { return static_cast<double>(std::clock()) / CLOCKS_PER_SEC; }

struct Timed {
  double seconds = 0, processor = 0;        // processor: of all threads together
  std::map<std::string, double> operators;  // milliseconds
};

int run(const std::string& file, const Format& format, int thread_count, std::int64_t prompt,
        std::int64_t output) {
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
  Threads threads(thread_count);
  const Precision precision{format.activation, format.activation, format.listed};
  Transformer transformer(config, numerics, *synthetic_checkpoint(config, numerics, 1), *cpu_kernels(),
                          layout, precision, threads);
  // A table of embeddings that is no output matrix is hardly read.
  double token_bytes = weight_bytes(config, Shard{}, precision).value;
  if (!config.tied_embeddings)
    token_bytes -= static_cast<double>(config.vocab * config.hidden) * bytes_of(format.activation);
  MemoryReader memory;
  std::vector<double> rates;
  std::vector<std::int32_t> blocks(static_cast<std::size_t>(layout.num_blocks)), tokens;
  std::iota(blocks.begin(), blocks.end(), 0);
  for (std::int64_t i = 0; i < prompt; ++i)
    tokens.push_back(static_cast<std::int32_t>((i * i * 7 + i * 13 + 31) % config.vocab));

  const auto step = [&](std::span<const std::int32_t> fresh, std::int64_t cached, Timed& t) {
    const StepSequence sequence{fresh, cached, blocks.data(), cached > 0, true};
    const double start = now(), before = processor_time();
    const auto logits = transformer.step({&sequence, 1});
    const auto token =
        static_cast<std::int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
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
      rates.push_back(memory.read(threads));
    }
    const auto middle = rates.begin() + static_cast<std::ptrdiff_t>(rates.size() / 2);
    std::nth_element(rates.begin(), middle, rates.end());
    for (auto& [name, ms] : one.operators) ms /= static_cast<double>(output);
    const Json answer{{"prompt_seconds", whole.seconds},
                      {"token_seconds", one.seconds / static_cast<double>(output)},
                      {"prompt_processor", whole.processor},
                      {"token_processor", one.processor / static_cast<double>(output)},
                      {"last_token", token},
                      {"of_memory_read", token_bytes * static_cast<double>(output) / one.seconds / *middle},
                      {"prompt_ms", whole.operators},
                      {"token_ms", one.operators}};
    std::cout << answer.dump() << std::endl;
  }
  return 0;
}

}  // namespace
}  // namespace foretoken

int main(int count, char** arguments) {
  using foretoken::kFormats;
  const auto* format = count < 4 ? std::end(kFormats)
                                 : std::find_if(std::begin(kFormats), std::end(kFormats), [&](const auto& f) {
                                     return f.name == std::string(arguments[2]);
                                   });
  if (format == std::end(kFormats)) {
    std::cerr
        << "model_speed CONFIG.json float32|bfloat16|float16|int8|int4_wo|fp8 THREADS [PROMPT [OUTPUT]]\n";
    return 2;
  }
  try {
    return foretoken::run(arguments[1], *format, std::max(1, std::atoi(arguments[3])),
                          count > 4 ? std::max(1, std::atoi(arguments[4])) : 512,
                          count > 5 ? std::max(1, std::atoi(arguments[5])) : 32);
  } catch (const std::exception& e) {
    std::cerr << "error: " << e.what() << "\n";
    return 1;
  }
}
