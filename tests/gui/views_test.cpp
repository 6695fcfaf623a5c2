// What the views show is what the library says: values read back from charts and tables.
#include <gmock/gmock.h>

#include <QAbstractItemModelTester>
#include <QApplication>
#include <QFile>
#include <QScrollBar>
#include <QXmlStreamReader>

#include "base/json_full.h"
#include "base/units.h"
#include "cli/model_report.h"
#include "deployment/capacity.h"
#include "gui/headline.h"
#include "gui/window.h"
#include "model/kv_cache.h"
#include "pictures.h"

namespace foretoken::gui {
namespace {

const Json kSmall = Json::parse(R"({"model": "llama-3.1-8b", "hardware": {"device": "h100"},
    "workload": {"request_rate": 6, "num_prompts": 120, "input_len": 500, "output_len": 60},
    "slo": {"ttft_ms": 300, "tpot_ms": 30}})");

class Views : public testing::Test {
 protected:
  void SetUp() override {
    window.session().set_scenario(kSmall, QStringLiteral("test"));
    window.session().wait();
    ASSERT_NE(window.session().simulated(), nullptr);
    ASSERT_NE(window.session().sweep(), nullptr);
  }
  Chart& chart(const char* name, std::size_t i = 0) {
    return *window.view(QString::fromLatin1(name))->charts().at(i);
  }
  TableView& table(const char* name, std::size_t i = 0) {
    return *window.view(QString::fromLatin1(name))->tables().at(i);
  }
  Window window{false};
};

double value_of(QCPBars* bars, double key) {
  for (const QCPBarsData& d : *bars->data())
    if (d.key == key) return d.value;
  return -1;
}

TEST_F(Views, MemoryIsThePlan) {
  const MemoryPlan& plan = window.session().estimated()->deployment()->memory;
  Chart& c = chart("Memory");
  std::map<std::string, double> shown;
  for (int i = 0; i < c.plottableCount(); ++i)
    if (auto* const bars = qobject_cast<QCPBars*>(c.plottable(i)))
      shown[bars->name().toStdString()] = value_of(bars, 0) * kGiB;
  EXPECT_DOUBLE_EQ(shown.at("weights"), plan.weights_bytes);
  EXPECT_DOUBLE_EQ(shown.at("KV cache"), plan.kv_cache_bytes);
  EXPECT_DOUBLE_EQ(shown.at("activations at their peak"), plan.activation_peak_bytes);
  EXPECT_GE(c.xAxis->range().upper, plan.device_bytes / kGiB);
  EXPECT_EQ(c.xAxis->range().lower, 0);
  EXPECT_THAT(c.xAxis->label().toStdString(), testing::HasSubstr("GiB"));
}

TEST_F(Views, SequencesThatFitAreThePlans) {
  const Deployment& d = *window.session().estimated()->deployment();
  const QCPGraph& room = *chart("Memory", 1).graph(0);
  ASSERT_GT(room.dataCount(), 10);
  for (int i = 0; i < room.dataCount(); ++i)
    EXPECT_EQ(room.dataMainValue(i), static_cast<double>(sequences_that_fit(
                                         d.memory, static_cast<std::int64_t>(room.dataMainKey(i)))));
  EXPECT_EQ(sequences_that_fit(d.memory, d.memory.kv_cache_tokens), 1);
  EXPECT_EQ(sequences_that_fit(d.memory, d.memory.kv_cache_tokens + 1), 0);
}

// A key at its limit fits, and one more does not.
TEST_F(Views, LimitsAreWhereItStopsFitting) {
  Session& session = window.session();
  ASSERT_NE(session.limits(), nullptr);
  const std::vector<FitLimit> limits = *session.limits();
  ASSERT_EQ(limits.size(), 5u);
  int bounded = 0;
  for (const FitLimit& l : limits) {
    SCOPED_TRACE(l.key);
    ASSERT_TRUE(l.value);
    if (!l.at_most || !l.bounded) continue;
    ++bounded;
    const auto fits = [&](double value) {
      Json scenario = session.scenario();
      scenario["engine"][l.key] = static_cast<std::int64_t>(value);
      try {
        return estimate_of(*session.world(), scenario, "test")->verdict.empty();
      } catch (const std::exception&) {
        return false;  // more than the model takes
      }
    };
    EXPECT_TRUE(fits(*l.value));
    EXPECT_FALSE(fits(*l.value + 1));
  }
  EXPECT_GT(bounded, 0);
}

TEST_F(Views, ModelIsItsReport) {
  const Deployment& d = *window.session().estimated()->deployment();
  const QCPGraph& flops = *chart("Model", 1).graph(0);
  ModelQuestion q;
  q.tensor_parallel = d.mapping.tensor_parallel;
  q.precision = d.precision;
  for (const int i : {0, flops.dataCount() / 2, flops.dataCount() - 1}) {
    q.context = static_cast<std::int64_t>(flops.dataMainKey(i));
    EXPECT_DOUBLE_EQ(flops.dataMainValue(i) * 1e9, decode_flops(d.model, q));
  }
  EXPECT_GT(flops.dataMainValue(flops.dataCount() - 1), flops.dataMainValue(0));
  const QCPGraph& kv = *chart("Model").graph(0);
  ASSERT_GT(kv.dataCount(), 10);
  for (int i = 0; i < kv.dataCount(); ++i)
    EXPECT_DOUBLE_EQ(kv.dataMainValue(i) * kGiB, kv_bytes(d.model, d.mapping.stages.front(), d.precision.kv,
                                                          static_cast<std::int64_t>(kv.dataMainKey(i)), 1));
  EXPECT_THAT(chart("Model", 1).yAxis->label().toStdString(), testing::HasSubstr("GFLOP"));
}

TEST_F(Views, WhatDoesNotFitSaysSo) {
  window.session().edit("/model", Json("llama-3.1-405b"));
  EXPECT_FALSE(window.session().estimated()->verdict.empty());
  window.session().wait();
  EXPECT_EQ(window.session().simulated(), nullptr);
  EXPECT_GT(colours_in(window.grab().toImage()), 10);
}

TEST_F(Views, StepIsItsOperators) {
  const Estimate& e = *window.session().estimated()->estimate;
  const StepEstimate& step = e.steps.at(2);
  EXPECT_EQ(step.name, "decode_expected");
  const Table& shown = table("Step").rows()->table();
  ASSERT_EQ(shown.rows.size(), step.operators.size());
  double sum = 0;
  for (std::size_t i = 0; i < shown.rows.size(); ++i) {
    EXPECT_EQ(std::get<std::string>(shown.rows[i][0]), step.operators[i].name);
    EXPECT_DOUBLE_EQ(std::get<double>(shown.rows[i][2]), 1e3 * step.operators[i].seconds);
    sum += step.operators[i].seconds;
  }
  EXPECT_NEAR(sum + step.host_seconds, step.seconds, 1e-9);
  // The waterfall: each bar begins where the one before ends.
  auto* const starts = qobject_cast<QCPBars*>(chart("Step").plottable(0));
  auto* const bars = qobject_cast<QCPBars*>(chart("Step").plottable(1));
  double at = 0;
  for (int i = 0; i < static_cast<int>(step.operators.size()); ++i) {
    EXPECT_NEAR(value_of(starts, -i), at, 1e-9);
    at += value_of(bars, -i);
  }
  EXPECT_NEAR(chart("Step").xAxis->range().upper, 1e3 * step.seconds * 1.03, 1e-6);
}

TEST_F(Views, RooflineHoldsAllOperators) {
  const StepEstimate& step = window.session().estimated()->estimate->steps.at(2);
  Chart& c = chart("Roofline");
  EXPECT_EQ(c.xAxis->scaleType(), QCPAxis::stLogarithmic);
  const Device& device = window.session().estimated()->deployment()->device;
  const double bandwidth = device.memory_bandwidth.value / 1e12;
  std::vector<std::pair<double, double>> dots, expected;
  std::vector<double> roofs;
  for (int i = 0; i < c.graphCount(); ++i) {
    const bool roof = c.graph(i)->lineStyle() != QCPGraph::lsNone;
    double highest = 0;
    for (const QCPGraphData& d : *c.graph(i)->data()) {
      highest = std::max(highest, d.value);
      if (roof) {
        EXPECT_LE(d.value, d.key * bandwidth * (1 + 1e-9));
        continue;
      }
      EXPECT_TRUE(c.xAxis->range().contains(d.key)) << d.key;
      EXPECT_TRUE(c.yAxis->range().contains(d.value)) << d.value;
      dots.emplace_back(d.key, d.value);
    }
    if (roof) roofs.push_back(highest);
  }
  for (const OperatorCost& o : step.operators)
    if (o.flops > 0 && o.bytes > 0 && o.seconds > 0)
      expected.emplace_back(o.flops / o.bytes, o.flops / o.seconds / 1e12);
  EXPECT_THAT(dots, testing::UnorderedElementsAreArray(expected));
  EXPECT_THAT(roofs,
              testing::UnorderedElementsAre(device.fp16_peak.value / 1e12, device.fp8_peak.value / 1e12));
}

TEST_F(Views, LoadIsTheSweep) {
  const LoadSweep& sweep = *window.session().sweep();
  ASSERT_EQ(sweep.points.size(), 9u);
  EXPECT_EQ(sweep.current, 6);
  for (std::size_t i = 1; i < sweep.points.size(); ++i)
    EXPECT_GT(sweep.points[i].load, sweep.points[i - 1].load);
  for (const auto& [which, of] : {std::pair{0, &ServingMetrics::ttft}, {1, &ServingMetrics::tpot}}) {
    Chart& c = chart("Latency against load", static_cast<std::size_t>(which));
    // Low, high, value; of the median, then of the 99th percentile.
    ASSERT_EQ(c.graphCount(), 6);
    const QCPGraph *median = c.graph(2), *low = c.graph(3), *high = c.graph(4), *p99 = c.graph(5);
    EXPECT_EQ(p99->name(), QStringLiteral("99th percentile"));
    ASSERT_EQ(p99->dataCount(), 9);
    for (int i = 0; i < 9; ++i) {
      const LoadPoint& p = sweep.points[static_cast<std::size_t>(i)];
      EXPECT_DOUBLE_EQ(p99->dataMainKey(i), p.load);
      EXPECT_DOUBLE_EQ(p99->dataMainValue(i), (p.metrics.*of).p99);
      EXPECT_DOUBLE_EQ(median->dataMainValue(i), (p.metrics.*of).p50);
      const Interval& interval = p.interval.at(which == 0 ? "p99_ttft_ms" : "p99_tpot_ms");
      EXPECT_DOUBLE_EQ(low->dataMainValue(i), interval.low);
      EXPECT_DOUBLE_EQ(high->dataMainValue(i), interval.high);
      EXPECT_LT(interval.low, interval.high);
      EXPECT_TRUE(c.yAxis->range().contains((p.metrics.*of).p99));
    }
  }
  // The sweep's point at the scenario's own load agrees with a simulation of it.
  EXPECT_GT(sweep.points.back().metrics.ttft.p99, sweep.points.front().metrics.ttft.p99);
}

TEST_F(Views, ComparisonListsEveryDifference) {
  window.session().pin();
  window.session().edit("/engine/quantization", Json("fp8"));
  window.session().wait();
  const Table& t = table("Compare").rows()->table();
  ASSERT_FALSE(t.rows.empty());
  EXPECT_EQ(std::get<std::string>(t.rows[0][0]), "scenario/engine/quantization");
  const double before = window.session().pinned_simulation()->simulation.served.metrics.tpot.mean,
               now = window.session().simulated()->simulation.served.metrics.tpot.mean;
  bool found = false;
  for (const auto& row : t.rows)
    if (std::get<std::string>(row[0]) == "mean_tpot_ms") {
      found = true;
      EXPECT_DOUBLE_EQ(std::get<double>(row[1]), before);
      EXPECT_DOUBLE_EQ(std::get<double>(row[2]), now);
      EXPECT_NEAR(std::get<double>(row[4]), 100 * (now / before - 1), 1e-9);
    }
  EXPECT_TRUE(found);
}

TEST_F(Views, EveryTableIsASoundModel) {
  window.session().pin();
  window.session().wait();
  int tested = 0;
  for (View* v : window.views())
    for (TableView* t : v->tables()) {
      const QAbstractItemModelTester rows(t->rows(), QAbstractItemModelTester::FailureReportingMode::Fatal);
      const QAbstractItemModelTester sorted(t->model(),
                                            QAbstractItemModelTester::FailureReportingMode::Fatal);
      t->sortByColumn(0, Qt::DescendingOrder);
      t->sortByColumn(-1, Qt::AscendingOrder);
      ++tested;
    }
  window.session().edit("/workload/request_rate", Json(3));
  window.session().wait();
  EXPECT_GT(tested, 5);
}

TEST_F(Views, EveryViewIsPaintedAtEverySizeAndTheme) {
  for (const auto theme : {Window::Theme::kLight, Window::Theme::kDark}) {
    Window::use_theme(theme);
    for (const QSize size : {QSize(1280, 800), QSize(900, 600), QSize(1900, 1100)}) {
      window.resize(size);
      window.show();
      for (View* v : window.views()) {
        window.show_view(v->title());
        QApplication::processEvents();
        const QImage image = v->grab().toImage();
        EXPECT_GT(image.width(), 300) << v->title().toStdString();
        EXPECT_GT(colours_in(image), 4) << v->title().toStdString();
        for (Chart* c : v->charts()) {
          EXPECT_GE(c->width(), 190) << v->title().toStdString();
          EXPECT_FALSE(c->xAxis->label().isEmpty() && c->plottableCount() > 0) << v->title().toStdString();
        }
      }
    }
  }
  Window::use_theme(Window::Theme::kLight);
}

const Json kApart = Json::parse(R"({"model": "llama-3.1-8b", "hardware": {"device": "h100"},
    "cluster": {"prefill": {"replicas": 2}, "decode": {"replicas": 1}, "kv_link": {"name": "InfiniBand NDR"}},
    "workload": {"request_rate": 6, "num_prompts": 80, "input_len": 500, "output_len": 60},
    "plan": {"objective": "devices"}})");

// Prefill and decode engines: the steps, the sums and the search are the library's.
TEST_F(Views, PoolsHaveStepsSumsAndPlans) {
  Session& session = window.session();
  session.set_scenario(kApart, QStringLiteral("test"));
  const auto e = session.estimated();
  ASSERT_TRUE(e && e->pools);
  const PoolsEstimate expected = estimate_pools(*e->deployment(), e->costs, e->prepared.load, 0);
  EXPECT_EQ(e->json()["pools"].size(), 2u);
  ASSERT_EQ(e->steps().size(),
            expected.pools[0].estimate.steps.size() + expected.pools[1].estimate.steps.size());
  EXPECT_EQ(e->steps()[0].name, "prefill");
  EXPECT_EQ(e->totals()->ttft_ms, expected.ttft_ms);
  const Table& shown = table("Step").rows()->table();
  const StepEstimate& step = expected.pools[1].estimate.steps.at(1);
  EXPECT_EQ(step.name, "decode_expected");
  ASSERT_EQ(shown.rows.size(), step.operators.size());
  for (std::size_t i = 0; i < shown.rows.size(); ++i)
    EXPECT_DOUBLE_EQ(std::get<double>(shown.rows[i][2]), 1e3 * step.operators[i].seconds);
  EXPECT_GT(chart("Roofline").graphCount(), 2);
  session.wait();
  EXPECT_EQ(session.sweep()->points.size(), 9u);

  session.start_plan();
  session.wait();
  ASSERT_TRUE(session.planned());
  ASSERT_FALSE(session.planned()->ranked.empty());
  const Candidate& best = session.planned()->ranked.front();
  EXPECT_LE(best.devices, 3);
  EXPECT_EQ(table("Plan").rows()->table().rows.size(), session.planned()->ranked.size());
  session.apply_patch(Json::parse(best.patch), QStringLiteral("load"));
  ASSERT_TRUE(session.estimated());
  EXPECT_EQ(session.estimated()->deployment()->devices(), best.devices);
  session.wait();
  EXPECT_NEAR(session.simulated()->simulation.served.metrics.ttft.p99, best.metrics.ttft.p99, 1e-9);
}

// Instances that serve one request together have no estimate, and say so; their simulation is shown.
TEST_F(Views, WhatHasNoEstimateSaysWhy) {
  window.session().set_scenario(
      Json::parse(R"({"model": "llama-3.1-8b", "hardware": {"device": "h100", "count": 2},
                      "engine": {"behavior": "loongserve"}, "cluster": {"replicas": 2},
                      "workload": {"request_rate": 1, "num_prompts": 20, "input_len": 500, "output_len": 20}})"),
      QStringLiteral("test"));
  window.session().wait();
  ASSERT_TRUE(window.session().simulated());
  EXPECT_FALSE(window.session().estimated()->totals());
  EXPECT_TRUE(why_no_steps(window.session().estimated().get()).contains(QStringLiteral("elastic instances")));
  EXPECT_FALSE(window.session().sweep()->estimated);
  EXPECT_EQ(table("Step").rows()->table().rows.size(), 0u);
}

TEST_F(Views, HeadlineIsTheSimulation) {
  const auto& figures_shown = window.findChild<Headline*>()->figures();
  const auto value_of_figure = [&](const QString& name) {
    for (const Headline::Figure& f : figures_shown)
      if (f.name == name) return f;
    return Headline::Figure();
  };
  const ServingMetrics& m = window.session().simulated()->simulation.served.metrics;
  const Interval& ttft = window.session().simulated()->simulation.interval.at("p99_ttft_ms");
  EXPECT_EQ(value_of_figure(QStringLiteral("TTFT p99")).value,
            figures(m.ttft.p99, 3) + QStringLiteral(" ms"));
  EXPECT_TRUE(value_of_figure(QStringLiteral("TTFT p99")).detail.startsWith(figures(ttft.low, 3)));
  EXPECT_EQ(value_of_figure(QStringLiteral("Output")).value,
            figures(m.output_throughput, 3) + QStringLiteral(" tokens/s"));
  EXPECT_FALSE(value_of_figure(QStringLiteral("Load, estimate")).value.isEmpty());
  window.session().edit("/engine/tensor_parallel_size", Json(3));
  EXPECT_TRUE(figures_shown.size() == 1 && figures_shown[0].wrong);
}

QByteArray content(const QString& file) {
  QFile in(file);
  EXPECT_TRUE(in.open(QIODevice::ReadOnly)) << file.toStdString();
  return in.readAll();
}

// Whatever is saved says what made it and of what.
TEST_F(Views, WhatIsSavedSaysWhereItCameFrom) {
  const QString folder = QStringLiteral(FORETOKEN_BINARY_DIR "/tests/gui/");
  const QString command = QString::fromStdString(command_line(window.session().scenario(), "simulate"));
  for (View* v : window.views())
    for (const ViewPart& part : v->parts())
      for (const QString& suffix : part.suffixes) {
        if (part.widget == v && suffix == QStringLiteral(".svg") && v->title() != QStringLiteral("Step"))
          continue;  // once is enough
        SCOPED_TRACE((v->title() + u' ' + part.name + suffix).toStdString());
        const QString file = folder + QStringLiteral("saved") + suffix;
        v->save(part, file);
        QString said;
        if (suffix == QStringLiteral(".png")) {
          const QImage image(file);
          EXPECT_GE(image.width(), 200);
          for (const QString& key : image.textKeys())
            said += key + QStringLiteral(": ") + image.text(key) + u'\n';
        } else if (suffix == QStringLiteral(".svg")) {
          QXmlStreamReader xml(content(file));
          while (!xml.atEnd())
            if (xml.readNext() == QXmlStreamReader::Characters) said += xml.text();
          EXPECT_FALSE(xml.hasError()) << xml.errorString().toStdString();
        } else {
          for (const QByteArray& line : content(file).split('\n'))
            if (line.startsWith("# ")) said += QString::fromUtf8(line.mid(2)) + u'\n';
        }
        EXPECT_TRUE(said.contains(v->title())) << said.toStdString();
        EXPECT_TRUE(said.contains(QStringLiteral("Software: foretoken ")) ||
                    suffix == QStringLiteral(".svg"));
        EXPECT_TRUE(said.contains(QStringLiteral("Creation Time: 2")));
        EXPECT_TRUE(said.contains(QStringLiteral("Database: ")));
        if (v->title() != QStringLiteral("Validation")) {
          EXPECT_TRUE(said.contains(command)) << said.toStdString();
        }
        QFile::remove(file);
      }
  const ViewPart memory = window.view(QStringLiteral("Memory"))->parts()[1];
  EXPECT_THAT(chart("Memory").csv().toStdString(),
              testing::HasSubstr("series,\"of\",\"memory of one device, GiB\"\n\"weights\",\"H100"));
  View* const view = window.view(QStringLiteral("Memory"));
  EXPECT_THROW(view->save(memory, folder + QStringLiteral("memory.gif")), std::exception);
  EXPECT_THROW(view->save(memory, QStringLiteral("/nowhere/memory.png")), std::exception);
}

// What was pinned is shown beside nothing, too.
TEST_F(Views, AnErrorLeavesThePinnedScenario) {
  window.session().pin();
  window.session().edit("/engine/max_num_seqs", Json(-3));
  EXPECT_EQ(window.session().estimated(), nullptr);
  EXPECT_GT(chart("Memory").plottableCount(), 0);
  window.session().history().undo();
  EXPECT_NE(window.session().estimated(), nullptr);
}

// No row's name touches the next, no word of a legend is cut, beside Memory in a window of 1,280 x 800.
TEST_F(Views, RowsAndLegendsHaveRoomForTheirLetters) {
  window.session().set_scenario(kApart, QStringLiteral("test"));
  window.session().wait();
  window.session().pin();
  window.session().edit("/workload/request_rate", Json(5));
  window.session().wait();
  window.resize(1280, 800);
  window.show();
  for (View* v : window.views()) {
    window.show_view(v->title());
    if (v->title() == QStringLiteral("Timeline")) v->tables()[0]->selectRow(0);
    for (int i = 0; i < 3; ++i) QApplication::processEvents();
    for (Chart* c : v->charts()) {
      if (!c->isVisible()) continue;
      SCOPED_TRACE((v->title() + u' ' + c->accessibleName()).toStdString());
      c->replot();
      const int line = c->fontMetrics().height();
      if (const auto words = c->yAxis->ticker().dynamicCast<QCPAxisTickerText>()) {
        EXPECT_GE(std::abs(c->yAxis->coordToPixel(1) - c->yAxis->coordToPixel(0)), line - 1.5);
      } else {
        const QVector<double> ticks = c->yAxis->tickVector();
        for (qsizetype i = 1; i < ticks.size(); ++i)
          EXPECT_GE(std::abs(c->yAxis->coordToPixel(ticks[i]) - c->yAxis->coordToPixel(ticks[i - 1])),
                    line - 1.5);
      }
      for (int i = 0; c->legend->visible() && i < c->legend->itemCount(); ++i)
        EXPECT_GE(c->legend->item(i)->outerRect().height(), line + 3);
    }
  }
}

TEST_F(Views, NarrowTablesShowTheColumnsThatMatter) {
  window.resize(900, 600);
  window.show();
  for (View* v : window.views()) {
    window.show_view(v->title());
    QApplication::processEvents();
    for (TableView* t : v->tables()) {
      if (!t->isVisible()) continue;
      EXPECT_EQ(t->horizontalScrollBar()->maximum(), 0)
          << v->title().toStdString() << " " << t->accessibleName().toStdString();
      EXPECT_FALSE(t->model()->columnCount() > 0 && t->isColumnHidden(0));
    }
  }
  TableView& step = table("Step");
  for (int c = 0; c < step.model()->columnCount(); ++c) {
    const std::string& key = step.rows()->table().columns[static_cast<std::size_t>(c)].key;
    if (key == "ms" || key == "gflop" || key == "mb" || key == "roofline_percent" || key == "basis") {
      EXPECT_FALSE(step.isColumnHidden(c)) << key;
    }
  }
}

}  // namespace
}  // namespace foretoken::gui
