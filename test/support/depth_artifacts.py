# SPDX-License-Identifier: Apache-2.0
"""A depth network whose "depth" is the brightness of its image, so that tests know and choose what it says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def export_brightness(path: Path, height: int, width: int, kind: str = "relative", *, random: bool = False) -> None:
    """Writes the artifact: ten times the mean of the image's channels, 0 .. 10, called depth of this kind.

    Args:
        random: whether the manifest says that the weights are random.
    """
    import torch

    from aot_runtime.export import export_model
    from aot_runtime.golden import uniform
    from aot_runtime.manifest import CheckpointInfo

    class Brightness(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1))
            self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1))

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return 10 * (image * self.std + self.mean).mean(1)

    preprocessing: dict[str, Any] = {
        "input": "rgb_image",
        "input_channels": 3,
        "size": [height, width],
        "patch": 14,
        "encoder": "none",
        "kind": kind,
        "max_depth": None,
        "focal_baseline": None,
        "colour_order": "RGB",
        "scale": 1 / 255,
        "mean": list(MEAN),
        "std": list(STD),
        "resize": "stretch",
        "interpolation": "cubic",
    }
    export_model(
        Brightness(),
        {"image": torch.zeros(1, 3, height, width)},
        path=path,
        family="depth",
        variant="brightness",
        task=f"{kind}_depth",
        outputs=[("depth", "ten times the brightness", "")],
        checkpoint=CheckpointInfo.random(1) if random else CheckpointInfo("brightness.pth", "ab" * 32, "Apache-2.0"),
        golden_laws={"image": uniform(-2.1, 2.6)},
        preprocessing=preprocessing,
        progress=False,
    )
