// Tables of other projects: Vidur and Frontier (layers, attention, networks), LLMServingSim, InferSim,
// NeuSight, APEX, LLMCompass, DeepSeek's published figures. What they time that is no operator is refused by
// name.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>
#include <optional>

#include "base/error.h"
#include "base/file.h"
#include "base/json_full.h"
#include "base/text.h"
#include "hwdb/measurement_tables.h"

namespace foretoken {
namespace {

constexpr double kMilli = 1e-3, kMicro = 1e-6, kNano = 1e-9;

// What the rows of a file share.
struct Origin {
  std::string file, device, engine, dtype = "bfloat16";
};

Measurement measurement(const Origin& o, MeasuredKind kind,
                        const std::array<std::int64_t, kMaxShapeColumns>& shape, double seconds) {
  Measurement m;
  m.series.device = o.device, m.series.engine = o.engine, m.series.source = o.file;
  m.series.kind = kind;
  m.series.dtype = o.dtype;
  m.point.shape = shape;
  m.point.seconds = seconds;
  return m;
}

// Emits what a row timed, and once why nothing where it timed nothing.
class Emitter {
 public:
  Emitter(const SourceTable::Emit& emit, const Origin& origin) : emit_(emit), origin_(origin) {}
  void operator()(MeasuredKind kind, const std::array<std::int64_t, kMaxShapeColumns>& shape, double seconds,
                  const std::string& kernel = "", const std::string& kv = "") {
    if (seconds <= 0) return;  // not timed in this row
    Measurement m = measurement(origin_, kind, shape, seconds);
    m.series.kernel = kernel, m.series.kv_dtype = kv;
    any_ = true;
    emit_(m, "");
  }
  void refuse(std::string_view reason, double seconds = 0) {
    any_ = true;
    emit_(measurement(origin_, MeasuredKind::kElementwise, {}, seconds), reason);
  }
  void finish() {
    if (!any_) refuse("time is zero");
  }

 private:
  const SourceTable::Emit& emit_;
  const Origin& origin_;
  bool any_ = false;
};

// Dimensions of a decoder layer.
struct Layer {
  std::int64_t hidden = 0, inter = 0, heads = 0, kv_heads = 0, head_dim = 0, vocab = 0;
  bool gated = true;
  std::int64_t experts = 0, top_k = 0;
};

std::int64_t share(std::int64_t whole, std::int64_t ranks) {
  return std::max<std::int64_t>(1, whole / ranks);
}

// Times of named layers of a model at `tokens` rows on one of `tp` ranks. nullopt of a layer that is no
// operator.
struct Piece {
  MeasuredKind kind = MeasuredKind::kGemm;
  std::array<std::int64_t, kMaxShapeColumns> shape{};
  std::string kernel{};
};
std::optional<Piece> piece_of(const std::string& name, const Layer& l, std::int64_t tokens, std::int64_t tp) {
  const std::int64_t heads = share(l.heads, tp), kv = share(l.kv_heads, tp), inter = share(l.inter, tp);
  const auto gemm = [&](std::int64_t n, std::int64_t k) {
    return Piece{MeasuredKind::kGemm, {n, k, 1, tokens}};
  };
  const auto rows = [&](const char* kernel, std::int64_t values, std::int64_t flops) {
    return Piece{MeasuredKind::kElementwise, {2 * values, flops, tokens}, kernel};
  };
  const auto is = [&](std::initializer_list<const char*> names) {
    return std::any_of(names.begin(), names.end(), [&](const char* n) { return name == n; });
  };
  if (is({"attn_pre_proj", "qkv_proj"})) return gemm((heads + 2 * kv) * l.head_dim, l.hidden);
  if (is({"attn_post_proj", "o_proj"})) return gemm(l.hidden, heads * l.head_dim);
  if (is({"q_proj"})) return gemm(heads * l.head_dim, l.hidden);
  if (is({"k_proj", "v_proj"})) return gemm(kv * l.head_dim, l.hidden);
  if (is({"mlp_up_proj", "gate_up_proj"})) return gemm((l.gated ? 2 : 1) * inter, l.hidden);
  if (is({"gate_proj", "up_proj"})) return gemm(inter, l.hidden);
  if (is({"mlp_down_proj", "down_proj"})) return gemm(l.hidden, inter);
  if (is({"lm_head", "lm_head_linear"}) && l.vocab > 0) return gemm(share(l.vocab, tp), l.hidden);
  if (is({"gate", "moe_gating_linear", "moe_gating"}) && l.experts > 0) return gemm(l.experts, l.hidden);
  if (is({"layernorm", "input_layernorm", "post_layernorm", "post_attention_layernorm", "final_layernorm"}))
    return rows("norm", 2 * l.hidden, 5 * l.hidden);
  if (is({"add"})) return rows("residual_add", 3 * l.hidden, l.hidden);
  if (is({"mlp_act", "act_fn"})) return rows("activation", (l.gated ? 3 : 2) * inter, 5 * inter);
  const std::int64_t turned = (heads + kv) * l.head_dim;
  if (is({"attn_rope", "rope", "rotary_emb"})) return rows("rope", 2 * turned, 3 * turned);
  if (is({"qk_norm"})) return rows("qk_norm", 2 * turned, 5 * turned);
  if (is({"emb", "embedding"})) return rows("embedding", 2 * l.hidden, 0);
  return std::nullopt;
}

// The models that LLMServingSim profiled, from their published configurations.
const std::map<std::string, Layer>& profiled_models() {
  static const std::map<std::string, Layer> models = {
      {"meta-llama/Llama-3.1-8B", {4096, 14336, 32, 8, 128, 128256}},
      {"meta-llama/Llama-3.1-70B", {8192, 28672, 64, 8, 128, 128256}},
      {"Qwen/Qwen3-32B", {5120, 25600, 64, 8, 128, 151936}},
      {"Qwen/Qwen3-30B-A3B-Instruct-2507", {2048, 768, 32, 4, 128, 151936, true, 128, 8}},
      {"mistralai/Mixtral-8x7B-v0.1", {4096, 14336, 32, 8, 128, 32000, true, 8, 2}},
      {"microsoft/Phi-mini-MoE-instruct", {4096, 960, 32, 8, 128, 32064, true, 16, 2}}};
  return models;
}

const Layer* profiled(const std::string& model) {
  const auto at = profiled_models().find(model);
  return at == profiled_models().end() ? nullptr : &at->second;
}

std::string median(std::string_view op) { return fmt::format("time_stats.{}.median", op); }

// Vidur and Frontier keep the columns that never change in a file beside the table.
class Constants {
 public:
  Constants(const Cells& columns, const std::filesystem::path& file) : columns_(columns) {
    std::filesystem::path side = file;
    if (side.extension() == ".gz") side.replace_extension();
    side += ".const.json";
    std::error_code ignored;
    if (!std::filesystem::exists(side, ignored)) return;
    const Json json = Json::parse(read_file(side), nullptr, false);
    if (!json.is_object()) throw Error(side.string(), "is not a JSON object of constant columns");
    for (const auto& [key, value] : json.items())
      if (value.is_string()) values_[key] = value.get<std::string>();
  }
  bool has(const std::string& key) const { return columns_.has(key) || values_.contains(key); }
  std::string text(const Cells& row, const std::string& key) const {
    if (row.has(key)) return row.text(key);
    const auto at = values_.find(key);
    return at == values_.end() ? std::string() : at->second;
  }
  std::int64_t size(const Cells& row, const std::string& key, std::int64_t least = 1) const {
    if (row.has(key)) return row.size(key, least);
    const auto at = values_.find(key);
    if (at == values_.end()) return row.size(key, least);  // says which column is missing
    const auto v = parse_double(at->second);
    if (!v || *v < static_cast<double>(least))
      throw Error(key, fmt::format("constant column is \"{}\"; it must be at least {}", at->second, least));
    return static_cast<std::int64_t>(*v);
  }

 private:
  Cells columns_;
  std::map<std::string, std::string> values_;
};

std::string first_part(const std::string& file, const char* separator) {
  return file.substr(0, file.find(separator));
}

// Device of a file named DEVICE__model__table, or table_DEVICE_legacy.
std::string device_of_file(const std::string& file) {
  if (file.find("__") != std::string::npos) {
    if (!file.starts_with("network__")) return first_part(file, "__");
    return first_part(file.substr(9), "__");
  }
  if (const auto legacy = file.find("_legacy"); legacy != std::string::npos) {
    const auto begin = file.rfind('_', legacy - 1);
    return file.substr(begin + 1, legacy - begin - 1);
  }
  return "";
}

// Layers of models: Vidur's mlp_all, Frontier's linear_op. Milliseconds.
class VidurLayers final : public SourceTable {
 public:
  VidurLayers(const Cells& columns, const std::filesystem::path& file)
      : file_(file.filename().string()), constants_(columns, file) {}
  void read(const Cells& row, const Emit& emit) const override {
    static const std::array kLayers = {"emb",         "input_layernorm", "attn_pre_proj",
                                       "attn_rope",   "attn_post_proj",  "post_attention_layernorm",
                                       "mlp_up_proj", "mlp_act",         "mlp_down_proj",
                                       "add",         "lm_head_linear"};
    const bool vidur = row.has("device");
    Origin origin{file_, vidur ? row.text("device") : device_of_file(file_), vidur ? "vidur" : "frontier",
                  "float16"};
    const bool fp8 = constants_.text(row, "quant_signature").find("fp8") != std::string::npos;
    // Events around a launch see the host's part of a short kernel.
    const bool events = constants_.text(row, "measurement_type") == "CUDA_EVENT";
    Layer l;
    l.hidden = constants_.size(row, "n_embd"), l.inter = constants_.size(row, "n_expanded_embd");
    l.heads = constants_.size(row, "n_head"), l.kv_heads = constants_.size(row, "n_kv_head");
    l.head_dim = share(l.hidden, l.heads), l.vocab = constants_.size(row, "vocab_size");
    if (constants_.text(row, "use_qk_norm") == "True")
      l.head_dim = 128;  // Qwen3: heads wider than hidden / heads
    l.gated = constants_.text(row, "use_gated_mlp") == "True";
    const std::int64_t tokens = row.size("num_tokens"),
                       tp = constants_.size(row, "num_tensor_parallel_workers");
    Emitter out(emit, origin);
    for (const char* name : kLayers) {
      const double seconds = row.time(median(name), kMilli);
      const auto piece = piece_of(name, l, tokens, tp);
      if (!piece || seconds <= 0) continue;
      const bool gemm = piece->kind == MeasuredKind::kGemm;
      origin.dtype = gemm && fp8 && std::string_view(name) != "lm_head_linear" ? "fp8" : "float16";
      if (!gemm && events)
        out.refuse("elementwise kernel timed with events around its launch: host-bound", seconds);
      else
        out(piece->kind, piece->shape, seconds, piece->kernel);
    }
    out.finish();
  }

 private:
  std::string file_;
  Constants constants_;
};

class VidurAttention final : public SourceTable {
 public:
  VidurAttention(const Cells& columns, const std::filesystem::path& file)
      : file_(file.filename().string()), constants_(columns, file) {}
  void read(const Cells& row, const Emit& emit) const override {
    const bool vidur = file_.find("__") == std::string::npos;
    const Origin origin{file_, device_of_file(file_), vidur ? "vidur" : "frontier", "float16"};
    Emitter out(emit, origin);
    const auto is = [&](const char* column, const char* value) {
      return constants_.text(row, column) == value;
    };
    const double prefill = row.time(median("attn_prefill"), kMilli),
                 decode = row.time(median("attn_decode"), kMilli);
    if (is("is_mixed_batch", "True") || is("is_true_mixed_batch", "True"))
      return out.refuse("prefill and decode in one batch: no operator of its own", std::max(prefill, decode));
    const std::int64_t tp = constants_.size(row, "num_tensor_parallel_workers"),
                       embd = constants_.size(row, "n_embd"), q = constants_.size(row, "n_q_head");
    const std::int64_t heads = share(q, tp), kv = share(constants_.size(row, "n_kv_head"), tp);
    // Qwen3's heads are wider than hidden / heads.
    const std::int64_t dim = embd / q < 128 && embd == 2048 && q == 32 ? 128 : share(embd, q);
    const std::int64_t batch = row.size("batch_size"), cached = row.size("kv_cache_size", 0),
                       chunk = row.size("prefill_chunk_size", 0);
    if (constants_.text(row, "is_prefill") == "True" && chunk > 0)
      out(MeasuredKind::kPrefillAttention, {heads, kv, dim, cached, batch, chunk}, prefill, "", "float16");
    else
      out(MeasuredKind::kDecodeAttention, {heads, kv, dim, 1, batch, cached + 1}, decode, "", "float16");
    out.finish();
  }

 private:
  std::string file_;
  Constants constants_;
};

class FrontierMoe final : public SourceTable {
 public:
  FrontierMoe(const Cells& columns, const std::filesystem::path& file)
      : file_(file.filename().string()), constants_(columns, file) {}
  void read(const Cells& row, const Emit& emit) const override {
    const Origin origin{file_, device_of_file(file_), "frontier", "bfloat16"};
    Emitter out(emit, origin);
    const std::int64_t hidden = constants_.size(row, "hidden_dim"),
                       inter = constants_.size(row, "expert_hidden_dim"),
                       experts = constants_.size(row, "num_experts"),
                       top_k = constants_.size(row, "router_topk"),
                       local = constants_.size(row, "num_experts_per_device"),
                       tp = constants_.size(row, "num_tensor_parallel_workers"),
                       tokens = row.size("num_tokens");
    const bool gated = constants_.text(row, "use_gated") == "True";
    // Tokens of the group that give this device as many pairs as it was given.
    const double routed = row.number_or("total_routed_tokens", 0);
    const auto group = routed > 0 ? static_cast<std::int64_t>(routed * static_cast<double>(experts) /
                                                              static_cast<double>(top_k * local))
                                  : tokens;
    if (group < 1)
      return out.refuse("fewer than one token in the group", row.time(median("moe_grouped_gemm"), kMilli));
    out(MeasuredKind::kMoe, {hidden, share(inter, tp), top_k, experts, local, gated ? 1 : 0, group},
        row.time(median("moe_grouped_gemm"), kMilli), "frontier");
    for (const char* gate : {"moe_gating", "moe_gating_linear"})
      out(MeasuredKind::kGemm, {experts, hidden, 1, tokens}, row.time(median(gate), kMilli));
    out.finish();
  }

 private:
  std::string file_;
  Constants constants_;
};

// All-reduce and send-receive of Vidur and Frontier: bytes, or tokens of n_embd 16-bit values in older files.
class VidurNetwork final : public SourceTable {
 public:
  VidurNetwork(const Cells& columns, const std::filesystem::path& file)
      : file_(file.filename().string()), constants_(columns, file) {}
  void read(const Cells& row, const Emit& emit) const override {
    const bool reduce = row.has(median("all_reduce"));
    Origin origin{file_, row.has("network_device") ? row.text("network_device") : device_of_file(file_),
                  "nccl vidur", "float16"};
    Emitter out(emit, origin);
    const std::int64_t bytes =
        row.has("size") ? row.size("size", 0) : 2 * row.size("num_tokens", 0) * row.size("n_embd");
    const double seconds = row.time(reduce ? median("all_reduce") : median("send_recv"), kMilli);
    if (bytes == 0) return out.refuse("empty message", seconds);
    const std::int64_t ranks = row.has("num_workers") && reduce ? row.size("num_workers") : 2;
    std::int64_t per_node = ranks;
    if (constants_.has("devices_per_node"))
      per_node = constants_.size(row, "devices_per_node");
    else if (file_.find("inter_node") != std::string::npos)
      per_node = 1;
    out(reduce ? MeasuredKind::kAllReduce : MeasuredKind::kSendRecv, {ranks, per_node, bytes}, seconds);
    out.finish();
  }

 private:
  std::string file_;
  Constants constants_;
};

class ServingSim final : public SourceTable {
 public:
  explicit ServingSim(std::string file) : file_(std::move(file)) {}
  void read(const Cells& row, const Emit& emit) const override {
    const bool vllm = row.has("dtype");  // the newer profiles, of vLLM 0.19
    Origin origin{file_, row.text("gpu"), vllm ? "vllm 0.19.0" : "llmservingsim", "bfloat16"};
    Emitter out(emit, origin);
    const Layer* layer = profiled(row.text("model"));
    if (!layer) return out.refuse("model " + row.text("model") + ": its layers' dimensions are not known");
    const std::int64_t tp = row.size(row.has("tp") ? "tp" : "tp_size");
    if (row.has("t_mean_us"))
      return out.refuse("batch of uneven contexts: no operator of its own", row.time("t_mean_us", kMicro));
    if (row.has("activated_experts"))
      return out.refuse("experts with a forced number of activated ones: no such load",
                        row.time("time_us", kMicro));
    const double seconds = row.has("time_us")     ? row.time("time_us", kMicro)
                           : row.has("median_ms") ? row.time("median_ms", kMilli)
                                                  : row.time("latency_ns", kNano);
    if (row.has("layer") || row.has("layer_name")) {
      const std::string& name = row.text(row.has("layer") ? "layer" : "layer_name");
      const auto piece = piece_of(name, *layer, row.size(row.has("tokens") ? "tokens" : "sequences"), tp);
      if (!piece) return out.refuse(name + ": no operator of that shape", seconds);
      out(piece->kind, piece->shape, seconds, piece->kernel);
      return out.finish();
    }
    const std::int64_t heads = share(layer->heads, tp), kv = share(layer->kv_heads, tp),
                       dim = layer->head_dim;
    std::int64_t chunk = 0, cached = 0, sequences = 0, length = 0, prompts = 1;
    if (row.has("n_decode")) {
      chunk = row.size("prefill_chunk", 0), cached = row.size("kv_prefill", 0);
      sequences = row.size("n_decode", 0), length = row.size("kv_decode", 0);
    } else if (row.text("is_prefill") == "True") {
      prompts = row.size("batch_size"), chunk = row.size("prefill_chunk_size"),
      cached = row.size("kv_cache_size", 0);
    } else {
      sequences = row.size("batch_size"), length = row.size("kv_cache_size", 0) + 1;
    }
    if (chunk > 0 && sequences > 0)
      return out.refuse("prefill and decode in one batch: no operator of its own", seconds);
    if (chunk > 0)
      out(MeasuredKind::kPrefillAttention, {heads, kv, dim, cached, prompts, chunk}, seconds, "", "bfloat16");
    else if (sequences > 0 && length > 0)
      out(MeasuredKind::kDecodeAttention, {heads, kv, dim, 1, sequences, length}, seconds, "", "bfloat16");
    else
      out.refuse("empty batch", seconds);
    out.finish();
  }

 private:
  std::string file_;
};

std::array<std::int64_t, 5> dimensions(const Cells& row) {
  std::array<std::int64_t, 5> v{};
  const auto parts = split(row.text("shape_file"), '-');
  std::size_t at = 0;
  for (const std::string& part : parts)
    if (const auto n = parse_double(part); n && at < v.size()) v[at++] = static_cast<std::int64_t>(*n);
  return v;
}

// H20 and H800: fp8 products of DeepGEMM, attention of FlashAttention 3 and FlashMLA, DSA and GDN kernels.
class InferSim final : public SourceTable {
 public:
  explicit InferSim(std::string file) : file_(std::move(file)) {}
  void read(const Cells& row, const Emit& emit) const override {
    Origin origin{file_, row.text("gpu"), "infersim", "bfloat16"};
    Emitter out(emit, origin);
    const std::string &family = row.text("family"), &phase = row.text("phase"),
                      &shape = row.text("shape_file");
    const double seconds = row.time("latency_us", kMicro);
    const std::array v = dimensions(row);
    const bool decode = phase == "decode";
    const std::string kv =
        row.text_or_empty("kv_dtype").find("fp8") != std::string::npos ? "fp8" : "bfloat16";
    if (family == "gemm") {
      origin.dtype = "fp8_block";
      out(MeasuredKind::kGemm, {row.size("n"), row.size("k"), 1, row.size("m")}, seconds);
    } else if (family == "grouped_gemm") {
      origin.dtype = "fp8_block";
      const std::int64_t local = row.size("num_local_experts"), hidden = row.size("hidden_size"),
                         inter = row.size("intermediate_size"), m = row.size("tokens_per_expert", 0);
      if (m == 0) return out.refuse("fewer than one token an expert", row.time("up_proj_us", kMicro));
      out(MeasuredKind::kGemm, {2 * inter, hidden, local, m}, row.time("up_proj_us", kMicro));
      out(MeasuredKind::kGemm, {hidden, inter, local, m}, row.time("down_proj_us", kMicro));
    } else if (family == "mha") {
      if (decode)
        out(MeasuredKind::kDecodeAttention, {v[0], v[1], v[2], 1, row.size("batch_size"), row.size("kv_len")},
            seconds, "", kv);
      else
        out(MeasuredKind::kPrefillAttention, {v[0], v[1], v[2], 0, 1, row.size("seq_len")}, seconds, "", kv);
    } else if (family == "mla") {
      if (decode)
        out(MeasuredKind::kMlaDecode, {v[0], 1, row.size("batch_size"), row.size("kv_len")}, seconds, "", kv);
      else
        out(MeasuredKind::kMlaPrefill, {v[0], 0, 1, row.size("seq_len")}, seconds, "", kv);
    } else if (family == "dsa" && shape.starts_with("attn")) {
      const std::int64_t top_k = v[2];
      if (decode)
        out(MeasuredKind::kSparseDecode, {v[0], top_k, 1, row.size("batch_size"), row.size("kv_len")},
            seconds, "", kv);
      else
        out(MeasuredKind::kSparsePrefill, {v[0], top_k, row.size("s_q"), 1, row.size("s_kv")}, seconds, "",
            kv);
    } else if (family == "dsa") {
      origin.dtype = "fp8";
      if (decode)
        out(MeasuredKind::kIndexerDecode,
            {v[0], v[1], row.size("next_n"), row.size("batchsize"), row.size("s_kv")}, seconds);
      else
        out(MeasuredKind::kIndexerPrefill, {v[0], v[1], row.size("s_q"), 1, row.size("s_kv")}, seconds);
    } else if (family == "gdn") {  // conv kernel, k heads, k dim, v heads, v dim
      const std::int64_t channels = 2 * v[1] * v[2] + v[3] * v[4];
      const std::int64_t sequences = decode ? row.size("batchsize") : 1,
                         tokens = decode ? 1 : row.size("seq_len");
      out(MeasuredKind::kElementwise, {4 * channels, 2 * v[0] * channels, sequences * tokens},
          row.time("conv", kMicro), decode ? "causal_conv1d_update" : "causal_conv1d_fn");
      double rule = row.time("gdn_update", kMicro);
      for (const char* part : {"kkt", "tril", "wu", "chunk_gdn", "chunk_o"}) rule += row.time(part, kMicro);
      out(decode ? MeasuredKind::kRecurrenceDecode : MeasuredKind::kRecurrencePrefill,
          {v[3], v[2], v[4], sequences, tokens}, rule, "gated_delta_rule");
    } else {
      return out.refuse(family + ": no operator table", seconds);
    }
    out.finish();
  }

 private:
  std::string file_;
};

// PyTorch in 32 bits.
class NeuSight final : public SourceTable {
 public:
  explicit NeuSight(std::string file) : file_(std::move(file)) {}
  void read(const Cells& row, const Emit& emit) const override {
    const Origin origin{file_, row.text("device"), "pytorch " + row.text_or_empty("torch"), "float32"};
    Emitter out(emit, origin);
    const std::string& op = row.text("op");
    const double seconds = row.time("latency_ms", kMilli);
    if (row.has("m")) {
      const std::int64_t b = op == "bmm" ? row.size("b") : 1;
      out(MeasuredKind::kGemm, {row.size("n"), row.size("k"), b, row.size("m")}, seconds);
    } else {
      const bool scalar = op.ends_with("u") && op != "relu" && op != "gelu";
      const std::string name = op == "ln" ? "layernorm" : scalar ? op.substr(0, op.size() - 1) : op;
      const bool two = !scalar && (name == "add" || name == "mul" || name == "div" || name == "pow");
      const std::int64_t h = row.size("h");
      out(MeasuredKind::kElementwise, {4 * h * (two ? 3 : 2), h, row.size("b")}, seconds, name);
    }
    out.finish();
  }

 private:
  std::string file_;
};

class Apex final : public SourceTable {
 public:
  explicit Apex(std::string file) : file_(std::move(file)) {}
  void read(const Cells& row, const Emit& emit) const override {
    const double seconds = row.time("time(us)", kMicro);
    Origin origin{file_, row.text("gpu"), "apex", row.text("dtype") == "half" ? "float16" : "float32"};
    Emitter out(emit, origin);
    if (row.has("m")) {
      out(MeasuredKind::kGemm, {row.size("n"), row.size("k"), 1, row.size("m")}, seconds);
      return out.finish();
    }
    origin.engine = "nccl apex";
    const std::string& name = row.text("op");
    const auto kind = measured_kind_from_name(name == "alltoall"   ? "all_to_all"
                                              : name == "sendrecv" ? "send_recv"
                                                                   : name);
    if (!kind) return out.refuse(name + ": collective without a table", seconds);
    const std::int64_t nodes = row.size("num_nodes"), per_node = row.size("num_gpus_per_node");
    const double kilobytes = row.number_or("size(kb)", 0);
    if (per_node > 16)
      return out.refuse("over 16 devices a node: cells of the table are out of place", seconds);
    if (kilobytes < 1) return out.refuse("empty message", seconds);
    out(*kind, {nodes * per_node, per_node, static_cast<std::int64_t>(kilobytes * 1024)}, seconds);
    out.finish();
  }

 private:
  std::string file_;
};

class LlmCompass final : public SourceTable {
 public:
  explicit LlmCompass(std::string file) : file_(std::move(file)) {}
  void read(const Cells& row, const Emit& emit) const override {
    const std::string &device = row.text("device"), &op = row.text("op");
    const bool four = device.starts_with("4x");
    Origin origin{file_, four ? first_part(device.substr(2), " ") : device, "llmcompass",
                  row.text("dtype") == "fp32" ? "float32" : "float16"};
    Emitter out(emit, origin);
    const double seconds = row.time("latency_s", 1);
    const std::int64_t element = origin.dtype == "float32" ? 4 : 2;
    if (op == "matmul") {
      out(MeasuredKind::kGemm, {row.size("n"), row.size("k"), 1, row.size("m")}, seconds);
    } else if (op == "allreduce") {
      origin.engine = "nccl llmcompass";
      out(MeasuredKind::kAllReduce, {4, 4, row.size("size_bytes")}, seconds);
    } else if ((op == "gelu" || op == "layernorm" || op == "softmax") && row.number_or("m", 0) >= 1) {
      const auto n = static_cast<std::int64_t>(std::max(1.0, row.number_or("n", 1)));
      out(MeasuredKind::kElementwise, {2 * element * n, n, row.size("m")}, seconds, op);
    } else {
      return out.refuse(first_part(op, ":") + ": part of a layer without its shape", seconds);
    }
    out.finish();
  }

 private:
  std::string file_;
};

class DeepGemm final : public SourceTable {
 public:
  explicit DeepGemm(std::string file) : file_(std::move(file)) {}
  void read(const Cells& row, const Emit& emit) const override {
    const Origin origin{file_, row.text("gpu"), "deepgemm", "fp8_block"};
    Emitter out(emit, origin);
    out(MeasuredKind::kGemm, {row.size("n"), row.size("k"), row.size("groups"), row.size("m")},
        row.time("latency_us", kMicro));
    out.finish();
  }

 private:
  std::string file_;
};

// DeepEP's published figures: 256 experts, latency where it is given.
class DeepEpFigures final : public SourceTable {
 public:
  explicit DeepEpFigures(std::string file) : file_(std::move(file)) {}
  void read(const Cells& row, const Emit& emit) const override {
    const bool dispatch = row.text("op") == "dispatch";
    const std::int64_t ranks = row.size("ep");
    Origin origin{file_, first_part(row.text("gpu"), " "), "deepep", dispatch ? "fp8" : "bfloat16"};
    Emitter out(emit, origin);
    const double seconds = row.time("latency_us", kMicro);
    if (seconds <= 0) return out.refuse("bandwidth without a time");
    out(MeasuredKind::kExpertExchange,
        {ranks, std::min<std::int64_t>(ranks, 8), row.size("hidden"), row.size("topk"), 256,
         row.size("tokens_per_rank")},
        seconds, row.text("kernel") + " " + row.text("op"));
  }

 private:
  std::string file_;
};

// Published files that hold no operator times.
class Refused final : public SourceTable {
 public:
  Refused(std::string file, std::string reason, std::string device_column)
      : file_(std::move(file)), reason_(std::move(reason)), device_(std::move(device_column)) {}
  void read(const Cells& row, const Emit& emit) const override {
    const Origin origin{file_, device_.empty() ? "" : row.text(device_), "", ""};
    Emitter(emit, origin).refuse(reason_);
  }

 private:
  std::string file_, reason_, device_;
};

// Jetson modules: GEMM and attention, times in ms.
class Edge final : public SourceTable {
 public:
  explicit Edge(std::string file) : file_(std::move(file)) {}
  void read(const Cells& row, const Emit& emit) const override {
    Origin origin{file_, row.text("device"), "cutlass", row.text("precision") == "int8" ? "int8" : "float16"};
    Emitter out(emit, origin);
    const double seconds = row.time("min_runtime", kMilli);
    if (row.text("op").starts_with("matmul") && row.number_or("M", 0) >= 1)
      out(MeasuredKind::kGemm, {row.size("N"), row.size("K"), 1, row.size("M")}, seconds);
    else
      out.refuse(row.text("op") + ": not a causal attention or a projection", seconds);
    out.finish();
  }

 private:
  std::string file_;
};

}  // namespace

std::unique_ptr<SourceTable> source_table(const CsvReader& csv, const std::filesystem::path& path) {
  const Cells c(csv);
  const std::string file = path.filename().string();
  if (auto table = aiconfigurator_table(c, file)) return table;
  const auto refused = [&](const char* reason, const char* device = "") -> std::unique_ptr<SourceTable> {
    return std::make_unique<Refused>(file, reason, device);
  };
  if (c.has(median("attn_pre_proj"))) return std::make_unique<VidurLayers>(c, path);
  if (c.has(median("attn_decode"))) return std::make_unique<VidurAttention>(c, path);
  if (c.has(median("moe_grouped_gemm"))) return std::make_unique<FrontierMoe>(c, path);
  if (c.has(median("all_reduce")) || c.has(median("send_recv")))
    return std::make_unique<VidurNetwork>(c, path);
  if (c.has("shape_file") && c.has("family")) return std::make_unique<InferSim>(file);
  if (c.has("gpu") && c.has("model") && (c.has("tp") || c.has("tp_size")))
    return std::make_unique<ServingSim>(file);
  if (c.has("latency_ms") && c.has("split")) return std::make_unique<NeuSight>(file);
  if (c.has("time(us)") && c.has("gpu")) return std::make_unique<Apex>(file);
  if (c.has("latency_s") && c.has("throughput")) return std::make_unique<LlmCompass>(file);
  if (c.has("speedup_vs_cutlass")) return std::make_unique<DeepGemm>(file);
  if (c.has("tokens_per_rank") && c.has("topk")) return std::make_unique<DeepEpFigures>(file);
  if (c.has("min_runtime")) return std::make_unique<Edge>(file);
  if (c.has("token_time") && c.has("prompt_time"))
    return refused("times of whole requests, not of operators", "hardware");
  if (c.has("prefill_a_ms") || c.has("max_num_tokens"))
    return refused("fitted coefficients, not measured times");
  if (c.has("Roofline") && c.has("Measurement"))
    return refused("predictions of other programs beside a time without its shape");
  if (c.has("dur_us") && c.has("grid")) return refused("kernels of a training step, without their shapes");
  if (c.has("unit") && c.has("value") && c.has("gpu")) return refused("peak figures without a shape", "gpu");
  return nullptr;
}

}  // namespace foretoken
