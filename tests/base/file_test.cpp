// Files: plain and gzip input, damaged input, output that is complete or absent.
#include "base/file.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <sys/wait.h>
#include <unistd.h>
#include <zlib.h>

#include <algorithm>
#include <csignal>
#include <memory>

#include "base/random.h"
#include "expect_error.h"

namespace foretoken {
namespace {

using test::error_of;
using test::Folder;
using testing::HasSubstr;

std::string random_lines(int lines) {
  CounterRandom random(1, 2);
  std::string text;
  for (int i = 0; i < lines; ++i) text += std::to_string(random.bits()) + "\n";
  return text;
}

std::string gzip(const Folder& folder, const std::string& content) {
  const auto path = folder.path("made.gz");
  gzFile file = gzopen(path.c_str(), "wb");
  gzwrite(file, content.data(), static_cast<unsigned>(content.size()));
  gzclose(file);
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

std::vector<std::string> lines_of(const std::filesystem::path& path) {
  LineReader reader(path);
  std::vector<std::string> lines;
  for (std::string line; reader.next(line);) lines.push_back(line);
  return lines;
}

TEST(File, LinesOfEveryEnding) {
  const Folder folder;
  EXPECT_EQ(lines_of(folder.put("a", "one\r\n\ntwo")), (std::vector<std::string>{"one", "", "two"}));
  EXPECT_EQ(lines_of(folder.put("b", "one\n")), (std::vector<std::string>{"one"}));
  EXPECT_TRUE(lines_of(folder.put("c", "")).empty());
}

TEST(File, LongLinesAcrossBuffers) {
  const Folder folder;
  const std::string longer(5'000'000, 'x');
  EXPECT_EQ(lines_of(folder.put("a", longer + "\nend\n")), (std::vector<std::string>{longer, "end"}));
}

TEST(File, GzipIsRecognisedByContent) {
  const Folder folder;
  const std::string text = random_lines(50'000);  // many buffers
  const auto path = folder.put("named.csv", gzip(folder, text));
  EXPECT_EQ(read_file(path), text);
  EXPECT_EQ(lines_of(path).size(), 50'000u);
  EXPECT_EQ(read_file(folder.put("plain.gz", "no gzip")), "no gzip");
}

TEST(File, TruncatedGzipIsAnErrorWhereverItIsCut) {
  const Folder folder;
  const std::string packed = gzip(folder, random_lines(20'000));
  for (const std::size_t cut : {packed.size() - 1, packed.size() - 8, packed.size() / 2, std::size_t{30}}) {
    const auto path = folder.put("cut.gz", packed.substr(0, cut));
    EXPECT_THAT(error_of([&] { lines_of(path); }), HasSubstr("end early")) << cut;
    EXPECT_THAT(error_of([&] { read_file(path); }), HasSubstr("get the file again")) << cut;
  }
}

TEST(File, ChecksumErrorsAreReported) {
  const Folder folder;
  std::string packed = gzip(folder, random_lines(1000));
  packed[packed.size() - 6] = static_cast<char>(packed[packed.size() - 6] ^ 1);  // in the CRC-32
  const auto path = folder.put("damaged.gz", packed);
  EXPECT_THAT(error_of([&] { lines_of(path); }), HasSubstr("damaged"));
  EXPECT_THAT(error_of([&] { read_file(path); }), HasSubstr("damaged"));
}

TEST(File, BinaryAndMissingInput) {
  const Folder folder;
  const auto binary = folder.put("b", std::string_view("ok\nA\0B\n", 7));
  EXPECT_EQ(error_of([&] { lines_of(binary); }),
            binary.string() + ":2: a zero byte in the line: this is a binary file, a text file is expected");
  EXPECT_THAT(error_of([&] { read_file(folder.path("none")); }), HasSubstr("no such file"));
  EXPECT_THAT(error_of([&] { read_file(folder.path("")); }), HasSubstr("is a folder"));
}

TEST(OutputFile, CommitReplacesAtOnce) {
  const Folder folder;
  const auto path = folder.put("out.json", "old");
  {
    OutputFile out(path);
    out.write("new");
    EXPECT_EQ(read_file(path), "old");
    OutputFile moved(std::move(out));
    moved.write(" text");
    moved.commit();
  }
  EXPECT_EQ(read_file(path), "new text");
  EXPECT_EQ(folder.entries(), 1u);
}

TEST(OutputFile, WithoutCommitNoTrace) {
  const Folder folder;
  {
    OutputFile out(folder.path("out"));
    out.write("half");
  }
  EXPECT_EQ(folder.entries(), 0u);
}

TEST(OutputFile, AKilledProcessLeavesNoTrace) {
#ifndef O_TMPFILE
  GTEST_SKIP() << "this system has no unnamed files";
#else
  const Folder folder;
  const int unnamed = ::open(folder.path("").c_str(), O_TMPFILE | O_WRONLY, 0600);
  if (unnamed < 0) GTEST_SKIP() << "this file system has no unnamed files";
  ::close(unnamed);
  const auto path = folder.put("out.json", "old");
  const pid_t child = ::fork();
  if (child == 0) {
    OutputFile out(path);
    out.write(std::string(1 << 20, 'x'));
    ::raise(SIGKILL);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFSIGNALED(status));
  EXPECT_EQ(folder.entries(), 1u);
  EXPECT_EQ(read_file(path), "old");
#endif
}

// What a killed process of the same number has left, where there were no unnamed files.
TEST(OutputFile, TheNameOnTheWayMayBeTaken) {
  const Folder folder;
  const auto path = folder.path("out");
  std::unique_ptr<OutputFile> out;
  try {
    folder.put("out.partial-" + std::to_string(::getpid()), "left behind");
    out = std::make_unique<OutputFile>(path);
  } catch (const Error& e) {
    EXPECT_THAT(e.what(), HasSubstr("is in the way; remove it and run again"));
    return;
  }
  out->write("whole");
  out->commit();
  EXPECT_EQ(read_file(path), "whole");
  EXPECT_EQ(folder.entries(), 2u);
}

TEST(OutputFile, ASymbolicLinkStaysALink) {
  const Folder folder;
  const auto target = folder.put("target", "old");
  std::filesystem::create_symlink(target, folder.path("link"));
  OutputFile out(folder.path("link"));
  out.write("new");
  out.commit();
  EXPECT_TRUE(std::filesystem::is_symlink(folder.path("link")));
  EXPECT_EQ(read_file(target), "new");
}

TEST(OutputFile, FullDisk) {
  if (!std::filesystem::exists("/dev/full")) GTEST_SKIP() << "this system has no /dev/full";
  const std::string expected =
      "/dev/full: cannot write: no space left on the device; free some and run again";
  EXPECT_EQ(error_of([] {
              OutputFile out("/dev/full");
              out.write("small");  // stays in the buffer until commit
              out.commit();
            }),
            expected);
  EXPECT_EQ(error_of([] {
              OutputFile out("/dev/full");
              out.write(std::string(1 << 20, 'x'));
            }),
            expected);
  EXPECT_TRUE(std::filesystem::is_character_file("/dev/full"));
}

TEST(OutputFile, BadPathsFailAtOpening) {
  const Folder folder;
  EXPECT_THAT(error_of([&] { OutputFile out(folder.path("no/such/folder")); }), HasSubstr("create it first"));
  EXPECT_THAT(error_of([&] { OutputFile out(folder.path("")); }), HasSubstr("is a folder"));
  EXPECT_THAT(error_of([&] { OutputFile out(""); }), HasSubstr("empty"));
}

}  // namespace
}  // namespace foretoken
