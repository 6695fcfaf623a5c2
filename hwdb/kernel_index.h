// What a KernelTable holds: tables by kind and element type, each in order of preference of the engine that
// was timed. Built by Database from stored series, and asked for its own held-out residuals.
#pragma once

#include <array>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "hwdb/kernel_table.h"
#include "hwdb/measurement.h"
#include "hwdb/row_table.h"
#include "hwdb/shape_tables.h"
#include "hwdb/store.h"

namespace foretoken {

// Element types that are timed alike; bfloat16 and float16 are one.
// MXFP4 weights are timed with 16-bit activations
// and with 8-bit ones.
enum class TypeClass : std::uint8_t { k32, k16, kFp8, kFp8Block, kInt8, kInt4Wo, kNvfp4, kMxfp4, kMxfp4A8 };
inline constexpr std::size_t kTypeClasses = 9;
TypeClass type_class(DType t);
TypeClass type_class(WeightFormat f, DType activation);
std::string_view name_of(TypeClass t);

// Order of preference among engines; lower is better. requested: "vllm 0.19", "vllm-0.19", "vllm" or "".
struct EngineRank {
  int family =
      0;  // 0: the one asked for (user's rows of it first), then the user's, vllm, trtllm, sglang, rest
  double version = 0;  // distance from the version asked for, else newest first
  auto operator<=>(const EngineRank&) const = default;
};
EngineRank engine_rank(const std::string& engine, const std::string& requested, bool of_user);

// How an answer was found; each way has its own held-out error.
// Point: inside a curve of the shape. Shape: from neighbours, far where the nearest is far. Engine: another
// engine's row. Paired: another engine's row of this shape, and both engines' rows of its neighbours.
enum class Method : std::uint8_t { kPoint, kShape, kEngine, kFar, kPaired };
inline constexpr std::size_t kMethods = 5;
using MethodErrors = std::array<double, kMethods>;
inline constexpr MethodErrors kDefaultErrors = {0.10, 0.30, 0.25, 0.50,
                                                0.25};  // until held-out rows say better
inline constexpr double kFarOctaves = 1.0;  // a shape whose nearest is farther has an error of its own
std::string_view name_of(Method m);

struct KernelTable::Index {
  Device device;
  Topology topology;
  std::string requested;

  template <class Table>
  struct Tier {
    std::string engine;
    bool preferred = true;  // of the engine asked for, or of the first where none was; all of the user's
    bool of_user = false;
    std::string kernel;  // MoE: an engine has several, of which it runs the fastest; "batched" GEMMs
    Table table{};
    MethodErrors error = kDefaultErrors;      // 90th percentile of held-out relative errors
    std::unique_ptr<Beside<Table>> beside{};  // the engine that shares the most shapes
  };
  template <class Table>
  using Tiers = std::vector<Tier<Table>>;

  std::array<Tiers<GemmTable>, kTypeClasses> gemm;
  std::array<Tiers<GemmTable>, kTypeClasses>
      batched;  // a product for each head: other kernels, other engines
  // [phase: prefill, decode, MLA prefill, MLA decode][arithmetic][KV cache]
  std::array<std::array<std::array<Tiers<AttentionTable>, kTypeClasses>, kTypeClasses>, 4> attention;
  // GEMMs of other devices, for types that no row of this one has: this device's model with the donor's
  // efficiencies, and how far the donor's rows lie from its own model.
  struct Donor {
    GemmModel model;
    GemmTable table;
  };
  std::array<std::vector<Donor>, kTypeClasses> gemm_donors;
  double transfer_error = kDefaultErrors[1];  // of donors of the same architecture, or of others
  void borrow(const Index& donor);
  // Relative errors of this device's own bfloat16 rows, answered by the donors alone.
  std::vector<double> transfer_residuals(const Index& measured) const;
  std::array<Tiers<MoeTable>, kTypeClasses> moe;
  std::array<Tiers<CollectiveTable>, 5> collective;
  Tiers<RowTable> elementwise;  // by kernel: rows of one width
  // [recurrence, convolution][prefill, decode]: grids of (sequences, tokens of each)
  std::array<std::array<Tiers<AttentionTable>, 2>, 2> recurrent;
  std::array<Tiers<RowTable>, 2> sparse, indexer;  // by selection and dimensions, along query-key pairs
  std::int64_t rows = 0;
  std::string engine;  // whose GEMMs were timed, else whose operators

  // Series in order of rank; tiers appear in that order.
  using PointVisitor = std::function<void(const MeasuredPoint&)>;
  void add(const MeasurementSeries& series, bool preferred, bool of_user,
           const std::function<void(const PointVisitor&)>& points);
  // Parameters of models that were fitted when the database was built, by key; "" where there are none.
  std::function<std::string(const std::string&)> fitted;
  void finish();
  std::vector<std::pair<std::string, std::string>> fits() const;
  void learn(const std::vector<Residual>& residuals);
  std::optional<OperatorTime> find(const Op& op) const;
  // Leaves rows and whole shapes out; of all tables or of the user's.
  std::vector<Residual> residuals(bool only_of_user = false);

  // Every kind's tiers: visit(kind, element type, type of the KV cache, tiers).
  template <class Visit>
  void for_each_kind(Visit&& visit) {
    const auto types = [&](MeasuredKind kind, auto& by_type, TypeClass kv) {
      for (std::size_t t = 0; t < kTypeClasses; ++t) visit(kind, static_cast<TypeClass>(t), kv, by_type[t]);
    };
    types(MeasuredKind::kGemm, gemm, TypeClass::k16);
    types(MeasuredKind::kGemm, batched, TypeClass::k16);
    types(MeasuredKind::kMoe, moe, TypeClass::k16);
    for (std::size_t phase = 0; phase < attention.size(); ++phase)
      for (std::size_t t = 0; t < kTypeClasses; ++t)
        for (std::size_t kv = 0; kv < kTypeClasses; ++kv)
          visit(static_cast<MeasuredKind>(phase + static_cast<std::size_t>(MeasuredKind::kPrefillAttention)),
                static_cast<TypeClass>(t), static_cast<TypeClass>(kv), attention[phase][t][kv]);
    for (std::size_t c = 0; c < collective.size(); ++c)
      visit(static_cast<MeasuredKind>(c + static_cast<std::size_t>(MeasuredKind::kAllReduce)), TypeClass::k16,
            TypeClass::k16, collective[c]);
    visit(MeasuredKind::kElementwise, TypeClass::k16, TypeClass::k16, elementwise);
    for (std::size_t decode = 0; decode < 2; ++decode) {
      const auto kind = [&](MeasuredKind prefill) {
        return static_cast<MeasuredKind>(static_cast<std::size_t>(prefill) + decode);
      };
      visit(kind(MeasuredKind::kRecurrencePrefill), TypeClass::k16, TypeClass::k16, recurrent[0][decode]);
      visit(kind(MeasuredKind::kConvolutionPrefill), TypeClass::k16, TypeClass::k16, recurrent[1][decode]);
      visit(kind(MeasuredKind::kSparsePrefill), TypeClass::k16, TypeClass::k16, sparse[decode]);
      visit(kind(MeasuredKind::kIndexerPrefill), TypeClass::k16, TypeClass::k16, indexer[decode]);
    }
  }

 private:
  template <class Table, class Own, class Near>
  std::optional<OperatorTime> search(const Tiers<Table>& tiers, Seconds limit, Own&& own, Near&& near) const;
  std::string gemm_engine_;
  std::optional<OperatorTime> answer(const std::optional<Reading>& reading, const MethodErrors& errors,
                                     Method method, bool preferred, Seconds limit) const;
  std::optional<OperatorTime> find_gemm(const GemmShape& g, Seconds limit) const;
  std::optional<OperatorTime> transfer_gemm(const GemmShape& g, TypeClass type, Seconds limit) const;
  std::optional<OperatorTime> find_attention(const AttentionShape& a, Seconds limit) const;
  std::optional<OperatorTime> find_moe(const MoeShape& e, Seconds limit) const;
  std::optional<OperatorTime> find_moe(const MoeShape& e, TypeClass type, Seconds limit) const;
  std::optional<OperatorTime> find_collective(const CollectiveShape& c, Seconds limit) const;
  std::optional<OperatorTime> find_elementwise(const Op& op, Seconds limit) const;
  std::optional<OperatorTime> find_recurrence(const RecurrentShape& r, Seconds limit) const;
  std::optional<OperatorTime> find_sparse(const AttentionShape& a, Seconds limit) const;
  std::optional<OperatorTime> find_indexer(const IndexerShape& i, Seconds limit) const;
  std::optional<OperatorTime> find_rows(const Tiers<RowTable>& tiers, const std::string& kernel, double width,
                                        double key, Seconds limit) const;
};

// Where an operator stands in its RowTable: kernel, width and amount of work.
struct RowPlace {
  std::string kernel;
  double width = 0, key = 0;
};
RowPlace sparse_place(const AttentionShape& a);
RowPlace indexer_place(const IndexerShape& i);
bool is_decode(const IndexerShape& i);
// Every head (channel) has a state of its own, so sequences x heads are the parallel work; the heads that
// share a key are its `heads` a KV head.
AttentionTable::Heads recurrent_layout(const RecurrentShape& r);

}  // namespace foretoken
