// The answer in large figures, above all views: latency, throughput, load and cost with their 90 % intervals,
// or why there is none.
#pragma once

#include <QWidget>
#include <vector>

#include "gui/session.h"

namespace foretoken::gui {

class Headline : public QWidget {
  Q_OBJECT

 public:
  explicit Headline(Session& session, QWidget* parent = nullptr);

  struct Figure {
    QString name, value, detail, help;
    bool wrong = false;
  };
  // Left to right; where there is no answer one, that says why.
  const std::vector<Figure>& figures() const { return figures_; }
  QSize sizeHint() const override;
  QSize minimumSizeHint() const override;

 protected:
  void paintEvent(QPaintEvent* event) override;
  bool event(QEvent* event) override;  // tooltips

 private:
  void refresh();
  int left_of(std::size_t i) const;

  Session& session_;
  QString problem_;
  std::vector<Figure> figures_;
};

}  // namespace foretoken::gui
