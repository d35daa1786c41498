# SPDX-License-Identifier: Apache-2.0
"""A depth or flow artifact that runs on F3 features: what it says about itself, checked against the F3 in use."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aot_runtime.errors import ArtifactError

if TYPE_CHECKING:
    import torch

    from aot_runtime.compiled_model import CompiledModel
    from f3_ros.pipeline import F3Pipeline

DEPTH_KINDS = ("relative", "metric", "disparity")
_EXPORTER = {"depth": "export_dav2_to_pt2", "flow": "export_flowhead_to_pt2"}
_RESIZE = {"resize": "stretch", "interpolation": "bilinear", "align_corners": True}


@dataclass(frozen=True)
class HeadInfo:
    """What a head computes.

    Attributes:
        family: "depth" or "flow".
        size: (H, W) of the grid that it runs on.
        channels: of the features that it takes.
        kind: of a depth: "relative" (larger is nearer, up to scale and shift), "metric" (metres) or "disparity"
            (pixels, larger is nearer; metres = focal_baseline / value); "flow" of a flow.
        focal_baseline: pixel metres, of a disparity, if it is known; without it a disparity is as good as relative.
        max_depth: metres, of a metric depth that is bounded.
        interval_us: of a flow: the time over which pixels move by it, microseconds.
        backbone_digest: `state_digest` of the F3 weights that it was trained on, if they are known.
    """

    family: str
    size: tuple[int, int]
    channels: int
    kind: str
    focal_baseline: float | None = None
    max_depth: float | None = None
    interval_us: int | None = None
    backbone_digest: str | None = None

    @property
    def is_metric(self) -> bool:
        """Whether metres can be published."""
        return self.kind == "metric" or (self.kind == "disparity" and self.focal_baseline is not None)


class Head:
    """A loaded head.

    Args:
        model: an artifact of the family, or the path of one.
        family: "depth" or "flow".
        f3: the backbone in use; the head is loaded on the same device.
        **options: further arguments of `load_model` for a path (allow_list, self_test, ...).

    Attributes:
        info: what it computes.
        warnings: sentences for a log: a head that was trained on another backbone computes something, but nothing
            sensible.

    Raises:
        ArtifactError: the artifact is of another family, does not run on F3 features, or takes features of another
            number of channels than this F3 gives.
    """

    def __init__(
        self, model: CompiledModel | str | os.PathLike[str], family: str, f3: F3Pipeline, **options: Any
    ) -> None:
        own = isinstance(model, (str, os.PathLike))
        if isinstance(model, (str, os.PathLike)):
            from aot_runtime.compiled_model import load_model

            model = load_model(model, str(f3.model.device), **options)
        self.model = model
        try:
            self.info = read_head_info(model, family)
            self.warnings = self._check(f3)
        except BaseException:
            if own:
                model.close()
            raise
        self._output = model.manifest.outputs[0].name

    def _check(self, f3: F3Pipeline) -> tuple[str, ...]:
        channels = f3.feature_shape[0]
        if channels != self.info.channels:
            raise ArtifactError(
                f"expected a {self.info.family} head for the {channels} channels of {f3.model.path.name}, found one "
                f"for {self.info.channels} channels in {self.model.path}",
                f"export the head of this F3 with {_EXPORTER[self.info.family]} --input-channels {channels}",
            )
        if self.model.device != f3.model.device:
            raise ArtifactError(
                f"expected the {self.info.family} head on {f3.model.device} as F3, found {self.model.path} on "
                f"{self.model.device}",
                "load both on one device",
            )
        trained_on, used = self.info.backbone_digest, f3.model.manifest.preprocessing.get("weights_digest")
        if trained_on and used and trained_on != used:
            return (
                f"the {self.info.family} head {self.model.path.name} was trained on other F3 weights "
                f"({trained_on[:12]}) than those of {f3.model.path.name} ({str(used)[:12]}): its output means nothing; "
                "export F3 from the checkpoint that belongs to the head",
            )
        return ()

    def run(self, features: torch.Tensor) -> torch.Tensor:
        """The head's output for features (1, C, H, W) float32, contiguous, of its own size."""
        return self.model.run(features=features)[self._output]

    def close(self) -> None:
        """Free the model's memory."""
        self.model.close()


def read_head_info(model: CompiledModel, family: str) -> HeadInfo:
    """What the manifest of a head says.

    Raises:
        ArtifactError: another family, not a head on F3 features, or the manifest lacks or contradicts something.
    """
    manifest, path = model.manifest, model.path
    command = _EXPORTER[family]
    if manifest.family != family:
        raise ArtifactError(
            f"expected an artifact of the family {family}, found {manifest.family} in {path}",
            f"export one with {command}",
        )
    told = manifest.preprocessing
    if told.get("input") != "f3_features" or [spec.name for spec in manifest.inputs] != ["features"]:
        raise ArtifactError(
            f"expected a {family} head that runs on F3 features, found input {told.get('input')!r} in {path}",
            f"export one with {command} --input-channels C; depth from images is depth_node's",
        )
    try:
        height, width = (int(size) for size in told["size"])
        info = HeadInfo(
            family=family,
            size=(height, width),
            channels=int(told["input_channels"]),
            kind=str(told["kind"]) if family == "depth" else "flow",
            focal_baseline=_number(told.get("focal_baseline")),
            max_depth=_number(told.get("max_depth")),
            interval_us=int(told["interval_us"]) if family == "flow" else None,
            backbone_digest=told.get("backbone_digest"),
        )
    except (KeyError, TypeError, ValueError) as error:
        needed = "kind" if family == "depth" else "interval_us"
        raise ArtifactError(
            f"expected size, input_channels and {needed} in the manifest's preprocessing, found {told} in {path} "
            f"({error!r})",
            f"export it again with {command}",
        ) from error
    _check_consistency(info, model)
    return info


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def _check_consistency(info: HeadInfo, model: CompiledModel) -> None:
    """The shapes, the resize rule and the kind must be ones that the pipeline can serve."""
    manifest, path = model.manifest, model.path
    (height, width), family = info.size, info.family
    shape = (1, info.channels, height, width)
    taken, given = manifest.inputs[0], manifest.outputs[0]
    wanted = (1, height, width) if family == "depth" else (1, 2, height, width)
    if taken.shape != shape or taken.dtype != "float32" or given.shape != wanted or given.dtype != "float32":
        raise ArtifactError(
            f"expected features {shape} float32 in and {family} {wanted} float32 out, found {taken.shape} "
            f"{taken.dtype} and {given.shape} {given.dtype} in {path}",
            f"export it again with {_EXPORTER[family]}",
        )
    rule = {name: manifest.preprocessing.get(name, value) for name, value in _RESIZE.items()}
    if rule != _RESIZE:
        raise ArtifactError(f"expected features resized by {_RESIZE}, found {rule} in {path}")
    if family == "depth" and info.kind not in DEPTH_KINDS:
        raise ArtifactError(f"expected a depth {' or '.join(DEPTH_KINDS)}, found {info.kind!r} in {path}")
    if info.kind == "disparity" and info.focal_baseline is not None and not 0 < info.focal_baseline < float("inf"):
        raise ArtifactError(
            f"expected focal_baseline above 0 beside a disparity, found {info.focal_baseline} in {path}",
            f"export it again with {_EXPORTER[family]}",
        )
