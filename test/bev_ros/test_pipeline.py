# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bev_artifacts import renamed, tiny_encoder, tiny_images, tiny_rig

from aot_runtime.errors import ArtifactError, InputError
from aot_runtime.files import sha256_file
from aot_runtime.manifest import CheckpointInfo
from bev_ros.calibration import Rig
from bev_ros.chain import EagerChain
from bev_ros.geometry import camera_vectors
from bev_ros.images import prepare
from bev_ros.lenses import Lenses
from bev_ros.pipeline import BevPipeline
from bev_ros.tables import build_tables


def expected(images: dict[str, np.ndarray], rig: Rig, **changes: Any) -> np.ndarray:
    """The map of the tiny encoder, step by step; absent cameras are not there at all."""
    present = rig.ordered([name for name in rig.names if name in images])
    encoder = tiny_encoder(cameras=len(present), **changes)
    config = encoder.config
    transforms = [config.frustum.transform((camera.width, camera.height)) for camera in present]
    given = torch.stack([prepare(images[camera.name], t) for camera, t in zip(present, transforms)])
    vectors = torch.from_numpy(camera_vectors(present, config.frustum))
    tables = build_tables(present, config.frustum, config.grid, keep_z=config.keep_z)
    with torch.inference_mode():
        found: torch.Tensor = encoder(given, *([vectors] if config.camera_aware else []), *tables.tensors())
    return found.numpy()


def close(found: np.ndarray, wanted: np.ndarray, tolerance: float = 1e-5) -> bool:
    return found.shape == wanted.shape and float(np.abs(found - wanted).max()) <= tolerance * float(
        np.abs(wanted).max()
    )


@pytest.fixture(scope="module")
def pipeline(bev_artifact: Path) -> Any:
    with BevPipeline(bev_artifact) as made:
        yield made


def test_the_map_of_a_rig(pipeline: BevPipeline, bev_artifact: Path) -> None:
    rig = tiny_rig()
    images = tiny_images(rig)
    result = pipeline.process(images, rig)
    assert result.features.dtype == np.float32
    assert close(result.features, expected(images, rig))
    assert (result.cameras, result.missing, result.warnings) == (rig.names, (), ())
    assert set(result.timings_ms) == {"prepare", "tables", "network", "total"}
    assert pipeline.config.shape == result.features.shape == (8, 20, 20)
    assert pipeline.random_weights
    assert pipeline.licence == ""
    assert not pipeline.graphed
    assert len(pipeline.identity) == 64
    assert sha256_file(bev_artifact) != pipeline.identity
    with BevPipeline(bev_artifact) as again:
        assert again.identity == pipeline.identity


def test_results_are_not_overwritten_by_the_next_call(pipeline: BevPipeline) -> None:
    rig = tiny_rig()
    first = pipeline.process(tiny_images(rig), rig).features
    kept = first.copy()
    pipeline.process(tiny_images(rig, seed=5), rig)
    assert np.array_equal(first, kept)


def test_a_missing_camera_is_no_black_image(pipeline: BevPipeline) -> None:
    rig = tiny_rig()
    images = tiny_images(rig)
    whole = pipeline.process(images, rig).features
    del images["left"]
    result = pipeline.process(images, rig)
    assert (result.cameras, result.missing) == (("front", "right"), ("left",))
    assert close(result.features, expected(images, rig))
    black = pipeline.process({**images, "left": np.zeros((90, 160, 3), np.uint8)}, rig).features
    # Of the black image there is something in the map, and of the camera left out nothing.
    assert not close(black, result.features, 1e-2)
    seen = np.abs(whole - result.features).max(0) > 1e-6
    # The left camera looks along +y: the upper rows of the map.
    assert seen[12:].any()
    assert not seen[:6].any()


def test_fewer_cameras_than_slots_and_other_names(pipeline: BevPipeline) -> None:
    rig = renamed(tiny_rig(("front", "left")), "CAM_")
    images = tiny_images(rig)
    result = pipeline.process(images, rig)
    assert result.cameras == ("CAM_front", "CAM_left")
    assert close(result.features, expected(images, rig))


def test_tables_are_built_when_the_calibration_changes_and_this_is_told(bev_artifact: Path, tmp_path: Path) -> None:
    rig = tiny_rig()
    images = tiny_images(rig)
    pose = rig.cameras[0].sensor_to_ego.copy()
    pose[0, 3] += 2.0
    moved = rig.moved({"front": pose})
    with BevPipeline(bev_artifact, tables_dir=tmp_path) as pipeline:
        built = [pipeline.process(images, which).tables_built for which in (rig, rig, moved, moved, rig)]
        assert built == [True, False, True, False, False]
        assert close(pipeline.process(images, moved).features, expected(images, moved))
    with BevPipeline(bev_artifact, tables_dir=tmp_path) as pipeline:
        assert not pipeline.process(images, rig).tables_built
        files = sorted(tmp_path.iterdir())
        files[0].write_bytes(b"damaged")
        files[1].write_bytes(b"damaged")
        result = pipeline.process(images, moved)
        assert result.tables_built
        assert len(result.warnings) == 1
        assert "built them anew" in result.warnings[0]


def test_distorted_images_are_made_straight(pipeline: BevPipeline) -> None:
    rig = tiny_rig()
    bent = Rig(tuple(replace(camera, distortion=(-0.2, 0.05, 0.001, 0.0), model="plumb_bob") for camera in rig.cameras))
    images = tiny_images(rig)
    lenses = Lenses()
    straight = {camera.name: lenses.undistorted(camera, images[camera.name]) for camera in bent}
    result = pipeline.process(images, bent)
    assert close(result.features, expected(straight, rig))
    assert not close(result.features, expected(images, rig), 1e-2)


def test_planes_of_an_onnx_file(bev_artifacts: Callable[..., Path]) -> None:
    rig = tiny_rig(("front", "left"))
    images = tiny_images(rig)
    with BevPipeline(bev_artifacts("fused", ".onnx")) as pipeline:
        assert close(pipeline.process(images, rig).features, expected(images, rig))
        del images["front"]
        assert close(pipeline.process(images, rig).features, expected(images, rig))


@pytest.mark.parametrize("pool", [None, ".pt2", ".onnx"])
def test_split_artifacts_of_mixed_formats(bev_artifacts: Callable[..., Path], pool: str | None) -> None:
    rig = tiny_rig()
    images = tiny_images(rig)
    parts = [bev_artifacts("image", ".onnx")] + ([] if pool is None else [bev_artifacts("pool", pool)])
    with BevPipeline(parts[::-1]) as pipeline:
        result = pipeline.process(images, rig)
        assert close(result.features, expected(images, rig))
        identity = pipeline.identity
    with BevPipeline(parts) as pipeline:
        assert pipeline.identity == identity


def test_a_bev_stage_heights_apart_and_another_head(bev_artifacts: Callable[..., Path]) -> None:
    from bev_ros.grid import BevGrid

    grid = BevGrid((-8.0, 8.0, 1.0), (-8.0, 8.0, 2.0), (-5.0, 5.0, 5.0), "floor")
    changes: dict[str, Any] = {"grid": grid, "keep_z": True, "bev_stage": "resnet18", "bev_base": 8, "bev_channels": 4}
    changes |= {"head": "lss", "neck": "second_fpn"}
    rig = tiny_rig()
    images = tiny_images(rig)
    wanted = expected(images, rig, **changes)
    assert wanted.shape == (16, 8, 16)
    parts = [bev_artifacts("image", ".onnx", **changes), bev_artifacts("bev", ".pt2", **changes)]
    with BevPipeline(parts) as pipeline:
        assert close(pipeline.process(images, rig).features, wanted)
    with pytest.raises(ArtifactError, match=r"expected a fused artifact, or the parts bev and image \(and pool\)"):
        BevPipeline(parts[:1])
    with pytest.raises(ArtifactError, match="expected parts of one encoder"):
        BevPipeline([bev_artifacts("image", ".onnx"), parts[1]])


def test_the_librarys_pooling_between_an_image_stage_and_a_bev_stage(bev_artifacts: Callable[..., Path]) -> None:
    """Without heights apart nothing after the pooling copies the map into the layout that the next artifact takes."""
    from bev_ros.grid import BevGrid

    grid = BevGrid((-8.0, 8.0, 1.0), (-8.0, 8.0, 1.0), (-5.0, 5.0, 10.0), "floor")
    changes: dict[str, Any] = {"grid": grid, "bev_stage": "resnet18", "bev_base": 8, "bev_channels": 4}
    rig = tiny_rig()
    images = tiny_images(rig)
    with BevPipeline([bev_artifacts("image", ".onnx", **changes), bev_artifacts("bev", **changes)]) as pipeline:
        assert close(pipeline.process(images, rig).features, expected(images, rig, **changes))


@pytest.mark.parametrize("suffix", ["eager", ".onnx"])
def test_maps_of_sweeps_are_joined_on_channels(bev_artifacts: Callable[..., Path], suffix: str) -> None:
    rig = tiny_rig(("front", "left"))
    poses = {camera.name: camera.sensor_to_ego + [[0, 0, 0, -1.5], *[[0] * 4] * 3] for camera in rig}
    earlier = rig.moved(poses)
    images, before = tiny_images(rig), tiny_images(rig, seed=3)
    del before["left"]
    changes: dict[str, Any] = {"sweeps": 2, "cameras": 3}
    model: Any = EagerChain(tiny_encoder(**changes), CheckpointInfo.random(4))
    with BevPipeline(model if suffix == "eager" else bev_artifacts("fused", suffix, **changes)) as pipeline:
        result = pipeline.process_sweeps([(images, rig), (before, earlier)])
        assert (result.cameras, result.missing) == (("front", "left"), ())
        assert result.features.shape == pipeline.config.shape == (16, 20, 20)
        with pytest.raises(InputError, match="expected 2 sweeps as the encoder tiny takes, found 1"):
            pipeline.process(images, rig)
    assert close(result.features[:8], expected(images, rig))
    # The gates see the key frame's cameras in all sweeps; points lie where the sweep's cameras stood.
    encoder = tiny_encoder(cameras=1)
    frustum, one = encoder.config.frustum, earlier.ordered(["front"])
    vectors = torch.from_numpy(camera_vectors(rig, frustum)[:1])
    given = prepare(before["front"], frustum.transform((160, 90)))[None]
    with torch.inference_mode():
        wanted = encoder(given, vectors, *build_tables(one, frustum, encoder.config.grid).tensors())
    assert close(result.features[8:], wanted.numpy())


def test_depth_refinement_pools_the_volume(bev_artifacts: Callable[..., Path]) -> None:
    rig = tiny_rig()
    images = tiny_images(rig)
    wanted = expected(images, rig, use_da=True)
    assert not close(wanted, expected(images, rig), 0.1)
    eager = EagerChain(tiny_encoder(use_da=True), CheckpointInfo.random(4))
    with BevPipeline(eager) as pipeline:
        assert close(pipeline.process(images, rig).features, wanted)
    with BevPipeline(bev_artifacts("fused", ".onnx", use_da=True)) as pipeline:
        assert close(pipeline.process(images, rig).features, wanted)


def test_eager_encoders_are_told_apart(bev_artifact: Path) -> None:
    rig = tiny_rig()
    images = tiny_images(rig)
    encoder = tiny_encoder()
    info = CheckpointInfo("weights.pth", "0" * 64, "MIT")
    with BevPipeline(EagerChain(encoder, info)) as pipeline:
        assert close(pipeline.process(images, rig).features, expected(images, rig))
        assert (pipeline.random_weights, pipeline.licence) == (False, "MIT")
        identities = {pipeline.identity}
        assert EagerChain(tiny_encoder(), info).identity in identities
    for other in (
        EagerChain(tiny_encoder(seed=5), info),
        EagerChain(tiny_encoder(depth=(1.0, 13.0, 0.5)), info),
        EagerChain(encoder, info, precision="bf16"),
    ):
        assert other.identity not in identities
        identities.add(other.identity)
    with pytest.raises(InputError, match="expected precision fp32, fp16, bf16, found 'int8'"):
        EagerChain(encoder, info, precision="int8")
    with pytest.raises(ArtifactError, match="expected an open pipeline, found tiny closed"):
        pipeline.process(images, rig)


def test_other_artifacts_are_refused(bev_artifact: Path, artifact_cache: Path) -> None:
    from small_artifacts import two_outputs

    with pytest.raises(ArtifactError, match="expected an artifact of the family bev, found two_outputs"):
        BevPipeline(two_outputs(artifact_cache))
    with pytest.raises(ArtifactError, match="expected one artifact of the part fused, found"):
        BevPipeline([bev_artifact, bev_artifact])
    with pytest.raises(ArtifactError, match="found none"):
        BevPipeline([])


def test_wrong_input_is_named(pipeline: BevPipeline) -> None:
    rig = tiny_rig()
    images = tiny_images(rig)
    with pytest.raises(InputError, match="expected an image of at least one camera of front, left, right, found none"):
        pipeline.process({}, rig)
    with pytest.raises(InputError, match="expected images of cameras front, left, right, found rear"):
        pipeline.process({**images, "rear": images["left"]}, rig)
    with pytest.raises(InputError, match=r"shape \(90, 160, 3\) of camera 'left', found uint8 \(80, 160, 3\)"):
        pipeline.process({**images, "left": images["left"][:80]}, rig)
    with pytest.raises(InputError, match=r"found float32"):
        pipeline.process({**images, "left": images["left"].astype(np.float32)}, rig)
    many = tiny_rig(("a", "b", "c", "d"))
    with pytest.raises(InputError, match="expected a rig of at most 3 cameras, found 4: a, b, c, d; export with"):
        pipeline.process(tiny_images(many), many)
    # And goes on.
    assert close(pipeline.process(images, rig).features, expected(images, rig))


def test_numbers_that_are_not_finite_are_told() -> None:
    encoder = tiny_encoder()
    encoder.backbone.depth_net.context_conv.bias.data[3] = float("nan")
    rig = tiny_rig()
    with BevPipeline(EagerChain(encoder, CheckpointInfo.random(4))) as pipeline:
        result = pipeline.process(tiny_images(rig), rig)
    assert len(result.warnings) == 1
    assert result.warnings[0].startswith("not finite: ")
