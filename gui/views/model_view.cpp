// The model alone: parameters, KV cache and arithmetic by component, and how they grow with the context.
#include <fmt/format.h>

#include <QLabel>
#include <QSplitter>
#include <QTabWidget>
#include <QVBoxLayout>

#include "cli/model_report.h"
#include "gui/view.h"
#include "model/kv_cache.h"

namespace foretoken::gui {
namespace {

constexpr int kPoints = 48;

class ModelView : public View {
 public:
  explicit ModelView(Session& session)
      : View(session, tr("Model")),
        note_(note_label(this)),
        kv_(new Chart(this)),
        flops_(new Chart(this)),
        tabs_(new QTabWidget(this)) {
    kv_->setAccessibleName(tr("KV cache against context"));
    flops_->setAccessibleName(tr("FLOPs of a token against context"));
    auto* const charts = new QSplitter(Qt::Horizontal, this);
    charts->addWidget(kv_);
    charts->addWidget(flops_);
    charts->setChildrenCollapsible(false);
    charts->setSizes({500, 500});
    auto* const parts = new QSplitter(Qt::Vertical, this);
    parts->addWidget(charts);
    parts->addWidget(tabs_);
    parts->setStretchFactor(0, 1);
    parts->setStretchFactor(1, 1);
    parts->setSizes({500, 500});
    auto* const box = new QVBoxLayout(this);
    box->addWidget(note_);
    box->addWidget(parts, 1);
    connect(&session, &Session::estimated_anew, this, &ModelView::show_model);
    show_model();
  }
  std::vector<Chart*> charts() const override { return {kv_, flops_}; }
  std::vector<TableView*> tables() const override { return tables_; }

 private:
  void show_model() {
    const auto e = session_.estimated();
    const Deployment* const d = e ? e->deployment() : nullptr;
    if (d == nullptr) {
      note_->setText(tr("No deployment: %1")
                         .arg(e ? QString::fromStdString(e->verdict) : tr("the scenario has an error")));
      for (Chart* c : {kv_, flops_}) c->start({}, {}), c->finish(false);
      for (TableView* t : tables_) t->show_table({});
      shown_.clear();
      return;
    }
    ModelQuestion q;
    q.tensor_parallel = d->mapping.tensor_parallel;
    q.precision = d->precision;
    q.prompt = std::max<std::int64_t>(1, std::llround(e->prepared.load.input_len));
    q.context =
        std::max<std::int64_t>(1, std::llround(e->prepared.load.input_len + e->prepared.load.output_len));
    const std::int64_t longest = std::max<std::int64_t>(d->scheduler.max_model_len, 1024);
    // Most edits leave the model as it is, and counting operators takes a while.
    const std::string asked =
        e->input.scenario.model.text + fmt::format("\n{} {} {} {} {} {} {} {}", q.tensor_parallel, q.prompt,
                                                   q.context, longest, name_of(q.precision.weights),
                                                   name_of(q.precision.activation), name_of(q.precision.kv),
                                                   d->mapping.pipeline_parallel);
    if (asked == shown_) return;
    shown_ = asked;
    const Report report = model_report(d->model, q);
    note_->setText(
        QString::fromStdString(report.tables.front().title) +
        tr("; below, of one sequence on one rank (tensor_parallel_size %1):").arg(q.tensor_parallel));
    while (tables_.size() < report.tables.size()) {
      tables_.push_back(new TableView(this));
      tables_.back()->set_expendable({QStringLiteral("kind"), QStringLiteral("count")});
      tabs_->addTab(tables_.back(), {});
    }
    for (std::size_t i = 0; i < report.tables.size(); ++i) {
      // "Parameters", "Memory beside the weights", "Prefill: ..."
      const std::string& title = report.tables[i].title;
      tabs_->setTabText(static_cast<int>(i),
                        i == 0 ? tr("Parameters") : QString::fromStdString(title.substr(0, title.find(':'))));
      tables_[i]->setAccessibleName(tabs_->tabText(static_cast<int>(i)).toLower());
      tabs_->setTabToolTip(static_cast<int>(i), QString::fromStdString(title));
      tables_[i]->show_table(report.tables[i],
                             {QStringLiteral("parameters"), QStringLiteral("gflop"), QStringLiteral("mb")});
    }
    QVector<double> x, kv, flops;
    for (int i = 0; i <= kPoints; ++i) {
      q.context = longest * i / kPoints;
      x << static_cast<double>(q.context);
      kv << kv_bytes(d->model, d->mapping.stages.front(), d->precision.kv, q.context, 1) / kGiB;
      flops << decode_flops(d->model, q) / 1e9;
    }
    const auto draw = [&](Chart& chart, const QString& what, int colour, const QVector<double>& y) {
      chart.start(tr("context, tokens"), what);
      chart.line(what, colour, x, y, Qt::SolidLine, false);
      chart.xAxis->setRange(0, static_cast<double>(longest));
      chart.yAxis->setRange(0, y.back() > 0 ? y.back() * 1.1 : 1);
      chart.finish(false);
    };
    draw(*kv_, tr("KV cache, GiB"), 2, kv);
    draw(*flops_, tr("GFLOP a token"), 0, flops);
  }

  QLabel* note_;
  Chart *kv_, *flops_;
  QTabWidget* tabs_;
  std::vector<TableView*> tables_;
  std::string shown_;  // what the charts and tables are of
};

}  // namespace

View* make_model_view(Session& session) { return new ModelView(session); }

}  // namespace foretoken::gui
