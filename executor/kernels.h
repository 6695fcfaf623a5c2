// The operators as the executor's host code launches them: plain shapes and pointers, no model. Three sets
// implement them, the reference (plain loops, sums in float64), the processor's own and a CUDA device's.
// Activations are float32, row-major and dense unless a stride is given; weights and cache entries are stored
// in the formats below. Nothing here allocates.
//
// Pointers, and the elements of spans of indices, are of the set's own memory(), which the host may not be
// able to read; what the host reads, or is given, says so. Operators run in the order of their calls, but
// may be done only once memory().wait() returns. Those of a step that is recorded and run again (StepGraphs)
// get the same pointers and sizes each time, and must read lengths from the device's tables.
//
// Processor and reference: every output element is rounded and summed in an order that depends on nothing but
// its own inputs: not on the number of rows, of sequences or of threads. So a sequence's values are the same
// bits in every batch, and however its prompt was cut. (A bf16 matrix rounds x to bf16 at one row as at a
// thousand.)
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "executor/kernel_memory.h"
#include "executor/processes.h"
#include "executor/threads.h"

namespace foretoken {

// How elements are stored. kInt8 and kFp8 have a float32 scale a row of a matrix (a token and head of a
// cache); kInt4 one a group of 128 along the row (symmetric, two in a byte); kFp8Block, of matrices alone,
// one a block of 128 rows by 128 along them (DeepSeek-V3, arXiv 2412.19437, 3.3.2).
enum class Storage : std::uint8_t { kF32, kBf16, kF16, kInt8, kInt4, kFp8, kFp8Block };
inline constexpr std::int64_t kScaleGroup = 128;
// Products are sums of groups, each with a scale of its own.
constexpr bool in_groups(Storage s) { return s == Storage::kInt4 || s == Storage::kFp8Block; }
constexpr bool is_fp8(Storage s) { return s == Storage::kFp8 || s == Storage::kFp8Block; }
constexpr bool of_8_bits(Storage s) { return s == Storage::kInt8 || is_fp8(s); }

// A weight matrix w[n, k] packed by a Kernels for its own gemm(): an opaque layout in memory of the caller's.
// quantised_x (of 8 bits alone): products round each row of x to w's own format, with a scale that puts the
// row's largest value at the format's largest, before they multiply ("W8A8" with dynamic scales a token); by
// kFp8Block every 128 values of the row have a scale.
// one_scale (of kFp8 alone): all rows of w have the same scale. one_x_scale: so have all rows of a quantised
// x, x_scale ("static": values beyond 448 times it saturate), or where that is 0 what puts the largest value
// of all rows of a product at the format's largest ("dynamic", per tensor: rows depend on each other then).
struct Matrix {
  Storage storage = Storage::kF32;
  std::int64_t n = 0, k = 0;
  std::byte* packed = nullptr;
  bool quantised_x = false;
  bool one_scale = false, one_x_scale = false;
  float x_scale = 0;
};

// The KV cache of one layer: paged, [block][head][token of the block][dim], keys and values apart. A layer
// that stores keys and values once (latent attention) has v_dim 0 and reads the first dims of the key.
struct CacheLayer {
  Storage storage = Storage::kF32;
  int block_size = 16;
  std::int64_t heads = 0, k_dim = 0, v_dim = 0;
  std::byte *keys = nullptr, *values = nullptr;
  float *key_scales = nullptr, *value_scales = nullptr;  // [block][head][token]; kInt8 and kFp8 alone
};

// One sequence of a step: rows [first_row, first_row + new_tokens) of the step's tensors, at positions
// cached, cached + 1, ... The blocks hold the cached tokens and the new ones.
struct SequenceRows {
  std::int64_t first_row = 0, new_tokens = 0, cached = 0;
  const std::int32_t* blocks = nullptr;
  // For attention of a token in a tree of drafts: positions from branch_from on lie at the cache's places
  // branch[position - branch_from], so that keys are summed in the order of a chain. Null: everywhere at
  // their own.
  const std::int32_t* branch = nullptr;
  std::int64_t branch_from = 0;
};

// The sequences that an operator takes: for the host, to size launches by, and where the kernels read them.
struct Sequences {
  Sequences(std::span<const SequenceRows> rows) : host(rows), own(rows.data()) {}
  Sequences(std::span<const SequenceRows> rows, const SequenceRows* where) : host(rows), own(where) {}
  std::size_t size() const { return host.size(); }
  bool empty() const { return host.empty(); }
  Sequences part(std::size_t first, std::size_t count) const {
    return {host.subspan(first, count), own + first};
  }
  std::span<const SequenceRows> host;
  const SequenceRows* own;
};

// What recurrent layers keep of each sequence: state i of the operator's sequences is at first + values x
// slots[i]. A sequence without cached tokens starts from zeros.
struct States {
  float* first = nullptr;
  std::int64_t values = 0;
  const std::int32_t* slots = nullptr;
};

// The matrices of a rank's experts, which lie behind one another, `stride` bytes apart, and so do their
// biases.
struct Experts {
  Matrix gate_up, down;  // of the first
  const float *gate_up_bias = nullptr, *down_bias = nullptr;
  std::size_t stride = 0;
  std::int64_t first = 0, count = 0;  // of the layer's
};

// Memory of a mixture of experts: pairs of row and choice in the order of the experts, each with the widths
// of the products; where each pair went (-1: to another rank), whose row each is, and the first row of each
// expert
// ([count + 1]).
struct ExpertRows {
  float *in = nullptr, *mid = nullptr, *act = nullptr, *out = nullptr;
  std::int32_t *place = nullptr, *order = nullptr, *begin = nullptr;
};

enum class Activation : std::uint8_t { kSilu, kGelu, kGeluTanh, kRelu, kReluSquared, kClampedSwiglu };

struct ActivationArgs {
  Activation kind = Activation::kSilu;
  bool gated = true;  // y = act(gate) * up, gate and up side by side in x[rows, 2 width], gate first
  // kClampedSwiglu (gpt-oss): gate = min(gate, limit), up = clamp(up, -limit, limit),
  // y = gate * sigmoid(alpha * gate) * (up + 1).
  float limit = 7, alpha = 1.702f;
};

enum class NormKind : std::uint8_t { kRms, kLayer };

struct NormArgs {
  NormKind kind = NormKind::kRms;
  float epsilon = 1e-6f;
  float offset = 0;               // added to the weight (Gemma: 1)
  const float* weight = nullptr;  // null: ones
  const float* bias = nullptr;    // null: none
};

// See Kernels::rope().
struct RopeArgs {
  const float *cosines = nullptr, *sines = nullptr;
  std::int64_t pairs = 0;
  bool interleaved = false;
};

// Cached tokens of a sequence that go from the places [from, from + tokens) of its blocks to the earlier ones
// [to, to + tokens), or stay where they are (from == to), while their keys are turned. turn: cosines and
// sines [pairs] of one angle a pair, by which dims [first, first + 2 x pairs) of every head are turned once
// more: no factor belongs to them, for the keys have theirs. Without pairs nothing is turned.
struct CacheShift {
  const std::int32_t* blocks = nullptr;
  std::int64_t from = 0, to = 0, tokens = 0;
  RopeArgs turn;
  std::int64_t first = 0;
};

struct AttentionArgs {
  std::int64_t heads = 0;  // query heads; heads / cache heads of them share a key
  std::int64_t qk_dim = 0, v_dim = 0;
  float scale = 1;
  float softcap = 0;        // 0: none; else softcap * tanh(score / softcap)
  std::int64_t window = 0;  // 0: all; else the last `window` positions, the query's own included
  bool chunked = false;     // the window is a fixed chunk: positions p with p / window == query / window
  const float* sinks =
      nullptr;  // [heads]: a logit that takes part in the softmax and has no value; null: none
  // [row][heads], where wanted: the natural logarithm of the sum of exp(score) over the keys that the row has
  // seen, and its sink. By it results over parts of the keys are merged (Kernels::merge_attention()).
  float* lse = nullptr;
};

struct RoutingArgs {
  std::int64_t experts = 0, top_k = 0;
  bool sigmoid = false;                     // scores are sigmoid(logit); else softmax over all experts
  bool softmax_over_selected = false;       // softmax over the chosen logits alone (gpt-oss)
  const float* correction = nullptr;        // [experts]: added to the scores for the choice alone
  std::int64_t groups = 1, top_groups = 1;  // experts are chosen from the best top_groups groups
  bool group_by_top_two = false;  // a group's score: the sum of its two best (V3); else its best (V2)
                                  // Experts of other groups are never chosen.
  bool normalise = true;          // weights of the chosen sum to 1 before `scale`
  float scale = 1;
};

struct SamplingArgs {
  float temperature = 0;   // 0: greedy
  std::int64_t top_k = 0;  // 0: all
  float top_p = 1;
};

// Rows of one pass over a model that verified drafted tokens: of each sequence first its newest token's, node
// 0, then those of nodes 1, 2, ..., drafted ones, each behind the node that it continues.
struct DraftedRows {
  std::span<const std::int32_t> starts;  // [sequences + 1]: each one's first row, and the number of rows
  std::span<const std::int32_t> tokens;  // [rows]: each node's; of nodes 0 they count for nothing
  // [nodes]: the node that each one continues, alike in all sequences, of which each has the first ones; of
  // node 0 it counts for nothing. Empty: the node before, a chain.
  std::span<const std::int32_t> parents;
};

// One of the token sequences that beam search keeps: what it adds to a sequence that was kept before.
struct Continuation {
  std::int32_t parent = 0, token = 0;
  double log_probability = 0;  // of the whole sequence
};

// Linear attention of one layer: for each new token, with state S[head][k_dim][v_dim] and g the natural
// logarithm of the decay (at most 0),
//   S = exp(g) S; S += k^T (beta (v - k S)); out = q S     delta_rule (Yang et al. 2024, Gated DeltaNet, eq.
//   10) S = exp(g) S; S += k^T (beta v);         out = q S     else (Mamba-2's scan, lightning attention)
struct RecurrenceArgs {
  std::int64_t heads = 0, k_dim = 0, v_dim = 0;
  bool delta_rule = true;
};

// Gated delta rule (Yang et al. 2024): what the recurrence reads of one layer, for rows [first, first +
// rows). A row of x holds queries and keys [groups][k_dim], then values [heads][v_dim]; a row of gates write
// strengths and decays [heads] each.
struct DeltaArgs {
  std::int64_t groups = 0, heads = 0, k_dim = 0, v_dim = 0;
  const float *decay = nullptr, *step = nullptr;  // [heads]
};

// Latents projected up (latent attention in its first form): keys [head][token][nope + rope], of which the
// rope part is the latent's, and values [head][token][v].
struct LatentArgs {
  std::int64_t heads = 0, nope = 0, rope = 0, v = 0, rank = 0;
};

// How operators are timed. kMarks: from place to place in the order of kernels, which on a device are events
// and cost it a microsecond or two each. kActivities: by what the driver records of each kernel and copy,
// which leaves the gaps between them out and costs the host time instead; devices alone.
enum class OperatorTimes : std::uint8_t { kNone, kMarks, kActivities };

// Times at places in the order of kernels.
class KernelStopwatch {
 public:
  virtual ~KernelStopwatch() = default;
  virtual void restart() = 0;  // forgets all places
  virtual int mark() = 0;      // this place's number: 0, 1, ...
  // Between two places, once memory().wait() has returned after the later one.
  virtual double seconds(int from, int to) = 0;
};

// Steps that were recorded once and are run again whole.
class StepGraphs {
 public:
  virtual ~StepGraphs() = default;
  // Does `launches` the first times that it sees a key, and afterwards what they did.
  virtual void run(std::uint64_t key, const std::function<void()>& launches) = 0;
};

class Kernels {
 public:
  virtual ~Kernels() = default;
  virtual const char* name() const = 0;  // "reference", "avx512-bf16", "avx2", "scalar", "cuda"
  virtual std::string machine() const { return "this machine"; }  // "NVIDIA H200, driver 580.65"
  // Of a device now: "1980 MHz, memory 3201 MHz, 412 W, 46 C"; empty where nothing is known.
  virtual std::string condition() const { return {}; }
  virtual const KernelMemory& memory() const { return host_memory(); }
  // Bytes of memory() that it will take for itself: workspaces of libraries, and an allowance for what can't
  // be known before.
  virtual std::size_t own_bytes() const { return 0; }
  // kNone: as kMarks. Throws Error where operators can't be timed so.
  virtual std::unique_ptr<KernelStopwatch> stopwatch(OperatorTimes how = OperatorTimes::kMarks) const;
  // What those who asked for something should know: that it is done in another way, each said once.
  virtual std::vector<std::string> remarks() const { return {}; }
  // Null where steps aren't recorded.
  virtual std::unique_ptr<StepGraphs> graphs() const { return nullptr; }
  // Of a step's sizes and longest context, alike for those that may run one recording.
  virtual std::int64_t context_bucket(std::int64_t longest) const { return longest; }

  // Weights. read(row, out) gives row `row` of w as k of the host's floats; several threads ask for different
  // rows at once. The bytes don't depend on the number of threads. scale: of every row, of kFp8 alone; 0:
  // each row's own.
  using ReadRow = std::function<void(std::int64_t row, float* out)>;
  virtual std::size_t packed_bytes(Storage storage, std::int64_t n, std::int64_t k) const = 0;
  virtual Matrix pack(Storage storage, std::int64_t n, std::int64_t k, const ReadRow& read, std::byte* memory,
                      Threads& threads, float scale = 0) const = 0;
  // By this thread, row after row.
  Matrix pack(Storage storage, std::int64_t n, std::int64_t k, const ReadRow& read, std::byte* memory) const {
    Threads one;
    return pack(storage, n, k, read, memory, one);
  }
  // out[i] (+)= scale x row ids[i] + offset of w, as stored (embedding tables). scratch: w.k floats.
  virtual void embed(const Matrix& w, std::span<const std::int32_t> ids, std::int64_t offset, float scale,
                     bool accumulate, float* out, std::byte* scratch) const = 0;
  // y[m, n] = x[m, k] w^T (+ bias[n]) (+ y if accumulate). scratch: gemm_scratch(w, m) bytes, 64-aligned.
  virtual std::size_t gemm_scratch(const Matrix& w, std::int64_t m) const = 0;
  virtual void gemm(const Matrix& w, const float* x, std::int64_t x_stride, std::int64_t m, const float* bias,
                    bool accumulate, float* y, std::int64_t y_stride, std::byte* scratch,
                    Threads& threads) const = 0;

  virtual void norm(const NormArgs& args, const float* x, std::int64_t x_stride, std::int64_t rows,
                    std::int64_t width, float* y, std::int64_t y_stride) const = 0;
  // stream += added, then y = its norm, all of `width`: one pass where the set fuses them.
  virtual void add_norm(const NormArgs& args, const float* added, std::int64_t rows, std::int64_t width,
                        float* stream, float* y) const;
  // What is rounded to `format` (of 8 bits) where it is made, for products by matrices of that format with
  // quantised_x: an opaque form of rows[rows, width] in quantised_bytes(...) bytes, 64-aligned, the same for
  // all that make and read it. Their products have the bits that rows of floats would give. Vectors and rows
  // are 16-aligned. Sets that don't fuse keep the floats. x_scale: the matrices'; 0: rows have their own.
  virtual std::size_t quantised_bytes(Storage format, std::int64_t rows, std::int64_t width) const;
  // As norm() or, with `added`, add_norm(). floats `stream`, rows of `width` behind one another.
  virtual void norm_quantised(const NormArgs& args, const float* added, std::int64_t rows, std::int64_t width,
                              float* stream, Storage format, std::byte* to, float x_scale = 0) const;
  virtual void activation_quantised(const ActivationArgs& args, const float* x, std::int64_t rows,
                                    std::int64_t width, Storage format, std::byte* to,
                                    float x_scale = 0) const;
  // gemm() of all `m` rows of x, which were made as such. scratch: of gemm_scratch().
  virtual void gemm_quantised(const Matrix& w, const std::byte* x, std::int64_t m, const float* bias,
                              bool accumulate, float* y, std::int64_t y_stride, std::byte* scratch,
                              Threads& threads) const;
  // Each head of head_dim of x[row][head], in place.
  virtual void norm_heads(const NormArgs& args, float* x, std::int64_t x_stride, std::int64_t rows,
                          std::int64_t heads, std::int64_t head_dim) const = 0;
  virtual void add(const float* x, std::int64_t values, float* y) const = 0;  // y += x
  virtual void softcap(float cap, std::int64_t values, float* y) const = 0;   // y = cap tanh(y / cap)
  // to[row] = from[row], `width` values each.
  virtual void copy_rows(const float* from, std::int64_t from_stride, std::int64_t rows, std::int64_t width,
                         float* to, std::int64_t to_stride) const = 0;
  // x[rows, width or 2 width] -> y[rows, width].
  virtual void activation(const ActivationArgs& args, const float* x, std::int64_t rows, std::int64_t width,
                          float* y) const = 0;
  // y[row] *= sigmoid(gate[row]): a gate a value, or one a row where gate_width is 1. silu: y *= gate x
  // sigmoid(gate).
  virtual void sigmoid_gate(const float* gate, std::int64_t gate_stride, std::int64_t gate_width,
                            std::int64_t rows, std::int64_t width, bool silu, float* y) const = 0;

  // Turns `heads` heads of head_dim in each row by the row's position. cosines, sines: [position][pairs];
  // dims beyond 2 x pairs stay. interleaved: pairs (2i, 2i+1); else (i, i + pairs). first: where the turned
  // dims start in a head.
  virtual void rope(const float* cosines, const float* sines, std::int64_t pairs, bool interleaved,
                    std::span<const std::int32_t> positions, float* x, std::int64_t x_stride,
                    std::int64_t heads, std::int64_t head_dim, std::int64_t first) const = 0;

  // Writes each sequence's new rows: keys[row][head][k_dim] and values[row][head][v_dim] (null where v_dim is
  // 0) into its blocks.
  virtual void cache_write(const CacheLayer& cache, const Sequences& sequences, const float* keys,
                           std::int64_t key_stride, const float* values, std::int64_t value_stride) const = 0;
  // Queries and keys turned, and keys and values written to the cache: rope() twice and cache_write(), one
  // pass where the set fuses them. Rows of q, keys and values are `stride` apart.
  virtual void rope_and_write(const RopeArgs& args, std::span<const std::int32_t> positions, float* q,
                              std::int64_t heads, float* keys, const float* values, std::int64_t stride,
                              const CacheLayer& cache, const Sequences& sequences) const;
  // Reads tokens [0, tokens) of one sequence back as floats: keys[token][head][k_dim], values likewise (may
  // be null).
  virtual void cache_read(const CacheLayer& cache, const std::int32_t* blocks, std::int64_t tokens,
                          float* keys, float* values) const = 0;
  // Turned keys are rounded as cache_write() rounds; everything else keeps its bits.
  virtual void shift_cached(const CacheLayer& cache, const CacheShift& shift, Threads& threads) const = 0;
  // Causal attention of every sequence's new rows over its cache, which holds the new tokens already. A cache
  // of bf16, int8 or fp8 rounds q to bf16, and the processor's own sets the softmax's weights (times the
  // scale of an entry) too: its numbers are bf16's, and so are the products. q[row][head][qk_dim],
  // out[row][head][v_dim]. scratch: attention_scratch(...) bytes, 64-aligned.
  virtual std::size_t attention_scratch(const AttentionArgs& args, const CacheLayer& cache, std::int64_t rows,
                                        std::int64_t longest, int threads) const = 0;
  virtual void attention(const AttentionArgs& args, const CacheLayer& cache, const Sequences& sequences,
                         const float* q, std::int64_t q_stride, float* out, std::int64_t out_stride,
                         std::byte* scratch, Threads& threads) const = 0;
  // For every row of the sequences: out and args.lse, of some keys, become those of these and of others,
  // which gave `part` and part_lse: sums over both weighed by exp(lse) (DistAttention, Lin et al. 2024, arXiv
  // 2401.02669; two parts of Dao et al. 2022's softmax). -inf: no key. Rows are `out_stride` and
  // `part_stride` apart, [heads][v_dim] each; of args heads, v_dim and lse alone count.
  virtual void merge_attention(const AttentionArgs& args, const Sequences& sequences, const float* part,
                               std::int64_t part_stride, const float* part_lse, float* out,
                               std::int64_t out_stride) const = 0;
  // up[token][head][nope + v] and latent[token][rank + rope] -> keys and values of the first block of a cache
  // in kF32 or kBf16.
  virtual void expand_latents(const LatentArgs& args, const float* up, const float* latent,
                              std::int64_t tokens, const CacheLayer& to) const = 0;

  // logits[rows][experts] -> chosen[rows][top_k] (best first; ties: the lower index) and their weights.
  virtual void route(const RoutingArgs& args, const float* logits, std::int64_t rows, std::int32_t* chosen,
                     float* weights) const = 0;

  // Rows x[row][hidden] to the experts that they chose (those of `experts` alone) and through them; what
  // comes of each pair stands in to.out[place[pair]]. scratch: expert_scratch(...) bytes, 64-aligned.
  virtual std::size_t expert_scratch(const Experts& experts, std::int64_t pairs) const = 0;
  virtual void run_experts(const Experts& experts, const ActivationArgs& activation, const float* x,
                           const std::int32_t* chosen, std::int64_t rows, std::int64_t top_k,
                           const ExpertRows& to, std::byte* scratch, Threads& threads) const = 0;
  // out[row] (+)= sum over j < top_k, in that order, of weights[row][j] * x[place[row][j]]; place -1: nothing
  // (an expert of another rank).
  virtual void combine_rows(const float* x, std::int64_t width, const std::int32_t* place,
                            const float* weights, std::int64_t rows, std::int64_t top_k, bool accumulate,
                            float* out) const = 0;
  // out[pair] (+)= x[place[pair]], where that isn't -1.
  virtual void place_rows(const float* x, std::int64_t width, const std::int32_t* place, std::int64_t pairs,
                          bool accumulate, float* out) const = 0;

  // out[row] = x[rows_of[row]]: rows gathered by adapter, rows that are sampled.
  virtual void gather_rows(const float* x, std::int64_t width, std::span<const std::int32_t> rows_of,
                           float* out) const = 0;
  // y[rows_of[row]] += x[row].
  virtual void add_rows(const float* x, std::int64_t width, std::span<const std::int32_t> rows_of, float* y,
                        std::int64_t y_stride) const = 0;

  // Depthwise causal convolution over each sequence's new rows: y[row][c] = act(sum_t w[c][t] x[row - taps +
  // 1
  // + t][c] (+ bias[c])), rows before the first new one from the state [taps - 1][channels] of the sequence,
  // which is brought up to date.
  virtual void causal_conv(const Sequences& sequences, const States& states, const float* x,
                           std::int64_t x_stride, std::int64_t channels, std::int64_t taps,
                           const float* weight, const float* bias, bool silu, float* y,
                           std::int64_t y_stride) const = 0;
  // Rows [first, first + rows): queries and keys of length 1 (queries over the root of k_dim) for every head
  // of a group, values, write strengths and decays -> q, k [row][head][k_dim], v [row][head][v_dim], beta and
  // decay [row][head].
  virtual void delta_inputs(const DeltaArgs& args, const float* x, const float* gates, std::int64_t first,
                            std::int64_t rows, float* q, float* k, float* v, float* decay,
                            float* beta) const = 0;
  // Every sequence's new rows in order; states [heads][k_dim][v_dim]. q, k [row][head][k_dim] (normalised by
  // the caller), v [row][head][v_dim], decay g and beta [row][head].
  virtual void recurrence(const RecurrenceArgs& args, const Sequences& sequences, const States& states,
                          const float* q, const float* k, const float* v, const float* decay,
                          const float* beta, float* out, Threads& threads) const = 0;

  // Processes::all_gather() of what lies in the kernels' memory.
  virtual void all_gather(Processes& processes, std::span<const float> mine, float* all) const {
    processes.all_gather(mine, all);
  }

  // What follows reads logits[rows][vocab] and answers to the host, so it waits. scratch:
  // sampling_scratch(rows, vocab) bytes.
  virtual std::size_t sampling_scratch(std::int64_t rows, std::int64_t vocab) const = 0;
  // A token of each row; uniforms: the host's, in (0, 1). Ties: the lower index.
  virtual void sample(const SamplingArgs& args, const float* logits, std::int64_t vocab,
                      std::span<const double> uniforms, std::int32_t* tokens, std::byte* scratch) const = 0;
  // The same, and which drafts that accepts: from node 0 on, of the nodes that continue the one at hand the
  // first whose token is the one that was chosen in its row. accepted[sequence]: how many;
  // path[starts[sequence]
  // + i]: the i-th of them, what lies behind is not set. Drafts are proposed without chance, so this is
  // rejection sampling (Leviathan et al. 2023, A.1): a token with probability p is accepted with p.
  virtual void sample_and_verify(const SamplingArgs& args, const float* logits, std::int64_t vocab,
                                 std::span<const double> uniforms, const DraftedRows& drafts,
                                 std::int32_t* tokens, std::int32_t* accepted, std::int32_t* path,
                                 std::byte* scratch) const;
  // The `count` likeliest of each row, likeliest first; ties: the lower index. -1 where there are no more.
  virtual void best_tokens(const float* logits, std::int64_t rows, std::int64_t vocab, int count,
                           std::int32_t* tokens, std::byte* scratch) const = 0;
  // Beam search: of all pairs of a row and a token those best.size() whose
  // log_probabilities[row] + log softmax(logits[row])[token] are largest, best first; ties: the lower row,
  // then the lower token. There are at least as many pairs; logits may be -inf.
  virtual void select_beams(const float* logits, std::int64_t vocab,
                            std::span<const double> log_probabilities, std::span<Continuation> best,
                            std::byte* scratch) const = 0;
};

const Kernels& reference_kernels();
// The fastest set that this processor runs; `isa`: "avx512-bf16", "avx512", "avx2", "scalar", or "" for the
// best. Null where the processor lacks it.
const Kernels* cpu_kernels(const char* isa = "");

}  // namespace foretoken
