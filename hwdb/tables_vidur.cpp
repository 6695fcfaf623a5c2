// Tables of Vidur and Frontier: layers, attention, experts, networks. Milliseconds.
#include <fmt/format.h>

#include <map>

#include "base/error.h"
#include "base/file.h"
#include "base/json_full.h"
#include "base/text.h"
#include "hwdb/published_rows.h"

namespace foretoken {
namespace {

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

// All-reduce and send-receive of Vidur and Frontier: bytes, or in older files tokens of n_embd 16-bit values,
// of which a pipeline's send takes the share of one tensor-parallel rank.
class VidurNetwork final : public SourceTable {
 public:
  VidurNetwork(const Cells& columns, const std::filesystem::path& file)
      : file_(file.filename().string()), constants_(columns, file) {}
  void read(const Cells& row, const Emit& emit) const override {
    const bool reduce = row.has(median("all_reduce"));
    Origin origin{file_, row.has("network_device") ? row.text("network_device") : device_of_file(file_),
                  "nccl vidur", "float16"};
    Emitter out(emit, origin);
    const bool shared = !reduce && row.has("num_tensor_parallel_workers");
    const std::int64_t bytes = row.has("size") ? row.size("size", 0)
                                               : 2 * row.size("num_tokens", 0) * row.size("n_embd") /
                                                     (shared ? row.size("num_tensor_parallel_workers") : 1);
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

}  // namespace

std::unique_ptr<SourceTable> vidur_table(const Cells& c, const std::filesystem::path& path) {
  if (c.has(median("attn_pre_proj"))) return std::make_unique<VidurLayers>(c, path);
  if (c.has(median("attn_decode"))) return std::make_unique<VidurAttention>(c, path);
  if (c.has(median("moe_grouped_gemm"))) return std::make_unique<FrontierMoe>(c, path);
  if (c.has(median("all_reduce")) || c.has(median("send_recv")))
    return std::make_unique<VidurNetwork>(c, path);
  return nullptr;
}

}  // namespace foretoken
