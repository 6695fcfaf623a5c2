// A part of the window that shows something of the session: what a dock holds.
#pragma once

#include <QWidget>

#include "gui/chart.h"
#include "gui/provenance.h"
#include "gui/session.h"
#include "gui/table_view.h"

class QComboBox;
class QLabel;

namespace foretoken::gui {

// A part of a view that can be saved alone, or copied.
struct ViewPart {
  QString name;  // of charts and tables: their accessible names
  QWidget* widget = nullptr;
  QStringList suffixes;  // ".png", ...; those that it can be saved with
};

class View : public QWidget {
  Q_OBJECT

 public:
  View(Session& session, const QString& title, QWidget* parent = nullptr)
      : QWidget(parent), session_(session), title_(title) {}
  const QString& title() const { return title_; }
  // Charts and tables that can be saved.
  virtual std::vector<Chart*> charts() const { return {}; }
  virtual std::vector<TableView*> tables() const { return {}; }
  // What its numbers are of: the scenario as it stands, but where a view shows something else.
  virtual Provenance provenance() const { return session_.provenance(title_); }

  // The view as it looks, its charts, its tables.
  std::vector<ViewPart> parts();
  void save(const ViewPart& part, const QString& file);  // by the suffix; throws Error
  void ask_and_save(const ViewPart& part);

 Q_SIGNALS:
  void save_failed(const QString& message);

 protected:
  void contextMenuEvent(QContextMenuEvent* event) override;
  Session& session_;

 private:
  QString title_;
};

// A line of text above a view: what it shows, or why it shows nothing.
QLabel* note_label(QWidget* parent);

// A box of steps' names, filled anew: the place of the one that was chosen, else of a decode step at the
// expected batch. Steps are not empty.
std::size_t choose_step(QComboBox& box, const std::vector<Estimated::Step>& steps);
// Why there are none; of what is null, too.
QString why_no_steps(const Estimated* of);

// In the order of the window's menu. make_*: views are made by these alone.
View* make_memory_view(Session& session);
View* make_step_view(Session& session);
View* make_roofline_view(Session& session);
View* make_load_view(Session& session);
View* make_compare_view(Session& session);
View* make_model_view(Session& session);
View* make_plan_view(Session& session);
View* make_pareto_view(Session& session);
View* make_timeline_view(Session& session);
View* make_validation_view(Session& session);
View* make_calibrate_view(Session& session);

}  // namespace foretoken::gui
