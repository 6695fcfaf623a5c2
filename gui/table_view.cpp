#include "gui/table_view.h"

#include <QApplication>
#include <QClipboard>
#include <QHeaderView>
#include <QKeyEvent>
#include <QMenu>
#include <QPainter>
#include <QSortFilterProxyModel>
#include <algorithm>
#include <cmath>

#include "base/text.h"
#include "gui/chart.h"

namespace foretoken::gui {
namespace {

constexpr int kMeasuredRows = 100, kCellMargin = 14, kHeaderMargin = 18, kLeastCharacters = 14;

double number_of(const Cell& cell) {
  if (const auto* d = std::get_if<double>(&cell)) return *d;
  if (const auto* i = std::get_if<std::int64_t>(&cell)) return static_cast<double>(*i);
  return 0;
}
bool is_number(const Cell& cell) {
  return std::holds_alternative<double>(cell) || std::holds_alternative<std::int64_t>(cell);
}

}  // namespace

QString figures(double value, int digits) {
  const std::string text = significant(value, digits);
  const auto whole = parse_int(text);
  return QString::fromStdString(whole && text.find('e') == std::string::npos ? with_commas(*whole) : text);
}

QString cell_text(const Cell& cell, int digits) {
  if (const auto* d = std::get_if<double>(&cell)) return figures(*d, digits);
  if (const auto* i = std::get_if<std::int64_t>(&cell)) return QString::fromStdString(with_commas(*i));
  if (const auto* b = std::get_if<bool>(&cell)) return *b ? QStringLiteral("yes") : QStringLiteral("no");
  if (const auto* s = std::get_if<std::string>(&cell)) return QString::fromStdString(*s);
  return QStringLiteral("-");
}

void TableModel::set(Table table, const QStringList& bars) {
  beginResetModel();
  table_ = std::move(table);
  columns_.assign(table_.columns.size(), {});
  for (std::size_t c = 0; c < table_.columns.size(); ++c) {
    Column& column = columns_[c];
    double least = 0, most = 0;
    for (std::size_t r = 0; r < table_.rows.size(); ++r) {
      if (column.constant && table_.rows[r][c] != table_.rows.front()[c]) column.constant = false;
      if (!is_number(table_.rows[r][c])) continue;
      const double value = number_of(table_.rows[r][c]);
      if (!column.numbers || value < least) least = value, column.least = static_cast<int>(r);
      if (!column.numbers || value > most) most = value, column.most = static_cast<int>(r);
      column.numbers = true;
    }
    if (bars.contains(QString::fromStdString(table_.columns[c].key))) column.bar = std::max(0.0, most);
  }
  endResetModel();
}

std::pair<int, int> TableModel::extremes(int column) const {
  const Column& c = columns_[static_cast<std::size_t>(column)];
  return {c.least, c.most};
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
      return QVariant((columns_[column].numbers && !std::holds_alternative<std::string>(cell)
                           ? Qt::AlignRight
                           : Qt::AlignLeft) |
                      Qt::AlignVCenter);
    case kValueRole:
      return is_number(cell) ? QVariant(number_of(cell)) : QVariant(cell_text(cell, 6));
    case kShareRole:
      if (columns_[column].bar > 0 && is_number(cell))
        return std::clamp(number_of(cell) / columns_[column].bar, 0.0, 1.0);
      return {};
    default:
      return {};
  }
}

QVariant TableModel::headerData(int section, Qt::Orientation orientation, int role) const {
  if (role != Qt::DisplayRole && role != Qt::ToolTipRole) return {};
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
  setTabKeyNavigation(false);  // Tab leaves the table; arrows go through it
  verticalHeader()->hide();
  verticalHeader()->setDefaultSectionSize(fontMetrics().height() + 6);
  horizontalHeader()->setStretchLastSection(true);
  horizontalHeader()->setMinimumSectionSize(24);
  horizontalHeader()->setContextMenuPolicy(Qt::CustomContextMenu);
  connect(horizontalHeader(), &QWidget::customContextMenuRequested, this, &TableView::choose_columns);
  setWordWrap(false);
  setTextElideMode(Qt::ElideMiddle);
}

void TableView::show_table(Table table, const QStringList& bars) {
  model_->set(std::move(table), bars);
  fit_columns();
}

void TableView::resizeEvent(QResizeEvent* event) {
  QTableView::resizeEvent(event);
  if (event->size().width() != event->oldSize().width()) fit_columns();
}

// Of hidden ones too, whose size hint is 0.
int TableView::header_width(int column) const {
  return horizontalHeader()->fontMetrics().horizontalAdvance(
             model_->headerData(column, Qt::Horizontal, Qt::DisplayRole).toString()) +
         kHeaderMargin;
}

int TableView::width_of(int column, bool whole) const {
  int width = header_width(column);
  const QFontMetrics metrics = fontMetrics();
  const int readable = metrics.horizontalAdvance(u'x') * kLeastCharacters;
  const auto fit = [&](int r) {
    const int cell = metrics.horizontalAdvance(model_->index(r, column).data().toString()) + kCellMargin;
    const bool text = std::holds_alternative<std::string>(
        model_->table().rows[static_cast<std::size_t>(r)][static_cast<std::size_t>(column)]);
    width = std::max(width, text && !whole ? std::min(cell, readable) : cell);
  };
  // The first rows, and the greatest numbers: a table may have a hundred thousand.
  for (int r = 0; r < std::min(model_->rowCount(), kMeasuredRows); ++r) fit(r);
  if (model_->rowCount() > kMeasuredRows) {
    const auto [least, most] = model_->extremes(column);
    fit(least), fit(most);
  }
  return width;
}

// All columns as wide as their contents where there is room; else text gives way down to a readable part, and
// then the columns that are expendable.
void TableView::fit_columns() {
  const int columns = model_->columnCount(), room = viewport()->width();
  if (columns == 0) return;
  const auto key = [&](int c) { return model_->table().columns[static_cast<std::size_t>(c)].key; };
  std::vector<int> needs(static_cast<std::size_t>(columns)), least(needs);
  for (int c = 0; c < columns; ++c) {
    const auto i = static_cast<std::size_t>(c);
    needs[i] = width_of(c, true);
    least[i] = width_of(c, false);
  }
  std::vector<bool> shown(needs.size(), true);
  for (int c = 0; c < columns; ++c)
    if (const auto by_hand = chosen_.find(key(c)); by_hand != chosen_.end())
      shown[static_cast<std::size_t>(c)] = by_hand->second;
  const auto sum = [&](const std::vector<int>& widths) {
    int all = 0;
    for (std::size_t c = 0; c < widths.size(); ++c) all += shown[c] ? widths[c] : 0;
    return all;
  };
  for (const bool constant : {true, false})
    for (const QString& expendable : expendable_) {
      if (sum(least) <= room) break;
      const QStringList together = expendable.split(u' ');
      for (int c = 0; c < columns; ++c)
        if (together.contains(QString::fromStdString(key(c))) && !chosen_.contains(key(c)) &&
            (!constant || model_->is_constant(c)))
          shown[static_cast<std::size_t>(c)] = false;
    }
  // What is over goes to the columns that were cut: to the first, which tells rows apart, what it needs, and
  // to the others in equal shares.
  std::vector<int> widths = least;
  int over = room - sum(least);
  const int first = std::clamp(over, 0, needs[0] - least[0]);
  widths[0] += first, over -= first;
  for (bool more = true; more && over > 0;) {
    more = false;
    for (std::size_t c = 0; c < widths.size() && over > 0; ++c)
      if (shown[c] && widths[c] < needs[c]) ++widths[c], --over, more = true;
  }
  for (int c = 0; c < columns; ++c) {
    const auto i = static_cast<std::size_t>(c);
    if (isColumnHidden(c) == shown[i]) setColumnHidden(c, !shown[i]);
    if (shown[i] && columnWidth(c) != widths[i]) setColumnWidth(c, widths[i]);
  }
  // Numbers stay beside their column's name.
  int last = columns - 1;
  while (last > 0 && !shown[static_cast<std::size_t>(last)]) --last;
  const auto& rows = model_->table().rows;
  horizontalHeader()->setStretchLastSection(!rows.empty() &&
                                            !is_number(rows.front()[static_cast<std::size_t>(last)]));
}

void TableView::choose_columns(const QPoint& at) {
  auto* const menu = new QMenu(this);
  menu->setAttribute(Qt::WA_DeleteOnClose);
  for (int c = 0; c < model_->columnCount(); ++c) {
    const std::string key = model_->table().columns[static_cast<std::size_t>(c)].key;
    QAction* const a = menu->addAction(model_->headerData(c, Qt::Horizontal, Qt::DisplayRole).toString());
    a->setCheckable(true);
    a->setChecked(!isColumnHidden(c));
    connect(a, &QAction::toggled, this, [this, key](bool on) {
      chosen_[key] = on;
      fit_columns();
    });
  }
  menu->popup(horizontalHeader()->mapToGlobal(at));
}

int TableView::source_row(const QModelIndex& index) const {
  return static_cast<QSortFilterProxyModel*>(model())->mapToSource(index).row();
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
