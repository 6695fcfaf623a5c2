// What a backend that looks at sequences is told of a step of elastic instances: whose rows are computed, and
// where their caches lie.
#pragma once

#include <span>
#include <stdexcept>
#include <vector>

#include "serving/elastic/pool.h"
#include "serving/sequence.h"

namespace foretoken::elastic {

class StepLists {
 public:
  // wanted: else nothing is listed. The pool must outlive it.
  StepLists(Pool& pool, bool wanted) : pool_(pool), wanted_(wanted) {}

  void added(std::int32_t slot, const Request& request, Picoseconds now) {
    if (!wanted_) return;
    if (table_.add(request, now) != slot)
      throw std::logic_error("an elastic pool's slots are not its table's");
    table_[slot].end_tokens = request.input_len + pool_[slot].most_output;
  }
  void removed(std::int32_t slot) {
    if (wanted_) table_.remove(slot);
  }

  void begin() {
    held_.clear(), held_ends_.clear();
    decodes_.clear(), first_decode_.clear();
  }
  // Caches that prompts will have.
  void add_prompts(const Group& group) {
    if (!wanted_) return;
    for (const std::int32_t slot : group.slots) list_held(slot, -1);
    held_ends_.push_back(held_.size());
  }
  // A group's rows, master after master, with the caches that they will have.
  void add_decodes(const Group& group) {
    if (!wanted_) return;
    first_decode_.push_back(decodes_.size());
    std::size_t next = 0;
    for (const Group::Master& m : group.masters)
      for (std::int32_t r = 0; r < m.rows; ++r) {
        const std::int32_t slot = group.slots[next++];
        decodes_.push_back({slot, pool_[slot].request.id, pool_[slot].prompt()});
        list_held(slot, m.instance);
      }
    held_ends_.push_back(held_.size());
  }
  // To all batches of the step, once all groups are listed; each group's masters stand in their order.
  void attach(std::span<const Group> groups, std::vector<Batch>& batches) const {
    if (!wanted_) return;
    for (Batch& batch : batches) {
      const auto g = static_cast<std::size_t>(batch.group);
      const std::size_t first = g == 0 ? 0 : held_ends_[g - 1];
      batch.held = std::span(held_).subspan(first, held_ends_[g] - first);
      batch.sequences = &table_;
      if (batch.decode_sequences == 0) continue;
      std::size_t row = first_decode_[g];
      for (const Group::Master& m : groups[g].masters) {
        if (m.instance == batch.instance)
          batch.decode = std::span(decodes_).subspan(row, static_cast<std::size_t>(m.rows));
        row += static_cast<std::size_t>(m.rows);
      }
    }
  }
  // Where the caches of these groups lie now.
  std::span<const CachedPart> held(std::span<const Group> some, std::span<const Group> others) {
    held_.clear();
    for (const auto groups : {some, others})
      for (const Group& group : groups)
        for (const std::int32_t slot : group.slots) list_held(slot, -1);
    return held_;
  }

 private:
  // master: of its next token; -1: it gets none.
  void list_held(std::int32_t slot, std::int32_t master) {
    const Item& item = pool_[slot];
    for (std::int32_t i = 0; i < pool_.instances(); ++i)
      if (const std::int64_t tokens = item.kv[static_cast<std::size_t>(i)] + (i == master); tokens > 0)
        held_.push_back({slot, item.request.id, i, tokens});
  }

  Pool& pool_;
  const bool wanted_;
  SequenceTable table_;
  std::vector<DecodePart> decodes_;
  std::vector<CachedPart> held_;
  std::vector<std::size_t> held_ends_, first_decode_;  // of each group
};

}  // namespace foretoken::elastic
