# Every source file is as clang-format 14 writes it. Skipped where that is absent.
find_program(CLANG_FORMAT NAMES clang-format-14)
if(NOT CLANG_FORMAT)
  message(STATUS "SKIPPED: clang-format-14 is not installed")
  return()
endif()
file(GLOB_RECURSE files RELATIVE ${SOURCE} ${SOURCE}/base/*.h ${SOURCE}/base/*.cpp ${SOURCE}/model/*.h
     ${SOURCE}/model/*.cpp ${SOURCE}/hwdb/*.h ${SOURCE}/hwdb/*.cpp ${SOURCE}/serving/*.h ${SOURCE}/serving/*.cpp
     ${SOURCE}/deployment/*.h ${SOURCE}/deployment/*.cpp ${SOURCE}/simulator/*.h ${SOURCE}/simulator/*.cpp
     ${SOURCE}/cli/*.h ${SOURCE}/cli/*.cpp ${SOURCE}/gui/*.h ${SOURCE}/gui/*.cpp ${SOURCE}/tests/*.h ${SOURCE}/tests/*.cpp ${SOURCE}/tests/*.cu
     ${SOURCE}/executor/cuda/*.h ${SOURCE}/executor/cuda/*.cpp ${SOURCE}/executor/cuda/*.cu
     ${SOURCE}/executor/cuda/*.cuh ${SOURCE}/executor/cuda_library.h ${SOURCE}/executor/cuda_library.cpp)
execute_process(COMMAND ${CLANG_FORMAT} --dry-run --Werror ${files} WORKING_DIRECTORY ${SOURCE}
                RESULT_VARIABLE result ERROR_VARIABLE output)
if(NOT result EQUAL 0)
  string(REGEX MATCHALL "[a-z_/0-9]+\\.(cpp|h|cuh?):[0-9]+:[0-9]+: error" places "${output}")
  list(LENGTH places count)
  list(SUBLIST places 0 20 places)
  string(REPLACE ";" "\n" places "${places}")
  message(FATAL_ERROR "${count} places differ from clang-format-14 -i:\n${places}")
endif()
