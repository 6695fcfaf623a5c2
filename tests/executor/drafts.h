// Random chains and trees of drafts, verified by a set of kernels and by plain recursion.
#pragma once

#include <functional>

#include "tests/executor/kernels_testing.h"

namespace foretoken {

// The nodes that are accepted below `node`.
inline void plain_path(const DraftedRows& d, std::size_t begin, std::size_t nodes,
                       const std::vector<std::int32_t>& chosen, std::size_t node,
                       std::vector<std::int32_t>& path) {
  for (std::size_t next = 1; next < nodes; ++next) {
    const bool below =
        d.parents.empty() ? next == node + 1 : d.parents[next] == static_cast<std::int32_t>(node);
    if (!below || d.tokens[begin + next] != chosen[begin + node]) continue;
    path.push_back(static_cast<std::int32_t>(next));
    return plain_path(d, begin, nodes, chosen, next, path);
  }
}

// `put` places logits where the kernels read them, `scratch` gives memory of so many rows and that
// vocabulary. Returns how many drafts were accepted.
inline int check_verification(const Kernels& kernels, unsigned seed, const SamplingArgs& args,
                              const std::function<const float*(const Floats&)>& put,
                              const std::function<std::byte*(std::int64_t, std::int64_t)>& scratch) {
  std::mt19937 bits(seed);
  const auto below = [&](unsigned n) { return static_cast<std::int32_t>(bits() % n); };
  std::vector<std::int32_t> parents{-1}, starts{0}, tokens;
  const bool chain = seed % 3 == 0;
  const int nodes = 1 + below(64);  // more than the lanes of a warp
  for (int node = 1, above = 0; !chain && node < nodes; ++node) {
    above += below(static_cast<unsigned>(node - above));  // in the order of levels
    parents.push_back(std::min(above, node - 1));
  }
  const std::int64_t vocab = 1 + below(4);
  for (int sequence = 1 + below(5); sequence > 0; --sequence) {
    const int own = below(4) == 0 ? 1 : 1 + below(static_cast<unsigned>(nodes));
    for (int node = 0; node < own; ++node) tokens.push_back(below(static_cast<unsigned>(vocab)));
    starts.push_back(static_cast<std::int32_t>(tokens.size()));
  }
  const std::size_t rows = tokens.size();
  const DraftedRows drafts{starts, tokens,
                           chain ? std::span<const std::int32_t>{} : std::span<const std::int32_t>(parents)};
  const Floats logits = normal(rows * static_cast<std::size_t>(vocab), seed);
  std::vector<double> uniforms(rows);
  for (double& u : uniforms) u = (static_cast<double>(bits()) + 0.5) * 0x1p-32;

  std::vector<std::int32_t> chosen(rows), again(rows, -7), accepted(starts.size(), -7), path(rows + 1, -7);
  const float* const x = put(logits);
  std::byte* const memory = scratch(static_cast<std::int64_t>(rows), vocab);
  kernels.sample(args, x, vocab, uniforms, chosen.data(), memory);
  kernels.sample_and_verify(args, x, vocab, uniforms, drafts, again.data(), accepted.data(), path.data(),
                            memory);
  EXPECT_EQ(again, chosen);
  EXPECT_EQ(accepted.back(), -7);
  EXPECT_EQ(path.back(), -7);
  int all = 0;
  for (std::size_t s = 0; s + 1 < starts.size(); ++s) {
    const auto begin = static_cast<std::size_t>(starts[s]), end = static_cast<std::size_t>(starts[s + 1]);
    std::vector<std::int32_t> expected;
    plain_path(drafts, begin, end - begin, chosen, 0, expected);
    EXPECT_EQ(accepted[s], static_cast<std::int32_t>(expected.size()))
        << "seed " << seed << ", sequence " << s;
    EXPECT_TRUE(std::equal(expected.begin(), expected.end(), path.begin() + starts[s]))
        << "seed " << seed << ", sequence " << s;
    all += accepted[s];
  }
  return all;
}

}  // namespace foretoken
