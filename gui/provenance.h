// Where what is saved came from: written into pictures, drawings, tables and results beside the numbers.
#pragma once

#include <QList>
#include <QString>
#include <utility>

#include "base/table.h"

class QImage;
class QWidget;

namespace foretoken::gui {

class Chart;

struct Provenance {
  QString title;  // of what is saved
  QList<std::pair<QString, QString>>
      facts;                // "Software": "foretoken 0.1.0 (1a2b3c4), database 5d6e7f, seed 0"
  QString text() const;     // a line each: "Software: ..."
  QString comment() const;  // the same and the title, as lines that begin with "# "
};

// Program and date alone: to be told what the numbers are of.
Provenance provenance_of(const QString& title);

// By the suffix: .png, .svg, .csv (charts, and tables: that alone). Throw Error.
void save_chart(Chart& chart, const QString& file, const Provenance& from);
void save_table(const Table& table, const QString& file, const Provenance& from);
void save_widget(QWidget& widget, const QString& file, const Provenance& from);  // as it looks; .png, .svg
// PNG text chunks (keywords of the PNG specification where it has one).
void add_text(QImage& image, const Provenance& from);

}  // namespace foretoken::gui
