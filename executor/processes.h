// Processes of an MPI job: each computes its own part (a tensor-parallel rank, combinations of a sweep), and
// they meet in collectives.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace foretoken {

class Processes {
 public:
  virtual ~Processes() = default;  // ends the job's part of this process
  virtual int rank() const = 0;
  virtual int size() const = 0;
  // all[i * mine.size() ...] becomes what rank i gave. All ranks give as many.
  virtual void all_gather(std::span<const float> mine, float* all) = 0;
  // values[i] becomes the largest that any rank has there.
  virtual void maximum(std::span<double> values) = 0;
  // What each rank gave, by rank; on the others than the first nothing.
  virtual std::vector<std::string> gather(const std::string& mine) = 0;
  // The first rank's.
  virtual std::string broadcast(std::string text) = 0;
};

// Of the job in which mpirun or srun started this process; null where there is none, or it is alone in it.
// Throws Error where there is one and this build has no MPI.
std::unique_ptr<Processes> mpi_processes();

}  // namespace foretoken
