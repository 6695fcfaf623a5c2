// The complete JSON type. For .cpp files only: it costs more than a second of compilation.
#pragma once

#include <nlohmann/json.hpp>

#include "base/json.h"
