// The operators of a step on the device's roofline.
#include <QComboBox>
#include <QHBoxLayout>
#include <QLabel>
#include <QVBoxLayout>

#include "gui/view.h"

namespace foretoken::gui {
namespace {

constexpr const char* kBounds[] = {"memory", "compute", "latency", "link"};

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
    show_roof();
  }
  std::vector<Chart*> charts() const override { return {chart_}; }

 private:
  void show_roof() {
    chart_->start(tr("arithmetic intensity, FLOP/byte"), tr("rate, TFLOP/s"));
    const auto e = session_.estimated();
    if (!e || !e->estimate) {
      note_->setText(!e ? tr("The scenario has an error.") : QString::fromStdString(e->verdict));
      chart_->finish(false);
      return;
    }
    const QString wanted =
        which_->currentText().isEmpty() ? QStringLiteral("decode_expected") : which_->currentText();
    which_->clear();
    for (const StepEstimate& s : e->estimate->steps) which_->addItem(QString::fromStdString(s.name));
    which_->setCurrentIndex(std::max(0, which_->findText(wanted)));
    const StepEstimate& s = e->estimate->steps[static_cast<std::size_t>(which_->currentIndex())];
    const Device& device = e->deployment()->device;
    note_->setText(QString::fromStdString(device.name) +
                   tr(": operators with arithmetic, by what bounds them"));
    QVector<double> x[std::size(kBounds)], y[std::size(kBounds)];
    double low_x = 0.1, high_x = 1000, low_y = 0.01;
    for (const OperatorCost& o : s.operators) {
      if (o.flops <= 0 || o.bytes <= 0 || o.seconds <= 0) continue;
      const double intensity = o.flops / o.bytes, rate = o.flops / o.seconds / 1e12;
      std::size_t bound = 0;
      while (bound + 1 < std::size(kBounds) && o.bound_by != kBounds[bound]) ++bound;
      x[bound] << intensity;
      y[bound] << rate;
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
      chart_->line(tr("%1 %2 TFLOP/s").arg(name).arg(peak, 0, 'f', 0), colour++, {low_x, ridge, high_x},
                   {low_x * bandwidth, peak, peak}, Qt::SolidLine, false);
      top = std::max(top, peak);
    };
    roof(tr("16 bits"), device.fp16_peak.value / 1e12);
    if (device.fp8_peak.value > device.fp16_peak.value) roof(tr("fp8"), device.fp8_peak.value / 1e12);
    for (std::size_t b = 0; b < std::size(kBounds); ++b)
      if (!x[b].isEmpty()) chart_->dots(tr(kBounds[b]), static_cast<int>(b), x[b], y[b], 8);
    chart_->logarithmic(chart_->xAxis);
    chart_->logarithmic(chart_->yAxis);
    chart_->xAxis->setRange(low_x, high_x);
    chart_->yAxis->setRange(low_y, std::max(top, 1.0) * 2);
    chart_->finish(true);
  }

  QComboBox* which_;
  QLabel* note_;
  Chart* chart_;
};

}  // namespace

View* make_roofline_view(Session& session) { return new RooflineView(session); }

}  // namespace foretoken::gui
