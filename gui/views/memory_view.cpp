// Memory of a device of each kind, stacked against what it has, beside the pinned scenario's.
#include <QLabel>
#include <QVBoxLayout>

#include "base/units.h"
#include "gui/view.h"

namespace foretoken::gui {
namespace {

struct Part {
  const char* name;
  double MemoryPlan::*bytes;
  int colour;
};
constexpr Part kParts[] = {{"weights", &MemoryPlan::weights_bytes, 0},
                           {"activations at their peak", &MemoryPlan::activation_peak_bytes, 1},
                           {"context, graphs, buffers", &MemoryPlan::overhead_bytes, 6},
                           {"KV cache", &MemoryPlan::kv_cache_bytes, 2}};

class MemoryView : public View {
 public:
  explicit MemoryView(Session& session)
      : View(session, tr("Memory")), chart_(new Chart(this)), note_(note_label(this)) {
    auto* const box = new QVBoxLayout(this);
    box->addWidget(note_);
    box->addWidget(chart_, 1);
    connect(&session, &Session::estimated_anew, this, &MemoryView::show_memory);
    connect(&session, &Session::pinned_anew, this, &MemoryView::show_memory);
    show_memory();
  }
  std::vector<Chart*> charts() const override { return {chart_}; }

 private:
  void show_memory() {
    struct Bar {
      QString name;
      MemoryPlan plan;
    };
    std::vector<Bar> bars;
    const auto add = [&](const QString& prefix, const std::shared_ptr<const Estimated>& of) {
      if (!of) return;
      if (const Deployment* d = of->deployment()) {
        const auto kinds = d->kinds();
        for (std::size_t i = 0; i < kinds.size(); ++i) {
          QString name = kinds.size() == 1 ? QString()
                         : d->pools        ? (i == 0 ? tr("prefill") : tr("decode"))
                                           : tr("pool %1").arg(i);
          name += (name.isEmpty() ? QString() : QStringLiteral(", ")) +
                  QString::fromStdString(kinds[i]->device.name);
          bars.push_back({prefix + name, kinds[i]->memory});
        }
      } else if (const auto& no = std::get<Infeasible>(of->prepared.verdict); no.memory) {
        bars.push_back({prefix + tr("one device"), *no.memory});
      }
    };
    add({}, session_.estimated());
    if (session_.has_pin()) add(tr("pinned: "), session_.pinned());

    chart_->start(tr("memory of one device, GiB"), {});
    const auto current = session_.estimated();
    if (bars.empty()) {
      note_->setText(current && !current->verdict.empty()
                         ? QString::fromStdString(current->verdict)
                         : tr("Nothing to show: the scenario has an error."));
      chart_->finish(false);
      return;
    }
    const MemoryPlan& first = bars.front().plan;
    note_->setText(
        !current->verdict.empty()
            ? QString::fromStdString(current->verdict)
            : tr("%1 blocks of %2 tokens: room for %3 tokens on each rank")
                  .arg(QLocale::c().toString(static_cast<qlonglong>(first.num_gpu_blocks)))
                  .arg(first.block_size)
                  .arg(QLocale(QLocale::English).toString(static_cast<qlonglong>(first.kv_cache_tokens))));
    const QSharedPointer<QCPAxisTickerText> names(new QCPAxisTickerText);
    QCPBars* below = nullptr;
    double most = 0;
    for (const Part& part : kParts) {
      auto* const stack = new QCPBars(chart_->yAxis, chart_->xAxis);
      stack->setName(tr(part.name));
      stack->setPen(Qt::NoPen);
      stack->setBrush(Chart::colour(part.colour));
      stack->setWidth(0.6);
      if (below != nullptr) stack->moveAbove(below);
      below = stack;
      QVector<double> keys, values;
      for (std::size_t i = 0; i < bars.size(); ++i) {
        keys << -static_cast<double>(i);
        values << std::max(0.0, bars[i].plan.*(part.bytes)) / kGiB;
      }
      stack->setData(keys, values);
    }
    for (std::size_t i = 0; i < bars.size(); ++i) {
      names->addTick(-static_cast<double>(i), bars[i].name);
      const MemoryPlan& p = bars[i].plan;
      double sum = 0;
      for (const Part& part : kParts) sum += p.*(part.bytes);
      most = std::max({most, p.device_bytes / kGiB, sum / kGiB});
    }
    chart_->mark_x(first.device_bytes / kGiB, tr("device"), 1);
    if (first.budget_bytes > 0 && first.budget_bytes < 0.995 * first.device_bytes)
      chart_->mark_x(first.budget_bytes / kGiB, tr("budget"), 6);
    chart_->yAxis->setTicker(names);
    chart_->yAxis->setRange(-static_cast<double>(bars.size()) + 0.4, 0.6);
    chart_->xAxis->setRange(0, most * 1.12);
    chart_->finish(true);
  }

  Chart* chart_;
  QLabel* note_;
};

}  // namespace

View* make_memory_view(Session& session) { return new MemoryView(session); }

}  // namespace foretoken::gui
