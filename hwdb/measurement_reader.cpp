// Reads files of measurements: our own form and the tables of aiconfigurator, told apart by their columns;
// the other tables are in measurement_tables.h.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>

#include "base/csv.h"
#include "base/error.h"
#include "base/text.h"
#include "hwdb/measurement.h"
#include "hwdb/measurement_tables.h"

namespace foretoken {
namespace {

// kSource: a table of measurement_tables.h.
enum class Form { kOwn, kGemm, kAttention, kMla, kMlaBmm, kMoe, kNccl, kCustomAllReduce, kSource };

// What a file says of attention: which of the two every row is, or that the row's own lengths say it.
enum class Phase { kByRow, kPrefill, kDecode };

class RowReader {
 public:
  RowReader(const std::filesystem::path& file, const std::string& kind, bool twins)
      : csv_(file), cells_(csv_), file_(file.filename().string()), twins_(twins) {
    std::string name = lower(kind.empty() ? file_ : kind);
    if (name.find("context") != std::string::npos || name.find("prefill") != std::string::npos)
      phase_ = Phase::kPrefill;
    if (name.find("generation") != std::string::npos || name.find("decode") != std::string::npos)
      phase_ = Phase::kDecode;
    source_ = has("op") && has("seconds") ? nullptr : source_table(csv_, file);
    form_ = source_ ? Form::kSource : form_of_columns();
    if (!kind.empty()) check_kind(kind);
  }

  bool next() { return csv_.next(); }
  std::string where() const { return csv_.where(); }

  // The measured time of a row that can't be used, where it is a number.
  void read_time(Measurement& out) const {
    for (const auto& [column, unit] : {std::pair{"seconds", 1.0}, std::pair{"latency_us", 1e-6}})
      if (const auto c = csv_.find_column(column))
        out.point.seconds = parse_double(csv_.text(*c)).value_or(0) * unit;
  }

  // Each measured time of the row, and why it can't be used where it can't.
  void read(const SourceTable::Emit& emit) {
    if (source_) return source_->read(cells_, emit);
    const std::string_view reason = read(row_);
    if (!reason.empty()) read_time(row_);
    emit(row_, reason);
  }

 private:
  // Fills `out`; a reason where the row can't be used.
  std::string_view read(Measurement& out) {
    out = {};
    switch (form_) {
      case Form::kOwn:
        return own(out);
      case Form::kGemm:
        return gemm(out);
      case Form::kAttention:
        return attention(out);
      case Form::kMla:
        return mla(out);
      case Form::kMlaBmm:
        return mla_bmm(out);
      case Form::kMoe:
        return moe(out);
      case Form::kNccl:
        return nccl(out);
      case Form::kCustomAllReduce:
        return custom_all_reduce(out);
      case Form::kSource:
        break;
    }
    return {};
  }
  bool has(std::string_view column) const { return cells_.has(column); }

  Form form_of_columns() const {
    if (has("op") && has("seconds")) return Form::kOwn;
    if (has("moe_tp") && has("num_experts") && has("num_tokens")) return Form::kMoe;
    if (has("mla_dtype")) return Form::kMla;
    if (has("bmm_dtype") && has("num_heads")) return Form::kMlaBmm;
    if (has("num_kv_heads") && has("isl")) return Form::kAttention;
    if (has("lib") && has("message_size")) return Form::kNccl;
    if (has("kernel") && has("message_size")) return Form::kCustomAllReduce;
    if (has("m") && has("n") && has("k") && has("latency_us")) return Form::kGemm;
    throw Error(
        file_ + ":1",
        "the columns tell no kind of measurement; needed are those of `foretoken hw export` "
        "(device,engine,op,dtype,...,seconds) or of a published table (aiconfigurator, Vidur, Frontier, "
        "LLMServingSim, InferSim, NeuSight, APEX, LLMCompass); the file has: " +
            join(csv_.header(), ","));
  }

  void check_kind(const std::string& kind) const {
    const std::string k = lower(kind);
    const auto is = [&](std::string_view part) { return k.find(part) != std::string::npos; };
    Form asked = form_;
    if (is("gemm"))
      asked = Form::kGemm;
    else if (is("mla_bmm"))
      asked = Form::kMlaBmm;
    else if (is("mla"))
      asked = Form::kMla;
    else if (is("attention"))
      asked = Form::kAttention;
    else if (is("moe"))
      asked = Form::kMoe;
    else if (is("nccl"))
      asked = Form::kNccl;
    else if (is("custom_allreduce"))
      asked = Form::kCustomAllReduce;
    else if (is("collective"))
      asked = form_ == Form::kNccl ? Form::kNccl : Form::kCustomAllReduce;
    else if (form_ == Form::kSource)
      throw Error("--kind",
                  fmt::format("\"{}\" is not needed: the columns of {} tell what it holds; leave it out",
                              kind, file_));
    else
      throw Error("--kind",
                  fmt::format("unknown kind \"{}\"; use gemm, context_attention, generation_attention, moe, "
                              "mla, mla_bmm, nccl, custom_allreduce or collective",
                              kind));
    if (form_ != Form::kOwn && asked != form_)
      throw Error(file_ + ":1", fmt::format("the columns are not those of kind \"{}\": {}", kind,
                                            join(csv_.header(), ",")));
  }

  const std::string& text(std::string_view column) const { return cells_.text(column); }
  std::string text_or_empty(std::string_view column) const { return cells_.text_or_empty(column); }
  double number_or(std::string_view column, double otherwise) const {
    return cells_.number_or(column, otherwise);
  }
  std::int64_t size(std::string_view column, std::int64_t least = 1) const {
    return cells_.size(column, least);
  }
  // "" when positive; the reason otherwise.
  std::string_view time(std::string_view column, double unit, Measurement& out) const {
    const double v = csv_.number(csv_.column(column));
    if (v < 0) throw Error(where(), fmt::format("{} is {}; a measured time can't be negative", column, v));
    out.point.seconds = v * unit;
    return v == 0 ? "time is zero" : "";
  }
  void head(Measurement& out, MeasuredKind kind, std::string engine) const {
    out.series.device = text("system");
    out.series.engine = std::move(engine);
    out.series.kind = kind;
    out.series.source = file_;
    if (const auto c = csv_.find_column("suspect"); c && csv_.text(*c) == "1")
      suspect_ = true;
    else
      suspect_ = false;
  }
  std::string framework() const { return text("backend") + " " + text("version"); }

  std::string_view own(Measurement& out) {
    MeasurementSeries& s = out.series;
    const auto kind = measured_kind_from_name(text("op"));
    if (!kind) return "operator of a kind that has no table";
    s.kind = *kind;
    s.device = text("device");
    s.engine = text("engine");
    s.dtype = text("dtype");
    s.kv_dtype = text_or_empty("kv_dtype");
    s.kernel = text_or_empty("kernel");
    s.distribution = text_or_empty("distribution");
    s.driver = text_or_empty("driver");
    s.date = text_or_empty("date");
    s.source = text_or_empty("source");
    s.clock_mhz = number_or("clock_mhz", 0);
    if (s.source.empty()) s.source = file_;
    const auto columns = shape_columns(*kind);
    for (std::size_t i = 0; i < columns.size(); ++i) {
      const bool may_be_zero =
          columns[i] == "cached" || columns[i] == "gated" || columns[i] == "flops_per_row";
      out.point.shape[i] = size(columns[i], may_be_zero ? 0 : 1);
    }
    out.point.spread = number_or("spread", 0);
    return time("seconds", 1, out);
  }

  std::string_view gemm(Measurement& out) {
    head(out, MeasuredKind::kGemm, framework());
    out.series.dtype = text("dtype");
    out.point.shape = {size("n"), size("k"), 1, size("m")};
    return time("latency_us", 1e-6, out);
  }

  bool decode_row(std::int64_t isl, std::int64_t step) const {
    return phase_ == Phase::kDecode || (phase_ == Phase::kByRow && isl == 1 && step > 0);
  }

  std::string_view attention(Measurement& out) {
    const std::int64_t isl = size("isl"), step = size("step", 0), batch = size("batch"),
                       heads = size("num_heads");
    const bool decode = decode_row(isl, step);
    head(out, decode ? MeasuredKind::kDecodeAttention : MeasuredKind::kPrefillAttention, framework());
    if (suspect_) return "marked suspect by its source";
    out.series.dtype = text("attn_dtype");
    out.series.kv_dtype = text("kv_dtype");
    std::int64_t kv_heads = size("num_kv_heads", 0);
    if (kv_heads == 0) kv_heads = heads;  // multi-head attention in some versions of the tables
    const std::int64_t dim = size("head_dim");
    out.point.shape =
        decode ? std::array<std::int64_t, kMaxShapeColumns>{heads, kv_heads, dim, isl, batch, step + isl}
               : std::array<std::int64_t, kMaxShapeColumns>{heads, kv_heads, dim, step, batch, isl};
    return time("latency_us", 1e-6, out);
  }

  std::string_view mla(Measurement& out) {
    const std::int64_t isl = size("isl"), step = size("step", 0), batch = size("batch"),
                       heads = size("num_heads");
    const bool decode = decode_row(isl, step);
    head(out, decode ? MeasuredKind::kMlaDecode : MeasuredKind::kMlaPrefill, framework());
    if (const std::string weights = text_or_empty("gemm_type"); !weights.empty()) {
      out.series.kind = decode ? MeasuredKind::kMlaModuleDecode : MeasuredKind::kMlaModulePrefill;
      out.series.kernel = weights;
    }
    out.series.dtype = text("mla_dtype");
    out.series.kv_dtype = text("kv_dtype");
    out.point.shape = decode ? std::array<std::int64_t, kMaxShapeColumns>{heads, isl, batch, step + isl}
                             : std::array<std::int64_t, kMaxShapeColumns>{heads, step, batch, isl};
    return time("latency_us", 1e-6, out);
  }

  // MLA's absorbed halves of the up-projection, a product for each head of DeepSeek's dimensions: queries of
  // 128 into the latent of 512 before decode attention, and its result back after it.
  std::string_view mla_bmm(Measurement& out) {
    const std::string& op = text("op_name");
    const bool before = op == "mla_gen_pre";
    if (!before && op != "mla_gen_post") {
      reason_ = op + ": no operator table";
      return reason_;
    }
    head(out, MeasuredKind::kGemm, framework());
    out.series.dtype = text("bmm_dtype");
    const std::int64_t latent = 512, own = 128;
    const std::int64_t heads = size("num_heads");
    out.point.shape = {before ? latent : own, before ? own : latent, heads, size("num_tokens")};
    if (heads == 1) return "product of one head: a plain GEMM through a batched kernel";
    return time("latency_us", 1e-6, out);
  }

  std::string_view moe(Measurement& out) {
    head(out, MeasuredKind::kMoe, framework());
    MeasurementSeries& s = out.series;
    s.dtype = text("moe_dtype");
    s.kernel = text("kernel");
    s.distribution = text("distribution");
    const std::int64_t inter = size("inter"), tp = size("moe_tp"), experts = size("num_experts"),
                       ep = size("moe_ep");
    if (inter % tp != 0 || experts % ep != 0) return "experts can't be divided evenly";
    const bool gated = s.kernel.find("nongated") == std::string::npos;
    out.point.shape = {size("hidden"), inter / tp,    size("topk"),      experts,
                       experts / ep,   gated ? 1 : 0, size("num_tokens")};
    return time("latency_us", 1e-6, out);
  }

  std::string_view nccl(Measurement& out) {
    const std::string op = text("op") == "alltoall" ? "all_to_all" : text("op");
    const auto kind = measured_kind_from_name(op);
    if (!kind) return "collective without a table";
    head(out, *kind, text("lib") + " " + text("version"));
    const std::string& dtype = text("dtype");
    if (dtype == "int8" && !twins_) return "twin of the 2-byte row with equal bytes";
    const auto element = dtype_from_name(dtype);
    if (!element) return "unknown element type";
    out.series.dtype = name_of(*element);
    set_message(out, bytes_of(*element));
    return time("latency_us", 1e-6, out);
  }

  std::string_view custom_all_reduce(Measurement& out) {
    head(out, MeasuredKind::kAllReduce, framework());
    if (text("kernel").ends_with("_eager")) return "timed eagerly: launch overhead of the host included";
    out.series.dtype = text("dtype");
    out.series.kernel = text("kernel");
    const auto element = dtype_from_name(out.series.dtype);
    if (!element) return "unknown element type";
    set_message(out, bytes_of(*element));
    return time("latency_us", 1e-6, out);
  }

  // message_size counts elements; the tables were measured inside one node or one NVLink domain.
  void set_message(Measurement& out, double element_bytes) const {
    const std::int64_t ranks = size("num_gpus");
    const auto message = static_cast<std::int64_t>(static_cast<double>(size("message_size")) * element_bytes);
    out.point.shape = {ranks, ranks, message};
  }

  CsvReader csv_;
  Cells cells_;
  std::unique_ptr<SourceTable> source_;
  std::string file_;
  bool twins_;
  Form form_ = Form::kOwn;
  Phase phase_ = Phase::kByRow;
  mutable bool suspect_ = false;
  std::string reason_;
  Measurement row_;
};

}  // namespace

void read_measurements(const std::filesystem::path& file, const std::string& kind,
                       const MeasurementReader& reader, ImportReport& report) {
  RowReader rows(file, kind, reader.twins);
  std::map<std::string, std::string> names;  // as in the file -> canonical
  Measurement row;
  const auto drop = [&](std::string_view reason) {
    report.drop(reason);
    if (reader.dropped) reader.dropped(reason, row);
  };
  const SourceTable::Emit take = [&](const Measurement& m, std::string_view reason) {
    ++report.times;
    row = m;
    if (!reason.empty()) return drop(reason);
    const auto [name, added] = names.emplace(row.series.device, std::string());
    if (added) name->second = reader.device_name(row.series.device);
    if (name->second.empty())
      return drop(fmt::format("device \"{}\" is not in the database", row.series.device));
    row.series.device = name->second;
    reader.row(row);
  };
  while (rows.next()) {
    ++report.read;
    rows.read(take);
  }
}

}  // namespace foretoken
