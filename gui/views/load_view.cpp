// Latency against load: the scenario simulated at several loads, with the limits that it sets.
#include <QHBoxLayout>
#include <QLabel>
#include <QVBoxLayout>

#include "gui/view.h"

namespace foretoken::gui {
namespace {

class LoadView : public View {
 public:
  explicit LoadView(Session& session)
      : View(session, tr("Latency against load")),
        note_(note_label(this)),
        ttft_(new Chart(this)),
        tpot_(new Chart(this)),
        table_(new TableView(this)) {
    ttft_->setAccessibleName(tr("time to first token against load"));
    tpot_->setAccessibleName(tr("time per output token against load"));
    table_->setAccessibleName(tr("latency at each load"));
    table_->set_expendable({QStringLiteral("p99_tpot_low_ms p99_tpot_high_ms"),
                            QStringLiteral("p99_ttft_low_ms p99_ttft_high_ms"),
                            QStringLiteral("median_tpot_ms"), QStringLiteral("median_ttft_ms")});
    auto* const box = new QVBoxLayout(this);
    box->addWidget(note_);
    auto* const charts = new QHBoxLayout;
    charts->addWidget(ttft_);
    charts->addWidget(tpot_);
    box->addLayout(charts, 3);
    box->addWidget(table_, 2);
    connect(&session, &Session::estimated_anew, this, &LoadView::show_sweep);
    connect(&session, &Session::swept_anew, this, &LoadView::show_sweep);
    show_sweep();
  }
  std::vector<Chart*> charts() const override { return {ttft_, tpot_}; }
  std::vector<TableView*> tables() const override { return {table_}; }
  // The scenario may have been edited since the sweep that is still shown.
  Provenance provenance() const override {
    return shown_ ? session_.provenance(title(), *shown_->of->json_scenario) : View::provenance();
  }

 private:
  void show_sweep() {
    const auto sweep = session_.sweep();
    if (!sweep || sweep->points.empty()) {
      const auto e = session_.estimated();
      note_->setText(!e                    ? tr("The scenario has an error.")
                     : !e->verdict.empty() ? QString::fromStdString(e->verdict)
                     : sweep               ? tr("This workload has no load that could be varied.")
                                           : tr("Simulating..."));
      if (sweep || !e || !e->verdict.empty()) {
        for (Chart* c : {ttft_, tpot_}) c->start({}, {}), c->finish(false);
        table_->show_table({});
        shown_.reset();
      }
      return;
    }
    shown_ = sweep;
    note_->setText(
        tr("%1 loads of %L2 requests each, up to %3. Bands: 90\u00a0% intervals of the percentiles, from "
           "simulations at both ends of the prices' intervals.")
            .arg(sweep->points.size())
            .arg(sweep->requests)
            .arg(sweep->estimated ? tr("a tenth more than the estimate says can be served")
                                  : tr("somewhat more than twice the scenario's own")));
    const QString axis = QString::fromStdString(sweep->axis);
    const SloSection& slo = sweep->of->input.scenario.slo;
    draw(*ttft_, *sweep, axis, tr("TTFT, ms"), &ServingMetrics::ttft, "ttft_ms", slo.ttft_ms);
    draw(*tpot_, *sweep, axis, tr("TPOT, ms"), &ServingMetrics::tpot, "tpot_ms", slo.tpot_ms);
    Table t;
    t.title = "Latency against load";
    t.columns = {{sweep->axis, sweep->axis, 3},
                 {"median_ttft_ms", "TTFT median, ms", 3},
                 {"p99_ttft_ms", "TTFT p99, ms", 3},
                 {"p99_ttft_low_ms", "from", 3},
                 {"p99_ttft_high_ms", "to", 3},
                 {"median_tpot_ms", "TPOT median, ms", 3},
                 {"p99_tpot_ms", "TPOT p99, ms", 3},
                 {"p99_tpot_low_ms", "from", 3},
                 {"p99_tpot_high_ms", "to", 3},
                 {"output_throughput", "tokens/s", 3},
                 {"stability", "verdict"}};
    for (const LoadPoint& p : sweep->points) {
      const Interval ttft = interval_of(p, "p99_ttft_ms", p.metrics.ttft.p99),
                     tpot = interval_of(p, "p99_tpot_ms", p.metrics.tpot.p99);
      t.add({p.load, p.metrics.ttft.p50, p.metrics.ttft.p99, ttft.low, ttft.high, p.metrics.tpot.p50,
             p.metrics.tpot.p99, tpot.low, tpot.high, p.metrics.output_throughput, p.stability});
    }
    table_->show_table(std::move(t));
  }

  // No interval (nothing completed): the value itself.
  static Interval interval_of(const LoadPoint& p, const std::string& key, double value) {
    const auto i = p.interval.find(key);
    return i == p.interval.end() ? Interval{value, value} : i->second;
  }

  void draw(Chart& chart, const LoadSweep& sweep, const QString& x, const QString& y,
            Distribution ServingMetrics::*of, const std::string& key, const std::optional<double>& limit) {
    chart.start(x, y);
    struct Line {
      QString name;
      std::string key;
      double Distribution::*value;
      int colour;
    };
    const Line lines[] = {{tr("median"), "median_" + key, &Distribution::p50, 0},
                          {tr("99th percentile"), "p99_" + key, &Distribution::p99, 1}};
    double least = 1e300, most = 0, end = sweep.current;
    for (const Line& l : lines) {
      QVector<double> load, value, low, high;
      for (const LoadPoint& p : sweep.points) {
        const Distribution& d = p.metrics.*of;
        if (d.count == 0) continue;
        const Interval i = interval_of(p, l.key, d.*l.value);
        load << p.load, value << d.*l.value, low << i.low, high << i.high;
        least = std::min(least, i.low), most = std::max(most, i.high), end = std::max(end, p.load);
      }
      if (load.isEmpty()) return chart.finish(false);
      chart.band(l.name, l.colour, load, low, high);
      chart.line(l.name, l.colour, load, value);
    }
    chart.logarithmic(chart.yAxis);
    if (limit) {
      // Latencies rise to the right; above the highest there is no room for a word.
      chart.mark_y(*limit, tr("limit %L1 ms").arg(*limit), 3,
                   Qt::AlignLeft | (*limit > most / 2 ? Qt::AlignBottom : Qt::AlignTop));
      least = std::min(least, *limit), most = std::max(most, *limit);
    }
    // The word lies on the side that has room for it.
    const bool before = sweep.current > sweep.points.back().load / 2;
    if (sweep.current > 0)
      chart.mark_x(sweep.current, tr("this scenario"), 6,
                   Qt::AlignBottom | (before ? Qt::AlignLeft : Qt::AlignRight));
    chart.yAxis->setRange(least / 1.3, most * 1.6);
    chart.xAxis->setRange(0, end * 1.05);
    chart.finish(true);
  }

  std::shared_ptr<const LoadSweep> shown_;
  QLabel* note_;
  Chart *ttft_, *tpot_;
  TableView* table_;
};

}  // namespace

View* make_load_view(Session& session) { return new LoadView(session); }

}  // namespace foretoken::gui
