#include "gui/provenance.h"

#include <QDateTime>
#include <QImage>
#include <QPainter>
#include <QSaveFile>
#include <QSvgGenerator>
#include <QWidget>

#include "base/error.h"
#include "cli/version.h"
#include "gui/chart.h"

namespace foretoken::gui {
namespace {

[[noreturn]] void fail(const QString& file, const QString& why) {
  throw Error(file.toStdString(), why.toStdString());
}

// Either whole or not there.
template <class Write>
void write(const QString& file, Write&& write_into) {
  QSaveFile out(file);
  if (!out.open(QIODevice::WriteOnly)) fail(file, out.errorString());
  write_into(out);
  if (!out.commit()) fail(file, out.errorString());
}

void write_png(const QString& file, QImage image, const Provenance& from) {
  add_text(image, from);
  write(file, [&](QIODevice& out) {
    if (!image.save(&out, "PNG")) fail(file, QStringLiteral("the picture can't be written"));
  });
}

template <class Paint>
void write_svg(const QString& file, const QWidget& of, const Provenance& from, Paint&& paint) {
  write(file, [&](QIODevice& out) {
    QSvgGenerator svg;
    svg.setOutputDevice(&out);
    svg.setSize(of.size());
    svg.setViewBox(of.rect());
    svg.setResolution(of.logicalDpiX());  // letters as large as they were laid out
    svg.setTitle(from.title);
    svg.setDescription(from.text());
    paint(svg);
  });
}

}  // namespace

QString Provenance::text() const {
  QStringList lines;
  for (const auto& [key, value] : facts) lines << key + QStringLiteral(": ") + value;
  return lines.join(u'\n');
}

QString Provenance::comment() const {
  QString lines;
  for (QString line : (title + u'\n' + text()).split(u'\n'))
    lines += QStringLiteral("# ") + line.remove(u'\r') + u'\n';
  return lines;
}

Provenance provenance_of(const QString& title) {
  const std::string commit = git_commit();
  return {title,
          {{QStringLiteral("Software"),
            QString::fromStdString("foretoken " + program_version() +
                                   (commit.empty() ? std::string() : " (" + commit + ")"))},
           {QStringLiteral("Creation Time"), QDateTime::currentDateTimeUtc().toString(Qt::ISODate)}}};
}

void add_text(QImage& image, const Provenance& from) {
  image.setText(QStringLiteral("Title"), from.title);
  for (const auto& [key, value] : from.facts) image.setText(key, value);
}

void save_chart(Chart& chart, const QString& file, const Provenance& from) {
  if (file.endsWith(QStringLiteral(".csv"))) {
    write(file, [&](QIODevice& out) { out.write((from.comment() + chart.csv()).toUtf8()); });
  } else if (file.endsWith(QStringLiteral(".png"))) {
    write_png(file, chart.toPixmap(chart.width(), chart.height(), 2).toImage(), from);
  } else if (file.endsWith(QStringLiteral(".svg"))) {
    write_svg(file, chart, from, [&](QSvgGenerator& svg) {
      QCPPainter painter;
      painter.begin(&svg);
      painter.setMode(QCPPainter::pmVectorized);
      chart.toPainter(&painter, chart.width(), chart.height());
      painter.end();
    });
  } else {
    fail(file, QStringLiteral("charts are saved as .png, .svg or .csv"));
  }
}

void save_table(const Table& table, const QString& file, const Provenance& from) {
  if (!file.endsWith(QStringLiteral(".csv"))) fail(file, QStringLiteral("tables are saved as .csv"));
  write(file, [&](QIODevice& out) {
    out.write(from.comment().toUtf8() + QByteArray::fromStdString(to_csv(table)));
  });
}

void save_widget(QWidget& widget, const QString& file, const Provenance& from) {
  if (file.endsWith(QStringLiteral(".png"))) {
    QPixmap picture(2 * widget.size());
    picture.setDevicePixelRatio(2);
    widget.render(&picture);
    write_png(file, picture.toImage(), from);
  } else if (file.endsWith(QStringLiteral(".svg"))) {
    write_svg(file, widget, from, [&](QSvgGenerator& svg) { widget.render(&svg); });
  } else {
    fail(file, QStringLiteral("views are saved as .png or .svg; their charts and tables as .csv too"));
  }
}

}  // namespace foretoken::gui
