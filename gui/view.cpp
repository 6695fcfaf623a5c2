#include "gui/view.h"

#include <QApplication>
#include <QClipboard>
#include <QComboBox>
#include <QContextMenuEvent>
#include <QFileDialog>
#include <QLabel>
#include <QMenu>
#include <algorithm>

namespace foretoken::gui {

QLabel* note_label(QWidget* parent) {
  auto* const label = new QLabel(parent);
  label->setWordWrap(true);
  label->setTextInteractionFlags(Qt::TextSelectableByMouse);
  return label;
}

std::size_t choose_step(QComboBox& box, const std::vector<Estimated::Step>& steps) {
  const QString usual = QStringLiteral("decode_expected");
  const QString wanted = box.currentText().isEmpty() ? usual : box.currentText();
  QStringList names;
  for (const Estimated::Step& s : steps) names << QString::fromStdString(s.name);
  qsizetype at = names.indexOf(wanted);
  for (qsizetype i = 0; i < names.size() && at < 0; ++i)
    if (names[i].endsWith(usual)) at = i;
  at = std::max<qsizetype>(at, 0);
  box.setSizeAdjustPolicy(QComboBox::AdjustToContents);
  box.clear();
  box.addItems(names);
  box.setCurrentIndex(static_cast<int>(at));
  return static_cast<std::size_t>(at);
}

QString why_no_steps(const Estimated* of) {
  if (of == nullptr) return QObject::tr("The scenario has an error.");
  if (!of->verdict.empty()) return QString::fromStdString(of->verdict);
  return QObject::tr("No single step is priced: %1. The simulation is shown in the other views.")
      .arg(QString::fromStdString(of->no_estimate));
}

std::vector<ViewPart> View::parts() {
  const auto name_of = [](const QWidget* widget, const QString& otherwise) {
    return widget->accessibleName().isEmpty() ? otherwise : widget->accessibleName();
  };
  std::vector<ViewPart> parts{{tr("the whole view"), this, {QStringLiteral(".png"), QStringLiteral(".svg")}}};
  for (Chart* c : charts())
    parts.push_back({name_of(c, tr("chart")),
                     c,
                     {QStringLiteral(".png"), QStringLiteral(".svg"), QStringLiteral(".csv")}});
  for (TableView* t : tables()) parts.push_back({name_of(t, tr("table")), t, {QStringLiteral(".csv")}});
  return parts;
}

void View::save(const ViewPart& part, const QString& file) {
  Provenance from = provenance();
  if (part.widget != this) from.title += QStringLiteral(": ") + part.name;
  if (auto* const chart = qobject_cast<Chart*>(part.widget))
    save_chart(*chart, file, from);
  else if (auto* const table = qobject_cast<TableView*>(part.widget))
    save_table(table->rows()->table(), file, from);
  else
    save_widget(*part.widget, file, from);
}

void View::ask_and_save(const ViewPart& part) {
  QStringList kinds;
  for (const QString& suffix : part.suffixes) kinds << u'*' + suffix;
  QString file = QFileDialog::getSaveFileName(
      this, tr("Save %1").arg(part.name), title_.toLower().replace(u' ', u'-') + part.suffixes.front(),
      tr("%1 (%2)").arg(part.widget->inherits("foretoken::gui::TableView") ? tr("Tables") : tr("Pictures"),
                        kinds.join(u' ')));
  if (file.isEmpty()) return;
  try {
    save(part, file);
  } catch (const std::exception& e) {
    Q_EMIT save_failed(QString::fromUtf8(e.what()));
  }
}

void View::contextMenuEvent(QContextMenuEvent* event) {
  auto* const menu = new QMenu(this);
  menu->setAttribute(Qt::WA_DeleteOnClose);
  for (const ViewPart& part : parts()) {
    // The view itself, and the chart or table that was pointed at.
    const QWidget* at = childAt(event->pos());
    while (at != nullptr && at != this && at != part.widget) at = at->parentWidget();
    if (part.widget != this && at != part.widget) continue;
    menu->addAction(tr("Save %1...").arg(part.name), this, [this, part] { ask_and_save(part); });
    menu->addAction(tr("Copy a picture of %1").arg(part.name), this,
                    [part] { QApplication::clipboard()->setPixmap(part.widget->grab()); });
  }
  menu->popup(event->globalPos());
}

}  // namespace foretoken::gui
