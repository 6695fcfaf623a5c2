#include "simulator/cost_model.h"

#include <algorithm>
#include <cmath>

namespace foretoken {
namespace {

// Half-widths of 90 % intervals of the plain roofline: about twice the MAPE of rooflines on measured
// operators (formulas.md 3.5, 3.6): matrix products 0.35, attention 0.5, collectives 0.5, the rest 0.6.
constexpr double kLinkError = 0.5;
double roofline_error(const Op& op) {
  if (std::holds_alternative<GemmShape>(op.shape)) return 0.35;
  if (std::holds_alternative<AttentionShape>(op.shape)) return 0.5;
  if (std::holds_alternative<CollectiveShape>(op.shape) || std::holds_alternative<CopyShape>(op.shape))
    return kLinkError;
  return 0.6;
}

// Of decoding rows inside the prompts' kernel, on the profiles that the rule was found on.
constexpr double kInSharedCallError = 0.3;

std::string_view bound(const Op& op, const Device& device, Seconds time, Seconds limit) {
  if (std::holds_alternative<CollectiveShape>(op.shape) || std::holds_alternative<CopyShape>(op.shape))
    return limit.value > 0.3 * time.value ? "link" : "latency";
  if (limit.value < 0.3 * time.value) return "latency";
  const DType t = compute_type(op, device.has_fp4());
  const FlopsPerSecond peak = device.peak(t);
  const Seconds compute = peak.value > 0 ? flops(op) / peak : Seconds(0);
  return compute > bytes(op) / device.memory_bandwidth ? "compute" : "memory";
}

}  // namespace

Price CostModel::price_measured(const Op& op, const OperatorTime& row) const {
  const Seconds limit = speed_of_light(op, *device_, *topology_);
  const Seconds time = std::max(row.time, limit);
  return {time, row.basis, row.relative_error, bound(op, *device_, time, limit), limit};
}

// Rows of products of 8 bits are with the pass that rounds their input.
Price CostModel::without_quantising(const GemmShape& product, Price price) const {
  Op pass;
  pass.name = "scale_matrix";  // as aiconfigurator's tables have it
  pass.shape = quantising(product);
  const Price part = price_alone(pass);
  const double error =
      std::hypot(price.relative_error * price.time.value, part.relative_error * part.time.value);
  price.time = std::max(price.limit, price.time - part.time);
  price.relative_error = error / price.time.value;
  price.basis = std::max(price.basis, Basis::kInterpolated);
  return price;
}

Price CostModel::price(const Op& op) const {
  Price p = price_alone(op);
  p.time = std::max(factor_ * p.time + per_kernel_, p.limit);
  if (op.host_bytes > 0) {
    // The kernel reads its weights over the link as it computes.
    const Seconds link(op.host_bytes / (kHostLinkShare * device_->pcie_bandwidth.value));
    if (link > p.time)
      p = {link, Basis::kRoofline, kLinkError, "link", std::max(p.limit, link * kHostLinkShare)};
  }
  return p;
}

// A variable-length call of FlashAttention-2 that holds prompts and decoding rows: its paged kernel takes
// tiles of 64 query rows, of which a decoding row fills one, a multiprocessor works on one tile at a time,
// and nothing splits the keys. So decoding rows take as long as the prompts' kernel takes for 64 rows a
// sequence, and at least as one such tile. Heads are the slowest index of the grid, sequences run through
// first. Prompts' tiles run beside them: a short chunk costs its work, not the wait for its longest tile.
Price CostModel::price_in_shared_call(const Op& op) const {
  constexpr std::int64_t kTile = 64, kPromptRows = 4096;
  constexpr double kStream = 0.95;  // of the datasheet's bandwidth, where keys come from memory
  const auto& a = std::get<AttentionShape>(op.shape);
  Op prompt = op;
  auto& p = std::get<AttentionShape>(prompt.shape);
  p.decode = p.in_shared_call = false;
  p.sequences = 1, p.new_tokens = kPromptRows, p.cached = 0, p.window = 0, p.kv_tokens = 0;
  const Price of_prompt = price_alone(prompt);
  const double rate = flops(prompt).value / of_prompt.time.value;
  const Seconds limit = speed_of_light(op, *device_, *topology_);
  Op alone = op;
  std::get<AttentionShape>(alone.shape).in_shared_call = false;
  Price price = price_alone(alone);
  if (!a.decode) {
    price.time = std::min(price.time, std::max(Seconds(flops(op).value / rate), limit));
    return price;
  }

  const double units = std::max<double>(1, static_cast<double>(device_->sm_count));
  const double tiles = static_cast<double>(a.sequences * a.heads);
  const double tile_flops =
      2.0 * kTile * static_cast<double>(a.qk_dim + a.v_dim) * a.kv_tokens / static_cast<double>(a.sequences);
  const double compute = std::max(1.0, tiles / units) * tile_flops / (rate / units);
  // The query heads of a KV head find the keys in cache if they run at the same time, or if the keys of all
  // sequences for that head fit.
  const double group = static_cast<double>(a.heads) / static_cast<double>(a.kv_heads);
  const double together = std::clamp(std::floor(units / static_cast<double>(a.sequences)), 1.0, group);
  const double keys = a.kv_tokens * a.kv_bytes_per_token;
  const double cache = std::max(1.0, device_->last_level_cache.value);
  const double missed = std::clamp(keys / static_cast<double>(a.kv_heads) / cache - 1, 0.0, 1.0);
  const double read =
      keys * (1 + (group / together - 1) * missed) / (kStream * device_->memory_bandwidth.value);
  price.basis = std::max({price.basis, of_prompt.basis, Basis::kInterpolated});
  price.relative_error = std::max({price.relative_error, of_prompt.relative_error, kInSharedCallError});
  price.bound_by = compute > std::max(read, price.time.value) ? "compute" : "memory";
  price.time = std::max(price.time, Seconds(std::max(compute, read)));
  return price;
}

Price CostModel::price_alone(const Op& op) const {
  if (const auto* a = std::get_if<AttentionShape>(&op.shape); a && a->in_shared_call && a->sequences > 0)
    return price_in_shared_call(op);
  if (const auto row = kernels_->find(op)) {
    const Price price = price_measured(op, *row);
    const auto* g = std::get_if<GemmShape>(&op.shape);
    return g != nullptr && g->quantised_input ? without_quantising(*g, price) : price;
  }
  // A composite without a row of its own is the sum of its parts, where those were measured.
  if (std::holds_alternative<MoeShape>(op.shape)) {
    const std::vector<Op> parts = expand(op);
    Price sum;
    double weighted = 0;
    bool any = false;
    Basis worst = Basis::kMeasured;
    for (const Op& part : parts) {
      const auto row = kernels_->find(part);
      any |= row.has_value();
      const Price p = row ? price_measured(part, *row)
                          : Price{roofline_time(part, *device_, *topology_),
                                  Basis::kRoofline,
                                  roofline_error(part),
                                  {},
                                  {}};
      sum.time += static_cast<double>(part.count) * p.time;
      weighted += static_cast<double>(part.count) * p.time.value * p.relative_error;
      worst = std::max(worst, p.basis);
    }
    if (any && sum.time.value > 0) {
      sum.limit = speed_of_light(op, *device_, *topology_);
      sum.time = std::max(sum.time, sum.limit);
      sum.basis = worst;
      sum.relative_error = weighted / sum.time.value;
      sum.bound_by = bound(op, *device_, sum.time, sum.limit);
      return sum;
    }
  }
  const Seconds limit = speed_of_light(op, *device_, *topology_);
  const Seconds time = std::max(roofline_time(op, *device_, *topology_), limit);
  return {time, Basis::kRoofline, roofline_error(op), bound(op, *device_, time, limit), limit};
}

}  // namespace foretoken
