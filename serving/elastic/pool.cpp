// Which instances compute what: preemption and compaction of decodes, prompts in groups, placement of their
// cache, masters of decode steps (LoongServe's manager.py, longserve_c_scheduler/src/main.cpp).
#include "serving/elastic/pool.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <stdexcept>

namespace foretoken::elastic {
namespace {

constexpr double kNone = std::numeric_limits<double>::infinity();

}  // namespace

Pool::Pool(const SchedulerConfig& config, std::int32_t instances)
    : config_(config),
      knobs_(config_.loongserve),
      capacity_((config.num_blocks - 1) * config.block_size),
      used_(static_cast<std::size_t>(instances)) {}

std::int32_t Pool::add(const Request& request, Picoseconds now) {
  std::int32_t slot = static_cast<std::int32_t>(items_.size());
  if (free_.empty()) {
    items_.emplace_back();
  } else {
    slot = free_.back();
    free_.pop_back();
  }
  Item& item = items_[static_cast<std::size_t>(slot)] = {};
  item.request = request;
  item.queued = now;
  item.most_output = static_cast<std::int32_t>(
      std::min<std::int64_t>(request.output_len, config_.max_model_len - request.input_len));
  item.kv.resize(used_.size());
  queue_.push_back(slot);
  return slot;
}

std::int64_t Pool::held() const { return std::accumulate(used_.begin(), used_.end(), std::int64_t{0}); }

std::vector<std::int32_t> Pool::idle_instances() const {
  std::vector<std::int32_t> idle;
  for (std::int32_t i = 0; i < instances(); ++i)
    if (used(i) == 0) idle.push_back(i);
  return idle;
}

std::int64_t Pool::room(const Group& group) const {
  std::int64_t room = 0;
  for (const std::int32_t i : group.instances) room += capacity_ - used(i);
  return room;
}

void Pool::by_use(std::vector<std::int32_t>& instances) const {
  std::stable_sort(instances.begin(), instances.end(),
                   [&](std::int32_t a, std::int32_t b) { return used(a) > used(b); });
}

Group Pool::make_group(std::vector<std::int32_t> slots, std::vector<std::int32_t> instances) const {
  Group group;
  group.slots = std::move(slots);
  group.instances = std::move(instances);
  group.used.resize(used_.size());
  return group;
}

void Pool::merge(Group& into, const Group& from) const {
  into.slots.insert(into.slots.end(), from.slots.begin(), from.slots.end());
  for (const std::int32_t i : from.instances)
    if (std::find(into.instances.begin(), into.instances.end(), i) == into.instances.end())
      into.instances.push_back(i);
  for (std::size_t i = 0; i < used_.size(); ++i) into.used[i] += from.used[i];
}

std::vector<std::int32_t> Pool::scale_down(Group& group) const {
  std::vector<std::int32_t> left;
  if (knobs_.use_fixed_sp) return left;
  std::erase_if(group.instances, [&](std::int32_t i) {
    if (group.used[static_cast<std::size_t>(i)] > 0) return false;
    left.push_back(i);
    return true;
  });
  return left;
}

void Pool::finish(Group& group, std::int32_t slot) {
  Item& item = (*this)[slot];
  for (std::size_t i = 0; i < used_.size(); ++i) {
    used_[i] -= item.kv[i];
    group.used[i] -= item.kv[i];
    item.kv[i] = 0;
  }
  group.slots.erase(std::find(group.slots.begin(), group.slots.end(), slot));
  if (item.output < item.most_output) return;  // paused
  ++ended_;
  ended_output_ += item.output;
}

std::int64_t Pool::pause(std::vector<Group>& groups) {
  Group* group = nullptr;
  std::int32_t last = -1;
  for (Group& g : groups)
    for (const std::int32_t slot : g.slots)
      if (last < 0 || (*this)[slot].request.id > (*this)[last].request.id) {
        last = slot;
        group = &g;
      }
  if (group == nullptr) throw std::logic_error("LoongServe has nobody to pause");
  Item& item = (*this)[last];
  const std::int64_t lost = std::accumulate(item.kv.begin(), item.kv.end(), std::int64_t{0});
  finish(*group, last);
  scale_down(*group);
  std::erase_if(groups, [](const Group& g) { return g.slots.empty(); });
  item.paused = true;
  ++item.pauses;
  ++paused_;
  queue_.push_front(last);
  given_up_.push_back(item.request.id);
  return lost;
}

// Decodes make room by moving to the fullest instances while the prefill gains more than that takes.
std::int64_t Pool::compact(std::vector<Group>& groups, double tokens, double squares) {
  std::vector<std::int32_t> order;
  std::vector<std::size_t> owner(used_.size());
  for (std::size_t g = 0; g < groups.size(); ++g)
    for (const std::int32_t i : groups[g].instances) {
      order.push_back(i);
      owner[static_cast<std::size_t>(i)] = g;
    }
  by_use(order);
  const auto n = static_cast<std::int64_t>(used_.size());
  const std::int64_t busy = (held() + capacity_ - 1) / capacity_;
  auto idle = static_cast<std::int64_t>(idle_instances().size());
  if (n - idle <= busy || tokens > static_cast<double>((n - busy) * capacity_)) return 0;
  std::int64_t moved = 0;
  for (std::size_t to = static_cast<std::size_t>(busy - 1); idle < n - busy; ++idle) {
    const std::int32_t source = order.back();
    order.pop_back();
    if (tokens <= static_cast<double>(idle * capacity_) &&
        predict(idle, tokens, squares) - predict(idle + 1, tokens, squares) <
            to_ms(used(source) * knobs_.move_per_token))
      break;
    const auto from = static_cast<std::size_t>(source);
    while (used_[from] > 0) {
      const auto target = static_cast<std::size_t>(order[to]);
      std::int64_t left = std::min(used_[from], capacity_ - used_[target]);
      if (left == 0) {
        --to;
        continue;
      }
      if (owner[from] != owner[target]) {
        Group& other = groups[owner[from]];
        const std::size_t gone = owner[from];
        merge(groups[owner[target]], other);
        other = {};
        std::replace(owner.begin(), owner.end(), gone, owner[target]);
      }
      Group& group = groups[owner[target]];
      moved += left;
      used_[from] -= left;
      used_[target] += left;
      group.used[from] -= left;
      group.used[target] += left;
      for (const std::int32_t slot : group.slots) {
        Item& item = (*this)[slot];
        const auto part = static_cast<std::int32_t>(std::min<std::int64_t>(left, item.kv[from]));
        item.kv[from] -= part;
        item.kv[target] += part;
        left -= part;
      }
    }
    std::erase(groups[owner[from]].instances, source);
  }
  std::erase_if(groups, [](const Group& g) { return g.slots.empty(); });
  return moved;
}

Allocation Pool::allocate(std::vector<std::int32_t> started, std::vector<Group> running) {
  Allocation a;
  if (knobs_.use_fixed_sp) {
    std::vector<std::int32_t> all(used_.size());
    std::iota(all.begin(), all.end(), 0);
    a.prefills.push_back(make_group(std::move(started), std::move(all)));
    stripe(a.prefills.front());
    a.preempted = std::move(running);
    return a;
  }
  std::int64_t tokens = 0;
  double squares = 0, prefill_weight = 0;
  for (const std::int32_t slot : started) {
    const std::int64_t prompt = (*this)[slot].prompt();
    tokens += prompt;
    squares += static_cast<double>(prompt) * static_cast<double>(prompt);
    prefill_weight += 1.0 / static_cast<double>(prompt);
  }
  const auto t = static_cast<double>(tokens);
  if (!knobs_.disable_scale_up) a.moved = compact(running, t, squares);
  std::vector<std::int32_t> instances = idle_instances();
  const auto take = [&](Group& group) {
    instances.insert(instances.end(), group.instances.begin(), group.instances.end());
    a.preempted.push_back(std::move(group));
  };
  // Decodes with the most room rest until there is enough of it.
  std::stable_sort(running.begin(), running.end(),
                   [&](const Group& x, const Group& y) { return room(x) < room(y); });
  std::int64_t missing = tokens - static_cast<std::int64_t>(instances.size()) * capacity_;
  while (missing > 0 && !running.empty()) {
    missing -= room(running.back());
    take(running.back());
    running.pop_back();
  }
  // More of them do where the prompts gain more than they lose.
  for (Group& group : running) {
    const auto now = static_cast<std::int64_t>(instances.size());
    const double longer = now > 0 ? predict(now, t, squares) : kNone;
    const double time = predict(now + static_cast<std::int64_t>(group.instances.size()), t, squares);
    const auto size = static_cast<double>(group.slots.size());
    double outputs = 0;
    for (const std::int32_t slot : group.slots) outputs += (*this)[slot].output;
    if ((longer - time) * prefill_weight < time * size * (size / outputs))
      a.decodes.push_back(std::move(group));
    else
      take(group);
  }
  bool decodes = plan_decode(a.decodes, std::vector<std::int32_t>());
  // Who lacks room for its next tokens gets idle instances that the prompts can spare.
  std::vector<std::int32_t> spared;
  while (!decodes) {
    const auto idle =
        std::find_if(instances.rbegin(), instances.rend(), [&](std::int32_t i) { return used(i) == 0; });
    std::int64_t room = 0;
    for (const std::int32_t i : instances) room += capacity_ - used(i);
    if (idle == instances.rend() || tokens > room - capacity_) break;
    spared.push_back(*idle);
    instances.erase(std::next(idle).base());
    decodes = plan_decode(a.decodes, spared);
  }
  if (!decodes) {
    for (Group& group : a.decodes) a.preempted.push_back(std::move(group));
    a.decodes.clear();
    instances.resize(used_.size());
    std::iota(instances.begin(), instances.end(), 0);
  }
  a.prefills = batch(std::move(started), std::move(instances), a.prefill_ms);
  return a;
}

std::vector<Group> Pool::batch(std::vector<std::int32_t> started, std::vector<std::int32_t> instances,
                               double& longest_ms) {
  std::stable_sort(started.begin(), started.end(),
                   [&](std::int32_t a, std::int32_t b) { return (*this)[a].prompt() > (*this)[b].prompt(); });
  std::sort(instances.begin(), instances.end());
  std::stable_sort(instances.begin(), instances.end(),
                   [&](std::int32_t a, std::int32_t b) { return used(a) < used(b); });
  const std::size_t n = started.size(), k = instances.size();
  std::vector<std::int64_t> tokens(n + 1), left(k + 1);
  std::vector<double> squares(n + 1), weights(n + 1);
  for (std::size_t i = 0; i < n; ++i) {
    const std::int64_t prompt = (*this)[started[i]].prompt();
    tokens[i + 1] = tokens[i] + prompt;
    squares[i + 1] = squares[i] + static_cast<double>(prompt) * static_cast<double>(prompt);
    weights[i + 1] = weights[i] + 1.0 / static_cast<double>(prompt);
  }
  for (std::size_t j = 0; j < k; ++j) left[j + 1] = left[j] + capacity_ - used(instances[j]);
  // Of the first i prompts on the first j instances: the least sum of prefill time over length, and what the
  // last group is made of.
  struct Cell {
    double time = kNone;
    std::size_t prompts = 0, instances = 0;
  };
  std::vector<Cell> cells((n + 1) * (k + 1));
  const auto at = [&](std::size_t i, std::size_t j) -> Cell& { return cells[i * (k + 1) + j]; };
  at(0, 0).time = 0;
  const auto group_ms = [&](std::size_t i, std::size_t prompts, std::size_t on) {
    return predict(static_cast<std::int64_t>(on), static_cast<double>(tokens[i] - tokens[i - prompts]),
                   squares[i] - squares[i - prompts]);
  };
  for (std::size_t i = 1; i <= n; ++i)
    for (std::size_t j = 1; j <= k; ++j) {
      Cell& cell = at(i, j);
      for (std::size_t prompts = 1; prompts <= i; ++prompts)
        for (std::size_t on = j; on >= 1; --on) {
          if (tokens[i] - tokens[i - prompts] > left[j] - left[j - on]) break;
          const double time =
              group_ms(i, prompts, on) * (weights[i] - weights[i - prompts]) + at(i - prompts, j - on).time;
          if (time < cell.time) cell = {time, prompts, on};
        }
    }
  std::size_t j = 0;
  for (std::size_t on = 1; on <= k; ++on)
    if (at(n, on).time < at(n, j).time) j = on;
  if (j == 0) throw std::logic_error("LoongServe dispatched prompts that its instances can't hold");
  std::vector<Group> groups;
  for (std::size_t i = n; i > 0;) {
    const Cell cell = at(i, j);
    longest_ms = std::max(longest_ms, group_ms(i, cell.prompts, cell.instances));
    groups.push_back(make_group({started.begin() + static_cast<std::ptrdiff_t>(i - cell.prompts),
                                 started.begin() + static_cast<std::ptrdiff_t>(i)},
                                {instances.begin() + static_cast<std::ptrdiff_t>(j - cell.instances),
                                 instances.begin() + static_cast<std::ptrdiff_t>(j)}));
    place(groups.back());
    i -= cell.prompts;
    j -= cell.instances;
  }
  return groups;
}

// While the ring turns every instance sees all keys and values and keeps those that it is to hold: the
// fullest instances are filled first, so that as many as possible are free after the prefill.
void Pool::place(Group& group) {
  by_use(group.instances);
  std::size_t at = 0;
  for (const std::int32_t slot : group.slots) {
    Item& item = (*this)[slot];
    for (std::int64_t left = item.prompt(); left > 0;) {
      if (at == group.instances.size()) throw std::logic_error("LoongServe's prompts exceed their instances");
      const auto i = static_cast<std::size_t>(group.instances[at]);
      const std::int64_t part = std::min(left, capacity_ - used_[i]);
      item.kv[i] += static_cast<std::int32_t>(part);
      used_[i] += part;
      group.used[i] += part;
      left -= part;
      if (left > 0) ++at;
    }
  }
}

// Static sequence parallelism: every instance keeps what it computes, each n-th token.
void Pool::stripe(Group& group) {
  const auto n = static_cast<std::int32_t>(used_.size());
  for (const std::int32_t slot : group.slots) {
    Item& item = (*this)[slot];
    for (std::int32_t r = 0; r < n; ++r) {
      const auto i = static_cast<std::size_t>(r);
      item.kv[i] = (item.prompt() - r + n - 1) / n;
      used_[i] += item.kv[i];
      group.used[i] += item.kv[i];
    }
  }
}

bool Pool::plan_decode(std::vector<Group>& groups, bool with_idle) {
  if (knobs_.use_fixed_sp) return plan_fixed(groups);
  if (knobs_.disable_scale_up) return plan_alone(groups);
  return plan_decode(groups, with_idle ? idle_instances() : std::vector<std::int32_t>());
}

// One master, the emptiest instance.
bool Pool::plan_fixed(std::vector<Group>& groups) {
  Group& group = groups.front();
  std::stable_sort(group.instances.begin(), group.instances.end(),
                   [&](std::int32_t a, std::int32_t b) { return used(a) < used(b); });
  const auto size = static_cast<std::int32_t>(group.slots.size());
  group.masters = {{group.instances.front(), size}};
  return used(group.instances.front()) + size <= capacity_;
}

// Each group by itself, its first instance the one master.
bool Pool::plan_alone(std::vector<Group>& groups) {
  for (Group& group : groups) {
    const auto lacks = [&] {
      return !group.slots.empty() &&
             used(group.instances.front()) + static_cast<std::int64_t>(group.slots.size()) > capacity_;
    };
    while (lacks()) {
      std::vector<Group> one;
      one.push_back(std::move(group));
      lost_ += pause(one);
      group = one.empty() ? Group() : std::move(one.front());
    }
    if (!group.slots.empty())
      group.masters = {{group.instances.front(), static_cast<std::int32_t>(group.slots.size())}};
  }
  std::erase_if(groups, [](const Group& g) { return g.slots.empty(); });
  return true;
}

bool Pool::plan_decode(std::vector<Group>& groups, std::vector<std::int32_t> idle) {
  if (knobs_.disable_scale_up) return plan_alone(groups);
  struct Union {
    std::vector<std::size_t> groups;
    std::int64_t spare;  // slots beyond a token for everybody
  };
  std::vector<Union> enough, lacking;
  std::int64_t total = static_cast<std::int64_t>(idle.size()) * capacity_;
  for (std::size_t g = 0; g < groups.size(); ++g) {
    const std::int64_t spare = room(groups[g]) - static_cast<std::int64_t>(groups[g].slots.size());
    total += spare;
    (spare >= 0 ? enough : lacking).push_back({{g}, spare});
  }
  if (total < 0) return false;
  if (!lacking.empty()) {
    const auto less = [](const Union& a, const Union& b) { return a.spare < b.spare; };
    std::stable_sort(lacking.begin(), lacking.end(), less);
    std::stable_sort(enough.begin(), enough.end(), less);
    for (Union& u : lacking) {
      while (u.spare < 0 && !enough.empty()) {
        u.groups.insert(u.groups.end(), enough.back().groups.begin(), enough.back().groups.end());
        u.spare += enough.back().spare;
        enough.pop_back();
      }
      std::vector<std::int32_t>& instances = groups[u.groups.front()].instances;
      for (; u.spare < 0; u.spare += capacity_) {
        instances.push_back(idle.front());
        idle.erase(idle.begin());
      }
      enough.push_back(std::move(u));
    }
    std::vector<Group> merged;
    for (const Union& u : enough) {
      merged.push_back(std::move(groups[u.groups.front()]));
      for (std::size_t g = 1; g < u.groups.size(); ++g) merge(merged.back(), groups[u.groups[g]]);
    }
    groups = std::move(merged);
  }
  for (Group& group : groups) choose_masters(group, idle);
  return true;
}

void Pool::choose_masters(Group& group, std::vector<std::int32_t>& idle) {
  by_use(group.instances);
  group.masters.clear();
  auto need = static_cast<std::int64_t>(group.slots.size());
  const std::int64_t rows_of_one = knobs_.min_comp_bound_decoding_batch_size;
  std::vector<std::int32_t> open, full;
  for (std::size_t i = 0; i < group.instances.size(); ++i) {
    const std::int32_t instance = group.instances[i];
    const std::int64_t left = capacity_ - used(instance);
    const bool holds = group.used[static_cast<std::size_t>(instance)] > 0;
    if (left == 0) {
      if (holds) full.push_back(instance);
      continue;
    }
    auto rest = static_cast<std::int64_t>(group.instances.size() - i);
    for (; need / rest > rows_of_one && !idle.empty(); ++rest) {
      group.instances.push_back(idle.back());
      idle.pop_back();
    }
    const std::int64_t rows = std::min({need, left, std::max(need / rest, rows_of_one)});
    if (rows > 0) group.masters.push_back({instance, static_cast<std::int32_t>(rows)});
    if (rows > 0 || holds) open.push_back(instance);
    need -= rows;
  }
  if (need > 0) throw std::logic_error("LoongServe's masters have no room for all tokens");
  group.instances = std::move(open);
  group.instances.insert(group.instances.end(), full.begin(), full.end());
}

std::int64_t Pool::repeats(const Group& group) const {
  if (knobs_.use_fixed_sp) {
    const Group::Master& master = group.masters.front();
    std::int64_t steps = (capacity_ - used(master.instance)) / master.rows;
    if (group.instances.size() > 1)
      steps = std::min(steps, (used(group.instances[1]) - used(master.instance)) / master.rows + 1);
    return steps;
  }
  if (knobs_.disable_scale_up) {
    const Group::Master& master = group.masters.front();
    return std::max<std::int64_t>(1, (capacity_ - used(master.instance)) / master.rows);
  }
  // Until a master has no room for as many tokens again, or fills up past the one before it.
  std::int64_t steps = std::numeric_limits<std::int64_t>::max();
  std::int64_t before = 0, rows_before = 0;
  bool first = true;
  for (const std::int32_t instance : group.instances) {
    std::int64_t rows = 0;
    for (const Group::Master& m : group.masters)
      if (m.instance == instance) rows = m.rows;
    if (capacity_ == used(instance)) break;  // full ones come last
    if (rows > 0) steps = std::min(steps, (capacity_ - used(instance)) / rows);
    if (!first && rows > rows_before)
      steps = std::min(steps, (before - used(instance)) / (rows - rows_before) + 1);
    before = used(instance);
    rows_before = rows;
    first = false;
  }
  return std::max<std::int64_t>(1, steps);
}

void Pool::decoded(Group& group, std::int64_t steps) {
  std::size_t next = 0;
  for (const Group::Master& m : group.masters) {
    const auto i = static_cast<std::size_t>(m.instance);
    used_[i] += steps * m.rows;
    group.used[i] += steps * m.rows;
    if (used_[i] > capacity_) throw std::logic_error("an elastic instance holds more than its memory");
    for (std::int32_t r = 0; r < m.rows; ++r)
      (*this)[group.slots[next++]].kv[i] += static_cast<std::int32_t>(steps);
  }
}

}  // namespace foretoken::elastic
