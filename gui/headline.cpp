#include "gui/headline.h"

#include <QHelpEvent>
#include <QPainter>
#include <QToolTip>
#include <algorithm>

#include "gui/chart.h"
#include "gui/table_view.h"
#include "simulator/simulate.h"

namespace foretoken::gui {
namespace {

constexpr int kLeastWidth = 96, kMostWidth = 190, kGap = 10;  // of a figure, pixels

QString percent(double share) { return figures(100 * share, 3) + QStringLiteral(" %"); }

QFont small_font(QFont font) {
  font.setPointSizeF(0.85 * font.pointSizeF());
  return font;
}
QFont large_font(QFont font) {
  font.setPointSizeF(1.2 * font.pointSizeF());
  font.setBold(true);
  return font;
}

using Figure = Headline::Figure;

QString ms(double v) { return figures(v, 3) + QStringLiteral(" ms"); }
QString output(double tokens_per_s) { return figures(tokens_per_s, 3) + QObject::tr(" tokens/s"); }

Figure limits_figure(const SloSection& slo, const QString& value, bool wrong) {
  return {QObject::tr("Within limits"), value, QObject::tr("%1 % asked").arg(slo.percentile),
          QObject::tr("Share of the requests that meet all limits of /slo"), wrong};
}

// wrong: of an estimate that no simulation has corrected yet, by caches that it does not see, for one.
Figure load_figure(const Estimated::Totals& t, bool wrong) {
  return {QObject::tr("Load, estimate"), t.utilization > 0 ? percent(t.utilization) : QStringLiteral("-"),
          QObject::tr("of %1 requests/s").arg(figures(t.capacity_requests_per_s, 3)),
          QObject::tr("Requests that arrive, of those that can be served by the estimate"), wrong};
}

Figure cost_figure(bool has_price, double usd_per_million_tokens, double usd_per_hour) {
  const QString name = QObject::tr("Cost");
  if (!has_price)
    return {name, QStringLiteral("-"), QObject::tr("no price is known"),
            QObject::tr("Set /hardware/usd_per_device_hour")};
  return {
      name, u'$' + figures(usd_per_million_tokens, 3), QObject::tr("per M output tokens"),
      QObject::tr("Per million output tokens; all devices cost $%1 an hour").arg(figures(usd_per_hour, 4))};
}

// The same figures in the same order as those of the simulation that follows.
std::vector<Figure> estimated_figures(const Estimated& e, const Estimated::Totals& t) {
  const QString idle = QObject::tr("no queueing"),
                help = QObject::tr(
                    "By the estimate, of the workload's means; the simulation follows in a moment");
  std::vector<Figure> out{{QObject::tr("TTFT, estimate"), ms(t.ttft_ms), idle, help},
                          {QObject::tr("TPOT, estimate"), ms(t.tpot_ms), idle, help}};
  const SloSection& slo = e.input.scenario.slo;
  if (has_limits(slo)) out.push_back(limits_figure(slo, QStringLiteral("..."), false));
  out.push_back({QObject::tr("Output, estimate"), output(t.output_throughput), {}, help});
  out.push_back(load_figure(t, t.utilization >= 1));
  const Deployment& d = *e.deployment();
  out.push_back(cost_figure(d.has_price, t.usd_per_million_tokens, d.has_price ? d.usd_per_hour() : 0));
  return out;
}

std::vector<Figure> simulated_figures(const Simulated& s) {
  const Simulation& run = s.simulation;
  const ServingMetrics& m = run.served.metrics;
  std::vector<Figure> out;
  const auto latency = [&](const QString& name, const Distribution& d, const char* key) {
    const auto interval = run.interval.find(key);
    out.push_back({name, d.count > 0 ? ms(d.p99) : QStringLiteral("-"),
                   interval == run.interval.end()
                       ? QString()
                       : QObject::tr("%1 to %2")
                             .arg(figures(interval->second.low, 3), figures(interval->second.high, 3)),
                   QObject::tr("99th percentile of the simulated requests; below it the 90 % interval of the "
                               "prediction, in ms")});
  };
  latency(QObject::tr("TTFT p99"), m.ttft, "p99_ttft_ms");
  latency(QObject::tr("TPOT p99"), m.tpot, "p99_tpot_ms");
  const SloSection& slo = s.of->input.scenario.slo;
  if (m.slo_attainment)
    out.push_back(
        limits_figure(slo, percent(*m.slo_attainment), 100 * *m.slo_attainment + 1e-9 < slo.percentile));
  out.push_back({QObject::tr("Output"), output(m.output_throughput), QString::fromStdString(run.stability),
                 QString::fromStdString(run.stability_reason), run.stability != "stable"});
  if (const auto totals = s.of->totals()) out.push_back(load_figure(*totals, false));
  out.push_back(cost_figure(run.has_price, run.usd_per_million_tokens, run.usd_per_hour));
  return out;
}

}  // namespace

Headline::Headline(Session& session, QWidget* parent) : QWidget(parent), session_(session) {
  setSizePolicy(QSizePolicy::Expanding, QSizePolicy::Fixed);
  for (const auto signal :
       {&Session::edited, &Session::estimated_anew, &Session::simulated_anew, &Session::intervals_anew})
    connect(&session, signal, this, &Headline::refresh);
  connect(&session, &Session::failed, this, [this](const QString& where, const QString& message) {
    problem_ = where.isEmpty() ? message : where + QStringLiteral(": ") + message;
    refresh();
  });
  connect(&session, &Session::worked, this, [this] { problem_.clear(); });
  refresh();
}

void Headline::refresh() {
  figures_.clear();
  const auto e = session_.estimated();
  if (!e) {
    figures_ = {{tr("No answer"), tr("The scenario has an error"), problem_, problem_, true}};
  } else if (!e->verdict.empty()) {
    // "does not fit in memory: ..."
    const QString verdict = QString::fromStdString(e->verdict);
    const qsizetype colon = verdict.indexOf(QStringLiteral(": "));
    QString what = colon < 0 ? verdict : verdict.left(colon);
    what[0] = what[0].toUpper();
    figures_ = {{tr("No answer"), what, colon < 0 ? QString() : verdict.mid(colon + 2), verdict, true}};
  } else {
    if (const auto s = session_.simulated())
      figures_ = simulated_figures(*s);
    else if (const auto totals = e->totals())
      figures_ = estimated_figures(*e, *totals);
    else
      figures_ = {
          {tr("No estimate"), tr("Simulating..."), QString::fromStdString(e->no_estimate), {}, false}};
  }
  QStringList said;
  for (const Figure& f : figures_) said << f.name + u' ' + f.value + u' ' + f.detail;
  setAccessibleName(said.join(QStringLiteral("; ")));
  update();
}

QSize Headline::sizeHint() const {
  const QFontMetrics small(small_font(font())), large(large_font(font()));
  return {6 * kMostWidth, 2 * small.height() + large.height() + 4};
}
QSize Headline::minimumSizeHint() const { return {5 * kLeastWidth, sizeHint().height()}; }

int Headline::left_of(std::size_t i) const {
  const int n = std::max(1, static_cast<int>(figures_.size()));
  const int each = n == 1 ? width() : std::min(width() / n, kMostWidth);
  return static_cast<int>(i) * each;
}

void Headline::paintEvent(QPaintEvent*) {
  QPainter painter(this);
  const QColor ink = palette().color(QPalette::WindowText), wrong = Chart::wrong_colour(palette());
  QColor faint = ink;
  faint.setAlpha(165);
  const QFont small = small_font(font()), large = large_font(font());
  for (std::size_t i = 0; i < figures_.size(); ++i) {
    const Figure& f = figures_[i];
    const int x = left_of(i) + kGap, room = left_of(i + 1) - x;
    int y = 0;
    const auto line = [&](const QString& text, const QFont& with, const QColor& colour) {
      const QFontMetrics metrics(with);
      painter.setFont(with);
      painter.setPen(colour);
      painter.drawText(QRect(x, y, room, metrics.height()),
                       static_cast<int>(Qt::AlignLeft | Qt::AlignVCenter),
                       metrics.elidedText(text, Qt::ElideRight, room));
      y += metrics.height();
    };
    line(f.name, small, faint);
    line(f.value, large, f.wrong ? wrong : ink);
    line(f.detail, small, f.wrong ? wrong : faint);
    if (i > 0) {
      QColor rule = ink;
      rule.setAlpha(50);
      painter.fillRect(QRect(x - kGap / 2 - 1, 3, 1, height() - 6), rule);
    }
  }
}

bool Headline::event(QEvent* event) {
  if (event->type() != QEvent::ToolTip) return QWidget::event(event);
  const auto* const at = static_cast<QHelpEvent*>(event);
  for (std::size_t i = figures_.size(); i-- > 0;)
    if (at->pos().x() >= left_of(i)) {
      const Figure& f = figures_[i];
      QToolTip::showText(at->globalPos(),
                         QStringLiteral("%1: %2 %3\n%4").arg(f.name, f.value, f.detail, f.help), this);
      break;
    }
  return true;
}

}  // namespace foretoken::gui
