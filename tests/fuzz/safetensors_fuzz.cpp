// libFuzzer target of the reader of tensor files; scripts/fuzz builds and runs it. The test
// SafetensorsTest.MutatedFilesAreRefusedOrRead does a little of the same in every run of the tests.
#include <cstdint>
#include <cstdlib>

#include "base/error.h"
#include "executor/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace foretoken;
  try {
    for (const StoredTensor& t : parse_safetensors(std::as_bytes(std::span(data, size)), "fuzz")) {
      if (!is_readable_float(t.dtype)) continue;
      std::vector<float> values(static_cast<std::size_t>(t.values()));
      read_floats(t, 0, 1, t.values(), values.data());
    }
  } catch (const Error&) {
  }
  return 0;
}
