// What the simulation did when: steps of engines, KV cache and queue over time, and the requests of the time
// that is shown.
#include <QApplication>
#include <QComboBox>
#include <QHBoxLayout>
#include <QHeaderView>
#include <QKeyEvent>
#include <QLabel>
#include <QPointer>
#include <QSplitter>
#include <QToolButton>
#include <QToolTip>
#include <QVBoxLayout>
#include <algorithm>
#include <cmath>
#include <limits>
#include <map>

#include "gui/view.h"
#include "gui/views/timeline_lanes.h"
#include "gui/views/timeline_waterfall.h"

namespace foretoken::gui {
namespace {

constexpr double kLeastRange = 1e-6;  // s
constexpr int kTablePauseMs = 120;
constexpr int kKvColour = 2, kRunningColour = 5, kWaitingColour = 3;

// Where a request was computed; a lane of its own for each engine that had it.
struct Stay {
  std::size_t request = 0;  // of the recording
  StepLanes::Frame frame;
};

std::vector<std::vector<Stay>> stays_of(const Recording& recording, std::size_t lanes) {
  std::vector<std::vector<Stay>> stays(lanes);
  const auto add = [&](std::size_t request, std::int32_t lane, Picoseconds start, Picoseconds end) {
    if (lane >= 0 && static_cast<std::size_t>(lane) < lanes)
      stays[static_cast<std::size_t>(lane)].push_back({request, {lane, to_s(start), to_s(end)}});
  };
  std::map<RequestId, std::int32_t> prefilled;  // on another engine than that where it ended
  for (const TimelineWriter::TransferEvent& t : recording.transfers) prefilled[t.request] = t.from;
  for (std::size_t i = 0; i < recording.requests.size(); ++i) {
    const RequestRecord& r = recording.requests[i];
    const auto from = prefilled.find(r.id);
    if (r.moved > 0 && from != prefilled.end()) {
      add(i, from->second, r.scheduled, r.handed_over);
      add(i, r.engine, r.moved, r.finish);
    } else {
      add(i, r.engine, r.scheduled, r.finish);
    }
  }
  for (auto& lane : stays)
    std::sort(lane.begin(), lane.end(), [&](const Stay& a, const Stay& b) {
      const auto key = [&](const Stay& s) {
        return std::pair(s.frame.start, recording.requests[s.request].id);
      };
      return key(a) < key(b);
    });
  return stays;
}

class TimelineView : public View {
 public:
  explicit TimelineView(Session& session);
  std::vector<Chart*> charts() const override { return {chart_, waterfall_->chart()}; }
  std::vector<TableView*> tables() const override { return {table_}; }

 protected:
  bool eventFilter(QObject* watched, QEvent* event) override;

 private:
  QToolButton* button(const QString& text, const QString& what, QHBoxLayout* into,
                      const std::function<void()>& action);
  void make_chart();
  void refresh();
  QString reason() const;
  void show_simulation();
  void show_usage();
  void add_line(QCPAxis* value, const QString& name, int colour, Qt::PenStyle style, const QVector<double>& x,
                const QVector<double>& y);
  void set_time(const QCPRange& wanted);
  void scroll(double share);
  void zoom(double factor, double centre);
  void show_table();
  void show_note();
  void choose(std::size_t request);  // of the recording
  void mark_row();
  void mark_chosen();
  void point_at(const QPoint& position);
  void click(const QPointF& position);

  const Recording& recording() const { return shown_->recording; }

  std::shared_ptr<const Simulated> shown_;
  QString failure_;
  std::vector<QString> names_;
  std::vector<std::vector<Stay>> stays_;  // by lane, by start
  std::vector<std::size_t> rows_;         // of the table: requests of the recording
  std::optional<RequestId> chosen_;
  QCPRange whole_;  // s
  bool setting_time_ = false;
  bool marking_row_ = false;
  int lanes_height_ = 0;
  QPoint pressed_;

  QLabel* note_;
  QWidget* tools_;
  QComboBox* usage_of_;
  QSplitter* content_;
  Chart* chart_;
  QCPAxisRect* lanes_;
  QCPAxisRect* usage_;
  QPointer<StepLanes> steps_;
  TableView* table_;
  Waterfall* waterfall_;
  QTimer table_pause_;
};

TimelineView::TimelineView(Session& session)
    : View(session, tr("Timeline")),
      note_(note_label(this)),
      tools_(new QWidget(this)),
      usage_of_(new QComboBox(tools_)),
      content_(new QSplitter(Qt::Vertical, this)),
      chart_(new Chart(this)),
      table_(new TableView(this)),
      waterfall_(new Waterfall(this)) {
  auto* const tools = new QHBoxLayout(tools_);
  tools->setContentsMargins(0, 0, 0, 0);
  usage_of_->setToolTip(tr("Whose KV cache and requests are drawn below the steps"));
  usage_of_->setAccessibleName(usage_of_->toolTip());
  tools->addWidget(usage_of_);
  const auto centre = [this] { return chart_->xAxis->range().center(); };
  button(QStringLiteral("+"), tr("Zoom in (+ in the chart, or the wheel)"), tools,
         [this, centre] { zoom(0.5, centre()); });
  button(QStringLiteral("−"), tr("Zoom out (- in the chart, or the wheel)"), tools,
         [this, centre] { zoom(2, centre()); });
  button(tr("&Whole run"), tr("All of the time (Home in the chart)"), tools, [this] { set_time(whole_); });

  auto* const top = new QHBoxLayout;
  top->addWidget(note_, 1);
  top->addWidget(tools_, 0, Qt::AlignTop);
  auto* const bottom = new QSplitter(Qt::Horizontal, this);
  bottom->addWidget(table_);
  bottom->addWidget(waterfall_);
  bottom->setStretchFactor(0, 3);
  bottom->setStretchFactor(1, 2);
  bottom->setChildrenCollapsible(false);
  bottom->setSizes({550, 450});
  content_->addWidget(chart_);
  content_->addWidget(bottom);
  content_->setStretchFactor(0, 3);
  content_->setStretchFactor(1, 2);
  content_->setChildrenCollapsible(false);
  content_->setSizes({600, 400});
  auto* const all = new QVBoxLayout(this);
  all->addLayout(top);
  all->addWidget(content_, 1);
  all->addStretch(0);

  make_chart();
  table_->setSelectionMode(QAbstractItemView::SingleSelection);
  table_->setAccessibleName(tr("requests of the time that is shown"));
  table_->set_expendable({QStringLiteral("cached_tokens"), QStringLiteral("preemptions"),
                          QStringLiteral("engine"), QStringLiteral("output_len"), QStringLiteral("input_len"),
                          QStringLiteral("arrival_s")});
  table_->setToolTip(
      tr("Prompt, output and cached in tokens. Enter, or a double click, shows the time of one request "
         "alone."));
  table_->horizontalHeader()->setHighlightSections(false);
  table_pause_.setSingleShot(true);
  table_pause_.setInterval(kTablePauseMs);
  connect(&table_pause_, &QTimer::timeout, this, &TimelineView::show_table);
  connect(table_->selectionModel(), &QItemSelectionModel::currentRowChanged, this,
          [this](const QModelIndex& now) {
            if (now.isValid() && !marking_row_)
              choose(rows_[static_cast<std::size_t>(table_->source_row(now))]);
          });
  connect(table_, &QAbstractItemView::activated, this, [this](const QModelIndex& at) {
    const RequestRecord& r = recording().requests[rows_[static_cast<std::size_t>(table_->source_row(at))]];
    const double margin = 0.05 * to_s(r.finish - r.arrival);
    set_time({to_s(r.arrival) - margin, to_s(r.finish) + margin});
  });
  connect(usage_of_, &QComboBox::activated, this, [this] {
    show_usage();
    chart_->finish(true);
  });
  connect(&session_, &Session::simulated_anew, this, &TimelineView::refresh);
  connect(&session_, &Session::estimated_anew, this, &TimelineView::refresh);
  connect(&session_, &Session::failed, this, [this](const QString&, const QString& message) {
    failure_ = message;
    refresh();
  });
  connect(&session_, &Session::worked, this, [this] { failure_.clear(); });
  refresh();
}

QToolButton* TimelineView::button(const QString& text, const QString& what, QHBoxLayout* into,
                                  const std::function<void()>& action) {
  auto* const b = new QToolButton(tools_);
  b->setText(text);
  b->setToolTip(what);
  b->setAccessibleName(what);
  b->setFocusPolicy(Qt::StrongFocus);
  into->addWidget(b);
  connect(b, &QToolButton::clicked, this, action);
  return b;
}

void TimelineView::make_chart() {
  chart_->setAccessibleName(tr("steps of engines over time"));
  chart_->set_csv([this] {
    return shown_ ? QString::fromStdString(to_csv(step_table(recording(), names_))) : QString();
  });
  // Steps above the chart's own axes.
  usage_ = chart_->xAxis->axisRect();
  lanes_ = new QCPAxisRect(chart_);
  chart_->plotLayout()->insertRow(0);
  chart_->plotLayout()->addElement(0, 0, lanes_);
  usage_->axis(QCPAxis::atRight)->setVisible(true);
  usage_->axis(QCPAxis::atRight)->setTickLabels(true);
  for (QCPAxis* axis : lanes_->axes()) {
    axis->setLayer(QStringLiteral("axes"));
    axis->grid()->setLayer(QStringLiteral("grid"));
  }
  usage_->axis(QCPAxis::atRight)->grid()->setVisible(false);
  auto* const margins = new QCPMarginGroup(chart_);
  for (QCPAxisRect* rect : chart_->axisRects()) {
    rect->setMinimumSize(usage_->minimumSize());
    rect->setMinimumMargins(QMargins(0, 6, 0, 4));
    rect->setMarginGroup(QCP::msLeft | QCP::msRight, margins);
    rect->setRangeDrag(Qt::Horizontal);
    rect->setRangeZoom(Qt::Horizontal);
    QCPAxis* const time = rect->axis(QCPAxis::atBottom);
    connect(time, qOverload<const QCPRange&>(&QCPAxis::rangeChanged), this, &TimelineView::set_time);
  }
  chart_->setPlottingHint(QCP::phFastPolylines);
  chart_->setMouseTracking(true);
  chart_->installEventFilter(this);
  connect(chart_, &QCustomPlot::mouseMove, this, [this](const QMouseEvent* e) {
    if (e->buttons() == Qt::NoButton) point_at(e->pos());
  });
  // Not plottableClick: next to an axis a click would be the axis's.
  connect(chart_, &QCustomPlot::mousePress, this, [this](const QMouseEvent* e) { pressed_ = e->pos(); });
  connect(chart_, &QCustomPlot::mouseRelease, this, [this](const QMouseEvent* e) {
    const bool dragged = (e->pos() - pressed_).manhattanLength() > QApplication::startDragDistance() / 2;
    if (e->button() == Qt::LeftButton && steps_ && !dragged) click(e->pos());
  });
  // Which lanes have names depends on the height, which is known after the layout.
  connect(chart_, &QCustomPlot::afterLayout, this, [this] {
    if (std::exchange(lanes_height_, lanes_->height()) != lanes_->height())
      chart_->replot(QCustomPlot::rpQueuedReplot);
    const int rows = std::clamp(usage_->height() / 30, 1, 5);
    for (const auto side : {QCPAxis::atLeft, QCPAxis::atRight})
      usage_->axis(side)->ticker()->setTickCount(rows);
  });
}

bool TimelineView::eventFilter(QObject* watched, QEvent* event) {
  if (watched != chart_ || event->type() != QEvent::KeyPress || !shown_)
    return View::eventFilter(watched, event);
  const QCPRange range = chart_->xAxis->range();
  switch (static_cast<QKeyEvent*>(event)->key()) {
    case Qt::Key_Left:
      scroll(-0.2);
      return true;
    case Qt::Key_Right:
      scroll(0.2);
      return true;
    case Qt::Key_PageUp:
      scroll(-1);
      return true;
    case Qt::Key_PageDown:
      scroll(1);
      return true;
    case Qt::Key_Plus:
    case Qt::Key_Up:
      zoom(0.5, range.center());
      return true;
    case Qt::Key_Minus:
    case Qt::Key_Down:
      zoom(2, range.center());
      return true;
    case Qt::Key_Home:
      set_time(whole_);
      return true;
    default:
      return View::eventFilter(watched, event);
  }
}

QString TimelineView::reason() const {
  const auto estimated = session_.estimated();
  if (!failure_.isEmpty()) return tr("No timeline: %1").arg(failure_);
  if (!estimated) return tr("No timeline: the scenario has an error.");
  if (!estimated->verdict.empty())
    return tr("No timeline: %1").arg(QString::fromStdString(estimated->verdict));
  return tr("The timeline comes as soon as the scenario is simulated.");
}

void TimelineView::refresh() {
  const bool same = shown_ == session_.simulated();
  if (same && shown_) return;
  shown_ = session_.simulated();
  const bool any = shown_ && !recording().steps.empty();
  content_->setVisible(any);
  tools_->setVisible(any);
  if (any) return show_simulation();
  table_pause_.stop();
  rows_.clear();
  stays_.clear();
  chart_->start({}, {});
  waterfall_->show_none();
  table_->show_table({});
  note_->setText(shown_ ? tr("The simulation made no step.") : reason());
  shown_.reset();
}

void TimelineView::show_simulation() {
  std::size_t engines = shown_->simulation.served.engines.size();
  for (const auto& step : recording().steps)
    engines = std::max(engines, static_cast<std::size_t>(step.engine) + 1);
  names_ = engine_names(*shown_->of->deployment(), engines);
  stays_ = stays_of(recording(), names_.size());

  chart_->start(tr("time, s"), tr("KV, %"));
  QCPAxis* const lane_time = lanes_->axis(QCPAxis::atBottom);
  QCPAxis* const lane_names = lanes_->axis(QCPAxis::atLeft);
  lane_time->setTickLabels(false);
  usage_->axis(QCPAxis::atRight)->setLabel(tr("requests"));
  const auto ticker = QSharedPointer<TimeTicker>::create();
  for (QCPAxisRect* rect : chart_->axisRects()) rect->axis(QCPAxis::atBottom)->setTicker(ticker);
  const auto lanes = static_cast<double>(names_.size());
  lane_names->setTicker(QSharedPointer<LaneTicker>::create(lane_names, names_));
  lane_names->setRange(-0.5, lanes - 0.5);
  lane_names->setRangeReversed(true);
  lane_names->grid()->setVisible(false);
  usage_->axis(QCPAxis::atLeft)->setRange(0, 100);
  // A single lane needs less room than many.
  chart_->plotLayout()->setRowStretchFactor(0, std::clamp(0.3 + 0.15 * lanes, 0.5, 1.6));

  steps_ = new StepLanes(lane_time, lane_names);
  steps_->setName(tr("steps, decode to prefill"));
  steps_->setSelectable(QCP::stNone);
  steps_->set(recording(), names_.size());
  steps_->addToLegend();

  // The engines that there were already keep being shown.
  const int usage_of = std::max(usage_of_->currentIndex(), 0);
  usage_of_->clear();
  usage_of_->addItem(tr("all engines"));
  for (const QString& name : names_) usage_of_->addItem(name);
  usage_of_->setCurrentIndex(usage_of < usage_of_->count() ? usage_of : 0);
  usage_of_->setVisible(names_.size() > 1);
  show_usage();

  bool found = false;
  whole_ = steps_->getKeyRange(found, QCP::sdBoth);
  for (const RequestRecord& r : recording().requests) whole_.expand({to_s(r.arrival), to_s(r.finish)});
  set_time(whole_);
  show_table();
  mark_chosen();
  chart_->finish(true);
}

void TimelineView::add_line(QCPAxis* value, const QString& name, int colour, Qt::PenStyle style,
                            const QVector<double>& x, const QVector<double>& y) {
  QCPGraph* const g = chart_->addGraph(usage_->axis(QCPAxis::atBottom), value);
  g->setName(name);
  g->setData(x, y, true);
  g->setPen(QPen(Chart::colour(colour), 1, style));
  g->setLineStyle(QCPGraph::lsStepLeft);  // what is known is what was so when a step began
  g->setSelectable(QCP::stNone);
  g->setAntialiased(false);  // level lines need none, and it takes a hundred times as long
}

void TimelineView::show_usage() {
  while (chart_->graphCount() > 0) chart_->removeGraph(chart_->graphCount() - 1);
  QVector<double> x, kv, most, running, waiting;
  const bool all = names_.size() > 1 && usage_of_->currentIndex() <= 0;
  if (all) {
    for (const OverTime::Sample& s : shown_->simulation.served.over_time.samples) {
      x.push_back(to_s(s.time));
      kv.push_back(100 * s.mean_kv_usage);
      most.push_back(100 * s.most_kv_usage);
      running.push_back(static_cast<double>(s.running));
      waiting.push_back(static_cast<double>(s.waiting));
    }
  } else {
    const auto lane = static_cast<std::size_t>(names_.size() > 1 ? usage_of_->currentIndex() - 1 : 0);
    const auto& bars = steps_->lanes()[lane];
    const auto add = [&](double at, double usage, double runs, double waits) {
      x.push_back(at);
      kv.push_back(usage);
      running.push_back(runs);
      waiting.push_back(waits);
    };
    // While an engine is idle nothing is recorded; shorter breaks than one can see stay closed.
    const double least_break = bars.empty() ? 0 : (bars.back().end - bars.front().start) / 1000;
    for (std::size_t i = 0; i < bars.size(); ++i) {
      const TimelineWriter::StepEvent& e = recording().steps[bars[i].step];
      add(bars[i].start, 100 * e.kv_usage, e.running, e.waiting);
      if (i + 1 < bars.size() && bars[i + 1].start - bars[i].end <= least_break) continue;
      add(bars[i].end, 100 * e.kv_usage, e.running, e.waiting);
      constexpr double kNone = std::numeric_limits<double>::quiet_NaN();
      if (i + 1 < bars.size()) add(bars[i].end, kNone, kNone, kNone);
    }
  }
  QCPAxis* const left = usage_->axis(QCPAxis::atLeft);
  QCPAxis* const right = usage_->axis(QCPAxis::atRight);
  // The lowest lies on top.
  add_line(right, tr("waiting"), kWaitingColour, Qt::SolidLine, x, waiting);
  add_line(right, tr("running"), kRunningColour, Qt::SolidLine, x, running);
  add_line(left, all ? tr("KV cache, mean") : tr("KV cache"), kKvColour, Qt::SolidLine, x, kv);
  if (all) add_line(left, tr("KV cache, fullest"), kKvColour, Qt::DotLine, x, most);
  double highest = 1;
  for (qsizetype i = 0; i < x.size(); ++i)
    if (!std::isnan(running[i])) highest = std::max({highest, running[i], waiting[i]});
  right->setRange(0, 1.05 * highest);
}

void TimelineView::set_time(const QCPRange& wanted) {
  if (setting_time_) return;
  setting_time_ = true;
  const double size = std::clamp(wanted.size(), std::min(kLeastRange, whole_.size()), whole_.size());
  // Zoomed to a limit one stays where one was.
  double from = std::abs(size - wanted.size()) > 0 ? wanted.center() - size / 2 : wanted.lower;
  from = std::clamp(from, whole_.lower, std::max(whole_.lower, whole_.upper - size));
  for (QCPAxisRect* rect : chart_->axisRects()) rect->axis(QCPAxis::atBottom)->setRange(from, from + size);
  setting_time_ = false;
  table_pause_.start();
  show_note();
  chart_->replot(QCustomPlot::rpQueuedReplot);
}

void TimelineView::scroll(double share) {
  const QCPRange range = chart_->xAxis->range();
  set_time(range + share * range.size());
}

void TimelineView::zoom(double factor, double centre) {
  const QCPRange range = chart_->xAxis->range();
  set_time({centre + factor * (range.lower - centre), centre + factor * (range.upper - centre)});
}

void TimelineView::show_note() {
  const QCPRange range = chart_->xAxis->range();
  const auto count = [](std::size_t n) { return cell_text(Cell(static_cast<std::int64_t>(n)), 4); };
  std::int64_t steps = 0;
  for (const auto& step : recording().steps) steps += step.steps;
  QString text = tr("%1 requests and %2 steps in %3 s")
                     .arg(count(recording().requests.size()), count(static_cast<std::size_t>(steps)),
                          cell_text(whole_.size(), 4));
  if (range.size() < whole_.size() * (1 - 1e-9))
    text += tr("; shown: %1 s from %2 s on, with %3 requests")
                .arg(cell_text(range.size(), 4), cell_text(range.lower, 6), count(rows_.size()));
  if (shown_->simulation.served.aborted)
    text += tr("\nGiven up: %1").arg(QString::fromStdString(shown_->simulation.served.abort_reason));
  note_->setText(text);
}

void TimelineView::show_table() {
  table_pause_.stop();
  const QCPRange range = chart_->xAxis->range();
  Table t;
  t.title = "Requests";
  t.columns = {{"id", "id"},
               {"engine", "engine"},
               {"arrival_s", "arrival, s", 5},
               {"input_len", "prompt"},
               {"output_len", "output"},
               {"cached_tokens", "cached"},
               {"ttft_ms", "TTFT, ms"},
               {"tpot_ms", "TPOT, ms"},
               {"e2el_ms", "E2EL, ms"},
               {"preemptions", "preemptions"}};
  rows_.clear();
  for (std::size_t i = 0; i < recording().requests.size(); ++i) {
    const RequestRecord& r = recording().requests[i];
    if (to_s(r.finish) < range.lower || to_s(r.arrival) > range.upper) continue;
    rows_.push_back(i);
  }
  // The recording has them as they ended.
  std::sort(rows_.begin(), rows_.end(), [&](std::size_t a, std::size_t b) {
    return recording().requests[a].id < recording().requests[b].id;
  });
  for (const std::size_t i : rows_) {
    const RequestRecord& r = recording().requests[i];
    t.add({std::int64_t{r.id}, std::int64_t{r.engine}, to_s(r.arrival), std::int64_t{r.input_len},
           std::int64_t{r.output_len}, std::int64_t{r.cached_tokens}, to_ms(r.first_token - r.arrival),
           r.output_len > 1 ? Cell(to_ms(time_per_output_token(r))) : Cell(), to_ms(r.finish - r.arrival),
           std::int64_t{r.preemptions}});
  }
  table_->show_table(std::move(t),
                     {QStringLiteral("ttft_ms"), QStringLiteral("tpot_ms"), QStringLiteral("e2el_ms")});
  mark_row();
  show_note();
}

// The row of the chosen request, without choosing it once more.
void TimelineView::mark_row() {
  marking_row_ = true;
  for (int row = 0; chosen_ && row < table_->model()->rowCount(); ++row) {
    const QModelIndex index = table_->model()->index(row, 0);
    if (recording().requests[rows_[static_cast<std::size_t>(table_->source_row(index))]].id != *chosen_)
      continue;
    table_->doItemsLayout();  // the rows may be new
    table_->setCurrentIndex(index);
    table_->scrollTo(index);
    break;
  }
  marking_row_ = false;
}

void TimelineView::choose(std::size_t request) {
  chosen_ = recording().requests[request].id;
  mark_chosen();
}

void TimelineView::mark_chosen() {
  const auto& requests = recording().requests;
  const auto at = std::find_if(requests.begin(), requests.end(),
                               [&](const RequestRecord& r) { return chosen_ && r.id == *chosen_; });
  std::vector<StepLanes::Frame> frames;
  if (at == requests.end()) {
    waterfall_->show_none();
  } else {
    waterfall_->show_request(*at, names_[static_cast<std::size_t>(at->engine)]);
    const auto index = static_cast<std::size_t>(at - requests.begin());
    for (const auto& lane : stays_)
      for (const Stay& stay : lane)
        if (stay.request == index) frames.push_back(stay.frame);
  }
  steps_->set_frames(std::move(frames));
  chart_->replot(QCustomPlot::rpQueuedReplot);
}

void TimelineView::point_at(const QPoint& position) {
  const StepLanes::Bar* const bar = steps_ ? steps_->bar_at(position) : nullptr;
  if (bar == nullptr) return QToolTip::hideText();
  const TimelineWriter::StepEvent& e = recording().steps[bar->step];
  QToolTip::showText(chart_->mapToGlobal(position), step_text(e, names_[static_cast<std::size_t>(e.engine)]),
                     chart_);
}

// Of the requests that were there, the one that came last: in a step with a prompt it is that prompt's. The
// same place again: the one before it.
void TimelineView::click(const QPointF& position) {
  const int lane = steps_->lane_at(position);
  if (lane < 0) return;
  const double time = chart_->xAxis->pixelToCoord(position.x());
  const auto& stays = stays_[static_cast<std::size_t>(lane)];
  std::vector<std::size_t> there;
  for (const Stay& stay : stays)
    if (stay.frame.start <= time && time <= stay.frame.end) there.push_back(stay.request);
  if (there.empty()) return;
  std::reverse(there.begin(), there.end());
  auto at = std::find_if(there.begin(), there.end(),
                         [&](std::size_t i) { return chosen_ && recording().requests[i].id == *chosen_; });
  at = at == there.end() || std::next(at) == there.end() ? there.begin() : std::next(at);
  choose(*at);
  mark_row();
}

}  // namespace

View* make_timeline_view(Session& session) { return new TimelineView(session); }

}  // namespace foretoken::gui
