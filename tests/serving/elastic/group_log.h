// A backend of elastic instances whose steps can be written down by hand.
#pragma once

#include <fmt/format.h>

#include <string>
#include <vector>

#include "toy.h"

namespace foretoken::toy {

// Steps in words: "p0 p1@0,2" computes two prompts on instances 0 and 2; "0:2/9 1:0/4" decodes with instance
// 0 as master of two sequences, 9 tokens of the group's cache on it and 4 on instance 1; " | " between groups
// of one step. A prefill takes 100 ps for each token of its fullest instance, a decode step 1000 ps.
class GroupLog : public Backend {
 public:
  std::span<const std::int64_t> windows() const override { return windows_; }
  StepTime run(const Step& step) override {
    std::string text;
    Picoseconds time = 0;
    for (std::size_t i = 0; i < step.ranks.size(); ++i) {
      const Batch& b = step.ranks[i];
      const bool begins = i == 0 || step.ranks[i - 1].group != b.group;
      if (begins && i > 0) text += " | ";
      if (!b.prefill.empty()) {
        if (begins) {
          for (const PrefillPart& p : b.prefill)
            text += fmt::format("{}p{}", &p == &b.prefill[0] ? "" : " ", p.request);
          text += '@';
        }
        text += fmt::format("{}{}", begins ? "" : ",", b.instance);
        time = std::max(time, 100 * b.tokens());
      } else {
        text += fmt::format("{}{}:{}/{}", begins ? "" : " ", b.instance, b.decode_sequences, b.contexts[0]);
        time = std::max<Picoseconds>(time, 1000);
      }
    }
    steps.push_back(fmt::format("{} {}", step.start, text));
    return {time, time};
  }
  std::vector<std::string> steps;

 private:
  std::vector<std::int64_t> windows_{0};
};

// So many instances of so many tokens. A prefill of l_i tokens over k of them is predicted to take
// base + sum of l_i / k ms.
inline ServeOptions elastic(int instances, std::int64_t tokens, double base = 10) {
  ServeOptions o;
  SchedulerConfig c;
  c.policy = SchedulerPolicy::kLoongserve;
  c.enable_prefix_caching = false;
  c.enable_chunked_prefill = false;
  c.block_size = 1;
  c.num_blocks = tokens + 1;
  c.max_model_len = tokens * instances;
  c.max_num_batched_tokens = tokens * instances;
  c.max_num_seqs = 100;
  for (int k = 1; k <= instances; ++k) c.loongserve.prefill_model.push_back({base, 1.0 / k, 0});
  o.engines = {{c}};
  o.replicas = instances;
  o.keep_records = true;
  return o;
}
inline LoongserveConfig& knobs(ServeOptions& o) { return o.engines[0].scheduler.loongserve; }

}  // namespace foretoken::toy
