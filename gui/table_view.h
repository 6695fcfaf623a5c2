// Tables of results in the window: the cells of base/table.h, numbers to the right with as many digits as in
// text, bars where a column is a share, sorting, copying and export.
#pragma once

#include <QAbstractTableModel>
#include <QStyledItemDelegate>
#include <QTableView>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "base/table.h"

namespace foretoken::gui {

class TableModel : public QAbstractTableModel {
  Q_OBJECT

 public:
  static constexpr int kValueRole = Qt::UserRole;      // the number, for sorting and bars
  static constexpr int kShareRole = Qt::UserRole + 1;  // of the column's largest, 0 to 1; invalid: no bar

  explicit TableModel(QObject* parent = nullptr) : QAbstractTableModel(parent) {}
  // bars: keys of the columns that have them.
  void set(Table table, const QStringList& bars = {});
  const Table& table() const { return table_; }

  int rowCount(const QModelIndex& parent = {}) const override;
  int columnCount(const QModelIndex& parent = {}) const override;
  QVariant data(const QModelIndex& index, int role) const override;
  QVariant headerData(int section, Qt::Orientation orientation, int role) const override;
  bool is_constant(int column) const { return columns_[static_cast<std::size_t>(column)].constant; }
  // Rows of a column's least and greatest number.
  std::pair<int, int> extremes(int column) const;

 private:
  Table table_;
  struct Column {
    double bar = 0;           // the value whose bar is full; 0: no bars
    bool numbers = false;     // in some row
    bool constant = true;     // the same in all rows
    int least = 0, most = 0;  // rows of its extremes: the longest numbers
  };
  std::vector<Column> columns_;
};

class BarDelegate : public QStyledItemDelegate {
 public:
  using QStyledItemDelegate::QStyledItemDelegate;
  void paint(QPainter* painter, const QStyleOptionViewItem& option, const QModelIndex& index) const override;
};

class TableView : public QTableView {
  Q_OBJECT

 public:
  explicit TableView(QWidget* parent = nullptr);
  void show_table(Table table, const QStringList& bars = {});
  TableModel* rows() const { return model_; }
  int source_row(const QModelIndex& index) const;  // of the table, whatever it is sorted by
  // Columns that give way where not all find room, those that say the same in all rows before the others, and
  // of these the first one first; the menu of the header brings them back. Keys in one string go together.
  void set_expendable(const QStringList& keys) { expendable_ = keys; }

 protected:
  void resizeEvent(QResizeEvent* event) override;
  void keyPressEvent(QKeyEvent* event) override;

 private:
  void fit_columns();
  void choose_columns(const QPoint& at);
  int header_width(int column) const;
  int width_of(int column, bool whole) const;  // not whole: of text as much as can be read

  TableModel* model_;
  QStringList expendable_;
  std::map<std::string, bool> chosen_;  // by key: shown or hidden by hand
};

QString cell_text(const Cell& cell, int digits);
// "1,234", "0.0123": so many significant digits, and thousands apart.
QString figures(double value, int digits);

}  // namespace foretoken::gui
