// Files of measurements as the view Validation shows them, beside what the library says of them; and the
// program that calibrates, found and not found.
#include <gtest/gtest.h>

#include <QApplication>
#include <QComboBox>
#include <QFile>
#include <QLabel>
#include <QLineEdit>
#include <QPlainTextEdit>
#include <QPushButton>
#include <QTemporaryDir>
#include <QTest>
#include <cmath>
#include <fstream>
#include <functional>
#include <memory>

#include "cli/validation_sets.h"
#include "gui/view.h"
#include "pictures.h"

namespace foretoken::gui {
namespace {

bool wait_for(const std::function<bool()>& done) { return QTest::qWaitFor(done, 60000); }

class ValidationViewTest : public testing::Test {
 protected:
  ValidationViewTest() : view_(make_validation_view(session_)) {
    view_->resize(900, 500);
    view_->show();
  }
  // The first rows of the built-in operators.
  std::string few_rows() const {
    std::ifstream in(session_.world()->paths.validation / "operators.csv");
    const std::string file = folder_.filePath(QStringLiteral("few.csv")).toStdString();
    std::ofstream out(file);
    std::string line;
    for (int i = 0; i < 40 && std::getline(in, line); ++i) out << line << '\n';
    return file;
  }
  void validate_file(const std::string& what, const std::string& file) {
    auto* const set = view_->findChild<QComboBox*>(QStringLiteral("set"));
    const int at = set->findText(QString::fromStdString(what));
    ASSERT_GE(at, 0);
    set->setCurrentIndex(at);
    view_->findChild<QLineEdit*>(QStringLiteral("file"))->setText(QString::fromStdString(file));
    auto* const start = view_->findChild<QPushButton*>(QStringLiteral("validate"));
    ASSERT_TRUE(start->isEnabled());
    start->click();
    ASSERT_FALSE(start->isEnabled());
    ASSERT_TRUE(wait_for([&] { return start->isEnabled(); }));
  }
  QString note() const { return view_->findChild<QLabel*>(QStringLiteral("note"))->text(); }

  QTemporaryDir folder_;
  Session session_;
  std::unique_ptr<View> view_;
};

TEST_F(ValidationViewTest, OffersTheBuiltInSetsAndSaysWhatToDo) {
  auto* const set = view_->findChild<QComboBox*>(QStringLiteral("set"));
  EXPECT_EQ(set->count(), static_cast<int>(builtin_sets(session_.world()->paths).size()) + 3);
  EXPECT_TRUE(note().contains(QStringLiteral("Press Validate")));
}

TEST_F(ValidationViewTest, ShowsWhatTheLibrarySays) {
  const std::string file = few_rows();
  validate_file("a file of operators", file);
  const Validation v =
      validate({"operators", Measured::kOperators, file, ""}, *session_.world(), ValidateOptions());
  ASSERT_GT(v.predicted, 10);
  EXPECT_TRUE(note().contains(QStringLiteral("%1 predicted").arg(v.predicted))) << note().toStdString();

  Chart& chart = *view_->charts()[0];
  int dots = 0;
  std::map<QString, int> by_group;
  for (int i = 0; i < chart.graphCount(); ++i)
    if (chart.graph(i)->lineStyle() == QCPGraph::lsNone)
      by_group[chart.graph(i)->name()] = chart.graph(i)->dataCount(), dots += chart.graph(i)->dataCount();
  EXPECT_EQ(dots, v.predicted);
  for (const ErrorSummary& s : v.groups) EXPECT_EQ(by_group[QString::fromStdString(s.by)], s.n) << s.by;
  EXPECT_EQ(chart.xAxis->scaleType(), QCPAxis::stLogarithmic);
  EXPECT_TRUE(chart.yAxis->label().endsWith(QStringLiteral(", s")));

  EXPECT_GT(colours_in(view_->grab().toImage()), 8);
  auto* const which = view_->findChild<QComboBox*>(QStringLiteral("which"));
  const auto tables = validation_tables(v);
  ASSERT_EQ(which->count(), static_cast<int>(tables.size()));
  for (int i = 0; i < which->count(); ++i) {
    which->setCurrentIndex(i);
    EXPECT_EQ(to_csv(view_->tables()[0]->rows()->table()), to_csv(tables[static_cast<std::size_t>(i)]));
  }
}

TEST_F(ValidationViewTest, SaysWhatIsWrongWithAFile) {
  const std::string file = folder_.filePath(QStringLiteral("bad.csv")).toStdString();
  std::ofstream(file) << "some,thing\n1,2\n";
  validate_file("a file of servers", file);
  EXPECT_TRUE(note().startsWith(QStringLiteral("Error: "))) << note().toStdString();
  EXPECT_TRUE(note().contains(QStringLiteral("bad.csv"))) << note().toStdString();
  validate_file("a folder of runs", folder_.filePath(QStringLiteral("none")).toStdString());
  EXPECT_TRUE(note().contains(QStringLiteral("none"))) << note().toStdString();
}

TEST_F(ValidationViewTest, IsCancelled) {
  auto* const set = view_->findChild<QComboBox*>(QStringLiteral("set"));
  set->setCurrentIndex(1);  // servers, which take long
  auto* const start = view_->findChild<QPushButton*>(QStringLiteral("validate"));
  start->click();
  for (auto* b : view_->findChildren<QPushButton*>())
    if (b->text().remove(u'&') == QStringLiteral("Cancel")) b->click();
  ASSERT_TRUE(wait_for([&] { return start->isEnabled(); }));
  EXPECT_TRUE(note().contains(QStringLiteral("Cancelled"))) << note().toStdString();
}

// A program of the test's in place of the real one, found by the PATH.
class CalibrateViewTest : public testing::Test {
 protected:
  ~CalibrateViewTest() override { qputenv("PATH", path_); }
  void put_program(const std::string& script) {
    const QString file = folder_.filePath(QStringLiteral("foretoken"));
    std::ofstream(file.toStdString()) << "#!/bin/sh\n" << script;
    QFile::setPermissions(file, QFile::ReadOwner | QFile::WriteOwner | QFile::ExeOwner);
    qputenv("PATH", QFile::encodeName(folder_.path()) + ":" + path_);
  }
  void run() {
    view_.reset(make_calibrate_view(session_));
    view_->show();
    view_->findChild<QPushButton*>(QStringLiteral("calibrate"))->click();
  }
  bool ended() const { return view_->findChild<QPushButton*>(QStringLiteral("calibrate"))->isEnabled(); }
  QString note() const { return view_->findChild<QLabel*>(QStringLiteral("note"))->text(); }

  QTemporaryDir folder_;
  const QByteArray path_ = qgetenv("PATH");
  Session session_;
  std::unique_ptr<View> view_;
};

TEST_F(CalibrateViewTest, SaysThatTheProgramIsMissing) {
  qputenv("PATH", QFile::encodeName(folder_.path()));
  run();
  EXPECT_TRUE(note().contains(QStringLiteral("found neither")));
  EXPECT_TRUE(ended());
}

TEST_F(CalibrateViewTest, ShowsOutputAndErrors) {
  put_program(R"(echo "asked for $1 $3 $4 $5 $6"; grep -q llama "$2" && echo "has the scenario"
while [ $# -gt 1 ]; do shift; done
echo '{"device": "this", "rows": 12, "steps": 3, "held_out_error_before": 0.5, "held_out_error": 0.25}' > "$1"
)");
  run();
  ASSERT_TRUE(wait_for([&] { return ended(); }));
  EXPECT_TRUE(note().startsWith(QStringLiteral("Calibrated. It ended with exit status 0")));
  const QString log = view_->findChild<QPlainTextEdit*>()->toPlainText();
  EXPECT_TRUE(log.contains(QStringLiteral("asked for calibrate --budget 60 --backend cpu")))
      << log.toStdString();
  EXPECT_TRUE(log.contains(QStringLiteral("has the scenario")));
  const Table& t = view_->tables()[0]->rows()->table();
  ASSERT_EQ(t.rows.size(), 5u);
  EXPECT_EQ(std::get<double>(t.rows[1][1]), 50);
  EXPECT_EQ(std::get<double>(t.rows[2][1]), 25);
}

TEST_F(CalibrateViewTest, ShowsWhyItFailed) {
  put_program("echo 'error: no such device' >&2; exit 2\n");
  run();
  ASSERT_TRUE(wait_for([&] { return ended(); }));
  EXPECT_TRUE(note().contains(QStringLiteral("exit status 2"))) << note().toStdString();
  EXPECT_TRUE(view_->findChild<QPlainTextEdit*>()->toPlainText().contains(QStringLiteral("no such device")));
}

TEST_F(CalibrateViewTest, IsCancelled) {
  put_program("exec sleep 60\n");
  run();
  ASSERT_FALSE(ended());
  view_->findChild<QPushButton*>(QStringLiteral("cancel"))->click();
  ASSERT_TRUE(wait_for([&] { return ended(); }));
  EXPECT_TRUE(note().contains(QStringLiteral("Cancelled")));
}

}  // namespace
}  // namespace foretoken::gui
