// Devices: the facts equal their source, names are found as people write them, links follow the topology.
#include <gmock/gmock.h>

#include "base/csv.h"
#include "built_in.h"

namespace foretoken {
namespace {

using test::built_in;
using test::error_of;
using testing::HasSubstr;

TEST(Devices, EqualTheTableTheyWereTakenFrom) {
  const auto source = test::shared_data() / "hardware.csv";
  if (!std::filesystem::exists(source)) GTEST_SKIP() << source << " is absent";
  CsvReader csv(source);
  int rows = 0;
  while (csv.next()) {
    ++rows;
    const auto number = [&](const char* column) { return csv.number_or(csv.column(column), 0); };
    const Device d = built_in().device(csv.text(csv.column("name")));
    SCOPED_TRACE(d.name);
    EXPECT_EQ(d.name, csv.text(csv.column("name")));
    EXPECT_DOUBLE_EQ(d.fp32_peak.value, number("fp32_vec_tflops") * 1e12);
    EXPECT_DOUBLE_EQ(d.tf32_peak.value, number("tf32_tflops") * 1e12);
    EXPECT_DOUBLE_EQ(d.fp16_peak.value, number("fp16_bf16_tflops") * 1e12);
    EXPECT_DOUBLE_EQ(d.fp8_peak.value, number("fp8_tflops") * 1e12);
    EXPECT_DOUBLE_EQ(d.int8_peak.value, number("int8_tops") * 1e12);
    EXPECT_DOUBLE_EQ(d.fp4_peak.value, number("fp4_tflops") * 1e12);
    EXPECT_DOUBLE_EQ(d.memory_bandwidth.value, number("mem_bw_gbs") * 1e9);
    EXPECT_DOUBLE_EQ(d.scaleup_bandwidth.value, number("scaleup_unidir_gbs") * 1e9);
    EXPECT_DOUBLE_EQ(d.pcie_bandwidth.value, number("pcie_unidir_gbs") * 1e9);
    EXPECT_DOUBLE_EQ(d.tdp_watts, number("tdp_w"));
    if (const double reported = number("mem_bytes_reported"); reported > 0) {
      EXPECT_EQ(d.memory.value, reported);
      EXPECT_TRUE(d.memory_reported);
    }
    const double price =
        number("usd_hr_rental_3yr") > 0 ? number("usd_hr_rental_3yr") : number("usd_hr_tco_hyperscaler");
    EXPECT_DOUBLE_EQ(d.usd_per_hour.value_or(0), price);
    EXPECT_FALSE(d.source.empty());
  }
  EXPECT_EQ(rows, 50);
  EXPECT_EQ(built_in().devices().size(), 50u);
}

TEST(Devices, MemoryIsWhatTheDriverReports) {
  // H100's "80" is neither 80e9 nor 80 GiB.
  EXPECT_EQ(built_in().device("h100").memory.value, 85520809984.0);
  EXPECT_EQ(built_in().device("gb200").memory.value, 189471 * kMiB);
  EXPECT_FALSE(built_in().device("mi300x").memory_reported);
  // Unknown HBM capacities: 99.5 % of the figure in GiB, as drivers of H100, H200 and H20 report.
  EXPECT_NEAR(built_in().device("b200").memory.value / kGiB, 0.995 * 180, 0.01);
  EXPECT_NEAR(built_in().device("mi300x").memory.value / kGiB, 0.995 * 192, 0.01);
}

TEST(Devices, PeaksFallBackToTheNextWiderType) {
  const Device a100 = built_in().device("a100"), h100 = built_in().device("h100"),
               b200 = built_in().device("b200");
  EXPECT_EQ(a100.peak(DType::kFp8).value, 312e12);
  EXPECT_EQ(a100.peak(DType::kInt8).value, 624e12);
  EXPECT_EQ(h100.peak(DType::kFp4).value, h100.fp8_peak.value);
  EXPECT_EQ(b200.peak(DType::kFp4).value, 9000e12);
  EXPECT_EQ(h100.peak(DType::kF32).value, h100.fp32_peak.value);
  EXPECT_TRUE(b200.has_fp4());
  EXPECT_FALSE(h100.has_fp4());
}

TEST(Devices, AliasesAndSpellings) {
  const std::pair<const char*, const char*> names[] = {{"h100", "H100-SXM5-80GB"},
                                                       {"a100", "A100-SXM4-80GB"},
                                                       {"h200", "H200-SXM-141GB"},
                                                       {"h200-sxm", "H200-SXM-141GB"},
                                                       {"h200_sxm", "H200-SXM-141GB"},
                                                       {"NVIDIA H200", "H200-SXM-141GB"},
                                                       {"NVIDIA H100 80GB HBM3", "H100-SXM5-80GB"},
                                                       {"b200_sxm", "B200-SXM-180GB"},
                                                       {"gb200", "GB200-NVL72"},
                                                       {"h100-pcie", "H100-PCIE-80GB"},
                                                       {"MI300X", "MI300X"},
                                                       {"l40s", "L40S"},
                                                       {"h100_sxm5_80gb", "H100-SXM5-80GB"},
                                                       {"tpu v5p", "TPU-v5p"},
                                                       {"Xeon 8480+", "Xeon-8480+"}};
  for (const auto& [given, meant] : names) EXPECT_EQ(built_in().device(given).name, meant) << given;
}

TEST(Devices, AmbiguousNamesListTheCandidates) {
  const std::string message = error_of([] { built_in().device("h100-", "--device"); });
  EXPECT_THAT(error_of([] { built_in().device("rtx", "--device"); }),
              HasSubstr("RTX-3090, RTX-4090, RTX-5090"));
  EXPECT_THAT(error_of([] { built_in().device("mi3", "--device"); }),
              HasSubstr("--device: \"mi3\" is ambiguous"));
  EXPECT_THAT(message, HasSubstr("H100-NVL-94GB"));
}

TEST(Devices, UnknownNamesSuggestTheNearest) {
  EXPECT_THAT(error_of([] { built_in().device("h20O"); }), HasSubstr("did you mean"));
  EXPECT_THAT(error_of([] { built_in().device("cray-1"); }), HasSubstr("hw list"));
}

TEST(Topologies, LinksFollowTheDomain) {
  const Device h100 = built_in().device("h100"), a40 = built_in().device("a40"), l4 = built_in().device("l4");
  const Topology node = built_in().topology(h100, 8);
  EXPECT_EQ(node.intra_node.name, "NVLink4");
  EXPECT_EQ(node.intra_node.bandwidth.value, 450e9);
  EXPECT_TRUE(node.intra_node.reduces_in_network);
  EXPECT_EQ(node.inter_node.bandwidth.value, 50e9);  // 400 Gb/s a device
  // A bridge joins two; eight meet over PCIe.
  EXPECT_EQ(built_in().topology(a40, 2).intra_node.name, "NVLink bridge");
  EXPECT_EQ(built_in().topology(a40, 8).intra_node.bandwidth.value, 32e9);
  EXPECT_EQ(built_in().topology(l4, 4).intra_node.kind, Link::Kind::kPcie);
  // The H800's link is the H100's with fewer lanes.
  EXPECT_EQ(built_in().topology(built_in().device("h800"), 8).intra_node.bandwidth.value, 200e9);
  EXPECT_EQ(built_in().topology(built_in().device("gb200"), 72).intra_node.name, "NVLink5");
}

TEST(Tables, AreReadableAt100Columns) {
  for (const Table& table : {built_in().list_devices(), built_in().describe(built_in().device("h100")),
                             built_in().list_measurements(built_in().device("h100"))}) {
    EXPECT_FALSE(table.rows.empty());
    for (const auto& row : table.rows) EXPECT_EQ(row.size(), table.columns.size());
    std::istringstream lines(to_text(table, 100));
    for (std::string line; std::getline(lines, line) && !line.empty();) EXPECT_LE(line.size(), 100u) << line;
  }
}

}  // namespace
}  // namespace foretoken
