// Strict JSON input and stable JSON output. Include the full nlohmann header only in .cpp files
// (json_full.h).
#pragma once

#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

namespace foretoken {

using Json = nlohmann::ordered_json;

struct Table;

// JSON with // and /* */ comments. Errors carry file:line:column; duplicate keys, nesting beyond 100 levels,
// numbers that overflow and trailing text are errors.
Json parse_json(std::string_view text, const std::string& where);
Json read_json(const std::filesystem::path& path);

std::string dump_json(const Json& json, int indent = 2);  // ends with a newline when indented
Json to_json(const Table& table);

}  // namespace foretoken
