// Terms of engines fitted to the user's own servers, in the user's database.
#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "hwdb/database.h"
#include "hwdb/database_layers.h"

namespace foretoken {

std::vector<EngineTerm> Database::engine_terms(const std::string& device, const std::string& engine) const {
  std::vector<EngineTerm> found;
  for (const EngineTerm& t : impl_->engine_terms)
    if (t.device == device && (engine.empty() || t.engine == engine)) found.push_back(t);
  return found;
}

void Database::set_engine_terms(std::span<const EngineTerm> terms) {
  impl_->write_user([&](Store& store) {
    store.transaction([&] {
      store.remove_engine_terms(terms.front().device, terms.front().engine);
      for (const EngineTerm& t : terms) store.put(t);
    });
  });
}

std::int64_t Database::remove_engine_terms(const std::string& device, const std::string& engine) {
  if (engine_terms(device, engine).empty()) return 0;
  std::int64_t removed = 0;
  impl_->write_user(
      [&](Store& store) { store.transaction([&] { removed = store.remove_engine_terms(device, engine); }); });
  return removed;
}

Table Database::list_engine_terms(const std::string& device) const {
  Table t;
  t.title = "Engine terms fitted to servers with " + device;
  t.columns = {{"engine", "Engine"},
               {"term", "Term"},
               {"value", "Value", 5},
               {"runs", "Runs"},
               {"model", "Model", 4, true},
               {"tensor_parallel", "TP"},
               {"error_before", "Before %", 3},
               {"error_after", "After %", 3},
               {"error_left_out", "Left out %", 3},
               {"date", "Date"},
               {"source", "Source", 4, true}};
  for (const EngineTerm& e : engine_terms(device))
    t.add({e.engine, e.term, e.value, e.runs, e.model, e.tensor_parallel, 100 * e.error_before,
           100 * e.error_after, 100 * e.error_left_out, e.date, e.source});
  t.notes = {
      "Keys of engine.host_times; a scenario that states one wins. Errors are means over all measured "
      "values; left out: each run predicted with terms fitted to the others."};
  return t;
}

}  // namespace foretoken
