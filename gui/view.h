// A part of the window that shows something of the session: what a dock holds.
#pragma once

#include <QWidget>

#include "gui/chart.h"
#include "gui/session.h"
#include "gui/table_view.h"

class QLabel;

namespace foretoken::gui {

class View : public QWidget {
  Q_OBJECT

 public:
  View(Session& session, const QString& title, QWidget* parent = nullptr)
      : QWidget(parent), session_(session), title_(title) {}
  const QString& title() const { return title_; }
  // Charts and tables that can be saved.
  virtual std::vector<Chart*> charts() const { return {}; }
  virtual std::vector<TableView*> tables() const { return {}; }

 protected:
  Session& session_;

 private:
  QString title_;
};

// A line of text above a view: what it shows, or why it shows nothing.
QLabel* note_label(QWidget* parent);

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
