// The search as the views Plan and Pareto show it: run, cancelled, read back, loaded and undone.
#include <gtest/gtest.h>

#include <QApplication>
#include <QLabel>
#include <QPlainTextEdit>
#include <QProgressBar>
#include <QPushButton>
#include <QSignalSpy>
#include <QTabWidget>
#include <QTest>
#include <memory>
#include <set>

#include "base/json_full.h"
#include "gui/view.h"
#include "pictures.h"

namespace foretoken::gui {
namespace {

const char* const kSearch = R"({
  "model": "llama-3.1-8b",
  "hardware": {"device": "h100", "count": 4, "usd_per_device_hour": 2},
  "workload": {"request_rate": 10, "num_prompts": 60, "input_len": {"distribution": "fixed", "value": 500},
               "output_len": {"distribution": "fixed", "value": 60}},
  "slo": {"ttft_ms": 80, "tpot_ms": 8, "percentile": 95},
  "plan": {"objective": "usd_per_million_tokens",
           "search": {"device": ["h100", "l40s"], "tensor_parallel_size": [1, 2, 8]}}})";

class PlanViews : public testing::Test {
 protected:
  PlanViews() {
    session_.set_scenario(Json::parse(kSearch), QStringLiteral("test"));
    plan_.reset(make_plan_view(session_));
    pareto_.reset(make_pareto_view(session_));
    for (View* view : {plan_.get(), pareto_.get()}) view->resize(900, 500), view->show();
  }
  QPushButton* button(const QString& text) const {
    for (auto* b : plan_->findChildren<QPushButton*>())
      if (b->text().remove(u'&') == text) return b;
    return nullptr;
  }
  QString text() const {
    QString all;
    for (auto* label : plan_->findChildren<QLabel*>()) all += label->text() + u'\n';
    return all;
  }
  void search() {
    button(QStringLiteral("Search"))->click();
    session_.wait();
  }
  static void expect_rows(const TableView& shown, const std::vector<Candidate>& candidates) {
    const Table& table = shown.rows()->table();
    ASSERT_EQ(table.rows.size(), candidates.size());
    std::size_t device = 0, ttft = 0;
    for (std::size_t c = 0; c < table.columns.size(); ++c) {
      if (table.columns[c].key == "tokens_per_s_per_device") device = c;
      if (table.columns[c].key == "p99_ttft_ms") ttft = c;
    }
    for (std::size_t i = 0; i < candidates.size(); ++i) {
      EXPECT_EQ(std::get<double>(table.rows[i][device]), candidates[i].tokens_per_s_per_device);
      EXPECT_EQ(std::get<double>(table.rows[i][ttft]), candidates[i].metrics.ttft.p99);
    }
  }

  Session session_;
  std::unique_ptr<View> plan_, pareto_;
};

TEST_F(PlanViews, SayWhatToDoBeforeASearch) {
  EXPECT_TRUE(text().contains(QStringLiteral("Press Search")));
  EXPECT_TRUE(text().contains(QStringLiteral("TTFT at most 80\u00a0ms")));
  EXPECT_TRUE(button(QStringLiteral("Search"))->isEnabled());
  EXPECT_FALSE(button(QStringLiteral("Cancel"))->isEnabled());
  EXPECT_FALSE(button(QStringLiteral("Load"))->isEnabled());
}

TEST_F(PlanViews, ShowEveryCandidateAndLoadOne) {
  search();
  const auto result = session_.planned();
  ASSERT_TRUE(result);
  ASSERT_FALSE(result->ranked.empty());
  ASSERT_FALSE(result->missed.empty()) << "the test's limits should be missed by some";
  ASSERT_FALSE(result->rejected.empty());
  const auto tables = plan_->tables();
  expect_rows(*tables[0], result->ranked);
  expect_rows(*tables[1], result->missed);
  ASSERT_EQ(tables[2]->rows()->table().rows.size(), result->rejected.size());
  EXPECT_EQ(std::get<std::string>(tables[2]->rows()->table().rows[0][2]),
            result->rejected_example.at(result->rejected.begin()->first));
  const QString why = plan_->findChild<QPlainTextEdit*>()->toPlainText();
  for (const std::string& sentence : result->why) EXPECT_TRUE(why.contains(QString::fromStdString(sentence)));
  EXPECT_TRUE(why.contains(QStringLiteral("vllm serve")));
  EXPECT_FALSE(text().contains(QStringLiteral("Interrupted")));
  EXPECT_GT(colours_in(plan_->grab().toImage()), 8);
  EXPECT_GT(colours_in(pareto_->grab().toImage()), 8);

  // The last row, whatever the order on the screen, is the candidate that is loaded.
  const Json before = session_.scenario();
  tables[0]->sortByColumn(8, Qt::DescendingOrder);
  const QModelIndex last = tables[0]->model()->index(tables[0]->model()->rowCount() - 1, 1);
  tables[0]->setCurrentIndex(last);
  const Candidate& c = result->ranked[static_cast<std::size_t>(tables[0]->source_row(last))];
  QTest::keyClick(tables[0], Qt::Key_Return);
  Json loaded = before;
  loaded.merge_patch(Json::parse(c.patch));
  EXPECT_EQ(session_.scenario(), loaded);
  EXPECT_TRUE(text().contains(QString::fromStdString(c.label)));
  session_.history().undo();
  EXPECT_EQ(session_.scenario(), before);
  session_.edit("/workload/num_prompts", 61);
  EXPECT_TRUE(text().contains(QStringLiteral("edited since")));
}

TEST_F(PlanViews, ParetoHasAllPointsAndAClickLoadsOne) {
  Chart& chart = *pareto_->charts()[0];
  EXPECT_TRUE(pareto_->findChild<QLabel*>()->text().contains(QStringLiteral("Nothing has been searched")));
  search();
  const auto result = session_.planned();
  ASSERT_TRUE(result && !result->ranked.empty());
  std::map<QString, const std::vector<Candidate>*> expected{
      {QStringLiteral("meets the limits"), &result->ranked},
      {QStringLiteral("misses the limits"), &result->missed},
      {QStringLiteral("Pareto front"), &result->pareto}};
  int found = 0;
  for (int i = 0; i < chart.graphCount(); ++i) {
    const auto at = expected.find(chart.graph(i)->name());
    if (at == expected.end()) continue;
    ++found;
    std::multiset<std::pair<double, double>> drawn, meant;
    for (const QCPGraphData& d : *chart.graph(i)->data()) drawn.emplace(d.key, d.value);
    for (const Candidate& c : *at->second) meant.emplace(c.tokens_per_s_per_user, c.tokens_per_s_per_device);
    EXPECT_EQ(drawn, meant) << at->first.toStdString();
  }
  EXPECT_EQ(found, 3);
  EXPECT_TRUE(chart.xAxis->label().contains(QStringLiteral("tokens/s")));
  EXPECT_TRUE(chart.yAxis->label().contains(QStringLiteral("tokens/s")));

  const Json before = session_.scenario();
  const Candidate& best = result->ranked.front();
  chart.replot(QCustomPlot::rpImmediateRefresh);
  const QPoint place(static_cast<int>(std::lround(chart.xAxis->coordToPixel(best.tokens_per_s_per_user))),
                     static_cast<int>(std::lround(chart.yAxis->coordToPixel(best.tokens_per_s_per_device))));
  QTest::mouseClick(&chart, Qt::LeftButton, {}, place);
  ASSERT_NE(session_.scenario(), before);
  EXPECT_TRUE(pareto_->findChild<QLabel*>()->text().contains(QStringLiteral("tokens/s a user")));
  session_.history().undo();
  EXPECT_EQ(session_.scenario(), before);
  // By keys: the rightmost is the fastest for a user.
  QTest::mouseMove(&chart, QPoint(1, 1));
  QTest::keyClick(&chart, Qt::Key_Left);
  QTest::keyClick(&chart, Qt::Key_Return);
  EXPECT_NE(session_.scenario(), before);
}

TEST_F(PlanViews, CancelEndsTheSearch) {
  session_.edit("/workload/num_prompts", 20000);
  button(QStringLiteral("Search"))->click();
  EXPECT_TRUE(session_.is_planning());
  EXPECT_FALSE(button(QStringLiteral("Search"))->isEnabled());
  EXPECT_TRUE(plan_->findChild<QProgressBar*>()->isVisible());
  button(QStringLiteral("Cancel"))->click();
  EXPECT_FALSE(button(QStringLiteral("Cancel"))->isEnabled());
  ASSERT_TRUE(QTest::qWaitFor([&] { return !session_.is_planning(); }, 60000));
  ASSERT_TRUE(session_.planned());
  EXPECT_TRUE(session_.planned()->interrupted);
  EXPECT_TRUE(text().contains(QStringLiteral("Interrupted")));
  EXPECT_TRUE(button(QStringLiteral("Search"))->isEnabled());
}

TEST_F(PlanViews, SayWhyThereIsNoSearch) {
  session_.edit("/plan/objective", "devicez");
  button(QStringLiteral("Search"))->click();
  EXPECT_FALSE(session_.is_planning());
  EXPECT_TRUE(text().contains(QStringLiteral("devicez"))) << text().toStdString();
}

}  // namespace
}  // namespace foretoken::gui
