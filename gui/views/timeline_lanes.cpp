#include "gui/views/timeline_lanes.h"

#include <algorithm>
#include <cmath>

#include "gui/table_view.h"

namespace foretoken::gui {
namespace {

constexpr int kDecodeColour = 0, kPrefillColour = 1;
constexpr double kHalfLane = 0.4;

QString in_ms(Picoseconds t) { return cell_text(to_ms(t), 4) + QStringLiteral(" ms"); }

}  // namespace

QString step_text(const TimelineWriter::StepEvent& e, const QString& engine) {
  const auto count = [](std::int64_t n) { return cell_text(Cell(n), 4); };
  QString text = engine + QStringLiteral(", %1 s\n").arg(to_s(e.start), 0, 'f', 6);
  if (e.steps > 1) {
    text += QObject::tr("%1 decode steps, %2 together, the first %3\n")
                .arg(count(e.steps), in_ms(occupied(e)), in_ms(e.first));
  } else {
    text += QObject::tr("a step of %1").arg(in_ms(occupied(e)));
    if (e.time.tokens_out > e.time.next_start && e.time.next_start > 0)
      text += QObject::tr(", its tokens out after %1").arg(in_ms(e.time.tokens_out));
    text += u'\n';
  }
  text += QObject::tr("%1 prefill and %2 decode tokens%3\n")
              .arg(count(e.prefill_tokens), count(e.decode_tokens),
                   e.steps > 1 ? QObject::tr(" each") : QString());
  if (e.stall > 0) text += QObject::tr("%1 of it waiting for KV blocks of a tier\n").arg(in_ms(e.stall));
  text += QObject::tr("%1 running, %2 waiting, KV cache %3 % in use")
              .arg(count(e.running), count(e.waiting), cell_text(100 * e.kv_usage, 3));
  return text;
}

Table step_table(const Recording& recording, const std::vector<QString>& engines) {
  Table t;
  t.title = "Steps";
  t.columns = {{"engine", "engine"},
               {"start_s", "start (s)", 12},
               {"end_s", "end (s)", 12},
               {"steps", "steps"},
               {"first_ms", "first step (ms)", 12},
               {"increment_ms", "each longer by (ms)", 12},
               {"prefill_tokens", "prefill tokens"},
               {"decode_tokens", "decode tokens"},
               {"running", "running"},
               {"waiting", "waiting"},
               {"kv_usage", "KV cache in use", 12},
               {"stall_ms", "stall (ms)", 12}};
  for (const TimelineWriter::StepEvent& e : recording.steps) {
    const bool span = e.steps > 1;
    t.add({engines[static_cast<std::size_t>(e.engine)].toStdString(), to_s(e.start),
           to_s(e.start + occupied(e)), e.steps, to_ms(span ? e.first : occupied(e)),
           to_ms(span ? e.increment : 0), e.prefill_tokens, e.decode_tokens, std::int64_t{e.running},
           std::int64_t{e.waiting}, e.kv_usage, to_ms(e.stall)});
  }
  return t;
}

std::vector<QString> engine_names(const Deployment& d, std::size_t engines) {
  std::vector<QString> names;
  const std::vector<const Deployment*> kinds = d.kinds();
  for (std::size_t k = 0; k < kinds.size() && kinds.size() > 1; ++k) {
    const QString kind = d.pools ? (k == 0 ? QObject::tr("prefill") : QObject::tr("decode"))
                                 : QString::fromStdString(kinds[k]->device.name);
    for (int e = 0; e < kinds[k]->mapping.engines(); ++e)
      names.push_back(QStringLiteral("%1 %2").arg(kind).arg(names.size()));
  }
  const std::size_t all = std::max(engines, static_cast<std::size_t>(d.engines()));
  while (names.size() < all) names.push_back(QObject::tr("engine %1").arg(names.size()));
  return names;
}

double TimeTicker::getTickStep(const QCPRange& range) {
  const double step = QCPAxisTicker::getTickStep(range);
  decimals_ = std::clamp(static_cast<int>(std::ceil(-std::log10(step) - 1e-9)), 0, 12);
  // 0.25 and its like have one digit more.
  const double scaled = step * std::pow(10, decimals_);
  if (std::abs(scaled - std::round(scaled)) > 1e-6) ++decimals_;
  return step;
}
QString TimeTicker::getTickLabel(double tick, const QLocale&, QChar, int) {
  return QString::number(tick, 'f', decimals_);
}

double LaneTicker::getTickStep(const QCPRange& range) {
  const double line = QFontMetricsF(axis_->tickLabelFont()).height();
  const double fit = std::max(1.0, axis_->axisRect()->height() / line);
  return std::max(1.0, std::ceil(range.size() / fit));
}
int LaneTicker::getSubTickCount(double) { return 0; }
QString LaneTicker::getTickLabel(double tick, const QLocale&, QChar, int) {
  const auto lane = std::llround(tick);
  return lane < 0 || lane >= std::ssize(names_) ? QString() : names_[static_cast<std::size_t>(lane)];
}

void StepLanes::set(const Recording& recording, std::size_t lanes) {
  lanes_.assign(lanes, {});
  for (std::size_t i = 0; i < recording.steps.size(); ++i) {
    const TimelineWriter::StepEvent& e = recording.steps[i];
    const auto tokens = static_cast<double>(e.prefill_tokens + e.decode_tokens);
    const double prefill = tokens > 0 ? static_cast<double>(e.prefill_tokens) / tokens : 0;
    lanes_[static_cast<std::size_t>(e.engine)].push_back(
        {to_s(e.start), to_s(e.start + occupied(e)), prefill, i});
  }
  for (auto& bars : lanes_)
    std::stable_sort(bars.begin(), bars.end(), [](const Bar& a, const Bar& b) { return a.start < b.start; });
}

int StepLanes::lane_at(const QPointF& position) const {
  if (!keyAxis()->axisRect()->rect().contains(position.toPoint())) return -1;
  const double value = valueAxis()->pixelToCoord(position.y());
  const auto lane = std::llround(value);
  const bool in = lane >= 0 && lane < std::ssize(lanes_);
  return in && std::abs(value - static_cast<double>(lane)) <= kHalfLane + 0.05 ? static_cast<int>(lane) : -1;
}

const StepLanes::Bar* StepLanes::bar_at(const QPointF& position) const {
  const int lane = lane_at(position);
  if (lane < 0) return nullptr;
  const auto& bars = lanes_[static_cast<std::size_t>(lane)];
  // A pixel is the least that one can point at.
  const double from = keyAxis()->pixelToCoord(position.x() - 0.5),
               to = keyAxis()->pixelToCoord(position.x() + 0.5);
  const auto at =
      std::partition_point(bars.begin(), bars.end(), [&](const Bar& bar) { return bar.end <= from; });
  return at != bars.end() && at->start <= to ? &*at : nullptr;
}

double StepLanes::selectTest(const QPointF& position, bool only_selectable, QVariant* details) const {
  if (only_selectable || lane_at(position) < 0) return -1;
  if (details != nullptr) {
    const Bar* const bar = bar_at(position);
    const int step = bar == nullptr ? -1 : static_cast<int>(bar->step);
    details->setValue(QCPDataSelection(QCPDataRange(step, step + 1)));
  }
  return 0;
}

QCPRange StepLanes::getKeyRange(bool& found, QCP::SignDomain) const {
  QCPRange range;
  found = false;
  for (const auto& bars : lanes_) {
    if (bars.empty()) continue;
    const QCPRange own(bars.front().start, bars.back().end);
    found ? range.expand(own) : void(range = own);
    found = true;
  }
  return range;
}
QCPRange StepLanes::getValueRange(bool& found, QCP::SignDomain, const QCPRange&) const {
  found = !lanes_.empty();
  return {-0.5, static_cast<double>(lanes_.size()) - 0.5};
}

QColor StepLanes::blend(double prefill) {
  const QColor a = Chart::colour(kDecodeColour), b = Chart::colour(kPrefillColour);
  const auto mix = [&](double from, double to) { return static_cast<float>(from + prefill * (to - from)); };
  return QColor::fromRgbF(mix(a.redF(), b.redF()), mix(a.greenF(), b.greenF()), mix(a.blueF(), b.blueF()));
}

void StepLanes::draw_lane(QCPPainter* painter, const std::vector<Bar>& bars, double top, double height) {
  const QRectF area = keyAxis()->axisRect()->rect();
  const QCPRange shown = keyAxis()->range();
  const auto fill = [&](double left, double width, QColor colour) {
    painter->fillRect(QRectF(left, top, width, height), colour);
    ++drawn_;
  };
  // The steps that begin in one column of pixels and are narrower than it.
  double column = 0, covered = 0, prefill = 0;
  const auto flush = [&] {
    if (covered <= 0) return;
    QColor colour = blend(prefill / covered);
    colour.setAlphaF(static_cast<float>(std::clamp(covered, 0.3, 1.0)));  // idle time shows through
    fill(column, 1, colour);
    covered = prefill = 0;
  };
  auto bar =
      std::partition_point(bars.begin(), bars.end(), [&](const Bar& b) { return b.end < shown.lower; });
  for (; bar != bars.end() && bar->start <= shown.upper; ++bar) {
    const double left = keyAxis()->coordToPixel(bar->start), right = keyAxis()->coordToPixel(bar->end);
    if (right - left < 1) {
      if (std::floor(left) != column) flush();
      column = std::floor(left);
      const double width = std::max(right - left, 1e-6);
      covered += width;
      prefill += width * bar->prefill;
      continue;
    }
    flush();
    const double from = std::max(left, area.left() - 2), to = std::min(right, area.right() + 2);
    const double gap = right - left >= 4 ? 1 : 0;  // tells neighbours apart
    fill(from, std::max(to - from - gap, 1.0), blend(bar->prefill));
  }
  flush();
}

void StepLanes::draw(QCPPainter* painter) {
  painter->setAntialiasing(false);
  painter->setPen(Qt::NoPen);
  drawn_ = 0;
  for (std::size_t i = 0; i < lanes_.size(); ++i) {
    const double middle = static_cast<double>(i);
    const double a = valueAxis()->coordToPixel(middle - kHalfLane),
                 b = valueAxis()->coordToPixel(middle + kHalfLane);
    draw_lane(painter, lanes_[i], std::min(a, b), std::max(std::abs(b - a), 1.0));
  }
  painter->setBrush(Qt::NoBrush);
  painter->setPen(QPen(parentPlot()->palette().color(QPalette::Text), 2));
  for (const Frame& frame : frames_) {
    if (frame.end < keyAxis()->range().lower || frame.start > keyAxis()->range().upper) continue;
    const QRectF area = keyAxis()->axisRect()->rect();
    const double left = std::max(keyAxis()->coordToPixel(frame.start), area.left() - 9),
                 right = std::min(keyAxis()->coordToPixel(frame.end), area.right() + 9);
    const double a = valueAxis()->coordToPixel(frame.lane - kHalfLane - 0.04),
                 b = valueAxis()->coordToPixel(frame.lane + kHalfLane + 0.04);
    painter->drawRect(
        QRectF(QPointF(left, std::min(a, b)), QPointF(std::max(right, left + 2), std::max(a, b))));
  }
}

void StepLanes::drawLegendIcon(QCPPainter* painter, const QRectF& rect) const {
  QLinearGradient gradient(rect.topLeft(), rect.topRight());
  gradient.setColorAt(0, blend(0));
  gradient.setColorAt(1, blend(1));
  painter->fillRect(rect.adjusted(0, 3, 0, -3), gradient);
}

}  // namespace foretoken::gui
