// The published tables, one row of each: what the program reads in it.
#include <gmock/gmock.h>

#include <algorithm>

#include "built_in.h"

namespace foretoken {
namespace {

using test::built_in_path;
using test::error_of;
using test::Folder;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

// "device engine | kind dtype kv kernel distribution | shape | microseconds" of every time in a table, or why
// it is refused.
struct PublishedTable : testing::Test {
  Folder folder;
  std::vector<std::string> read(const char* name, const std::string& text, const std::string& kind = "") {
    std::vector<std::string> lines;
    MeasurementReader reader;
    reader.device_name = [](const std::string& device) { return device; };
    reader.row = [&](const Measurement& m) {
      const auto& s = m.series;
      std::string line = s.device + " " + s.engine + " | " + std::string(name_of(s.kind)) + " " + s.dtype;
      for (const std::string& part : {s.kv_dtype, s.kernel, s.distribution})
        if (!part.empty()) line += " " + part;
      line += " |";
      for (std::size_t i = 0; i < shape_columns(s.kind).size(); ++i)
        line += " " + std::to_string(m.point.shape[i]);
      char time[32];
      std::snprintf(time, sizeof time, " | %.6g", m.point.seconds * 1e6);
      lines.push_back(line + time);
    };
    reader.dropped = [&](std::string_view reason, const Measurement&) { lines.emplace_back(reason); };
    ImportReport report;
    read_measurements(folder.put(name, text), kind, reader, report);
    EXPECT_EQ(report.times, static_cast<std::int64_t>(lines.size()));
    return lines;
  }
};

constexpr const char* kGdn =
    "system,backend,version,op_name,kernel_source,phase,batch_size,seq_len,num_tokens,d_model,d_conv,"
    "num_k_heads,head_k_dim,num_v_heads,head_v_dim,model_name,latency_us\n"
    "h100_sxm,sglang,0.5.9,gdn,causal_conv1d_fn,context,2,512,1024,1024,4,16,128,32,64,Q,7.5\n"
    "h100_sxm,sglang,0.5.9,gdn,chunk_gated_delta_rule,context,2,512,1024,1024,4,16,128,32,64,Q,70\n"
    "h100_sxm,sglang,0.5.9,gdn,fused_recurrent_gated_delta_rule,generation,8,1,8,1024,4,16,128,32,64,Q,9\n";

TEST_F(PublishedTable, LinearAttentionIsAConvolutionAndARecurrence) {
  EXPECT_THAT(read("gdn.csv", kGdn),
              ElementsAre("h100_sxm sglang 0.5.9 | convolution_prefill bfloat16 causal_conv1d_fn | "
                          "6144 4 2 512 | 7.5",
                          "h100_sxm sglang 0.5.9 | recurrence_prefill bfloat16 chunk_gated_delta_rule | "
                          "32 16 128 64 2 512 | 70",
                          "h100_sxm sglang 0.5.9 | recurrence_decode bfloat16 "
                          "fused_recurrent_gated_delta_rule | 32 16 128 64 8 1 | 9"));
  // 64 heads of 64, 8 groups of B and C with 128 states.
  EXPECT_THAT(read("mamba2.csv",
                   "system,backend,version,op_name,kernel_source,phase,batch_size,seq_len,d_state,d_conv,"
                   "nheads,head_dim,n_groups,latency_us\n"
                   "h100_sxm,trtllm,1.3,mamba2,causal_conv1d_update,generation,4,1,128,4,64,64,8,4\n"),
              ElementsAre("h100_sxm trtllm 1.3 | convolution_decode bfloat16 causal_conv1d_update | "
                          "6144 4 4 1 | 4"));
}

TEST_F(PublishedTable, KernelsOfQuantisationAndOfExperts) {
  const std::string head = "system,backend,version,op_name,quant_dtype,m,k,latency_us\n";
  EXPECT_THAT(read("computescale.csv", head + "h100_sxm,trtllm,1.3,compute_scale,fp8,16,4096,2\n" +
                                           "h100_sxm,trtllm,1.3,compute_scale,fp8,32,4096,0\n"),
              ElementsAre("h100_sxm trtllm 1.3 | elementwise bfloat16 compute_scale | 8196 8192 16 | 2",
                          "time is zero"));
  EXPECT_THAT(
      read("wide.csv",
           "system,backend,version,op_name,kernel_source,moe_dtype,num_tokens,hidden_size,inter_size,topk,"
           "num_experts,num_slots,moe_tp_size,moe_ep_size,distribution,latency_us\n"
           "h100_sxm,trtllm,1.3,wideep,cutlass,fp8_block,80,7168,2048,8,256,288,1,32,uniform,500\n"
           "h100_sxm,trtllm,1.3,wideep,cutlass,fp8_block,80,7168,2048,8,256,288,1,5,uniform,500\n"),
      ElementsAre("h100_sxm trtllm 1.3 | moe fp8_block cutlass balanced | 7168 2048 8 288 9 1 80 | 500",
                  "experts can't be divided evenly"));
  EXPECT_THAT(
      read("ll.csv",
           "system,version_dir,op_name,kernel_source,node_num,hidden_size,num_token,num_topk,num_experts,"
           "combine_avg_t_us,dispatch_avg_t_us\nh100_sxm,0.5,ll,deepep,2,7168,128,8,256,60,50\n"),
      ElementsAre("h100_sxm deepep 0.5 | expert_exchange fp8 low-latency dispatch | 16 8 7168 8 256 128 | 50",
                  "h100_sxm deepep 0.5 | expert_exchange bfloat16 low-latency combine | "
                  "16 8 7168 8 256 128 | 60"));
}

// Prices are of the parts: down- and up-projections, norms, rotation, cache, absorbed products, attention.
TEST_F(PublishedTable, AModuleIsTheOperatorsThatItTimedTogether) {
  EXPECT_THAT(
      read("mla_generation_module.csv",
           "system,backend,version,mla_dtype,kv_dtype,gemm_type,num_heads,batch,isl,step,latency_us\n"
           "h100_sxm,vllm,0.19,bfloat16,fp8,fp8_block,16,4,1,4095,160\n"),
      ElementsAre("h100_sxm vllm 0.19 | mla_module_decode bfloat16 fp8 fp8_block | 16 1 4 4096 | 160"));
  MeasurementSeries s;
  s.kind = MeasuredKind::kMlaModuleDecode, s.dtype = "bfloat16", s.kv_dtype = "fp8", s.kernel = "fp8_block";
  const auto ops = ops_of(s, {{16, 1, 4, 4096}});
  double weights = 0;
  for (const Op& op : ops)
    if (const auto* g = std::get_if<GemmShape>(&op.shape))
      weights += static_cast<double>(g->n * g->k * g->batch);
  // DeepSeek-V3's attention of 16 heads: 7168 x (1536 + 576), 1536 x 16 x 192, 512 x 16 x 256, 16 x 128 x
  // 7168.
  EXPECT_EQ(weights, 7168. * 2112 + 1536 * 16 * 192 + 512 * 16 * 256 + 16 * 128 * 7168);
  EXPECT_TRUE(std::any_of(ops.begin(), ops.end(), [](const Op& op) {
    const auto* a = std::get_if<AttentionShape>(&op.shape);
    return a && a->decode && a->kv_tokens == 4 * 4096;
  }));
}

TEST_F(PublishedTable, Vidur) {
  EXPECT_THAT(read("mlp_all.csv",
                   "device,model,time_stats.emb.median,time_stats.attn_pre_proj.median,"
                   "time_stats.mlp_up_proj.median,n_head,n_kv_head,n_embd,n_expanded_embd,vocab_size,"
                   "use_gated_mlp,num_tokens,num_tensor_parallel_workers\n"
                   "a100,M,0.4,2,3,64,8,8192,24576,1000,True,4096,2\n"),
              ElementsAre("a100 vidur | elementwise float16 embedding | 32768 0 4096 | 400",
                          "a100 vidur | gemm float16 | 5120 8192 1 4096 | 2000",
                          "a100 vidur | gemm float16 | 24576 8192 1 4096 | 3000"));
  const std::string head =
      "time_stats.attn_prefill.median,time_stats.attn_decode.median,n_embd,n_q_head,n_kv_head,"
      "num_tensor_parallel_workers,batch_size,prefill_chunk_size,kv_cache_size,is_prefill\n";
  EXPECT_THAT(read("attention_a100_legacy.csv",
                   head + "0.5,,8192,64,8,2,1,512,1024,True\n,0.1,8192,64,8,2,16,0,2047,False\n"),
              ElementsAre("a100 vidur | prefill_attention float16 float16 | 32 4 128 1024 1 512 | 500",
                          "a100 vidur | decode_attention float16 float16 | 32 4 128 1 16 2048 | 100"));
  EXPECT_THAT(read("all_reduce_all.csv",
                   "network_device,time_stats.all_reduce.median,num_workers,size,devices_per_node\n"
                   "a100_dgx,0.1,16,4096,8\na100_dgx,0.1,16,0,8\n"),
              ElementsAre("a100_dgx nccl vidur | all_reduce float16 | 16 8 4096 | 100", "empty message"));
  // A stage hands over the share of one tensor-parallel rank.
  EXPECT_THAT(read("p2p_inter_node_a100_legacy.csv",
                   "time_stats.send_recv.median,n_embd,num_tokens,rank,num_tensor_parallel_workers\n"
                   "0.6,4096,1000,0,4\n"),
              ElementsAre("a100 nccl vidur | send_recv float16 | 2 1 2048000 | 600"));
}

TEST_F(PublishedTable, FrontierKeepsConstantColumnsBeside) {
  folder.put("h800__m__moe.csv.const.json",
             R"({"num_experts": "16", "router_topk": "8", "hidden_dim": "2048", "expert_hidden_dim": "768",
                 "use_gated": "True"})");
  EXPECT_THAT(read("h800__m__moe.csv",
                   "time_stats.moe_grouped_gemm.median,num_tokens,num_experts_per_device,"
                   "num_tensor_parallel_workers,total_routed_tokens\n0.04,10,8,1,80\n"),
              ElementsAre("h800 frontier | moe bfloat16 frontier | 2048 768 8 16 8 1 20 | 40"));
  EXPECT_THAT(error_of([&] {
                read("h800__other__moe.csv",
                     "time_stats.moe_grouped_gemm.median,num_tokens,num_experts_per_device,"
                     "num_tensor_parallel_workers\n0.04,10,8,1\n");
              }),
              HasSubstr("hidden_dim"));
}

TEST_F(PublishedTable, LlmServingSim) {
  EXPECT_THAT(read("v1_dense.csv",
                   "gpu,model,dtype,tp,layer,tokens,time_us\n"
                   "RTX4090,meta-llama/Llama-3.1-8B,bf16,2,gate_up_proj,64,100\n"
                   "RTX4090,nobody/knows,bf16,2,gate_up_proj,64,100\n"),
              ElementsAre("RTX4090 vllm 0.19.0 | gemm bfloat16 | 14336 4096 1 64 | 100",
                          "model nobody/knows: its layers' dimensions are not known"));
  EXPECT_THAT(
      read("v1_attention.csv",
           "gpu,model,dtype,tp,prefill_chunk,kv_prefill,n_decode,kv_decode,time_us\n"
           "RTX4090,meta-llama/Llama-3.1-8B,bf16,1,0,0,8,1024,50\n"
           "RTX4090,meta-llama/Llama-3.1-8B,bf16,1,256,512,0,0,60\n"
           "RTX4090,meta-llama/Llama-3.1-8B,bf16,1,256,512,8,1024,90\n"),
      ElementsAre("RTX4090 vllm 0.19.0 | decode_attention bfloat16 bfloat16 | 32 8 128 1 8 1024 | 50",
                  "RTX4090 vllm 0.19.0 | prefill_attention bfloat16 bfloat16 | 32 8 128 512 1 256 | 60",
                  "prefill and decode in one batch: no operator of its own"));
}

TEST_F(PublishedTable, InferSim) {
  EXPECT_THAT(read("gemm.csv", "family,gpu,phase,shape_file,m,k,n,latency_us\ngemm,h20,,,16,2048,6144,10\n"),
              ElementsAre("h20 infersim | gemm fp8_block | 6144 2048 1 16 | 10"));
  EXPECT_THAT(read("attention_decode.csv",
                   "family,gpu,phase,shape_file,dtype,kv_dtype,batch_size,kv_len,latency_us\n"
                   "mha,h20,decode,32-4-128,bf16,fp8,2,1024,30\n"
                   "dsa,h800,decode,attn-128-576-2048,bf16,fp8,64,4096,91\n"),
              ElementsAre("h20 infersim | decode_attention bfloat16 fp8 | 32 4 128 1 2 1024 | 30",
                          "h800 infersim | sparse_decode bfloat16 fp8 | 128 2048 1 64 4096 | 91"));
  EXPECT_THAT(read("dsa.csv",
                   "family,gpu,phase,shape_file,s_q,s_kv,latency_us\n"
                   "dsa,h800,prefill,logits-64-128,2048,4096,101\n"),
              ElementsAre("h800 infersim | indexer_prefill fp8 | 64 128 2048 1 4096 | 101"));
  EXPECT_THAT(read("gdn.csv",
                   "family,gpu,phase,shape_file,batchsize,conv,gdn_update\n"
                   "gdn,h20,decode,4-16-128-32-128,2,8,74\n"),
              ElementsAre("h20 infersim | convolution_decode bfloat16 causal_conv1d_update | 8192 4 2 1 | 8",
                          "h20 infersim | recurrence_decode bfloat16 gated_delta_rule | "
                          "32 16 128 128 2 1 | 74"));
}

TEST_F(PublishedTable, TablesBesidePapers) {
  EXPECT_THAT(read("m.csv",
                   "op,device,split,torch,b,m,n,k,latency_ms\nlinear,L4,test,2.1,,64,128,256,0.1\n"
                   "bmm,L4,test,2.1,12,64,128,256,0.2\n"),
              ElementsAre("L4 pytorch 2.1 | gemm float32 | 128 256 1 64 | 100",
                          "L4 pytorch 2.1 | gemm float32 | 128 256 12 64 | 200"));
  EXPECT_THAT(read("v.csv",
                   "op,device,split,b,h,latency_ms\nadd,L4,test,16,768,0.1\n"
                   "mulu,L4,test,16,768,0.1\n"),
              ElementsAre("L4 pytorch  | elementwise float32 add | 9216 768 16 | 100",
                          "L4 pytorch  | elementwise float32 mul | 6144 768 16 | 100"));
  EXPECT_THAT(read("comm.csv",
                   "op,gpu,num_nodes,num_gpus_per_node,dtype,size(kb),time(us)\n"
                   "alltoall,H100,2,8,half,64,80\nall_gather,H100,1,8,half,0,12\n"
                   "broadcast,H100,1,8,half,4,12\n"),
              ElementsAre("H100 nccl apex | all_to_all float16 | 16 8 65536 | 80", "empty message",
                          "broadcast: collective without a table"));
  EXPECT_THAT(read("c.csv",
                   "device,op,dtype,m,n,k,size_bytes,latency_s,throughput\n"
                   "4xA100 SXM,allreduce,fp16,,,,1024,1e-5,1\nA100,matmul,fp16,64,8,16,,2e-4,1\n"),
              ElementsAre("A100 nccl llmcompass | all_reduce float16 | 4 4 1024 | 10",
                          "A100 llmcompass | gemm float16 | 8 16 1 64 | 200"));
  EXPECT_THAT(read("peak.csv", "gpu,op,value,unit\nH800,mla,3000,GB/s\n"),
              ElementsAre("peak figures without a shape"));
  EXPECT_THAT(read("fit.csv", "model,prefill_a_ms\nm,1\n"),
              ElementsAre("fitted coefficients, not measured times"));
}

TEST_F(PublishedTable, BadCellsAreNamedByLine) {
  std::string bad = kGdn;
  bad.replace(bad.find("70\n"), 2, "-7");
  EXPECT_THAT(error_of([&] { read("gdn.csv", bad); }),
              testing::AllOf(HasSubstr("gdn.csv:3"), HasSubstr("latency_us is -7")));
  EXPECT_THAT(error_of([&] { read("gdn.csv", kGdn, "recurrnce"); }),
              testing::AllOf(HasSubstr("--kind"), HasSubstr("leave it out")));
  EXPECT_THAT(error_of([&] { read("gdn.csv", kGdn, "gemm"); }), HasSubstr("not those of kind"));
}

TEST_F(PublishedTable, FilesAreImportedAllOrNone) {
  const auto user = folder.path("user.sqlite");
  Database database = Database::open(built_in_path(), user);
  const auto good = folder.put("gdn.csv", kGdn), bad = folder.put("bad.csv", "a,b\n1,2\n");
  const std::vector<std::filesystem::path> with_bad{good, bad}, twice{good, good};
  EXPECT_THAT(error_of([&] { database.import_files(with_bad); }), HasSubstr("bad.csv:1"));
  EXPECT_FALSE(std::filesystem::exists(user));
  const auto reports = database.import_files(twice);
  ASSERT_EQ(reports.size(), 2u);
  EXPECT_EQ(reports[0].imported, 3);
  EXPECT_EQ(reports[1].imported, 0);
  EXPECT_THAT(reports[1].dropped, ElementsAre(testing::Pair(HasSubstr("replaced"), 3)));
  // A measured chunk comes back as it was; state-space scans were not timed.
  const KernelTable h100 = database.kernels(database.device("h100"), "sglang 0.5.9");
  RecurrentShape r;
  r.heads = 32, r.k_heads = 16, r.k_dim = 128, r.v_dim = 64, r.sequences = 2, r.tokens = 1024;
  r.state_bytes = 4. * 32 * 128 * 64;
  const auto t = h100.find(test::op_with(r));
  ASSERT_TRUE(t);
  EXPECT_DOUBLE_EQ(t->time.value, 70e-6);
  r.form = Recurrence::kScan;
  EXPECT_FALSE(h100.find(test::op_with(r)));
}

// DeepEP's kernels answer an engine of that name alone: others use their own exchange.
TEST(ExpertExchange, AnswersWhomItIsAskedFor) {
  CollectiveShape c;
  c.kind = Collective::kAllToAll, c.ranks = c.ranks_per_node = 8;
  c.message_bytes = 128. * 8 * 7168, c.element = DType::kFp8;
  const Device h100 = test::built_in().device("h100");
  const auto deepep = test::built_in().kernels(h100, "deepep").find(test::op_with(c));
  const auto plain = test::built_in().kernels(h100, "vllm").find(test::op_with(c));
  ASSERT_TRUE(deepep && plain);
  EXPECT_EQ(deepep->basis, Basis::kMeasured);
  EXPECT_NE(deepep->time.value, plain->time.value);
}

}  // namespace
}  // namespace foretoken
