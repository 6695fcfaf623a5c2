// The built-in database, the data it is made from, and the measurements beside the project where they are
// present.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <string>

#include "expect_error.h"
#include "hwdb/database.h"

namespace foretoken::test {

inline std::filesystem::path built_in_path() {
  return std::filesystem::path(FORETOKEN_BINARY_DIR) / "share/foretoken/foretoken.sqlite";
}
inline std::filesystem::path data_folder() {
  return std::filesystem::path(FORETOKEN_SOURCE_DIR) / "hwdb/data";
}

inline const Database& built_in() {
  static const Database database = Database::open(built_in_path());
  return database;
}

inline std::filesystem::path shared_data() {
  const char* folder = std::getenv("FORETOKEN_SHARED");
  return std::filesystem::path(folder ? folder : FORETOKEN_SOURCE_DIR "/../shared") / "data";
}

inline Op op_with(Shape shape) {
  Op op;
  op.name = "test";
  op.shape = std::move(shape);
  return op;
}

inline Op gemm(std::int64_t m, std::int64_t n, std::int64_t k, WeightFormat weight = WeightFormat::kPlain) {
  return op_with(GemmShape{.m = m, .n = n, .k = k, .weight = weight});
}

inline AttentionShape attention(bool decode, std::int64_t sequences, std::int64_t tokens, std::int64_t heads,
                                std::int64_t kv_heads, std::int64_t dim = 128) {
  AttentionShape a;
  a.decode = decode;
  a.sequences = sequences;
  if (decode)
    a.kv_tokens = static_cast<double>(sequences * tokens);
  else
    a.new_tokens = tokens;
  a.heads = heads;
  a.kv_heads = kv_heads;
  a.qk_dim = a.v_dim = dim;
  a.kv_bytes_per_token = static_cast<double>(4 * kv_heads * dim);
  return a;
}

}  // namespace foretoken::test
