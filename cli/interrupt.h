// Ctrl-C as a flag that long work looks at; a second Ctrl-C ends the program at once.
#pragma once

#include <atomic>

namespace foretoken {

void catch_interrupts();
const std::atomic<bool>& stop_flag();

}  // namespace foretoken
