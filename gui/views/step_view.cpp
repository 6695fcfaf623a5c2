// Where the time of a step goes: a waterfall of its operators and a table of them.
#include <QComboBox>
#include <QHBoxLayout>
#include <QLabel>
#include <QScrollArea>
#include <QSplitter>
#include <QVBoxLayout>

#include "base/text.h"
#include "gui/view.h"

namespace foretoken::gui {
namespace {

Table operator_table(const StepEstimate& s) {
  Table t;
  t.title = "Operators of " + s.name;
  t.columns = {{"name", "operator"},
               {"count", "count"},
               {"ms", "ms", 3},
               {"share_percent", "% of step", 3},
               {"gflop", "GFLOP", 3},
               {"mb", "MB", 3},
               {"tflop_per_s", "TFLOP/s", 3},
               {"tb_per_s", "TB/s", 3},
               {"roofline_percent", "% roofline", 3},
               {"bound_by", "bound by"},
               {"basis", "basis"},
               {"error_percent", "\u00b1 %", 2}};
  for (const OperatorCost& o : s.operators) {
    const bool timed = o.seconds > 0;
    t.add({o.name, o.count, 1e3 * o.seconds, s.seconds > 0 ? Cell(100 * o.seconds / s.seconds) : Cell(),
           o.flops / 1e9, o.bytes / 1e6, timed && o.flops > 0 ? Cell(o.flops / o.seconds / 1e12) : Cell(),
           timed && o.bytes > 0 ? Cell(o.bytes / o.seconds / 1e12) : Cell(),
           timed && o.limit > 0 ? Cell(100 * o.limit / o.seconds) : Cell(), o.bound_by,
           std::string(name_of(o.basis)), 100 * o.relative_error});
  }
  return t;
}

class StepView : public View {
 public:
  explicit StepView(Session& session)
      : View(session, tr("Step")),
        which_(new QComboBox(this)),
        note_(note_label(this)),
        chart_(new Chart(this)),
        table_(new TableView(this)) {
    which_->setAccessibleName(tr("Step"));
    chart_->setAccessibleName(tr("waterfall of a step"));
    table_->setAccessibleName(tr("operators of a step"));
    table_->set_expendable({QStringLiteral("error_percent"), QStringLiteral("tb_per_s"),
                            QStringLiteral("tflop_per_s"), QStringLiteral("count"),
                            QStringLiteral("bound_by"), QStringLiteral("share_percent")});
    auto* const top = new QHBoxLayout;
    top->addWidget(which_);
    top->addWidget(note_, 1);
    auto* const parts = parts_ = new QSplitter(Qt::Vertical, this);
    auto* const scroll = new QScrollArea(parts);
    scroll->setWidget(chart_);
    scroll->setWidgetResizable(true);
    scroll->setFrameShape(QFrame::NoFrame);
    scroll->setFocusPolicy(Qt::NoFocus);  // the chart has it, and its keys come here
    parts->addWidget(scroll);
    parts->addWidget(table_);
    parts->setChildrenCollapsible(false);
    table_->setMinimumHeight(4 * fontMetrics().lineSpacing());
    auto* const box = new QVBoxLayout(this);
    box->addLayout(top);
    box->addWidget(parts, 1);
    box->addStretch(0);
    connect(&session, &Session::estimated_anew, this, &StepView::show_steps);
    connect(which_, &QComboBox::activated, this, &StepView::show_steps);
    show_steps();
  }
  std::vector<Chart*> charts() const override { return {chart_}; }
  std::vector<TableView*> tables() const override { return {table_}; }

 protected:
  void resizeEvent(QResizeEvent* event) override {
    View::resizeEvent(event);
    fit();
  }

 private:
  // The whole chart is in sight where there is room for it, and the table has what is left; else two thirds
  // of it are, and the rest is scrolled to.
  void fit() {
    const int all = parts_->height(), wanted = chart_->minimumHeight() + 2;
    const int high = wanted + table_->minimumHeight() <= all ? wanted : 2 * all / 3;
    parts_->setSizes({high, all - high});
  }

  void show_steps() {
    const auto e = session_.estimated();
    chart_->start(tr("time in the step, ms"), {});
    const std::vector<Estimated::Step> steps = e ? e->steps() : std::vector<Estimated::Step>();
    which_->setVisible(!steps.empty());
    parts_->setVisible(!steps.empty());
    if (steps.empty()) {
      note_->setText(why_no_steps(e.get()));
      table_->show_table({});
      chart_->finish(false);
      return;
    }
    const Estimated::Step& chosen = steps[choose_step(*which_, steps)];
    const StepEstimate& s = *chosen.step;
    note_->setText(tr("%1 sequences, %2 tokens: %3 ms (90 %: %4 to %5), bound by %6, %7 % of the roofline")
                       .arg(s.sequences)
                       .arg(s.tokens)
                       .arg(QString::fromStdString(significant(1e3 * s.seconds, 4)),
                            QString::fromStdString(significant(1e3 * s.low, 3)),
                            QString::fromStdString(significant(1e3 * s.high, 3)),
                            QString::fromStdString(s.bound_by),
                            QString::fromStdString(significant(100 * s.roofline_fraction, 3))));
    table_->show_table(operator_table(s), {QStringLiteral("ms"), QStringLiteral("gflop"),
                                           QStringLiteral("mb"), QStringLiteral("roofline_percent")});
    // Largest last is easiest to read; the order is that of the step.
    auto* const before = new QCPBars(chart_->yAxis, chart_->xAxis);
    auto* const bars = new QCPBars(chart_->yAxis, chart_->xAxis);
    before->setPen(Qt::NoPen), before->setBrush(Qt::NoBrush);
    before->removeFromLegend();
    bars->moveAbove(before);
    bars->setName(tr("time, ms"));
    bars->setPen(Qt::NoPen);
    bars->setBrush(Chart::colour(0));
    bars->setWidth(0.75), before->setWidth(0.75);
    const QSharedPointer<QCPAxisTickerText> names(new QCPAxisTickerText);
    QVector<double> keys, starts, values;
    double at = 0;
    const auto add = [&](const std::string& name, double seconds) {
      keys << -static_cast<double>(keys.size());
      starts << at;
      values << 1e3 * seconds;
      at += 1e3 * seconds;
      names->addTick(keys.back(), QString::fromStdString(name));
    };
    for (const OperatorCost& o : s.operators) add(o.name, o.seconds);
    if (s.host_seconds > 0) add("host", s.host_seconds);
    before->setData(keys, starts);
    bars->setData(keys, values);
    chart_->yAxis->setTicker(names);
    chart_->yAxis->setRange(-static_cast<double>(keys.size()) + 0.4, 0.6);
    chart_->xAxis->setRange(0, at * 1.03);
    const int needs = chart_->height_of_rows(static_cast<int>(keys.size()));
    if (needs != chart_->minimumHeight()) {
      chart_->setMinimumHeight(needs);
      fit();
    }
    chart_->finish(false);
  }

  QComboBox* which_;
  QLabel* note_;
  QSplitter* parts_ = nullptr;
  Chart* chart_;
  TableView* table_;
};

}  // namespace

View* make_step_view(Session& session) { return new StepView(session); }

}  // namespace foretoken::gui
