# SPDX-License-Identifier: Apache-2.0
# The interface target `aot_perception_opencv`: OpenCV's core, imgproc and imgcodecs; absent where OpenCV is.
#
# OpenCVConfig.cmake is used where it is installed (libopencv-dev, which ROS has); the three small packages
# libopencv-{core,imgproc,imgcodecs}-dev come without it.
if(TARGET aot_perception_opencv)
  return()
endif()
find_package(OpenCV QUIET CONFIG COMPONENTS core imgproc imgcodecs)
if(OpenCV_FOUND)
  add_library(aot_perception_opencv INTERFACE IMPORTED GLOBAL)
  target_link_libraries(aot_perception_opencv INTERFACE opencv_core opencv_imgproc opencv_imgcodecs)
  target_include_directories(aot_perception_opencv SYSTEM INTERFACE ${OpenCV_INCLUDE_DIRS})
  return()
endif()
find_path(OPENCV_HEADERS opencv2/imgcodecs.hpp PATH_SUFFIXES opencv4)
foreach(part IN ITEMS core imgproc imgcodecs)
  find_library(OPENCV_${part}_LIBRARY opencv_${part})
endforeach()
if(OPENCV_HEADERS AND OPENCV_core_LIBRARY AND OPENCV_imgproc_LIBRARY AND OPENCV_imgcodecs_LIBRARY)
  add_library(aot_perception_opencv INTERFACE IMPORTED GLOBAL)
  target_link_libraries(aot_perception_opencv INTERFACE ${OPENCV_core_LIBRARY} ${OPENCV_imgproc_LIBRARY}
                                                        ${OPENCV_imgcodecs_LIBRARY})
  target_include_directories(aot_perception_opencv SYSTEM INTERFACE ${OPENCV_HEADERS})
endif()
