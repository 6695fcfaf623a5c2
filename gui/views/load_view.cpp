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
      }
      return;
    }
    note_->setText(tr("%1 loads, up to a tenth more than can be served by the estimate; bands: 90 % "
                      "intervals of the mean")
                       .arg(sweep->points.size()));
    const QString axis = QString::fromStdString(sweep->axis);
    const SloSection& slo = sweep->of->input.scenario.slo;
    draw(*ttft_, *sweep, axis, tr("time to first token, ms"), &ServingMetrics::ttft, "mean_ttft_ms",
         slo.ttft_ms);
    draw(*tpot_, *sweep, axis, tr("time per output token, ms"), &ServingMetrics::tpot, "mean_tpot_ms",
         slo.tpot_ms);
    Table t;
    t.title = "Latency against load";
    t.columns = {{"load", sweep->axis, 3},
                 {"ttft_mean_ms", "TTFT mean, ms", 3},
                 {"ttft_p99_ms", "TTFT p99, ms", 3},
                 {"tpot_mean_ms", "TPOT mean, ms", 3},
                 {"tpot_p99_ms", "TPOT p99, ms", 3},
                 {"output_throughput", "tokens/s", 3},
                 {"stability", "verdict"}};
    for (const LoadPoint& p : sweep->points)
      t.add({p.load, p.metrics.ttft.mean, p.metrics.ttft.p99, p.metrics.tpot.mean, p.metrics.tpot.p99,
             p.metrics.output_throughput, p.stability});
    table_->show_table(std::move(t));
  }

  void draw(Chart& chart, const LoadSweep& sweep, const QString& x, const QString& y,
            Distribution ServingMetrics::*of, const char* key, const std::optional<double>& limit) {
    chart.start(x, y);
    QVector<double> load, mean, p50, p99, low, high;
    double least = 1e300, most = 0;
    for (const LoadPoint& p : sweep.points) {
      const Distribution& d = p.metrics.*of;
      if (d.count == 0) continue;
      load << p.load;
      mean << d.mean, p50 << d.p50, p99 << d.p99;
      const auto i = p.interval.find(key);
      low << (i == p.interval.end() ? d.mean : i->second.low);
      high << (i == p.interval.end() ? d.mean : i->second.high);
      least = std::min({least, d.p50, low.back()}), most = std::max({most, d.p99, high.back()});
    }
    if (load.isEmpty()) return chart.finish(false);
    chart.band(0, load, low, high);
    chart.line(tr("mean"), 0, load, mean);
    chart.line(tr("median"), 2, load, p50);
    chart.line(tr("99th percentile"), 1, load, p99);
    chart.logarithmic(chart.yAxis);
    if (limit) {
      chart.mark_y(*limit, tr("limit %1 ms").arg(*limit), 3);
      least = std::min(least, *limit), most = std::max(most, *limit);
    }
    if (sweep.current > 0) chart.mark_x(sweep.current, tr("this scenario"), 6);
    chart.yAxis->setRange(least / 1.3, most * 1.6);
    chart.xAxis->setRange(0, std::max(load.back(), sweep.current) * 1.05);
    chart.finish(true);
  }

  QLabel* note_;
  Chart *ttft_, *tpot_;
  TableView* table_;
};

}  // namespace

View* make_load_view(Session& session) { return new LoadView(session); }

}  // namespace foretoken::gui
