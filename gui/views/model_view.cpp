// The model alone: parameters, KV cache and arithmetic by component, and how they grow with the context.
#include <QLabel>
#include <QSplitter>
#include <QTabWidget>
#include <QVBoxLayout>

#include "cli/model_report.h"
#include "gui/view.h"
#include "model/kv_cache.h"

namespace foretoken::gui {
namespace {

class ModelView : public View {
 public:
  explicit ModelView(Session& session)
      : View(session, tr("Model")),
        note_(note_label(this)),
        chart_(new Chart(this)),
        tabs_(new QTabWidget(this)) {
    auto* const parts = new QSplitter(Qt::Vertical, this);
    parts->addWidget(chart_);
    parts->addWidget(tabs_);
    parts->setStretchFactor(0, 1);
    parts->setStretchFactor(1, 1);
    auto* const box = new QVBoxLayout(this);
    box->addWidget(note_);
    box->addWidget(parts, 1);
    connect(&session, &Session::estimated_anew, this, &ModelView::show_model);
    show_model();
  }
  std::vector<Chart*> charts() const override { return {chart_}; }
  std::vector<TableView*> tables() const override { return tables_; }

 private:
  void show_model() {
    const auto e = session_.estimated();
    const Deployment* const d = e ? e->deployment() : nullptr;
    chart_->start(tr("context, tokens"), tr("KV cache, GiB"));
    if (d == nullptr) {
      note_->setText(tr("No deployment: %1")
                         .arg(e ? QString::fromStdString(e->verdict) : tr("the scenario has an error")));
      chart_->finish(false);
      return;
    }
    ModelQuestion q;
    q.tensor_parallel = d->mapping.tensor_parallel;
    q.precision = d->precision;
    q.prompt = std::max<std::int64_t>(1, std::llround(e->prepared.load.input_len));
    q.context =
        std::max<std::int64_t>(1, std::llround(e->prepared.load.input_len + e->prepared.load.output_len));
    const Report report = model_report(d->model, q);
    note_->setText(QString::fromStdString(report.tables.front().title) +
                   tr("; KV cache of one sequence on one rank:"));
    while (tables_.size() < report.tables.size()) {
      tables_.push_back(new TableView(this));
      tabs_->addTab(tables_.back(), {});
    }
    for (std::size_t i = 0; i < report.tables.size(); ++i) {
      // "Parameters", "Memory beside the weights", "Prefill: ..."
      const std::string& title = report.tables[i].title;
      tabs_->setTabText(static_cast<int>(i),
                        i == 0 ? tr("Parameters") : QString::fromStdString(title.substr(0, title.find(':'))));
      tabs_->setTabToolTip(static_cast<int>(i), QString::fromStdString(title));
      tables_[i]->show_table(report.tables[i],
                             {QStringLiteral("parameters"), QStringLiteral("gflop"), QStringLiteral("mb")});
    }
    const std::int64_t longest = std::max<std::int64_t>(d->scheduler.max_model_len, 1024);
    QVector<double> x, kv;
    for (int i = 0; i <= 64; ++i) {
      const std::int64_t tokens = longest * i / 64;
      x << static_cast<double>(tokens);
      kv << kv_bytes(d->model, d->mapping.stages.front(), d->precision.kv, tokens, 1) / kGiB;
    }
    chart_->line(QString::fromStdString(d->model.name), 0, x, kv, Qt::SolidLine, false);
    chart_->xAxis->setRange(0, static_cast<double>(longest));
    chart_->yAxis->setRange(0, kv.back() * 1.1);
    chart_->finish(false);
  }

  QLabel* note_;
  Chart* chart_;
  QTabWidget* tabs_;
  std::vector<TableView*> tables_;
};

}  // namespace

View* make_model_view(Session& session) { return new ModelView(session); }

}  // namespace foretoken::gui
