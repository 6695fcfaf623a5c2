// model list and model show: a model's exact costs, without hardware.
#include <fmt/format.h>

#include "base/error.h"
#include "base/json_full.h"
#include "base/text.h"
#include "cli/data_paths.h"
#include "cli/model_report.h"
#include "cli/output.h"
#include "cli/verbs.h"
#include "model/hf_config.h"

namespace foretoken {
namespace {

std::int64_t whole(const Invocation& invocation, const std::string& option, std::int64_t otherwise,
                   std::int64_t most = std::int64_t{1} << 31) {
  const auto text = invocation.value(option);
  if (!text) return otherwise;
  const auto n = parse_int(*text);
  if (!n || *n < 1 || *n > most)
    throw Error("--" + option, fmt::format("\"{}\" is not a whole number from 1 to {}", *text, most));
  return *n;
}

DType dtype_or(const Invocation& invocation, const std::string& option, DType otherwise) {
  const auto text = invocation.value(option);
  if (!text || *text == "auto") return otherwise;
  const auto type = dtype_from_name(*text);
  if (!type)
    throw Error("--" + option, "\"" + *text + "\" is not a type; bfloat16, float16, float32, fp8 or int8");
  return *type;
}

}  // namespace

int run_model_list(const Invocation& invocation) {
  Output out(invocation);
  Table t;
  t.title = "Model presets";
  t.columns = {{"name", "name"}, {"hugging_face_id", "Hugging Face id"}};
  for (const Preset& p : list_presets(find_data_paths(invocation).presets))
    t.add({p.name, p.hugging_face_id});
  t.notes.push_back(
      "`foretoken model show NAME` shows one; a path of a config.json works wherever a name does.");
  const Json json{{"format", 1}, {"models", to_json(t)}};
  out.write({t.title, {}, {t}, 0, dump_json(json), {}});
  return kDone;
}

int run_model_show(const Invocation& invocation) {
  Output out(invocation);
  const ModelConfig model = load_model(invocation.arguments[0], find_data_paths(invocation).presets);
  ModelQuestion q;
  q.batch = whole(invocation, "batch-size", 1);
  q.prompt = whole(invocation, "prompt-len", 1024);
  q.context = whole(invocation, "context-len", q.prompt);
  q.tensor_parallel = static_cast<int>(whole(invocation, "tensor-parallel-size", 1, 1024));
  q.precision.activation = dtype_or(invocation, "dtype", model.dtype);
  q.precision.kv = dtype_or(invocation, "kv-cache-dtype", q.precision.activation);
  q.precision.weights = model.quantization.format;
  out.write(model_report(model, q));
  return kDone;
}

}  // namespace foretoken
