// SPDX-License-Identifier: Apache-2.0
// Command f3_node of aot_perception_cpp.
#include "f3_component.hpp"
#include "run_node.hpp"

int main(int argc, char** argv) {
  return aot_perception::run_component<aot_perception::F3Component>(argc, argv, R"(
usage: f3_node --ros-args -p artifact:=MODEL.pt2 [-r "~/events:=/event_camera/events"] [--params-file f3.yaml] ...

Computes F3 features of event windows (sensor_msgs/Image 32FC<C> on ~/features) from event_camera_msgs/EventPacket
on ~/events; with -p depth_artifact:=HEAD.pt2 also depth (32FC1 on ~/relative_depth or ~/depth), and with
-p flow_artifact:=HEAD.pt2 optical flow (32FC2 on ~/flow).
All parameters with their meaning and range: config/f3.yaml, or: ros2 param describe /f3 NAME)");
}
