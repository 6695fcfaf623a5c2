// Files that are not what they should be: each gives one Error with the path and what to do; old schemas
// migrate.
#include <SQLiteCpp/SQLiteCpp.h>
#include <gmock/gmock.h>

#include "base/file.h"
#include "built_in.h"
#include "hwdb/store.h"

namespace foretoken {
namespace {

using test::built_in_path;
using test::error_of;
using test::Folder;
using testing::AllOf;
using testing::HasSubstr;

constexpr const char* kCsv =
    "device,engine,op,dtype,n,k,batch,m,seconds,spread,clock_mhz,driver,date,source\n"
    "l4,foretoken 1,gemm,bfloat16,4096,4096,1,16,2e-4,,,,,x\n";

TEST(DatabaseErrors, TextIsNotADatabase) {
  const Folder folder;
  const auto path = folder.put("user.sqlite", std::string(4096, 'x'));
  EXPECT_THAT(error_of([&] { Database::open(built_in_path(), path); }),
              AllOf(HasSubstr("user.sqlite"), HasSubstr("not a database")));
  EXPECT_THAT(error_of([&] { Database::open(path); }), HasSubstr("not a database"));
  EXPECT_THAT(error_of([&] { Database::open(folder.path("absent.sqlite")); }), HasSubstr("missing"));
}

TEST(DatabaseErrors, FoldersAndDevicesAreNoDatabases) {
  const Folder folder;
  EXPECT_THAT(error_of([&] { Database::open(built_in_path(), folder.path("")); }), HasSubstr("is a folder"));
  EXPECT_THAT(error_of([&] { Database::open(built_in_path(), "/dev/null"); }),
              HasSubstr("/dev/null: is not a database"));
  Database database = Database::open(built_in_path(), "/dev/null/x");
  EXPECT_THAT(error_of([&] { database.import_file(folder.put("a.csv", kCsv)); }),
              HasSubstr("can't be opened"));
}

TEST(DatabaseErrors, DamageIsReported) {
  const Folder folder;
  std::string bytes = read_file(built_in_path());
  const auto path = folder.put("cut.sqlite", bytes.substr(0, 20 * 4096));
  const std::string message = error_of([&] {
    const Database d = Database::open(path);
    d.kernels(d.device("h100"));
  });
  EXPECT_THAT(message, AllOf(HasSubstr("cut.sqlite"), HasSubstr("corrupt")));
}

TEST(DatabaseErrors, AnotherProgramsDatabase) {
  const Folder folder;
  const auto path = folder.path("other.sqlite");
  SQLite::Database(path.string(), SQLite::OPEN_READWRITE | SQLite::OPEN_CREATE).exec("CREATE TABLE t (x)");
  EXPECT_THAT(error_of([&] { Database::open(built_in_path(), path); }), HasSubstr("another program"));
}

TEST(DatabaseErrors, NewerSchema) {
  const Folder folder;
  const auto path = folder.path("user.sqlite");
  { Store store(path, Store::Mode::kWrite); }
  SQLite::Database(path.string(), SQLite::OPEN_READWRITE).exec("PRAGMA user_version = 99");
  EXPECT_THAT(error_of([&] { Database::open(built_in_path(), path); }),
              AllOf(HasSubstr("schema version 99"), HasSubstr("newer foretoken")));
}

TEST(DatabaseErrors, LockedByAnotherWriter) {
  const Folder folder;
  const auto path = folder.path("user.sqlite");
  { Store store(path, Store::Mode::kWrite); }
  Database database = Database::open(built_in_path(), path);
  SQLite::Database other(path.string(), SQLite::OPEN_READWRITE);
  other.exec("BEGIN IMMEDIATE");
  EXPECT_THAT(error_of([&] { database.import_file(folder.put("a.csv", kCsv)); }),
              AllOf(HasSubstr("user.sqlite"), HasSubstr("locked")));
  EXPECT_EQ(database.kernels(database.device("l4")).rows(), 0);  // reading goes on
  other.exec("ROLLBACK");
  EXPECT_EQ(database.import_file(folder.put("a.csv", kCsv)).imported, 1);
}

TEST(DatabaseErrors, ImportNeedsAPlaceToWrite) {
  const Folder folder;
  const auto csv = folder.put("a.csv", kCsv);
  Database without = Database::open(built_in_path());
  EXPECT_THAT(error_of([&] { without.import_file(csv); }), HasSubstr("--db"));
  Database nowhere = Database::open(built_in_path(), folder.path("absent") / "user.sqlite");
  EXPECT_THAT(error_of([&] { nowhere.import_file(csv); }), HasSubstr("can't be opened"));
}

TEST(DatabaseErrors, ReadOnlyFolder) {
  if (::geteuid() == 0) GTEST_SKIP() << "root may write everywhere";
  const Folder folder;
  const auto csv = folder.put("a.csv", kCsv);
  const auto path = folder.path("user.sqlite");
  {
    Database d = Database::open(built_in_path(), path);
    d.import_file(csv);
  }
  using std::filesystem::perms;
  std::filesystem::permissions(path, perms::owner_read);
  std::filesystem::permissions(path.parent_path(), perms::owner_read | perms::owner_exec);
  Database d = Database::open(built_in_path(), path);
  EXPECT_EQ(d.kernels(d.device("l4")).rows(), 1);
  EXPECT_THAT(error_of([&] { d.import_file(csv); }), HasSubstr("read-only"));
  std::filesystem::permissions(path.parent_path(), perms::owner_all);
}

TEST(DatabaseErrors, AFailedTransactionLeavesNothing) {
  const Folder folder;
  Store store(folder.path("user.sqlite"), Store::Mode::kWrite);
  Measurement row;
  row.series.device = "L4";
  row.series.engine = "x 1";
  row.series.dtype = "bfloat16";
  row.point.shape = {64, 64, 1, 1};
  row.point.seconds = 1;
  const auto write = [&] {
    store.put(row);
    row.point.seconds = -1;  // refused by the schema
    row.point.shape[3] = 2;
    store.put(row);
  };
  EXPECT_THAT(error_of([&] { store.transaction(write); }), HasSubstr("CHECK"));
  EXPECT_TRUE(store.series("").empty());
  row.point.seconds = 1;
  store.transaction([&] { EXPECT_TRUE(store.put(row)); });
  EXPECT_EQ(store.series("").size(), 1u);
}

TEST(Migration, AVersionOneFileKeepsItsRows) {
  const Folder folder;
  const auto path = folder.path("user.sqlite");
  {
    SQLite::Database old(path.string(), SQLite::OPEN_READWRITE | SQLite::OPEN_CREATE);
    old.exec(schema_scripts().front());
    old.exec("PRAGMA application_id = 0x46546b6e");
    old.exec("PRAGMA user_version = 1");
    old.exec(
        "INSERT INTO series VALUES (7,'L4','foretoken "
        "1','gemm','bfloat16','','','','2026-01-01','calibrate')");
    old.exec("INSERT INTO gemm VALUES (7,4096,4096,1,16,2e-4,0.01)");
  }
  const Database database = Database::open(built_in_path(), path);
  const auto t = database.kernels(database.device("l4")).find(test::gemm(16, 4096, 4096));
  ASSERT_TRUE(t);
  EXPECT_DOUBLE_EQ(t->time.value, 2e-4);
  SQLite::Database migrated(path.string());
  EXPECT_EQ(migrated.execAndGet("PRAGMA user_version").getInt(), kSchemaVersion);
  EXPECT_EQ(migrated.execAndGet("SELECT driver FROM series").getString(), "");
}

}  // namespace
}  // namespace foretoken
