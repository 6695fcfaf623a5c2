// Choosing tokens from logits[rows][vocab]. What bounds it is reading the logits (a row of 150,000 is 600 kB)
// and, for few rows, the latency of launches, so rows are cut into slices, a block each, until the device is
// full; what is found of the slices is put together by the last block of a row that comes to it. Never is a
// row sorted:
//
//  - Greedy: one pass, the largest of a row.
//  - The `count` likeliest (best_tokens, select_beams, top_k up to 256): a first pass leaves the largest of
//    each of up to 1024 groups of a row's tokens. The count-th largest of those bounds the count-th largest
//    token from below, and hardly more than `count` tokens lie above it: a second pass lists them, and the
//    last block sorts the list. Beams get the sum of the softmax from the first pass.
//  - All others: the first pass finds the range, the second a histogram of weights in 1024 equal parts of it
//    (those that weigh anything). It tells in which few parts lie the token at which top_k cuts, the one at
//    which top_p cuts and the one that is sampled; the third pass lists the tokens of those parts.
//
// Rows with more candidates than the list holds (thousands of equal logits) are rare: a block goes through
// the bits of the row's numbers, eight at a time, from the highest on. Exact too, in up to 24 passes.
//
// Weights exp((logit - top) / temperature) are integers, in units of 2^-42: their sums don't depend on the
// order in which blocks and atomics add. Tokens below that are never chosen.
//
// sampling_best.cu has the kernels of the first two, sampling_many.cu those of the third; memory and launches
// are here.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "base/error.h"
#include "executor/cuda/cuda_kernels.h"
#include "executor/cuda/sampling.h"
#include "executor/cuda/sampling_device.cuh"

namespace foretoken::cuda {

using namespace sampling;

namespace {

constexpr std::size_t kPlace = 256;  // arrays begin at multiples of it
constexpr std::size_t padded(std::size_t bytes) { return (bytes + kPlace - 1) / kPlace * kPlace; }

// Lays the arrays out from `next` on, which ends behind them.
Workspace lay_out(std::uintptr_t& next, std::int64_t rows, const DeviceMemory& counters) {
  const auto take = [&next](auto*& array, std::int64_t count) {
    array = reinterpret_cast<std::remove_reference_t<decltype(array)>>(next);
    next += padded(static_cast<std::size_t>(count) * sizeof *array);
  };
  const std::int64_t chunk = std::min(rows, kChunk);
  Workspace w{};
  take(w.list, chunk * kListed);
  take(w.groups, chunk * kGroups);
  take(w.parts, chunk * kMostSlices);
  take(w.bin_weights, chunk * kBins);
  take(w.bin_sizes, chunk * kBins);
  take(w.uniforms, rows);
  take(w.tokens, 3 * rows);
  take(w.drafted, 3 * rows + 1);
  w.arrived = counters.as<unsigned>();
  w.listed = w.arrived + kChunk;
  return w;
}

}  // namespace

SamplingBuffers::SamplingBuffers(Stream& stream) : counters(2 * kChunk * sizeof(unsigned)) {
  fill(stream, counters.data(), 0, counters.bytes());
}

std::byte* SamplingBuffers::host(std::size_t bytes) {
  if (bytes > pinned.bytes()) pinned = PinnedMemory(std::bit_ceil(std::max<std::size_t>(bytes, 4096)));
  return pinned.data();
}

std::size_t CudaKernels::sampling_scratch(std::int64_t rows, std::int64_t) const {
  std::uintptr_t end = 0;
  lay_out(end, rows, sampling_->counters);
  return end + kPlace;
}

namespace {
Workspace workspace(std::byte* scratch, std::int64_t rows, const DeviceMemory& counters) {
  std::uintptr_t next = padded(reinterpret_cast<std::uintptr_t>(scratch));
  return lay_out(next, rows, counters);
}
// That of the rows from `first` on.
Workspace from_row(Workspace w, std::int64_t first) {
  w.uniforms += first;
  w.tokens += first;
  return w;
}
}  // namespace

std::int32_t* CudaKernels::launch_sample(const SamplingArgs& args, const float* logits, std::int64_t vocab,
                                         std::span<const double> uniforms, std::byte* scratch) const {
  const auto rows = static_cast<std::int64_t>(uniforms.size());
  const bool greedy = args.temperature <= 0 || args.top_k == 1 || args.top_p <= 0;
  const bool by_groups = args.top_k > 0 && args.top_k <= kMostByGroups;
  const Workspace all = workspace(scratch, rows, sampling_->counters);
  // Uniforms, then what comes back; of drafts three numbers a row each way.
  std::byte* const pinned = sampling_->host((6 * uniforms.size() + 1) * sizeof(std::int32_t));
  if (!greedy) {
    std::memcpy(pinned, uniforms.data(), uniforms.size_bytes());
    copy(stream(), const_cast<double*>(all.uniforms), pinned, uniforms.size_bytes());
  }
  // Temperatures whose inverse, and products with kFaint, are numbers.
  const Choice choice{std::clamp(args.temperature, 1e-20f, 1e30f), std::clamp(args.top_p, 0.0f, 1.0f),
                      static_cast<int>(args.top_k < vocab ? args.top_k : 0)};
  const auto width = static_cast<int>(vocab);
  for (std::int64_t first = 0; first < rows; first += kChunk) {
    const Chunk c(first, rows, vocab, device().multiprocessors);
    const Workspace w = from_row(all, first);
    const float* const from = logits + first * vocab;
    if (greedy) {
      launch_largest(c, from, width, w, stream());
    } else if (by_groups) {
      const auto count = static_cast<int>(std::min(args.top_k, vocab));
      launch_best(Answer::kSampled, c, from, width, count, choice, w, stream());
    } else {
      launch_sampled(c, from, width, choice, w, stream());
    }
  }
  return all.tokens;
}

void CudaKernels::sample(const SamplingArgs& args, const float* logits, std::int64_t vocab,
                         std::span<const double> uniforms, std::int32_t* tokens, std::byte* scratch) const {
  if (uniforms.empty()) return;
  const std::int32_t* const chosen = launch_sample(args, logits, vocab, uniforms, scratch);
  std::byte* const pinned = sampling_->pinned.data();
  const std::size_t bytes = uniforms.size() * sizeof(std::int32_t);
  copy(stream(), pinned, chosen, bytes);
  stream().synchronize();
  std::memcpy(tokens, pinned, bytes);
}

// One more launch and copy before the host waits, once as ever.
void CudaKernels::sample_and_verify(const SamplingArgs& args, const float* logits, std::int64_t vocab,
                                    std::span<const double> uniforms, const DraftedRows& drafts,
                                    std::int32_t* tokens, std::int32_t* accepted, std::int32_t* path,
                                    std::byte* scratch) const {
  const std::size_t rows = uniforms.size();
  if (rows == 0) return;
  const std::size_t sequences = drafts.starts.size() - 1;
  // Of parents no more than a sequence may have nodes.
  const auto parents = drafts.parents.first(std::min(drafts.parents.size(), rows));
  const std::size_t told = drafts.starts.size() + rows + parents.size();
  std::int32_t* chosen = launch_sample(args, logits, vocab, uniforms, scratch);
  const Workspace w = workspace(scratch, static_cast<std::int64_t>(rows), sampling_->counters);
  auto* const pinned = reinterpret_cast<std::int32_t*>(sampling_->pinned.data());
  std::int32_t* const telling = pinned + 3 * rows;  // behind the uniforms and the place of what comes back
  std::int32_t* at = std::copy(drafts.starts.begin(), drafts.starts.end(), telling);
  at = std::copy(drafts.tokens.begin(), drafts.tokens.end(), at);
  std::copy(parents.begin(), parents.end(), at);
  copy(stream(), w.drafted, telling, told * sizeof(std::int32_t));
  const std::int32_t* const drafted = w.drafted + drafts.starts.size();
  launch_verify(
      {w.drafted, drafted, parents.empty() ? nullptr : drafted + rows, static_cast<std::int32_t>(sequences)},
      chosen, chosen + rows, chosen + 2 * rows, stream());
  copy(stream(), pinned, chosen, 3 * rows * sizeof(std::int32_t));
  stream().synchronize();
  std::copy_n(pinned, rows, tokens);
  std::copy_n(pinned + rows, sequences, accepted);
  std::copy_n(pinned + 2 * rows, rows, path);
}

void CudaKernels::best_tokens(const float* logits, std::int64_t rows, std::int64_t vocab, int count,
                              std::int32_t* tokens, std::byte* scratch) const {
  if (rows == 0 || count == 0) return;
  const auto present = static_cast<int>(std::min<std::int64_t>(count, vocab));
  if (present > kListed)
    throw Error("best_tokens", "more than " + std::to_string(kListed) + " tokens of a row");
  const Workspace w = workspace(scratch, rows, sampling_->counters);
  const std::size_t row_bytes = static_cast<std::size_t>(present) * sizeof(std::int32_t);
  std::byte* const pinned = sampling_->host(static_cast<std::size_t>(rows) * row_bytes);
  for (std::int64_t first = 0; first < rows; first += kChunk) {
    const Chunk c(first, rows, vocab, device().multiprocessors);
    const float* const from = logits + first * vocab;
    launch_best(Answer::kTokens, c, from, static_cast<int>(vocab), present, Choice{}, w, stream());
    cuda::copy_rows(stream(), pinned + static_cast<std::size_t>(first) * row_bytes, row_bytes, w.list,
                    kListBytes, row_bytes, static_cast<std::size_t>(c.rows));
  }
  stream().synchronize();
  for (std::int64_t row = 0; row < rows; ++row, tokens += count) {
    std::fill_n(tokens, count, -1);
    std::memcpy(tokens, pinned + static_cast<std::size_t>(row) * row_bytes, row_bytes);
  }
}

void CudaKernels::select_beams(const float* logits, std::int64_t vocab,
                               std::span<const double> log_probabilities, std::span<Continuation> best,
                               std::byte* scratch) const {
  const auto rows = static_cast<std::int64_t>(log_probabilities.size());
  if (rows == 0 || best.empty()) return;
  const auto count = static_cast<int>(std::min<std::int64_t>(static_cast<std::int64_t>(best.size()), vocab));
  if (count >= kListed) throw Error("select_beams", "more than " + std::to_string(kListed - 1) + " beams");
  struct Answered {  // the row's top and sum; then tokens and logits
    std::uint32_t first;
    float second;
  };
  const Workspace w = workspace(scratch, rows, sampling_->counters);
  const std::size_t row_bytes = static_cast<std::size_t>(count + 1) * sizeof(Answered);
  std::byte* const pinned = sampling_->host(static_cast<std::size_t>(rows) * row_bytes);
  for (std::int64_t first = 0; first < rows; first += kChunk) {
    const Chunk c(first, rows, vocab, device().multiprocessors);
    const float* const from = logits + first * vocab;
    launch_best(Answer::kBeams, c, from, static_cast<int>(vocab), count, Choice{}, w, stream());
    cuda::copy_rows(stream(), pinned + static_cast<std::size_t>(first) * row_bytes, row_bytes, w.list,
                    kListBytes, row_bytes, static_cast<std::size_t>(c.rows));
  }
  stream().synchronize();

  std::size_t kept = 0;
  const auto* answer = reinterpret_cast<const Answered*>(pinned);
  for (std::int64_t row = 0; row < rows; ++row, answer += count + 1) {
    const double top = std::bit_cast<float>(answer[0].first);
    const double before = log_probabilities[static_cast<std::size_t>(row)];
    const double base = std::isinf(top) ? -INFINITY : before - (top + std::log(double{answer[0].second}));
    for (int i = 0; i < count; ++i) {
      // Of a row that can't be all tokens are equal.
      const auto token =
          static_cast<std::int32_t>(std::isinf(base) ? static_cast<unsigned>(i) : answer[1 + i].first);
      const double value = base + (std::isinf(base) ? 0.0f : answer[1 + i].second);
      if (kept == best.size() && !(value > best[kept - 1].log_probability)) break;  // nor are those below it
      std::size_t at = kept < best.size() ? kept++ : kept - 1;
      for (; at > 0 && value > best[at - 1].log_probability; --at) best[at] = best[at - 1];
      best[at] = {static_cast<std::int32_t>(row), token, value};
    }
  }
}

}  // namespace foretoken::cuda
