// aiconfigurator's tables of linear attention, quantisation kernels, DeepEP and wide expert parallelism.
#include <fmt/format.h>

#include "base/error.h"
#include "hwdb/measurement_tables.h"

namespace foretoken {
namespace {

constexpr double kMicro = 1e-6;

Measurement head(const Cells& row, MeasuredKind kind, const std::string& file) {
  Measurement m;
  m.series.device = row.text("system");
  m.series.engine = row.has("backend") ? row.text("backend") + " " + row.text("version")
                                       : row.text("kernel_source") + " " + row.text("version_dir");
  m.series.kind = kind;
  m.series.source = file;
  return m;
}

void emit_time(const SourceTable::Emit& emit, Measurement m, double seconds) {
  m.point.seconds = seconds;
  emit(m, seconds > 0 ? "" : "time is zero");
}

// gdn, mamba2: the convolution over the channels of queries, keys and values, and the gated delta rule after
// it; each row is one of the two. (Of Mamba2 only the convolution was timed.)
class LinearAttention final : public SourceTable {
 public:
  explicit LinearAttention(std::string file) : file_(std::move(file)) {}
  void read(const Cells& row, const Emit& emit) const override {
    const std::string& kernel = row.text("kernel_source");
    const bool decode = row.text("phase") == "generation";
    const std::int64_t sequences = row.size("batch_size"), length = row.size("seq_len");
    const double seconds = row.time("latency_us", kMicro);
    if (kernel.starts_with("causal_conv1d")) {
      const std::int64_t channels =
          row.has("num_k_heads")
              ? 2 * row.size("num_k_heads") * row.size("head_k_dim") +
                    row.size("num_v_heads") * row.size("head_v_dim")
              : row.size("nheads") * row.size("head_dim") + 2 * row.size("n_groups") * row.size("d_state");
      Measurement m =
          head(row, decode ? MeasuredKind::kConvolutionDecode : MeasuredKind::kConvolutionPrefill, file_);
      m.series.dtype = "bfloat16";
      m.series.kernel = kernel;
      m.point.shape = {channels, row.size("d_conv"), sequences, decode ? 1 : length};
      return emit_time(emit, std::move(m), seconds);
    }
    Measurement m =
        head(row, decode ? MeasuredKind::kRecurrenceDecode : MeasuredKind::kRecurrencePrefill, file_);
    m.series.dtype = "bfloat16";
    m.series.kernel = kernel;
    if (!row.has("num_v_heads") || kernel.find("gated_delta_rule") == std::string::npos) {
      m.point.seconds = seconds;
      return emit(m, kernel + ": no operator table");
    }
    m.point.shape = {row.size("num_v_heads"),
                     row.size("num_k_heads"),
                     row.size("head_k_dim"),
                     row.size("head_v_dim"),
                     sequences,
                     decode ? 1 : length};
    emit_time(emit, std::move(m), seconds);
  }

 private:
  std::string file_;
};

// Scales of fp8 activations (rows m of k values of 16 bits), alone and with the conversion.
class Quantisation final : public SourceTable {
 public:
  explicit Quantisation(std::string file) : file_(std::move(file)) {}
  void read(const Cells& row, const Emit& emit) const override {
    Measurement m = head(row, MeasuredKind::kElementwise, file_);
    const bool scale = row.text("op_name") == "compute_scale";
    const std::int64_t k = row.size("k");
    m.series.dtype = "bfloat16";
    m.series.kernel = row.text("op_name");
    m.point.shape = {scale ? 2 * k + 4 : 3 * k, 2 * k, row.size("m")};
    emit_time(emit, std::move(m), row.time("latency_us", kMicro));
  }

 private:
  std::string file_;
};

// DeepEP's dispatch (8 bits) and combine (16 bits) of a rank's tokens, eight ranks a node. Normal kernels say
// transfer and notification apart.
class DeepEp final : public SourceTable {
 public:
  explicit DeepEp(std::string file) : file_(std::move(file)) {}
  void read(const Cells& row, const Emit& emit) const override {
    constexpr std::int64_t kRanksPerNode = 8;
    const bool normal = row.has("dispatch_sms");
    const std::int64_t nodes = row.size("node_num");
    for (const std::string step : {"dispatch", "combine"}) {
      Measurement m = head(row, MeasuredKind::kExpertExchange, file_);
      m.series.dtype = step == "dispatch" ? "fp8" : "bfloat16";
      m.series.kernel = normal ? fmt::format("normal {} of {} multiprocessors", step, row.text(step + "_sms"))
                               : "low-latency " + step;
      m.point.shape = {nodes * kRanksPerNode, kRanksPerNode,           row.size("hidden_size"),
                       row.size("num_topk"),  row.size("num_experts"), row.size("num_token")};
      emit_time(emit, std::move(m),
                normal ? row.time(step + "_transmit_us", kMicro) + row.time(step + "_notify_us", kMicro)
                       : row.time(step + "_avg_t_us", kMicro));
    }
  }

 private:
  std::string file_;
};

// Experts of a large group. Redundant slots share the load of their expert: routing to num_slots experts.
class WideExperts final : public SourceTable {
 public:
  explicit WideExperts(std::string file) : file_(std::move(file)) {}
  void read(const Cells& row, const Emit& emit) const override {
    Measurement m = head(row, MeasuredKind::kMoe, file_);
    m.series.dtype = row.text("moe_dtype");
    m.series.kernel = row.text("kernel_source");
    const std::string& distribution = row.text("distribution");
    m.series.distribution = distribution == "uniform" ? "balanced" : distribution;
    const std::int64_t slots = row.size(row.has("num_slots") ? "num_slots" : "num_experts");
    const std::int64_t ranks = row.size("moe_ep_size"), inter = row.size("inter_size"),
                       slices = row.size("moe_tp_size");
    const double seconds = row.time("latency_us", kMicro);
    if (slots % ranks != 0 || inter % slices != 0) {
      m.point.seconds = seconds;
      return emit(m, "experts can't be divided evenly");
    }
    m.point.shape = {row.size("hidden_size"), inter / slices, row.size("topk"), slots, slots / ranks, 1,
                     row.size("num_tokens")};
    emit_time(emit, std::move(m), seconds);
  }

 private:
  std::string file_;
};

}  // namespace

std::unique_ptr<SourceTable> aiconfigurator_table(const Cells& c, const std::string& file) {
  if (!c.has("system") || !c.has("op_name")) return nullptr;
  if (c.has("phase") && c.has("d_conv")) return std::make_unique<LinearAttention>(file);
  if (c.has("quant_dtype") && c.has("m")) return std::make_unique<Quantisation>(file);
  if (c.has("node_num") && c.has("num_token")) return std::make_unique<DeepEp>(file);
  if (c.has("moe_ep_size")) return std::make_unique<WideExperts>(file);
  return nullptr;
}

}  // namespace foretoken
