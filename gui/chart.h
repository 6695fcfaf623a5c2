// The one chart widget: QCustomPlot with titles and units on its axes, the legend below the data, colours
// that follow the window's palette. Nothing else in gui/ names a colour.
#pragma once

#include <QString>
#include <functional>
#include <vector>

// Its header wants Qt's keywords, which are names of ours elsewhere.
#define signals Q_SIGNALS
#define slots Q_SLOTS
#define emit
#define foreach Q_FOREACH
#include <qcustomplot.h>
#undef signals
#undef slots
#undef emit
#undef foreach

namespace foretoken::gui {

class Chart : public QCustomPlot {
  Q_OBJECT

 public:
  explicit Chart(QWidget* parent = nullptr);

  // Takes away everything but the axes; those get titles ("requests/s"), and linear scales.
  void start(const QString& x, const QString& y);
  void logarithmic(QCPAxis* axis);
  void finish(bool legend);  // colours, and draws

  // The i-th of a set of colours that differ for everybody, on dark and light ground alike.
  static QColor colour(int i);
  QColor faint(int i) const;  // the same, to fill with
  QColor text_colour() const;
  static QColor wrong_colour(const QPalette& palette);  // of text that names an error

  QCPGraph* line(const QString& name, int colour, const QVector<double>& x, const QVector<double>& y,
                 Qt::PenStyle style = Qt::SolidLine, bool points = true);
  // Between two lines, which have no name in the legend.
  void band(const QString& name, int colour, const QVector<double>& x, const QVector<double>& low,
            const QVector<double>& high);
  QCPGraph* dots(const QString& name, int colour, const QVector<double>& x, const QVector<double>& y,
                 double size = 6);
  // A line over the whole width (or height) at a value, with a word at its end: left or right, above or
  // below.
  void mark_y(double y, const QString& text, int colour, Qt::Alignment where = Qt::AlignRight | Qt::AlignTop);
  // where: of the word beside the line, Qt::AlignLeft or AlignRight with Qt::AlignTop or AlignBottom.
  void mark_x(double x, const QString& text, int colour, Qt::Alignment where = Qt::AlignRight | Qt::AlignTop);

  // Pixels that a chart of so many rows needs, for a line of text each.
  int height_of_rows(int rows) const;

  // A word to the right of a point and below it, so many pixels aside.
  void name_point(double x, double y, const QString& text, int aside);

  // Every named series, with the axes' titles and units; or what was set, where drawn things are no series.
  QString csv() const;
  void set_csv(std::function<QString()> csv) { csv_ = std::move(csv); }

 protected:
  void changeEvent(QEvent* event) override;
  void resizeEvent(QResizeEvent* event) override;
  void paintEvent(QPaintEvent* event) override;

 private:
  QColor ink(int i) const;                                       // to write with
  QCPItemText* word(const QString& text, const QColor& colour);  // to be placed
  void use_palette();
  void fit_legend();  // as many columns as find room; none of it where the chart is low
  std::function<QString()> csv_;
  bool legend_shown_ = false;
  QCPLayoutGrid* legend_row_ = nullptr;
};

}  // namespace foretoken::gui
