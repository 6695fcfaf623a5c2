// The operators of a step on the device's roofline.
#include <QComboBox>
#include <QHBoxLayout>
#include <QLabel>
#include <QToolTip>
#include <QVBoxLayout>
#include <algorithm>
#include <cmath>
#include <utility>

#include "gui/view.h"

namespace foretoken::gui {
namespace {

constexpr const char* kBounds[] = {"memory", "compute", "latency", "link"};
constexpr double kNamed = 0.02;         // share of the step from which a dot is named
constexpr int kAside = 5, kReach = 10;  // pixels

class RooflineView : public View {
 public:
  explicit RooflineView(Session& session)
      : View(session, tr("Roofline")),
        which_(new QComboBox(this)),
        note_(note_label(this)),
        chart_(new Chart(this)) {
    auto* const top = new QHBoxLayout;
    which_->setAccessibleName(tr("Step"));
    chart_->setAccessibleName(tr("roofline"));
    top->addWidget(which_);
    top->addWidget(note_, 1);
    auto* const box = new QVBoxLayout(this);
    box->addLayout(top);
    box->addWidget(chart_, 1);
    connect(&session, &Session::estimated_anew, this, &RooflineView::show_roof);
    connect(which_, &QComboBox::activated, this, &RooflineView::show_roof);
    connect(chart_, &QCustomPlot::mouseMove, this, &RooflineView::tell);
    connect(chart_, &QCustomPlot::afterLayout, this, [this] {
      if (std::exchange(named_for_, chart_->axisRect()->size()) != chart_->axisRect()->size()) name_dots();
    });
    show_roof();
  }
  std::vector<Chart*> charts() const override { return {chart_}; }

 private:
  void show_roof() {
    chart_->start(tr("arithmetic intensity, FLOP/byte"), tr("rate, TFLOP/s"));
    dots_.clear();
    const auto e = session_.estimated();
    const std::vector<Estimated::Step> steps = e ? e->steps() : std::vector<Estimated::Step>();
    which_->setVisible(!steps.empty());
    if (steps.empty()) {
      note_->setText(why_no_steps(e.get()));
      chart_->finish(false);
      return;
    }
    const Estimated::Step& chosen = steps[choose_step(*which_, steps)];
    const StepEstimate& s = *chosen.step;
    const Device& device = chosen.of->device;
    note_->setText(tr("%1: operators with arithmetic; those that take longest have names")
                       .arg(QString::fromStdString(device.name)));
    QVector<double> x[std::size(kBounds)], y[std::size(kBounds)];
    double low_x = 0.1, high_x = 1000, low_y = 0.01;
    for (const OperatorCost& o : s.operators) {
      if (o.flops <= 0 || o.bytes <= 0 || o.seconds <= 0) continue;
      const double intensity = o.flops / o.bytes, rate = o.flops / o.seconds / 1e12;
      std::size_t bound = 0;
      while (bound + 1 < std::size(kBounds) && o.bound_by != kBounds[bound]) ++bound;
      x[bound] << intensity;
      y[bound] << rate;
      dots_.push_back(
          {intensity, rate, s.seconds > 0 ? o.seconds / s.seconds : 0, QString::fromStdString(o.name)});
      low_x = std::min(low_x, intensity / 2), high_x = std::max(high_x, intensity * 2);
      low_y = std::min(low_y, rate / 2);
    }
    const double bandwidth = device.memory_bandwidth.value / 1e12;
    double top = 0;
    int colour = 4;
    // Both roofs end where the picture does.
    high_x = std::max(high_x, 2e-12 * std::max(device.fp16_peak.value, device.fp8_peak.value) / bandwidth);
    const auto roof = [&](const QString& name, double peak) {
      if (peak <= 0) return;
      const double ridge = peak / bandwidth;
      chart_->line(tr("%1: %2 TFLOP/s").arg(name, figures(peak, 4)), colour++, {low_x, ridge, high_x},
                   {low_x * bandwidth, peak, peak}, Qt::SolidLine, false);
      top = std::max(top, peak);
    };
    roof(tr("16 bits"), device.fp16_peak.value / 1e12);
    if (device.fp8_peak.value > device.fp16_peak.value) roof(tr("fp8"), device.fp8_peak.value / 1e12);
    for (std::size_t b = 0; b < std::size(kBounds); ++b)
      if (!x[b].isEmpty())
        chart_->dots(tr("bound by %1").arg(QLatin1String(kBounds[b])), static_cast<int>(b), x[b], y[b], 8);
    chart_->logarithmic(chart_->xAxis);
    chart_->logarithmic(chart_->yAxis);
    chart_->xAxis->setRange(low_x, high_x);
    chart_->yAxis->setRange(low_y, std::max(top, 1.0) * 2);
    std::stable_sort(dots_.begin(), dots_.end(),
                     [](const Dot& a, const Dot& b) { return a.share > b.share; });
    name_dots();
    chart_->finish(true);
  }

  // Of those that take most of the time, as far as names find room beside one another.
  void name_dots() {
    chart_->clearItems();
    const QSize room = chart_->axisRect()->size();
    std::vector<QRect> taken;
    for (const Dot& dot : dots_) {
      if (dot.share < kNamed) break;
      const auto place = [](const QCPAxis& axis, double value, int length) {
        const double share =
            std::log(value / axis.range().lower) / std::log(axis.range().upper / axis.range().lower);
        return static_cast<int>(share * length);
      };
      const QPoint at(place(*chart_->xAxis, dot.intensity, room.width()),
                      room.height() - place(*chart_->yAxis, dot.rate, room.height()));
      const QRect name(at + QPoint(kAside, 0),
                       QSize(fontMetrics().horizontalAdvance(dot.name) + 4, fontMetrics().height()));
      if (name.right() > room.width() || name.bottom() > room.height() ||
          std::any_of(taken.begin(), taken.end(), [&](const QRect& r) { return r.intersects(name); }))
        continue;
      taken.push_back(name);
      chart_->name_point(dot.intensity, dot.rate, dot.name, kAside);
    }
  }

  void tell(const QMouseEvent* e) {
    const Dot* best = nullptr;
    double least = kReach;
    for (const Dot& dot : dots_) {
      const double d = std::hypot(chart_->xAxis->coordToPixel(dot.intensity) - e->position().x(),
                                  chart_->yAxis->coordToPixel(dot.rate) - e->position().y());
      if (d < least) best = &dot, least = d;
    }
    if (best == nullptr) return QToolTip::hideText();
    QToolTip::showText(e->globalPosition().toPoint(),
                       tr("%1: %2 FLOP/byte, %3 TFLOP/s, %4 % of the step")
                           .arg(best->name, figures(best->intensity, 3), figures(best->rate, 3),
                                figures(100 * best->share, 3)),
                       chart_);
  }

  struct Dot {
    double intensity, rate, share;  // FLOP/byte, TFLOP/s, of the step's time
    QString name;
  };
  std::vector<Dot> dots_;  // the longest first
  QSize named_for_;
  QComboBox* which_;
  QLabel* note_;
  Chart* chart_;
};

}  // namespace

View* make_roofline_view(Session& session) { return new RooflineView(session); }

}  // namespace foretoken::gui
