// Steps of engines as rectangles over time: a lane an engine, coloured by the share of prompt tokens. What is
// narrower than a pixel is drawn as one pixel with the mean colour, so that any number of steps draws at
// once.
#pragma once

#include <QString>
#include <optional>
#include <utility>
#include <vector>

#include "base/table.h"
#include "deployment/deployment.h"
#include "gui/chart.h"
#include "serving/timeline.h"

namespace foretoken::gui {

inline double to_s(Picoseconds t) { return to_seconds(t).value; }

// What a tooltip says of it.
QString step_text(const TimelineWriter::StepEvent& step, const QString& engine);
// Every step and span as a row, times in s; a span's steps end at even distances but for its increment.
Table step_table(const Recording& recording, const std::vector<QString>& engines);
// "engine 0", or "prefill 0" and "decode 1", or the device of unlike replicas. `engines`: at least so many.
std::vector<QString> engine_names(const Deployment& deployment, std::size_t engines);

// Plain numbers with as many decimals as tell ticks apart, however far one zooms in.
class TimeTicker : public QCPAxisTicker {
 protected:
  double getTickStep(const QCPRange& range) override;
  QString getTickLabel(double tick, const QLocale& locale, QChar format, int precision) override;

 private:
  int decimals_ = 0;
};

// Names of lanes, and not more than fit above one another.
class LaneTicker : public QCPAxisTicker {
 public:
  LaneTicker(QCPAxis* axis, std::vector<QString> names) : axis_(axis), names_(std::move(names)) {}

 protected:
  double getTickStep(const QCPRange& range) override;
  int getSubTickCount(double step) override;
  QString getTickLabel(double tick, const QLocale& locale, QChar format, int precision) override;

 private:
  QCPAxis* axis_;
  std::vector<QString> names_;
};

// Key axis: time in s. Value axis: lane i reaches from i - 0.4 to i + 0.4.
class StepLanes : public QCPAbstractPlottable {
 public:
  struct Bar {
    double start = 0, end = 0;  // s
    double prefill = 0;         // of its tokens
    std::size_t step = 0;       // of the recording
  };
  // A part of a lane that belongs to a request, to be framed.
  struct Frame {
    std::int32_t lane = 0;
    double start = 0, end = 0;  // s
  };

  StepLanes(QCPAxis* time, QCPAxis* lane) : QCPAbstractPlottable(time, lane) {}
  void set(const Recording& recording, std::size_t lanes);
  void set_frames(std::vector<Frame> frames) { frames_ = std::move(frames); }
  const std::vector<std::vector<Bar>>& lanes() const { return lanes_; }
  const std::vector<Frame>& frames() const { return frames_; }
  // How much one drew last: rectangles.
  std::size_t drawn() const { return drawn_; }

  // The lane at a position in the chart; -1: none.
  int lane_at(const QPointF& position) const;
  const Bar* bar_at(const QPointF& position) const;

  double selectTest(const QPointF& position, bool only_selectable, QVariant* details) const override;
  QCPRange getKeyRange(bool& found, QCP::SignDomain domain) const override;
  QCPRange getValueRange(bool& found, QCP::SignDomain domain, const QCPRange& keys) const override;

  // Between the colours of decoding and of prompts.
  static QColor blend(double prefill);

 protected:
  void draw(QCPPainter* painter) override;
  void drawLegendIcon(QCPPainter* painter, const QRectF& rect) const override;

 private:
  void draw_lane(QCPPainter* painter, const std::vector<Bar>& bars, double top, double height);

  std::vector<std::vector<Bar>> lanes_;
  std::vector<Frame> frames_;
  std::size_t drawn_ = 0;
};

}  // namespace foretoken::gui
