// Choices of products in a file: what is read again, by whom, and what becomes of files that are damaged or
// not of this program.
#include "executor/cuda/product_choices.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <sstream>

#include "executor/cuda/remarks.h"

namespace foretoken::cuda {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::Contains;
using testing::HasSubstr;
using testing::Not;

constexpr const char* kMachine = "NVIDIA H200, driver 13000, cuBLASLt 130002";

// A folder that isn't there yet, of the running test.
fs::path new_folder() {
  const auto* const test = testing::UnitTest::GetInstance()->current_test_info();
  const fs::path folder = fs::path(testing::TempDir()) / (std::string("choices_") + test->name());
  fs::remove_all(folder);
  return folder;
}
std::string content(const fs::path& file) {
  std::ostringstream text;
  text << std::ifstream(file).rdbuf();
  return text.str();
}
void put(const fs::path& file, const std::string& text) {
  fs::create_directories(file.parent_path());
  std::ofstream(file) << text;
}

ProductKey key() {
  return {CublasForm::kFp8Scaled, 64, 4096, 14336, 14336, 14336, 4096, 256, 128, 16, true, false, true};
}
ProductChoice choice(std::uint64_t first) {
  return {false, 1, {first, 2, 3, 4, 5, 6, 7, ~std::uint64_t{0}}, 40};
}
const ProductChoice kOwn{true, 0, {}, 33};

TEST(ProductChoices, AreReadAgain) {
  const fs::path file = new_folder() / "data" / "choices.txt";
  ProductKey other = key();
  other.m = 128;
  {
    ProductChoices choices(file, kMachine);
    EXPECT_EQ(choices.find(key()), std::nullopt);
    EXPECT_FALSE(fs::exists(file));  // nothing is written before there is something
    choices.keep(key(), choice(9));
    choices.keep(other, choice(1));
    choices.keep(other, kOwn);  // replaces it
  }
  const std::string text = content(file);
  ProductChoices choices(file, kMachine);
  EXPECT_EQ(choices.find(key()), choice(9));
  EXPECT_EQ(choices.find(other), kOwn);
  choices.keep(key(), choice(9));
  EXPECT_EQ(content(file), text);  // the same bytes
  for (const auto& entry : fs::directory_iterator(file.parent_path())) EXPECT_EQ(entry.path(), file);
}

TEST(ProductChoices, AreOfOneMachineAndOneProduct) {
  const fs::path file = new_folder() / "choices.txt";
  ProductChoices(file, kMachine).keep(key(), choice(9));
  for (const char* machine :
       {"NVIDIA H100, driver 13000, cuBLASLt 130002", "NVIDIA H200, driver 13010, cuBLASLt 130002",
        "NVIDIA H200, driver 13000, cuBLASLt 130100", ""})
    EXPECT_EQ(ProductChoices(file, machine).find(key()), std::nullopt) << machine;

  const ProductChoices choices(file, kMachine);
  int changes = 0;
  const auto differs = [&](auto change) {
    ProductKey changed = key();
    change(changed);
    EXPECT_EQ(choices.find(changed), std::nullopt) << changes;
    ++changes;
  };
  differs([](ProductKey& k) { k.form = CublasForm::kFp8Blocks; });
  differs([](ProductKey& k) { k.m = 128; });
  differs([](ProductKey& k) { k.n += 8; });
  differs([](ProductKey& k) { k.k += 8; });
  differs([](ProductKey& k) { k.w_stride += 8; });
  differs([](ProductKey& k) { k.x_stride += 8; });
  differs([](ProductKey& k) { k.y_stride += 8; });
  differs([](ProductKey& k) { k.w_alignment = 16; });
  differs([](ProductKey& k) { k.x_alignment = 16; });
  differs([](ProductKey& k) { k.y_alignment = 32; });
  differs([](ProductKey& k) { k.bias = false; });
  differs([](ProductKey& k) { k.accumulate = true; });
  differs([](ProductKey& k) { k.prepared = false; });
  EXPECT_EQ(choices.find(key()), choice(9));
}

TEST(ProductChoices, OfSeveralMachinesLieInOneFile) {
  const fs::path file = new_folder() / "choices.txt";
  ProductChoices one(file, kMachine), two(file, "another\tof\ntwo lines");  // both before anything is written
  one.keep(key(), choice(1));
  two.keep(key(), choice(2));
  EXPECT_EQ(one.find(key()), choice(1));  // what another wrote meanwhile changes nothing here
  EXPECT_EQ(ProductChoices(file, kMachine).find(key()), choice(1));
  EXPECT_EQ(ProductChoices(file, "another\tof\ntwo lines").find(key()), choice(2));
}

// 40 and 64 rows are of one bucket: what was measured with 40 is asked of the library for 40, whichever of
// the two comes first in a process.
TEST(ProductChoices, AreCheckedWithTheRowsTheyWereMeasuredWith) {
  const fs::path file = new_folder() / "choices.txt";
  ProductChoices(file, kMachine).keep(key(), choice(9));
  const auto kept = ProductChoices(file, kMachine).find(key());
  ASSERT_TRUE(kept);
  for (const std::int64_t rows : {40, 64}) {
    CublasOffer offers[2];
    offers[0].m = offers[1].m = rows;
    offers[1].n = 4096;
    const auto asked = measured_offer(*kept, offers);
    ASSERT_TRUE(asked);
    EXPECT_EQ(asked->m, 40);
    EXPECT_EQ(asked->n, 4096);
    EXPECT_EQ(offers[1].m, rows);
    EXPECT_FALSE(measured_offer(*kept, {offers, 1}));  // a build that offers less
    EXPECT_FALSE(measured_offer(kOwn, offers));
  }
}

TEST(ProductChoices, WithoutAFileStayInMemory) {
  ProductChoices choices({}, kMachine);
  choices.keep(key(), choice(9));
  EXPECT_EQ(choices.find(key()), choice(9));
  EXPECT_EQ(ProductChoices({}, kMachine).find(key()), std::nullopt);
}

// Whatever bytes are changed, cut off or added: a choice is what was kept, or nothing.
TEST(ProductChoices, DamagedLinesAreLeftOut) {
  const fs::path file = new_folder() / "choices.txt";
  ProductKey other = key();
  other.k = 64;
  ProductChoices(file, kMachine).keep(other, choice(5));
  ProductChoices(file, kMachine).keep(key(), choice(9));
  const std::string whole = content(file);
  const std::size_t title = whole.find('\n') + 1, second = whole.find('\n', title) + 1;
  int left_out = 0;
  const auto check = [&](const std::string& text) {
    put(file, text);
    const ProductChoices choices(file, kMachine);
    for (const auto& [k, c] : {std::pair(other, choice(5)), std::pair(key(), choice(9))}) {
      const auto found = choices.find(k);
      left_out += !found;
      EXPECT_TRUE(!found || *found == c) << text;
    }
  };
  for (std::size_t at = title; at < whole.size(); at += 7) {
    std::string text = whole;
    text[at] = static_cast<char>(text[at] ^ 1);
    check(text);
    check(whole.substr(0, at));
  }
  EXPECT_GT(left_out, 0);

  std::string text = whole;
  text[second - 3] ^= 4;
  put(file, text);
  ProductChoices choices(file, kMachine);
  EXPECT_THAT(remarks(), Contains(AllOf(HasSubstr("1 damaged line in " + file.string()),
                                        HasSubstr("their products are measured again"))));
  // The next write leaves a whole file.
  choices.keep(other, choice(5));
  choices.keep(key(), choice(9));
  EXPECT_EQ(content(file), whole);
}

TEST(ProductChoices, FilesOfOthersStayAsTheyAre) {
  const fs::path folder = new_folder();
  for (const std::string& text : {std::string("foretoken product choices 3\nof a later version\n"),
                                  std::string("SQLite format 3\0\x10\0", 19), std::string("\n"),
                                  std::string("foretoken product choices 2 and more\n")}) {
    const fs::path file = folder / "choices.txt";
    put(file, text);
    ProductChoices choices(file, kMachine);
    choices.keep(key(), choice(9));
    EXPECT_EQ(choices.find(key()), choice(9));
    EXPECT_EQ(content(file), text);
  }
  EXPECT_THAT(remarks(), Contains(AllOf(HasSubstr("product choices are not kept in " + folder.string()),
                                        HasSubstr("stays as it is"))));
  // An empty one is nobody's.
  put(folder / "empty.txt", "");
  ProductChoices(folder / "empty.txt", kMachine).keep(key(), choice(9));
  EXPECT_EQ(ProductChoices(folder / "empty.txt", kMachine).find(key()), choice(9));
}

TEST(ProductChoices, WhereNothingCanBeWrittenIsNoError) {
  const fs::path folder = new_folder();
  put(folder / "file", "text");
  for (const fs::path& file : {folder, folder / "file" / "choices.txt"}) {
    ProductChoices choices(file, kMachine);
    choices.keep(key(), choice(9));
    EXPECT_EQ(choices.find(key()), choice(9));
    EXPECT_THAT(remarks(), Contains(HasSubstr("product choices are not kept in " + file.string() + ": ")));
  }
  EXPECT_EQ(content(folder / "file"), "text");
}

}  // namespace
}  // namespace foretoken::cuda
