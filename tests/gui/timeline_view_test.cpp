// The timeline shows what the recording holds: steps, usage, requests and their parts, and follows the zoom.
#include <gtest/gtest.h>

#include <QApplication>
#include <QComboBox>
#include <QElapsedTimer>
#include <QLabel>
#include <QMouseEvent>
#include <QTableView>
#include <functional>
#include <memory>
#include <set>

#include "base/json_full.h"
#include "gui/view.h"
#include "gui/views/timeline_lanes.h"
#include "gui/views/timeline_waterfall.h"
#include "pictures.h"

namespace foretoken::gui {
namespace {

constexpr auto kScenario = R"({"model": "llama-3.1-8b", "hardware": {"device": "h100"},
  "workload": {"request_rate": 20, "num_prompts": 40, "seed": 3,
    "input_len": {"distribution": "uniform", "min": 100, "max": 3000},
    "output_len": {"distribution": "uniform", "min": 1, "max": 60}}})";

class TimelineViewTest : public testing::Test {
 protected:
  TimelineViewTest() {
    session_ = std::make_unique<Session>();
    view_.reset(make_timeline_view(*session_));
    view_->resize(900, 500);
    view_->show();
  }
  ~TimelineViewTest() override { view_.reset(); }

  static bool wait_for(const std::function<bool()>& what) {
    QElapsedTimer time;
    time.start();
    while (!what() && time.elapsed() < 30000)
      QCoreApplication::processEvents(QEventLoop::WaitForMoreEvents, 20);
    return what();
  }
  void simulate(const std::string& patch = "{}") {
    Json scenario = Json::parse(kScenario);
    scenario.merge_patch(Json::parse(patch));
    session_->set_scenario(scenario, {});
    ASSERT_TRUE(wait_for([&] { return session_->simulated() != nullptr; }));
    chart()->replot();
    QCoreApplication::processEvents();
  }
  const Recording& recording() const { return session_->simulated()->recording; }
  Chart* chart() const { return view_->charts()[0]; }
  Chart* waterfall() const { return view_->charts()[1]; }
  const Table& table() const { return view_->tables()[0]->rows()->table(); }
  QCPRange time() const { return chart()->xAxis->range(); }
  QString text() const {
    QString all;
    for (const QLabel* label : view_->findChildren<QLabel*>())
      if (label->isVisible()) all += label->text() + u'\n';
    return all;
  }
  StepLanes* steps() const {
    for (int i = 0; i < chart()->plottableCount(); ++i)
      if (auto* const lanes = dynamic_cast<StepLanes*>(chart()->plottable(i))) return lanes;
    return nullptr;
  }
  void click(double time, double lane) {
    const QPointF at(chart()->xAxis->coordToPixel(time), steps()->valueAxis()->coordToPixel(lane));
    for (const auto type : {QEvent::MouseButtonPress, QEvent::MouseButtonRelease}) {
      QMouseEvent event(type, at, chart()->mapToGlobal(at), Qt::LeftButton,
                        type == QEvent::MouseButtonPress ? Qt::LeftButton : Qt::NoButton, Qt::NoModifier);
      QApplication::sendEvent(chart(), &event);
    }
  }
  static void press(QWidget* in, int key) {
    QKeyEvent event(QEvent::KeyPress, key, Qt::NoModifier);
    QApplication::sendEvent(in, &event);
  }
  void expect_parts_of(const RequestRecord& r) {
    double first_token = 0, all = 0;
    ASSERT_EQ(waterfall()->plottableCount(), 7);
    for (int i = 0; i < 7; ++i) {
      auto* const bar = dynamic_cast<QCPBars*>(waterfall()->plottable(i));
      ASSERT_NE(bar, nullptr);
      EXPECT_NEAR(bar->baseValue(), all, 1e-6);  // each goes on where the last one ended
      all += bar->data()->at(0)->value;
      if (i < 6) first_token = all;
    }
    EXPECT_NEAR(first_token, to_ms(r.first_token - r.arrival), 1e-6);
    EXPECT_NEAR(all, to_ms(r.finish - r.arrival), 1e-6);
    EXPECT_TRUE(text().contains(QStringLiteral("Request %1 ").arg(r.id))) << text().toStdString();
  }
  const RequestRecord& record(std::int64_t id) const {
    for (const RequestRecord& r : recording().requests)
      if (r.id == id) return r;
    throw std::logic_error("no such request");
  }

  std::unique_ptr<Session> session_;
  std::unique_ptr<View> view_;
};

TEST_F(TimelineViewTest, NothingBeforeTheFirstSimulationAndTheReasonWhereThereIsNone) {
  EXPECT_FALSE(chart()->isVisible());
  EXPECT_TRUE(text().contains(QStringLiteral("as soon as"))) << text().toStdString();
  Json scenario = Json::parse(kScenario);
  scenario["model"] = "llama-3.3-70b", scenario["hardware"]["device"] = "l40s";
  session_->set_scenario(scenario, {});
  EXPECT_TRUE(text().contains(QStringLiteral("does not fit"))) << text().toStdString();
  scenario["model"] = "no-such-model";
  session_->set_scenario(scenario, {});
  EXPECT_TRUE(text().contains(QStringLiteral("no-such-model"))) << text().toStdString();
  EXPECT_FALSE(chart()->isVisible());
  simulate();
  EXPECT_TRUE(chart()->isVisible());
  EXPECT_FALSE(text().contains(QStringLiteral("no-such-model")));
  scenario["model"] = "no-such-model";
  session_->set_scenario(scenario, {});
  EXPECT_FALSE(chart()->isVisible());
  EXPECT_TRUE(table().rows.empty());
}

TEST_F(TimelineViewTest, StepsAndAxesAreTheRecordings) {
  simulate(R"({"cluster": {"replicas": 2}})");
  ASSERT_NE(steps(), nullptr);
  ASSERT_EQ(steps()->lanes().size(), 2u);
  std::set<std::size_t> seen;
  double end = 0;
  for (std::size_t lane = 0; lane < 2; ++lane)
    for (const StepLanes::Bar& bar : steps()->lanes()[lane]) {
      const TimelineWriter::StepEvent& e = recording().steps[bar.step];
      EXPECT_TRUE(seen.insert(bar.step).second);
      EXPECT_EQ(static_cast<std::size_t>(e.engine), lane);
      EXPECT_DOUBLE_EQ(bar.start, static_cast<double>(e.start) * 1e-12);
      EXPECT_DOUBLE_EQ(bar.prefill, static_cast<double>(e.prefill_tokens) /
                                        static_cast<double>(e.prefill_tokens + e.decode_tokens));
      EXPECT_GE(bar.end, bar.start);
      end = std::max(end, bar.end);
    }
  EXPECT_EQ(seen.size(), recording().steps.size());
  double first = to_s(recording().steps.front().start);
  for (const RequestRecord& r : recording().requests) {
    first = std::min(first, to_s(r.arrival));
    end = std::max(end, to_s(r.finish));
  }
  EXPECT_DOUBLE_EQ(time().lower, first);
  EXPECT_NEAR(time().upper, end, 1e-9);
  EXPECT_EQ(steps()->valueAxis()->range(), QCPRange(-0.5, 1.5));
  const QCPAxisRect* const usage = chart()->axisRect(1);
  EXPECT_EQ(usage->axis(QCPAxis::atLeft)->range(), QCPRange(0, 100));
  EXPECT_EQ(usage->axis(QCPAxis::atBottom)->range(), time());
  EXPECT_TRUE(usage->axis(QCPAxis::atBottom)->label().contains(QStringLiteral(", s")));

  // All engines first, then one.
  const auto& samples = session_->simulated()->simulation.served.over_time.samples;
  ASSERT_EQ(chart()->graph(0)->dataCount(), std::ssize(samples));
  EXPECT_DOUBLE_EQ(chart()->graph(2)->dataMainValue(3), 100 * samples[3].mean_kv_usage);
  auto* const of = view_->findChild<QComboBox*>();
  ASSERT_EQ(of->count(), 3);
  of->setCurrentIndex(2);
  Q_EMIT of->activated(2);
  ASSERT_EQ(chart()->graphCount(), 3);
  const TimelineWriter::StepEvent& e = recording().steps[steps()->lanes()[1][0].step];
  EXPECT_DOUBLE_EQ(chart()->graph(2)->dataMainValue(0), 100 * e.kv_usage);
  EXPECT_DOUBLE_EQ(chart()->graph(1)->dataMainValue(0), e.running);
  EXPECT_DOUBLE_EQ(chart()->graph(0)->dataMainValue(0), e.waiting);
}

TEST_F(TimelineViewTest, ItsCsvHoldsEveryStep) {
  simulate(R"({"cluster": {"replicas": 2}})");
  const QStringList lines = chart()->csv().trimmed().split(u'\n');
  ASSERT_EQ(static_cast<std::size_t>(lines.size()), recording().steps.size() + 1);
  EXPECT_TRUE(lines[0].startsWith(QStringLiteral("engine,start_s,end_s,steps,")));
  for (qsizetype i = 1; i < lines.size(); ++i) {
    const TimelineWriter::StepEvent& e = recording().steps[static_cast<std::size_t>(i - 1)];
    const QStringList cells = lines[i].split(u',');
    EXPECT_EQ(cells[0], QStringLiteral("engine %1").arg(e.engine));
    EXPECT_NEAR(cells[1].toDouble(), to_s(e.start), 1e-9);
    EXPECT_EQ(cells[3].toLongLong(), e.steps);
    EXPECT_EQ(cells[6].toLongLong(), e.prefill_tokens);
  }
}

TEST_F(TimelineViewTest, RowsAreTheRecordsOfTheTimeShown) {
  simulate();
  ASSERT_EQ(table().rows.size(), recording().requests.size());
  for (const auto& row : table().rows) {
    const RequestRecord& r = record(std::get<std::int64_t>(row[0]));
    EXPECT_EQ(std::get<std::int64_t>(row[1]), r.engine);
    EXPECT_DOUBLE_EQ(std::get<double>(row[2]), to_s(r.arrival));
    EXPECT_EQ(std::get<std::int64_t>(row[3]), r.input_len);
    EXPECT_EQ(std::get<std::int64_t>(row[4]), r.output_len);
    EXPECT_EQ(std::get<std::int64_t>(row[5]), r.cached_tokens);
    EXPECT_DOUBLE_EQ(std::get<double>(row[6]), to_ms(r.first_token - r.arrival));
    EXPECT_DOUBLE_EQ(std::get<double>(row[8]), to_ms(r.finish - r.arrival));
    EXPECT_EQ(std::get<std::int64_t>(row[9]), r.preemptions);
    if (r.output_len > 1) {
      EXPECT_NEAR(std::get<double>(row[7]), to_ms(r.finish - r.first_token) / (r.output_len - 1), 1e-9);
    } else {
      EXPECT_TRUE(std::holds_alternative<std::monostate>(row[7]));
    }
  }
  const QCPRange whole = time();
  press(chart(), Qt::Key_Plus);
  press(chart(), Qt::Key_Plus);
  press(chart(), Qt::Key_Left);
  EXPECT_NEAR(time().size(), whole.size() / 4, 1e-9);
  EXPECT_NEAR(time().center(), whole.center() - 0.05 * whole.size(), 1e-9);
  std::size_t expected = 0;
  for (const RequestRecord& r : recording().requests)
    expected += to_s(r.finish) >= time().lower && to_s(r.arrival) <= time().upper;
  ASSERT_LT(expected, recording().requests.size());
  EXPECT_TRUE(wait_for([&] { return table().rows.size() == expected; })) << table().rows.size();
  // Nothing lies beyond the run's ends.
  for (int i = 0; i < 20; ++i) press(chart(), Qt::Key_Minus);
  EXPECT_EQ(time(), whole);
  for (int i = 0; i < 60; ++i) press(chart(), Qt::Key_Plus);
  EXPECT_GE(time().size(), 0.9e-6);
  for (int i = 0; i < 100; ++i) press(chart(), Qt::Key_PageUp);
  EXPECT_GE(time().lower, whole.lower);
  press(chart(), Qt::Key_Home);
  EXPECT_EQ(time(), whole);
}

TEST_F(TimelineViewTest, ARowOrAPlaceInALaneShowsThatRequestsParts) {
  simulate();
  EXPECT_FALSE(waterfall()->isVisible());
  TableView* const rows = view_->tables()[0];
  rows->sortByColumn(6, Qt::DescendingOrder);
  const QModelIndex top = rows->model()->index(0, 0);
  const auto row = static_cast<std::size_t>(rows->source_row(top));
  for (const auto& other : table().rows)
    EXPECT_LE(std::get<double>(other[6]), std::get<double>(table().rows[row][6]));
  rows->setCurrentIndex(top);
  EXPECT_TRUE(waterfall()->isVisible());
  const RequestRecord& slowest = record(std::get<std::int64_t>(table().rows[row][0]));
  expect_parts_of(slowest);
  ASSERT_EQ(steps()->frames().size(), 1u);
  EXPECT_DOUBLE_EQ(steps()->frames()[0].start, to_s(slowest.scheduled));
  EXPECT_DOUBLE_EQ(steps()->frames()[0].end, to_s(slowest.finish));

  // Another one, by the lane; its row is the current one then.
  const RequestRecord& other = record(0);
  ASSERT_LT(other.finish, slowest.scheduled);
  const double at = to_s((other.scheduled + other.first_token) / 2);
  std::int64_t latest = other.id;  // that were there: the last to come
  for (const RequestRecord& r : recording().requests)
    if (to_s(r.scheduled) <= at && at <= to_s(r.finish) &&
        std::pair(r.scheduled, r.id) > std::pair(record(latest).scheduled, record(latest).id))
      latest = r.id;
  click(at, 0);
  expect_parts_of(record(latest));
  EXPECT_EQ(std::get<std::int64_t>(
                table().rows[static_cast<std::size_t>(rows->source_row(rows->currentIndex()))][0]),
            latest);
  EXPECT_NE(steps()->bar_at({chart()->xAxis->coordToPixel(at), steps()->valueAxis()->coordToPixel(0)}),
            nullptr);
  click(at, 0.49);  // between lanes
  expect_parts_of(record(latest));

  // The same request of the next scenario.
  simulate(R"({"engine": {"max_num_batched_tokens": 512}})");
  expect_parts_of(record(latest));
}

TEST_F(TimelineViewTest, ADisaggregatedRequestHasTwoLanes) {
  simulate(R"({"cluster": {"prefill": {"replicas": 1}, "decode": {"replicas": 1},
                           "kv_link": {"name": "InfiniBand NDR"}}})");
  ASSERT_EQ(steps()->lanes().size(), 2u);
  const auto at = std::find_if(recording().requests.begin(), recording().requests.end(),
                               [](const RequestRecord& r) { return r.moved > 0; });
  ASSERT_NE(at, recording().requests.end());
  click(to_s((at->scheduled + at->handed_over) / 2), 0);
  ASSERT_EQ(steps()->frames().size(), 2u);
  EXPECT_EQ(steps()->frames()[0].lane, 0);
  EXPECT_EQ(steps()->frames()[1].lane, 1);
}

// 100,000 steps are drawn as what there are pixels for.
TEST_F(TimelineViewTest, AHundredThousandStepsAreAsManyRectanglesAsPixels) {
  Recording recording;
  for (int i = 0; i < 100000; ++i) {
    TimelineWriter::StepEvent e;
    e.engine = i % 4;
    e.start = Picoseconds{i / 4} * 10'000'000'000;
    e.time = {9'000'000'000, 9'000'000'000};
    e.prefill_tokens = i % 3 == 0 ? 512 : 0;
    e.decode_tokens = 64;
    recording.step(e);
  }
  Chart chart;
  chart.resize(1000, 300);
  chart.start(QStringLiteral("time (s)"), {});
  auto* const lanes = new StepLanes(chart.xAxis, chart.yAxis);
  lanes->set(recording, 4);
  chart.xAxis->setRange(0, 250);
  chart.yAxis->setRange(-0.5, 3.5);
  chart.replot();
  QElapsedTimer time;
  time.start();
  for (int i = 0; i < 10; ++i) chart.replot();
  std::cout << "replot of 100,000 steps: " << static_cast<double>(time.elapsed()) / 10 << " ms\n";
  EXPECT_GT(lanes->drawn(), 2000u);
  EXPECT_LE(lanes->drawn(), 4u * (static_cast<std::size_t>(chart.axisRect()->width()) + 1));
  chart.xAxis->setRange(100, 100.1);
  chart.replot();
  EXPECT_NEAR(static_cast<double>(lanes->drawn()), 4 * 11, 4);
}

TEST_F(TimelineViewTest, PicturesAreNotBlank) {
  simulate();
  click(time().center(), 0);
  for (const QSize& size : {QSize(900, 500), QSize(1400, 900)}) {
    view_->resize(size);
    QCoreApplication::processEvents();
    const QImage picture = view_->grab().toImage();
    ASSERT_EQ(picture.size(), size);
    EXPECT_GT(colours_in(picture), 20);
  }
}

}  // namespace
}  // namespace foretoken::gui
