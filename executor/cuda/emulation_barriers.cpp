#include "executor/cuda/emulation_barriers.h"

#include <algorithm>
#include <cstring>

#include "executor/cuda/emulation.h"

namespace foretoken::cuda::emulation {
namespace {

constexpr int kBoxRow = 128, kPiece = 16;  // bytes

struct Map {
  const std::byte* first;
  std::int64_t columns, rows;
  int box_rows;
  TensorMaps how;
};
static_assert(sizeof(Map) <= sizeof(TensorMap));

Map decode(const TensorMap& map) {
  Map decoded;
  std::memcpy(&decoded, map.words, sizeof decoded);
  return decoded;
}

long long counted(const Map& map) {
  return map.box_rows * kBoxRow - (map.how == TensorMaps::kFewerBytes ? kPiece : 0);
}

// Element by element, as columns end anywhere; pieces change places by the bits of the address itself.
void land(std::byte* to, const Map& map, int first_row, int first_column) {
  for (int r = 0; r < map.box_rows; ++r)
    for (int c = 0; c < kBoxRow / 2; ++c) {
      const std::int64_t row = std::int64_t{first_row} + r, column = std::int64_t{first_column} + c;
      auto at = reinterpret_cast<std::uintptr_t>(to) + static_cast<unsigned>(r * kBoxRow + 2 * c);
      if (map.how != TensorMaps::kOtherPlaces) at ^= (at >> 7 & 7) << 4;
      auto* place = reinterpret_cast<std::byte*>(at);
      if (row >= 0 && row < map.rows && column >= 0 && column < map.columns)
        std::memcpy(place, map.first + 2 * (row * map.columns + column), 2);
      else
        std::memset(place, 0, 2);
    }
}

}  // namespace

TensorMap encode(const void* first, std::int64_t columns, std::int64_t rows, int box_rows) {
  const Map map{static_cast<const std::byte*>(first), columns, rows, box_rows, settings().tensor_maps};
  TensorMap encoded;
  std::memcpy(encoded.words, &map, sizeof map);
  return encoded;
}

std::string Barriers::init(const void* at, unsigned arrivals) {
  if (arrivals == 0 || arrivals >= 1u << 20) return "a barrier of " + std::to_string(arrivals) + " arrivals";
  barriers_[at] = {.arrivals = arrivals, .pending = arrivals, .copies = {}};
  return "";
}

// Once all have arrived the boxes come, in the order in which they were asked for.
std::string Barriers::settle(State& state) {
  if (state.pending > 0) return "";
  for (const Copy& copy : state.copies) {
    const Map map = decode(copy.map);
    land(copy.to, map, copy.row, copy.column);
    state.bytes -= counted(map);
  }
  state.copies.clear();
  if (state.bytes < 0)
    return std::to_string(-state.bytes) + " bytes more came than a barrier's phase expects";
  if (state.bytes == 0) ++state.phase, state.pending = state.arrivals;
  return "";
}

std::string Barriers::arrive(const void* at, long long bytes) {
  const auto found = barriers_.find(at);
  if (found == barriers_.end()) return "an arrival at a barrier without barrier_init()";
  State& state = found->second;
  if (std::string fault = settle(state); !fault.empty()) return fault;
  if (state.pending == 0) return "more threads arrive at a barrier than its phase counts";
  state.bytes += bytes;
  --state.pending;
  return "";
}

std::string Barriers::copy(const void* at, std::byte* to, const TensorMap& map, int row, int column) {
  const auto found = barriers_.find(at);
  if (found == barriers_.end()) return "a copy to a barrier without barrier_init()";
  const Map decoded = decode(map);
  if (decoded.first == nullptr || decoded.box_rows < 1) return "a copy of a map that is none";
  std::memset(to, 0xff, static_cast<std::size_t>(decoded.box_rows) * kBoxRow);
  found->second.copies.push_back({to, map, row, column});
  return "";
}

std::string Barriers::look(const void* at, unsigned parity, bool& passed) {
  const auto found = barriers_.find(at);
  if (found == barriers_.end()) return "a wait for a barrier without barrier_init()";
  State& state = found->second;
  std::string fault = settle(state);
  passed = state.phase % 2 != parity;
  return fault;
}

bool Barriers::may_pass(const void* at) const {
  const auto found = barriers_.find(at);
  if (found == barriers_.end() || found->second.pending > 0) return false;
  long long bytes = 0;
  for (const Copy& copy : found->second.copies) bytes += counted(decode(copy.map));
  return bytes >= found->second.bytes;
}

std::string Barriers::lacks(const void* at) const {
  const auto found = barriers_.find(at);
  if (found == barriers_.end()) return "no barrier";
  const State& state = found->second;
  return "phase " + std::to_string(state.phase) + " lacks " + std::to_string(state.pending) +
         " arrivals and " + std::to_string(state.bytes) + " bytes";
}

std::string Barriers::end() {
  std::string fault;
  for (const auto& [at, state] : barriers_)
    if (!state.copies.empty()) fault = "the block ended while copies were under way: " + lacks(at);
  clear();
  return fault;
}

}  // namespace foretoken::cuda::emulation
