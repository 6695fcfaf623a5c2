// What tests look at in a picture of a widget.
#pragma once

#include <QImage>
#include <QSet>
#include <QWidget>

namespace foretoken::gui {

inline int colours_in(const QImage& image) {
  QSet<QRgb> seen;
  for (int y = 0; y < image.height(); y += 3)
    for (int x = 0; x < image.width(); x += 3) seen.insert(image.pixel(x, y));
  return static_cast<int>(seen.size());
}

}  // namespace foretoken::gui
