// libFuzzer target of the readers of request traces, all formats, plain and gzip; scripts/fuzz builds and
// runs it. The test TraceErrors.MutatedTracesAreRefusedOrRead does a little of the same in every run of
// the tests.
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <string>

#include "base/error.h"
#include "serving/trace_reader.h"
#include "serving/trace_sessions.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace foretoken;
  static const int file = memfd_create("trace", 0);  // the readers open files, and this one is in memory
  static const std::string path = "/proc/self/fd/" + std::to_string(file);
  if (ftruncate(file, 0) != 0 || pwrite(file, data, size, 0) != static_cast<ssize_t>(size)) std::abort();
  for (const bool in_order : {false, true}) {
    try {
      scan_trace(path, in_order);
    } catch (const Error&) {
    }
    try {
      if (is_session_trace(path)) SessionTraceSource(path, 0, in_order, 1);
    } catch (const Error&) {
    }
  }
  return 0;
}
