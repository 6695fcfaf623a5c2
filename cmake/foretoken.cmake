# foretoken_library(NAME sources... DEPENDS libs...): one static library for one layer, warnings on.
# foretoken_test(NAME sources... DEPENDS libs... [FILTER tests] [PREFIX text] [SKIPS text]): one test program for one layer.
# FILTER: of its tests those that ctest runs, as --gtest_filter has it; the others are run by hand. PREFIX: of their
# names in ctest, where several programs have the same. SKIPS: the program is one test of ctest, skipped where it
# prints this.
set(FORETOKEN_WARNINGS -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wno-sign-conversion)
# False positives of g++ 12 at -O2 and above (string concatenation, moved-from literals, variants).
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  list(APPEND FORETOKEN_WARNINGS -Wno-restrict -Wno-free-nonheap-object -Wno-maybe-uninitialized)
endif()

function(foretoken_options target)
  # Contraction into fused multiply-add would make results depend on the compiler and the processor.
  target_compile_options(${target} PRIVATE ${FORETOKEN_WARNINGS} -ffp-contract=off
                         $<$<BOOL:${FORETOKEN_WERROR}>:-Werror>)
  target_include_directories(${target} PUBLIC $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}>
                             $<INSTALL_INTERFACE:include/foretoken>)
endfunction()

# foretoken_precompile(TARGET headers...): headers that most of its files include, parsed once for all of them, which
# saves a quarter of the time of a build. foretoken_precompile(TARGET REUSE_FROM OTHER): those of a target with the same
# options. Not where a compiler cache stands before the compiler, which knows objects of other folders only without,
# nor under clang-tidy, which tells who includes too little.
option(FORETOKEN_PRECOMPILE "Parse headers that many files include once" ON)
function(foretoken_precompile target)
  if(FORETOKEN_PRECOMPILE AND NOT CMAKE_CXX_COMPILER_LAUNCHER AND NOT CMAKE_CXX_CLANG_TIDY)
    if(ARGV1 STREQUAL REUSE_FROM)
      target_precompile_headers(${target} ${ARGN})
    else()
      target_precompile_headers(${target} PRIVATE ${ARGN})
    endif()
  endif()
endfunction()

function(foretoken_library name)
  cmake_parse_arguments(ARG "" "" "DEPENDS" ${ARGN})
  add_library(foretoken_${name} STATIC ${ARG_UNPARSED_ARGUMENTS})
  foretoken_options(foretoken_${name})
  target_link_libraries(foretoken_${name} PUBLIC ${ARG_DEPENDS})
endfunction()

# foretoken_test_sources(NAME sources... DEPENDS libs...): tests that several programs have, compiled once; their
# objects are $<TARGET_OBJECTS:NAME>.
# Tests compile in less than two thirds of the time at -O1; what they test is optimised all the same.
# They leave fields at their defaults on purpose.
set(FORETOKEN_TEST_OPTIONS $<$<CONFIG:Release>:-O1> -Wno-missing-field-initializers)

function(foretoken_test_sources name)
  cmake_parse_arguments(ARG "" "" "DEPENDS" ${ARGN})
  add_library(${name} OBJECT ${ARG_UNPARSED_ARGUMENTS})
  foretoken_options(${name})
  target_compile_options(${name} PRIVATE ${FORETOKEN_TEST_OPTIONS})
  target_link_libraries(${name} PRIVATE ${ARG_DEPENDS} GTest::gtest GTest::gmock)
  target_compile_definitions(${name} PRIVATE FORETOKEN_SOURCE_DIR="${PROJECT_SOURCE_DIR}"
                             FORETOKEN_BINARY_DIR="${PROJECT_BINARY_DIR}")
endfunction()

function(foretoken_test name)
  cmake_parse_arguments(ARG "" "FILTER;PREFIX;SKIPS" "DEPENDS" ${ARGN})
  add_executable(${name}_test ${ARG_UNPARSED_ARGUMENTS})
  foretoken_options(${name}_test)
  target_compile_options(${name}_test PRIVATE ${FORETOKEN_TEST_OPTIONS})
  target_link_libraries(${name}_test PRIVATE ${ARG_DEPENDS} GTest::gtest GTest::gmock GTest::gtest_main)
  target_compile_definitions(${name}_test PRIVATE FORETOKEN_SOURCE_DIR="${PROJECT_SOURCE_DIR}"
                             FORETOKEN_BINARY_DIR="${PROJECT_BINARY_DIR}")
  if(ARG_SKIPS)
    add_test(NAME ${name} COMMAND ${name}_test)
    set_tests_properties(${name} PROPERTIES LABELS ${name} SKIP_REGULAR_EXPRESSION "${ARG_SKIPS}" TIMEOUT 1500)
    return()
  endif()
  include(GoogleTest)
  gtest_discover_tests(${name}_test TEST_PREFIX "${ARG_PREFIX}" TEST_FILTER "${ARG_FILTER}" PROPERTIES LABELS ${name} DISCOVERY_TIMEOUT 60)
endfunction()
