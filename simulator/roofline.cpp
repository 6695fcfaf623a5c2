// Roofline with three corrections (catalogue 0.4): t = floor + max(FLOPs / (peak x wave x tile), bytes /
// ramped bandwidth). Efficiencies are plateaus seen over several devices, not fits to one.
#include <algorithm>
#include <array>
#include <cmath>

#include "simulator/collectives.h"
#include "simulator/cost_model.h"

namespace foretoken {
namespace {

// Kernel floor inside a CUDA graph (formulas.md 2.12: 2.5 us H200, 1.8 us B200 for an empty GEMM).
constexpr double kFloor = 2.2e-6;
// Plateau of streaming kernels: median fraction of peak bandwidth of M <= 64 GEMMs is 0.65 to 0.76, p90 0.74
// to 0.88 over five devices (formulas.md 3.6); the ramp below supplies the difference for small sizes.
constexpr double kStream = 0.86;
constexpr double kElementwiseStream = 0.80;
// A read of an NVMe drive (tens of microseconds by their datasheets) through the file system.
constexpr double kStorageLatency = 100e-6;

struct Tile {
  int m, n;
  double efficiency;  // plateau of the matrix units with this tile
};
// Larger tiles reuse operands better; 0.80 at M = 4096 (formulas.md 3.6).
constexpr std::array<Tile, 6> kTiles = {
    {{256, 128, 0.82}, {128, 256, 0.82}, {128, 128, 0.74}, {128, 64, 0.60}, {64, 128, 0.60}, {64, 64, 0.46}}};

// Narrow formats feed the units worse: fp8 0.49 to 0.56, nvfp4 about 0.4 of their peak (formulas.md 3.6).
double format_efficiency(DType t) {
  if (t == DType::kFp8 || t == DType::kInt8) return 0.70;
  if (t == DType::kFp4) return 0.50;
  return 1.0;
}

// Cards that live on the slot's 75 W fall back to their base clock when all vector units work: 585 of 1590
// MHz (T4), 795 of 2040 MHz (L4) by their datasheets. Said of 32-bit products alone; nothing is known here of
// the matrix units.
constexpr double kSlotWatts = 75, kBaseClockShare = 0.38;
double sustained_clock(DType t, const Device& d) {
  return t == DType::kF32 && d.tdp_watts > 0 && d.tdp_watts <= kSlotWatts ? kBaseClockShare : 1.0;
}

// Seconds of compute of an m x n x k product repeated `groups` times side by side. Non-decreasing in m, n and
// k: each tile's wave count is, and so is their minimum.
double matrix_seconds(double m, double n, double k, double groups, double peak, int units,
                      double efficiency) {
  if (peak <= 0) return std::numeric_limits<double>::infinity();
  const double per_unit = peak / units;
  double best = std::numeric_limits<double>::infinity();
  for (const Tile& t : kTiles) {
    const double tiles = std::ceil(m / t.m) * std::ceil(n / t.n) * groups;
    // Fewer tiles than units: the k dimension is split over the idle ones, at most 8 ways (formulas.md 2.10).
    const double split = std::clamp(std::floor(units / tiles), 1.0, 8.0);
    const double waves = std::ceil(tiles * split / units);
    best = std::min(best, waves * 2.0 * t.m * t.n * (k / split) / (per_unit * t.efficiency * efficiency));
  }
  return best;
}

double stream_seconds(double bytes, const Device& d, double efficiency) {
  return bytes / (d.memory_bandwidth.value * efficiency);
}

// Half the peak of plain fp32. Datasheets of TPUs, Gaudis and Ascends don't give it: there memory alone
// bounds what takes a few operations a byte, as it does on every device that says.
double vector_seconds(double flops, const Device& d) {
  return d.fp32_peak.value > 0 ? flops / (d.fp32_peak.value * 0.5) : 0;
}

int units_of(const Device& d) { return d.sm_count > 0 ? d.sm_count : 64; }

struct RooflineTime {
  const Op& op;
  const Device& d;
  const Topology& topology;
  double moved = bytes(op).value;

  double operator()(const GemmShape& g) const {
    const DType t = compute_type(op, d.has_fp4());
    const double compute =
        matrix_seconds(static_cast<double>(g.m), static_cast<double>(g.n), static_cast<double>(g.k),
                       static_cast<double>(g.batch), d.peak(t).value, units_of(d),
                       format_efficiency(t) * sustained_clock(t, d));
    return kFloor + std::max(compute, stream_seconds(moved, d, kStream));
  }
  double operator()(const MoeShape& s) const {
    const DType t = compute_type(op, d.has_fp4());
    // The fullest expert sets the pace of the grouped product once experts outnumber the units.
    const double rows = s.distinct_experts > 0 ? s.local_rows / s.distinct_experts : 0;
    const double matrices = s.gated ? 2 : 1, experts = std::max(1.0, s.distinct_experts);
    const double efficiency = 0.8 * format_efficiency(t);
    const double up =
        matrix_seconds(rows, matrices * static_cast<double>(s.inter), static_cast<double>(s.hidden), experts,
                       d.peak(t).value, units_of(d), efficiency);
    const double down = matrix_seconds(rows, static_cast<double>(s.hidden), static_cast<double>(s.inter),
                                       experts, d.peak(t).value, units_of(d), efficiency);
    const double imbalance = std::max(1.0, s.imbalance);
    // Routing, permutation and the weighted sum are kernels of their own.
    return 4 * kFloor + std::max((up + down) * imbalance, stream_seconds(moved, d, 0.75));
  }
  double operator()(const AttentionShape& a) const {
    const double f = flops(op).value;
    const DType t = a.activation == DType::kF32 ? DType::kF32 : DType::kBf16;
    if (a.decode) {
      // Split-KV decode: a second kernel combines the parts.
      return 2 * kFloor + 2e-6 +
             std::max(f / (d.peak(t).value * (a.mla ? 0.55 : 0.35)), stream_seconds(moved, d, 0.80));
    }
    // Blocks of 128 query rows a head; each walks its keys. 0.61 to 0.64 of peak at 8k tokens on Hopper
    // (3.6); devices without asynchronous matrix instructions run FlashAttention-2: 0.46 on A100, 0.48 on
    // L40S.
    const bool asynchronous = !d.generation.starts_with("8.") && !d.generation.starts_with("12.");
    const double plateau = asynchronous ? 0.62 : 0.47;
    const double blocks =
        static_cast<double>(a.sequences * a.heads) * std::ceil(static_cast<double>(a.new_tokens) / 128);
    const double useful =
        static_cast<double>(a.new_tokens) / (128 * std::ceil(static_cast<double>(a.new_tokens) / 128));
    const double waves = std::ceil(blocks / units_of(d)) * units_of(d) / blocks;
    const double compute = f / useful * waves / (d.peak(t).value * plateau);
    return 2 * kFloor + std::max(compute, stream_seconds(moved, d, 0.80));
  }
  double operator()(const IndexerShape&) const {
    const DType t = d.fp8_peak.value > 0 ? DType::kFp8 : DType::kBf16;
    return 2 * kFloor + std::max(flops(op).value / (d.peak(t).value * 0.40), stream_seconds(moved, d, 0.70));
  }
  double operator()(const RecurrentShape& r) const {
    if (r.form == Recurrence::kConvolution)
      return kFloor +
             std::max(stream_seconds(moved, d, kElementwiseStream), vector_seconds(flops(op).value, d));
    // Chunked scans alternate small products and state updates; about a third of the plateau.
    return 2 * kFloor +
           std::max(flops(op).value / (d.peak(r.activation).value * 0.25), stream_seconds(moved, d, 0.70));
  }
  double operator()(const ElementwiseShape&) const {
    return kFloor + std::max(activation_stream(Bytes(moved), d, kElementwiseStream).value,
                             vector_seconds(flops(op).value, d));
  }
  double operator()(const SamplingShape&) const { return 3 * kFloor + stream_seconds(moved, d, 0.5); }
  double operator()(const CollectiveShape& c) const { return collective_time(c, d, topology).value; }
  double operator()(const CopyShape& c) const {
    // What a scenario says of its storage is what it reaches.
    if (c.from_storage) return kStorageLatency + c.bytes / d.storage_bandwidth.value;
    // A processor has no link to its own memory: the copy reads and writes it.
    const bool link = d.pcie_bandwidth.value > 0;
    return 10e-6 +
           c.bytes / (kHostLinkShare * (link ? d.pcie_bandwidth.value : d.memory_bandwidth.value / 2));
  }
};

}  // namespace

Seconds roofline_time(const Op& op, const Device& device, const Topology& topology) {
  return Seconds(std::visit(RooflineTime{op, device, topology}, op.shape));
}

}  // namespace foretoken
