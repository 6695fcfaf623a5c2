// What the readers of published tables share: rows of one origin, and the layers that such tables name.
#pragma once

#include <algorithm>
#include <array>
#include <optional>
#include <string>
#include <string_view>

#include "hwdb/measurement_tables.h"

namespace foretoken {

inline constexpr double kMilli = 1e-3, kMicro = 1e-6, kNano = 1e-9;

// What the rows of a file share.
struct Origin {
  std::string file, device, engine, dtype = "bfloat16";
};

// Emits what a row timed, and once why nothing where it timed nothing.
class Emitter {
 public:
  Emitter(const SourceTable::Emit& emit, const Origin& origin) : emit_(emit), origin_(origin) {}
  void operator()(MeasuredKind kind, const std::array<std::int64_t, kMaxShapeColumns>& shape, double seconds,
                  const std::string& kernel = "", const std::string& kv = "") {
    if (seconds <= 0) return;  // not timed in this row
    Measurement m = measurement(kind, shape, seconds);
    m.series.kernel = kernel, m.series.kv_dtype = kv;
    any_ = true;
    emit_(m, "");
  }
  void refuse(std::string_view reason, double seconds = 0) {
    any_ = true;
    emit_(measurement(MeasuredKind::kElementwise, {}, seconds), reason);
  }
  void finish() {
    if (!any_) refuse("time is zero");
  }

 private:
  Measurement measurement(MeasuredKind kind, const std::array<std::int64_t, kMaxShapeColumns>& shape,
                          double seconds) const {
    Measurement m;
    m.series.device = origin_.device, m.series.engine = origin_.engine, m.series.source = origin_.file;
    m.series.kind = kind;
    m.series.dtype = origin_.dtype;
    m.point.shape = shape;
    m.point.seconds = seconds;
    return m;
  }
  const SourceTable::Emit& emit_;
  const Origin& origin_;
  bool any_ = false;
};

// Dimensions of a decoder layer.
struct Layer {
  std::int64_t hidden = 0, inter = 0, heads = 0, kv_heads = 0, head_dim = 0, vocab = 0;
  bool gated = true;
  std::int64_t experts = 0, top_k = 0;
};

// What one of `ranks` holds, at least one.
inline std::int64_t share(std::int64_t whole, std::int64_t ranks) {
  return std::max<std::int64_t>(1, whole / ranks);
}

// A layer that a table names, at `tokens` rows on one of `tp` ranks; nullopt of a layer that is no operator.
struct Piece {
  MeasuredKind kind = MeasuredKind::kGemm;
  std::array<std::int64_t, kMaxShapeColumns> shape{};
  std::string kernel{};
};
std::optional<Piece> piece_of(const std::string& name, const Layer& l, std::int64_t tokens, std::int64_t tp);

inline std::string first_part(const std::string& text, std::string_view separator) {
  return text.substr(0, text.find(separator));
}

}  // namespace foretoken
