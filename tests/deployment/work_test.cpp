// A batch as the work that operators see.
#include <gtest/gtest.h>

#include "models.h"

namespace foretoken {
namespace {

Deployment with_graphs(std::vector<std::int64_t> sizes) {
  Deployment d;
  d.model = gemma_like();
  d.graph_sizes = std::move(sizes);
  return d;
}

TEST(Work, DecodeIsPaddedToCapturedSizes) {
  const Deployment d = with_graphs({1, 2, 4, 8, 16});
  EXPECT_EQ(padded_rows(3, true, d), 4);
  EXPECT_EQ(padded_rows(4, true, d), 4);
  EXPECT_EQ(padded_rows(16, true, d), 16);
  EXPECT_EQ(padded_rows(17, true, d), 17);  // beyond the largest graph: eager, exact
  EXPECT_EQ(padded_rows(3, false, d), 3);
  EXPECT_EQ(padded_rows(0, true, d), 0);
  EXPECT_EQ(padded_rows(3, true, with_graphs({})), 3);
}

TEST(Work, EqualChunksAreGroupedWhateverTheirOrder) {
  const Deployment d = with_graphs({1, 2, 4, 8});
  std::vector<PrefillPart> parts(5);
  for (std::size_t i = 0; i < parts.size(); ++i) parts[i].new_tokens = i == 2 ? 64 : 128;
  parts[4].cached = 512;
  Batch batch;
  batch.prefill = parts;
  batch.sampled_rows = 4;
  const Work w = work(batch, d, 0);
  ASSERT_EQ(w.prefill.size(), 3u);
  EXPECT_EQ(w.prefill[0].new_tokens, 64);
  EXPECT_EQ(w.prefill[1].new_tokens, 128);
  EXPECT_EQ(w.prefill[1].count, 3);
  EXPECT_EQ(w.prefill[2].cached, 512);
  EXPECT_EQ(w.tokens(), batch.tokens());
  EXPECT_EQ(w.padded_tokens, 64 + 4 * 128);
  EXPECT_EQ(w.sampled_rows, 4);
  EXPECT_TRUE(w.contexts.empty());
  std::reverse(parts.begin(), parts.end());
  const Work reversed = work(batch, d, 0);
  EXPECT_EQ(reversed.prefill[1].count, 3);
  EXPECT_EQ(reversed.prefill[2].cached, 512);
}

TEST(Work, ContextsOfEveryAttentionGroup) {
  const Deployment d = with_graphs({1, 2, 4, 8});
  Batch batch;
  batch.decode_sequences = 5;
  batch.contexts = {9000, 4100, 7, 7};
  batch.sampled_rows = 5;
  const Work w = work(batch, d, 40);
  EXPECT_EQ(w.contexts, (std::vector<double>{9000, 4100}));  // full attention and one window
  EXPECT_EQ(w.padded_tokens, 8);
  EXPECT_EQ(w.tokens(), 5);
  EXPECT_EQ(w.group_tokens, 40);
}

}  // namespace
}  // namespace foretoken
