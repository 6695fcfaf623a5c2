// Spans are a matter of speed alone: with and without them every request has the same times, bit for bit. And
// durations that were recorded give the same timeline again, whatever decides: policies and priorities,
// routers, unlike replicas, those that come and go, pipelines, engines apart.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "policies.h"
#include "seeds.h"
#include "toy.h"

namespace foretoken {

static bool operator==(const RequestRecord& a, const RequestRecord& b) {
  const auto key = [](const RequestRecord& r) {
    return std::tuple(r.id, r.engine, r.input_len, r.output_len, r.arrival, r.queued, r.scheduled,
                      r.prefill_done, r.first_token, r.finish, r.handed_over, r.moved, r.preemptions,
                      r.cached_tokens);
  };
  return key(a) == key(b);
}
static void PrintTo(const RequestRecord& r, std::ostream* out) {
  *out << "{id " << r.id << " engine " << r.engine << " queued " << r.queued << " scheduled " << r.scheduled
       << " first " << r.first_token << " finish " << r.finish << " preemptions " << r.preemptions
       << " cached " << r.cached_tokens << "}";
}

namespace {

using toy::ListWorkload;
using toy::ToyBackend;

struct Scenario {
  ListWorkload workload;
  ServeOptions options;
  ToyBackend backend{0};
};

// The knobs of the other policies, from a stream of their own.
void choose_policy(SchedulerConfig& c, SchedulerPolicy policy, std::uint64_t seed) {
  CounterRandom random(seed, 8);
  const auto pick = [&](std::int64_t low, std::int64_t high) { return random.uniform_int(low, high); };
  const auto chance = [&](double p) { return random.uniform() < p; };
  c.policy = policy;
  c.schedules_ahead = CounterRandom(seed, 9).uniform() < 0.5;
  const bool by_priority = CounterRandom(seed, 20).uniform() < 0.4;
  if (toy::is_block_policy(policy)) {
    c.by_priority = by_priority && policy == SchedulerPolicy::kVllmV0;
    return toy::choose_block_policy(c, policy, random);
  }
  if (policy == SchedulerPolicy::kVllmV1 && CounterRandom(seed, 11).uniform() < 0.5)
    c.num_host_blocks = CounterRandom(seed, 12).uniform_int(1, 40);
  if (policy == SchedulerPolicy::kVllmV1 && CounterRandom(seed, 13).uniform() < 0.2) {
    c.reservation = static_cast<KvReservation>(CounterRandom(seed, 14).uniform_int(1, 3));
    c.enable_prefix_caching = false;
    c.num_host_blocks = 0;
  }
  if (policy == SchedulerPolicy::kVllmV1) {
    c.by_priority = by_priority;
    if (by_priority) c.num_host_blocks = 0;
  }
  if (policy == SchedulerPolicy::kSglang) {
    c.block_size = chance(0.7) ? 1 : static_cast<int>(pick(2, 5));
    c.num_blocks = 1 + (c.max_model_len + pick(0, 80)) / c.block_size;
    c.sglang.chunked_prefill_size = chance(0.2) ? -1 : pick(1, 25) * c.block_size;
    c.sglang.max_prefill_tokens = pick(1, 120);
    c.sglang.schedule_conservativeness = chance(0.5) ? 1.0 : 0.1;
    c.sglang.schedule_policy = chance(0.4) ? SglangConfig::Order::kLpm : SglangConfig::Order::kFcfs;
    c.sglang.enable_mixed_chunk = chance(0.3);
    c.sglang.overlap = chance(0.6);
    c.sglang.scheduler_recv_interval = chance(0.6) ? 1 : pick(2, 12);
    toy::choose_sglang_order(c, CounterRandom(seed, 21));
  } else if (policy == SchedulerPolicy::kTrtllm) {
    using Capacity = TrtllmConfig::Capacity;
    const std::int64_t which = pick(0, 4);
    c.trtllm.capacity_scheduler_policy = which <= 1   ? Capacity::kGuaranteedNoEvict
                                         : which <= 3 ? Capacity::kMaxUtilization
                                                      : Capacity::kStaticBatch;
    c.trtllm.context_chunking_policy =
        chance(0.5) ? TrtllmConfig::Chunking::kFirstComeFirstServed : TrtllmConfig::Chunking::kEqualProgress;
    c.trtllm.chunk_unit_size = chance(0.5) ? 0 : pick(1, 3) * c.block_size;
    c.max_num_batched_tokens = std::max<std::int64_t>(c.max_num_batched_tokens, 3 * c.block_size);
    if (chance(0.4)) {
      c.trtllm.batch_wait_timeout_iters = pick(1, 8);
      c.trtllm.batch_wait_max_tokens_ratio = 0.1 * static_cast<double>(pick(1, 10));
    }
  }
}

// Small pools, so that preemption, eviction and blocked admission are common.
Scenario random_scenario(std::uint64_t seed, SchedulerPolicy policy = SchedulerPolicy::kVllmV1) {
  CounterRandom random(seed, 7);
  const auto pick = [&](std::int64_t low, std::int64_t high) { return random.uniform_int(low, high); };
  const auto chance = [&](double p) { return random.uniform() < p; };
  Scenario s;
  SchedulerConfig c;
  c.block_size = static_cast<int>(pick(1, 3) == 1 ? pick(1, 5) : 4);
  c.max_model_len = pick(40, 200);
  c.num_blocks = 1 + (c.max_model_len + c.block_size - 1) / c.block_size + pick(0, 80) / c.block_size;
  c.max_num_seqs = pick(1, 3) == 1 ? pick(1, 4) : pick(5, 40);
  c.max_num_batched_tokens = pick(1, 4) == 1 ? pick(1, 8) : pick(9, 120);
  c.enable_chunked_prefill = chance(0.8);
  if (!c.enable_chunked_prefill) c.max_num_batched_tokens = c.max_model_len + pick(0, 50);
  c.enable_prefix_caching = chance(0.8);
  c.reserve_full_prompt = chance(0.6);
  c.watermark = chance(0.3) ? 0.1 : 0.0;
  c.long_prefill_token_threshold = chance(0.3) ? pick(1, 20) : 0;
  c.caches_tokens = chance(0.95);
  choose_policy(c, policy, seed);
  EngineConfig engine{c, chance(0.3) ? static_cast<int>(pick(2, 4)) : 1};
  s.options.engines = {engine};
  s.options.replicas = static_cast<int>(chance(0.3) ? pick(2, 4) : 1);
  s.options.router.kind = static_cast<RouterKind>(
      pick(0, static_cast<std::int64_t>(RouterKind::kKvCost)));  // not those for two sides
  s.options.keep_records = true;
  s.options.ingress = chance(0.3) ? pick(0, 3000) : 0;
  s.options.egress = chance(0.3) ? pick(0, 3000) : 0;

  // Round prices make arrivals at the very boundary of a step common.
  const Picoseconds unit = chance(0.5) ? 100 : 1;
  std::vector<std::int64_t> windows{0};
  std::vector<Picoseconds> per_context{pick(0, 2) * unit};
  for (std::int64_t g = pick(0, 2); g > 0; --g) {
    windows.push_back(pick(2, 60));
    per_context.push_back(pick(0, 3) * unit);
  }
  s.backend =
      ToyBackend(pick(1, 50) * unit * 10, pick(0, 20) * unit, pick(0, 5) * unit, per_context, windows);
  if (chance(0.3)) s.backend.limit_spans(pick(1, 10));

  const std::int64_t requests = pick(1, 120);
  const bool shared = chance(0.6), sessions = chance(0.4);
  Picoseconds clock = 0;
  const Picoseconds gap = pick(0, 60) * unit * 100;
  for (std::int64_t i = 0; i < requests; ++i) {
    clock += chance(0.3) ? 0 : pick(0, gap / unit) * unit;
    std::vector<ContentRun> runs;
    const auto input =
        static_cast<std::int32_t>(pick(1, chance(0.05) ? 2 * c.max_model_len : c.max_model_len / 2));
    if (shared && chance(0.7)) {
      runs.push_back({static_cast<std::uint64_t>(pick(1, 3)), pick(1, 40)});
      if (chance(0.3)) runs.push_back({static_cast<std::uint64_t>(pick(4, 6)), pick(1, 30)});
    }
    const bool in_session = sessions && chance(0.4);
    s.workload.add(clock, input, static_cast<std::int32_t>(pick(1, c.max_model_len)), runs,
                   in_session ? static_cast<std::int32_t>(i) : -1);
  }
  s.workload.draw_priorities(CounterRandom(seed, 22), 3);
  if (chance(0.3)) s.workload.close_loop(pick(1, 30));
  if (sessions)
    s.workload.converse(static_cast<std::int32_t>(pick(2, 4)), 5, chance(0.5) ? 0 : pick(0, 50) * unit * 10);
  return s;
}

// Prompts and the rest on engines of their own, with pools and limits of their own.
Scenario disaggregated_scenario(std::uint64_t seed) {
  Scenario s = random_scenario(seed);
  CounterRandom random(seed, 10);
  const auto pick = [&](std::int64_t low, std::int64_t high) { return random.uniform_int(low, high); };
  const auto chance = [&](double p) { return random.uniform() < p; };
  toy::disaggregate(s.options, static_cast<int>(pick(1, 3)), static_cast<int>(pick(1, 3)));
  const std::int64_t decode_seqs = pick(1, 20), decode_blocks = pick(0, 40);
  const int decode_ranks = chance(0.3) ? 2 : 1, depth = chance(0.3) ? 2 : 1;
  const bool ahead = chance(0.4);
  for (EngineConfig& e : s.options.engines) {
    e.scheduler.num_host_blocks = 0;  // swap, contiguous regions and priorities are refused there
    e.scheduler.by_priority = false;
    e.scheduler.reservation = KvReservation::kPaged;
    if (e.role == EngineRole::kPrefill) {
      e.scheduler.pipeline_depth = depth;
      continue;
    }
    e.scheduler.max_num_seqs = decode_seqs;
    e.scheduler.num_blocks += decode_blocks;
    e.scheduler.schedules_ahead = ahead;
    e.ranks = decode_ranks;
  }
  s.options.decode_makes_first_token = chance(0.4);
  const bool fast = chance(0.2);
  s.backend.link(fast ? 0 : pick(0, 3000), fast ? 0 : pick(0, 200));
  if (depth > 1) s.backend.pipeline(0.5);
  return s;
}

// Replicas with limits, blocks and ranks of their own, behind every router.
Scenario unlike_scenario(std::uint64_t seed, SchedulerPolicy policy) {
  Scenario s = random_scenario(seed, policy);
  CounterRandom random(seed, 17);
  const auto pick = [&](std::int64_t low, std::int64_t high) { return random.uniform_int(low, high); };
  const std::int64_t count = pick(2, 4);
  const EngineConfig first = s.options.engines.front();
  s.options.engines.clear();
  const bool weighs = random.uniform() < 0.5;
  s.options.router.weights.clear();
  s.options.router.kind = static_cast<RouterKind>(weighs ? pick(0, 3) : pick(0, 8));
  for (std::int64_t i = 0; i < count; ++i) {
    EngineConfig& e = s.options.engines.emplace_back(first);
    SchedulerConfig& c = e.scheduler;
    c.num_blocks += pick(0, 40);  // and never fewer than a request needs
    if (policy == SchedulerPolicy::kVllmV1) {
      c.block_size = static_cast<int>(pick(1, 6));
      c.num_blocks = 1 + (c.max_model_len + c.block_size - 1) / c.block_size + pick(0, 40) / c.block_size;
      c.max_num_seqs = pick(1, 12);
      c.max_num_batched_tokens += pick(0, 60);
      e.ranks = static_cast<int>(pick(1, 2));
    }
    if (weighs) s.options.router.weights.push_back(i == 0 ? pick(1, 3) : pick(0, 3));
  }
  s.options.replicas = static_cast<int>(count);
  return s;
}

// Layers sent while they are computed, over ports that engines share.
Scenario layerwise_scenario(std::uint64_t seed) {
  Scenario s = disaggregated_scenario(seed);
  CounterRandom random(seed, 20);
  s.options.kv_link = {random.uniform_int(1, 9), random.uniform_int(0, 500),
                       static_cast<int>(random.uniform_int(1, 3))};
  for (EngineConfig& e : s.options.engines) e.scheduler.pipeline_depth = 1;
  s.backend.pipeline(1);
  return s;
}

// Mooncake's conductor, which fetches prefixes and refuses requests.
Scenario conducted_scenario(std::uint64_t seed) {
  Scenario s = seed % 2 == 0 ? disaggregated_scenario(seed) : layerwise_scenario(seed);
  static toy::ToyEstimates estimates(100, 20, 10'000, 1000);
  CounterRandom random(seed, 21);
  for (EngineConfig& e : s.options.engines) e.ranks = e.role == EngineRole::kPrefill ? 1 : e.ranks;
  s.options.router.kind = RouterKind::kMooncake;
  s.options.estimates = &estimates;
  ConductorConfig& c = s.options.conductor;
  c.balancing_threshold = 1 + random.uniform();
  if (random.uniform() < 0.3) c.ttft_slo = random.uniform_int(1000, 50'000);
  if (random.uniform() < 0.3) c.tbt_slo = random.uniform_int(11'000, 20'000);
  if (random.uniform() < 0.5) c.decode_time = random.uniform_int(1, 500'000);
  return s;
}

// Engines that do either work, layers or whole caches, under vLLM's scheduler or Splitwise's.
Scenario mixed_scenario(std::uint64_t seed) {
  Scenario s = seed % 2 == 0 ? disaggregated_scenario(seed) : layerwise_scenario(seed);
  CounterRandom random(seed, 21);
  s.options.router.kind = RouterKind::kSplitwise;
  s.options.splitwise.prompt_max_pending_tokens = random.uniform_int(0, 150);
  s.options.decode_makes_first_token = false;
  s.options.kv_link.layerwise_min_tokens = random.uniform_int(0, 30);
  const bool own = random.uniform() < 0.5;
  const int most = static_cast<int>(random.uniform_int(0, 5));
  for (EngineConfig& e : s.options.engines) {
    e.ranks = 1;
    e.scheduler.prefill_only = e.scheduler.by_priority = false;
    if (s.options.kv_link.layers > 0 || own) e.scheduler.pipeline_depth = 1;
    if (!own) continue;
    e.scheduler.policy = SchedulerPolicy::kSplitwise;
    e.scheduler.enable_prefix_caching = false;
    e.scheduler.watermark = 0;
    e.scheduler.splitwise.max_preemptions = most;
  }
  return s;
}

Scenario predicted_scenario(std::uint64_t seed) {
  Scenario s = seed % 2 == 0 ? disaggregated_scenario(seed) : layerwise_scenario(seed);
  CounterRandom random(seed, 22);
  s.options.router.kind = RouterKind::kTetriInfer;
  s.options.decode_makes_first_token = false;
  TetriInferConfig& t = s.options.tetri_infer;
  t.length_granularity = random.uniform_int(1, 20);
  t.length_accuracy = random.uniform();
  t.heavy_decode_tokens = random.uniform_int(0, 20);
  t.decode_policy = static_cast<DecodePolicy>(random.uniform_int(0, 2));
  t.load_interval = random.uniform() < 0.3 ? 0 : random.uniform_int(1, 20'000);
  t.flip_idle = random.uniform() < 0.3 ? std::nullopt : std::optional(random.uniform_int(1, 5000));
  for (EngineConfig& e : s.options.engines) {
    e.ranks = 1;
    e.scheduler.prefill_only = e.scheduler.by_priority = false;
    if (s.options.kv_link.layers > 0) e.scheduler.pipeline_depth = 1;
    e.scheduler.prefill_window = {static_cast<PrefillOrder>(random.uniform_int(0, 2)),
                                  random.uniform_int(1, 6)};
  }
  return s;
}

// Replicas that come and go.
Scenario scaled_scenario(std::uint64_t seed, SchedulerPolicy policy) {
  Scenario s = random_scenario(seed, policy);
  CounterRandom random(seed, 16);
  s.options.replicas = static_cast<int>(random.uniform_int(2, 5));
  AutoscaleConfig& a = s.options.autoscale;
  a.on = true;
  a.max_replicas = s.options.replicas;
  a.min_replicas = random.uniform_int(0, 2);
  a.metric = random.uniform() < 0.5 ? ScaleMetric::kOutstanding : ScaleMetric::kTtft;
  a.target = a.metric == ScaleMetric::kTtft ? 1e-5 * random.uniform() : 8 * random.uniform();
  a.interval = random.uniform_int(1, 20000);
  a.startup = random.uniform_int(0, 20000);
  a.scale_down_window = random.uniform_int(0, 40000);
  return s;
}

// Two to four stages, each with a share of a step.
Scenario pipeline_scenario(std::uint64_t seed, SchedulerPolicy policy) {
  Scenario s = random_scenario(seed, policy);
  CounterRandom random(seed, 23);
  const int depth = static_cast<int>(random.uniform_int(2, 4));
  for (EngineConfig& e : s.options.engines) {
    if (policy != SchedulerPolicy::kVllmV1) e.ranks = 1;
    toy::pipeline(e.scheduler, depth, random);
  }
  s.backend.pipeline(1.0 / depth);
  return s;
}

// Beam search of two to five beams, in pools that hold a request's.
Scenario beam_scenario(std::uint64_t seed) {
  Scenario s = random_scenario(seed);
  CounterRandom random(seed, 15);
  const std::int64_t width = random.uniform_int(2, 5);
  for (EngineConfig& e : s.options.engines) {
    SchedulerConfig& c = e.scheduler;
    c.beam_width = static_cast<int>(width);
    c.max_num_seqs = std::max(c.max_num_seqs, width);
    c.max_num_batched_tokens = std::max(c.max_num_batched_tokens, width);
    c.num_blocks += random.uniform_int(0, width) * c.max_model_len / c.block_size;
    c.num_host_blocks = 0;  // swap, priorities and contiguous regions are refused
    c.by_priority = false;
    c.reservation = KvReservation::kPaged;
    c.caches_tokens = true;
  }
  return s;
}

struct Reached {
  std::int64_t preemptions = 0, hits = 0, steps = 0, events = 0, rejected = 0, moved = 0, swaps = 0,
               starts = 0, ends = 0, samples = 0, fetches = 0, refused = 0, joined = 0, went_on = 0,
               flips = 0;
};

// Whose sequences are listed: no scheduler keeps them as a group (decode_group.h).
class Listing : public ToyBackend {
 public:
  explicit Listing(const ToyBackend& backend) : ToyBackend(backend) {}
  bool wants_sequences() const override { return true; }
};

// Durations that a recording gives back give the recording again.
void expect_the_same_replay(const Recording& recorded, Scenario s, std::uint64_t seed) {
  Recording again;
  s.options.timeline = &again;
  ReplayBackend replay(recorded);
  serve(s.workload, replay, s.options);
  ASSERT_EQ(recorded.requests.size(), again.requests.size()) << seed;
  for (std::size_t i = 0; i < again.requests.size(); ++i)
    ASSERT_EQ(recorded.requests[i], again.requests[i]) << seed;
  ASSERT_EQ(recorded.steps.size(), again.steps.size()) << seed;
  const auto key = [](const TimelineWriter::StepEvent& e) {
    return std::tuple(e.engine, e.start, e.time.next_start, e.time.tokens_out, e.steps, e.first, e.increment,
                      e.prefill_tokens, e.decode_tokens, e.running, e.waiting, e.kv_usage);
  };
  // Which of two engines' steps that end together is noted first is nobody's.
  const auto sorted = [&](const Recording& r) {
    std::vector<decltype(key(r.steps[0]))> keys;
    for (const auto& e : r.steps) keys.push_back(key(e));
    std::sort(keys.begin(), keys.end());
    return keys;
  };
  ASSERT_TRUE(sorted(recorded) == sorted(again)) << seed;
}

template <class Make>
void expect_the_same_times(Make make, Reached& reached, std::uint64_t seeds = 3000) {
  for (std::uint64_t seed = 0; seed < toy::seeds(seeds); ++seed) {
    Scenario a = make(seed), b = make(seed);
    Recording with, without;
    a.options.use_spans = true;
    b.options.use_spans = false;
    for (Scenario* s : {&a, &b}) s->options.sample_over_time = true, s->options.sample_period = 500;
    a.options.timeline = &with;
    b.options.timeline = &without;
    const ServeResult x = serve(a.workload, a.backend, a.options);
    Listing listing(b.backend);
    const ServeResult y =
        serve(b.workload, seed % 2 == 0 ? static_cast<Backend&>(b.backend) : listing, b.options);
    ASSERT_EQ(x.aborted, y.aborted) << seed;
    ASSERT_FALSE(x.aborted) << seed << x.abort_reason;
    ASSERT_EQ(x.rejected, y.rejected) << seed;
    ASSERT_EQ(x.records.size(), y.records.size()) << seed;
    for (std::size_t i = 0; i < x.records.size(); ++i)
      ASSERT_EQ(x.records[i], y.records[i]) << "seed " << seed;
    const ServingMetrics &m = x.metrics, &n = y.metrics;
    ASSERT_EQ(m.completed + x.rejected, a.workload.popped());
    ASSERT_EQ(m.num_steps, n.num_steps) << seed;
    ASSERT_EQ(m.itl.count, n.itl.count) << seed;
    ASSERT_EQ(m.itl.mean, n.itl.mean) << seed;
    ASSERT_EQ(m.itl.std, n.itl.std) << seed;
    ASSERT_EQ(m.itl.p99, n.itl.p99) << seed;
    ASSERT_EQ(m.mean_running, n.mean_running) << seed;
    ASSERT_EQ(m.mean_waiting, n.mean_waiting) << seed;
    ASSERT_EQ(m.busy_share, n.busy_share) << seed;
    ASSERT_EQ(m.peak_kv_usage, n.peak_kv_usage) << seed;
    ASSERT_EQ(m.prefix_cache_hit_rate, n.prefix_cache_hit_rate) << seed;
    ASSERT_EQ(x.scheduled_tokens, y.scheduled_tokens) << seed;
    ASSERT_EQ(x.reused_tokens, y.reused_tokens) << seed;
    ASSERT_EQ(x.discarded_tokens, y.discarded_tokens) << seed;
    ASSERT_EQ(x.swapped_out_blocks, y.swapped_out_blocks) << seed;
    ASSERT_EQ(x.swapped_in_blocks, y.swapped_in_blocks) << seed;
    ASSERT_LE(x.swapped_in_blocks, x.swapped_out_blocks) << seed;
    // In a pipeline one whose last token is on its way may be swapped out, and ends there; not every prompt
    // that llama.cpp keeps comes again.
    const SchedulerConfig& c = a.options.engines[0].scheduler;
    if (c.pipeline_depth == 1 && c.policy != SchedulerPolicy::kLlamaCpp) {
      ASSERT_EQ(x.swapped_in_blocks, x.swapped_out_blocks) << seed;
    }
    // Tokens are conserved: computed + found in the cache - lost to preemption is what the requests needed.
    std::int64_t needed = 0;
    const int beams = a.options.engines[0].scheduler.beam_width;
    for (const RequestRecord& r : x.records) needed += r.input_len + beams * std::max(0, r.output_len - 1);
    ASSERT_EQ(x.scheduled_tokens + x.reused_tokens - x.discarded_tokens, needed) << seed;
    std::int64_t in_steps = 0, in_single_steps = 0;
    for (const auto& e : with.steps) in_steps += e.steps * (e.prefill_tokens + e.decode_tokens);
    for (const auto& e : without.steps) in_single_steps += e.prefill_tokens + e.decode_tokens;
    ASSERT_EQ(in_steps, x.scheduled_tokens) << seed;
    ASSERT_EQ(in_single_steps, x.scheduled_tokens) << seed;

    ASSERT_EQ(x.replica_seconds, y.replica_seconds) << seed;
    ASSERT_EQ(x.over_time.period, y.over_time.period) << seed;
    ASSERT_EQ(x.over_time.samples, y.over_time.samples) << seed;
    reached.samples += std::ssize(x.over_time.samples);
    ASSERT_EQ(x.replica_starts, y.replica_starts) << seed;
    ASSERT_EQ(x.replica_ends, y.replica_ends) << seed;
    reached.starts += x.replica_starts;
    reached.ends += x.replica_ends;
    ASSERT_EQ(m.transfers.count, n.transfers.count) << seed;
    ASSERT_EQ(m.transfers.mean_moving, n.transfers.mean_moving) << seed;
    ASSERT_EQ(with.transfers.size(), without.transfers.size()) << seed;
    ASSERT_EQ(x.prefix_fetches, y.prefix_fetches) << seed;
    ASSERT_EQ(x.fetched_tokens, y.fetched_tokens) << seed;
    ASSERT_EQ(x.mixed_pools.joined, y.mixed_pools.joined) << seed;
    ASSERT_EQ(x.mixed_pools.mixed_time, y.mixed_pools.mixed_time) << seed;
    ASSERT_EQ(x.tetri_infer.flips, y.tetri_infer.flips) << seed;
    reached.joined += x.mixed_pools.joined;
    reached.went_on += x.mixed_pools.went_on;
    reached.flips += x.tetri_infer.flips;
    reached.moved += m.transfers.count;
    reached.fetches += x.prefix_fetches;
    reached.refused += x.rejected_ttft + x.rejected_tbt;
    reached.preemptions += m.preemptions;
    reached.swaps += x.swapped_out_blocks;
    reached.hits += x.reused_tokens;
    reached.rejected += x.rejected;
    reached.steps += m.num_steps;
    reached.events += static_cast<std::int64_t>(with.steps.size());
    if (seed % 10 != 0) continue;
    Scenario again = make(seed);
    again.options.use_spans = true;
    ASSERT_NO_FATAL_FAILURE(expect_the_same_replay(with, std::move(again), seed));
  }
}

class Spans : public testing::TestWithParam<SchedulerPolicy> {};
INSTANTIATE_TEST_SUITE_P(Policies, Spans,
                         testing::Values(SchedulerPolicy::kVllmV1, SchedulerPolicy::kSglang,
                                         SchedulerPolicy::kTrtllm));
INSTANTIATE_TEST_SUITE_P(BlockPolicies, Spans, testing::ValuesIn(toy::kBlockPolicies), toy::name_of);

TEST_P(Spans, GiveTheSameTimesAsSingleSteps) {
  Reached reached;
  const auto make = [](std::uint64_t seed) { return random_scenario(seed, GetParam()); };
  ASSERT_NO_FATAL_FAILURE(expect_the_same_times(make, reached));
  // The scenarios do reach what they are meant to reach.
  EXPECT_TRUE(toy::preempts(GetParam()) ? reached.preemptions > 1000 : reached.preemptions == 0);
  EXPECT_TRUE(toy::has_prefix_cache(GetParam()) ? reached.hits > 10000 : reached.hits == 0) << reached.hits;
  EXPECT_EQ(reached.swaps > 1000, GetParam() == SchedulerPolicy::kVllmV1 ||
                                      GetParam() == SchedulerPolicy::kVllmV0 ||
                                      GetParam() == SchedulerPolicy::kLlamaCpp);
  EXPECT_GT(reached.rejected, 100);
  // TurboMind's members lose their memory block by block, llama.cpp computes a full cache's batches in parts.
  const bool by_blocks =
      GetParam() == SchedulerPolicy::kTurbomind || GetParam() == SchedulerPolicy::kLlamaCpp;
  EXPECT_LT(reached.events * (by_blocks ? 3 : 4), reached.steps * 2);
  RecordProperty("preemptions", static_cast<int>(reached.preemptions));
}

// What routers and autoscaling do is the same for all policies but for the caches that they look at.
std::uint64_t seeds_of_replicas(SchedulerPolicy policy) {
  return !toy::is_block_policy(policy) || policy == SchedulerPolicy::kVllmV0 ? 1500 : 250;
}

TEST_P(Spans, OfReplicasThatComeAndGoToo) {
  Reached reached;
  const auto make = [](std::uint64_t seed) { return scaled_scenario(seed, GetParam()); };
  ASSERT_NO_FATAL_FAILURE(expect_the_same_times(make, reached, seeds_of_replicas(GetParam())));
  EXPECT_GT(reached.samples, 10000);
  EXPECT_GT(reached.starts, 250);
  EXPECT_GT(reached.ends, 250);
  EXPECT_EQ(reached.hits > 0, toy::has_prefix_cache(GetParam()));
}

TEST_P(Spans, OfUnlikeReplicasToo) {
  Reached reached;
  const auto make = [](std::uint64_t seed) { return unlike_scenario(seed, GetParam()); };
  ASSERT_NO_FATAL_FAILURE(expect_the_same_times(make, reached, seeds_of_replicas(GetParam())));
  EXPECT_EQ(reached.hits > 0, toy::has_prefix_cache(GetParam()));
  EXPECT_LT(reached.events, reached.steps);
}

class SpansOfPipelines : public testing::TestWithParam<SchedulerPolicy> {};
INSTANTIATE_TEST_SUITE_P(Policies, SpansOfPipelines, testing::ValuesIn(toy::kPipelinePolicies), toy::name_of);

TEST_P(SpansOfPipelines, GiveTheSameTimesAsSingleSteps) {
  Reached reached;
  const auto make = [](std::uint64_t seed) { return pipeline_scenario(seed, GetParam()); };
  ASSERT_NO_FATAL_FAILURE(expect_the_same_times(make, reached, 100));
  EXPECT_EQ(reached.preemptions > 100, toy::preempts(GetParam()));
  EXPECT_EQ(reached.hits > 1000,
            !toy::is_block_policy(GetParam()) || GetParam() == SchedulerPolicy::kLlamaCpp);
}

TEST(Spans, OfDisaggregatedEnginesToo) {
  Reached reached;
  ASSERT_NO_FATAL_FAILURE(expect_the_same_times(disaggregated_scenario, reached));
  EXPECT_GT(reached.preemptions, 1000);
  EXPECT_GT(reached.hits, 10000);
  EXPECT_GT(reached.moved, 10000);
  EXPECT_LT(reached.events, reached.steps);
}

TEST(Spans, OfLayersSentAsTheyAreComputedToo) {
  Reached reached;
  ASSERT_NO_FATAL_FAILURE(expect_the_same_times(layerwise_scenario, reached));
  EXPECT_GT(reached.preemptions, 1000);
  EXPECT_GT(reached.hits, 10000);
  EXPECT_GT(reached.moved, 10000);
}

TEST(Spans, OfAConductorToo) {
  Reached reached;
  ASSERT_NO_FATAL_FAILURE(expect_the_same_times(conducted_scenario, reached));
  EXPECT_GT(reached.preemptions, 1000);
  EXPECT_GT(reached.fetches, 1000);
  EXPECT_GT(reached.refused, 1000);
}

TEST(Spans, OfMixedPoolsToo) {
  Reached reached;
  ASSERT_NO_FATAL_FAILURE(expect_the_same_times(mixed_scenario, reached, 1500));
  EXPECT_GT(reached.preemptions, 1000);
  EXPECT_GT(reached.moved, 5000);
  EXPECT_GT(reached.joined, 1000);
  EXPECT_GT(reached.went_on, 100) << "engines that waited for each other";
}

TEST(Spans, OfPredictedLengthsToo) {
  Reached reached;
  ASSERT_NO_FATAL_FAILURE(expect_the_same_times(predicted_scenario, reached, 1500));
  EXPECT_GT(reached.preemptions, 1000);
  EXPECT_GT(reached.moved, 5000);
  EXPECT_GT(reached.flips, 100);
  // Of one engine a step is launched, room is taken on it and another cache comes, all at one time.
  // Room is asked for on one whose step has just been launched.
  const auto at_once = [](std::uint64_t seed) { return predicted_scenario(seed % 2 == 0 ? 2519 : 4135); };
  ASSERT_NO_FATAL_FAILURE(expect_the_same_times(at_once, reached, 2));
}

TEST(Spans, OfBeamSearchToo) {
  Reached reached;
  ASSERT_NO_FATAL_FAILURE(expect_the_same_times(beam_scenario, reached));
  EXPECT_GT(reached.preemptions, 1000);
  EXPECT_GT(reached.hits, 10000);
  EXPECT_LT(reached.events * 2, reached.steps);
}

// Blocks that nobody else can name are entered into the prefix cache only when their request is preempted.
// Requests of a conversation are entered at once: making every request one of a conversation of one turn must
// change nothing.
TEST(PrefixCache, EnteringPrivateBlocksLateChangesNothing) {
  std::int64_t reused = 0;
  for (std::uint64_t seed = 0; seed < toy::seeds(1000); ++seed) {
    Scenario late = random_scenario(seed), early = random_scenario(seed);
    for (Scenario* s : {&late, &early}) s->workload.converse(1, 0, 0);
    early.workload.name_all();
    const ServeResult x = serve(late.workload, late.backend, late.options);
    const ServeResult y = serve(early.workload, early.backend, early.options);
    ASSERT_EQ(x.records.size(), y.records.size()) << seed;
    for (std::size_t i = 0; i < x.records.size(); ++i)
      ASSERT_EQ(x.records[i], y.records[i]) << "seed " << seed;
    ASSERT_EQ(x.reused_tokens, y.reused_tokens) << seed;
    reused += x.reused_tokens;
  }
  EXPECT_GT(reused, 10000);
}

}  // namespace
}  // namespace foretoken
