// What can't be true, and what need not be kept.
#pragma once

#include <string_view>
#include <vector>

#include "hwdb/device.h"
#include "hwdb/measurement.h"

namespace foretoken {

// Rows may beat the datasheet by this much (clocks, caches); more is an error of measurement.
inline constexpr double kFasterThanLight = 1.05;
// "" or why the row is dropped.
std::string_view implausible(const Measurement& row, const Device& device, const Topology& topology);
// "" or why a whole series of attention is dropped: its smallest operators (speed of light under 2 us) take
// over 80 us, so kernels were launched one by one and the rows are the launching host's times.
std::string_view host_bound(const MeasurementSeries& series, const std::vector<MeasuredPoint>& points,
                            const Device& device, const Topology& topology);
// Drops rows that interpolation between the kept ones gives within `tolerance` (relative). Rows of one
// series.
void thin(const MeasurementSeries& series, std::vector<MeasuredPoint>& points, const Device& device,
          const Topology& topology, double tolerance);

}  // namespace foretoken
