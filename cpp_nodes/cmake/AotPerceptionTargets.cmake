# SPDX-License-Identifier: Apache-2.0
# How every target of this package is compiled.

# aot_perception_options(<target>): warnings, sanitizers, include folder.
function(aot_perception_options target)
  target_compile_options(${target} PRIVATE -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wno-sign-conversion)
  if(AOT_PERCEPTION_WERROR)
    target_compile_options(${target} PRIVATE -Werror)
  endif()
  if(AOT_PERCEPTION_SANITIZE)
    target_compile_options(
      ${target} PRIVATE -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer -g -O1 -UNDEBUG)
    target_link_options(${target} PUBLIC -fsanitize=address,undefined)
    # GCC sees uninitialised values inside <regex> and the like once sanitizers have rewritten them.
    target_compile_options(${target} PRIVATE $<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized>)
  endif()
  target_include_directories(${target} PRIVATE ${PROJECT_SOURCE_DIR}/include)
endfunction()

# aot_perception_library(<target> <sources>...): a library that is installed and exported as aot_perception_cpp::<target>.
function(aot_perception_library target)
  add_library(${target} ${ARGN})
  add_library(aot_perception_cpp::${target} ALIAS ${target})
  aot_perception_options(${target})
  target_compile_features(${target} PUBLIC cxx_std_17)
  target_include_directories(${target} PUBLIC $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/include>
                                              $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
  install(TARGETS ${target} EXPORT aot_perception_cppTargets
          LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR}
          RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
endfunction()

# aot_perception_tool(<target> SOURCES ... LIBRARIES ...): a program, installed where `ros2 run` finds it.
function(aot_perception_tool target)
  cmake_parse_arguments(arg "" "" "SOURCES;LIBRARIES" ${ARGN})
  add_executable(${target} ${arg_SOURCES})
  aot_perception_options(${target})
  target_link_libraries(${target} PRIVATE ${arg_LIBRARIES})
  install(TARGETS ${target} RUNTIME DESTINATION ${CMAKE_INSTALL_LIBDIR}/${PROJECT_NAME})
endfunction()

# aot_perception_test(<target> SOURCES ... LIBRARIES ...): a GoogleTest program, and its ctest entry.
function(aot_perception_test target)
  cmake_parse_arguments(arg "" "" "SOURCES;LIBRARIES" ${ARGN})
  add_executable(${target} ${arg_SOURCES})
  aot_perception_options(${target})
  target_include_directories(${target} PRIVATE ${PROJECT_SOURCE_DIR}/test)
  target_compile_definitions(${target} PRIVATE AOT_PERCEPTION_SOURCE_DIR="${PROJECT_SOURCE_DIR}/..")
  target_link_libraries(${target} PRIVATE ${arg_LIBRARIES} GTest::gtest_main)
  add_test(NAME ${target} COMMAND ${target})
endfunction()
