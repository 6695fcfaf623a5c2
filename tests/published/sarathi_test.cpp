// What SARATHI (Agrawal et al. 2023, arXiv 2308.16369) states: chunks of prompts with decodes beside them
// (table 4), and fewer bubbles in a pipeline (section 5.3). Nothing here is fitted to these figures.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <vector>

#include "base/random.h"
#include "fixtures.h"
#include "serving/serve.h"
#include "simulator/predicted_backend.h"
#include "simulator/step_pricer.h"

namespace foretoken {
namespace {

struct Row {
  const char *model, *device;
  std::int32_t length;  // prompt and output
  std::int32_t batch;
  double ratio;  // P:D
  double decode_speedup, gain;
};

class Pair {
 public:
  Pair(const std::string& model, const char* device)
      : p_(resolve_or_fail(test_scenario(R"({"model": )" + model + R"(, "hardware": {"device": ")" + device +
                                         R"("}, "engine": {"behavior": "foretoken", "dtype": "float16",
             "max_model_len": 3200, "num_gpu_blocks_override": 202}})"),
                           512, 3200),
           true),
        pricer_(p_.deployment, p_.cost) {}
  // Of a prompt's tokens after `cached` ones beside `decodes` sequences with `context` tokens each.
  double seconds(std::int32_t tokens, std::int32_t cached, std::int64_t decodes, double context) {
    Probe probe;
    probe.sequences = decodes;
    probe.context = context;
    if (tokens > 0) probe.prefill.push_back({-1, 0, tokens, cached, true});
    return pricer_.seconds(probe);
  }

 private:
  Priced p_;
  StepPricer pricer_;
};

// LLaMA-33B has no preset.
constexpr const char* kLlama33b = R"({"config": {"model_type": "llama", "hidden_size": 6656,
    "intermediate_size": 17920, "num_hidden_layers": 60, "num_attention_heads": 52, "num_key_value_heads": 52,
    "max_position_embeddings": 4096, "rms_norm_eps": 1e-6, "vocab_size": 32000, "hidden_act": "silu",
    "tie_word_embeddings": false, "torch_dtype": "float16"}})";

// Table 4, chunk size 256, which counts the decodes beside a chunk (section 4.4: their sum is a multiple of a
// tile). The baseline computes prompts alone and decodes of the whole batch alone; SARATHI a chunk of one
// prompt with a decode of all others, in a balance of prompts and outputs in which both are always there. An
// A40 stands for the A6000 (the same die, a tenth less bandwidth). Only device time is priced. Gains are met
// within 8 %; speedups of
// decodes a tenth too high on the A40 and 1.4 to 3 times on the A100.
TEST(Sarathi, ThroughputAndDecodesBesideChunks) {
  const Row rows[] = {{R"("llama-2-13b")", "a40", 1024, 6, 50, 5.45, 1.33},
                      {R"("llama-2-13b")", "a40", 2048, 6, 50, 3.26, 1.26},
                      {R"("llama-2-13b")", "a40", 3072, 6, 50, 2.51, 1.22},
                      {kLlama33b, "a100-sxm-80gb", 1024, 10, 28, 3.83, 1.25},
                      {kLlama33b, "a100-sxm-80gb", 2048, 5, 63, 4.25, 1.22},
                      {kLlama33b, "a100-sxm-80gb", 3072, 3, 127, 3.51, 1.14}};
  for (const Row& row : rows) {
    Pair pair(row.model, row.device);
    const double output = row.length / (row.ratio + 1), prompt = row.length - output;
    const double context = prompt + output / 2;
    const std::int32_t others = row.batch - 1, chunk = 256 - others;
    const double decode = pair.seconds(0, 0, row.batch, context);
    const double baseline =
        pair.seconds(static_cast<std::int32_t>(prompt), 0, 0, 0) + output * decode / row.batch;
    double hybrid = 0, alone = 0;  // a request's chunks, with the decodes beside them and without
    int steps = 0;
    for (double done = 0; done < prompt; done += chunk, ++steps) {
      const double share = std::min(1.0, (prompt - done) / chunk);
      hybrid += share * pair.seconds(chunk, static_cast<std::int32_t>(done), others, context);
      alone += share * pair.seconds(chunk, static_cast<std::int32_t>(done), 0, 0);
    }
    const double gain = baseline / hybrid;
    const double speedup = decode / row.batch / ((hybrid - alone) / (prompt / chunk * others));
    RecordProperty("gain_" + std::to_string(&row - rows), std::to_string(gain));
    RecordProperty("decode_speedup_" + std::to_string(&row - rows), std::to_string(speedup));
    EXPECT_NEAR(gain, row.gain, 0.08 * row.gain) << row.model << " " << row.length;
    EXPECT_GT(speedup, row.decode_speedup) << row.model << " " << row.length;
    EXPECT_LT(speedup, (std::string(row.device) == "a40" ? 1.15 : 3.2) * row.decode_speedup) << row.length;
  }
}

// Table 2, LLaMA-13B on an A6000, a prompt of 1,024 tokens and three decodes (its caption says four prompts
// of 1,024; its times a token are those of 1,024 in all): each of four decodes alone takes 12.49 ms, one
// beside a chunk of a prompt 1.2 ms. Here 12.96 and 1.61 on an A40, an eighth, not a tenth; where the
// third more comes from isn't known.
TEST(Sarathi, ADecodeBesideAChunkTakesATenthOfOneAlone) {
  Pair pair(R"("llama-2-13b")", "a40");
  const double alone = 1e3 * pair.seconds(0, 0, 4, 1024) / 4;
  const double beside = 1e3 * (pair.seconds(1021, 0, 3, 1024) - pair.seconds(1024, 0, 0, 0)) / 3;
  RecordProperty("alone_ms", std::to_string(alone));
  RecordProperty("beside_ms", std::to_string(beside));
  EXPECT_NEAR(alone, 12.49, 0.08 * 12.49);
  EXPECT_GT(beside, 1.2);
  EXPECT_LT(beside, 1.4 * 1.2);
}

// A deployment's predicted steps; of each request what they would take if nothing were in their way.
class Watched : public Backend {
 public:
  Watched(const Deployment& d, const CostModel& cost) : inner_(d, cost) {}
  std::span<const std::int64_t> windows() const override { return inner_.windows(); }
  bool wants_sequences() const override { return true; }
  StepTime run(const Step& step) override {
    const StepTime t = inner_.run(step);
    for (const PrefillPart& p : step.ranks[0].prefill) own[p.request] += t.tokens_out;
    for (const DecodePart& d : step.ranks[0].decode) own[d.request] += t.tokens_out;
    return t;
  }
  std::map<RequestId, Picoseconds> own;

 private:
  PredictedBackend inner_;
};

// Sequences of 1K to 4K tokens by Zipf's law with an exponent of 0.4, ten prompt tokens for each of output.
class ZipfLengths : public Workload {
 public:
  explicit ZipfLengths(std::int64_t count) : count_(count) {
    double sum = 0;
    for (std::int32_t rank = 1; rank <= kLongest - kShortest + 1; ++rank)
      below_.push_back(sum += std::pow(rank, -0.4));
  }
  std::optional<Picoseconds> next_arrival() const override {
    return next_ < count_ ? std::optional<Picoseconds>(0) : std::nullopt;
  }
  Request pop() override {
    const double drawn = CounterRandom(3, 17, static_cast<std::uint64_t>(next_)).uniform() * below_.back();
    const auto rank = std::lower_bound(below_.begin(), below_.end(), drawn) - below_.begin();
    const auto length = static_cast<std::int32_t>(kShortest + rank);
    Request r;
    r.id = next_++;
    r.output_len = std::max(1, length / 11);
    r.input_len = length - r.output_len;
    return r;
  }
  void finished(const Request&, Picoseconds) override {}
  std::int64_t total_requests() const override { return count_; }
  std::span<const ContentRun> content(const Request&) const override { return {}; }
  std::string describe() const override { return "Zipf's lengths"; }
  Means means() const override { return {}; }
  std::int64_t longest() const override { return kLongest; }

 private:
  static constexpr std::int32_t kShortest = 1024, kLongest = 4096;
  std::vector<double> below_;
  std::int64_t count_, next_ = 0;
};

struct Piped {
  double seconds, bubble;  // all requests; the median request's
};

constexpr std::int64_t kRequests = 3000;

Piped serve_gpt3(const std::string& engine, int stages) {
  const Priced p(
      resolve_or_fail(test_scenario(
                          R"({"model": {"config": {"model_type": "gpt3", "vocab_size": 50257, "n_embd": 12288,
      "n_layer": 96, "n_head": 96, "n_positions": 4096, "n_ctx": 4096, "tie_word_embeddings": true}},
      "hardware": {"device": "a100-sxm-80gb", "count": )" +
                          std::to_string(8 * stages) +
                          R"(}, "engine": {"dtype": "float16", "max_model_len": 4096,
      "tensor_parallel_size": 8, "pipeline_parallel_size": )" +
                          std::to_string(stages) + R"(, "num_gpu_blocks_override": 60000, )" + engine + "}}"),
                      2500, 4096),
      true);
  Watched backend(p.deployment, p.cost);
  ServeOptions o;
  o.engines = {{p.deployment.scheduler}};
  o.keep_records = true;
  ZipfLengths workload(kRequests);
  const ServeResult r = serve(workload, backend, o);
  EXPECT_EQ(r.metrics.completed, kRequests);
  std::vector<double> bubbles;
  Picoseconds last = 0;
  for (const RequestRecord& x : r.records) {
    bubbles.push_back(to_seconds(x.finish - x.scheduled - backend.own[x.id]).value);
    last = std::max(last, x.finish);
  }
  std::nth_element(bubbles.begin(), bubbles.begin() + kRequests / 2, bubbles.end());
  return {to_seconds(last).value, bubbles[kRequests / 2]};
}

// Section 5.3: GPT-3 on 64 A100, tensor parallelism 8 in 8 stages, 27 requests in a micro-batch, sequences of
// 1K to 4K tokens by Zipf's law (exponent 0.4), P:D of 10, chunks of 256: the median request waits 6.29 times
// less for the pipeline than under Orca, and all end 1.91 times sooner. A request's bubbles are here what its
// steps lasted beyond their own computing in every stage; how they are counted there isn't known. Orca is the
// iteration-level scheduler as it comes, theirs the best case, in which one prompt at a time meets decodes.
// All requests are there at once; of 3,000 all end 1.88 times sooner (of 600 1.51, of 10,000 1.94: at first
// and at the end micro-batches are unlike under both). Bubbles are 15 times fewer, not 6.29.
TEST(Sarathi, ChunksOfOneLengthLeaveFewerBubblesInAPipeline) {
  const Piped orca = serve_gpt3(
      R"("behavior": "orca", "kv_reservation": "exact", "kv_layout": "paged", "max_batch_size": 27)", 8);
  const Piped sarathi =
      serve_gpt3(R"("behavior": "sarathi", "max_num_seqs": 216, "max_num_batched_tokens": 256)", 8);
  RecordProperty("bubbles", std::to_string(orca.bubble / sarathi.bubble));
  RecordProperty("throughput", std::to_string(orca.seconds / sarathi.seconds));
  EXPECT_GT(orca.bubble / sarathi.bubble, 6.29);
  EXPECT_NEAR(orca.seconds / sarathi.seconds, 1.91, 0.1);
}

}  // namespace
}  // namespace foretoken
