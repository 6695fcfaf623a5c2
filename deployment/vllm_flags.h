// `vllm serve` flags that this build understands, and the words of a command line.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace foretoken {

enum class FlagKind { kInteger, kNumber, kText, kSwitch, kIntegers, kJson };

struct VllmFlag {
  std::string_view name;   // "--tensor-parallel-size"
  std::string_view alias;  // "-tp", or empty
  std::string_view key;    // key of the engine section, or "lora/KEY"
  FlagKind kind;
};
std::span<const VllmFlag> vllm_flags();

// Flags without an effect on speed or memory as far as this build models them.
enum class Values { kNone, kOne, kSeveral };
struct IgnoredFlag {
  std::string_view name;
  Values values;
};
std::span<const IgnoredFlag> ignored_vllm_flags();

// Weight formats by vLLM's names.
struct QuantizationName {
  std::string_view vllm, ours;
};
std::span<const QuantizationName> vllm_quantizations();

// Words as a POSIX shell splits them: quotes, backslashes, line continuations, comments. Throws Error for an
// open quote.
std::vector<std::string> shell_words(std::string_view command, const std::string& where);
std::string shell_quote(std::string_view word);

}  // namespace foretoken
