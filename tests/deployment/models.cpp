// Models by their published shapes, devices by their datasheets.
#include "models.h"

#include <stdexcept>

namespace foretoken {
namespace {

ModelConfig dense_llama(const char* name, std::int64_t hidden, int layers, std::int64_t heads,
                        std::int64_t inter) {
  ModelConfig m;
  m.name = name;
  m.model_type = "llama";
  m.hidden = hidden;
  m.vocab = 128256;
  m.num_layers = layers;
  m.max_positions = 131072;
  m.final_norm_parameters = hidden;
  LayerKind kind;
  kind.name = "attention+mlp";
  GqaAttention a;
  a.heads = heads;
  a.kv_heads = 8;
  a.head_dim = a.v_head_dim = 128;
  kind.mixer = a;
  DenseMlp mlp;
  mlp.inter = inter;
  kind.mlp = mlp;
  kind.norm_parameters = 2 * hidden;
  m.kinds = {kind};
  m.layers.assign(static_cast<std::size_t>(layers), 0);
  return m;
}

Device device(const char* name, const char* generation, double memory, double fp8, double price) {
  Device d;
  d.name = name;
  d.vendor = "NVIDIA";
  d.generation = generation;
  d.memory = Bytes(memory);
  d.memory_reported = true;
  d.fp16_peak = FlopsPerSecond(989.4e12);
  d.fp8_peak = FlopsPerSecond(fp8);
  d.int8_peak = FlopsPerSecond(1978.9e12);
  if (price > 0) d.usd_per_hour = price;
  return d;
}

}  // namespace

ModelConfig llama_8b() { return dense_llama("llama-3.1-8b", 4096, 32, 32, 14336); }
ModelConfig llama_70b() { return dense_llama("llama-3.1-70b", 8192, 80, 64, 28672); }

ModelConfig deepseek_v3() {
  ModelConfig m;
  m.name = "deepseek-v3";
  m.model_type = "deepseek_v3";
  m.hidden = 7168;
  m.vocab = 129280;
  m.num_layers = 61;
  m.max_positions = 163840;
  m.final_norm_parameters = 7168;
  m.quantization.format = WeightFormat::kFp8Block;
  MlaAttention a;
  a.heads = 128;
  a.q_lora_rank = 1536;
  a.kv_lora_rank = 512;
  a.nope_dim = 128;
  a.rope_dim = 64;
  a.v_dim = 128;
  LayerKind dense, sparse;
  dense.name = "attention+mlp";
  sparse.name = "attention+moe";
  dense.mixer = sparse.mixer = a;
  dense.norm_parameters = sparse.norm_parameters = 2 * 7168;
  DenseMlp mlp;
  mlp.inter = 18432;
  dense.mlp = mlp;
  MoeMlp moe;
  moe.experts = 256;
  moe.top_k = 8;
  moe.inter = 2048;
  moe.shared_inter = 2048;
  moe.router_bias = true;
  sparse.mlp = moe;
  m.kinds = {dense, sparse};
  m.layers.assign(61, 1);
  m.layers[0] = m.layers[1] = m.layers[2] = 0;
  return m;
}

ModelConfig gemma_like() {
  ModelConfig m = llama_8b();
  m.name = "windowed";
  LayerKind windowed = m.kinds[0];
  windowed.name = "window_attention+mlp";
  std::get<GqaAttention>(windowed.mixer).window = 1024;
  m.kinds.push_back(windowed);
  for (std::size_t i = 0; i < m.layers.size(); i += 2) m.layers[i] = 1;
  return m;
}

ModelConfig recurrent_only() {
  ModelConfig m = llama_8b();
  m.name = "state-space";
  RecurrentMixer r;
  r.kind = RecurrentMixer::Kind::kGatedDelta;
  r.k_heads = 16;
  r.v_heads = 32;
  r.k_dim = r.v_dim = 128;
  r.conv_kernel = 4;
  m.kinds[0].mixer = r;
  return m;
}

Device h100() { return device("H100-SXM5-80GB", "9.0", 85520809984.0, 1978.9e12, 1.3); }
Device h200() { return device("H200-SXM-141GB", "9.0", 150754820096.0, 1978.9e12, 1.6); }
Device a100() { return device("A100-SXM4-80GB", "8.0", 85899345920.0, 0, 0); }

Topology nvlink_node() {
  Topology t;
  t.intra_node.name = "NVLink4";
  t.intra_node.bandwidth = BytesPerSecond(450e9);
  t.inter_node.kind = Link::Kind::kNetwork;
  t.inter_node.bandwidth = BytesPerSecond(50e9);
  return t;
}

Scenario scenario_on(const std::string& device_name, int tensor_parallel) {
  Scenario s;
  s.model.text = "\"llama-3.1-8b\"";
  s.hardware.device = device_name;
  s.engine.behavior = "vllm-0.19";
  s.engine.tensor_parallel_size = tensor_parallel;
  return s;
}

Deployment deployment_of(const std::variant<Deployment, Infeasible>& result) {
  if (const auto* verdict = std::get_if<Infeasible>(&result)) throw std::runtime_error(verdict->reason);
  return std::get<Deployment>(result);
}
Infeasible verdict_of(const std::variant<Deployment, Infeasible>& result) {
  if (std::holds_alternative<Deployment>(result)) throw std::runtime_error("feasible");
  return std::get<Infeasible>(result);
}

}  // namespace foretoken
