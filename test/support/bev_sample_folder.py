# SPDX-License-Identifier: Apache-2.0
"""A plain folder of samples for the tiny encoder of `bev_artifacts`."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
from bev_artifacts import tiny_images, tiny_rig

from bev_ros.calibration import write_rig


def write_sample_folder(root: Path, count: int = 6, train: int | None = None) -> Path:
    """`count` samples t000, t001, ... of three cameras; the first `train` in the split train, the others in val."""
    (root / "samples").mkdir(parents=True)
    rig = tiny_rig()
    write_rig(rig, root / "calibration.yaml")
    for index in range(count):
        for name, image in tiny_images(rig, index).items():
            cv2.imwrite(str(root / f"{name}{index}.png"), image[..., ::-1])
        pose = np.eye(4)
        pose[0, 3] = index
        told = {
            "stamp_ns": 10**18 + index,
            "cameras": {name: {"image": f"{name}{index}.png"} for name in rig.names},
            "split": "train" if train is None or index < train else "val",
            "ego_pose": pose.tolist(),
        }
        (root / "samples" / f"t{index:03d}.json").write_text(json.dumps(told))
    return root
