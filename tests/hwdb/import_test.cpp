// The user's database: imports are whole or nothing, bad rows are named by line, the built-in file stays as
// it is.
#include <gmock/gmock.h>

#include <algorithm>

#include "base/file.h"
#include "built_in.h"

namespace foretoken {
namespace {

using test::built_in_path;
using test::error_of;
using test::Folder;
using test::gemm;
using testing::HasSubstr;

constexpr const char* kHeader =
    "device,engine,op,dtype,n,k,batch,m,seconds,spread,clock_mhz,driver,date,source\n";

std::string row(int n, int m, const std::string& seconds, const char* device = "l4") {
  return std::string(device) + ",foretoken cuda 1,gemm,bfloat16," + std::to_string(n) + ",4096,1," +
         std::to_string(m) + "," + seconds + ",0.01,2040,580.1,2026-11-20,calibrate\n";
}

struct Import : testing::Test {
  Folder folder;
  Database database = Database::open(built_in_path(), folder.path("user.sqlite"));
  Device l4 = database.device("l4");
};

TEST_F(Import, RowsOfAFileBelongToNobodysDatabase) {
  const auto csv = folder.put("a.csv", kHeader + row(4096, 16, "2e-4"));
  const std::filesystem::path temporary = folder.path("temporary");
  std::filesystem::create_directory(temporary);
  setenv("TMPDIR", temporary.c_str(), 1);
  const Database with = Database::with_rows(built_in_path(), {&csv, 1});
  unsetenv("TMPDIR");
  EXPECT_TRUE(std::filesystem::is_empty(temporary)) << "nothing is left, even of a process that is killed";
  const auto t = with.kernels(l4).find(gemm(16, 4096, 4096));
  ASSERT_TRUE(t);
  EXPECT_DOUBLE_EQ(t->time.value, 2e-4);
  EXPECT_FALSE(std::filesystem::exists(folder.path("user.sqlite")));
}

TEST_F(Import, RowsAreFoundAndTheDigestChanges) {
  const std::string before = database.digest();
  EXPECT_EQ(database.kernels(l4).rows(), 0);
  const ImportReport report =
      database.import_file(folder.put("a.csv", kHeader + row(4096, 16, "2e-4") + row(4096, 32, "2.1e-4")));
  EXPECT_EQ(report.read, 2);
  EXPECT_EQ(report.imported, 2);
  EXPECT_TRUE(report.dropped.empty());
  const auto t = database.kernels(l4).find(gemm(16, 4096, 4096));
  ASSERT_TRUE(t);
  EXPECT_DOUBLE_EQ(t->time.value, 2e-4);
  EXPECT_NEAR(t->relative_error, 0.01645, 1e-9);
  EXPECT_NE(database.digest(), before);
  // Another process sees the same.
  const Database again = Database::open(built_in_path(), folder.path("user.sqlite"));
  EXPECT_EQ(again.digest(), database.digest());
  EXPECT_EQ(again.kernels(l4).rows(), 2);
}

TEST_F(Import, ANewMeasurementReplacesTheOldOne) {
  database.import_file(folder.put("a.csv", kHeader + row(4096, 16, "2e-4")));
  const std::string before = database.digest();
  const ImportReport report = database.import_file(folder.put("b.csv", kHeader + row(4096, 16, "3e-4")));
  EXPECT_EQ(report.imported, 0);
  ASSERT_EQ(report.dropped.size(), 1u);
  EXPECT_THAT(report.dropped[0].first, HasSubstr("replaced"));
  EXPECT_DOUBLE_EQ(database.kernels(l4).find(gemm(16, 4096, 4096))->time.value, 3e-4);
  EXPECT_NE(database.digest(), before);
}

TEST_F(Import, TheUsersRowsWinOverTheBuiltIn) {
  const Device h100 = database.device("h100");
  const double built_in = database.kernels(h100).find(gemm(64, 4096, 4096))->time.value;
  database.import_file(folder.put("a.csv", kHeader + row(4096, 64, "0.5", "h100")));
  EXPECT_DOUBLE_EQ(database.kernels(h100).find(gemm(64, 4096, 4096))->time.value, 0.5);
  EXPECT_DOUBLE_EQ(Database::open(built_in_path()).kernels(h100).find(gemm(64, 4096, 4096))->time.value,
                   built_in);
}

TEST_F(Import, BadCellsAreNamedByLineAndLeaveNothing) {
  const std::string good = kHeader + row(4096, 16, "2e-4");
  EXPECT_THAT(error_of([&] { database.import_file(folder.put("a.csv", good + row(4096, 32, "-1"))); }),
              HasSubstr("a.csv:3: seconds is -1"));
  EXPECT_THAT(error_of([&] { database.import_file(folder.put("a.csv", good + row(4096, 32, "nan"))); }),
              HasSubstr("a.csv:3"));
  EXPECT_THAT(error_of([&] { database.import_file(folder.put("a.csv", good + row(-4096, 32, "1"))); }),
              HasSubstr("n is -4096"));
  EXPECT_THAT(error_of([&] {
                database.import_file(folder.put("a.csv", "device,engine,op,dtype,n,k,m,seconds\n" +
                                                             std::string("l4,x,gemm,bfloat16,1,1,1,1\n")));
              }),
              HasSubstr("batch"));
  EXPECT_THAT(error_of([&] { database.import_file(folder.put("a.csv", "colour,size\nred,1\n")); }),
              HasSubstr("colour,size"));
  EXPECT_THAT(error_of([&] { database.import_file(folder.put("b.csv", good), "gem"); }),
              HasSubstr("unknown kind"));
  EXPECT_THAT(error_of([&] { database.import_file(folder.path("none.csv")); }), HasSubstr("none.csv"));
  EXPECT_EQ(database.kernels(l4).rows(), 0);
  EXPECT_FALSE(std::filesystem::exists(folder.path("user.sqlite")));
}

TEST_F(Import, ImplausibleRowsAreCountedByReason) {
  const std::string text = kHeader + row(4096, 16, "1e-9") + row(4096, 16, "0") +
                           row(4096, 32, "1e-3", "cray") + row(4096, 16, "2e-4");
  const ImportReport report = database.import_file(folder.put("a.csv", text));
  EXPECT_EQ(report.read, 4);
  EXPECT_EQ(report.imported, 1);
  ASSERT_EQ(report.dropped.size(), 3u);
  EXPECT_THAT(report.dropped[0].first, HasSubstr("speed of light"));
  EXPECT_THAT(report.dropped[1].first, HasSubstr("zero"));
  EXPECT_THAT(report.dropped[2].first, HasSubstr("cray"));
}

TEST_F(Import, ExportedRowsComeBack) {
  database.import_file(
      folder.put("a.csv", kHeader + row(4096, 16, "2.0123456789e-4") + row(4096, 32, "2.1e-4")));
  database.export_device(l4, folder.path("out.csv"));
  Database second = Database::open(built_in_path(), folder.path("second.sqlite"));
  EXPECT_EQ(second.import_file(folder.path("out.csv")).imported, 2);
  second.export_device(l4, folder.path("again.csv"));
  EXPECT_EQ(read_file(folder.path("out.csv")), read_file(folder.path("again.csv")));
  EXPECT_EQ(second.digest(), database.digest());
}

TEST_F(Import, TheUsersRowReplacesTheBuiltInOneAtTheSamePoint) {
  const Device h100 = database.device("h100");
  const std::int64_t rows = database.kernels(h100).rows();
  database.export_device(h100, folder.path("one.csv"));
  database.import_file(folder.path("one.csv"));
  database.export_device(h100, folder.path("two.csv"));
  EXPECT_EQ(read_file(folder.path("one.csv")), read_file(folder.path("two.csv")));
  EXPECT_GE(database.kernels(h100).rows(),
            rows);  // all of the user's, of the built-in only what one engine needs
  // A row measured at another time, by someone else, is the same point.
  const std::string csv = read_file(folder.path("one.csv"));
  const auto lines = std::count(csv.begin(), csv.end(), '\n');
  Database other = Database::open(built_in_path(), folder.path("other.sqlite"));
  LineReader reader(folder.path("one.csv"));
  std::string header, first;
  reader.next(header), reader.next(first);
  const std::string mine = first.substr(0, first.rfind(first.back() == '"' ? ",\"" : ",")) + ",mine";
  EXPECT_EQ(other.import_file(folder.put("mine.csv", header + "\n" + mine + "\n")).imported, 1);
  std::string after;
  other.export_device(h100, [&](std::string_view text) { after += text; });
  EXPECT_EQ(std::count(after.begin(), after.end(), '\n'), lines);
  EXPECT_THAT(after, testing::AllOf(HasSubstr(mine + "\n"), testing::Not(HasSubstr(first + "\n"))));
}

TEST_F(Import, OnlyTheFileStaysAndAFailureLeavesNothing) {
  const auto left = [&] {
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(folder.path("")))
      if (const std::string name = entry.path().filename(); name.starts_with("user.sqlite"))
        names.push_back(name);
    return names;
  };
  EXPECT_THAT(error_of([&] { database.import_file(folder.put("a.csv", kHeader)); }),
              testing::AllOf(HasSubstr("a.csv"), HasSubstr("no measurements")));
  EXPECT_EQ(database.import_file(folder.put("a.csv", kHeader + row(4096, 16, "0"))).imported, 0);
  EXPECT_TRUE(left().empty());
  database.import_file(folder.put("a.csv", kHeader + row(4096, 16, "2e-4")));
  EXPECT_EQ(left(), std::vector<std::string>{"user.sqlite"});
  const Database reader = Database::open(built_in_path(), folder.path("user.sqlite"));
  EXPECT_EQ(reader.kernels(l4).rows(), 1);
  EXPECT_EQ(left(), std::vector<std::string>{"user.sqlite"});
}

TEST_F(Import, KindsWithDifferentColumnsShareAFile) {
  const Device a100 = database.device("a100");
  database.export_device(a100, folder.path("all.csv"));
  const ImportReport report = database.import_file(folder.path("all.csv"));
  EXPECT_EQ(report.imported, report.read);
  EXPECT_GT(report.imported, 40000);
}

TEST_F(Import, ADeviceOfOnesOwn) {
  const std::string text = read_file(test::data_folder() / "devices.csv");
  const std::string header = text.substr(0, text.find('\n'));
  const std::string line =
      "My-GPU,Me,Own,1,100,1000,10,0,100,0,0,0,0,1e10,1,500,4,0,1,32,100,0,1.5,mine,high,mine,x";
  const auto file = folder.put("devices.csv", header + ",scaleup_link,host_link,network_link\n" + line +
                                                  ",none,PCIe4 x16,InfiniBand HDR\n");
  EXPECT_EQ(database.import_file(file).imported, 1);
  EXPECT_EQ(database.device("my gpu").fp16_peak.value, 100e12);
  EXPECT_EQ(database.topology(database.device("my-gpu"), 4).inter_node.bandwidth.value, 25e9);
}

// The files of the published tables, kinds told by their columns.
TEST_F(Import, PublishedTables) {
  const auto folder_of_tables = test::shared_data() / "ops/aiconfigurator";
  if (!std::filesystem::exists(folder_of_tables)) GTEST_SKIP() << folder_of_tables << " is absent";
  for (const auto& [name, kind] : {std::pair{"gemm_b60.csv.gz", ""},
                                   {"context_attention_b60.csv.gz", "context_attention"},
                                   {"generation_attention_b60.csv.gz", ""},
                                   {"moe_b60.csv.gz", "moe"},
                                   {"nccl_collectives.csv.gz", "collective"},
                                   {"custom_allreduce.csv.gz", ""}}) {
    const ImportReport report = database.import_file(folder_of_tables / name, kind);
    std::int64_t dropped = 0;
    for (const auto& [reason, rows] : report.dropped) dropped += rows;
    EXPECT_EQ(report.imported + dropped, report.read) << name;
    EXPECT_GT(report.imported, 100) << name;
  }
  const KernelTable b60 = database.kernels(database.device("b60"));
  EXPECT_GT(b60.rows(), 1000);
  EXPECT_TRUE(b60.find(gemm(64, 4096, 4096)));
}

}  // namespace
}  // namespace foretoken
