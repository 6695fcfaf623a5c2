// One request's way through the serving system: a bar for each part of its life, one below the other.
#pragma once

#include <QWidget>
#include <string>
#include <vector>

#include "gui/chart.h"
#include "serving/metrics.h"

class QCheckBox;
class QLabel;

namespace foretoken::gui {

// In the order in which they happen; those up to "first step" add up to TTFT, with "decode" to E2EL.
struct LifePart {
  QString name;
  Picoseconds start = 0, duration = 0;  // start: after arrival
};
std::vector<LifePart> life_parts(const RequestRecord& record);

class Waterfall : public QWidget {
 public:
  explicit Waterfall(QWidget* parent = nullptr);
  void show_request(const RequestRecord& record, const QString& engine);
  void show_none();
  Chart* chart() const { return chart_; }

 private:
  void draw();
  QLabel* title_;
  QCheckBox* decode_;
  Chart* chart_;
  std::vector<LifePart> parts_;
};

}  // namespace foretoken::gui
