// activities.h by CUPTI's activity API. The library is opened when it is asked for; a build without its
// header, or with one whose records are of another form, has none.
#include "executor/cuda/activities.h"

#if __has_include(<cupti.h>)
#include <cupti.h>
#endif

#if defined(CUPTI_API_VERSION) && CUPTI_API_VERSION >= 130000

#include <dlfcn.h>

#include <cstdlib>
#include <mutex>
#include <type_traits>

namespace foretoken::cuda {
namespace {

struct Cupti {
  decltype(&cuptiActivityEnable) enable = nullptr;
  decltype(&cuptiActivityDisable) disable = nullptr;
  decltype(&cuptiActivityRegisterCallbacks) register_callbacks = nullptr;
  decltype(&cuptiActivityGetNextRecord) next_record = nullptr;
  decltype(&cuptiActivityGetNumDroppedRecords) dropped = nullptr;
  decltype(&cuptiActivityFlushAll) flush = nullptr;
  decltype(&cuptiActivityPushExternalCorrelationId) push = nullptr;
  decltype(&cuptiActivityPopExternalCorrelationId) pop = nullptr;
  decltype(&cuptiGetResultString) text = nullptr;
};

// The library's own threads deliver records, so both live as long as the process.
Cupti cupti;
struct Collected {
  std::mutex mutex;
  ActivityRecords records;
};
Collected& collected() {
  static Collected& collected = *new Collected;
  return collected;
}

constexpr std::size_t kBuffer = std::size_t{4} << 20, kAlignment = 8;

void CUPTIAPI give_buffer(std::uint8_t** buffer, std::size_t* size, std::size_t* most_records) {
  *buffer = static_cast<std::uint8_t*>(std::aligned_alloc(kAlignment, kBuffer));
  *size = *buffer == nullptr ? 0 : kBuffer;
  *most_records = 0;  // as many as fit
}

void CUPTIAPI take_buffer(CUcontext context, std::uint32_t stream, std::uint8_t* buffer, std::size_t,
                          std::size_t used) {
  const std::lock_guard lock(collected().mutex);
  ActivityRecords& to = collected().records;
  const auto add = [&](const auto* record) {
    to.activities.push_back({record->start, record->end, record->correlationId});
  };
  CUpti_Activity* record = nullptr;
  while (cupti.next_record(buffer, used, &record) == CUPTI_SUCCESS) switch (record->kind) {
      case CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL:
        add(reinterpret_cast<const CUpti_ActivityKernel10*>(record));
        break;
      case CUPTI_ACTIVITY_KIND_MEMCPY:
        add(reinterpret_cast<const CUpti_ActivityMemcpy6*>(record));
        break;
      case CUPTI_ACTIVITY_KIND_MEMSET:
        add(reinterpret_cast<const CUpti_ActivityMemset4*>(record));
        break;
      case CUPTI_ACTIVITY_KIND_EXTERNAL_CORRELATION: {
        const auto* of = reinterpret_cast<const CUpti_ActivityExternalCorrelation*>(record);
        to.ids.emplace_back(of->correlationId, of->externalId);
        break;
      }
      default:
        break;
    }
  std::size_t lost = 0;
  if (cupti.dropped(context, stream, &lost) == CUPTI_SUCCESS) to.dropped += lost;
  std::free(buffer);
}

// Calls have records too, or there would be none of the ids that they were made under.
constexpr CUpti_ActivityKind kKinds[] = {
    CUPTI_ACTIVITY_KIND_EXTERNAL_CORRELATION, CUPTI_ACTIVITY_KIND_RUNTIME, CUPTI_ACTIVITY_KIND_DRIVER,
    CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL,    CUPTI_ACTIVITY_KIND_MEMCPY,  CUPTI_ACTIVITY_KIND_MEMSET};
constexpr auto kIds = CUPTI_EXTERNAL_CORRELATION_KIND_CUSTOM0;

class CuptiSource final : public ActivitySource {
 public:
  ~CuptiSource() override {
    for (const CUpti_ActivityKind kind : kKinds) cupti.disable(kind);
  }
  void push(std::uint64_t id) override { cupti.push(kIds, id); }
  void pop() override {
    std::uint64_t id = 0;
    cupti.pop(kIds, &id);
  }
  ActivityRecords collect() override {
    cupti.flush(CUPTI_ACTIVITY_FLAG_FLUSH_FORCED);
    const std::lock_guard lock(collected().mutex);
    return std::exchange(collected().records, {});
  }
};

}  // namespace

std::unique_ptr<ActivitySource> open_activities(std::string& why_not) {
  // Records are of the library's version.
  const std::string version = "libcupti.so." + std::to_string(CUDA_VERSION / 1000);
  void* library = nullptr;
  for (const std::string& name :
       {version, "/usr/local/cuda/lib64/" + version, "/usr/local/cuda/extras/CUPTI/lib64/" + version})
    if ((library = ::dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL)) != nullptr) break;
  if (library == nullptr) {
    why_not = "there is no " + version + ", a part of the CUDA toolkit; LD_LIBRARY_PATH may say where it is";
    return nullptr;
  }
  bool all = true;
  const auto find = [&](auto& function, const char* name) {
    function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(::dlsym(library, name));
    all = all && function != nullptr;
  };
  find(cupti.enable, "cuptiActivityEnable");
  find(cupti.disable, "cuptiActivityDisable");
  find(cupti.register_callbacks, "cuptiActivityRegisterCallbacks");
  find(cupti.next_record, "cuptiActivityGetNextRecord");
  find(cupti.dropped, "cuptiActivityGetNumDroppedRecords");
  find(cupti.flush, "cuptiActivityFlushAll");
  find(cupti.push, "cuptiActivityPushExternalCorrelationId");
  find(cupti.pop, "cuptiActivityPopExternalCorrelationId");
  find(cupti.text, "cuptiGetResultString");
  if (!all) {
    why_not = version + " lacks a function of the activity API";
    return nullptr;
  }
  CUptiResult result = cupti.register_callbacks(give_buffer, take_buffer);
  for (const CUpti_ActivityKind kind : kKinds)
    if (result == CUPTI_SUCCESS) result = cupti.enable(kind);
  if (result != CUPTI_SUCCESS) {
    const char* text = nullptr;
    cupti.text(result, &text);
    why_not = "CUPTI records nothing here: " + std::string(text == nullptr ? "unknown error" : text);
    return nullptr;
  }
  return std::make_unique<CuptiSource>();
}

}  // namespace foretoken::cuda

#else

namespace foretoken::cuda {

std::unique_ptr<ActivitySource> open_activities(std::string& why_not) {
  why_not = "this build has no CUPTI: the headers of CUDA 13 or later were not found when it was made";
  return nullptr;
}

}  // namespace foretoken::cuda

#endif
