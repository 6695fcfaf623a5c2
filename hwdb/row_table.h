// Measured times of operators whose time follows one amount of work: elementwise kernels by rows of one
// width, and the few rows of sparse attention and its indexer.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "hwdb/curve.h"

namespace foretoken {

class RowTable {
 public:
  // width: what the rows of a curve share (bytes of a row, heads); key: how much of it. work = width x key.
  void add(double width, double key, double seconds, double spread, double sol);
  void finish();
  // A curve of this very width; nothing where there is none.
  std::optional<Reading> own(double width, double key) const;
  // Between the next narrower and the next wider curve, each read at equal work. except: a curve to leave
  // out.
  std::optional<Reading> near(double width, double key, double limit, int except = -1) const;
  struct Width {
    double width;
    Curve curve;
  };
  const std::vector<Width>& widths() const { return widths_; }

 private:
  std::vector<Width> widths_;  // sorted
};

}  // namespace foretoken
