#include "executor/cuda/remarks.h"

#include <map>
#include <mutex>

namespace foretoken::cuda {
namespace {

struct Said {
  std::mutex mutex;
  std::map<std::string, std::string> why;
};
Said& said() {
  static Said& said = *new Said;  // never destroyed: kernels may be launched late
  return said;
}

}  // namespace

void remark(const std::string& what, const std::string& why) {
  const std::lock_guard lock(said().mutex);
  said().why.try_emplace(what, why);
}

std::vector<std::string> remarks() {
  const std::lock_guard lock(said().mutex);
  std::vector<std::string> all;
  for (const auto& [what, why] : said().why) all.push_back(what + ": " + why);
  return all;
}

}  // namespace foretoken::cuda
