// What the Tab key does: every control is reached, in the order in which it is seen, in sight, and shows that
// it has the focus.
#include <gtest/gtest.h>

#include <QAbstractButton>
#include <QApplication>
#include <QComboBox>
#include <QLineEdit>
#include <QTest>
#include <QTreeWidget>
#include <set>

#include "base/json_full.h"
#include "gui/window.h"

namespace foretoken::gui {
namespace {

// Those that Tab goes through from here, once round.
std::vector<QWidget*> tab_through(QWidget& window) {
  std::vector<QWidget*> order;
  for (int i = 0; i < 1000; ++i) {
    QWidget* const now = QApplication::focusWidget();
    if (now == nullptr || (!order.empty() && now == order.front())) break;
    order.push_back(now);
    QTest::keyClick(now, Qt::Key_Tab);
  }
  EXPECT_LT(order.size(), 1000u) << window.objectName().toStdString();
  return order;
}

std::string name_of(const QWidget* w) {
  return std::string(w->metaObject()->className()) + " " + w->accessibleName().toStdString() + " " +
         w->toolTip().left(40).toStdString();
}

class Keyboard : public testing::Test {
 protected:
  void SetUp() override {
    window.session().edit("/workload/num_prompts", Json(40));
    window.session().wait();
    window.resize(1280, 800);
    window.show();
    window.activateWindow();
    QApplication::processEvents();
    window.form().findChild<QLineEdit*>()->setFocus();
    QApplication::processEvents();
    ASSERT_NE(QApplication::focusWidget(), nullptr);
  }
  Window window{false};
};

TEST_F(Keyboard, FieldsFollowOneAnotherAsTheyAreSeen) {
  ScenarioForm& form = window.form();
  auto* const tree = form.findChild<QTreeWidget*>();
  for (const bool all : {false, true}) {
    if (all) form.findChild<QAbstractButton*>()->setChecked(true);
    form.findChild<QLineEdit*>()->setFocus();
    QApplication::processEvents();
    std::set<const QWidget*> reached;
    int row = -1, rows = 0;
    for (QWidget* w : tab_through(window)) {
      if (!tree->isAncestorOf(w)) continue;
      reached.insert(w);
      // From the form's beginning, as it is scrolled meanwhile.
      const int y = w->mapTo(tree->viewport(), w->rect().center()).y() -
                    tree->visualItemRect(tree->topLevelItem(0)).top();
      EXPECT_GE(y, row - 4) << name_of(w) << " is above the one before";
      rows += y > row + 4;
      row = std::max(row, y);
    }
    EXPECT_GE(rows, all ? 150 : 25);
    for (const std::string& pointer : form.pointers()) {
      const QWidget* const editor = form.editor(pointer);
      EXPECT_TRUE(!editor->isVisibleTo(&form) || reached.contains(editor)) << pointer;
    }
  }
}

TEST_F(Keyboard, EveryControlIsReachedInSight) {
  for (View* view : window.views()) {
    window.show_view(view->title());
    QApplication::processEvents();
    SCOPED_TRACE(view->title().toStdString());
    window.form().findChild<QLineEdit*>()->setFocus();
    std::set<const QWidget*> reached;
    for (QWidget* now = QApplication::focusWidget(); now && !reached.contains(now);
         now = QApplication::focusWidget()) {
      reached.insert(now);
      EXPECT_FALSE(now->visibleRegion().isEmpty()) << name_of(now) << " is out of sight";
      QTest::keyClick(now, Qt::Key_Tab);
    }
    for (const QWidget* w : view->findChildren<QWidget*>()) {
      const bool control = qobject_cast<const QAbstractButton*>(w) || qobject_cast<const QComboBox*>(w) ||
                           qobject_cast<const Chart*>(w) || qobject_cast<const TableView*>(w);
      // A table's corner and its like are reached otherwise.
      if (!control || !w->isVisible() || !w->isEnabled() || qobject_cast<const TableView*>(w->parentWidget()))
        continue;
      if (w->parentWidget()->inherits("QTabBar")) continue;  // arrows of too many tabs
      EXPECT_TRUE(reached.contains(w)) << name_of(w);
    }
  }
}

// A picture with the focus is another one than without it.
TEST_F(Keyboard, FocusIsSeen) {
  std::set<std::string> kinds;
  for (const char* name : {"Timeline", "Plan", "Calibrate", "Step"}) {
    window.show_view(QString::fromLatin1(name));
    QApplication::processEvents();
    window.form().findChild<QLineEdit*>()->setFocus();
    std::set<const QWidget*> seen;
    for (QWidget* now = QApplication::focusWidget(); now && seen.insert(now).second;
         now = QApplication::focusWidget()) {
      if (kinds.insert(now->metaObject()->className()).second && !now->inherits("QLabel")) {
        const QImage with = now->grab().toImage();
        now->clearFocus();
        EXPECT_NE(with, now->grab().toImage()) << name_of(now);
        now->setFocus(Qt::TabFocusReason);
      }
      QTest::keyClick(now, Qt::Key_Tab);
    }
  }
  EXPECT_GE(kinds.size(), 6u);
}

}  // namespace
}  // namespace foretoken::gui
