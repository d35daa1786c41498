# SPDX-License-Identifier: Apache-2.0
# find_package(aot_perception_cpp) for others: through ament where there is ROS, else by a config file of our own.
if(NOT TARGET aot_perception_events)
  return()
endif()
if(ament_cmake_FOUND)
  ament_export_targets(aot_perception_cppTargets HAS_LIBRARY_TARGET)
  ament_export_dependencies(nlohmann_json)
  ament_package()
  return()
endif()
include(CMakePackageConfigHelpers)
install(EXPORT aot_perception_cppTargets NAMESPACE aot_perception_cpp::
        DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/${PROJECT_NAME})
file(WRITE ${PROJECT_BINARY_DIR}/aot_perception_cppConfig.cmake
     "include(CMakeFindDependencyMacro)\nfind_dependency(nlohmann_json)\n"
     "include(\${CMAKE_CURRENT_LIST_DIR}/aot_perception_cppTargets.cmake)\n")
write_basic_package_version_file(${PROJECT_BINARY_DIR}/aot_perception_cppConfigVersion.cmake
                                 COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/aot_perception_cppConfig.cmake
              ${PROJECT_BINARY_DIR}/aot_perception_cppConfigVersion.cmake
        DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/${PROJECT_NAME})
