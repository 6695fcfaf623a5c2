// What readers of JSONL traces share: a line's numbers, and token ids as content.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "serving/request.h"

namespace foretoken::trace_detail {

// Throw Error{where} where the key is missing or what it holds is none.
double number(const Json& object, std::string_view key, const std::string& where);
std::int64_t integer(const Json& object, std::string_view key, const std::string& where);

// Token ids become hashed blocks of 16 tokens, each with everything before it in its hash, as vLLM's prefix
// cache does.
void add_tokens(const std::vector<std::int64_t>& ids, std::vector<ContentRun>& runs);
// ids: an array of `count` whole numbers; throws Error{where}.
std::vector<std::int64_t> token_ids(const Json& ids, std::int64_t count, std::string_view key,
                                    std::string_view count_key, const std::string& where);

}  // namespace foretoken::trace_detail
