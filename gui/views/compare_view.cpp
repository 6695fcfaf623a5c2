// The pinned result beside the current one, every number with its difference.
#include <QLabel>
#include <QVBoxLayout>

#include "base/json_full.h"
#include "gui/view.h"

namespace foretoken::gui {
namespace {

class CompareView : public View {
 public:
  explicit CompareView(Session& session)
      : View(session, tr("Compare")), note_(note_label(this)), table_(new TableView(this)) {
    table_->setAccessibleName(tr("pinned and current"));
    auto* const box = new QVBoxLayout(this);
    box->addWidget(note_);
    box->addWidget(table_, 1);
    box->addStretch(0);
    for (const auto signal : {&Session::estimated_anew, &Session::simulated_anew, &Session::intervals_anew,
                              &Session::pinned_anew})
      connect(&session, signal, this, &CompareView::show_difference);
    show_difference();
  }
  std::vector<TableView*> tables() const override { return {table_}; }
  Provenance provenance() const override {
    Provenance p = View::provenance();
    if (session_.has_pin())
      p.facts.append({QStringLiteral("Pinned"),
                      QString::fromStdString(command_line(session_.pinned_scenario(), "simulate"))});
    return p;
  }

 private:
  void show_difference() {
    const auto pinned = session_.pinned(), current = session_.estimated();
    table_->setVisible(pinned && current);
    if (!pinned || !current) {
      note_->setText(
          session_.has_pin()
              ? tr("One of the two has no result.")
              : tr("Pin a result (Ctrl+P), then change the scenario: both stand here side by side."));
      table_->show_table({});
      return;
    }
    // The simulation's numbers where both have them, else the estimate's.
    const auto a = session_.pinned_simulation(), b = session_.simulated();
    const bool simulated = a && b;
    note_->setText(simulated ? tr("Simulated") : tr("Estimated (the simulation is not done yet)"));
    Table t =
        compare_results(simulated ? a->json() : pinned->json(), simulated ? b->json() : current->json());
    Table keys = compare_results(session_.pinned_scenario(), session_.scenario());
    for (auto row = keys.rows.rbegin(); row != keys.rows.rend(); ++row)
      if ((*row)[1] != (*row)[2]) {
        (*row)[0] = "scenario/" + std::get<std::string>((*row)[0]);
        t.rows.insert(t.rows.begin(), *row);
      }
    table_->show_table(std::move(t));
  }

  QLabel* note_;
  TableView* table_;
};

}  // namespace

View* make_compare_view(Session& session) { return new CompareView(session); }

}  // namespace foretoken::gui
