#include "executor/processes.h"

#include <algorithm>
#include <cstdlib>

#include "base/error.h"
#include "base/text.h"

#ifdef FORETOKEN_MPI
#include <mpi.h>
#endif

namespace foretoken {
namespace {

// What Open MPI's mpirun, and those that speak PMI, tell a process of its job.
bool started_in_a_job() {
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE"})
    if (const char* text = std::getenv(name))
      if (const auto n = parse_int(text); n && *n > 1) return true;
  return false;
}

#ifdef FORETOKEN_MPI
class MpiProcesses final : public Processes {
 public:
  MpiProcesses() {
    MPI_Init(nullptr, nullptr);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank_);
    MPI_Comm_size(MPI_COMM_WORLD, &size_);
  }
  ~MpiProcesses() override { MPI_Finalize(); }
  MpiProcesses(const MpiProcesses&) = delete;
  MpiProcesses& operator=(const MpiProcesses&) = delete;
  int rank() const override { return rank_; }
  int size() const override { return size_; }
  void all_gather(std::span<const float> mine, float* all) override {
    // MPI counts in int.
    constexpr std::size_t kMost = std::size_t{1} << 28;
    if (mine.size() <= kMost) {
      const int n = static_cast<int>(mine.size());
      MPI_Allgather(mine.data(), n, MPI_FLOAT, all, n, MPI_FLOAT, MPI_COMM_WORLD);
      return;
    }
    for (int r = 0; r < size_; ++r) {
      float* const to = all + static_cast<std::size_t>(r) * mine.size();
      if (r == rank_) std::copy(mine.begin(), mine.end(), to);
      for (std::size_t at = 0; at < mine.size(); at += kMost)
        MPI_Bcast(to + at, static_cast<int>(std::min(kMost, mine.size() - at)), MPI_FLOAT, r, MPI_COMM_WORLD);
    }
  }
  void maximum(std::span<double> values) override {
    MPI_Allreduce(MPI_IN_PLACE, values.data(), static_cast<int>(values.size()), MPI_DOUBLE, MPI_MAX,
                  MPI_COMM_WORLD);
  }
  std::vector<std::string> gather(const std::string& mine) override {
    if (mine.size() > kMostText) throw Error("mpirun", "a process has more than 1 GiB of results to send");
    const int size = static_cast<int>(mine.size());
    std::vector<std::string> all(rank_ == 0 ? static_cast<std::size_t>(size_) : 0);
    if (rank_ > 0) {
      MPI_Send(&size, 1, MPI_INT, 0, 0, MPI_COMM_WORLD);
      MPI_Send(mine.data(), size, MPI_CHAR, 0, 1, MPI_COMM_WORLD);
      return all;
    }
    all[0] = mine;
    for (int r = 1; r < size_; ++r) {
      int theirs = 0;
      MPI_Recv(&theirs, 1, MPI_INT, r, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
      all[static_cast<std::size_t>(r)].resize(static_cast<std::size_t>(theirs));
      MPI_Recv(all[static_cast<std::size_t>(r)].data(), theirs, MPI_CHAR, r, 1, MPI_COMM_WORLD,
               MPI_STATUS_IGNORE);
    }
    return all;
  }
  std::string broadcast(std::string text) override {
    auto size = static_cast<int>(text.size());
    MPI_Bcast(&size, 1, MPI_INT, 0, MPI_COMM_WORLD);
    text.resize(static_cast<std::size_t>(size));
    MPI_Bcast(text.data(), size, MPI_CHAR, 0, MPI_COMM_WORLD);
    return text;
  }

 private:
  static constexpr std::size_t kMostText = std::size_t{1} << 30;  // MPI counts in int

  int rank_ = 0, size_ = 1;
};
#endif

}  // namespace

std::unique_ptr<Processes> mpi_processes() {
  if (!started_in_a_job()) return nullptr;
#ifdef FORETOKEN_MPI
  return std::make_unique<MpiProcesses>();
#else
  throw Error(
      "mpirun",
      "this build has no MPI: install libopenmpi-dev, configure and build again, or start one process, "
      "which computes all ranks");
#endif
}

}  // namespace foretoken
