# SPDX-License-Identifier: Apache-2.0
# The interface target `aot_perception_torch`: headers and libraries of the torch that the Python in use has.
#
# Torch's own TorchConfig.cmake is not used: a CUDA build of torch insists there on a whole CUDA toolkit, which loading an
# artifact does not need. Without torch the target is absent, and what needs it is left out.
if(DEFINED Python3_EXECUTABLE AND NOT IS_ABSOLUTE "${Python3_EXECUTABLE}")  # as .venv/bin/python, where CMake was called
  get_filename_component(Python3_EXECUTABLE "${Python3_EXECUTABLE}" ABSOLUTE BASE_DIR "$ENV{PWD}")
  set(Python3_EXECUTABLE "${Python3_EXECUTABLE}" CACHE FILEPATH "Python whose torch is used" FORCE)
endif()
find_package(Python3 COMPONENTS Interpreter REQUIRED)
execute_process(
  COMMAND
    ${Python3_EXECUTABLE} -c
    "import os, torch; print(os.path.dirname(torch.__file__), int(torch._C._GLIBCXX_USE_CXX11_ABI), torch.__version__, sep=';')"
  OUTPUT_VARIABLE python_torch
  ERROR_VARIABLE python_torch_error
  OUTPUT_STRIP_TRAILING_WHITESPACE
  RESULT_VARIABLE python_torch_failed)
if(python_torch_failed)
  message(STATUS "No torch in ${Python3_EXECUTABLE}: only event decoding and its tools are built")
  return()
endif()
list(GET python_torch 0 torch_folder)
list(GET python_torch 1 torch_abi)
list(GET python_torch 2 torch_version)
message(STATUS "torch ${torch_version} in ${torch_folder}")

add_library(aot_perception_torch INTERFACE IMPORTED GLOBAL)
# Linked though nothing of them is called: the CUDA backend registers itself when it is loaded, and a `.pt2`, which knows
# no folders, can need libtorch.so (those for CUDA do) and finds what the process has loaded.
set(torch_libraries -Wl,--no-as-needed)
foreach(name IN ITEMS torch torch_cuda c10_cuda)
  if(EXISTS ${torch_folder}/lib/lib${name}.so)
    list(APPEND torch_libraries ${torch_folder}/lib/lib${name}.so)
  endif()
endforeach()
list(APPEND torch_libraries -Wl,--as-needed ${torch_folder}/lib/libtorch_cpu.so ${torch_folder}/lib/libc10.so)
set_target_properties(
  aot_perception_torch
  PROPERTIES INTERFACE_INCLUDE_DIRECTORIES "${torch_folder}/include;${torch_folder}/include/torch/csrc/api/include"
             INTERFACE_COMPILE_DEFINITIONS "_GLIBCXX_USE_CXX11_ABI=${torch_abi}"
             INTERFACE_LINK_OPTIONS "-Wl,-rpath,${torch_folder}/lib;-Wl,-rpath-link,${torch_folder}/lib"
             INTERFACE_LINK_LIBRARIES "${torch_libraries}")
set(AOT_PERCEPTION_TORCH_FOLDER ${torch_folder})
