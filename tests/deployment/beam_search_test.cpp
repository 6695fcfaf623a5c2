// Beam search resolved: where the scheduler learns of it, and what is refused beside it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/json_full.h"
#include "models.h"

namespace foretoken {
namespace {

using testing::AllOf;
using testing::HasSubstr;

Deployment with_beams(const Json& patch = Json::object()) {
  Json j = Json::parse(R"({"model": "llama-3.1-8b", "hardware": {"device": "h100"},
                           "workload": {"request_rate": 1, "beam_width": 4}})");
  j.merge_patch(patch);
  const Scenario s = scenario_from_json(j, "test.json");
  Resources r;
  r.preset_folder = std::filesystem::path(FORETOKEN_SOURCE_DIR) / "model/presets";
  r.scenario_file = "test.json";
  auto verdict = resolve_on(s, r, load_scenario_model(s, r), h100(), nvlink_node(), 1000, 8192);
  if (const auto* no = std::get_if<Infeasible>(&verdict)) throw std::runtime_error(no->reason);
  return std::get<Deployment>(std::move(verdict));
}

TEST(BeamSearch, TheSchedulerAndTheSamplerKnowTheWidth) {
  const Deployment d = with_beams();
  EXPECT_EQ(d.scheduler.beam_width, 4);
  EXPECT_TRUE(d.fusion.ranks_beams);
  const Deployment one = with_beams({{"workload", {{"beam_width", 1}}}}),
                   none = with_beams({{"workload", {{"beam_width", nullptr}}}});
  EXPECT_EQ(none.scheduler.beam_width, 1);
  EXPECT_EQ(one.scheduler.beam_width, 1);
  EXPECT_FALSE(one.fusion.ranks_beams);
  EXPECT_EQ(d.memory.num_gpu_blocks, none.memory.num_gpu_blocks) << "max_num_seqs counts beams already";
}

TEST(BeamSearch, IsRefusedByNameBesideWhatItIsNotModelledWith) {
  const auto refused = [](const Json& patch) { return error_of([&] { with_beams(patch); }); };
  EXPECT_THAT(refused({{"workload", {{"beam_width", 0}}}}), HasSubstr("/workload/beam_width"));
  for (const char* behavior : {"sglang", "trtllm"})
    EXPECT_THAT(refused({{"engine", {{"behavior", behavior}}}}),
                AllOf(HasSubstr("test.json:/workload/beam_width"), HasSubstr(behavior), HasSubstr("use")));
  EXPECT_THAT(refused({{"workload", {{"temperature", 0.5}}}}),
              AllOf(HasSubstr("/workload/temperature"), HasSubstr("draws none")));
  EXPECT_THAT(refused({{"engine", {{"pipeline_parallel_size", 2}}}}), HasSubstr("pipeline_parallel_size"));
  EXPECT_THAT(
      refused({{"engine", {{"speculative_config", {{"method", "ngram"}, {"num_speculative_tokens", 2}}}}}}),
      HasSubstr("/engine/speculative_config"));
  EXPECT_THAT(refused({{"engine", {{"kv_layout", "contiguous"}}}}),
              AllOf(HasSubstr("/engine/kv_layout"), HasSubstr("use paged")));
  EXPECT_THAT(refused({{"engine", {{"preemption_mode", "swap"}}},
                       {"hardware", {{"host_link_bandwidth", "50 GB/s"}}}}),
              AllOf(HasSubstr("/engine/preemption_mode"), HasSubstr("use recompute")));
  EXPECT_THAT(refused({{"cluster",
                        {{"prefill", Json::object()},
                         {"decode", Json::object()},
                         {"kv_link", {{"bandwidth", "50 GB/s"}}}}},
                       {"hardware", {{"count", 2}}}}),
              AllOf(HasSubstr("/workload/beam_width"), HasSubstr("split")));
  EXPECT_THAT(refused({{"model", "qwen3-next-80b-a3b"}, {"engine", {{"tensor_parallel_size", 4}}}}),
              HasSubstr("recurrent states"));
  EXPECT_THAT(refused({{"engine", {{"max_num_seqs", 3}}}}),
              AllOf(HasSubstr("above max_num_seqs 3"), HasSubstr("raise")));
}

}  // namespace
}  // namespace foretoken
