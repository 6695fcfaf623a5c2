// A scenario resolved: the model, the devices, who computes what, what fits, and how a batch becomes work.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "deployment/behavior.h"
#include "deployment/scenario.h"
#include "hwdb/database.h"
#include "model/hf_config.h"
#include "model/operators.h"
#include "serving/serve.h"

namespace foretoken {

// Tensor x pipeline x data-parallel devices make a replica. With expert_parallel 1 its data-parallel ranks
// are independent engines; above 1 they share the experts and step together.
struct Mapping {
  int tensor_parallel = 1, pipeline_parallel = 1, data_parallel = 1, expert_parallel = 1;
  int replicas = 1;
  int devices_per_replica() const { return tensor_parallel * pipeline_parallel * data_parallel; }
  int devices() const { return replicas * devices_per_replica(); }
  bool ranks_step_together() const { return expert_parallel > 1 && data_parallel > 1; }
  int engines() const { return ranks_step_together() ? replicas : replicas * data_parallel; }
  int ranks_per_engine() const { return ranks_step_together() ? data_parallel : 1; }
  std::vector<Shard> stages;  // one shard a pipeline stage (all ranks of a stage hold equal shards)
};

// Memory of the fullest device. Bytes.
struct MemoryPlan {
  double device_bytes = 0, budget_bytes = 0;
  double weights_bytes = 0, activation_peak_bytes = 0;
  double outside_bytes = 0;          // weights that are not in device memory: offloaded or streamed
  double overhead_bytes = 0;         // CUDA context, captured graphs, communication buffers
  double kv_cache_bytes = 0;         // what is left for blocks
  double block_bytes = 0;            // of one block on that device
  double draft_weights_bytes = 0;    // of the draft model, part of weights_bytes
  double draft_block_bytes = 0;      // its part of block_bytes
  std::int64_t num_gpu_blocks = 0;   // one of them is the null block
  std::int64_t kv_cache_tokens = 0;  // (num_gpu_blocks - 1) x block_size
  int block_size = 16;
  std::int64_t num_host_blocks = 0;  // in each device's swap space
  double host_bytes = 0;             // of host memory, for each device
  bool fits = false;
  std::string reason;  // why not: "weights need 131.4 GiB, 129.6 GiB usable"
};

// How streamed weights reach the device.
struct WeightStreaming {
  std::int64_t layers = 0;   // of the model; 0: all weights stay
  std::int64_t buffers = 2;  // layers in device memory at once
  bool overlap = true;       // fetched while earlier layers compute
};

// The config.json that a model is read from, as text, and where it stands.
struct ModelText {
  std::string text, where;
};

struct Deployment;
struct Disaggregation;

// How a tier of the KV cache is reached (kv_tiers.cpp).
struct KvTierLink {
  double block_bytes = 0;  // of one block on one device; of a shared tier, on all devices of an engine
  double host_bytes = 0;   // of host memory, for each device
  BytesPerSecond bandwidth{};
  Seconds latency{};
  bool is_host_link = false;  // the device's own: a copy takes what swapping does
};

// Speculative decoding, resolved. Drafted tokens form a tree whose root is the sequence's newest token: every
// token of level i has widths[i] children, nodes are numbered level by level, parents first. A chain has
// width 1.
struct Speculation {
  enum class Method : std::uint8_t { kDraftModel, kNgram };
  Method method = Method::kDraftModel;
  std::string where;  // its section, for errors
  std::vector<int> widths;
  std::vector<double> acceptance;           // by level: that one of its tokens is accepted; empty: not known
  double proposal = 1;                      // ngram: share of steps after which something is drafted
  int lookup_max = 0, lookup_min = 0;       // ngram
  std::shared_ptr<const Deployment> draft;  // the draft model on the same devices; null for ngram
  ModelText draft_text;
  int levels() const { return static_cast<int>(widths.size()); }
  int nodes(int level) const;  // of the level, 0: the first
  int tokens() const;          // of all levels
  // That a sequence verifies in a step on the average.
  double mean_drafted() const { return proposal * tokens(); }
  // Levels whose nodes are all among the first `drafted` ones.
  int whole_levels(int drafted) const;
};
// Tokens that a sequence gets a step: 1 + a1 + a1 a2 + ... (Leviathan et al. 2023 for equal rates) where
// something was drafted. Throws
// Error where acceptance isn't known.
double expected_tokens(const Speculation& speculation);
// Throws Error where it isn't known.
void require_acceptance(const Speculation& speculation);

struct Deployment {
  Scenario scenario;                    // resolved: every optional of the sections filled
  std::filesystem::path preset_folder;  // where vllm_command() looks up the model's Hugging Face id
  ModelConfig model;
  Device device;
  Topology topology;
  Behavior behavior;
  Precision precision;
  Fusion fusion;
  Mapping mapping;
  WeightStreaming streaming;
  bool shares_host_memory = false;  // a processor: its memory is that of its host
  MemoryPlan memory;
  SchedulerConfig scheduler;
  std::vector<KvTierLink> kv_tiers;       // in the order of the scheduler's
  std::vector<std::int64_t> graph_sizes;  // empty: eager
  // vLLM on compute capability 8 and 12 runs FlashAttention-2, which takes prompts and decoding sequences of
  // a step in one call of variable length.
  bool one_attention_call = false;
  std::optional<Speculation> speculation;
  double usd_per_device_hour = 0;
  bool has_price = false;
  std::vector<std::string> warnings;  // with remedies
  // Prompts and the rest on engines of their own; all else above is then the decode side's. Null: no.
  std::shared_ptr<Disaggregation> pools;
  // Unlike replicas that serve whole requests (cluster.pools), in the scenario's order; all else above is
  // then the first ones'. Empty: replicas are alike.
  std::vector<Deployment> replica_pools;
  // Of each kind of engines, in the order of the serving loop: prefill and decode, the replica pools, or this
  // alone. Valid while it stays where it is.
  std::vector<const Deployment*> kinds() const;
  int devices() const;
  int engines() const;
  double usd_per_hour() const;  // of all devices, where has_price
  // That of an engine of the serving loop.
  const Deployment& of_engine(std::int32_t engine) const;
};

struct Disaggregation {
  Deployment prefill, decode;
  Link link;               // a port of it for each device
  bool by_layers = false;  // caches go layer by layer, as they are computed
  int engines_per_port = 1;
  std::int64_t layerwise_min_tokens = 0;  // shorter prompts go whole
  bool decode_makes_first_token = false;
};
// The KV cache of a prompt in whole blocks (and its recurrent state): bytes through the busiest device's port
// as its ranks on one side send them and those on the other take them in, and the time that this takes.
struct MoveEnds {  // the sides of both engines
  bool from_prefill = true, to_prefill = false;
};
double moved_bytes(const Disaggregation& pools, std::int64_t tokens, MoveEnds ends = {});
Seconds move_time(const Disaggregation& pools, std::int64_t tokens, MoveEnds ends = {});
// What goes of it after its first `done` tokens; the latency is that of the first piece.
Seconds rest_move_time(const Disaggregation& pools, std::int64_t done, std::int64_t tokens,
                       MoveEnds ends = {});
// Of so many blocks to or from that tier, where it is no host link.
Seconds copy_time(const KvTierLink& tier, std::int64_t blocks);
// Throws an Error that says that `verb` covers replicas that are alike and serve whole requests.
void refuse_pools(const Scenario& scenario, std::string_view verb, const std::string& where);

// Things that many deployments share, so that a search loads them once.
struct Resources {
  const Database* database = nullptr;
  std::filesystem::path preset_folder;
  std::filesystem::path scenario_folder;
  std::string scenario_file;  // for messages
  // This program's own executor runs the scenario, whatever system's rules it follows (as_executed).
  bool executed = false;
};

// A verdict: why this combination can't be (shard does not divide, devices too few, ...); kept short for
// counting.
struct Infeasible {
  std::string category;              // "does not fit in memory", "heads do not divide", "too few devices"
  std::string reason;                // with numbers
  std::optional<MemoryPlan> memory;  // where memory is the reason
};

// Throws Error for wrong input (unknown device, unmodelled technique). mean_tokens: mean prompt + output of
// the workload, the reference length at which windowed layers and constant states are charged to blocks; 0:
// max_model_len. longest: longest prompt + output of the workload, the default of max_model_len (capped by
// the model's own).
std::variant<Deployment, Infeasible> resolve(const Scenario& scenario, const Resources& resources,
                                             const ModelConfig& model, double mean_tokens,
                                             std::int64_t longest);
// The same on a device that need not be in a database.
std::variant<Deployment, Infeasible> resolve_on(const Scenario& scenario, const Resources& resources,
                                                const ModelConfig& model, const Device& device,
                                                const Topology& topology, double mean_tokens,
                                                std::int64_t longest);
ModelConfig load_scenario_model(const Scenario& scenario, const Resources& resources);
ModelText scenario_model_text(const Scenario& scenario, const Resources& resources);

// What a step takes beside its operators, as an operator of the hardware database.
Op step_overhead();
// Of this program's own executor, where the kernels have it measured; of the draft model's passes too.
void take_step_overhead(Deployment& deployment, const KernelTable& kernels);

// Parts of resolve(), usable alone.
// Layers of each pipeline stage: even, the remainder goes to the stages before the last one, as vLLM does.
std::vector<int> split_layers(int layers, int stages);
// Devices, ranks and shards. Throws Error for sizes that contradict each other.
std::variant<Mapping, Infeasible> make_mapping(const Scenario& scenario, const ModelConfig& model,
                                               WeightFormat format, const std::string& where);
bool default_prefix_caching(const Behavior& behavior, const ModelConfig& model);
struct MemoryLimits {
  MemoryRule rule = MemoryRule::kShareOfDevice;
  double gpu_memory_utilization = 0.9;  // the share that the rule speaks of
  std::int64_t max_num_batched_tokens = 8192, max_num_seqs = 256, max_model_len = 32768;
  int block_size = 16;
  std::int64_t sampled_rows = 0;             // at the peak; 0: max_num_seqs
  std::int64_t reference_tokens = 0;         // 0: max_model_len
  std::int64_t captured_graphs = 0;          // counted against the budget; 0: none or not counted
  std::int64_t num_gpu_blocks_override = 0;  // 0: none
  std::int64_t sharing_instances = 1;        // that may hold a sequence together
  double shared_bytes = 0;                   // of host memory, where it is the device's own
  std::int64_t stream_buffers = 2;           // of a shard's streamed layers
  const Deployment* draft = nullptr;         // a draft model, whose weights and cache share the device
};
MemoryPlan plan_memory(const ModelConfig& model, const Mapping& mapping, const Precision& precision,
                       Bytes device_memory, const MemoryLimits& limits);
// Weights of a shard that are not in device memory, less the buffers that streamed ones pass through.
double weights_outside(const ModelConfig& model, const Shard& shard, const Precision& precision,
                       std::int64_t buffers);

// Alone turns a batch into work: padding to captured graph sizes, sampled rows, mixed prefill and decode.
// group_tokens: (padded) tokens of all ranks of the engine that share the experts.
Work work(const Batch& batch, const Deployment& deployment, std::int64_t group_tokens);
// What the draft model runs after a step of the target, each pass `times` times with contexts of the middle
// one: it takes the step's prompts and the sampled sequences' newest tokens, then level by level what it
// drafted. Empty without a draft model.
struct DraftPass {
  Batch batch;
  std::int64_t times = 1;
};
void draft_passes(const Batch& batch, const Deployment& deployment, std::vector<DraftPass>& passes);
// Rows that token-wise operators compute for a step of `tokens` (decode-only steps are padded to a captured
// size).
std::int64_t padded_rows(std::int64_t tokens, bool decode_only, const Deployment& deployment);

// The deployment as a command of the system that its behaviour names: `vllm serve`,
// `python -m sglang.launch_server`, `trtllm-serve`.
std::string serve_command(const Deployment& deployment);
// The deployment as a `vllm serve` command, and a scenario's engine section from one.
std::string vllm_command(const Deployment& deployment);
// JSON merge patch with "model" and "engine". Flags without an effect on performance are left out; unknown
// flags are errors.
std::string patch_from_vllm_command(const std::string& command, const std::string& where = "--from-vllm");

}  // namespace foretoken
