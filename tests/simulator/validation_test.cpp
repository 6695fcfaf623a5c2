// Predictions beside measurements: the arithmetic of groups, refusals counted by name, equal results on any
// number of threads, and errors that name file and line.
#include "simulator/validation.h"

#include <gmock/gmock.h>

#include <cmath>
#include <fstream>

#include "base/error.h"
#include "base/file.h"
#include "fixtures.h"
#include "simulator/serving_measurement.h"
#include "simulator/simulate.h"

namespace foretoken {
namespace {

using testing::HasSubstr;

// A file that lives as long as the test.
class TemporaryFile {
 public:
  explicit TemporaryFile(const std::string& text, const std::string& name = "rows.csv")
      : path_(std::filesystem::path(testing::TempDir()) /
              (std::string(testing::UnitTest::GetInstance()->current_test_info()->name()) + "-" + name)) {
    std::ofstream(path_) << text;
  }
  ~TemporaryFile() { std::filesystem::remove(path_); }
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

template <class Action>
std::string error_of(Action&& action) {
  try {
    action();
  } catch (const Error& e) {
    return e.what();
  }
  return "no error";
}

ValidationLine line(std::int64_t row, int group, double measured, double predicted, double half_width) {
  ValidationLine l;
  l.row = row;
  l.group = group;
  l.measured = measured;
  l.predicted = predicted;
  l.low = predicted - half_width;
  l.high = predicted + half_width;
  return l;
}

TEST(Validation, ErrorsOfGroupsAreThoseComputedByHand) {
  Validation v;
  v.metrics = {"seconds"};
  v.group_names = {"b", "a"};
  v.refusal_names = {"no table"};
  // Group b: errors +0.1, -0.2, +0.5; APE sorted 0.1 0.2 0.5.
  v.lines = {line(1, 0, 10, 11, 2), line(2, 0, 10, 8, 1), line(3, 0, 10, 15, 5), line(4, 1, 4, 3, 0.5)};
  v.lines.push_back(line(5, 1, 1, 0, 0));
  v.lines.back().refusal = 0;
  summarize(v);
  EXPECT_EQ(v.rows, 5);
  EXPECT_EQ(v.predicted, 4);
  EXPECT_EQ(v.refused, 1);
  EXPECT_EQ(v.refusals, (std::map<std::string, std::int64_t>{{"no table", 1}}));

  ASSERT_EQ(v.groups.size(), 2u);
  EXPECT_EQ(v.groups[0].by, "a") << "sorted by name";
  EXPECT_EQ(v.groups[0].n, 1) << "refused rows have no error";
  EXPECT_DOUBLE_EQ(v.groups[0].bias, -0.25);
  EXPECT_DOUBLE_EQ(v.groups[0].within_interval, 0);
  const ErrorSummary& b = v.groups[1];
  EXPECT_EQ(b.n, 3);
  EXPECT_NEAR(b.mape, 0.8 / 3, 1e-12);
  EXPECT_NEAR(b.median_ape, 0.2, 1e-12);
  EXPECT_NEAR(b.p90_ape, 0.2 + 0.8 * 0.3, 1e-12) << "0.9 of the way over two gaps";
  EXPECT_NEAR(b.bias, 0.4 / 3, 1e-12);
  EXPECT_NEAR(b.within_interval, 2.0 / 3, 1e-12) << "8 +- 1 misses 10; the ends count as inside";
  ASSERT_EQ(v.pooled.size(), 1u);
  EXPECT_EQ(v.pooled[0].n, 4);
  EXPECT_NEAR(v.pooled[0].mape, (0.8 + 0.25) / 4, 1e-12);
}

// Of the lines that both predict: a peer's silence says nothing, and a refused row is nobody's.
TEST(Validation, OtherPredictorsAreComparedOnTheSameRows) {
  Validation v;
  v.metrics = {"seconds"};
  v.group_names = {"a"};
  v.refusal_names = {"no table"};
  v.peer_names = {"z", "y"};
  v.lines = {line(1, 0, 10, 11, 2), line(2, 0, 10, 8, 1), line(3, 0, 10, 15, 5)};
  v.lines[0].peers = {{0, 13}, {1, 10}};
  v.lines[1].peers = {{0, 9}};
  v.lines[2].peers = {{0, 99}};
  v.lines[2].refusal = 0;
  summarize(v);
  ASSERT_EQ(v.peers.size(), 2u);
  EXPECT_EQ(v.peers[0].peer, "y");
  EXPECT_EQ(v.peers[0].ours.n, 1);
  EXPECT_NEAR(v.peers[0].ours.mape, 0.1, 1e-12);
  EXPECT_EQ(v.peers[1].theirs.n, 2);
  EXPECT_NEAR(v.peers[1].theirs.mape, 0.2, 1e-12);
  EXPECT_NEAR(v.peers[1].theirs.bias, 0.1, 1e-12);
  EXPECT_NEAR(v.peers[1].ours.mape, 0.15, 1e-12);
  EXPECT_EQ(validation_tables(v)[2].title, ": other predictors on the same rows");
}

TEST(ValidateEndToEnd, APeersColumnNamesPredictorAndMetric) {
  const TemporaryFile file(
      "model,device,input_len,output_len,max_concurrency,ttft_ms,peer:Vidur:mean_ttft\n");
  EXPECT_THAT(error_of([&] { read_serving_measurements(file.path()); }),
              HasSubstr("column \"peer:Vidur:mean_ttft\" is none of the form peer:NAME:METRIC"));
}

TEST(Validation, ARowWithTwoValuesCountsOnce) {
  Validation v;
  v.metrics = {"ttft_ms", "tpot_ms"};
  v.group_names = {"a"};
  v.lines = {line(1, 0, 10, 11, 2), line(1, 0, 10, 8, 1)};
  v.lines[1].metric = 1;
  summarize(v);
  EXPECT_EQ(v.rows, 1);
  EXPECT_EQ(v.predicted, 1);
  EXPECT_EQ(v.groups.size(), 2u) << "one for each metric";
}

constexpr char kGemm[] = "system,backend,version,dtype,m,n,k,latency_us\n";

TEST(ValidateOperators, PricesAreThoseOfTheCostModelAndRowsKeepTheirNumbers) {
  const Device h100 = test_database().device("h100");
  const Topology topology = test_database().topology(h100, 8);
  const KernelTable kernels = test_database().kernels(h100, "vllm 0.19.0");
  GemmShape g;
  g.m = 37, g.n = 4096, g.k = 4096;
  Op op;
  op.shape = g;
  const Price price = CostModel(h100, topology, kernels).price(op);
  const TemporaryFile file(std::string(kGemm) +
                           "h100_sxm,vllm,0.19.0,bfloat16,37,4096,4096,20\n"
                           "warp9,vllm,0.19.0,bfloat16,37,4096,4096,20\n"
                           "a100_sxm,vllm,0.19.0,int8_wo,37,4096,4096,20\n"
                           "h100_sxm,vllm,0.19.0,bfloat16,37,4096,4096,40\n");
  const Validation v = validate_operators(file.path(), "", test_database());
  ASSERT_EQ(v.lines.size(), 4u);
  EXPECT_EQ(v.lines[0].predicted, price.time.value);
  EXPECT_EQ(v.lines[0].high, price.time.value * (1 + price.relative_error));
  EXPECT_DOUBLE_EQ(v.lines[0].measured, 20e-6);
  EXPECT_EQ(v.lines[3].predicted, v.lines[0].predicted);
  EXPECT_EQ(v.lines[3].row, 4);
  EXPECT_EQ(v.predicted, 2);
  EXPECT_EQ(v.refusals,
            (std::map<std::string, std::int64_t>{{"device \"warp9\" is not in the database", 1},
                                                 {"gemm with type int8_wo: no such operator", 1}}));
  const std::string csv = validation_csv(v);
  EXPECT_THAT(csv, HasSubstr("row,group,metric,measured,predicted,low,high,basis,refusal\n"
                             "1,\"H100-SXM5-80GB, vllm 0.19.0, bfloat16\",seconds,2e-05,"));
  EXPECT_THAT(
      csv, HasSubstr("\n2,\"warp9, vllm 0.19.0, bfloat16\",seconds,2e-05,,,,,\"device \"\"warp9\"\" is not"));
}

TEST(ValidateOperators, RowsWithoutAnOperatorAreRefusedByName) {
  const TemporaryFile file(
      "system,backend,version,op_name,kernel_source,phase,batch_size,seq_len,d_conv,latency_us\n"
      "h100_sxm,sglang,0.5.9,gdn,fused_gdn_gating,context,1,16,4,7.2\n");
  const Validation v = validate_operators(file.path(), "", test_database());
  EXPECT_EQ(v.rows, 1);
  EXPECT_EQ(v.refusals, (std::map<std::string, std::int64_t>{{"fused_gdn_gating: no operator table", 1}}));
  EXPECT_DOUBLE_EQ(v.lines[0].measured, 7.2e-6) << "what was measured is reported all the same";
}

TEST(ValidateOperators, BadFilesAreErrorsWithTheLine) {
  const auto error = [](const std::string& text) {
    const TemporaryFile file(text);
    return error_of([&] { validate_operators(file.path(), "", test_database()); });
  };
  EXPECT_THAT(error(""), HasSubstr("the file is empty"));
  EXPECT_THAT(error(kGemm), HasSubstr("rows.csv:1: the file has no rows"));
  EXPECT_THAT(error("a,b\n1,2\n"), HasSubstr("rows.csv:1: the columns tell no kind of measurement"));
  const std::string row = "h100_sxm,vllm,0.19.0,bfloat16,37,4096,4096,";
  EXPECT_THAT(error(kGemm + row + "nan\n"), HasSubstr("rows.csv:2: column \"latency_us\": \"nan\""));
  EXPECT_THAT(error(kGemm + row + "3\n" + row + "-3\n"), HasSubstr("rows.csv:3: latency_us is -3"));
}

constexpr char kServers[] =
    "model,device,num_devices,tensor_parallel_size,pipeline_parallel_size,data_parallel_size,expert_parallel_"
    "size,"
    "dtype,quantization,kv_cache_dtype,behavior,input_len,output_len,max_concurrency,request_rate,batch_size,"
    "num_prompts,length_ratio,statistic,num_speculative_tokens,ttft_ms,tpot_ms,e2el_ms,output_throughput,"
    "source\n";

// A row of kServers: model, device, behaviour and everything from input_len on.
std::string server(const std::string& model, const std::string& device, const std::string& behavior,
                   const std::string& rest, const std::string& devices = "1,1,1,1,1") {
  return model + "," + device + "," + devices + ",bfloat16,none,," + behavior + "," + rest + "\n";
}
const std::string kLoad = "512,64,4,,,,,,,100,10,800,90,here";

TEST(ValidateEndToEnd, ARowIsTheScenarioThatItDescribes) {
  const TemporaryFile file(kServers + server("llama-3.1-8b", "h100", "vllm-0.19", kLoad) +
                           server("llama-3.1-8b", "h100", "vllm-0.19", "512,64,4,,,,,median,,,10,,,"));
  const Validation v = validate_end_to_end(file.path(), test_resources());
  ASSERT_EQ(v.lines.size(), 5u) << "one for each measured value";
  const Priced p(resolve_or_fail(test_scenario(R"({"model": "llama-3.1-8b", "hardware": {"device": "h100"},
      "engine": {"behavior": "vllm-0.19", "quantization": "none", "dtype": "bfloat16"},
      "cluster": {"replicas": 1},
      "workload": {"max_concurrency": 4, "input_len": {"value": 512}, "output_len": {"value": 64}}})"),
                                 576, 576),
                 true);
  SimulateOptions o;
  o.intervals = false;
  const Simulation s = simulate(p.deployment, p.cost, test_resources(), o);
  EXPECT_EQ(s.served.metrics.completed, 40) << "ten times the concurrency";
  EXPECT_EQ(v.lines[0].predicted, s.served.metrics.ttft.mean);
  EXPECT_EQ(v.lines[1].predicted, s.served.metrics.tpot.mean);
  EXPECT_EQ(v.lines[2].predicted, s.served.metrics.e2el.mean);
  EXPECT_EQ(v.lines[3].predicted, s.served.metrics.output_throughput);
  EXPECT_EQ(v.lines[4].predicted, s.served.metrics.tpot.median) << "statistic";
  EXPECT_EQ(v.group_names, std::vector<std::string>{"llama-3.1-8b, h100, vllm"});
  EXPECT_LT(v.lines[0].low, v.lines[0].predicted);
  EXPECT_GT(v.lines[0].high, v.lines[0].predicted);
}

TEST(ValidateEndToEnd, EveryRefusedRowIsCountedByName) {
  const TemporaryFile file(kServers + server("llama-3.1-8b", "h100", "vllm-0.19", kLoad) +
                           server("gpt-9", "h100", "vllm-0.19", kLoad) +
                           server("llama-3.1-8b", "warp9", "vllm-0.19", kLoad) +
                           server("llama-3.1-8b", "h100", "abacus-1.0", kLoad) +
                           server("llama-3.1-8b", "h100", "abacus-2.0", kLoad) +
                           server("llama-3.1-405b", "h100", "vllm-0.19", kLoad) +
                           server("llama-3.1-8b", "h100", "vllm-0.19", "512,64,4,,,,,,3,100,,,,") +
                           server("llama-3.1-8b", "h100", "vllm-0.19", "512,64,,,,,,,,100,,,,") +
                           server("llama-3.1-8b", "h100", "vllm-0.19", "512,64,4,,4,,,,,100,,,,") +
                           server("llama-3.1-8b", "h100", "vllm-0.19", kLoad, "3,2,1,1,1"));
  const Validation v = validate_end_to_end(file.path(), test_resources());
  EXPECT_EQ(v.rows, 10);
  EXPECT_EQ(v.predicted, 1);
  EXPECT_EQ(v.refused, 9);
  EXPECT_EQ(v.refusals,
            (std::map<std::string, std::int64_t>{
                {"behavior \"abacus\" is not modelled", 2},
                {"device \"warp9\" is not known", 1},
                {"does not fit in memory", 1},
                {"a static batch with a concurrency or a rate besides", 1},
                {"model \"gpt-9\" is not known", 1},
                {"no load: max_concurrency, request_rate and batch_size are empty", 1},
                {"num_devices is no multiple of tensor x pipeline x data-parallel size", 1},
                {"speculative decoding with a method and an acceptance that the row does not say", 1}}));
}

TEST(ValidateEndToEnd, LoadsAreClosedLoopsRatesAndStaticBatches) {
  const TemporaryFile file(
      kServers + server("llama-3.1-8b", "h100", "vllm-0.19", "1000,100,8,,,,0.8,,,1,,,,") +
      server("llama-3.1-8b", "h100", "vllm-0.19", "1000,100,,2.5,,50,,,,1,,,,") +
      server("llama-3.1-8b", "h100", "vllm-0.19", "1000,100,,,300,,,,,1,,,,", "4,2,1,1,1"));
  const ServingMeasurements m = read_serving_measurements(file.path());
  ASSERT_EQ(m.rows.size(), 3u);
  const Scenario closed = scenario_of(m.rows[0]).scenario;
  EXPECT_EQ(closed.workload.max_concurrency, 8);
  EXPECT_EQ(closed.workload.input_len->distribution, "uniform");
  EXPECT_EQ(closed.workload.input_len->min, 800);
  EXPECT_EQ(closed.workload.output_len->max, 100);
  const Scenario open = scenario_of(m.rows[1]).scenario;
  EXPECT_EQ(open.workload.request_rate, 2.5);
  EXPECT_EQ(open.workload.num_prompts, 50);
  EXPECT_EQ(open.workload.arrival, "poisson");
  const Scenario batch = scenario_of(m.rows[2]).scenario;
  EXPECT_TRUE(batch.workload.all_at_once);
  EXPECT_EQ(batch.workload.num_prompts, 300);
  EXPECT_EQ(batch.engine.max_num_seqs, 300) << "all of them run together";
  EXPECT_EQ(batch.cluster.replicas, 2) << "devices over those of one replica";
}

TEST(ValidateEndToEnd, ColumnsSetAnyKeyOfTheEngine) {
  const TemporaryFile file(
      "model,device,behavior,input_len,output_len,max_concurrency,ttft_ms,engine.scheduler_recv_interval,"
      "engine.host_times.ingress_ms,engine.kv_cache_dtype\n"
      "llama-3.1-8b,h100,sglang-0.5.9,1000,100,8,50,10,7.5,fp8\n");
  const EngineSection e = scenario_of(read_serving_measurements(file.path()).rows[0]).scenario.engine;
  EXPECT_EQ(e.scheduler_recv_interval, 10);
  EXPECT_EQ(e.host_times.ingress_ms, 7.5);
  EXPECT_EQ(e.kv_cache_dtype, "fp8");
}

// The first line that fits a row and says a thing counts; what the row says itself stands.
TEST(ServerRecipesTest, CompleteWhatRowsLeaveOpen) {
  const auto read = [](const std::string& text) {
    const TemporaryFile file(text);
    return ServerRecipes(file.path());
  };
  const ServerRecipes known = read(
      "source,model,behavior,min_concurrency,length_ratio,engine.kv_cache_dtype,engine.max_num_batched_"
      "tokens,script\n"
      "dump/,Llama,trtllm-1.0|trtllm-1.1,16,0.8,,isl+2*conc,a.sh\n"
      "dump/,,,,,fp8,9,b.sh\n");
  const TemporaryFile file(
      "source,model,device,behavior,input_len,output_len,max_concurrency,kv_cache_dtype,ttft_ms\n"
      "dump/1,meta/Llama-3.1-8B,h100,trtllm-1.1.0,1000,100,16,,50\n"
      "dump/1,meta/Llama-3.1-8B,h100,trtllm-1.1.0,1000,100,8,bfloat16,50\n"
      "mine,meta/Llama-3.1-8B,h100,trtllm-1.1.0,1000,100,16,,50\n");
  std::vector<ServingMeasurement> rows = read_serving_measurements(file.path()).rows;
  EXPECT_TRUE(known.complete(rows[0]));
  EXPECT_EQ(rows[0].length_ratio, 0.8);
  EXPECT_EQ(rows[0].engine, (std::map<std::string, std::string>{{"kv_cache_dtype", "fp8"},
                                                                {"max_num_batched_tokens", "1032"}}));
  EXPECT_TRUE(known.complete(rows[1]));
  EXPECT_EQ(rows[1].engine, (std::map<std::string, std::string>{{"max_num_batched_tokens", "9"}}));
  EXPECT_FALSE(known.complete(rows[2]));
  EXPECT_TRUE(rows[2].engine.empty());
  EXPECT_THAT(error_of([&] { read("source,modle\ndump/,x\n"); }), HasSubstr("did you mean \"model\""));
}

// Rows that carry no known source are told by how their lengths were drawn, and need clients in flight.
TEST(ServerRecipesTest, RowsOfUnknownSourceAreKnownByTheirLengths) {
  const auto read = [](const std::string& text) {
    const TemporaryFile file(text);
    return ServerRecipes(file.path());
  };
  const ServerRecipes known = read(
      "source,behavior,engine.kv_cache_dtype,engine.max_num_seqs\n"
      "dump/|otherwise length_ratio=0.8,trtllm,fp8,\n"
      "gap/|otherwise length_ratio=,trtllm,,conc\n");
  const TemporaryFile file(
      "source,model,device,behavior,input_len,output_len,max_concurrency,batch_size,length_ratio,ttft_ms\n"
      "mine,llama-3.1-8b,h100,trtllm-1.1,1000,100,16,,0.8,50\n"
      ",llama-3.1-8b,h100,trtllm-1.1,1000,100,16,,,50\n"
      "mine,llama-3.1-8b,h100,trtllm-1.1,1000,100,16,,0.5,50\n"
      "gap/1,llama-3.1-8b,h100,trtllm-1.1,1000,100,16,,0.8,50\n"
      "mine,llama-3.1-8b,h100,trtllm-1.1,1000,100,,16,0.8,50\n");
  std::vector<ServingMeasurement> rows = read_serving_measurements(file.path()).rows;
  using Cells = std::map<std::string, std::string>;
  EXPECT_TRUE(known.complete(rows[0]));
  EXPECT_EQ(rows[0].engine, (Cells{{"kv_cache_dtype", "fp8"}}));
  EXPECT_TRUE(known.complete(rows[1]));
  EXPECT_EQ(rows[1].engine, (Cells{{"max_num_seqs", "16"}}));
  EXPECT_FALSE(known.complete(rows[2]));
  EXPECT_TRUE(known.complete(rows[3]));
  EXPECT_EQ(rows[3].engine, (Cells{{"max_num_seqs", "16"}}));
  EXPECT_FALSE(known.complete(rows[4]));
  EXPECT_THAT(error_of([&] { read("source,behavior\notherwise length_ratio=x,vllm\n"); }),
              HasSubstr("a number or nothing"));
}

TEST(ValidateEndToEnd, ThreadsChangeNothing) {
  std::string rows;
  for (const char* device : {"h100", "l40s", "a100"})
    for (const char* concurrency : {"1", "8", "40"})
      rows += server("llama-3.1-8b", device, "vllm-0.19",
                     std::string("700,90,") + concurrency + ",,,,0.8,,,100,10,,,");
  const TemporaryFile file(kServers + rows);
  ValidateOptions one, four;
  one.threads = 1;
  four.threads = 4;
  one.intervals = four.intervals = true;
  EXPECT_EQ(validation_csv(validate_end_to_end(file.path(), test_resources(), one)),
            validation_csv(validate_end_to_end(file.path(), test_resources(), four)));
}

TEST(ValidateEndToEnd, BadFilesAreErrorsWithTheLine) {
  const auto error = [](const std::string& text) {
    const TemporaryFile file(text);
    return error_of([&] { validate_end_to_end(file.path(), test_resources()); });
  };
  const auto row_error = [&](const std::string& rest) {
    return error(kServers + server("llama-3.1-8b", "h100", "vllm-0.19", rest));
  };
  EXPECT_THAT(error(""), HasSubstr("the file is empty"));
  EXPECT_THAT(error(kServers), HasSubstr("the file has no rows"));
  EXPECT_THAT(error("model,device,input_len,ttft_ms\n"), HasSubstr("rows.csv:1: no column \"output_len\""));
  EXPECT_THAT(error("model,device,input_len,output_len\n"), HasSubstr("rows.csv:1: no measured column"));
  EXPECT_THAT(error("model,device,input_len,output_len,ttft_ms,max_concurency\n"),
              HasSubstr("did you mean \"max_concurrency\"?"));
  EXPECT_THAT(row_error("512,64,4,,,,,,,nan,,,,"), HasSubstr("rows.csv:2: column \"ttft_ms\": \"nan\""));
  EXPECT_THAT(row_error("512,64,4,,,,,,,0,,,,"), HasSubstr("rows.csv:2: ttft_ms is 0; it must be above 0"));
  EXPECT_THAT(row_error("512,64,4,,,,,,,,,,,"), HasSubstr("rows.csv:2: nothing was measured"));
  EXPECT_THAT(row_error("512,64,4,,,,1.5,,,1,,,,"), HasSubstr("rows.csv:2: length_ratio is 1.5"));
  EXPECT_THAT(row_error("512,64,4,,,,,mode,,1,,,,"), HasSubstr("rows.csv:2: statistic is \"mode\""));
  EXPECT_THAT(row_error("0,64,4,,,,,,,1,,,,"), HasSubstr("rows.csv:2: input_len is 0"));
  EXPECT_THAT(row_error("512,64,4.5,,,,,,,1,,,,"),
              HasSubstr("rows.csv:2: column \"max_concurrency\": \"4.5\""));
}

TEST(ValidateEndToEnd, ColumnsWithoutAMeaningAreNamed) {
  const TemporaryFile file(
      "model,device,input_len,output_len,max_concurrency,ttft_ms,weather\n"
      "llama-3.1-8b,h100,128,8,1,100,rain\n");
  const Validation v = validate_end_to_end(file.path(), test_resources());
  ASSERT_EQ(v.notes.size(), 1u);
  EXPECT_THAT(v.notes[0], HasSubstr("\"weather\""));
}

// One run against another: ratios of what was measured and of what is predicted, with the repeats' spread.
TEST(ValidateRuns, StrategiesAreComparedWithTheirBaselines) {
  const auto folder = std::filesystem::path(testing::TempDir()) / "strategies";
  std::filesystem::remove_all(folder);
  const auto put = [&](const std::string& name, const std::string& text) {
    std::filesystem::create_directories((folder / name).parent_path());
    OutputFile file(folder / name);
    file.write(text);
    file.commit();
  };
  const auto scenario = [](const std::string& quantization) {
    return R"({"model": "llama-3.1-8b", "hardware": {"device": "h100"}, "engine": {"quantization": ")" +
           quantization +
           R"("}, "workload": {"max_concurrency": 4, "num_prompts": 8, "input_len": 64, "output_len": 16}})";
  };
  put("plain/scenario.json", scenario("none"));
  put("plain/measured.json",
      R"({"mean_tpot_ms": 12, "output_throughput": 300, "spread": {"mean_tpot_ms": 0.03}})");
  put("fp8/scenario.json", scenario("fp8"));
  put("fp8/measured.json",
      R"({"mean_tpot_ms": 8, "output_throughput": 450, "spread": {"mean_tpot_ms": 0.04}})");
  put("effects.csv", "strategy,run,baseline\nfp8 weights,fp8,plain\n");
  const Validation v = validate_runs(folder, test_resources());
  ASSERT_EQ(v.effects.size(), 2u);
  const StrategyEffect &tpot = v.effects[0], &throughput = v.effects[1];
  EXPECT_EQ(tpot.metric, "mean_tpot_ms");
  EXPECT_DOUBLE_EQ(tpot.measured, 1.5) << "12 ms became 8";
  EXPECT_DOUBLE_EQ(throughput.measured, 1.5) << "300 tokens a second became 450";
  EXPECT_DOUBLE_EQ(tpot.spread, 0.05) << "3 and 4 % at right angles";
  EXPECT_GT(tpot.predicted, 1);
  EXPECT_LT(tpot.predicted, 2) << "weights are half as large";
  EXPECT_EQ(tpot.sign(), StrategyEffect::Sign::kRight);
  StrategyEffect small = tpot;
  small.measured = 0.96;
  EXPECT_EQ(small.sign(), StrategyEffect::Sign::kWithinSpread);
  small.measured = 0.94;
  EXPECT_EQ(small.sign(), StrategyEffect::Sign::kWrong);

  put("effects.csv", "strategy,run,baseline\nfp8 weights,fp8,nothing\n");
  EXPECT_THAT(error_of([&] { validate_runs(folder, test_resources()); }),
              AllOf(HasSubstr("effects.csv:2"), HasSubstr("no run \"nothing\"")));
}

TEST(ValidateRuns, FoldersWithoutRunsAreErrors) {
  EXPECT_THAT(error_of([] { validate_runs("/nonexistent", test_resources()); }), HasSubstr("cannot be read"));
  const auto empty = std::filesystem::path(testing::TempDir()) / "no-runs";
  std::filesystem::create_directories(empty);
  EXPECT_THAT(error_of([&] { validate_runs(empty, test_resources()); }), HasSubstr("holds no run"));
}

}  // namespace
}  // namespace foretoken
