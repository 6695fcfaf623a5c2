# The CUDA executor, where it can be built. Two forms of the same kernels:
#   foretoken_cuda           libforetoken_cuda.so, by nvcc; the program opens it when it is asked for
#   foretoken_cuda_emulated  by g++ on an emulation of the execution model, for tests; needs CUDA's headers and
#                            Boost.Context alone
# FORETOKEN_CUDA_LIBRARY_BUILT and FORETOKEN_CUDA_EMULATION say which there are.
set(FORETOKEN_CUDA "AUTO" CACHE STRING "Build libforetoken_cuda.so: AUTO (where nvcc is found), ON or OFF")
set_property(CACHE FORETOKEN_CUDA PROPERTY STRINGS AUTO ON OFF)
set(FORETOKEN_CUDA_ARCHITECTURES "80-real;90a-real" CACHE STRING "What libforetoken_cuda.so runs on")
set(FORETOKEN_CUDA_LIBRARY_BUILT OFF)
set(FORETOKEN_CUDA_EMULATION OFF)

if(NOT FORETOKEN_CUDA STREQUAL "OFF")
  include(CheckLanguage)
  if(NOT DEFINED CMAKE_CUDA_COMPILER AND EXISTS /usr/local/cuda/bin/nvcc)
    set(CMAKE_CUDA_COMPILER /usr/local/cuda/bin/nvcc)
  endif()
  if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
    set(CMAKE_CUDA_ARCHITECTURES ${FORETOKEN_CUDA_ARCHITECTURES})
  endif()
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    if(CMAKE_CXX_COMPILER_LAUNCHER AND NOT DEFINED CMAKE_CUDA_COMPILER_LAUNCHER)
      set(CMAKE_CUDA_COMPILER_LAUNCHER ${CMAKE_CXX_COMPILER_LAUNCHER})
    endif()
    enable_language(CUDA)
    find_package(CUDAToolkit REQUIRED)
    set(FORETOKEN_CUDA_LIBRARY_BUILT ON)
  elseif(FORETOKEN_CUDA STREQUAL "ON")
    message(FATAL_ERROR "FORETOKEN_CUDA is ON, but there is no CUDA compiler (nvcc); set CMAKE_CUDA_COMPILER")
  endif()
endif()

find_path(FORETOKEN_CUDA_INCLUDE cuda_fp8.h HINTS ${CUDAToolkit_INCLUDE_DIRS} /usr/local/cuda/include)
find_package(Boost 1.74 QUIET COMPONENTS context)
if(FORETOKEN_CUDA_INCLUDE AND TARGET Boost::context)
  set(FORETOKEN_CUDA_EMULATION ON)
endif()
message(STATUS "CUDA library: ${FORETOKEN_CUDA_LIBRARY_BUILT}, emulated kernels: ${FORETOKEN_CUDA_EMULATION}")

# foretoken_cuda_options(TARGET): what compiles CUDA sources and their host code, by nvcc.
function(foretoken_cuda_options target)
  # -std=c++20 by hand: CMake 3.25 knows of no CUDA C++20. -Wpedantic would warn of what nvcc generates.
  target_compile_options(${target} PRIVATE
    $<$<COMPILE_LANGUAGE:CUDA>:-std=c++20 --expt-relaxed-constexpr -Xcompiler=-Wall,-Wextra,-fvisibility=hidden>
    $<$<AND:$<COMPILE_LANGUAGE:CUDA>,$<BOOL:${FORETOKEN_WERROR}>>:-Werror=all-warnings>
    "$<$<COMPILE_LANGUAGE:CXX>:${FORETOKEN_WARNINGS};-fvisibility=hidden;-ffp-contract=off>"
    $<$<AND:$<COMPILE_LANGUAGE:CXX>,$<BOOL:${FORETOKEN_WERROR}>>:-Werror>)
  target_include_directories(${target} PRIVATE ${PROJECT_SOURCE_DIR})
  target_include_directories(${target} SYSTEM PRIVATE ${CUDAToolkit_INCLUDE_DIRS})
  set_target_properties(${target} PROPERTIES CUDA_ARCHITECTURES "${FORETOKEN_CUDA_ARCHITECTURES}"
                        CUDA_STANDARD 20 CUDA_STANDARD_REQUIRED OFF)
endfunction()

# foretoken_emulate(TARGET sources...): adds .cu sources to a target as C++ for the emulation.
function(foretoken_emulate target)
  foreach(source ${ARGN})
    get_filename_component(path ${source} ABSOLUTE)
    get_filename_component(name ${source} NAME_WE)
    file(RELATIVE_PATH relative ${PROJECT_SOURCE_DIR} ${path})
    set(wrapper ${CMAKE_CURRENT_BINARY_DIR}/emulated/${target}/${name}.cpp)
    file(GENERATE OUTPUT ${wrapper} CONTENT "#include \"${relative}\"\n")
    target_sources(${target} PRIVATE ${wrapper})
  endforeach()
endfunction()
