#include "cli/executor_options.h"

#include <cstdlib>

#include "base/error.h"
#include "base/text.h"

namespace foretoken {

ExecutorOptions executor_options(const Invocation& invocation, const std::filesystem::path& database) {
  ExecutorOptions options;
  options.temporary_folder = std::filesystem::temp_directory_path();
  options.backend = invocation.value("backend").value_or("cpu");
  if (const char* library = std::getenv("FORETOKEN_CUDA_LIBRARY")) options.cuda_library = library;
  if (!database.empty()) options.product_choices = database.parent_path() / "product-choices.txt";
  options.isa = invocation.value("isa").value_or("");
  const std::string activations = invocation.value("activation-format").value_or("auto");
  options.activations = activations == "auto" ? "" : activations;
  const std::string scales = invocation.value("fp8-scales").value_or("auto");
  options.fp8_scales = scales == "auto" ? "" : scales;
  if (const auto text = invocation.value("threads")) {
    const auto n = parse_int(*text);
    if (!n || *n < 1 || *n > 1024)
      throw Error("--threads", "\"" + *text + "\" is no number of threads; use 1 to 1024");
    options.threads = static_cast<int>(*n);
  }
  return options;
}

}  // namespace foretoken
