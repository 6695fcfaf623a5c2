#include "gui/chart.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace foretoken::gui {
namespace {

constexpr const char* kSeries = "series";  // name of what has none in the legend, for CSV

// Okabe and Ito 2008: told apart with every kind of colour vision.
constexpr QRgb kColours[] = {0x0072b2, 0xd55e00, 0x009e73, 0xcc79a7, 0xe69f00, 0x56b4e9, 0x7f7f7f, 0x9467bd};

constexpr int kTicks = 6, kLeastLegendHeight = 110, kLegendMargin = 20, kAxisHeight = 50, kTickHeight = 26,
              kAxisWidth = 70, kTickWidth = 70, kTickGap = 10, kTopMargin = 8, kBelowLetters = 5,
              kLeastRoom = 30;  // pixels

// Powers of ten; where there are few of them 1, 2 and 5 of each (1 and 3 where those would touch), so that
// both ends of a curve can be read off.
class LogTicker : public QCPAxisTickerLog {
 public:
  explicit LogTicker(const QCPAxis* axis) : axis_(axis) {}

 protected:
  QVector<double> createTickVector(double step, const QCPRange& range) override {
    between_ = false;
    if (range.lower <= 0 || range.upper / range.lower >= kFewDecades)
      return QCPAxisTickerLog::createTickVector(step, range);
    const double decade = length() / std::log10(range.upper / range.lower);  // pixels
    std::vector<int> of_each{1};
    for (const std::vector<int>& more : {std::vector<int>{1, 3}, {1, 2, 5}})
      if (decade * std::log10(more[1]) >= room_of(range.upper)) of_each = more;
    between_ = of_each.size() > 1;
    QVector<double> ticks;
    for (double power = std::pow(10, std::floor(std::log10(range.lower))); power <= range.upper; power *= 10)
      for (const int m : of_each) ticks.push_back(m * power);
    return ticks;
  }
  int getSubTickCount(double step) override { return between_ ? 0 : QCPAxisTickerLog::getSubTickCount(step); }

 private:
  static constexpr double kFewDecades = 300;
  bool horizontal() const { return axis_->orientation() == Qt::Horizontal; }
  // Of the axis, as the widget is now; its own rectangle is that of the picture before.
  double length() const {
    const QWidget& plot = *axis_->parentPlot();
    return horizontal() ? plot.width() - kAxisWidth : plot.height() - 1.5 * kAxisHeight;
  }
  double room_of(double largest) const {
    const QFontMetricsF metrics(axis_->tickLabelFont());
    if (!horizontal()) return metrics.height();
    return metrics.horizontalAdvance(axis_->parentPlot()->locale().toString(largest, 'f', 0)) + kTickGap;
  }
  const QCPAxis* axis_;
  bool between_ = false;  // the powers
};

}  // namespace

Chart::Chart(QWidget* parent) : QCustomPlot(parent) {
  setInteractions(QCP::iRangeDrag | QCP::iRangeZoom | QCP::iSelectPlottables);
  setMinimumSize(200, 140);
  setSizePolicy(QSizePolicy::Expanding, QSizePolicy::Expanding);
  setFocusPolicy(Qt::StrongFocus);
  QLocale numbers(QLocale::English, QLocale::UnitedStates);
  numbers.setNumberOptions(QLocale::DefaultNumberOptions);  // thousands apart
  setLocale(numbers);
  // The legend gets a row of its own below the axes.
  legend_row_ = new QCPLayoutGrid;
  plotLayout()->addElement(1, 0, legend_row_);
  legend_row_->addElement(0, 0, legend);
  legend->setFillOrder(QCPLegend::foColumnsFirst);
  legend->setBorderPen(Qt::NoPen);
  axisRect()->setMinimumMargins(QMargins(15, kTopMargin, 15, 15));
  axisRect()->setMinimumSize(50, kLeastRoom);  // what is lower than it would take from the legend's letters
  plotLayout()->setRowStretchFactor(1, 0.001);
  use_palette();
}

QColor Chart::colour(int i) { return QColor(kColours[i % static_cast<int>(std::size(kColours))]); }
QColor Chart::faint(int i) const {
  QColor c = colour(i);
  c.setAlpha(60);
  return c;
}
QColor Chart::wrong_colour(const QPalette& palette) {
  return palette.color(QPalette::Base).lightness() < 128 ? QColor(0xff, 0x6b, 0x6b)
                                                         : QColor(0xc6, 0x28, 0x28);
}
QColor Chart::ink(int i) const {
  const QColor a = colour(i), b = text_colour();
  return QColor((a.red() + b.red()) / 2, (a.green() + b.green()) / 2, (a.blue() + b.blue()) / 2);
}
QColor Chart::text_colour() const { return palette().color(QPalette::Text); }

void Chart::start(const QString& x, const QString& y) {
  clearPlottables();
  clearItems();
  for (QCPAxis* axis : {xAxis, yAxis}) {
    axis->setScaleType(QCPAxis::stLinear);
    axis->setTicker(QSharedPointer<QCPAxisTicker>(new QCPAxisTicker));
    axis->setNumberFormat(QStringLiteral("gb"));
    axis->setNumberPrecision(7);
    axis->setRangeReversed(false);
    axis->setTickLabelRotation(0);
    axis->setTickLabels(true);
  }
  xAxis->setLabel(x);
  yAxis->setLabel(y);
}

void Chart::logarithmic(QCPAxis* axis) {
  axis->setScaleType(QCPAxis::stLogarithmic);
  axis->setTicker(QSharedPointer<QCPAxisTicker>(new LogTicker(axis)));
  axis->setNumberFormat(QStringLiteral("g"));
  axis->setNumberPrecision(6);
}

void Chart::finish(bool with_legend) {
  legend_shown_ = with_legend;
  axisRect()->setVisible(plottableCount() > 0);  // axes of nothing would be read as something
  use_palette();
  fit_legend();
  replot(QCustomPlot::rpQueuedReplot);
}

void Chart::fit_legend() {
  xAxis->ticker()->setTickCount(std::clamp((width() - kAxisWidth) / kTickWidth, 2, 5));
  yAxis->ticker()->setTickCount(std::clamp((height() - kAxisHeight) / kTickHeight, 2, 5));
  const bool shown = legend_shown_ && height() >= kLeastLegendHeight;
  legend->setVisible(shown);
  legend_row_->setMinimumSize(0, 0);
  if (!shown && legend->layout() != nullptr) legend_row_->take(legend);
  if (shown && legend->layout() == nullptr) legend_row_->addElement(0, 0, legend);
  if (!shown) return;
  const int items = legend->itemCount();
  const auto width_of = [&](int columns) {
    std::vector<int> widths(static_cast<std::size_t>(columns));
    for (int i = 0; i < items; ++i)
      if (const auto* const item = legend->item(i)) {
        int& column = widths[static_cast<std::size_t>(i % columns)];
        column = std::max(column, item->minimumOuterSizeHint().width() + legend->columnSpacing());
      }
    return std::accumulate(widths.begin(), widths.end(), kLegendMargin);
  };
  // As few rows as can be, and those as even as can be.
  int columns = std::max(1, items);
  for (int rows = 1; rows < items && width_of(columns) > width(); ++rows)
    columns = (items + rows) / (rows + 1);
  legend->setWrap(columns);
  legend->setFillOrder(QCPLegend::foColumnsFirst, true);
}

void Chart::resizeEvent(QResizeEvent* event) {
  fit_legend();
  QCustomPlot::resizeEvent(event);
}

QCPGraph* Chart::line(const QString& name, int c, const QVector<double>& x, const QVector<double>& y,
                      Qt::PenStyle style, bool points) {
  QCPGraph* const g = addGraph();
  g->setName(name);
  g->setData(x, y);
  g->setPen(QPen(colour(c), 2, style));
  if (points) g->setScatterStyle(QCPScatterStyle(QCPScatterStyle::ssDisc, 5));
  if (name.isEmpty()) g->removeFromLegend();
  return g;
}

void Chart::band(const QString& name, int c, const QVector<double>& x, const QVector<double>& low,
                 const QVector<double>& high) {
  QCPGraph* const bottom = line({}, c, x, low, Qt::NoPen, false);
  QCPGraph* const top = line({}, c, x, high, Qt::NoPen, false);
  bottom->setProperty(kSeries, name + tr(", from"));
  top->setProperty(kSeries, name + tr(", to"));
  top->setBrush(faint(c));
  top->setChannelFillGraph(bottom);
}

QCPGraph* Chart::dots(const QString& name, int c, const QVector<double>& x, const QVector<double>& y,
                      double size) {
  QCPGraph* const g = line(name, c, x, y, Qt::SolidLine, false);
  g->setLineStyle(QCPGraph::lsNone);
  g->setScatterStyle(QCPScatterStyle(QCPScatterStyle::ssDisc, size));
  return g;
}

QCPItemText* Chart::word(const QString& text, const QColor& ink) {
  auto* const t = new QCPItemText(this);
  t->setText(text);
  t->setColor(ink);
  t->setFont(font());
  // Lines and dots don't strike it through.
  t->setLayer(QStringLiteral("axes"));
  QColor ground = palette().color(QPalette::Base);
  ground.setAlpha(225);
  t->setBrush(ground);
  return t;
}

void Chart::mark_y(double y, const QString& text, int c, Qt::Alignment where) {
  auto* const l = new QCPItemLine(this);
  for (QCPItemPosition* p : {l->start, l->end}) p->setTypeX(QCPItemPosition::ptAxisRectRatio);
  l->start->setCoords(0, y), l->end->setCoords(1, y);
  l->setPen(QPen(colour(c), 1.5, Qt::DashLine));
  QCPItemText* const t = word(text, ink(c));
  const bool at_left = where.testFlag(Qt::AlignLeft), below = where.testFlag(Qt::AlignBottom);
  t->position->setTypeX(QCPItemPosition::ptAxisRectRatio);
  t->position->setCoords(at_left ? 0.005 : 0.995, y);
  t->setPositionAlignment((at_left ? Qt::AlignLeft : Qt::AlignRight) |
                          (below ? Qt::AlignTop : Qt::AlignBottom));
  t->setPadding(QMargins(at_left ? 6 : 2, below ? 3 : 0, 2, below ? 0 : 3));
}

void Chart::mark_x(double x, const QString& text, int c, Qt::Alignment where) {
  auto* const l = new QCPItemLine(this);
  // First the types: a change of them keeps the place, not the numbers.
  for (QCPItemPosition* p : {l->start, l->end}) p->setTypeY(QCPItemPosition::ptAxisRectRatio);
  l->start->setCoords(x, 0), l->end->setCoords(x, 1);
  l->setPen(QPen(colour(c), 1.5, Qt::DashLine));
  QCPItemText* const t = word(text, ink(c));
  t->position->setTypeY(QCPItemPosition::ptAxisRectRatio);
  const bool below = where.testFlag(Qt::AlignBottom), before = where.testFlag(Qt::AlignLeft);
  t->position->setCoords(x, below ? 0.99 : 0.01);
  // Which side of the word lies at the line.
  t->setPositionAlignment((before ? Qt::AlignRight : Qt::AlignLeft) |
                          (below ? Qt::AlignBottom : Qt::AlignTop));
  t->setPadding(QMargins(4, 0, 4, below ? kTicks : 0));
}

int Chart::height_of_rows(int rows) const { return kTopMargin + rows * fontMetrics().height() + kAxisHeight; }

void Chart::name_point(double x, double y, const QString& text, int aside) {
  QCPItemText* const t = word(text, text_colour());
  t->position->setCoords(x, y);
  t->setPositionAlignment(Qt::AlignLeft | Qt::AlignTop);
  t->setPadding(QMargins(aside, 1, 0, 0));
  t->setBrush(Qt::NoBrush);
}

void Chart::use_palette() {
  const QColor ground = palette().color(QPalette::Base), ink = text_colour();
  QColor grid = ink;
  grid.setAlpha(45);
  setBackground(ground);
  for (QCPAxisRect* rect : axisRects())
    for (QCPAxis* axis : rect->axes()) {
      axis->setBasePen(QPen(ink));
      axis->setTickPen(QPen(ink));
      axis->setSubTickPen(QPen(ink));
      axis->setTickLabelColor(ink);
      axis->setLabelColor(ink);
      axis->setTickLabelFont(font());
      axis->setLabelFont(font());
      axis->grid()->setPen(QPen(grid, 1));
      axis->grid()->setZeroLinePen(QPen(grid, 1));
    }
  legend->setBrush(Qt::NoBrush);
  legend->setTextColor(ink);
  legend->setFont(font());
  // Letters reach below the line.
  legend->setIconSize(legend->iconSize().width(), fontMetrics().height() + kBelowLetters);
}

// Who comes with the keyboard sees where it is.
void Chart::paintEvent(QPaintEvent* event) {
  QCustomPlot::paintEvent(event);
  if (!hasFocus()) return;
  QPainter painter(this);
  painter.setPen(palette().color(QPalette::Highlight));
  painter.drawRect(rect().adjusted(0, 0, -1, -1));
}

void Chart::changeEvent(QEvent* event) {
  QCustomPlot::changeEvent(event);
  if (event->type() == QEvent::PaletteChange || event->type() == QEvent::FontChange) {
    use_palette();
    replot(QCustomPlot::rpQueuedReplot);
  }
}

QString Chart::csv() const {
  if (csv_) return csv_();
  const auto quoted = [](QString s) {
    return u'"' + s.replace(u'"', QStringLiteral("\"\"")).replace(u'\n', u' ') + u'"';
  };
  const auto number = [](double v) { return QString::number(v, 'g', 12); };
  QString text;
  for (int i = 0; i < plottableCount(); ++i) {
    auto* const p = const_cast<Chart*>(this)->plottable(i);
    const QString name = p->name().isEmpty() ? p->property(kSeries).toString() : p->name();
    if (name.isEmpty()) continue;
    // What stands at a tick in words has no number of its own.
    const auto words = p->keyAxis()->ticker().dynamicCast<QCPAxisTickerText>();
    if (text.isEmpty())
      text = QStringLiteral("series,%1,%2\n")
                 .arg(quoted(words ? tr("of") : p->keyAxis()->label()), quoted(p->valueAxis()->label()));
    const auto row = [&](double key, double value) {
      text += quoted(name) + u',' + (words ? quoted(words->ticks().value(key)) : number(key)) + u',' +
              number(value) + u'\n';
    };
    if (auto* const g = qobject_cast<QCPGraph*>(p)) {
      for (const QCPGraphData& d : *g->data()) row(d.key, d.value);
    } else if (auto* const c = qobject_cast<QCPCurve*>(p)) {
      for (const QCPCurveData& d : *c->data()) row(d.key, d.value);
    } else if (auto* const b = qobject_cast<QCPBars*>(p)) {
      for (const QCPBarsData& d : *b->data()) row(d.key, d.value);
    }
  }
  return text;
}

}  // namespace foretoken::gui
