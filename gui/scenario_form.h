// The scenario as a form, made from the field tables: a tree of keys, grouped as in the JSON, with an editor
// each. Editors show what the file says; empty ones stand for the default, which is shown greyed. A dot marks
// what differs from the pinned scenario, red what an error names.
#pragma once

#include <QTreeWidget>
#include <QWidget>
#include <map>

#include "cli/scenario_flags.h"
#include "gui/session.h"

class QCheckBox;
class QLabel;
class QLineEdit;
class QSlider;

namespace foretoken::gui {

class ScenarioForm : public QWidget {
  Q_OBJECT

 public:
  explicit ScenarioForm(Session& session, QWidget* parent = nullptr);
  ~ScenarioForm() override;

  // Keys with an editor, in the form's order; the widget that edits one (a line, a box of choices).
  std::vector<std::string> pointers() const;
  QWidget* editor(const std::string& pointer) const;
  // As if typed there and confirmed.
  void enter(const std::string& pointer, const QString& text, bool dragging = false);
  bool is_marked_wrong(const std::string& pointer) const;
  QString message() const;

 private:
  struct Row {
    ScenarioKey key;
    QTreeWidgetItem* item = nullptr;
    QWidget* editor = nullptr;
    QSlider* slider = nullptr;
    double low = 0, high = 0;
    bool logarithmic = false, common = false, wrong = false;
    bool set = false;  // in the scenario
  };
  void add_row(const ScenarioKey& key);
  QTreeWidgetItem* group_of(const std::string& pointer);
  void fill();  // from the session's scenario
  void fill(Row& row);
  void mark();
  void filter();
  void bring_to_sight(const QWidget* focused);
  void show_error(const QString& where, const QString& message);
  void clear_error();
  int name_width(const QString& name) const;  // pixels
  QString folded(const QString& name) const;
  QStringList choices_of(const ScenarioKey& key) const;

  Session& session_;
  QLineEdit* search_;
  QCheckBox* all_;
  QTreeWidget* tree_;
  QLabel* message_;
  std::map<std::string, Row> rows_;
  std::vector<std::string> order_;
  std::map<std::string, QTreeWidgetItem*> groups_;
  bool filling_ = false;
};

}  // namespace foretoken::gui
