// libFuzzer target of the readers of JSON: the text itself, and what it holds as a scenario and as a model's
// configuration; scripts/fuzz builds and runs it. The test Scenario.MutatedFilesAreRefusedOrRead does a
// little of the same in every run of the tests.
#include <cstdint>
#include <cstdlib>

#include "base/error.h"
#include "base/json_full.h"
#include "deployment/scenario.h"
#include "model/hf_config.h"
#include "model/parameters.h"

namespace {

// Whatever Error the reader throws is an answer; anything else is a fault.
template <class Read>
void attempt(Read&& read) {
  try {
    read();
  } catch (const foretoken::Error&) {
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace foretoken;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  attempt([&] {
    const Json json = parse_json(text, "fuzz");
    // Text that isn't UTF-8 is replaced in the output, so the second reading is the one that must stay.
    const std::string once = dump_json(json);
    if (dump_json(parse_json(once, "again")) != once) std::abort();
    attempt([&] { scenario_to_json(scenario_from_json(json, "fuzz")); });
    attempt([&] { count_parameters(read_hf_config(json, "fuzz", "fuzz")); });
  });
  return 0;
}
