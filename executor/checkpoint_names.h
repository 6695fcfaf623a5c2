// Where Hugging Face's files hold each weight: a tensor, and the steps between its rows and columns there.
// Internal.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "executor/weight_shapes.h"

namespace foretoken {

// Element (row, column) of the weight is the tensor's element base + row row_step + column column_step.
struct TensorView {
  std::string name;  // without the prefix of the whole model
  std::vector<std::int64_t> shape;
  std::int64_t base = 0, row_step = 0, column_step = 1;
  bool outside = false;  // beside the model, not in it (lm_head)
};

// Of a weight that the model has.
TensorView tensor_view(const ModelConfig& model, const Numerics& numerics, Role role, std::int64_t layer,
                       std::int64_t expert);
// What the names of the model's tensors may begin with, the usual one first, and those of tensors beside it.
struct NamePrefix {
  std::string inside, outside;
};
std::vector<NamePrefix> name_prefixes(const ModelConfig& model);

}  // namespace foretoken
