#include "gui/views/timeline_waterfall.h"

#include <QCheckBox>
#include <QHBoxLayout>
#include <QLabel>
#include <QVBoxLayout>

#include "gui/table_view.h"

namespace foretoken::gui {
namespace {

QString in_ms(Picoseconds t) { return cell_text(to_ms(t), 4) + QStringLiteral("\u00a0ms"); }

}  // namespace

std::vector<LifePart> life_parts(const RequestRecord& r) {
  const TtftParts p = ttft_parts(r);
  std::vector<LifePart> parts = {{QObject::tr("ingress"), 0, p.ingress},
                                 {QObject::tr("queue"), 0, p.queue},
                                 {QObject::tr("load"), 0, p.load},
                                 {QObject::tr("prefill"), 0, p.prefill},
                                 {QObject::tr("transfer"), 0, p.transfer},
                                 {QObject::tr("first step"), 0, p.first_step},
                                 {QObject::tr("decode"), 0, r.finish - r.first_token}};
  Picoseconds at = 0;
  for (LifePart& part : parts) {
    part.start = at;
    at += part.duration;
  }
  return parts;
}

Waterfall::Waterfall(QWidget* parent)
    : QWidget(parent),
      title_(new QLabel(this)),
      decode_(new QCheckBox(tr("&Decode"), this)),
      chart_(new Chart(this)) {
  title_->setWordWrap(true);
  title_->setTextInteractionFlags(Qt::TextSelectableByMouse);
  decode_->setChecked(true);
  decode_->setToolTip(tr("Without it the parts of TTFT have the whole width"));
  chart_->axisRect()->setRangeDrag(Qt::Horizontal);
  chart_->axisRect()->setRangeZoom(Qt::Horizontal);
  chart_->setAccessibleName(tr("parts of one request's latency"));
  chart_->setMinimumHeight(chart_->height_of_rows(static_cast<int>(life_parts({}).size())));
  chart_->set_csv([this] {
    QString text = QStringLiteral("part,start_ms,duration_ms\n");
    for (const LifePart& part : parts_)
      text += QStringLiteral("\"%1\",%2,%3\n")
                  .arg(part.name)
                  .arg(to_ms(part.start), 0, 'g', 12)
                  .arg(to_ms(part.duration), 0, 'g', 12);
    return text;
  });
  auto* const top = new QHBoxLayout;
  top->addWidget(title_, 1);
  top->addWidget(decode_);
  auto* const all = new QVBoxLayout(this);
  all->setContentsMargins(0, 0, 0, 0);
  all->addLayout(top);
  all->addWidget(chart_, 1);
  connect(decode_, &QCheckBox::toggled, this, &Waterfall::draw);
  show_none();
}

void Waterfall::show_none() {
  parts_.clear();
  title_->setText(tr("Choose a request in the table, or a place in a lane, to see what its time went to."));
  decode_->hide();
  chart_->hide();
}

void Waterfall::show_request(const RequestRecord& r, const QString& engine) {
  parts_ = life_parts(r);
  title_->setText(
      tr("Request %1 on %2: TTFT %3, E2EL %4")
          .arg(QString::number(r.id), engine, in_ms(r.first_token - r.arrival), in_ms(r.finish - r.arrival)));
  decode_->show();
  chart_->show();
  draw();
}

void Waterfall::draw() {
  if (parts_.empty()) return;
  chart_->start(tr("since arrival, ms"), {});
  const auto names = QSharedPointer<QCPAxisTickerText>::create();
  const std::size_t shown = parts_.size() - (decode_->isChecked() ? 0 : 1);
  double end = 0;
  for (std::size_t i = 0; i < shown; ++i) {
    const LifePart& part = parts_[i];
    auto* const bar = new QCPBars(chart_->yAxis, chart_->xAxis);
    bar->setName(part.name);
    bar->setBaseValue(to_ms(part.start));
    bar->setData({static_cast<double>(i)}, {to_ms(part.duration)});
    bar->setWidth(0.7);
    bar->setPen(QPen(Chart::colour(static_cast<int>(i)), 1));
    bar->setBrush(Chart::colour(static_cast<int>(i)));
    bar->setSelectable(QCP::stNone);
    names->addTick(static_cast<double>(i), part.name + QStringLiteral("  ") + in_ms(part.duration));
    end = to_ms(part.start + part.duration);
  }
  chart_->yAxis->setTicker(names);
  chart_->yAxis->setRange(-0.6, static_cast<double>(shown) - 0.4);
  chart_->yAxis->setRangeReversed(true);
  chart_->xAxis->ticker()->setTickCount(4);
  chart_->xAxis->setRange(0, end > 0 ? 1.02 * end : 1);
  chart_->finish(false);
}

}  // namespace foretoken::gui
