// SPDX-License-Identifier: Apache-2.0
// Command aliked_node of aot_perception_cpp.
#include "aliked_component.hpp"
#include "run_node.hpp"

int main(int argc, char** argv) {
  return aot_perception::run_component<aot_perception::AlikedComponent>(argc, argv, R"(
usage: aliked_node --ros-args -p artifact:=MODEL.pt2 [-r "~/image:=/camera/image_raw"] [-p track:=true]
                   [--params-file aliked.yaml] ...

Finds keypoints in images: ~/keypoints, ~/image_keypoints, and with track ~/tracks, ~/image_tracks.
All parameters with their meaning and range: config/aliked.yaml, or: ros2 param describe /aliked NAME)");
}
