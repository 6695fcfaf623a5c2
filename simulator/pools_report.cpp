// What estimate says of several kinds of engines, as JSON and as tables.
#include <fmt/format.h>

#include "base/json_full.h"
#include "simulator/report.h"

namespace foretoken {
Json pools_estimate_json(const Deployment& d, const PoolsEstimate& e) {
  const std::vector<const Deployment*> kinds = d.kinds();
  Json j;
  j["pools"] = Json::array();
  for (std::size_t i = 0; i < kinds.size(); ++i) {
    Json pool{{"name", pool_name(d, i)},
              {"device", kinds[i]->device.name},
              {"devices", kinds[i]->mapping.devices()},
              {"replicas", kinds[i]->mapping.replicas},
              {"share", e.pools[i].share},
              {"request_rate", e.pools[i].request_rate}};
    pool.update(estimate_json(*kinds[i], e.pools[i].estimate, {}));
    pool.erase("sensitivity");
    // Half of a deployment makes no tokens by itself.
    if (d.pools || e.pools[i].share == 0) pool["usd_per_million_tokens"] = nullptr;
    j["pools"].push_back(std::move(pool));
  }
  if (d.pools) j["transfer_ms"] = e.transfer_ms;
  j["utilization"] = e.utilization;
  j["ttft_ms"] = e.ttft_ms;
  j["tpot_ms"] = e.tpot_ms;
  j["e2el_ms"] = e.e2el_ms;
  j["output_throughput"] = e.output_throughput;
  j["capacity_requests_per_s"] = e.capacity_requests_per_s;
  j["usd_per_million_tokens"] = d.has_price ? Json(e.usd_per_million_tokens) : Json(nullptr);
  return j;
}

std::vector<Table> pools_estimate_tables(const Deployment& d, const PoolsEstimate& e) {
  const std::vector<const Deployment*> kinds = d.kinds();
  Table t;
  t.title = "At the expected load, without queueing";
  t.columns = {{"pool", "pool"},
               {"device", "device"},
               {"replicas", "replicas"},
               {"request_rate", "requests/s", 3},
               {"expected_sequences", "running", 3},
               {"ttft_ms", "TTFT ms", 4},
               {"tpot_ms", "TPOT ms", 4},
               {"e2el_ms", "E2EL ms", 4},
               {"output_throughput", "output tok/s", 4},
               {"capacity_requests_per_s", "most requests/s", 4},
               {"usd_per_million_tokens", "$/Mtok", 3}};
  const auto positive = [](double v) { return v > 0 ? Cell(v) : Cell(); };
  for (std::size_t i = 0; i < kinds.size(); ++i) {
    const Estimate& own = e.pools[i].estimate;
    const bool prices = kinds[i]->has_price && !d.pools && e.pools[i].share > 0;
    t.add({pool_name(d, i), kinds[i]->device.name, static_cast<std::int64_t>(kinds[i]->mapping.replicas),
           positive(e.pools[i].request_rate), own.expected_sequences, positive(own.ttft_ms),
           positive(own.tpot_ms), own.e2el_ms, own.output_throughput, own.capacity_requests_per_s,
           prices ? Cell(own.usd_per_million_tokens) : Cell()});
  }
  double rate = 0;
  for (const PoolEstimate& pool : e.pools) rate = d.pools ? pool.request_rate : rate + pool.request_rate;
  t.add({std::string("all"), std::string(), static_cast<std::int64_t>(d.engines()), positive(rate), Cell(),
         e.ttft_ms, e.tpot_ms, e.e2el_ms, e.output_throughput, e.capacity_requests_per_s,
         d.has_price ? Cell(e.usd_per_million_tokens) : Cell()});
  t.notes.push_back(
      d.pools ? fmt::format("A mean prompt's cache moves in {:.3g} ms{}.", e.transfer_ms,
                            d.pools->by_layers ? " after its last layer is computed" : "")
              : "Each pool by itself at its share of the requests; times of all are means over requests.");
  if (e.utilization > 0)
    t.notes.push_back(fmt::format("Load over capacity: {:.3g}, of {}.", e.utilization,
                                  d.scenario.cluster.router == "splitwise"
                                      ? "what both kinds of machines serve together"
                                      : "the pool that is full first"));
  std::vector<Table> tables{std::move(t)};
  for (std::size_t i = 0; i < kinds.size(); ++i) {
    std::vector<Table> own = estimate_tables(*kinds[i], e.pools[i].estimate, {});
    for (std::size_t k = 0; k < 2 && k < own.size(); ++k) {
      own[k].title = fmt::format("{} of {}", own[k].title, pool_name(d, i));
      tables.push_back(std::move(own[k]));
    }
  }
  return tables;
}

}  // namespace foretoken
