// Predictions beside measurements: a built-in set or a file, as dots about the diagonal and as errors by
// group.
#include <QComboBox>
#include <QFileDialog>
#include <QLabel>
#include <QLineEdit>
#include <QProgressBar>
#include <QPushButton>
#include <QSplitter>
#include <QThreadPool>
#include <QToolTip>
#include <QVBoxLayout>
#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/text.h"
#include "cli/validation_sets.h"
#include "gui/view.h"

namespace foretoken::gui {
namespace {

constexpr std::size_t kMostNames = 12;  // in the legend
constexpr double kReach = 10;           // pixels
constexpr double kBand = 0.1;           // lines beside the diagonal
constexpr QCPScatterStyle::ScatterShape kShapes[] = {QCPScatterStyle::ssDisc,     QCPScatterStyle::ssSquare,
                                                     QCPScatterStyle::ssTriangle, QCPScatterStyle::ssDiamond,
                                                     QCPScatterStyle::ssCross,    QCPScatterStyle::ssPlus};
constexpr int kColours = 8;

QString title_of(const MeasuredSet& set) {
  if (set.key == "operators") return QObject::tr("operators (built in)");
  if (set.key == "end_to_end") return QObject::tr("servers (built in)");
  if (set.key == "runs") return QObject::tr("runs (built in)");
  if (set.key == "forward_passes") return QObject::tr("forward passes (built in)");
  return QString::fromStdString(set.key);
}

// "measured ttft, ms": metrics have their units in their names, or the usual ones.
QString axis_text(const QString& which, QString metric) {
  if (metric.isEmpty()) return which;
  QString unit;
  if (metric.endsWith(QStringLiteral("_ms")))
    metric.chop(3), unit = QStringLiteral("ms");
  else if (metric == QStringLiteral("seconds"))
    metric = QObject::tr("time"), unit = QStringLiteral("s");
  else if (metric == QStringLiteral("request_throughput"))
    unit = QObject::tr("requests/s");
  else if (metric.endsWith(QStringLiteral("throughput")))
    unit = QObject::tr("tokens/s");
  return unit.isEmpty() ? which + u' ' + metric : QStringLiteral("%1 %2, %3").arg(which, metric, unit);
}

class ValidationView : public View {
  Q_OBJECT

 public:
  explicit ValidationView(Session& session)
      : View(session, tr("Validation")),
        set_(new QComboBox(this)),
        file_(new QLineEdit(this)),
        kind_(new QLineEdit(this)),
        browse_(new QPushButton(tr("&Browse..."), this)),
        start_(new QPushButton(tr("&Validate"), this)),
        cancel_(new QPushButton(tr("&Cancel"), this)),
        bar_(new QProgressBar(this)),
        note_(note_label(this)),
        chart_(new Chart(this)),
        metric_(new QComboBox(this)),
        which_(new QComboBox(this)),
        table_(new TableView(this)),
        table_note_(note_label(this)) {
    pool_.setMaxThreadCount(1);
    chart_->setAccessibleName(tr("predicted against measured"));
    table_->setAccessibleName(tr("errors"));
    make_sets();
    set_->setObjectName(QStringLiteral("set"));
    set_->setAccessibleName(tr("measurements"));
    file_->setObjectName(QStringLiteral("file"));
    file_->setPlaceholderText(tr("file, or folder of runs"));
    kind_->setObjectName(QStringLiteral("kind"));
    kind_->setPlaceholderText(tr("kind (optional)"));
    kind_->setToolTip(tr("What the file holds, such as gemm, where its columns don't tell"));
    metric_->setObjectName(QStringLiteral("metric"));
    which_->setObjectName(QStringLiteral("which"));
    start_->setObjectName(QStringLiteral("validate"));
    note_->setObjectName(QStringLiteral("note"));
    bar_->setRange(0, 1000);
    bar_->setAccessibleName(tr("progress of the validation"));
    metric_->setAccessibleName(tr("metric"));
    which_->setAccessibleName(tr("table"));
    // Long names of sets must not widen the window.
    for (QComboBox* combo : {metric_, which_}) {
      combo->setSizeAdjustPolicy(QComboBox::AdjustToMinimumContentsLengthWithIcon);
      combo->setMinimumContentsLength(10);
      combo->setSizePolicy(QSizePolicy::Expanding, QSizePolicy::Fixed);
    }

    auto* const ask = new QHBoxLayout;
    ask->addWidget(set_);
    ask->addWidget(file_, 2);
    ask->addWidget(browse_);
    ask->addWidget(kind_, 1);
    ask->addWidget(start_);
    ask->addWidget(cancel_);
    ask->addWidget(bar_, 1);
    ask->addStretch();

    auto* const left = new QWidget(this);
    auto* const left_box = new QVBoxLayout(left);
    left_box->setContentsMargins(0, 0, 0, 0);
    left_box->addLayout(labelled(tr("&Metric:"), metric_));
    left_box->addWidget(chart_, 1);
    auto* const right = new QWidget(this);
    auto* const right_box = new QVBoxLayout(right);
    right_box->setContentsMargins(0, 0, 0, 0);
    right_box->addLayout(labelled(tr("&Table:"), which_));
    right_box->addWidget(table_, 1);
    right_box->addWidget(table_note_);
    auto* const split = new QSplitter(Qt::Horizontal, this);
    content_ = split;
    split->addWidget(left);
    split->addWidget(right);
    split->setChildrenCollapsible(false);
    split->setStretchFactor(0, 1), split->setStretchFactor(1, 1);
    split->setSizes({1000, 1200});
    auto* const box = new QVBoxLayout(this);
    box->addLayout(ask);
    box->addWidget(note_);
    box->addWidget(split, 1);
    box->addStretch(0);

    connect(set_, &QComboBox::currentIndexChanged, this, &ValidationView::show_buttons);
    connect(file_, &QLineEdit::textChanged, this, &ValidationView::show_buttons);
    for (QLineEdit* line : {file_, kind_})
      connect(line, &QLineEdit::returnPressed, start_, &QAbstractButton::click);
    connect(browse_, &QPushButton::clicked, this, &ValidationView::browse);
    connect(start_, &QPushButton::clicked, this, &ValidationView::start);
    connect(cancel_, &QPushButton::clicked, this, &ValidationView::cancel);
    connect(metric_, &QComboBox::currentIndexChanged, this, &ValidationView::show_chart);
    connect(which_, &QComboBox::currentIndexChanged, this, &ValidationView::show_table);
    connect(this, &ValidationView::progressed, bar_, &QProgressBar::setValue);
    connect(chart_, &QCustomPlot::mouseMove, this, [this](QMouseEvent* e) { tell(e); });
    show_result();
  }
  ~ValidationView() override {
    if (stop_) *stop_ = true;
    pool_.waitForDone();
  }
  std::vector<Chart*> charts() const override { return {chart_}; }
  std::vector<TableView*> tables() const override { return {table_}; }
  // Of measurements, whatever the scenario is.
  Provenance provenance() const override {
    Provenance p = provenance_of(title());
    p.facts.append({QStringLiteral("Database"), QString::fromStdString(session_.world()->database.digest())});
    if (result_) p.facts.append({QStringLiteral("Source"), of_});
    return p;
  }

 Q_SIGNALS:
  void progressed(int thousandths);

 private:
  QLayout* labelled(const QString& text, QWidget* field) {
    auto* const row = new QHBoxLayout;
    auto* const label = new QLabel(text, this);
    label->setBuddy(field);
    row->addWidget(label);
    row->addWidget(field, 1);
    return row;
  }

  void make_sets() {
    try {
      sets_ = builtin_sets(session_.world()->paths);
    } catch (const Error&) {  // files can be validated without them
    }
    for (const MeasuredSet& set : sets_) set_->addItem(title_of(set));
    builtin_ = static_cast<int>(sets_.size());
    sets_.push_back({"file", Measured::kOperators, {}, {}});
    set_->addItem(tr("a file of operators"));
    sets_.push_back({"file", Measured::kServers, {}, {}});
    set_->addItem(tr("a file of servers"));
    sets_.push_back({"folder", Measured::kRuns, {}, {}});
    set_->addItem(tr("a folder of runs"));
  }
  const MeasuredSet& chosen() const { return sets_[static_cast<std::size_t>(set_->currentIndex())]; }
  bool from_file() const { return set_->currentIndex() >= builtin_; }

  void browse() {
    const QString picked =
        chosen().what == Measured::kRuns
            ? QFileDialog::getExistingDirectory(this, tr("Folder of runs"), file_->text())
            : QFileDialog::getOpenFileName(this, tr("Measurements"), file_->text(),
                                           tr("Measurements (*.csv *.csv.gz *.txt *.json);;All files (*)"));
    if (!picked.isEmpty()) file_->setText(picked);
  }

  void start() {
    MeasuredSet set = chosen();
    if (from_file()) {
      set.path = file_->text().toStdString();
      if (set.what == Measured::kOperators) set.kind = kind_->text().trimmed().toStdString();
    }
    result_.reset();
    problem_.clear();
    cancelled_ = false;
    running_ = true;
    bar_->setValue(0);
    const auto stop = std::make_shared<std::atomic<bool>>(false);
    stop_ = stop;
    show_result();
    pool_.start([this, stop, set, world = session_.world()] {
      ValidateOptions options;
      options.stop = stop.get();
      options.recipes = builtin_recipes(world->paths);
      std::atomic<int> told{0};
      options.progress = [&](double share) {
        const int now = static_cast<int>(1000 * std::clamp(share, 0.0, 1.0));
        int before = told.load();
        while (now > before && !told.compare_exchange_weak(before, now)) {
        }
        if (now > before) Q_EMIT progressed(now);  // a thousand times at most
      };
      std::shared_ptr<const Validation> result;
      QString problem;
      try {
        result = std::make_shared<const Validation>(validate(set, *world, options));
      } catch (const Interrupted&) {
      } catch (const std::exception& e) {
        problem = QString::fromUtf8(e.what());
      }
      const QString of = QString::fromStdString("foretoken validate: " + set.path.filename().string());
      QMetaObject::invokeMethod(
          this,
          [this, result, problem, of] {
            running_ = false;
            result_ = result;
            of_ = of;
            problem_ = problem;
            show_result();
          },
          Qt::QueuedConnection);
    });
  }

  void cancel() {
    cancelled_ = true;
    if (stop_) *stop_ = true;
    show_buttons();
  }

  void show_buttons() {
    file_->setVisible(from_file());
    browse_->setVisible(from_file());
    kind_->setVisible(from_file() && chosen().what == Measured::kOperators);
    bar_->setVisible(running_);
    start_->setEnabled(!running_ && (!from_file() || !file_->text().isEmpty()));
    cancel_->setEnabled(running_ && !cancelled_);
    if (running_)
      note_->setText(cancelled_ ? tr("Cancelling.")
                                : tr("Predicting every row of %1.").arg(set_->currentText()));
    else if (!problem_.isEmpty())
      note_->setText(tr("Error: %1").arg(problem_));
    else if (cancelled_ && !result_)
      note_->setText(tr("Cancelled; nothing is shown."));
    else if (!result_)
      note_->setText(from_file() ? tr("Choose a file of measurements, and press Validate.")
                                 : tr("Press Validate to hold predictions against the measurements."));
  }

  void show_result() {
    show_buttons();
    const QSignalBlocker quiet_metric(metric_), quiet_which(which_);
    metric_->clear();
    which_->clear();
    tables_.clear();
    content_->setVisible(result_ != nullptr);
    if (result_) {
      const Validation& v = *result_;
      note_->setText(tr("%1: %2 rows, %3 predicted, %4 refused. Dashed lines: \u00b110 %.")
                         .arg(QString::fromStdString(v.title), QString::fromStdString(with_commas(v.rows)),
                              QString::fromStdString(with_commas(v.predicted)),
                              QString::fromStdString(with_commas(v.refused))));
      for (const ErrorSummary& s : v.pooled) {
        const auto at = std::find(v.metrics.begin(), v.metrics.end(), s.metric) - v.metrics.begin();
        metric_->addItem(QString::fromStdString(s.metric), static_cast<int>(at));
      }
      tables_ = validation_tables(v);
      int shown = 0;
      for (std::size_t i = 0; i < tables_.size(); ++i) {
        which_->addItem(QString::fromStdString(tables_[i].title));
        if (tables_[i].title == v.title + " by " + v.group_title) shown = static_cast<int>(i);
      }
      which_->setCurrentIndex(shown);
    }
    metric_->setEnabled(metric_->count() > 0);
    which_->setEnabled(which_->count() > 0);
    show_chart();
    show_table();
  }

  void show_table() {
    const int i = which_->currentIndex();
    if (i < 0) {
      table_->show_table({});
      table_note_->clear();
      return;
    }
    const Table& t = tables_[static_cast<std::size_t>(i)];
    QStringList expendable = {QStringLiteral("within_interval_percent"), QStringLiteral("bias_percent"),
                              QStringLiteral("p90_ape_percent"), QStringLiteral("mean_ape_percent")};
    // A metric that is every row's is the one chosen above.
    if (metric_->count() == 1) expendable.prepend(QStringLiteral("metric"));
    table_->set_expendable(expendable);
    table_->show_table(t, {QStringLiteral("median_ape_percent"), QStringLiteral("rows")});
    QStringList notes;
    for (const std::string& note : t.notes) notes << QString::fromStdString(note);
    table_note_->setText(notes.join(u'\n'));
    table_note_->setVisible(!notes.isEmpty());
  }

  void show_chart() {
    lines_.clear();
    const QString name = metric_->currentText();
    chart_->start(axis_text(tr("measured"), name), axis_text(tr("predicted"), name));
    if (!result_ || name.isEmpty()) {
      chart_->finish(false);
      return;
    }
    const Validation& v = *result_;
    std::vector<QVector<double>> x(v.group_names.size()), y(v.group_names.size());
    double low = 0, high = 0;
    for (const ValidationLine& l : v.lines) {
      if (l.refusal >= 0 || l.metric != metric_->currentData().toInt()) continue;
      if (!(l.measured > 0) || !(l.predicted > 0)) continue;  // no place on a logarithmic axis
      x[static_cast<std::size_t>(l.group)] << l.measured;
      y[static_cast<std::size_t>(l.group)] << l.predicted;
      const auto [least, most] = std::minmax(l.measured, l.predicted);
      low = low == 0 ? least : std::min(low, least);
      high = std::max(high, most);
      lines_.push_back(&l);
    }
    chart_->logarithmic(chart_->xAxis);
    chart_->logarithmic(chart_->yAxis);
    low = low > 0 ? low / 1.5 : 0.1, high = high > 0 ? high * 1.5 : 10;
    const QVector<double> ends{low / 1e3, high * 1e3};
    const auto times = [&](double factor) { return QVector<double>{ends[0] * factor, ends[1] * factor}; };
    const auto guide = [&](const QString& text, double factor, Qt::PenStyle style) {
      QCPGraph* const g = chart_->line(text, 6, ends, times(factor), style, false);
      g->setPen(QPen(chart_->text_colour(), 1, style));
    };
    guide(tr("equal"), 1, Qt::SolidLine);
    guide(tr("\u00b110 %"), 1 + kBand, Qt::DashLine);
    guide({}, 1 - kBand, Qt::DashLine);
    int i = 0;
    for (std::size_t g = 0; g < x.size(); ++g) {
      if (x[g].isEmpty()) continue;
      QCPGraph* const dots = chart_->dots(QString::fromStdString(v.group_names[g]), i % kColours, x[g], y[g]);
      const int shape = i / kColours % static_cast<int>(std::size(kShapes));
      dots->setScatterStyle(QCPScatterStyle(kShapes[shape], Chart::colour(i % kColours), 5));
      ++i;
    }
    chart_->xAxis->setRange(low, high);
    chart_->yAxis->setRange(low, high);
    // A legend of many groups would leave no room for the dots, which tell their groups anyway.
    chart_->finish(static_cast<std::size_t>(i) <= kMostNames);
  }

  // What the dot under the pointer is.
  void tell(const QMouseEvent* e) {
    const ValidationLine* best = nullptr;
    double least = kReach;
    for (const ValidationLine* l : lines_) {
      const double d = std::hypot(chart_->xAxis->coordToPixel(l->measured) - e->position().x(),
                                  chart_->yAxis->coordToPixel(l->predicted) - e->position().y());
      if (d < least) best = l, least = d;
    }
    if (best == nullptr) return QToolTip::hideText();
    const auto digits = [](double n) { return QString::fromStdString(significant(n, 4)); };
    QToolTip::showText(
        e->globalPosition().toPoint(),
        tr("%1\nrow %2: measured %3, predicted %4 (%5 to %6), %7")
            .arg(QString::fromStdString(result_->group_names[static_cast<std::size_t>(best->group)]))
            .arg(best->row)
            .arg(digits(best->measured), digits(best->predicted), digits(best->low), digits(best->high),
                 QString::fromStdString(std::string(name_of(best->basis)))),
        chart_);
  }

  QComboBox* set_;
  QLineEdit *file_, *kind_;
  QPushButton *browse_, *start_, *cancel_;
  QProgressBar* bar_;
  QLabel* note_;
  Chart* chart_;
  QComboBox *metric_, *which_;
  TableView* table_;
  QLabel* table_note_;
  QWidget* content_ = nullptr;     // what there is with a result alone
  std::vector<MeasuredSet> sets_;  // as the items of set_: those built in, then files
  int builtin_ = 0;
  std::shared_ptr<const Validation> result_;
  std::vector<Table> tables_;
  std::vector<const ValidationLine*> lines_;  // of result_, that are drawn
  QString problem_, of_;                      // of_: what result_ is of
  bool running_ = false, cancelled_ = false;
  std::shared_ptr<std::atomic<bool>> stop_;
  QThreadPool pool_;
};

}  // namespace

View* make_validation_view(Session& session) { return new ValidationView(session); }

}  // namespace foretoken::gui

#include "validation_view.moc"
