// The built-in database is a function of the text: same text, same bytes; another row, another digest.
#include <gmock/gmock.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/file.h"
#include "built_in.h"

namespace foretoken {
namespace {

using test::data_folder;
using test::error_of;
using test::Folder;
using testing::HasSubstr;

// The text without most of the measurements, which take seconds to read.
void copy_data(const Folder& folder) {
  std::filesystem::create_directories(folder.path("data/measured"));
  for (const char* name : {"devices.csv", "links.csv", "topologies.csv", "aliases.csv"})
    std::filesystem::copy_file(data_folder() / name, folder.path("data") / name);
  for (const char* name : {"h100_sxm5_80gb.collective.csv.gz", "a100_sxm4_80gb.mla_decode.csv.gz"})
    std::filesystem::copy_file(data_folder() / "measured" / name, folder.path("data/measured") / name);
}

TEST(Rebuild, SameTextSameBytes) {
  const Folder folder;
  copy_data(folder);
  build_database(folder.path("data"), folder.path("one.sqlite"));
  build_database(folder.path("data"), folder.path("two.sqlite"));
  EXPECT_EQ(read_file(folder.path("one.sqlite")), read_file(folder.path("two.sqlite")));
  EXPECT_EQ(folder.entries(), 3u);  // no journal, no temporary file
}

TEST(Rebuild, AnyRowChangesTheDigest) {
  const Folder folder;
  copy_data(folder);
  const auto digest = [&] {
    build_database(folder.path("data"), folder.path("one.sqlite"));
    return Database::open(folder.path("one.sqlite")).digest();
  };
  const std::string before = digest();
  std::string text = read_file(folder.path("data/devices.csv"));
  text.replace(text.find("3350"), 4, "3351");
  folder.put("data/devices.csv", text);
  EXPECT_NE(digest(), before);
}

TEST(Rebuild, WrongTextIsNamed) {
  const Folder folder;
  copy_data(folder);
  const std::string aliases = read_file(folder.path("data/aliases.csv"));
  folder.put("data/aliases.csv", aliases + "hal9000,HAL-9000,film\n");
  EXPECT_THAT(error_of([&] { build_database(folder.path("data"), folder.path("x.sqlite")); }),
              HasSubstr("HAL-9000"));
}

TEST(Rebuild, ManyReadersOfAReadOnlyFile) {
  const Folder folder;
  std::filesystem::copy_file(test::built_in_path(), folder.path("copy # 1%.sqlite"));
  std::filesystem::permissions(folder.path("copy # 1%.sqlite"), std::filesystem::perms::owner_read);
  const Database a = Database::open(folder.path("copy # 1%.sqlite")),
                 b = Database::open(folder.path("copy # 1%.sqlite"));
  EXPECT_EQ(a.digest(), b.digest());
  EXPECT_EQ(folder.entries(), 1u);
}

TEST(Rebuild, ManyProcessesReadAtOnce) {
  const std::string digest = test::built_in().digest();
  std::vector<pid_t> children;
  for (int i = 0; i < 8; ++i) {
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      bool good = false;
      try {
        const Database db = Database::open(test::built_in_path());
        good = db.digest() == digest && db.kernels(db.device("a100"), "vllm").rows() > 1000;
      } catch (const std::exception&) {
      }
      _exit(good ? 0 : 1);
    }
    children.push_back(child);
  }
  for (const pid_t child : children) {
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
  }
}

}  // namespace
}  // namespace foretoken
