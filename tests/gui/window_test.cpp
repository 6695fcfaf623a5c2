// Files, history, answers that are overtaken, and the same numbers as on the command line.
#include "gui/window.h"

#include <gmock/gmock.h>

#include <QAction>
#include <QApplication>
#include <QDir>
#include <QDockWidget>
#include <QLabel>
#include <QMenu>
#include <QMenuBar>
#include <QSet>
#include <QSettings>
#include <QStandardPaths>
#include <algorithm>
#include <cstdio>
#include <fstream>

#include "../base/expect_error.h"
#include "base/file.h"
#include "base/json_full.h"

namespace foretoken::gui {
namespace {

using testing::HasSubstr;

std::string output_of(const std::string& command) {
  std::string text;
  FILE* const pipe = popen((command + " 2>/dev/null").c_str(), "r");
  char buffer[4096];
  while (const std::size_t n = std::fread(buffer, 1, sizeof buffer, pipe)) text.append(buffer, n);
  pclose(pipe);
  return text;
}

// Answers but for what tells how they were made.
Json numbers_of(Json json) {
  for (const char* key : {"context", "scenario", "format", "timing"}) json.erase(key);
  return json;
}

TEST(WindowTest, TheCommandLineGivesTheSameNumbers) {
  Session session;
  session.set_scenario(
      Json::parse(R"({"model": "qwen3-8b", "hardware": {"device": "h200", "devices_per_node": 4},
      "engine": {"max_num_seqs": 64, "enable_prefix_caching": false, "kv_cache_dtype": "fp8"},
      "cluster": {"replicas": 2, "router": "least_outstanding"},
      "workload": {"request_rate": 12, "num_prompts": 200, "input_len": {"distribution": "lognormal", "mean": 800, "p99": 4000},
                   "output_len": 90, "seed": 3}, "slo": {"ttft_ms": 400}})"),
      QStringLiteral("test"));
  session.wait();
  ASSERT_NE(session.simulated(), nullptr);
  std::string command = command_line(session.scenario(), "simulate");
  EXPECT_THAT(command, HasSubstr("--no-enable-prefix-caching"));
  EXPECT_THAT(command, HasSubstr("--input-len lognormal:mean=800"));
  EXPECT_THAT(command, testing::Not(HasSubstr("--input-len-"))) << "a length is said once";
  command.replace(0, 9, FORETOKEN_BINARY_DIR "/foretoken");
  const std::string text = output_of(command + " -o json");
  ASSERT_FALSE(text.empty()) << command;
  EXPECT_EQ(numbers_of(Json::parse(text)), numbers_of(Json::parse(session.simulated()->json().dump())));
}

TEST(WindowTest, FilesAreOpenedSavedAndRefused) {
  const test::Folder folder;
  folder.put("good.json",
             R"({"model": "llama-3.1-8b", "hardware": {"device": "h100"}, "workload": {"num_prompts": 10}})");
  folder.put("bad.json", R"({"model": )");
  Window window(false);
  window.open(QString::fromStdString(folder.path("good.json").string()));
  EXPECT_THAT(window.windowTitle().toStdString(), HasSubstr("good.json"));
  const Json before = window.session().scenario();
  window.open(QString::fromStdString(folder.path("bad.json").string()));
  EXPECT_EQ(window.session().scenario(), before) << "a bad file changes nothing";
  window.open(QStringLiteral("/nowhere.json"));
  EXPECT_EQ(window.session().scenario(), before);
  window.session().edit("/engine/max_num_seqs", Json(5));
  EXPECT_TRUE(window.isWindowModified());
  window.session().save(folder.path("saved.json"));
  EXPECT_FALSE(window.isWindowModified());
  EXPECT_EQ(read_json(folder.path("saved.json"))["engine"]["max_num_seqs"], 5);
  EXPECT_THAT(read_file(folder.path("saved.json")), HasSubstr("// Software: foretoken "));
  EXPECT_NO_THROW(read_scenario(folder.path("saved.json")));
  EXPECT_THROW(window.session().save("/nowhere/x.json"), Error);
}

TEST(WindowTest, ResultsAreSavedWithTheirOrigin) {
  const test::Folder folder;
  Session session;
  session.edit("/workload/num_prompts", Json(30));
  session.wait();
  session.save_result(folder.path("result.json"));
  const Json saved = read_json(folder.path("result.json"));
  EXPECT_EQ(saved["context"]["program"], "foretoken");
  EXPECT_EQ(saved["context"]["command"], command_line(session.scenario(), "simulate"));
  EXPECT_EQ(saved["context"]["date"].get<std::string>().size(), 20u);
  EXPECT_EQ(saved["context"]["database_digest"], session.world()->database.digest());
  EXPECT_TRUE(saved["interval"].contains("p99_ttft_ms"));
  EXPECT_EQ(numbers_of(saved), numbers_of(Json::parse(session.simulated()->json().dump())));
}

// A worker's answer to an older scenario is never shown.
TEST(WindowTest, OvertakenSimulationsAreGivenUp) {
  Session session;
  session.edit("/workload/num_prompts", Json(20000));
  for (int rate = 2; rate < 12; ++rate) {
    session.edit("/workload/request_rate", Json(rate));
    for (int i = 0; i < 4; ++i) QApplication::processEvents(QEventLoop::WaitForMoreEvents, 40);
  }
  session.edit("/workload/num_prompts", Json(50));
  session.wait();
  ASSERT_NE(session.simulated(), nullptr);
  EXPECT_EQ(session.simulated()->of, session.estimated());
  EXPECT_EQ(session.simulated()->simulation.served.metrics.completed, 50);
  EXPECT_EQ(session.sweep()->of, session.estimated());
}

// The settings of a user who has a folder of their own.
class Remembered : public testing::Test {
 protected:
  Remembered() {
    QSettings::setPath(QSettings::NativeFormat, QSettings::UserScope,
                       QString::fromStdString(folder_.path("").string()));
  }
  static QAction* action(const Window& window, const QString& text) {
    for (QAction* const a : window.findChildren<QAction*>())
      if (a->text() == text) return a;
    throw std::logic_error("no such action: " + text.toStdString());
  }

  test::Folder folder_;
};

TEST_F(Remembered, TheNextWindowIsAsTheLastWasLeft) {
  folder_.put("s.json",
              R"({"model": "qwen3-8b", "hardware": {"device": "h200"}, "workload": {"num_prompts": 10}})");
  Json left, opened;
  QByteArray state;
  {
    Window window;
    window.open(QString::fromStdString(folder_.path("s.json").string()));
    opened = window.session().scenario();
    window.resize(1111, 777);
    window.show();
    action(window, QStringLiteral("&Dark"))->trigger();
    auto* const timeline = window.findChild<QDockWidget*>(QStringLiteral("Timeline"));
    timeline->close();
    window.addDockWidget(Qt::BottomDockWidgetArea, window.findChild<QDockWidget*>(QStringLiteral("Plan")));
    window.session().edit("/engine/max_num_seqs", Json(17));
    left = window.session().scenario();
    window.session().wait();
    state = window.saveState();
    window.close();
  }
  EXPECT_EQ(Window::last_theme(), Window::Theme::kDark);
  Window::use_theme(Window::Theme::kLight);
  Window window;
  window.open_last();
  window.show();
  EXPECT_EQ(window.session().scenario(), left);
  EXPECT_TRUE(window.isWindowModified());
  EXPECT_THAT(window.windowTitle().toStdString(), HasSubstr("s.json"));
  EXPECT_EQ(window.size(), QSize(1111, 777));
  EXPECT_TRUE(window.findChild<QDockWidget*>(QStringLiteral("Timeline"))->isHidden());
  EXPECT_EQ(window.dockWidgetArea(window.findChild<QDockWidget*>(QStringLiteral("Plan"))),
            Qt::BottomDockWidgetArea);
  window.session().history().undo();
  EXPECT_EQ(window.session().scenario(), opened) << "what was not saved is one step";
}

// What was pinned comes back, with answers of its own.
TEST_F(Remembered, ThePinIsThereTheNextTime) {
  Json pinned;
  double ttft = 0;
  {
    Window window;
    window.session().edit("/workload/num_prompts", Json(20));
    window.session().wait();
    window.session().pin();
    pinned = window.session().scenario();
    ttft = window.session().simulated()->simulation.served.metrics.ttft.p99;
    window.session().edit("/engine/max_num_seqs", Json(3));
    window.close();
  }
  {
    Window window;
    window.open_last();
    ASSERT_TRUE(window.session().has_pin());
    EXPECT_EQ(window.session().pinned_scenario(), pinned);
    ASSERT_NE(window.session().pinned(), nullptr);
    window.session().wait();
    ASSERT_NE(window.session().pinned_simulation(), nullptr);
    EXPECT_EQ(window.session().pinned_simulation()->simulation.served.metrics.ttft.p99, ttft);
    EXPECT_TRUE(window.session().pinned_simulation()->has_intervals);
    EXPECT_EQ(window.session().scenario()["engine"]["max_num_seqs"], 3);
    window.session().unpin();
    window.close();
  }
  QSettings().setValue(QStringLiteral("pinned"), QStringLiteral("[1"));
  Window window;
  window.open_last();
  EXPECT_FALSE(window.session().has_pin()) << "what is damaged is left out";
}

// A file that is named loses nothing that was not saved the last time.
TEST_F(Remembered, AFileThatIsNamedLosesNothing) {
  folder_.put("a.json",
              R"({"model": "qwen3-8b", "hardware": {"device": "h200"}, "workload": {"num_prompts": 10}})");
  folder_.put(
      "b.json",
      R"({"model": "llama-3.1-8b", "hardware": {"device": "h100"}, "workload": {"num_prompts": 10}})");
  const auto path = [&](const char* name) { return QString::fromStdString(folder_.path(name).string()); };
  const QDir copies(QStandardPaths::writableLocation(QStandardPaths::AppDataLocation));
  const auto found = [&] { return copies.entryList({QStringLiteral("unsaved-*.json")}); };
  for (const QString& old : found()) QFile::remove(copies.filePath(old));
  Json left;
  {
    Window window;
    window.open_given(path("a.json"));
    window.session().edit("/engine/max_num_seqs", Json(17));
    left = window.session().scenario();
    window.session().wait();
    window.close();
  }
  {
    Window window;
    window.open_given(path("a.json"));
    EXPECT_EQ(window.session().scenario(), left) << "the same file, with its changes";
    EXPECT_TRUE(window.isWindowModified());
    window.session().wait();
    window.close();
  }
  EXPECT_TRUE(found().isEmpty());
  Window window;
  window.open_given(path("b.json"));
  EXPECT_EQ(window.session().scenario()["model"], "llama-3.1-8b");
  EXPECT_FALSE(window.isWindowModified());
  ASSERT_EQ(found().size(), 1);
  const QString copy = copies.filePath(found().front());
  EXPECT_EQ(read_json(copy.toStdString()), left);
  const auto labels = window.findChildren<QLabel*>();
  EXPECT_TRUE(std::any_of(labels.begin(), labels.end(), [&](const QLabel* l) {
    return l->text().contains(QDir::toNativeSeparators(copy));
  })) << "where it is is said";
  QFile::remove(copy);
}

TEST_F(Remembered, WhatWasSavedIsNotChangedAgain) {
  {
    Window window;
    window.session().edit("/engine/max_num_seqs", Json(17));
    window.session().save(folder_.path("saved.json"));
    window.close();
  }
  Window window;
  window.open_last();
  EXPECT_FALSE(window.isWindowModified());
  EXPECT_EQ(window.session().scenario()["engine"]["max_num_seqs"], 17);
}

TEST_F(Remembered, DamagedSettingsAreLeftOut) {
  {
    QSettings settings;
    settings.setValue(QStringLiteral("file"), QStringLiteral("/nowhere.json"));
    settings.setValue(QStringLiteral("unsaved"), QStringLiteral("{\"model\": "));
    settings.setValue(QStringLiteral("theme"), QStringLiteral("purple"));
    settings.setValue(QStringLiteral("geometry"), QByteArray("garbage"));
    settings.setValue(QStringLiteral("state"), QByteArray("garbage"));
  }
  EXPECT_EQ(Window::last_theme(), Window::Theme::kSystem);
  Window window;
  const Json fresh = window.session().scenario();
  window.open_last();
  window.show();
  EXPECT_EQ(window.session().scenario(), fresh);
  EXPECT_FALSE(window.isWindowModified());
  EXPECT_FALSE(QSettings().contains(QStringLiteral("unsaved")));
  const auto labels = window.findChildren<QLabel*>();
  EXPECT_TRUE(std::any_of(labels.begin(), labels.end(), [](const QLabel* l) {
    return l->text().contains(QStringLiteral("parse error"));
  })) << "what is wrong is said";
  for (const QDockWidget* dock : window.findChildren<QDockWidget*>()) EXPECT_FALSE(dock->isHidden());
}

// Every menu is reached by the keyboard, and no two of its items by the same letter.
TEST_F(Remembered, MenusHaveLettersOfTheirOwn) {
  const Window window(false);
  QSet<QChar> bar;
  for (const QAction* a : window.menuBar()->actions()) {
    const qsizetype at = a->text().indexOf(u'&');
    ASSERT_GE(at, 0) << a->text().toStdString();
    EXPECT_FALSE(bar.contains(a->text()[at + 1].toLower())) << a->text().toStdString();
    bar.insert(a->text()[at + 1].toLower());
    QSet<QChar> letters;
    for (const QAction* item : a->menu()->actions()) {
      const qsizetype letter = item->text().indexOf(u'&');
      if (letter < 0) continue;  // reached by arrows or by the word's first letter
      EXPECT_FALSE(letters.contains(item->text()[letter + 1].toLower())) << item->text().toStdString();
      letters.insert(item->text()[letter + 1].toLower());
    }
  }
}

TEST(WindowTest, PatchesOfAServersCommandAreUndone) {
  Session session;
  const Json before = session.scenario();
  session.apply_patch(Json::parse(patch_from_vllm_command("vllm serve Qwen/Qwen3-8B --max-num-seqs 33")),
                      QStringLiteral("paste"));
  EXPECT_EQ(session.scenario()["engine"]["max_num_seqs"], 33);
  session.history().undo();
  EXPECT_EQ(session.scenario(), before);
}

}  // namespace
}  // namespace foretoken::gui
