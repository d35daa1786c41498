// SPDX-License-Identifier: Apache-2.0
// Command depth_node of aot_perception_cpp.
#include "depth_component.hpp"
#include "run_node.hpp"

int main(int argc, char** argv) {
  return aot_perception::run_component<aot_perception::DepthComponent>(argc, argv, R"(
usage: depth_node --ros-args -p artifact:=MODEL.pt2 [-r "~/image:=/camera/image_rect"]
                  [-r "~/camera_info:=/camera/camera_info"] [--params-file depth.yaml] ...

Computes depth of RGB images: ~/depth (metres) or ~/relative_depth, ~/points, ~/depth_image.
All parameters with their meaning and range: config/depth.yaml, or: ros2 param describe /depth NAME)");
}
