// One forward pass of eager PyTorch: what is in it, what bounds it, and rows of such passes.
#include "simulator/forward_pass.h"

#include <gmock/gmock.h>

#include <fstream>

#include "fixtures.h"
#include "simulator/validation.h"

namespace foretoken {
namespace {

const Precision kSingle{DType::kF32, DType::kF32, WeightFormat::kPlain};

ModelConfig preset(const std::string& name) {
  return load_model(name, std::filesystem::path(FORETOKEN_SOURCE_DIR) / "model/presets", {});
}

struct OnDevice {
  explicit OnDevice(const std::string& name)
      : device(test_database().device(name)),
        topology(test_database().topology(device, 1)),
        cost(device, topology, kernels) {}
  double seconds(const ModelConfig& model, std::int64_t batch, std::int64_t length,
                 const Precision& precision = kSingle) const {
    return forward_pass(model, cost, batch, length, precision).seconds;
  }
  Device device;
  Topology topology;
  KernelTable kernels;
  CostModel cost;
};

OpList eager(const ModelConfig& model, std::int64_t batch, std::int64_t length) {
  Work w;
  w.prefill = {{length, 0, batch}};
  w.sampled_rows = batch * length;
  return operators(model, Shard{}, w, kSingle, eager_fusion(model));
}

double count_of(const OpList& list, std::string_view name) {
  double n = 0;
  for (const Op& op : list.ops)
    if (op.name == name) n += static_cast<double>(op.count);
  return n;
}

TEST(ForwardPass, EagerModulesRunOneKernelForEachOperator) {
  const ModelConfig gpt2 = preset("gpt2"), opt = preset("opt-125m");
  const OpList a = eager(gpt2, 2, 256), b = eager(opt, 2, 256);
  EXPECT_EQ(count_of(a, "attention"), 0) << "scores go to memory";
  EXPECT_EQ(count_of(a, "attention_scores"), 12);
  EXPECT_EQ(count_of(a, "attention_scale_mask"), 24) << "scale and mask are kernels of their own";
  EXPECT_EQ(count_of(a, "activation"), 8 * 12) << "gelu_new is eight kernels";
  EXPECT_EQ(count_of(b, "activation"), 12) << "relu is one";
  EXPECT_EQ(count_of(a, "qkv_proj"), 12) << "GPT-2 holds q, k and v in one matrix";
  EXPECT_EQ(count_of(b, "q_proj"), 12) << "OPT in three";
  EXPECT_EQ(count_of(a, "kv_write"), 0);
}

TEST(ForwardPass, ScoresAreOfEveryQueryAndKey) {
  const OpList list = eager(preset("gpt2"), 3, 128);
  for (const Op& op : list.ops) {
    if (op.name != "attention_scores") continue;
    const auto& g = std::get<GemmShape>(op.shape);
    EXPECT_EQ(g.batch, 3 * 12);
    EXPECT_EQ(g.m, 128);
    EXPECT_EQ(g.n, 128) << "the causal half is computed and masked";
    EXPECT_EQ(g.k, 64);
    // 2 b h s^2 d FLOPs; q, k and the scores in four bytes each.
    EXPECT_DOUBLE_EQ(flops(op).value, 2.0 * 36 * 128 * 128 * 64);
    EXPECT_DOUBLE_EQ(bytes(op).value, 4.0 * 36 * (2 * 128 * 64 + 128 * 128));
  }
}

TEST(ForwardPass, NeverBelowTheArithmeticOfItsWeights) {
  const OnDevice h100("h100");
  const ModelConfig gpt2 = preset("gpt2-xl");
  // 2 FLOPs a parameter and token at the fp32 vector peak; 48 layers of 12 h^2 and the head.
  const double weights = 48 * 12.0 * 1600 * 1600 + 50257.0 * 1600;
  EXPECT_GT(h100.seconds(gpt2, 4, 1024), 2 * weights * 4096 / 66.9e12);
}

TEST(ForwardPass, GrowsWithBatchAndLengthAndShrinksWithTheType) {
  const OnDevice h100("h100");
  const ModelConfig gpt2 = preset("gpt2-medium");
  double before = 0;
  for (const std::int64_t batch : {1, 2, 4, 8, 16}) {
    const double now = h100.seconds(gpt2, batch, 1024);
    EXPECT_GE(now, before) << batch;
    before = now;
  }
  EXPECT_GT(h100.seconds(gpt2, 4, 1024), 2 * h100.seconds(gpt2, 4, 512)) << "scores grow with the square";
  const Precision half{DType::kF16, DType::kF16, WeightFormat::kPlain};
  EXPECT_LT(h100.seconds(gpt2, 8, 1024, half), 0.5 * h100.seconds(gpt2, 8, 1024));
}

TEST(ForwardPass, TinyPassesWaitForTheHost) {
  const OnDevice h100("h100");
  const ModelConfig gpt2 = preset("gpt2");
  const ForwardPass tiny = forward_pass(gpt2, h100.cost, 1, 1, kSingle);
  const ForwardPass large = forward_pass(gpt2, h100.cost, 16, 1024, kSingle);
  EXPECT_GT(tiny.host_seconds, 0.3 * tiny.seconds);
  EXPECT_EQ(large.host_seconds, 0);
}

// Base over boost clock of the datasheets, for products of 32-bit numbers alone.
TEST(ForwardPass, CardsOnTheSlotsPowerRunAtTheirBaseClock) {
  const Device l4 = test_database().device("l4");
  const Topology alone = test_database().topology(l4, 1);
  Device unlimited = l4;
  unlimited.tdp_watts = 300;
  Op op;
  op.shape = GemmShape{.m = 8192, .n = 8192, .k = 8192, .activation = DType::kF32, .output = DType::kF32};
  const double ratio = roofline_time(op, l4, alone) / roofline_time(op, unlimited, alone);
  EXPECT_NEAR(ratio, 1 / 0.38, 0.01);
  op.shape = GemmShape{.m = 8192, .n = 8192, .k = 8192};
  EXPECT_EQ(roofline_time(op, l4, alone).value, roofline_time(op, unlimited, alone).value);
}

TEST(ForwardPass, RowsThatAreNoSinglePassAreRefusedByName) {
  const std::filesystem::path file = std::filesystem::path(testing::TempDir()) / "passes.csv";
  std::ofstream(file)
      << "model,device,behavior,dtype,input_len,output_len,batch_size,tensor_parallel_size,e2el_ms,"
         "peer:Other:e2el_ms\n"
         "gpt2,h100,pytorch-2.1,float32,512,1,4,1,30,33\n"
         "gpt2,h100,pytorch-2.1-compile,float32,512,1,4,1,25,\n"
         "gpt2,h100,pytorch-2.1,float32,512,8,4,1,60,\n"
         "gpt2,h100,pytorch-2.1,float32,512,1,4,2,20,\n"
         "gpt2,warp9,pytorch-2.1,float32,512,1,4,1,20,\n";
  const Validation v = validate_end_to_end(file, test_resources());
  std::filesystem::remove(file);
  EXPECT_EQ(v.title, "Forward passes");
  EXPECT_EQ(v.predicted, 1);
  EXPECT_EQ(v.refusals,
            (std::map<std::string, std::int64_t>{
                {"device \"warp9\" is not known", 1},
                {"eager PyTorch is modelled for one forward pass: batch_size, and an output_len of 1", 1},
                {"eager PyTorch is modelled on one device", 1},
                {"torch.compile is not modelled", 1}}));
  EXPECT_DOUBLE_EQ(v.lines[0].predicted, 1e3 * OnDevice("h100").seconds(preset("gpt2"), 4, 512));
  ASSERT_EQ(v.peers.size(), 1u);
  EXPECT_EQ(v.peers[0].peer, "Other");
  EXPECT_NEAR(v.peers[0].theirs.mape, 0.1, 1e-12);
}

}  // namespace
}  // namespace foretoken
