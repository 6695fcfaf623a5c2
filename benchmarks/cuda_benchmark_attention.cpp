// Attention of decoding, of prompts, and over latents.
#include "benchmarks/cuda_benchmark.h"

namespace foretoken::cuda_benchmark {
namespace {

struct Heads {
  Index heads, kv_heads, qk_dim, v_dim;
  bool latent = false;  // values are the first dims of the keys
};

// fresh: new tokens of each sequence, 1 in decoding.
void attend(State& state, Storage storage, const Heads& h, Index sequences, Index length, Index fresh) {
  const Cached cache(storage, h.kv_heads, h.qk_dim, h.latent ? 0 : h.v_dim, sequences, length, fresh,
                     fresh > 1 ? 4 : 128);
  const AttentionArgs args{h.heads, h.qk_dim, h.v_dim, 1 / std::sqrt(static_cast<float>(h.qk_dim))};
  const Index rows = sequences * fresh, width = h.heads * h.qk_dim;
  const Array<float> q = normal(rows * width), out(rows * h.heads * h.v_dim);
  const Array<std::byte> scratch(
      static_cast<Index>(kernels().attention_scratch(args, cache.layer, rows, length, 1)));
  const double seconds = measure(state, cache.copies(), [&](int i) {
    kernels().attention(args, cache.layer, cache[i], q, width, out, h.heads * h.v_dim, scratch,
                        bench->threads);
  });
  const double pairs = static_cast<double>(rows) *
                       (static_cast<double>(length - fresh) + 0.5 * static_cast<double>(fresh + 1));
  add_bytes(state, cache.bytes(), seconds);
  add_flops(state, pairs * 2 * static_cast<double>(h.heads * (h.qk_dim + h.v_dim)), seconds);
}

}  // namespace

void register_attention() {
  constexpr Heads kLlama{32, 8, 128, 128};
  for (const Storage storage : {Storage::kBf16, Storage::kFp8, Storage::kInt8})
    for (const Index sequences : {1, 8, 32, 64})
      for (const Index length : {1024, 4096, 16384}) {
        if (storage != Storage::kBf16 && length == 16384) continue;
        row("decode_attention/" + kFormats.at(storage) + number("batch", sequences) + number("kv", length),
            [=](State& state) { attend(state, storage, kLlama, sequences, length, 1); });
      }
  for (const Index length : {1024, 2048, 4096, 8192, 16384})
    row("prompt_attention/bfloat16" + number("length", length),
        [=](State& state) { attend(state, Storage::kBf16, kLlama, 1, length, length); });
  row("prompt_attention/bfloat16/cached:7680/length:8192",
      [=](State& state) { attend(state, Storage::kBf16, kLlama, 1, 8192, 512); });
  // A DeepSeek's prompt, whose latents were projected up, and its decoding over latents.
  row("prompt_attention/bfloat16_192_128/length:4096", [=](State& state) {
    attend(state, Storage::kBf16, {16, 16, 192, 128}, 1, 4096, 4096);
  });
  for (const Index heads : {16, 128})
    for (const Index sequences : {1, 32, 128})
      for (const Index length : {4096, 16384})
        row("latent_attention/bfloat16" + number("heads", heads) + number("batch", sequences) +
                number("kv", length),
            [=](State& state) {
              attend(state, Storage::kBf16, {heads, 1, 576, 512, true}, sequences, length, 1);
            });
}

}  // namespace foretoken::cuda_benchmark
