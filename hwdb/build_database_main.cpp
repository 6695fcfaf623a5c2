// Run by the build: text in hwdb/data -> share/foretoken/foretoken.sqlite.
#include <cstdio>
#include <exception>

#include "hwdb/database.h"

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fputs("usage: foretoken-build-database DATA_FOLDER OUTPUT\n", stderr);
    return 2;
  }
  try {
    foretoken::build_database(argv[1], argv[2]);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 2;
  }
  return 0;
}
