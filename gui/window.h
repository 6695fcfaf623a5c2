// The window: the form, a dock for each view, and the menus.
#pragma once

#include <QMainWindow>
#include <vector>

#include "gui/scenario_form.h"
#include "gui/session.h"
#include "gui/view.h"

class QDockWidget;
class QLabel;

namespace foretoken::gui {

class Window : public QMainWindow {
  Q_OBJECT

 public:
  // remember: layout, file, unsaved changes and theme, from one time to the next.
  explicit Window(bool remember = true, QWidget* parent = nullptr);
  ~Window() override { session_.history().disconnect(this); }  // which says that it is clean when it goes

  Session& session() { return session_; }
  ScenarioForm& form() { return *form_; }
  const std::vector<View*>& views() const { return views_; }
  View* view(const QString& title) const;  // null: there is none
  void show_view(const QString& title);    // in front
  void open(const QString& file);          // shows what is wrong where it can't be
  void open_last();  // what was open the last time, if it is still there, with what was not saved of it
  // The file that the program was told to open. What was not saved of it comes with it; what was not saved of
  // another scenario is put into a file of its own, whose name is said.
  void open_given(const QString& file);

  enum class Theme { kSystem, kLight, kDark };
  static void use_theme(Theme theme);
  static Theme last_theme();  // that was chosen in the menu

 protected:
  void closeEvent(QCloseEvent* event) override;
  void showEvent(QShowEvent* event) override;
  bool focusNextPrevChild(bool next) override;

 private:
  void arrange();
  void make_menus();
  void show_state();
  void show_problem(const QString& title, const QString& text);
  void remember_scenario();
  void restore_pin();
  bool may_leave();
  bool save(bool ask_where);
  void open_model();
  void paste_command();

  Session session_;
  ScenarioForm* form_;
  std::vector<View*> views_;
  std::vector<QDockWidget*> docks_;
  QLabel *verdict_, *busy_;
  QStyle* tab_style_;
  QAction* result_action_ = nullptr;  // saves the result
  bool remember_, arranged_ = false;
};

}  // namespace foretoken::gui
