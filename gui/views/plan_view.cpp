// The search for a deployment: its candidates in order, why the first wins, and why the others are out.
#include <QHeaderView>
#include <QKeyEvent>
#include <QLabel>
#include <QLocale>
#include <QPlainTextEdit>
#include <QProgressBar>
#include <QPushButton>
#include <QSplitter>
#include <QTabWidget>
#include <QVBoxLayout>

#include "base/error.h"
#include "base/json_full.h"
#include "base/text.h"
#include "gui/view.h"
#include "simulator/candidate_table.h"

namespace foretoken::gui {
namespace {

QString grouped(std::int64_t n) { return QString::fromStdString(with_commas(n)); }

// "99 % of requests with TTFT at most 2,000 ms and TPOT at most 100 ms"
QString slo_text(const SloSection& slo) {
  QStringList limits;
  const auto add = [&](const char* name, const std::optional<double>& ms) {
    if (ms) limits << QObject::tr("%1 at most %2\u00a0ms").arg(QLatin1String(name), figures(*ms, 6));
  };
  add("TTFT", slo.ttft_ms), add("TPOT", slo.tpot_ms), add("ITL", slo.itl_ms), add("E2EL", slo.e2el_ms);
  if (limits.isEmpty()) return QObject::tr("none; set /slo to have candidates that miss it left out");
  return QObject::tr("%1 % of requests with %2").arg(slo.percentile).arg(limits.join(QStringLiteral(", ")));
}

class PlanView : public View {
 public:
  explicit PlanView(Session& session)
      : View(session, tr("Plan")),
        search_(new QPushButton(tr("&Search"), this)),
        cancel_(new QPushButton(tr("&Cancel"), this)),
        load_(new QPushButton(tr("&Load"), this)),
        bar_(new QProgressBar(this)),
        question_(note_label(this)),
        state_(note_label(this)),
        tabs_(new QTabWidget(this)),
        ranked_(new TableView(this)),
        missed_(new TableView(this)),
        rejected_(new TableView(this)),
        why_(new QPlainTextEdit(this)) {
    search_->setToolTip(tr("Try the deployments of /plan/search, or a built-in set of them"));
    load_->setToolTip(
        tr("Put the selected candidate into the scenario (Enter, or a double click); undo takes it back"));
    bar_->setFormat(tr("%v of %m configurations"));
    bar_->setAccessibleName(tr("progress of the search"));
    auto* const row = new QHBoxLayout;
    row->addWidget(search_);
    row->addWidget(cancel_);
    row->addWidget(load_);
    row->addWidget(bar_, 1);
    row->addStretch();

    why_->setReadOnly(true);
    why_->setTextInteractionFlags(Qt::TextSelectableByMouse | Qt::TextSelectableByKeyboard);
    why_->setObjectName(QStringLiteral("why"));
    why_->setAccessibleName(tr("why the winner wins"));
    why_->setTabChangesFocus(true);
    auto* const split = new QSplitter(Qt::Vertical, this);
    split->addWidget(ranked_);
    split->addWidget(why_);
    split->setStretchFactor(0, 3), split->setStretchFactor(1, 2);
    split->setChildrenCollapsible(false);
    tabs_->addTab(split, {});
    tabs_->addTab(missed_, {});
    tabs_->addTab(rejected_, {});
    ranked_->setObjectName(QStringLiteral("ranked"));
    missed_->setObjectName(QStringLiteral("missed"));
    rejected_->setObjectName(QStringLiteral("rejected"));
    ranked_->setAccessibleName(tr("ranked candidates"));
    missed_->setAccessibleName(tr("candidates that miss the limits"));
    rejected_->setAccessibleName(tr("why not the others"));
    rejected_->setWordWrap(true);
    rejected_->verticalHeader()->setSectionResizeMode(QHeaderView::ResizeToContents);

    auto* const box = new QVBoxLayout(this);
    box->addLayout(row);
    box->addWidget(question_);
    box->addWidget(state_);
    box->addWidget(tabs_, 1);
    box->addStretch(0);

    connect(search_, &QPushButton::clicked, this, [this] { session_.start_plan(); });
    connect(cancel_, &QPushButton::clicked, this, [this] {
      cancelled_ = true;
      session_.cancel_plan();
      show_state();
    });
    connect(load_, &QPushButton::clicked, this, &PlanView::load_selected);
    connect(tabs_, &QTabWidget::currentChanged, this, &PlanView::show_buttons);
    for (TableView* table : {ranked_, missed_}) {
      table->setSelectionMode(QAbstractItemView::SingleSelection);
      table->horizontalHeader()->setHighlightSections(false);
      table->installEventFilter(this);
      table->set_expendable({QStringLiteral("slo_attainment_percent"), QStringLiteral("max_num_seqs"),
                             QStringLiteral("kv_cache_dtype"), QStringLiteral("max_num_batched_tokens"),
                             QStringLiteral("quantization")});
      connect(table, &QAbstractItemView::doubleClicked, this, &PlanView::load_selected);
      connect(table->selectionModel(), &QItemSelectionModel::selectionChanged, this, &PlanView::show_buttons);
    }
    connect(&session, &Session::edited, this, [this] {
      compare_scenario();
      show_state();
    });
    connect(&session, &Session::planned_anew, this, &PlanView::show_plan);
    connect(&session, &Session::plan_progress, this, [this](qint64 done, qint64 total) {
      if (!session_.is_planning()) return;
      bar_->setRange(0, static_cast<int>(total));
      bar_->setValue(std::max(bar_->value(), static_cast<int>(done)));  // threads overtake one another
    });
    connect(&session, &Session::failed, this, [this](const QString& where, const QString& message) {
      // Of a search that could not begin, or has just ended with it.
      problem_ = where.isEmpty() ? message : where + QStringLiteral(": ") + message;
      show_state();
    });
    connect(&session, &Session::worked, this, [this] {
      problem_.clear();
      show_state();
    });
    show_plan();
  }
  std::vector<TableView*> tables() const override { return {ranked_, missed_, rejected_}; }
  Provenance provenance() const override {
    return session_.planned() ? session_.provenance(title(), session_.planned_scenario())
                              : View::provenance();
  }

 protected:
  bool eventFilter(QObject* watched, QEvent* event) override {
    if ((watched == ranked_ || watched == missed_) && event->type() == QEvent::KeyPress)
      if (const int key = static_cast<QKeyEvent*>(event)->key();
          key == Qt::Key_Return || key == Qt::Key_Enter) {
        load_selected();
        return true;
      }
    return View::eventFilter(watched, event);
  }

 private:
  // The list that is in front, or null.
  const std::vector<Candidate>* list() const {
    const auto plan = session_.planned();
    if (!plan) return nullptr;
    return tabs_->currentIndex() == 0 ? &plan->ranked : tabs_->currentIndex() == 1 ? &plan->missed : nullptr;
  }
  const Candidate* selected() const {
    const auto* const candidates = list();
    if (candidates == nullptr) return nullptr;
    const TableView* const table = tabs_->currentIndex() == 0 ? ranked_ : missed_;
    const QModelIndexList rows = table->selectionModel()->selectedRows();
    return rows.isEmpty() ? nullptr : &(*candidates)[static_cast<std::size_t>(table->source_row(rows[0]))];
  }
  void load_selected() {
    const Candidate* const c = selected();
    if (c == nullptr) return;
    const QString label = QString::fromStdString(c->label);
    session_.apply_patch(Json::parse(c->patch), tr("load %1").arg(label));
  }

  void show_plan() {
    const auto plan = session_.planned();
    tabs_->setVisible(plan != nullptr);
    if (session_.is_planning()) {
      cancelled_ = false;
      problem_.clear();
      searched_ = session_.scenario();
      bar_->setRange(0, 0);
      bar_->setValue(0);
    }
    const std::vector<Candidate> none;
    const auto& ranked = plan ? plan->ranked : none;
    const auto& missed = plan ? plan->missed : none;
    const QStringList bars{QStringLiteral("tokens_per_s_per_device"),
                           QStringLiteral("tokens_per_s_per_user")};
    ranked_->show_table(candidate_table(ranked), bars);
    missed_->show_table(candidate_table(missed), bars);

    Table out;
    out.title = tr("Why the others are out").toStdString();
    out.columns = {{"reason", tr("reason").toStdString()},
                   {"candidates", tr("candidates").toStdString()},
                   {"example", tr("for example").toStdString(), 4, true}};
    if (plan)
      for (const auto& [reason, count] : plan->rejected) {
        const auto example = plan->rejected_example.find(reason);
        out.add({reason, count, example == plan->rejected_example.end() ? Cell() : Cell(example->second)});
      }
    rejected_->show_table(std::move(out), {QStringLiteral("candidates")});

    tabs_->setTabText(0, tr("&Ranked (%1)").arg(ranked.size()));
    tabs_->setTabText(1, tr("&Misses the limits (%1)").arg(missed.size()));
    tabs_->setTabText(2, tr("Why &not (%1)").arg(plan ? plan->rejected.size() : 0));
    QString why;
    if (plan)
      for (const std::string& sentence : plan->why) why += QString::fromStdString(sentence) + u'\n';
    if (!ranked.empty())
      why += QString::fromStdString(where_to_start(ranked.front()) + '\n' + ranked.front().command);
    why_->setPlainText(why);
    why_->setVisible(!why.isEmpty());
    if (!ranked.empty()) {
      ranked_->selectRow(0);
      tabs_->setCurrentIndex(0);
    } else if (!missed.empty()) {
      missed_->selectRow(0);
      tabs_->setCurrentIndex(1);
    } else if (plan && !plan->rejected.empty()) {
      tabs_->setCurrentIndex(2);
    }
    compare_scenario();
    show_state();
  }

  // What is asked: of the scenario as it is now, or of the search that is shown.
  void show_question() {
    const bool shown = session_.planned() || session_.is_planning();
    try {
      const ScenarioInput input =
          scenario_input(shown && !searched_.is_null() ? searched_ : session_.scenario(),
                         session_.world()->resources.scenario_folder, session_.name(), true);
      question_->setText(
          tr("Objective: %1. Limits: %2.")
              .arg(QString::fromStdString(input.scenario.plan.objective), slo_text(input.scenario.slo)));
    } catch (const std::exception&) {
      question_->setText(tr("The scenario has an error; mend it to search."));
    }
  }

  void show_state() {
    show_question();
    const auto plan = session_.planned();
    bar_->setVisible(session_.is_planning());
    QStringList text;
    if (session_.is_planning()) {
      text << (cancelled_ ? tr("Cancelling: what has been found is shown in a moment.") : tr("Searching."));
    } else if (!plan) {
      if (!problem_.isEmpty())
        text << tr("No search: %1").arg(problem_);
      else if (cancelled_)
        text << tr("Cancelled before anything was found.");
      else
        text << tr(
            "Press Search to find the best deployment for this workload. /plan/search of the "
            "scenario says what is tried, /plan/objective what is best.");
    } else {
      if (plan->interrupted) text << tr("Interrupted: this is what had been found by then.");
      if (!problem_.isEmpty()) text << tr("Error: %1.").arg(problem_);
      text << tr("%1 candidates: %2 can't be, %3 pruned, %4 simulated, %5 meet the limits.")
                  .arg(grouped(plan->searched), grouped(plan->infeasible), grouped(plan->pruned),
                       grouped(plan->simulated), grouped(plan->feasible));
      text << tr("Workload: %1.").arg(QString::fromStdString(plan->workload));
      if (!since_.isEmpty()) text << since_;
    }
    state_->setText(text.join(u' '));
    show_buttons();
  }

  // Whether the scenario is the searched one, one of its candidates, or another.
  void compare_scenario() {
    since_.clear();
    const auto plan = session_.planned();
    if (!plan || session_.scenario() == searched_) return;
    for (const auto* candidates : {&plan->ranked, &plan->missed})
      for (const Candidate& c : *candidates) {
        Json loaded = searched_;
        loaded.merge_patch(Json::parse(c.patch));
        if (loaded != session_.scenario()) continue;
        since_ = tr("Loaded: %1.").arg(QString::fromStdString(c.label));
        return;
      }
    since_ = tr("The scenario has been edited since; search again for it.");
  }

  void show_buttons() {
    search_->setEnabled(!session_.is_planning());
    cancel_->setEnabled(session_.is_planning() && !cancelled_);
    load_->setEnabled(selected() != nullptr);
  }

  QPushButton *search_, *cancel_, *load_;
  QProgressBar* bar_;
  QLabel *question_, *state_;
  QTabWidget* tabs_;
  TableView *ranked_, *missed_, *rejected_;
  QPlainTextEdit* why_;
  Json searched_;  // the scenario that the candidates are patches of
  QString problem_, since_;
  bool cancelled_ = false;
};

}  // namespace

View* make_plan_view(Session& session) { return new PlanView(session); }

}  // namespace foretoken::gui
