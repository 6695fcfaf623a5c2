// Memory of a device of each kind, stacked against what it has, beside the pinned scenario's; and where it
// stops fitting: how many sequences of which length find room, and how far single keys go.
#include <QLabel>
#include <QSplitter>
#include <QVBoxLayout>
#include <algorithm>
#include <cmath>

#include "base/text.h"
#include "base/units.h"
#include "deployment/capacity.h"
#include "gui/view.h"

namespace foretoken::gui {
namespace {

QString grouped(std::int64_t n) { return QString::fromStdString(with_commas(n)); }

struct Part {
  const char* name;
  double MemoryPlan::*bytes;
  int colour;
};
constexpr int kCurvePoints = 40;
constexpr int kLegendHeight = 26, kSwatch = 12;  // pixels
constexpr Part kParts[] = {{"weights", &MemoryPlan::weights_bytes, 0},
                           {"activations at their peak", &MemoryPlan::activation_peak_bytes, 1},
                           {"context, graphs, buffers", &MemoryPlan::overhead_bytes, 6},
                           {"KV cache", &MemoryPlan::kv_cache_bytes, 2}};

class MemoryView : public View {
 public:
  explicit MemoryView(Session& session)
      : View(session, tr("Memory")),
        chart_(new Chart(this)),
        room_(new Chart(this)),
        note_(note_label(this)),
        limits_(note_label(this)) {
    chart_->setAccessibleName(tr("memory of a device"));
    chart_->legend->setIconSize(kSwatch, chart_->legend->iconSize().height());
    room_->setAccessibleName(tr("sequences that fit"));
    auto* const charts = new QSplitter(Qt::Horizontal, this);
    charts->addWidget(chart_);
    charts->addWidget(room_);
    charts->setStretchFactor(0, 3), charts->setStretchFactor(1, 2);
    charts->setSizes({600, 400});
    charts->setChildrenCollapsible(false);
    auto* const box = new QVBoxLayout(this);
    box->setSpacing(2);
    box->addWidget(note_);
    box->addWidget(limits_);
    box->addWidget(charts, 1);
    connect(&session, &Session::estimated_anew, this, &MemoryView::show_memory);
    connect(&session, &Session::pinned_anew, this, &MemoryView::show_memory);
    connect(&session, &Session::limits_anew, this, &MemoryView::show_limits);
    connect(&session, &Session::estimated_anew, this, &MemoryView::show_limits);
    show_memory();
    show_limits();
  }
  std::vector<Chart*> charts() const override { return {chart_, room_}; }

 private:
  // Found beside the window, a moment after the rest; until then those of before are greyed.
  void show_limits() {
    const auto limits = session_.limits();
    limits_->setEnabled(limits != nullptr);
    if (!session_.estimated()) limits_->clear();
    if (!limits) return;
    QStringList up, from, none;
    for (const FitLimit& l : *limits) {
      const QString key = QString::fromStdString(l.key);
      if (!l.value)
        none << key;
      else if (!l.bounded)
        up << tr("%1 any").arg(key);
      else
        (l.at_most ? up : from) << key + u' ' +
                                       QString::fromStdString(
                                           l.key == "gpu_memory_utilization"
                                               ? significant(*l.value, 2)
                                               : with_commas(static_cast<std::int64_t>(*l.value)));
    }
    QStringList fits;
    const QString comma = QStringLiteral(", ");
    if (!up.isEmpty()) fits << tr("up to %1").arg(up.join(comma));
    if (!from.isEmpty()) fits << tr("from %1 on").arg(from.join(comma));
    QString text = fits.isEmpty() ? QString() : tr("Fits %1. ").arg(fits.join(QStringLiteral("; ")));
    if (!none.isEmpty()) text += tr("By itself no other value makes it fit of %1.").arg(none.join(comma));
    limits_->setText(text.trimmed());
  }

  // Of the first kind of engines: the curve, what the scheduler would run, and what the workload asks for.
  void show_room(const Deployment* d) {
    room_->start(tr("tokens of a sequence"), tr("sequences"));
    if (d == nullptr || !d->kinds().front()->memory.fits) return room_->finish(false);
    const Deployment& kind = *d->kinds().front();
    const auto longest = static_cast<double>(std::max<std::int64_t>(kind.scheduler.max_model_len, 2));
    const double least = std::min(64.0, longest / 2);
    QVector<double> x, y;
    for (int i = 0; i <= kCurvePoints; ++i) {
      const double tokens =
          std::round(least * std::pow(longest / least, static_cast<double>(i) / kCurvePoints));
      x << tokens;
      y << static_cast<double>(sequences_that_fit(kind.memory, static_cast<std::int64_t>(tokens)));
    }
    room_->line(tr("find room in the KV cache"), 2, x, y, Qt::SolidLine, false);
    room_->logarithmic(room_->xAxis);
    room_->logarithmic(room_->yAxis);
    const auto running = static_cast<double>(kind.scheduler.max_num_seqs);
    const double low = std::max(0.7, std::min(running, y.back()) / 2),
                 high = 3 * std::max(running, y.front());
    room_->mark_y(running, tr("max_num_seqs"), 1);
    const auto& load = session_.estimated()->prepared.load;
    if (const double mean = load.input_len + load.output_len; mean > least && mean < longest)
      room_->mark_x(mean, tr("workload"), 6,
                    Qt::AlignLeft | (running * running < low * high ? Qt::AlignTop : Qt::AlignBottom));
    room_->xAxis->setRange(least, longest);
    room_->yAxis->setRange(low, high);
    room_->finish(false);
  }

  void show_memory() {
    struct Bar {
      QString prefix, pool, device;
      MemoryPlan plan;
    };
    std::vector<Bar> bars;
    const auto add = [&](const QString& prefix, const std::shared_ptr<const Estimated>& of) {
      if (!of) return;
      if (const Deployment* d = of->deployment()) {
        const auto kinds = d->kinds();
        for (std::size_t i = 0; i < kinds.size(); ++i) {
          const QString pool = kinds.size() == 1 ? QString() : QString::fromStdString(pool_name(*d, i));
          bars.push_back({prefix, pool, QString::fromStdString(kinds[i]->device.name), kinds[i]->memory});
        }
      } else if (const auto& no = std::get<Infeasible>(of->prepared.verdict); no.memory) {
        bars.push_back({prefix, {}, tr("one device"), *no.memory});
      }
    };
    add({}, session_.estimated());
    if (session_.has_pin()) add(tr("pinned: "), session_.pinned());
    // A line of text each: pools on devices of one kind have their own names alone.
    const bool one_device = std::all_of(bars.begin(), bars.end(), [&](const Bar& b) {
      return b.device == bars.front().device && !b.pool.isEmpty();
    });
    chart_->start(one_device && !bars.empty() ? tr("memory of one %1, GiB").arg(bars.front().device)
                                              : tr("memory of one device, GiB"),
                  {});
    const auto current = session_.estimated();
    show_room(current ? current->deployment() : nullptr);
    if (bars.empty()) {
      note_->setText(current && !current->verdict.empty()
                         ? QString::fromStdString(current->verdict)
                         : tr("Nothing to show: the scenario has an error."));
      chart_->finish(false);
      return;
    }
    const MemoryPlan& first = bars.front().plan;
    note_->setText(
        !current ? tr("The scenario has an error; shown is the pinned one.")
        : !current->verdict.empty()
            ? QString::fromStdString(current->verdict)
            : tr("%1 blocks of %2 tokens: room for %3 on each rank, %4 sequences of this workload\'s mean "
                 "length, %5 of max_model_len.")
                  .arg(grouped(first.num_gpu_blocks))
                  .arg(first.block_size)
                  .arg(grouped(first.kv_cache_tokens),
                       grouped(sequences_that_fit(first, std::llround(current->prepared.load.input_len +
                                                                      current->prepared.load.output_len))),
                       grouped(sequences_that_fit(
                           first, current->deployment()->kinds().front()->scheduler.max_model_len))));
    const QSharedPointer<QCPAxisTickerText> names(new QCPAxisTickerText);
    QCPBars* below = nullptr;
    double most = 0;
    for (const Part& part : kParts) {
      auto* const stack = new QCPBars(chart_->yAxis, chart_->xAxis);
      stack->setName(tr(part.name));
      stack->setPen(Qt::NoPen);
      stack->setBrush(Chart::colour(part.colour));
      stack->setWidth(0.6);
      stack->setStackingGap(0);  // it would hide what is small
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
      const Bar& b = bars[i];
      names->addTick(-static_cast<double>(i),
                     b.prefix + (one_device         ? b.pool
                                 : b.pool.isEmpty() ? b.device
                                                    : b.pool + QStringLiteral(", ") + b.device));
      const MemoryPlan& p = bars[i].plan;
      double sum = 0;
      for (const Part& part : kParts) sum += p.*(part.bytes);
      most = std::max({most, p.device_bytes / kGiB, sum / kGiB});
    }
    chart_->mark_x(first.device_bytes / kGiB, tr("device"), 1);
    if (first.budget_bytes > 0 && first.budget_bytes < 0.995 * first.device_bytes)
      chart_->mark_x(first.budget_bytes / kGiB, tr("budget"), 6, Qt::AlignLeft | Qt::AlignTop);
    chart_->yAxis->setTicker(names);
    // With room for the words above the bars and beside the device's line, and a line of text for each bar.
    const auto n = static_cast<double>(bars.size());
    chart_->setMinimumHeight(chart_->height_of_rows(static_cast<int>(std::ceil(1.3 * n + 0.2))) +
                             kLegendHeight);
    chart_->yAxis->setRange(-n + 0.4, 0.6 + 0.3 * n);
    chart_->xAxis->setRange(0, most * 1.45);
    chart_->finish(true);
  }

  Chart *chart_, *room_;
  QLabel *note_, *limits_;
};

}  // namespace

View* make_memory_view(Session& session) { return new MemoryView(session); }

}  // namespace foretoken::gui
