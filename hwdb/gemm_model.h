// A GEMM's time from a few physical terms, fitted to the rows of one engine and type: launch floor, memory
// traffic, and tiles that run in waves over the multiprocessors. Rows say by how much it errs; the lookup
// interpolates that.
#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "hwdb/device.h"
#include "model/operator.h"

namespace foretoken {

struct GemmSample {
  double m, n, k, batch, seconds;
};

class GemmModel {
 public:
  GemmModel() = default;
  // like: any GEMM of the type, for its widths. Starts from efficiencies that no row has corrected.
  GemmModel(const Device& device, const GemmShape& like);
  // Coordinate descent on the mean absolute logarithm of the error; deterministic.
  void fit(std::span<const GemmSample> rows);
  bool ready() const { return bandwidth_ > 0 && peak_ > 0; }

  double limit(double m, double n, double k, double batch) const;  // speed of light, s
  double time(double m, double n, double k, double batch) const;

  // Logarithms of: launch floor (us), share of the bandwidth, share of the peak, ns for 64 steps of k.
  static constexpr std::size_t kParameters = 5;
  using Parameters = std::array<double, kParameters>;
  const Parameters& parameters() const { return parameters_; }
  void set(const Parameters& p);
  // Takes the efficiencies that were fitted on another device of the architecture. What holds a small tile
  // back is latency, which slower multipliers don't lengthen: where a multiprocessor is slower than there,
  // small tiles come nearer to its peak.
  void borrow(const GemmModel& donor);

 private:
  double peak_ = 0, bandwidth_ = 0, processors_ = 1;
  double weight_bytes_ = 0, input_bytes_ = 0, output_bytes_ = 0;  // of an element
  Parameters parameters_{};
  double floor_ = 0, bandwidth_share_ = 1, peak_share_ = 1, step_ = 0, split_ = 0, slack_ = 1;
  std::array<double, 8> tile_step_{};  // s for one step of k of each tile
};

}  // namespace foretoken
