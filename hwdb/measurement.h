// One measured operator time as a row: its kind, its shape in the columns of that kind, and where it comes
// from. Files of measurements, the database and the lookup all speak of rows in this form.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "hwdb/device.h"
#include "model/operator.h"

namespace foretoken {

enum class MeasuredKind : std::uint8_t {
  kGemm,
  kPrefillAttention,
  kDecodeAttention,
  kMlaPrefill,
  kMlaDecode,
  kMoe,
  kAllReduce,
  kAllGather,
  kReduceScatter,
  kAllToAll,
  kSendRecv,
  kElementwise,
  kRecurrencePrefill,
  kRecurrenceDecode,
  kConvolutionPrefill,
  kConvolutionDecode,
  kSparsePrefill,
  kSparseDecode,
  kIndexerPrefill,
  kIndexerDecode,
  kMlaModulePrefill,
  kMlaModuleDecode,
  kExpertExchange,
};
inline constexpr int kMeasuredKinds = 23;
inline constexpr int kMaxShapeColumns = 8;

std::string_view name_of(MeasuredKind kind);  // "gemm", "prefill_attention", "all_reduce", ...
std::optional<MeasuredKind> measured_kind_from_name(std::string_view name);
// Integer columns of a kind, e.g. gemm: m n k batch. Collectives share theirs.
std::span<const std::string_view> shape_columns(MeasuredKind kind);
// Columns that identify a shape; the rest run along a curve (m, tokens, message bytes) or a grid (batch,
// length).
int shape_identity_columns(MeasuredKind kind);

// What many rows share.
struct MeasurementSeries {
  std::string device;  // canonical name
  std::string engine;  // "vllm 0.19.0", "nccl 2.29.2"
  MeasuredKind kind = MeasuredKind::kGemm;
  std::string dtype;     // gemm: bfloat16 fp8 fp8_block nvfp4 int4_wo ...; attention: type of the arithmetic
  std::string kv_dtype;  // attention only
  std::string kernel;    // where several kernels of one engine were timed; elementwise: its name
  std::string distribution;  // moe: balanced, power_law_1.2
  std::string driver, date, source;
  double clock_mhz = 0;  // 0: unknown

  auto operator<=>(const MeasurementSeries&) const = default;
};

struct MeasuredPoint {
  std::array<std::int64_t, kMaxShapeColumns> shape{};
  double seconds = 0;
  double spread = 0;  // relative standard deviation of repeats, 0: unknown
};

struct Measurement {
  MeasurementSeries series;
  MeasuredPoint point;
};

// The operator that a row measured; nullopt where the program has no such operator (int8 weight-only GEMM).
// The first of several where the row timed a module (ops_of).
std::optional<Op> op_of(const MeasurementSeries& series, const MeasuredPoint& point);
// All operators that a row timed together: of a module its projections and core, else the one of op_of().
std::vector<Op> ops_of(const MeasurementSeries& series, const MeasuredPoint& point);
// Whether a row timed several operators together: it stays in the database for what it is, and no lookup
// answers from it.
bool is_module(MeasuredKind kind);

struct ImportReport {
  std::int64_t read = 0;      // data lines
  std::int64_t times = 0;     // measured times in them: some tables have several in a line
  std::int64_t imported = 0;  // of those times
  std::vector<std::pair<std::string, std::int64_t>> dropped;  // reason, rows
  void drop(std::string_view reason, std::int64_t rows = 1);
};

struct MeasurementReader {
  // Canonical name of a device as the file calls it; empty where the rows are to be dropped (unknown device).
  std::function<std::string(const std::string&)> device_name;
  // Each good row. Bad cells (text, NaN, negative, missing column) are Errors with file:line; rows that can't
  // be used are counted with their reason.
  std::function<void(const Measurement&)> row;
  bool twins = false;  // also rows that repeat another row's bytes under a second type (NCCL int8)
  // Each row that can't be used, with as much of it as was read; may be empty.
  std::function<void(std::string_view reason, const Measurement&)> dropped;
};
// kind: "" tells it from the columns and the file's name; otherwise gemm, context_attention, ... as in the
// files.
void read_measurements(const std::filesystem::path& file, const std::string& kind,
                       const MeasurementReader& reader, ImportReport& report);

// Own form: device,engine,op,dtype,<shape columns>,seconds,spread,clock_mhz,driver,date,source.
// `columns`: the shape columns of the file, which may hold more than one kind (empty cells where a kind has
// none).
std::string measurement_csv_header(std::span<const std::string_view> columns);
std::string measurement_csv_row(const Measurement& row, std::span<const std::string_view> columns);

}  // namespace foretoken
