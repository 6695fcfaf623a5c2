// Which way of making a product was found to be the fastest: what cublas.cpp measured, kept in a file so that
// the next process need not measure again. Host code alone, without a device.
//
// The file is text: a line that says what it is, then a line a choice, each with a checksum. Choices of other
// devices, drivers and versions of cuBLASLt are kept in it and never given. What can't be read is left out
// with a remark() and measured again; nothing here is an error.
#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <span>
#include <string>

#include "executor/cuda/cublas.h"

namespace foretoken::cuda {

// What a choice depends on beside the machine: formats, shape (m: the power of two that its bucket ends
// with), strides in elements, alignments in bytes, and what is done before and after.
struct ProductKey {
  CublasForm form = CublasForm::kBf16;
  std::int64_t m = 0, n = 0, k = 0, w_stride = 0, x_stride = 0, y_stride = 0;
  std::uint32_t w_alignment = 0, x_alignment = 0, y_alignment = 0;
  bool bias = false, accumulate = false, prepared = false;
  auto operator<=>(const ProductKey&) const = default;
};

struct ProductChoice {
  bool own = false;         // the executor's own kernel
  std::uint32_t offer = 0;  // else which CublasOffer,
  // and cuBLASLt's algorithm, which the same version of the library takes back (cublasLtMatmulAlgo_t).
  std::array<std::uint64_t, 8> algorithm{};
  std::int64_t rows = 0;  // of x with which it was measured, of all that its bucket has
  bool operator==(const ProductChoice&) const = default;
};

// The offer that a choice was measured as, with the rows that it was measured with: what the library is asked
// whether it still takes the algorithm for. (Asked for the rows at hand it may say no, and they would measure
// again and take the place of what others of the bucket use.) Nothing where there is no such offer.
std::optional<CublasOffer> measured_offer(const ProductChoice& choice, std::span<const CublasOffer> offers);

class ProductChoices {
 public:
  // Reads the file, which need not exist. An empty path: there is none. machine: device, driver, library and
  // the executor's own kernels, whose choices are given and added.
  ProductChoices(std::filesystem::path file, std::string machine);
  std::optional<ProductChoice> find(const ProductKey& key) const;
  // Adds one, or replaces it, and writes the file with what others have written meanwhile. The file is
  // replaced as a whole: a reader finds the old one or the new one. Of two processes that write at the same
  // time one may lose what the other adds, which is then measured again.
  void keep(const ProductKey& key, const ProductChoice& choice);

 private:
  std::filesystem::path file_;  // empty where nothing is to be written
  std::string machine_;
  std::map<ProductKey, ProductChoice> choices_;  // the machine's
};

}  // namespace foretoken::cuda
