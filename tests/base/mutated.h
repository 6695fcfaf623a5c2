// Damage to a text that a reader must survive: the same for the same seed.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "base/random.h"

namespace foretoken::test {

// One to four edits: a byte, a piece put in or over, bytes taken out, the end cut off.
inline std::string mutated(std::string text, std::span<const std::string_view> pieces, std::uint64_t seed) {
  CounterRandom random(7, 1, seed);
  for (std::int64_t edits = random.uniform_int(1, 4); edits > 0 && !text.empty(); --edits) {
    const auto at =
        static_cast<std::size_t>(random.uniform_int(0, static_cast<std::int64_t>(text.size()) - 1));
    const auto chosen = random.uniform_int(0, static_cast<std::int64_t>(pieces.size()) - 1);
    const std::string_view piece = pieces[static_cast<std::size_t>(chosen)];
    switch (random.uniform_int(0, 7)) {
      case 0:
        text[at] = static_cast<char>(random.uniform_int(0, 255));
        break;
      case 1:
        text.erase(at, static_cast<std::size_t>(random.uniform_int(1, 8)));
        break;
      case 2:
        text.resize(at);
        break;
      case 3:
      case 4:
        text.insert(at, piece);
        break;
      default:
        text.replace(at, piece.size(), piece);
    }
  }
  return text;
}

// What a damaged number, text or structure may have become.
inline constexpr std::string_view kBrokenPieces[] = {"[",    "]",    "{",    "}",   "\"",
                                                     ",",    ":",    "-1",   "1e9", "1e308",
                                                     "null", "true", "\xff", "//",  "99999999999999999999",
                                                     "0.5",  "\n",   "0"};

}  // namespace foretoken::test
