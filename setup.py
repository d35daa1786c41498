# SPDX-License-Identifier: Apache-2.0
from glob import glob

from setuptools import find_packages, setup

PACKAGE = "aot_perception"
PACKAGES = ("aliked_ros", "aot_runtime", "bev_ros", "depth_ros", "f3_ros", "vggt_ros", "vitmatte_ros")

COMMANDS = [
    "aliked_node = aliked_ros.node:main",
    "aliked_offline = aliked_ros.offline:main",
    "benchmark = aot_runtime.benchmark:main",
    "bev_node = bev_ros.node:main",
    "build_engine = aot_runtime.build_engine:main",
    "compare_artifacts = aot_runtime.compare:main",
    "compare_fp32_fp16 = aliked_ros.compare_precisions:main",
    "demo_pair = aliked_ros.demo_pair:main",
    "demo_seq = aliked_ros.demo_seq:main",
    "depth_demo = vggt_ros.depth_demo:main",
    "depth_node = depth_ros.node:main",
    "depth_offline = depth_ros.offline:main",
    "evaluate = f3_ros.evaluate:main",
    "evaluate_keypoints = aliked_ros.evaluate:main",
    "events = f3_ros.events.cli:main",
    "export_aliked = aliked_ros.export_aliked:main",
    "export_bev = bev_ros.export_bev:main",
    "export_dav2_to_pt2 = depth_ros.export_dav2:main",
    "export_f3_to_pt2 = f3_ros.export_f3:main",
    "export_flowhead_to_pt2 = f3_ros.export_flowhead:main",
    "export_vggt = vggt_ros.export_vggt:main",
    "export_vitmatte = vitmatte_ros.export_vitmatte:main",
    "f3_demo = f3_ros.demo:main",
    "f3_node = f3_ros.node:main",
    "f3_offline = f3_ros.offline:main",
    "inspect_artifact = aot_runtime.inspect:main",
    "matte = vitmatte_ros.matte:main",
    "measure_timings = aliked_ros.measure_timings:main",
    "module_report = vitmatte_ros.module_report:main",
    "play_rig = vggt_ros.play_rig:main",
    "play_topics = aot_runtime.ros.bag_player:main",
    "precompute_bev_features = bev_ros.precompute_bev_features:main",
    "reconstruct = vggt_ros.reconstruct:main",
    "record_topics = f3_ros.recorder:main",
    "replay_node = f3_ros.replay_node:main",
    "run_exported = f3_ros.run_exported:main",
    "verify_bev_features = bev_ros.verify_bev_features:main",
    "vggt_node = vggt_ros.node:main",
    "vitmatte_node = vitmatte_ros.node:main",
]

setup(
    name=PACKAGE,
    version="0.1.0",
    description="ROS 2 perception nodes whose networks are compiled ahead of time",
    license="Apache-2.0",
    maintainer="aot_perception maintainers",
    maintainer_email="maintainers@aot-perception.invalid",
    packages=find_packages(include=[f"{family}*" for family in PACKAGES]),
    python_requires=">=3.10",
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{PACKAGE}"]),
        (f"share/{PACKAGE}", ["package.xml"]),
        (f"share/{PACKAGE}/launch", sorted(glob("launch/*.launch.py"))),
        (f"share/{PACKAGE}/config", sorted(glob("config/*"))),
    ],
    # torch is left out on purpose: which build fits (CPU, CUDA, Jetson) only the user's machine knows.
    install_requires=["h5py", "hdf5plugin", "numba", "numpy", "psutil", "pyyaml", "rich", "rosbags", "safetensors"],
    extras_require={
        "aedat4": ["dv-processing"],
        "matting": ["pymatting"],
        "onnx": ["onnx", "onnxruntime", "onnxscript"],
        "open3d": ["open3d>=0.20"],
        "pictures": ["matplotlib", "opencv-python-headless", "pillow"],
        "quantise": ["torchao"],
        "ray": ["ray[data]"],
        "test": ["hypothesis", "pytest", "pytest-timeout"],
    },
    zip_safe=False,
    entry_points={"console_scripts": COMMANDS},
)
