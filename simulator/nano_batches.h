// Steps whose operators of different nano-batches run together, as NanoFlow's do (Zhu et al. 2024): compute-,
// memory- and network-bound ones share the device, and the step takes what its busiest resource takes.
#pragma once

#include <array>
#include <cstdint>

#include "model/operator.h"

namespace foretoken {

// Rows of the two nano-batches that a step of so many rows is split into, in the published configuration's
// shares: 640 and 1408 of 2048. The weights are read by each of them.
std::array<std::int64_t, 2> nano_batches(std::int64_t rows);

// Device time of a layer-wise part of a step, from the time that its compute-, memory- (decode attention) and
// network-bound operators take alone, in one unit. An operator that is given the share R of the device takes
// R from the matrix products and reaches P(R) of its own speed; the smallest shares with which nobody is late
// are chosen. Never more than the sum of all, never less than the largest.
double overlapped(double compute, double memory, double network);

inline bool is_network_bound(const Op& op) { return std::holds_alternative<CollectiveShape>(op.shape); }

}  // namespace foretoken
