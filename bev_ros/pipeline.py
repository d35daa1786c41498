# SPDX-License-Identifier: Apache-2.0
"""From the images of a rig to its map, without ROS: what node, extractor and tests share."""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from aot_runtime.errors import ArtifactError, InputError
from bev_ros.calibration import CameraCalibration, Rig
from bev_ros.chain import Chain, load_chain
from bev_ros.config import BevConfig
from bev_ros.geometry import VECTOR, camera_vectors
from bev_ros.lenses import Lenses
from bev_ros.table_cache import TableCache
from bev_ros.tables import PoolingTables, join_tables

if TYPE_CHECKING:
    import torch

_KEPT = 4
"""Calibrations whose tables stay on the device."""


@dataclass(frozen=True)
class BevResult:
    """The map of one instant.

    Attributes:
        features: (C, Y, X) float32; row = y, growing to the left, column = x, growing forward.
        cameras: whose points are in it, in the rig's order.
        missing: the rig's other cameras.
        tables_built: whether tables had to be built, because this calibration had not been seen.
        timings_ms: "prepare" (undistort, resize, normalise), "tables", "network" (with pooling and copies), "total".
        warnings: sentences for a log, empty if all is well.
    """

    features: np.ndarray
    cameras: tuple[str, ...]
    missing: tuple[str, ...]
    tables_built: bool
    timings_ms: Mapping[str, float]
    warnings: tuple[str, ...] = field(default=())


@dataclass
class _Calibrated:
    """What of a calibration lies on the device."""

    vectors: torch.Tensor
    cells: tuple[torch.Tensor, ...]
    uses: int = 0


@dataclass
class _Graph:
    """Network and pooling for one calibration, whose tables it reads where they lie."""

    key: str
    graph: torch.cuda.CUDAGraph
    features: torch.Tensor
    calibrated: _Calibrated


def check_slots(rig: Rig, slots: int) -> None:
    """Checks that a network of so many cameras takes a rig.

    Raises:
        InputError: the rig has more.
    """
    if len(rig) > slots:
        raise InputError(
            f"expected a rig of at most {slots} cameras, found {len(rig)}: {', '.join(rig.names)}",
            f"export with --num-cams {len(rig)}, or choose some with --cameras",
        )


class BevPipeline:
    """Runs an encoder. Calls of `process` wait for each other.

    A camera without an image is left out of the sums: its points are in no table, so the map is that of the other
    cameras, and not that of a black image. On CUDA, from the second time on that a calibration comes, network and
    pooling are replayed as one CUDA graph; while poses change from call to call they are launched one by one.

    Args:
        model: the path of a fused artifact; the paths of the parts of a split one, in any order and mixed formats; or a
            chain, such as `bev_ros.chain.EagerChain` for an encoder that is not exported.
        device: where to load paths: "cpu", "cuda" or "cuda:N".
        tables_dir: a folder where tables are kept from run to run; None for nowhere.
        cuda_graph: on CUDA, use graphs where the runtimes allow it (ONNX Runtime does not).
        workers: threads that prepare images; None for one a camera, at most as many as there are CPUs.
        **options: further arguments of `load_model` for paths (allow_list, self_test, ...).

    Attributes:
        chain: what computes.
        config: of the encoder.

    Raises:
        ArtifactError: see `bev_ros.chain.ArtifactChain` and `load_model`.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | Chain,
        device: str = "cpu",
        *,
        tables_dir: str | os.PathLike[str] | None = None,
        cuda_graph: bool = True,
        workers: int | None = None,
        **options: Any,
    ) -> None:
        import torch

        if isinstance(model, Chain):
            self.chain = model
        else:
            paths = [model] if isinstance(model, str | os.PathLike) else list(model)
            self.chain = load_chain(paths, device, **options)
        self.config: BevConfig = self.chain.config
        config = self.config
        self._lock = threading.Lock()
        self._closed = False
        self._lenses = Lenses()
        self._tables = TableCache(config.frustum, config.grid, keep_z=config.keep_z, folder=tables_dir)
        self._known: OrderedDict[str, _Calibrated] = OrderedDict()
        count = min(config.slots, os.cpu_count() or 1) if workers is None else workers
        self._workers = ThreadPoolExecutor(count, "bev_prepare") if count > 1 else None
        self._on_cuda = self.chain.device.type == "cuda"
        self._graphs = cuda_graph and self._on_cuda and self.chain.capturable
        self._graph: _Graph | None = None
        self._problems: list[str] = []
        shape = (config.slots, 3, *config.image)
        self._host = torch.zeros(shape, pin_memory=self._on_cuda)
        self._result = torch.zeros(config.shape, pin_memory=self._on_cuda)
        self._images = torch.zeros(shape, device=self.chain.device) if self._on_cuda else self._host
        self._stream: Any = None
        if self._on_cuda:
            self._stream = torch.cuda.Stream(self.chain.device)  # type: ignore[no-untyped-call]
            # The stream is not that on which the buffers were made.
            torch.cuda.synchronize(self.chain.device)

    @property
    def identity(self) -> str:
        """SHA-256 over what computes: the artifacts' files, or an eager encoder's weights, configuration and source."""
        return self.chain.identity

    @property
    def random_weights(self) -> bool:
        """Whether the map means nothing."""
        return self.chain.checkpoint.is_random

    @property
    def licence(self) -> str:
        """Of the weights."""
        return self.chain.checkpoint.licence

    @property
    def graphed(self) -> bool:
        """Whether a CUDA graph is in use."""
        return self._graph is not None

    def process(self, images: Mapping[str, np.ndarray], rig: Rig) -> BevResult:
        """The map of one instant.

        Args:
            images: camera -> (H, W, 3) uint8 RGB, of the size that the rig says and with its distortion; cameras of the
                rig may be absent.
            rig: at most as many cameras as the network takes.

        Raises:
            InputError: no image at all, one of a camera that the rig does not have, of another size or type, an unknown
                kind of distortion, too many cameras, or the network takes several sweeps.
            ArtifactError: the pipeline is closed.
        """
        return self.process_sweeps([(images, rig)])

    def process_sweeps(self, sweeps: Sequence[tuple[Mapping[str, np.ndarray], Rig]]) -> BevResult:
        """The map of several instants, for networks with several sweeps.

        Args:
            sweeps: images and rig, as of `process`, of as many instants as the network takes, the key frame first. The
                rigs' `sensor_to_ego` lead to the vehicle **as it stood at the key frame**: this is where the vehicle's
                motion comes in. Where there is no earlier instant yet, give the key frame again.

        Returns:
            As of `process`; cameras and missing ones are those of the key frame.

        Raises:
            As `process`.
        """
        if len(sweeps) != self.config.sweeps:
            raise InputError(
                f"expected {self.config.sweeps} sweeps as the encoder {self.config.name} takes, found {len(sweeps)}",
                "call process_sweeps with all of them, or export an encoder of another number of sweeps",
            )
        for images, rig in sweeps:
            self._check(images, rig)
        with self._lock:
            if self._closed:
                raise ArtifactError(f"expected an open pipeline, found {self.config.name} closed", "open another")
            start = time.perf_counter()
            seen = [self._pinhole(rig) for _, rig in sweeps]
            self._prepare(sweeps)
            prepared = time.perf_counter()
            used = [tuple(name for name in rig.names if name in images) for images, rig in sweeps]
            key, calibrated, built = self._calibrate(seen, used)
            ready = time.perf_counter()
            features = self._run(key, calibrated)
            bad = features.size - int(np.count_nonzero(np.isfinite(features)))
            end = time.perf_counter()
            problems, self._problems = self._problems, []
        timings = {
            "prepare": prepared - start,
            "tables": ready - prepared,
            "network": end - ready,
            "total": end - start,
        }
        if bad:
            problems.append(f"not finite: {bad} of {features.size} values")
        return BevResult(
            features,
            used[0],
            tuple(name for name in sweeps[0][1].names if name not in used[0]),
            built,
            {name: seconds * 1e3 for name, seconds in timings.items()},
            tuple(problems),
        )

    def _check(self, images: Mapping[str, np.ndarray], rig: Rig) -> None:
        check_slots(rig, self.config.cameras)
        unknown = sorted(set(images) - set(rig.names))
        if unknown:
            raise InputError(f"expected images of cameras {', '.join(rig.names)}, found {', '.join(unknown)}")
        if not images:
            raise InputError(f"expected an image of at least one camera of {', '.join(rig.names)}, found none")
        for name, image in images.items():
            camera = rig.camera(name)
            wanted = (camera.height, camera.width, 3)
            if image.shape != wanted or image.dtype != np.uint8:
                raise InputError(
                    f"expected a uint8 image of shape {wanted} of camera {name!r}, found {image.dtype} {image.shape}",
                    "give the calibration of these images",
                )

    def _pinhole(self, rig: Rig) -> Rig:
        """The rig that undistorted images obey."""
        return Rig(tuple(self._lenses.pinhole(camera) for camera in rig), rig.frame)

    def _prepare(self, sweeps: Sequence[tuple[Mapping[str, np.ndarray], Rig]]) -> None:
        """Fill the network's input; slots of absent cameras are zero, and nobody reads what comes of them."""
        todo = []
        for sweep, (images, rig) in enumerate(sweeps):
            for index in range(self.config.cameras):
                slot = sweep * self.config.cameras + index
                if index >= len(rig) or rig.cameras[index].name not in images:
                    self._host[slot].zero_()
                else:
                    camera = rig.cameras[index]
                    todo.append((slot, camera, images[camera.name]))
        if self._workers is None or len(todo) < 2:
            for item in todo:
                self._fill(*item)
        else:
            list(self._workers.map(lambda item: self._fill(*item), todo))

    def _fill(self, slot: int, camera: CameraCalibration, image: np.ndarray) -> None:
        from bev_ros.images import prepare

        straight = self._lenses.undistorted(camera, image)
        transform = self.config.frustum.transform((camera.width, camera.height))
        self._host[slot].copy_(prepare(straight, transform, order=self.config.order))

    def _calibrate(self, rigs: Sequence[Rig], used: Sequence[tuple[str, ...]]) -> tuple[str, _Calibrated, bool]:
        """(key, what lies on the device, whether tables were built)."""
        import torch

        key = " ".join(self._tables.key(rig, names) for rig, names in zip(rigs, used))
        known = self._known.get(key)
        built = False
        if known is None:
            tables = []
            for rig, names in zip(rigs, used):
                found = self._tables.find(rig, names)
                built = built or found.origin == "built"
                if found.problem:
                    self._problems.append(found.problem)
                # Slots that the rig has no camera for have no points.
                tables.append(replace(found.tables, shape=(self.config.cameras, *found.tables.shape[1:])))
            vectors = np.zeros((self.config.sweeps, self.config.cameras, VECTOR), np.float32)
            # Of the key frame for all sweeps, as BEVDepth has it.
            vectors[:, : len(rigs[0])] = camera_vectors(rigs[0], self.config.frustum)
            known = _Calibrated(
                torch.from_numpy(vectors.reshape(-1, VECTOR)).to(self.chain.device),
                self._cells(tables[0] if len(tables) == 1 else join_tables(tables)),
            )
            self._known[key] = known
            while len(self._known) > _KEPT:
                self._known.popitem(last=False)
        self._known.move_to_end(key)
        return key, known, built

    def _cells(self, tables: PoolingTables) -> tuple[torch.Tensor, ...]:
        import torch

        if self.chain.planes:
            return (torch.from_numpy(tables.planes()).to(self.chain.device),)
        return tuple(tables.tensors(self.chain.device))

    def _run(self, key: str, calibrated: _Calibrated) -> np.ndarray:
        import torch

        calibrated.uses += 1
        if not self._on_cuda:
            features = self.chain.run(self._images, calibrated.vectors, calibrated.cells)
            # The network's output may be memory that its next run writes to.
            return np.array(features.numpy(), np.float32)
        with torch.inference_mode(), torch.cuda.device(self.chain.device), torch.cuda.stream(self._stream):
            self._images.copy_(self._host, non_blocking=True)
            if self._graphs and calibrated.uses >= 2 and (self._graph is None or self._graph.key != key):
                self._capture(key, calibrated)
            if self._graph is not None and self._graph.key == key:
                self._graph.graph.replay()
                features = self._graph.features
            else:
                features = self.chain.run(self._images, calibrated.vectors, calibrated.cells)
            self._result.copy_(features, non_blocking=True)
            self._stream.synchronize()
        return self._result.numpy().copy()

    def _capture(self, key: str, calibrated: _Calibrated) -> None:
        """Make the graph of a calibration in the place of the last one."""
        import torch

        self._graph = None
        for _ in range(2):
            self.chain.run(self._images, calibrated.vectors, calibrated.cells)
        self._stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
                features = self.chain.run(self._images, calibrated.vectors, calibrated.cells)
        except RuntimeError as error:
            # Slower, and right.
            self._graphs = False
            self._problems.append(f"no CUDA graph: {error}")
            return
        self._graph = _Graph(key, graph, features, calibrated)

    def close(self) -> None:
        """Free the network's memory; `process` raises afterwards."""
        with self._lock:
            self._closed = True
            self._graph = None
            self._known.clear()
            self.chain.close()
        if self._workers is not None:
            self._workers.shutdown()

    def __enter__(self) -> BevPipeline:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
