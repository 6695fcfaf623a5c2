#include "hwdb/measurement.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/csv.h"

namespace foretoken {
namespace {

using Columns = std::span<const std::string_view>;

constexpr std::array<std::string_view, kMeasuredKinds> kNames = {"gemm",
                                                                 "prefill_attention",
                                                                 "decode_attention",
                                                                 "mla_prefill",
                                                                 "mla_decode",
                                                                 "moe",
                                                                 "all_reduce",
                                                                 "all_gather",
                                                                 "reduce_scatter",
                                                                 "all_to_all",
                                                                 "send_recv",
                                                                 "elementwise",
                                                                 "recurrence_prefill",
                                                                 "recurrence_decode",
                                                                 "convolution_prefill",
                                                                 "convolution_decode",
                                                                 "sparse_prefill",
                                                                 "sparse_decode",
                                                                 "indexer_prefill",
                                                                 "indexer_decode",
                                                                 "mla_module_prefill",
                                                                 "mla_module_decode",
                                                                 "expert_exchange"};

// Identity columns first, then those along which values are interpolated.
constexpr std::string_view kGemmColumns[] = {"n", "k", "batch", "m"};
constexpr std::string_view kPrefillColumns[] = {"heads",  "kv_heads",  "head_dim",
                                                "cached", "sequences", "new_tokens"};
constexpr std::string_view kDecodeColumns[] = {"heads",      "kv_heads",  "head_dim",
                                               "new_tokens", "sequences", "length"};
constexpr std::string_view kMlaPrefillColumns[] = {"heads", "cached", "sequences", "new_tokens"};
constexpr std::string_view kMlaDecodeColumns[] = {"heads", "new_tokens", "sequences", "length"};
constexpr std::string_view kMoeColumns[] = {"hidden",        "inter", "top_k", "num_experts",
                                            "local_experts", "gated", "tokens"};
constexpr std::string_view kCollectiveColumns[] = {"ranks", "ranks_per_node", "message_bytes"};
constexpr std::string_view kElementwiseColumns[] = {"bytes_per_row", "flops_per_row", "rows"};
constexpr std::string_view kRecurrenceColumns[] = {"heads", "k_heads",   "k_dim",
                                                   "v_dim", "sequences", "new_tokens"};
constexpr std::string_view kConvolutionColumns[] = {"channels", "taps", "sequences", "new_tokens"};
constexpr std::string_view kSparseColumns[] = {"heads", "top_k", "new_tokens", "sequences", "length"};
constexpr std::string_view kIndexerColumns[] = {"heads", "head_dim", "new_tokens", "sequences", "length"};
constexpr std::string_view kExchangeColumns[] = {"ranks", "ranks_per_node", "hidden",
                                                 "top_k", "num_experts",    "tokens"};

Op named(std::string_view name, Shape shape) {
  Op op;
  op.name = name;
  op.shape = std::move(shape);
  return op;
}

std::optional<Op> gemm_op(const MeasurementSeries& s, const MeasuredPoint& p) {
  GemmShape g;
  g.n = p.shape[0], g.k = p.shape[1], g.batch = p.shape[2], g.m = p.shape[3];
  if (const auto plain = dtype_from_name(s.dtype); plain && *plain != DType::kFp8 && *plain != DType::kInt8) {
    g.activation = g.output = *plain;
  } else if (s.dtype == "sq") {  // SmoothQuant: 8-bit weights and activations
    g.weight = WeightFormat::kInt8;
  } else if (const auto format = weight_format_from_name(s.dtype)) {
    g.weight = *format;
  } else {
    return std::nullopt;
  }
  return named("gemm", g);
}

std::optional<Op> attention_op(const MeasurementSeries& s, const MeasuredPoint& p) {
  const auto activation = dtype_from_name(s.dtype), kv = dtype_from_name(s.kv_dtype);
  if (!activation || !kv) return std::nullopt;
  AttentionShape a;
  a.activation = *activation;
  a.kv = *kv;
  a.heads = p.shape[0];
  a.mla = s.kind == MeasuredKind::kMlaPrefill || s.kind == MeasuredKind::kMlaDecode;
  a.decode = s.kind == MeasuredKind::kDecodeAttention || s.kind == MeasuredKind::kMlaDecode;
  const int grid = shape_identity_columns(s.kind);
  a.sequences = p.shape[grid];
  if (a.decode) {
    a.new_tokens = p.shape[grid - 1];
    a.kv_tokens = static_cast<double>(a.sequences) * static_cast<double>(p.shape[grid + 1]);
  } else {
    a.cached = p.shape[grid - 1];
    a.new_tokens = p.shape[grid + 1];
  }
  if (a.mla) {
    // DeepSeek-V2/V3: latent 512 + rope 64, heads of 128 + 64 and 128. Absorbed, all heads share one latent.
    a.kv_heads = a.decode ? 1 : a.heads;
    a.qk_dim = a.decode ? 576 : 192;
    a.v_dim = a.decode ? 512 : 128;
    a.kv_bytes_per_token = 576 * bytes_of(a.kv);
  } else {
    a.kv_heads = p.shape[1];
    a.qk_dim = a.v_dim = p.shape[2];
    a.kv_bytes_per_token = 2.0 * static_cast<double>(a.kv_heads * a.qk_dim) * bytes_of(a.kv);
  }
  return named(a.decode ? "decode_attention" : "prefill_attention", a);
}

// Fullest expert over mean as a name for the three load distributions of the tables. A power law over experts
// has no one imbalance; these only tell the tables apart.
double imbalance_of(const std::string& distribution) {
  if (distribution == "power_law_1.2") return 2.0;
  if (distribution.starts_with("power_law")) return 1.5;
  return 1.0;
}

std::optional<Op> moe_op(const MeasurementSeries& s, const MeasuredPoint& p) {
  MoeShape e;
  e.hidden = p.shape[0], e.inter = p.shape[1], e.top_k = p.shape[2], e.num_experts = p.shape[3];
  e.local_experts = p.shape[4], e.gated = p.shape[5] != 0, e.tokens = p.shape[6];
  if (s.dtype.find("mxfp4") != std::string::npos) {
    e.weight = WeightFormat::kMxfp4;
    // w4a8_mxfp4_mxfp8; w4a16_mxfp4 keeps 16 bits, where a bfloat16 model leaves the choice to its engine.
    e.activation = s.dtype.find("a8") != std::string::npos ? DType::kFp8 : DType::kF16;
  } else if (const auto plain = dtype_from_name(s.dtype); plain && bytes_of(*plain) >= 2) {
    e.activation = *plain;
  } else if (const auto format = weight_format_from_name(s.dtype)) {
    e.weight = *format;
  } else {
    return std::nullopt;
  }
  const double share = static_cast<double>(e.local_experts) / static_cast<double>(e.num_experts);
  e.local_rows = static_cast<double>(e.tokens * e.top_k) * share;
  e.dealt = s.distribution == "balanced";
  // Those rows too: some are faster than reading an expert for every pair would allow.
  e.distinct_experts = share * expected_experts(static_cast<double>(e.num_experts),
                                                static_cast<double>(e.top_k), static_cast<double>(e.tokens));
  e.imbalance = imbalance_of(s.distribution);
  return named("moe", e);
}

std::optional<Op> collective_op(const MeasurementSeries& s, const MeasuredPoint& p) {
  CollectiveShape c;
  c.kind = static_cast<Collective>(static_cast<int>(s.kind) - static_cast<int>(MeasuredKind::kAllReduce));
  c.ranks = static_cast<int>(p.shape[0]);
  c.ranks_per_node = static_cast<int>(p.shape[1]);
  c.message_bytes = static_cast<double>(p.shape[2]);
  return named(kNames[static_cast<std::size_t>(s.kind)], c);
}

// Names of elementwise kernels that tables tell apart: an operator's name is static text.
constexpr std::string_view kElementwiseNames[] = {
    "probe",      "step",         "compute_scale", "scale_matrix", "norm",    "qk_norm",   "rope",
    "activation", "residual_add", "embedding",     "kv_write",     "softmax", "layernorm", "gelu",
    "relu",       "tanh",         "add",           "mul",          "div",     "pow",       "host_copy"};

std::string_view elementwise_name(const std::string& kernel) {
  const auto at = std::find(std::begin(kElementwiseNames), std::end(kElementwiseNames), kernel);
  return at == std::end(kElementwiseNames) ? std::string_view("elementwise") : *at;
}

double d(std::int64_t n) { return static_cast<double>(n); }

// The state is 32 bits wide in every engine that was timed, the convolution's 16.
std::optional<Op> recurrence_op(const MeasurementSeries& s, const MeasuredPoint& p) {
  const auto activation = dtype_from_name(s.dtype);
  if (!activation) return std::nullopt;
  RecurrentShape r;
  r.activation = *activation;
  r.heads = p.shape[0];
  const bool convolution =
      s.kind == MeasuredKind::kConvolutionPrefill || s.kind == MeasuredKind::kConvolutionDecode;
  if (convolution) {
    r.form = Recurrence::kConvolution;
    r.k_dim = p.shape[1], r.v_dim = 1;
    r.state_bytes = 2.0 * d(r.heads * (r.k_dim - 1));
  } else {
    r.k_heads = p.shape[1], r.k_dim = p.shape[2], r.v_dim = p.shape[3];
    r.state_bytes = 4.0 * d(r.heads * r.k_dim * r.v_dim);
  }
  r.decode = s.kind == MeasuredKind::kRecurrenceDecode || s.kind == MeasuredKind::kConvolutionDecode;
  const int grid = shape_identity_columns(s.kind);
  r.sequences = p.shape[grid];
  r.tokens = p.shape[grid] * p.shape[grid + 1];
  return named(convolution ? "conv" : "recurrence", r);
}

// DeepSeek sparse attention over latents, absorbed in both phases. length: cached and new tokens.
std::optional<Op> sparse_op(const MeasurementSeries& s, const MeasuredPoint& p) {
  const auto activation = dtype_from_name(s.dtype), kv = dtype_from_name(s.kv_dtype);
  if (!activation || !kv || p.shape[4] < p.shape[2]) return std::nullopt;
  AttentionShape a;
  a.mla = true;
  a.decode = s.kind == MeasuredKind::kSparseDecode;
  a.heads = p.shape[0], a.kv_heads = 1, a.top_k = p.shape[1];
  a.new_tokens = p.shape[2], a.sequences = p.shape[3];
  a.qk_dim = 576, a.v_dim = 512;
  a.activation = *activation, a.kv = *kv;
  a.kv_bytes_per_token = 576 * bytes_of(a.kv);
  if (a.decode)
    a.kv_tokens = d(a.sequences) * d(std::min(p.shape[4], a.top_k));
  else
    a.cached = p.shape[4] - a.new_tokens;
  return named("attention", a);
}

std::optional<Op> indexer_op(const MeasurementSeries& s, const MeasuredPoint& p) {
  const std::int64_t queries = p.shape[2], sequences = p.shape[3], length = p.shape[4];
  if (length < queries) return std::nullopt;
  IndexerShape i;
  i.heads = p.shape[0], i.head_dim = p.shape[1];
  i.queries = queries * sequences;
  i.keys = d(sequences * length);
  i.pairs = s.kind == MeasuredKind::kIndexerDecode
                ? i.keys * d(queries)
                : d(sequences) * causal_pairs(queries, length - queries, 0);
  i.key_bytes = d(i.head_dim + 4 * ((i.head_dim + 127) / 128));
  return named("indexer", i);
}

// Dispatch (fp8) or combine of one rank's tokens with the ranks that hold their experts; a token goes once to
// each other node that it visits, as in the model's own exchange.
std::optional<Op> exchange_op(const MeasurementSeries& s, const MeasuredPoint& p) {
  const auto element = dtype_from_name(s.dtype);
  if (!element) return std::nullopt;
  const double row = d(p.shape[2]) * bytes_of(*element), tokens = d(p.shape[5]);
  CollectiveShape c;
  c.kind = Collective::kAllToAll;
  c.ranks = static_cast<int>(p.shape[0]), c.ranks_per_node = static_cast<int>(p.shape[1]);
  c.message_bytes = tokens * d(p.shape[3]) * row;
  c.element = *element;
  if (c.ranks > c.ranks_per_node)
    c.network_bytes =
        tokens * row * expected_other_nodes(d(p.shape[4]), d(p.shape[3]), d(p.shape[0]) / d(p.shape[1]));
  return named("all_to_all", c);
}

// DeepSeek-V3's attention module: the operators that the model has for it, of `heads` heads.
std::vector<Op> mla_module_ops(const MeasurementSeries& s, const MeasuredPoint& p) {
  const bool decode = s.kind == MeasuredKind::kMlaModuleDecode;
  constexpr std::int64_t kHidden = 7168, kQueryRank = 1536, kLatent = 512, kRope = 64, kNope = 128,
                         kValue = 128;
  const std::int64_t heads = p.shape[0];
  const std::int64_t rows = p.shape[2] * (decode ? p.shape[1] : p.shape[3]);
  MeasurementSeries core = s;
  core.kind = decode ? MeasuredKind::kMlaDecode : MeasuredKind::kMlaPrefill;
  const auto attention = attention_op(core, p);
  const auto gemm = [&](std::int64_t n, std::int64_t k, const std::string& type, std::int64_t m,
                        std::int64_t batch = 1) {
    MeasurementSeries g = s;
    g.dtype = type;
    return gemm_op(g, {{n, k, batch, m}});
  };
  const std::string& type = s.kernel;  // of the projections' weights
  if (!attention || !gemm(1, 1, type, 1)) return {};
  std::vector<Op> ops;
  const auto add = [&](std::string_view name, std::optional<Op> op) {
    op->name = name;
    ops.push_back(std::move(*op));
  };
  const auto elementwise = [&](std::string_view name, double bytes_per_row, double flops_per_row) {
    ops.push_back(named(name, ElementwiseShape{rows, bytes_per_row, flops_per_row}));
  };
  add("q_a_proj", gemm(kQueryRank, kHidden, type, rows));
  add("kv_a_proj", gemm(kLatent + kRope, kHidden, type, rows));
  elementwise("qk_norm", 4.0 * d(kQueryRank + kLatent), 5.0 * d(kQueryRank + kLatent));
  add("q_b_proj", gemm(heads * (kNope + kRope), kQueryRank, type, rows));
  elementwise("rope", 4.0 * d((heads + 1) * kRope), 3.0 * d((heads + 1) * kRope));
  elementwise("kv_write", d(kLatent + kRope) * (2 + bytes_of(std::get<AttentionShape>(attention->shape).kv)),
              0);
  if (decode)
    add("absorb_k", gemm(kLatent, kNope, "bfloat16", rows, heads));
  else
    add("kv_b_proj", gemm(heads * (kNope + kValue), kLatent, type, p.shape[2] * (p.shape[1] + p.shape[3])));
  add("attention", attention);
  if (decode) add("absorb_v", gemm(kValue, kLatent, "bfloat16", rows, heads));
  add("o_proj", gemm(kHidden, heads * kValue, type, rows));
  return ops;
}

std::string cell(double v) { return v == 0 ? "" : fmt::format("{}", v); }

}  // namespace

std::string_view name_of(MeasuredKind kind) { return kNames[static_cast<std::size_t>(kind)]; }

std::optional<MeasuredKind> measured_kind_from_name(std::string_view name) {
  const auto at = std::find(kNames.begin(), kNames.end(), name);
  if (at == kNames.end()) return std::nullopt;
  return static_cast<MeasuredKind>(at - kNames.begin());
}

Columns shape_columns(MeasuredKind kind) {
  switch (kind) {
    case MeasuredKind::kGemm:
      return kGemmColumns;
    case MeasuredKind::kPrefillAttention:
      return kPrefillColumns;
    case MeasuredKind::kDecodeAttention:
      return kDecodeColumns;
    case MeasuredKind::kMlaPrefill:
      return kMlaPrefillColumns;
    case MeasuredKind::kMlaDecode:
      return kMlaDecodeColumns;
    case MeasuredKind::kMoe:
      return kMoeColumns;
    case MeasuredKind::kElementwise:
      return kElementwiseColumns;
    case MeasuredKind::kRecurrencePrefill:
    case MeasuredKind::kRecurrenceDecode:
      return kRecurrenceColumns;
    case MeasuredKind::kConvolutionPrefill:
    case MeasuredKind::kConvolutionDecode:
      return kConvolutionColumns;
    case MeasuredKind::kSparsePrefill:
    case MeasuredKind::kSparseDecode:
      return kSparseColumns;
    case MeasuredKind::kIndexerPrefill:
    case MeasuredKind::kIndexerDecode:
      return kIndexerColumns;
    case MeasuredKind::kMlaModulePrefill:
      return kMlaPrefillColumns;
    case MeasuredKind::kMlaModuleDecode:
      return kMlaDecodeColumns;
    case MeasuredKind::kExpertExchange:
      return kExchangeColumns;
    default:
      return kCollectiveColumns;
  }
}

int shape_identity_columns(MeasuredKind kind) {
  const int columns = static_cast<int>(shape_columns(kind).size());
  switch (kind) {
    case MeasuredKind::kPrefillAttention:
    case MeasuredKind::kDecodeAttention:
    case MeasuredKind::kMlaPrefill:
    case MeasuredKind::kMlaDecode:
    case MeasuredKind::kMlaModulePrefill:
    case MeasuredKind::kMlaModuleDecode:
    case MeasuredKind::kRecurrencePrefill:
    case MeasuredKind::kRecurrenceDecode:
    case MeasuredKind::kConvolutionPrefill:
    case MeasuredKind::kConvolutionDecode:
    case MeasuredKind::kSparsePrefill:
    case MeasuredKind::kSparseDecode:
    case MeasuredKind::kIndexerPrefill:
    case MeasuredKind::kIndexerDecode:
      return columns - 2;
    default:
      return columns - 1;
  }
}

std::optional<Op> op_of(const MeasurementSeries& series, const MeasuredPoint& point) {
  switch (series.kind) {
    case MeasuredKind::kGemm:
      return gemm_op(series, point);
    case MeasuredKind::kPrefillAttention:
    case MeasuredKind::kDecodeAttention:
    case MeasuredKind::kMlaPrefill:
    case MeasuredKind::kMlaDecode:
      return attention_op(series, point);
    case MeasuredKind::kMoe:
      return moe_op(series, point);
    case MeasuredKind::kElementwise:
      return named(elementwise_name(series.kernel),
                   ElementwiseShape{.rows = point.shape[2],
                                    .bytes_per_row = static_cast<double>(point.shape[0]),
                                    .flops_per_row = static_cast<double>(point.shape[1])});
    case MeasuredKind::kRecurrencePrefill:
    case MeasuredKind::kRecurrenceDecode:
    case MeasuredKind::kConvolutionPrefill:
    case MeasuredKind::kConvolutionDecode:
      return recurrence_op(series, point);
    case MeasuredKind::kSparsePrefill:
    case MeasuredKind::kSparseDecode:
      return sparse_op(series, point);
    case MeasuredKind::kIndexerPrefill:
    case MeasuredKind::kIndexerDecode:
      return indexer_op(series, point);
    case MeasuredKind::kMlaModulePrefill:
    case MeasuredKind::kMlaModuleDecode: {
      std::vector<Op> ops = mla_module_ops(series, point);
      if (ops.empty()) return std::nullopt;
      return ops.front();
    }
    case MeasuredKind::kExpertExchange:
      return exchange_op(series, point);
    default:
      return collective_op(series, point);
  }
}

bool is_module(MeasuredKind kind) {
  return kind == MeasuredKind::kMlaModulePrefill || kind == MeasuredKind::kMlaModuleDecode;
}

std::vector<Op> ops_of(const MeasurementSeries& series, const MeasuredPoint& point) {
  if (is_module(series.kind)) return mla_module_ops(series, point);
  if (auto op = op_of(series, point)) return {std::move(*op)};
  return {};
}

void ImportReport::drop(std::string_view reason, std::int64_t rows) {
  for (auto& [text, n] : dropped) {
    if (text == reason) {
      n += rows;
      return;
    }
  }
  dropped.emplace_back(reason, rows);
}

std::string measurement_csv_header(Columns columns) {
  std::string text = "device,engine,op,dtype,kv_dtype,kernel,distribution";
  for (const auto c : columns) text += fmt::format(",{}", c);
  return text + ",seconds,spread,clock_mhz,driver,date,source\n";
}

std::string measurement_csv_row(const Measurement& row, Columns columns) {
  const MeasurementSeries& s = row.series;
  std::string text =
      fmt::format("{},{},{},{},{},{},{}", csv_cell(s.device), csv_cell(s.engine), name_of(s.kind),
                  csv_cell(s.dtype), csv_cell(s.kv_dtype), csv_cell(s.kernel), csv_cell(s.distribution));
  const Columns own = shape_columns(s.kind);
  for (const auto c : columns) {
    const auto at = std::find(own.begin(), own.end(), c);
    text += at == own.end() ? std::string(",")
                            : fmt::format(",{}", row.point.shape[static_cast<std::size_t>(at - own.begin())]);
  }
  // Shortest text that reads back as the same number, so that export and import round-trip.
  return text + fmt::format(",{},{},{},{},{},{}\n", row.point.seconds, cell(row.point.spread),
                            cell(s.clock_mhz), csv_cell(s.driver), csv_cell(s.date), csv_cell(s.source));
}

}  // namespace foretoken
