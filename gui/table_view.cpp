#include "gui/table_view.h"

#include <QApplication>
#include <QClipboard>
#include <QHeaderView>
#include <QKeyEvent>
#include <QPainter>
#include <QSaveFile>
#include <QSortFilterProxyModel>
#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/text.h"
#include "gui/chart.h"

namespace foretoken::gui {
namespace {

double number_of(const Cell& cell) {
  if (const auto* d = std::get_if<double>(&cell)) return *d;
  if (const auto* i = std::get_if<std::int64_t>(&cell)) return static_cast<double>(*i);
  return 0;
}
bool is_number(const Cell& cell) {
  return std::holds_alternative<double>(cell) || std::holds_alternative<std::int64_t>(cell);
}

}  // namespace

QString cell_text(const Cell& cell, int digits) {
  if (const auto* d = std::get_if<double>(&cell)) return QString::fromStdString(significant(*d, digits));
  if (const auto* i = std::get_if<std::int64_t>(&cell)) return QString::fromStdString(with_commas(*i));
  if (const auto* b = std::get_if<bool>(&cell)) return *b ? QStringLiteral("yes") : QStringLiteral("no");
  if (const auto* s = std::get_if<std::string>(&cell)) return QString::fromStdString(*s);
  return QStringLiteral("-");
}

void TableModel::set(Table table, const QStringList& bars) {
  beginResetModel();
  table_ = std::move(table);
  most_.assign(table_.columns.size(), 0);
  for (std::size_t c = 0; c < table_.columns.size(); ++c)
    if (bars.contains(QString::fromStdString(table_.columns[c].key)))
      for (const auto& row : table_.rows) most_[c] = std::max(most_[c], number_of(row[c]));
  endResetModel();
}

int TableModel::rowCount(const QModelIndex& parent) const {
  return parent.isValid() ? 0 : static_cast<int>(table_.rows.size());
}
int TableModel::columnCount(const QModelIndex& parent) const {
  return parent.isValid() ? 0 : static_cast<int>(table_.columns.size());
}

QVariant TableModel::data(const QModelIndex& index, int role) const {
  if (!index.isValid()) return {};
  const auto column = static_cast<std::size_t>(index.column());
  const Cell& cell = table_.rows[static_cast<std::size_t>(index.row())][column];
  switch (role) {
    case Qt::DisplayRole:
      return cell_text(cell, table_.columns[column].digits);
    case Qt::ToolTipRole:
      return cell_text(cell, 12);
    case Qt::TextAlignmentRole:
      return QVariant(is_number(cell) ? Qt::AlignRight | Qt::AlignVCenter : Qt::AlignLeft | Qt::AlignVCenter);
    case kValueRole:
      return is_number(cell) ? QVariant(number_of(cell)) : QVariant(cell_text(cell, 6));
    case kShareRole:
      if (most_[column] > 0 && is_number(cell)) return std::clamp(number_of(cell) / most_[column], 0.0, 1.0);
      return {};
    default:
      return {};
  }
}

QVariant TableModel::headerData(int section, Qt::Orientation orientation, int role) const {
  if (role != Qt::DisplayRole) return {};
  if (orientation == Qt::Vertical) return section + 1;
  if (section < 0 || section >= columnCount()) return {};
  return QString::fromStdString(table_.columns[static_cast<std::size_t>(section)].title);
}

void BarDelegate::paint(QPainter* painter, const QStyleOptionViewItem& option,
                        const QModelIndex& index) const {
  if (const QVariant share = index.data(TableModel::kShareRole); share.isValid()) {
    QRect bar = option.rect.adjusted(1, 2, -1, -2);
    bar.setWidth(static_cast<int>(bar.width() * share.toDouble()));
    QColor colour = Chart::colour(0);
    colour.setAlpha(70);
    painter->fillRect(bar, colour);
  }
  QStyledItemDelegate::paint(painter, option, index);
}

TableView::TableView(QWidget* parent) : QTableView(parent), model_(new TableModel(this)) {
  auto* const sorted = new QSortFilterProxyModel(this);
  sorted->setSourceModel(model_);
  sorted->setSortRole(TableModel::kValueRole);
  setModel(sorted);
  setItemDelegate(new BarDelegate(this));
  setSortingEnabled(true);
  sortByColumn(-1, Qt::AscendingOrder);
  setSelectionBehavior(QAbstractItemView::SelectRows);
  setAlternatingRowColors(true);
  setEditTriggers(QAbstractItemView::NoEditTriggers);
  verticalHeader()->hide();
  verticalHeader()->setDefaultSectionSize(fontMetrics().height() + 6);
  horizontalHeader()->setStretchLastSection(true);
  setWordWrap(false);
}

void TableView::show_table(Table table, const QStringList& bars) {
  const bool same = table.columns.size() == model_->table().columns.size();
  model_->set(std::move(table), bars);
  if (!same) resizeColumnsToContents();
}

int TableView::source_row(const QModelIndex& index) const {
  return static_cast<QSortFilterProxyModel*>(model())->mapToSource(index).row();
}

void TableView::save(const QString& file) const {
  QSaveFile out(file);
  if (!out.open(QIODevice::WriteOnly)) throw Error(file.toStdString(), out.errorString().toStdString());
  out.write(QByteArray::fromStdString(to_csv(model_->table())));
  if (!out.commit()) throw Error(file.toStdString(), out.errorString().toStdString());
}

void TableView::keyPressEvent(QKeyEvent* event) {
  if (!event->matches(QKeySequence::Copy)) return QTableView::keyPressEvent(event);
  QString text;
  QModelIndexList rows = selectionModel()->selectedRows();
  std::sort(rows.begin(), rows.end(), [](const auto& a, const auto& b) { return a.row() < b.row(); });
  for (const QModelIndex& row : rows)
    for (int c = 0; c < model()->columnCount(); ++c)
      text += model()->index(row.row(), c).data().toString() +
              (c + 1 < model()->columnCount() ? QStringLiteral("\t") : QStringLiteral("\n"));
  QApplication::clipboard()->setText(text);
}

}  // namespace foretoken::gui
