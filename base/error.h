// The one error type: what is wrong, where, and what to do. Thrown for bad input and failed I/O only;
// verdicts ("does not fit") are values.
#pragma once

#include <stdexcept>
#include <string>
#include <utility>

namespace foretoken {

// where: "file:/json/pointer", "file:line", or "--flag". message: the problem and its remedy.
class Error : public std::runtime_error {
 public:
  Error(std::string where, const std::string& message)
      : std::runtime_error(where.empty() ? message : where + ": " + message),
        where_(std::move(where)),
        message_(message) {}
  const std::string& where() const { return where_; }
  const std::string& message() const { return message_; }

 private:
  std::string where_;
  std::string message_;
};

// Asked to stop (Ctrl-C); the CLI answers with exit code 130.
class Interrupted : public std::runtime_error {
 public:
  Interrupted() : std::runtime_error("interrupted") {}
};

}  // namespace foretoken
