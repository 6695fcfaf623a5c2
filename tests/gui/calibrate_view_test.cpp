// The view Calibrate measures a tiny model on this processor for real, and the session then predicts with it.
#include <gtest/gtest.h>

#include <QApplication>
#include <QLabel>
#include <QPushButton>
#include <QSpinBox>
#include <QTest>
#include <cstdlib>
#include <memory>

#include "../base/expect_error.h"
#include "base/json_full.h"
#include "gui/view.h"

namespace foretoken::gui {
namespace {

// Puts a variable of the environment back.
class Variable {
 public:
  Variable(const char* name, const std::string& value) : name_(name), before_(qgetenv(name)) {
    setenv(name, value.c_str(), 1);
  }
  ~Variable() { setenv(name_, before_.constData(), 1); }
  Variable(const Variable&) = delete;
  Variable& operator=(const Variable&) = delete;

 private:
  const char* name_;
  QByteArray before_;
};

TEST(CalibrateView, MeasuresAndTheSessionPredictsWithIt) {
  const test::Folder folder;
  const Variable data("XDG_DATA_HOME", folder.path("data").string());
  const Variable path("PATH", std::string(FORETOKEN_BINARY_DIR ":") + std::getenv("PATH"));
  folder.put("tiny.json", R"({"model": ")" FORETOKEN_SOURCE_DIR R"(/tests/golden/llama/config.json",
      "hardware": {"device": "epyc-9654", "count": 1, "host_memory": "64 GiB"},
      "engine": {"behavior": "foretoken", "dtype": "bfloat16", "max_model_len": 64, "max_num_seqs": 2,
                 "max_num_batched_tokens": 32, "num_gpu_blocks_override": 50},
      "workload": {"request_rate": 1, "num_prompts": 2, "input_len": 8, "output_len": 8}})");
  Session session;
  session.open(folder.path("tiny.json"));
  session.wait();
  ASSERT_TRUE(session.estimated() && session.estimated()->estimate);
  const std::string digest = session.world()->database.digest();
  const double before = session.estimated()->estimate->tpot_ms;
  std::unique_ptr<View> view(make_calibrate_view(session));
  view->show();
  view->findChild<QSpinBox*>()->setValue(1);
  auto* const start = view->findChild<QPushButton*>(QStringLiteral("calibrate"));
  auto* const note = view->findChild<QLabel*>(QStringLiteral("note"));
  start->click();
  EXPECT_FALSE(start->isEnabled());
  ASSERT_TRUE(QTest::qWaitFor([&] { return start->isEnabled(); }, 120000)) << note->text().toStdString();
  EXPECT_TRUE(note->text().startsWith(QStringLiteral("Calibrated."))) << note->text().toStdString();
  EXPECT_GE(view->tables()[0]->rows()->rowCount(), 5);
  session.wait();
  EXPECT_NE(session.world()->database.digest(), digest) << "the database is read anew";
  ASSERT_TRUE(session.estimated() && session.estimated()->estimate);
  EXPECT_NE(session.estimated()->estimate->tpot_ms, before);
  EXPECT_TRUE(std::filesystem::exists(folder.path("data/foretoken/hw.sqlite")));
}

}  // namespace
}  // namespace foretoken::gui
