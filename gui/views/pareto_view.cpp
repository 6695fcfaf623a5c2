// What a plan's candidates give a device and a user: each a dot, the front a line. Dots are told on hovering
// and loaded by a click; arrow keys and Enter do the same.
#include <QApplication>
#include <QKeyEvent>
#include <QLabel>
#include <QPointer>
#include <QVBoxLayout>
#include <algorithm>
#include <cmath>

#include "base/json_full.h"
#include "base/text.h"
#include "gui/view.h"

namespace foretoken::gui {
namespace {

constexpr double kReach = 14;  // pixels

class ParetoView : public View {
 public:
  explicit ParetoView(Session& session)
      : View(session, tr("Pareto")), note_(note_label(this)), chart_(new Chart(this)) {
    auto* const box = new QVBoxLayout(this);
    box->addWidget(note_);
    box->addWidget(chart_, 1);
    box->addStretch(0);
    note_->setMinimumHeight(2 * fontMetrics().lineSpacing());
    note_->setAlignment(Qt::AlignTop | Qt::AlignLeft);
    chart_->setAccessibleName(tr("candidates of the plan"));
    chart_->setSelectionTolerance(0);
    chart_->setInteraction(QCP::iSelectPlottables, false);
    chart_->installEventFilter(this);
    connect(&session, &Session::planned_anew, this, &ParetoView::show_plan);
    connect(chart_, &QCustomPlot::mouseMove, this, [this](QMouseEvent* e) {
      if (e->buttons() == Qt::NoButton) point_at(nearest(e->pos()));
    });
    connect(chart_, &QCustomPlot::mousePress, this, [this](QMouseEvent* e) { pressed_ = e->pos(); });
    connect(chart_, &QCustomPlot::mouseRelease, this, [this](QMouseEvent* e) {
      if (e->button() != Qt::LeftButton) return;
      if ((e->pos() - pressed_).manhattanLength() >= QApplication::startDragDistance()) return;
      const int at = nearest(e->pos());
      point_at(at);
      load(at);
    });
    show_plan();
  }
  std::vector<Chart*> charts() const override { return {chart_}; }
  Provenance provenance() const override {
    return session_.planned() ? session_.provenance(title(), session_.planned_scenario())
                              : View::provenance();
  }

 protected:
  bool eventFilter(QObject* watched, QEvent* event) override {
    if (watched == chart_ && event->type() == QEvent::KeyPress) {
      const int key = static_cast<QKeyEvent*>(event)->key(), n = static_cast<int>(points_.size());
      if (n > 0 && (key == Qt::Key_Right || key == Qt::Key_Left)) {
        const int step = key == Qt::Key_Right ? 1 : -1;
        point_at(at_ < 0 ? (step > 0 ? 0 : n - 1) : std::clamp(at_ + step, 0, n - 1));
        return true;
      }
      if (key == Qt::Key_Return || key == Qt::Key_Enter) {
        load(at_);
        return true;
      }
    }
    return View::eventFilter(watched, event);
  }

 private:
  void show_plan() {
    plan_ = session_.planned();
    points_.clear();
    at_ = -1;
    ring_ = nullptr;
    chart_->start(tr("output tokens/s a user"), tr("output tokens/s a device"));
    const bool any = plan_ && !(plan_->ranked.empty() && plan_->missed.empty());
    chart_->setVisible(any);
    if (!any) {
      note_->setText(session_.is_planning() ? tr("Searching.")
                     : plan_ ? tr("The search simulated no candidate; the view Plan says why not.")
                             : tr("Nothing has been searched yet: press Search in the view Plan."));
      chart_->finish(false);
      return;
    }
    const auto add = [&](const QString& name, int colour, const std::vector<Candidate>& candidates,
                         bool line) {
      QVector<double> x, y;
      for (const Candidate& c : candidates) {
        x << c.tokens_per_s_per_user;
        y << c.tokens_per_s_per_device;
        if (!line) points_.push_back(&c);
      }
      if (x.isEmpty()) return;
      if (line)
        chart_->line(name, colour, x, y);
      else
        chart_->dots(name, colour, x, y, 7);
    };
    add(tr("misses the limits"), 6, plan_->missed, false);
    add(tr("meets the limits"), 0, plan_->ranked, false);
    add(tr("Pareto front"), 1, plan_->pareto, true);
    // Those that miss them are hollow too: colour alone tells nothing on a grey print.
    if (!plan_->missed.empty())
      chart_->graph(0)->setScatterStyle(
          QCPScatterStyle(QCPScatterStyle::ssCircle, QPen(Chart::colour(6), 1.5), Qt::NoBrush, 7));
    std::stable_sort(points_.begin(), points_.end(), [](const Candidate* a, const Candidate* b) {
      return a->tokens_per_s_per_user < b->tokens_per_s_per_user;
    });
    chart_->rescaleAxes();
    for (QCPAxis* axis : {chart_->xAxis, chart_->yAxis}) {
      axis->setRange(0, axis->range().upper > 0 ? 1.06 * axis->range().upper : 1);
    }
    ring_ = chart_->dots({}, 1, {}, {}, 13);
    point_at(-1);
    chart_->finish(true);
  }

  int nearest(const QPointF& pos) const {
    int best = -1;
    double least = kReach;
    for (std::size_t i = 0; i < points_.size(); ++i) {
      const double d = std::hypot(chart_->xAxis->coordToPixel(points_[i]->tokens_per_s_per_user) - pos.x(),
                                  chart_->yAxis->coordToPixel(points_[i]->tokens_per_s_per_device) - pos.y());
      if (d < least) best = static_cast<int>(i), least = d;
    }
    return best;
  }

  void point_at(int at) {
    if (ring_ == nullptr) return;
    at_ = at;
    if (at < 0) {
      ring_->setData({}, {});
      note_->setText(tr("%1 candidates were simulated. Point at one to read it, click it to load it (or the "
                        "arrow keys and Enter); undo takes it back.%2")
                         .arg(points_.size())
                         .arg(plan_->interrupted ? tr(" The search was interrupted.") : QString()));
    } else {
      const Candidate& c = *points_[static_cast<std::size_t>(at)];
      ring_->setScatterStyle(
          QCPScatterStyle(QCPScatterStyle::ssCircle, QPen(chart_->text_colour(), 2), Qt::NoBrush, 13));
      ring_->setData({c.tokens_per_s_per_user}, {c.tokens_per_s_per_device});
      const auto digits = [](double v) { return QString::fromStdString(significant(v, 4)); };
      note_->setText(tr("%1: %2 tokens/s a device, %3 tokens/s a user, p99 TTFT %4 ms, p99 TPOT %5 ms%6")
                         .arg(QString::fromStdString(c.label), digits(c.tokens_per_s_per_device),
                              digits(c.tokens_per_s_per_user), digits(c.metrics.ttft.p99),
                              digits(c.metrics.tpot.p99))
                         .arg(c.meets_slo ? QString() : tr("; misses the limits")));
    }
    chart_->replot(QCustomPlot::rpQueuedReplot);
  }

  void load(int at) {
    if (at < 0) return;
    const Candidate& c = *points_[static_cast<std::size_t>(at)];
    session_.apply_patch(Json::parse(c.patch), tr("load %1").arg(QString::fromStdString(c.label)));
  }

  QLabel* note_;
  Chart* chart_;
  QPointer<QCPGraph> ring_;  // around the one that is pointed at
  std::shared_ptr<const PlanResult> plan_;
  std::vector<const Candidate*> points_;  // of plan_, by tokens/s a user
  int at_ = -1;
  QPoint pressed_;
};

}  // namespace

View* make_pareto_view(Session& session) { return new ParetoView(session); }

}  // namespace foretoken::gui
