// Tables beside papers: NeuSight, APEX, LLMCompass, Jetson modules, DeepSeek's published figures; and those
// that hold no operator times, which are refused by name.
#include <algorithm>

#include "hwdb/published_rows.h"

namespace foretoken {
namespace {

// PyTorch in 32 bits.
class NeuSight final : public SourceTable {
 public:
  explicit NeuSight(std::string file) : file_(std::move(file)) {}
  void read(const Cells& row, const Emit& emit) const override {
    const Origin origin{file_, row.text("device"), "pytorch " + row.text_or_empty("torch"), "float32"};
    Emitter out(emit, origin);
    const std::string& op = row.text("op");
    const double seconds = row.time("latency_ms", kMilli);
    if (row.has("m")) {
      const std::int64_t b = op == "bmm" ? row.size("b") : 1;
      out(MeasuredKind::kGemm, {row.size("n"), row.size("k"), b, row.size("m")}, seconds);
    } else {
      const bool scalar = op.ends_with("u") && op != "relu" && op != "gelu";
      const std::string name = op == "ln" ? "layernorm" : scalar ? op.substr(0, op.size() - 1) : op;
      const bool two = !scalar && (name == "add" || name == "mul" || name == "div" || name == "pow");
      const std::int64_t h = row.size("h");
      out(MeasuredKind::kElementwise, {4 * h * (two ? 3 : 2), h, row.size("b")}, seconds, name);
    }
    out.finish();
  }

 private:
  std::string file_;
};

class Apex final : public SourceTable {
 public:
  explicit Apex(std::string file) : file_(std::move(file)) {}
  void read(const Cells& row, const Emit& emit) const override {
    const double seconds = row.time("time(us)", kMicro);
    Origin origin{file_, row.text("gpu"), "apex", row.text("dtype") == "half" ? "float16" : "float32"};
    Emitter out(emit, origin);
    if (row.has("m")) {
      out(MeasuredKind::kGemm, {row.size("n"), row.size("k"), 1, row.size("m")}, seconds);
      return out.finish();
    }
    origin.engine = "nccl apex";
    const std::string& name = row.text("op");
    const auto kind = measured_kind_from_name(name == "alltoall"   ? "all_to_all"
                                              : name == "sendrecv" ? "send_recv"
                                                                   : name);
    if (!kind) return out.refuse(name + ": collective without a table", seconds);
    const std::int64_t nodes = row.size("num_nodes"), per_node = row.size("num_gpus_per_node");
    const double kilobytes = row.number_or("size(kb)", 0);
    if (per_node > 16)
      return out.refuse("over 16 devices a node: cells of the table are out of place", seconds);
    if (kilobytes < 1) return out.refuse("empty message", seconds);
    out(*kind, {nodes * per_node, per_node, static_cast<std::int64_t>(kilobytes * 1024)}, seconds);
    out.finish();
  }

 private:
  std::string file_;
};

class LlmCompass final : public SourceTable {
 public:
  explicit LlmCompass(std::string file) : file_(std::move(file)) {}
  void read(const Cells& row, const Emit& emit) const override {
    const std::string &device = row.text("device"), &op = row.text("op");
    const bool four = device.starts_with("4x");
    Origin origin{file_, four ? first_part(device.substr(2), " ") : device, "llmcompass",
                  row.text("dtype") == "fp32" ? "float32" : "float16"};
    Emitter out(emit, origin);
    const double seconds = row.time("latency_s", 1);
    const std::int64_t element = origin.dtype == "float32" ? 4 : 2;
    if (op == "matmul") {
      out(MeasuredKind::kGemm, {row.size("n"), row.size("k"), 1, row.size("m")}, seconds);
    } else if (op == "allreduce") {
      origin.engine = "nccl llmcompass";
      out(MeasuredKind::kAllReduce, {4, 4, row.size("size_bytes")}, seconds);
    } else if ((op == "gelu" || op == "layernorm" || op == "softmax") && row.number_or("m", 0) >= 1) {
      const auto n = static_cast<std::int64_t>(std::max(1.0, row.number_or("n", 1)));
      out(MeasuredKind::kElementwise, {2 * element * n, n, row.size("m")}, seconds, op);
    } else {
      return out.refuse(first_part(op, ":") + ": part of a layer without its shape", seconds);
    }
    out.finish();
  }

 private:
  std::string file_;
};

class DeepGemm final : public SourceTable {
 public:
  explicit DeepGemm(std::string file) : file_(std::move(file)) {}
  void read(const Cells& row, const Emit& emit) const override {
    const Origin origin{file_, row.text("gpu"), "deepgemm", "fp8_block"};
    Emitter out(emit, origin);
    out(MeasuredKind::kGemm, {row.size("n"), row.size("k"), row.size("groups"), row.size("m")},
        row.time("latency_us", kMicro));
    out.finish();
  }

 private:
  std::string file_;
};

// DeepEP's published figures: 256 experts, latency where it is given.
class DeepEpFigures final : public SourceTable {
 public:
  explicit DeepEpFigures(std::string file) : file_(std::move(file)) {}
  void read(const Cells& row, const Emit& emit) const override {
    const bool dispatch = row.text("op") == "dispatch";
    const std::int64_t ranks = row.size("ep");
    Origin origin{file_, first_part(row.text("gpu"), " "), "deepep", dispatch ? "fp8" : "bfloat16"};
    Emitter out(emit, origin);
    const double seconds = row.time("latency_us", kMicro);
    if (seconds <= 0) return out.refuse("bandwidth without a time");
    out(MeasuredKind::kExpertExchange,
        {ranks, std::min<std::int64_t>(ranks, 8), row.size("hidden"), row.size("topk"), 256,
         row.size("tokens_per_rank")},
        seconds, row.text("kernel") + " " + row.text("op"));
  }

 private:
  std::string file_;
};

// Published files that hold no operator times.
class Refused final : public SourceTable {
 public:
  Refused(std::string file, std::string reason, std::string device_column)
      : file_(std::move(file)), reason_(std::move(reason)), device_(std::move(device_column)) {}
  void read(const Cells& row, const Emit& emit) const override {
    const Origin origin{file_, device_.empty() ? "" : row.text(device_), "", ""};
    Emitter(emit, origin).refuse(reason_);
  }

 private:
  std::string file_, reason_, device_;
};

// Jetson modules: GEMM and attention, times in ms.
class Edge final : public SourceTable {
 public:
  explicit Edge(std::string file) : file_(std::move(file)) {}
  void read(const Cells& row, const Emit& emit) const override {
    Origin origin{file_, row.text("device"), "cutlass", row.text("precision") == "int8" ? "int8" : "float16"};
    Emitter out(emit, origin);
    const double seconds = row.time("min_runtime", kMilli);
    if (row.text("op").starts_with("matmul") && row.number_or("M", 0) >= 1)
      out(MeasuredKind::kGemm, {row.size("N"), row.size("K"), 1, row.size("M")}, seconds);
    else
      out.refuse(row.text("op") + ": not a causal attention or a projection", seconds);
    out.finish();
  }

 private:
  std::string file_;
};

}  // namespace

std::unique_ptr<SourceTable> paper_table(const Cells& c, const std::string& file) {
  const auto refused = [&](const char* reason, const char* device = "") -> std::unique_ptr<SourceTable> {
    return std::make_unique<Refused>(file, reason, device);
  };
  if (c.has("latency_ms") && c.has("split")) return std::make_unique<NeuSight>(file);
  if (c.has("time(us)") && c.has("gpu")) return std::make_unique<Apex>(file);
  if (c.has("latency_s") && c.has("throughput")) return std::make_unique<LlmCompass>(file);
  if (c.has("speedup_vs_cutlass")) return std::make_unique<DeepGemm>(file);
  if (c.has("tokens_per_rank") && c.has("topk")) return std::make_unique<DeepEpFigures>(file);
  if (c.has("min_runtime")) return std::make_unique<Edge>(file);
  if (c.has("token_time") && c.has("prompt_time"))
    return refused("times of whole requests, not of operators", "hardware");
  if (c.has("prefill_a_ms") || c.has("max_num_tokens"))
    return refused("fitted coefficients, not measured times");
  if (c.has("Roofline") && c.has("Measurement"))
    return refused("predictions of other programs beside a time without its shape");
  if (c.has("dur_us") && c.has("grid")) return refused("kernels of a training step, without their shapes");
  if (c.has("unit") && c.has("value") && c.has("gpu")) return refused("peak figures without a shape", "gpu");
  return nullptr;
}

}  // namespace foretoken
