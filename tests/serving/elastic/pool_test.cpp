// The pool's decisions by themselves: the dynamic program against a search over all groupings, and memory
// that is the sum of what requests hold.
#include "serving/elastic/pool.h"

#include <gtest/gtest.h>

#include <functional>
#include <numeric>

#include "group_log.h"

namespace foretoken {
namespace {

using elastic::Allocation;
using elastic::Group;
using elastic::Pool;

struct Random {
  explicit Random(std::uint64_t seed) : draws(seed, 77) {}
  std::int64_t operator()(std::int64_t low, std::int64_t high) { return draws.uniform_int(low, high); }
  CounterRandom draws;
};

Request request(RequestId id, std::int64_t input, std::int64_t output) {
  Request r;
  r.id = id;
  r.input_len = static_cast<std::int32_t>(input);
  r.output_len = static_cast<std::int32_t>(output);
  return r;
}

SchedulerConfig config(int instances, std::int64_t tokens, Random& random) {
  SchedulerConfig c = toy::elastic(instances, tokens).engines[0].scheduler;
  double time = static_cast<double>(random(1, 60));
  for (auto& m : c.loongserve.prefill_model) {
    m = {time, 1.0 / static_cast<double>(random(1, 8)), 0.02 / static_cast<double>(random(1, 8))};
    time += static_cast<double>(random(0, 20));
  }
  c.loongserve.min_comp_bound_decoding_batch_size = random(1, 5);
  c.loongserve.max_num_ooe = random(0, 3);
  c.loongserve.avg_decoding_time = static_cast<double>(random(1, 30));
  return c;
}

// Over all ways to cut the prompts, the longest first, and the instances, the emptiest first, into groups.
TEST(ElasticPool, GroupsPromptsAtTheLeastCost) {
  for (std::uint64_t seed = 0; seed < 200; ++seed) {
    Random random(seed);
    const int instances = static_cast<int>(random(1, 4));
    const SchedulerConfig c = config(instances, 100, random);
    Pool pool(c, instances);
    std::vector<std::int32_t> slots, all(static_cast<std::size_t>(instances));
    std::iota(all.begin(), all.end(), 0);
    std::vector<double> lengths;
    for (std::int64_t n = random(1, 6), i = 0; i < n; ++i) {
      lengths.push_back(static_cast<double>(random(1, 100 * instances / n)));
      slots.push_back(pool.add(request(i, static_cast<std::int64_t>(lengths.back()), 2), 0));
    }
    std::sort(lengths.begin(), lengths.end(), std::greater<>());
    const auto cost = [&](std::size_t from, std::size_t to, std::size_t on) {
      double sum = 0, squares = 0, weight = 0;
      for (; from < to; ++from) {
        sum += lengths[from];
        squares += lengths[from] * lengths[from];
        weight += 1 / lengths[from];
      }
      const auto& m = c.loongserve.prefill_model[on - 1];
      return sum > 100.0 * static_cast<double>(on) ? 1e300 : (m[0] + m[1] * sum + m[2] * squares) * weight;
    };
    const std::function<double(std::size_t, std::size_t)> least = [&](std::size_t from, std::size_t left) {
      if (from == lengths.size()) return 0.0;
      double best = 1e300;
      for (std::size_t to = from + 1; to <= lengths.size(); ++to)
        for (std::size_t on = 1; on <= left; ++on)
          best = std::min(best, cost(from, to, on) + least(to, left - on));
      return best;
    };
    double longest = 0, sum = 0;
    std::vector<Group> groups = pool.batch(slots, all, longest);
    std::reverse(groups.begin(), groups.end());
    std::size_t from = 0;
    for (const Group& g : groups) {
      sum += cost(from, from + g.slots.size(), g.instances.size());
      from += g.slots.size();
    }
    EXPECT_EQ(from, lengths.size());
    EXPECT_NEAR(sum, least(0, static_cast<std::size_t>(instances)), 1e-9 * sum) << seed;
  }
}

// Through dispatching, prefills, decodes, pauses and ends: instances hold what groups do, groups what their
// requests do, nobody more than fits, and no instance computes for two groups at once.
TEST(ElasticPool, HoldsWhatItsRequestsHold) {
  std::int64_t preempted = 0, spread = 0;
  for (std::uint64_t seed = 0; seed < 100; ++seed) {
    Random random(seed);
    const auto instances = static_cast<std::int32_t>(random(1, 4));
    const SchedulerConfig c = config(instances, random(30, 80), random);
    Pool pool(c, instances);
    std::vector<Group> groups, resting;
    const auto check = [&] {
      std::vector<std::int64_t> used(static_cast<std::size_t>(instances));
      std::vector<int> computes(used.size());
      for (const std::vector<Group>* list : {&groups, &resting})
        for (const Group& g : *list) {
          std::vector<std::int64_t> own(used.size());
          for (const std::int32_t slot : g.slots) {
            const auto& kv = pool[slot].kv;
            spread += std::count_if(kv.begin(), kv.end(), [](std::int32_t n) { return n > 0; }) > 1;
            for (std::size_t i = 0; i < own.size(); ++i) own[i] += kv[i];
          }
          ASSERT_EQ(own, g.used) << seed;
          for (std::size_t i = 0; i < own.size(); ++i) {
            used[i] += own[i];
            const bool in =
                std::count(g.instances.begin(), g.instances.end(), static_cast<std::int32_t>(i)) > 0;
            ASSERT_TRUE(in || own[i] == 0);
            computes[i] += in && list == &groups;
            ASSERT_LE(computes[i], 1) << seed;
          }
        }
      for (std::int32_t i = 0; i < instances; ++i) {
        ASSERT_EQ(used[static_cast<std::size_t>(i)], pool.used(i)) << seed;
        ASSERT_LE(pool.used(i), pool.capacity());
      }
    };
    const auto end = [&] {
      for (Group& g : groups) {
        for (const std::int32_t slot : std::vector<std::int32_t>(g.slots))
          if (pool[slot].output >= pool[slot].most_output) {
            pool.finish(g, slot);
            pool.remove(slot);
          }
        pool.scale_down(g);
      }
      std::erase_if(groups, [](const Group& g) { return g.slots.empty(); });
    };
    RequestId id = 0;
    for (int step = 0; step < 300; ++step) {
      if (id < 60 && random(0, 3) == 0)
        pool.add(request(id++, random(1, c.max_model_len / 2), random(1, c.max_model_len / 2)), 0);
      if (const auto started = pool.dispatch(groups); !started.empty()) {
        Allocation a = pool.allocate(started, std::move(groups));
        groups = std::move(a.decodes);
        resting = std::move(a.preempted);
        preempted += std::ssize(resting);
        for (Group& g : a.prefills) {
          for (const std::int32_t slot : g.slots) ++pool[slot].output;
          groups.push_back(std::move(g));
        }
        check();
        end();
        for (Group& old : resting) {
          std::vector<Group> next{std::move(old)};
          for (Group& g : groups) {
            const bool meet = std::any_of(g.instances.begin(), g.instances.end(), [&](std::int32_t i) {
              return std::count(next[0].instances.begin(), next[0].instances.end(), i) > 0;
            });
            if (meet)
              pool.merge(next[0], g);
            else
              next.push_back(std::move(g));
          }
          groups = std::move(next);
        }
        resting.clear();
      }
      check();
      while (!groups.empty() && !pool.plan_decode(groups, true)) pool.pause(groups);
      check();
      for (Group& g : groups) {
        const std::int64_t steps = std::min<std::int64_t>(2, pool.repeats(g));
        std::int64_t most = steps;
        for (const std::int32_t slot : g.slots)
          most = std::min<std::int64_t>(most, pool[slot].most_output - pool[slot].output);
        pool.decoded(g, most);
        for (const std::int32_t slot : g.slots) pool[slot].output += static_cast<std::int32_t>(most);
      }
      check();
      end();
      check();
    }
  }
  EXPECT_GT(preempted, 0);
  EXPECT_GT(spread, 0);
}

}  // namespace
}  // namespace foretoken
