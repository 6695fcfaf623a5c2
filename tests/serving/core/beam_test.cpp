// Beam search in vLLM's scheduler: a request takes a row and, after its prompt's full blocks, blocks of its
// own for each of its beams; what was generated is computed again in all of them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <set>

#include "serving/scheduler/vllm_v1.h"
#include "toy.h"

namespace foretoken {
namespace {

using testing::ElementsAre;
using toy::ListWorkload;
using toy::ToyBackend;

ServeOptions with_beams(int width, std::int64_t num_blocks, int block_size = 4, std::int64_t budget = 100,
                        std::int64_t max_num_seqs = 16) {
  ServeOptions o = toy::options(num_blocks, block_size, budget, max_num_seqs);
  o.engines[0].scheduler.beam_width = width;
  return o;
}

// Looks into the scheduler's tables at every step: blocks as many as the tokens of a request need, its beams'
// own ones nobody else's; sums as the lists have them. Keeps the steps in words, with the blocks held.
class BeamLog : public Backend {
 public:
  explicit BeamLog(const SchedulerConfig& config) : config_(config) {}
  std::span<const std::int64_t> windows() const override { return windows_; }
  bool wants_sequences() const override { return true; }
  StepTime run(const Step& step) override {
    const Batch& b = step.ranks[0];
    std::string words;
    std::int64_t context = 0, rows = 0;
    std::map<std::int32_t, std::int64_t> tokens;  // of each slot, after the step
    std::map<std::int32_t, std::set<std::int32_t>> beams;
    for (const PrefillPart& p : b.prefill) {
      words += "p" + std::to_string(p.request) + ":" + std::to_string(p.new_tokens) + "/" +
               std::to_string(p.cached) + (p.last ? "! " : " ");
      tokens[p.slot] = p.cached + p.new_tokens;
      rows += p.last;
      EXPECT_TRUE(beams[p.slot].insert(p.beam).second);
      if (config_.beam_width > 1) {
        EXPECT_TRUE(p.cached >= input_of(b, p.slot) || p.cached + p.new_tokens <= input_of(b, p.slot))
            << "a prompt ends in a step before its beams go on";
      }
    }
    for (const DecodePart& p : b.decode) {
      words += "d" + std::to_string(p.request) + "@" + std::to_string(p.context) + " ";
      tokens[p.slot] = p.context;
      context += p.context;
      ++rows;
      EXPECT_TRUE(beams[p.slot].insert(p.beam).second);
    }
    EXPECT_EQ(static_cast<std::size_t>(b.decode_sequences), b.decode.size());
    EXPECT_EQ(b.contexts[0], context);
    EXPECT_EQ(b.growing[0], b.decode_sequences);
    EXPECT_EQ(b.sampled_rows, rows);
    EXPECT_LE(b.tokens(), config_.max_num_batched_tokens);
    std::set<std::int32_t> owned;
    for (const auto& [slot, n] : tokens) {
      const Sequence& s = (*b.sequences)[slot];
      EXPECT_EQ(static_cast<std::int64_t>(s.blocks.size()), blocks_of_beams(config_, s.request.input_len, n));
      EXPECT_GE(s.capacity, n);
      const std::size_t width = n > s.request.input_len ? static_cast<std::size_t>(config_.beam_width) : 1;
      EXPECT_EQ(beams[slot].size(), width);
      const auto shared = static_cast<std::size_t>(s.request.input_len / config_.block_size);
      for (std::size_t i = shared; i < s.blocks.size(); ++i)
        EXPECT_TRUE(owned.insert(s.blocks[i]).second) << "a block of two requests or beams";
      words += "[" + std::to_string(s.blocks.size()) + "]";
    }
    steps.push_back(words);
    return {1000, 1000};
  }
  std::vector<std::string> steps;

 private:
  static std::int32_t input_of(const Batch& b, std::int32_t slot) {
    return (*b.sequences)[slot].request.input_len;
  }
  SchedulerConfig config_;
  std::vector<std::int64_t> windows_{0};
};

TEST(BeamSearch, BlocksOfPromptAndBeams) {
  SchedulerConfig c;
  c.block_size = 4;
  c.beam_width = 3;
  const auto blocks = [&](std::int64_t tokens) { return blocks_of_beams(c, 6, tokens); };
  EXPECT_EQ(blocks(4), 1);
  EXPECT_EQ(blocks(6), 2) << "the prompt once";
  EXPECT_EQ(blocks(7), 1 + 3) << "its last block, partly filled, is each beam's own";
  EXPECT_EQ(blocks(8), 1 + 3);
  EXPECT_EQ(blocks(9), 1 + 3 * 2);
  EXPECT_EQ(blocks_of_beams(c, 8, 9), 2 + 3);
  c.beam_width = 1;
  for (std::int64_t tokens = 1; tokens < 30; ++tokens) EXPECT_EQ(blocks(tokens), (tokens + 3) / 4);
}

TEST(BeamSearch, ARequestTakesARowABeam) {
  ListWorkload w;
  w.add(0, 6, 4);
  const ServeOptions o = with_beams(2, 20);
  BeamLog log(o.engines[0].scheduler);
  const ServeResult r = serve(w, log, o);
  EXPECT_THAT(log.steps, ElementsAre("p0:6/0! [2]", "d0@7 d0@7 [3]", "d0@8 d0@8 [3]", "d0@9 d0@9 [5]"));
  EXPECT_EQ(r.metrics.total_output_tokens, 4) << "the best beam's";
  EXPECT_EQ(r.beam_blocks, 5);
  EXPECT_EQ(r.unshared_beam_blocks, 6) << "two sequences of 9 tokens";
  EXPECT_DOUBLE_EQ(r.shared_block_share(), 1.0 / 6);
}

// max_num_seqs counts beams, as vLLM does.
TEST(BeamSearch, BeamsAreSequences) {
  ListWorkload w;
  for (int i = 0; i < 3; ++i) w.add(0, 4, 2);
  const ServeOptions o = with_beams(3, 50, 4, 100, 7);
  BeamLog log(o.engines[0].scheduler);
  serve(w, log, o);
  EXPECT_THAT(log.steps, ElementsAre("p0:4/0! p1:4/0! [1][1]", "d0@5 d0@5 d0@5 d1@5 d1@5 d1@5 [4][4]",
                                     "p2:4/0! [1]", "d2@5 d2@5 d2@5 [4]"));
}

// 8 usable blocks of 4. Both go on with 1 + 2 blocks; the 9th token of each takes two more, which the second
// one gives up. Its prompt is a hit in the prefix cache no longer than a block, so 1 + 2 x 4 rows are
// computed again: the prompt's last token alone, then four generated ones in each beam.
TEST(BeamSearch, WhatWasGeneratedIsComputedAgainInEachBeam) {
  ListWorkload w;
  w.add(0, 5, 7);
  w.add(0, 5, 7);
  const ServeOptions o = with_beams(2, 9);
  BeamLog log(o.engines[0].scheduler);
  const ServeResult r = serve(w, log, o);
  EXPECT_THAT(log.steps, ElementsAre("p0:5/0! p1:5/0! [2][2]", "d0@6 d0@6 d1@6 d1@6 [3][3]",
                                     "d0@7 d0@7 d1@7 d1@7 [3][3]", "d0@8 d0@8 d1@8 d1@8 [3][3]",
                                     "d0@9 d0@9 [5]", "d0@10 d0@10 [5]", "d0@11 d0@11 [5]", "p1:1/4 [2]",
                                     "p1:4/5! p1:4/5! [5]", "d1@10 d1@10 [5]", "d1@11 d1@11 [5]"));
  EXPECT_EQ(r.metrics.preemptions, 1);
  EXPECT_EQ(r.discarded_tokens, 5 + 2 * 3);
  EXPECT_EQ(r.reused_tokens, 4);
}

TEST(BeamSearch, KeepsEveryBlockItsOwnersThroughPreemptionAndSharedPrompts) {
  std::int64_t preemptions = 0, reused = 0;
  for (std::uint64_t seed = 0; seed < 300; ++seed) {
    CounterRandom random(seed, 21);
    const auto pick = [&](std::int64_t low, std::int64_t high) { return random.uniform_int(low, high); };
    const int width = static_cast<int>(pick(1, 5)), block = static_cast<int>(pick(1, 5));
    ServeOptions o = with_beams(width, 1 + 40 * width / block + pick(0, 60), block, pick(5, 60), pick(5, 20));
    o.engines[0].scheduler.long_prefill_token_threshold = pick(0, 1) * pick(1, 9);
    ListWorkload w;
    for (std::int64_t i = pick(1, 30); i > 0; --i)
      w.add(0, static_cast<std::int32_t>(pick(1, 20)), static_cast<std::int32_t>(pick(1, 20)),
            {{static_cast<std::uint64_t>(pick(1, 2)), pick(1, 15)}});
    BeamLog log(o.engines[0].scheduler);
    const ServeResult r = serve(w, log, o);  // which fails where blocks are left behind
    ASSERT_FALSE(r.aborted) << seed << r.abort_reason;
    EXPECT_EQ(r.rejected, 0);
    std::int64_t needed = 0;
    for (const RequestRecord& x : r.records) needed += x.input_len + width * (x.output_len - 1);
    ASSERT_EQ(r.scheduled_tokens + r.reused_tokens - r.discarded_tokens, needed) << seed;
    preemptions += r.metrics.preemptions;
    reused += r.reused_tokens;
  }
  EXPECT_GT(preemptions, 300);
  EXPECT_GT(reused, 3000);
}

TEST(BeamSearch, MoreBeamsAreNeverFaster) {
  Picoseconds last = 0;
  for (const int width : {1, 2, 3, 4, 8}) {
    ListWorkload w;
    for (int i = 0; i < 40; ++i) w.add(i * 1000, 5 + i % 7, 3 + i % 11);
    ToyBackend backend(500, 3, 20, {1});
    const ServeResult r = serve(w, backend, with_beams(width, 300, 4, 100, 32));
    Picoseconds end = 0;
    for (const RequestRecord& x : r.records) end = std::max(end, x.finish);
    EXPECT_GT(end, last) << width;
    last = end;
  }
}

TEST(BeamSearch, RequestsTooLargeForTheirBeamsAreRejected) {
  ListWorkload w;
  w.add(0, 6, 4);  // 9 tokens in the cache: 1 + 2 x 2 blocks
  EXPECT_EQ(serve(w, *std::make_unique<ToyBackend>(10), with_beams(2, 6)).rejected, 0);
  ListWorkload same;
  same.add(0, 6, 4);
  const ServeResult r = serve(same, *std::make_unique<ToyBackend>(10), with_beams(2, 5));
  EXPECT_EQ(r.rejected, 1);
  EXPECT_THAT(r.rejected_reason, testing::HasSubstr("9 tokens and 2 beams needs 5 KV blocks"));
}

}  // namespace
}  // namespace foretoken
