// Files in a folder of their own, messages of errors, and whole workloads in a list.
#pragma once

#include <unistd.h>
#include <zlib.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "base/error.h"
#include "serving/workload.h"

namespace foretoken::test {

class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "foretoken-workload-XXXXXX").string();
    if (!mkdtemp(name.data())) throw std::runtime_error("mkdtemp failed");
    path_ = name;
  }
  ~TemporaryFolder() { std::filesystem::remove_all(path_); }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path write(const std::string& name, const std::string& text) const {
    std::ofstream(path_ / name, std::ios::binary) << text;
    return path_ / name;
  }
  std::filesystem::path write_gzip(const std::string& name, const std::string& text) const {
    const auto file = path_ / name;
    const gzFile out = gzopen(file.c_str(), "wb");
    gzwrite(out, text.data(), static_cast<unsigned>(text.size()));
    gzclose(out);
    return file;
  }

 private:
  std::filesystem::path path_;
};

// "where: message" of the Error that `action` throws, "" when it throws none.
template <class Action>
std::string error_of(Action&& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

inline LengthDistribution fixed(double tokens) {
  LengthDistribution d;
  d.value = tokens;
  return d;
}
inline LengthDistribution uniform(double low, double high) {
  LengthDistribution d;
  d.distribution = "uniform";
  d.min = low;
  d.max = high;
  return d;
}
inline LengthDistribution lognormal(double mean, double p99) {
  LengthDistribution d;
  d.distribution = "lognormal";
  d.mean = mean;
  d.p99 = p99;
  return d;
}

inline WorkloadConfig synthetic(double input, double output) {
  WorkloadConfig c;
  c.input_len = fixed(input);
  c.output_len = fixed(output);
  return c;
}

inline std::unique_ptr<Workload> make(const WorkloadConfig& config,
                                      const std::filesystem::path& folder = ".") {
  return make_workload(config, folder, "s.json:/workload");
}

// All requests of an open loop, ended at once.
inline std::vector<Request> drain(Workload& workload) {
  std::vector<Request> requests;
  while (workload.next_arrival()) {
    requests.push_back(workload.pop());
    workload.finished(requests.back(), requests.back().arrival);
  }
  return requests;
}

}  // namespace foretoken::test
