#include "simulator/instance_links.h"

#include <algorithm>
#include <cmath>

#include "model/kv_cache.h"
#include "simulator/collectives.h"

namespace foretoken {
namespace {

// Half-width of a link's time, as in roofline prices of collectives.
constexpr double kLinkError = 0.5;

// Of the widest layer: values of a token's queries (or of its attention's result) on one device, and heads.
double query_width(const Deployment& d) {
  double most = 0;
  for (const std::uint8_t kind : d.model.layers)
    if (const auto* a = std::get_if<GqaAttention>(&d.model.kinds[kind].mixer))
      most = std::max(most, static_cast<double>(a->heads * a->head_dim));
  return most / d.mapping.tensor_parallel;
}

double heads_of_device(const Deployment& d) {
  double most = 0;
  for (const std::uint8_t kind : d.model.layers)
    if (const auto* a = std::get_if<GqaAttention>(&d.model.kinds[kind].mixer))
      most = std::max(most, static_cast<double>(a->heads));
  return most / d.mapping.tensor_parallel;
}

}  // namespace

bool crosses_nodes(const Deployment& d, std::int32_t a, std::int32_t b) {
  const auto node = [&](std::int32_t i) {
    return i * d.mapping.tensor_parallel / d.topology.devices_per_node;
  };
  return a != b && (d.mapping.tensor_parallel > d.topology.devices_per_node || node(a) != node(b));
}

Picoseconds send_time(const Deployment& d, double bytes, bool over_network) {
  CollectiveShape c{.kind = Collective::kSendRecv,
                    .message_bytes = bytes,
                    .ranks = over_network ? d.topology.devices_per_node + 1 : 2,
                    .ranks_per_node = d.topology.devices_per_node,
                    .element = d.precision.activation};
  return d.model.num_layers * to_picoseconds(collective_time(c, d.device, d.topology));
}

Picoseconds query_exchange(const Deployment& d, std::int64_t tokens, bool over_network) {
  const double width = query_width(d), element = bytes_of(d.precision.activation);
  const auto n = static_cast<double>(tokens);
  return send_time(d, n * width * element, over_network) +
         send_time(d, n * (width * element + 8 * heads_of_device(d)), over_network);
}

double kv_bytes_of_layer(const Deployment& d) {
  return kv_bytes_per_token(d.model, d.mapping.stages.front(), d.precision.kv) /
         static_cast<double>(d.model.num_layers);
}

PricedPart link_part(Picoseconds time) {
  PricedPart p;
  p.time = p.by_basis[static_cast<std::size_t>(Basis::kRoofline)] = time;
  p.variance = std::pow(kLinkError * static_cast<double>(time), 2);
  return p;
}

}  // namespace foretoken
