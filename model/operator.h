// An operator is a named shape: what one kernel (or one fused module) computes, with its FLOPs and bytes. The
// cost model prices it, the executor runs it, calibration measures it. flops() and bytes() are written once,
// here.
#pragma once

#include <cstdint>
#include <string_view>
#include <variant>
#include <vector>

#include "base/units.h"
#include "model/dtype.h"

namespace foretoken {

// out[m, n] = x[m, k] w[n, k]^T, `batch` independent products (absorbed MLA projections have a batch of
// heads).
struct GemmShape {
  std::int64_t m = 0, n = 0, k = 0;
  std::int64_t batch = 1;
  WeightFormat weight = WeightFormat::kPlain;
  DType activation = DType::kBf16;
  DType output = DType::kBf16;
  bool weight_is_activation = false;  // both sides are activations: no weight format applies
  // x lies in the weights' 8 bits, as what made it left it; else the product's own pass rounds it.
  bool quantised_input = false;
  bool operator==(const GemmShape&) const = default;
};

// Fused mixture of experts of one rank: route rows to experts, gate-up, activation, down, weighted sum.
// Composite. Expert load: `distinct_experts` local experts are hit on average (E(1-(1-k/E)^T) for uniform
// routing), the fullest takes `imbalance` times the mean load.
struct MoeShape {
  std::int64_t tokens = 0;  // tokens that are routed, over the whole expert-parallel group
  std::int64_t hidden = 0;
  std::int64_t inter = 0;          // expert width on this rank (whole width / moe tensor parallel)
  std::int64_t num_experts = 0;    // of the layer
  std::int64_t local_experts = 0;  // on this rank
  std::int64_t top_k = 0;
  bool gated = true;  // three matrices an expert, else two
  WeightFormat weight = WeightFormat::kPlain;
  DType activation = DType::kBf16;
  double distinct_experts = 0;  // expected local experts with at least one row
  double local_rows = 0;        // token-expert pairs that this rank computes
  double imbalance = 1.0;       // fullest expert over mean, at least 1
  bool dealt = false;           // priced by rows whose tokens a benchmark dealt out evenly
};

// Attention over a KV cache. A prefill op stands for `sequences` equal chunks; a decode op for all decoding
// sequences together, whose cached tokens may differ (kv_tokens is their sum).
struct AttentionShape {
  bool decode = false;
  std::int64_t sequences = 0;
  std::int64_t new_tokens = 1;  // query tokens a sequence (chunk length; 1 + draft width for decode)
  std::int64_t cached = 0;      // prefill: tokens already cached a sequence (the chunk itself excluded)
  double kv_tokens = 0;         // decode: sum over sequences of tokens attended, the new ones included
  std::int64_t heads = 0;       // query heads on this rank
  std::int64_t kv_heads = 0;    // on this rank, after replication; 1 for MLA in its absorbed form
  std::int64_t qk_dim = 0, v_dim = 0;
  std::int64_t window = 0;  // 0: full causal attention; else each query sees at most this many tokens
  std::int64_t top_k = 0;   // 0: dense; else sparse selection of this many tokens a query (DSA)
  DType activation = DType::kBf16;
  DType kv = DType::kBf16;
  double kv_bytes_per_token =
      0;                 // stored bytes of one token in this layer on this rank (MLA stores the latent once)
  bool mla = false;      // latent attention: absorbed if decode (or kv_heads is 1), up-projected if prefill
  bool chunked = false;  // the window is a fixed chunk: prefill pairs restart at multiples of it
  // Prompts and decoding rows run in one kernel, which splits no keys among multiprocessors: every query head
  // of a decoding row is a tile of its own that reads its keys.
  bool in_shared_call = false;
  std::int64_t compress_ratio =
      0;  // DeepSeek-V4: one more key for every so many tokens, at most top_k of them
  bool operator==(const AttentionShape&) const = default;
};

// Indexer of sparse attention: scores every cached token with a few small heads (DeepSeek-V3.2).
struct IndexerShape {
  std::int64_t queries = 0;
  double pairs = 0;  // query-key pairs scored
  double keys = 0;   // cached keys read
  std::int64_t heads = 0, head_dim = 0;
  double key_bytes = 0;  // per cached token
};

// Linear attention: constant state a sequence, read and written once a chunk. kConvolution is the short
// convolution before it: heads are channels, k_dim taps, v_dim 1, and the state the last inputs.
enum class Recurrence : std::uint8_t { kDeltaRule, kScan, kConvolution };
struct RecurrentShape {
  Recurrence form = Recurrence::kDeltaRule;
  bool decode = false;
  std::int64_t sequences = 0, tokens = 0;        // all new tokens, all sequences
  std::int64_t heads = 0, k_dim = 0, v_dim = 0;  // state is heads x k_dim x v_dim
  std::int64_t k_heads = 0;                      // of queries and keys, shared by the heads
  double state_bytes = 0;                        // per sequence, this rank, this layer
  DType activation = DType::kBf16;
};

// Norms, rotary embedding, activation functions, residual adds, KV writes, gathers: bandwidth and little
// else.
struct ElementwiseShape {
  std::int64_t rows = 0;
  double bytes_per_row = 0;  // read and written
  double flops_per_row = 0;
};

struct SamplingShape {
  std::int64_t rows = 0, vocab = 0;
  bool sorted = false;  // top-k or top-p
  bool beams = false;   // beam search
};

enum class Collective : std::uint8_t { kAllReduce, kAllGather, kReduceScatter, kAllToAll, kSendRecv };
// message: bytes that one rank contributes before the operation (all-reduce, reduce-scatter, all-to-all,
// send) or holds after it (all-gather).
struct CollectiveShape {
  Collective kind = Collective::kAllReduce;
  double message_bytes = 0;
  int ranks = 1;
  int ranks_per_node = 8;
  DType element = DType::kBf16;
  // All-to-all over nodes: bytes of message_bytes that leave the node, when a token goes once to each node
  // that it visits and is spread inside; negative: every copy travels by itself.
  double network_bytes = -1;
};

struct CopyShape {
  double bytes = 0;  // host to device or device to host
  bool from_storage = false;
};

using Shape = std::variant<GemmShape, MoeShape, AttentionShape, IndexerShape, RecurrentShape,
                           ElementwiseShape, SamplingShape, CollectiveShape, CopyShape>;

// What an operator's price depends on; the cost model adds up the parts of a step by it.
enum class OpScope : std::uint8_t {
  kTokens,            // all tokens of the step, padded ones included
  kGroupTokens,       // tokens of all ranks that share the experts
  kSampled,           // rows that are sampled
  kDecodeAttention,   // decoding sequences and their context
  kPrefillAttention,  // prefill chunks
  kSwap,              // cache copied to host memory and back, or to another place of its sequence
  kStreaming,         // weights fetched while earlier layers compute
  kAdapters,          // tokens and distinct low-rank adapters
};

struct Op {
  std::string_view name;  // "qkv_proj": static text, the same names in every table
  OpScope scope = OpScope::kTokens;
  int layer_kind = -1;      // index into OpList::kinds, -1 outside the layers
  std::int64_t count = 1;   // executions a step: layers of this kind on this rank x uses in a layer
  int attention_group = 0;  // kDecodeAttention: which context sum applies (see Work::contexts)
  Shape shape;
  double host_bytes = 0;  // weights that one execution reads over the link to host memory
};

// Whether products by such weights round what they multiply to the same 8 bits.
constexpr bool takes_8_bits(WeightFormat f) {
  return f == WeightFormat::kInt8 || f == WeightFormat::kFp8 || f == WeightFormat::kFp8Block;
}
// Of a row of x in such a format: its values, and a float32 scale, or one for 128 of them.
double quantised_row_bytes(WeightFormat format, std::int64_t width);
// The pass that rounds a product's x: what a product with quantised_input doesn't have.
ElementwiseShape quantising(const GemmShape& product);

Flops flops(const Op& op);  // of one execution
Bytes bytes(const Op& op);  // of one execution: device memory traffic at the least, each tensor once
DType compute_type(const Op& op, bool device_has_fp4);
std::string_view kind_name(const Op& op);  // "gemm", "moe", "prefill_attention", "decode_attention", ...

// Parts of a composite operator (MoE: grouped GEMMs as MoeShape parts are priced by hwdb's moe rows or else
// by these elementwise and GEMM parts). An operator that is no composite expands to itself.
std::vector<Op> expand(const Op& op);

// Exact query-key pairs of causal attention: q new tokens after c cached ones, each query seeing at most
// `window` (0: all). formulas.md 2.2.
double causal_pairs(std::int64_t q, std::int64_t c, std::int64_t window);
// The same where a query sees only its own chunk of `chunk` tokens (Llama 4).
double chunked_pairs(std::int64_t q, std::int64_t c, std::int64_t chunk);
// Pairs with compressed tokens: each query sees floor(position / ratio) of them, at most top_k (0: all).
double compressed_pairs(std::int64_t q, std::int64_t c, std::int64_t ratio, std::int64_t top_k);
// Query-key pairs of an attention operator, prefill or decode, all sequences.
double attention_pairs(const AttentionShape& a);
// Expected nodes other than its own that a token's k of E experts live on, of `nodes` with equal shares:
// (N-1)(1 - C(E-E/N, k)/C(E, k)). formulas.md 2.7.
double expected_other_nodes(double num_experts, double top_k, double nodes);
// Expected distinct experts hit by `tokens` tokens that choose k of E uniformly: E(1-(1-k/E)^T).
double expected_experts(double num_experts, double top_k, double tokens);

}  // namespace foretoken
