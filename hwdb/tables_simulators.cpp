// Tables of LLMServingSim (vLLM's layers) and InferSim (H20 and H800).
#include <map>

#include "base/text.h"
#include "hwdb/published_rows.h"

namespace foretoken {
namespace {

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
      out(decode ? MeasuredKind::kConvolutionDecode : MeasuredKind::kConvolutionPrefill,
          {channels, v[0], sequences, tokens}, row.time("conv", kMicro),
          decode ? "causal_conv1d_update" : "causal_conv1d_fn");
      double rule = row.time("gdn_update", kMicro);
      for (const char* part : {"kkt", "tril", "wu", "chunk_gdn", "chunk_o"}) rule += row.time(part, kMicro);
      out(decode ? MeasuredKind::kRecurrenceDecode : MeasuredKind::kRecurrencePrefill,
          {v[3], v[1], v[2], v[4], sequences, tokens}, rule, "gated_delta_rule");
    } else {
      return out.refuse(family + ": no operator table", seconds);
    }
    out.finish();
  }

 private:
  std::string file_;
};

}  // namespace

std::unique_ptr<SourceTable> simulator_table(const Cells& c, const std::string& file) {
  if (c.has("shape_file") && c.has("family")) return std::make_unique<InferSim>(file);
  if (c.has("gpu") && c.has("model") && (c.has("tp") || c.has("tp_size")))
    return std::make_unique<ServingSim>(file);
  return nullptr;
}

}  // namespace foretoken
