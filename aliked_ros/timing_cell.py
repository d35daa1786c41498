# SPDX-License-Identifier: Apache-2.0
"""One cell of `measure_timings`, measured in a process of its own: memory is its own, and a crash ends only it.

python -m aliked_ros.timing_cell JSON     with the fields of `Cell`; the last line of its output is JSON too
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aliked_ros.config import from_name
from aot_runtime.benchmark import measure, peak_rss_mb
from aot_runtime.errors import AotError

if TYPE_CHECKING:
    import torch

    from aliked_ros.model import ALIKED
    from aot_runtime.compiled_model import CompiledModel
    from aot_runtime.manifest import CheckpointInfo

RUNTIMES = ("eager", "compile", "pt2", "onnx", "engine")
FILES = ("pt2", "onnx", "engine")
MIB = 1 << 20


@dataclass(frozen=True)
class Cell:
    """What to measure, and how.

    Attributes:
        runtime: one of `RUNTIMES`.
        weights: folder of official checkpoints, "" for random weights, which are as fast.
        folder: where artifacts are kept.
        job: "export" makes the cell's artifact, "measure" runs it.
    """

    model: str
    top_k: int
    width: int
    height: int
    runtime: str
    precision: str
    device: str
    weights: str
    folder: str
    runs: int
    warmup_runs: int
    job: str = "measure"

    @property
    def artifact(self) -> Path:
        """The file that the cell runs, if it runs one."""
        device = self.device.partition(":")[0]
        random = "" if self.weights else "_random"
        name = f"{self.model}_{self.width}x{self.height}_k{self.top_k}_{self.precision}_{device}{random}"
        return Path(self.folder) / f"{name}.{self.runtime}"

    def network(self) -> tuple[ALIKED, CheckpointInfo]:
        """The network with its weights.

        Raises:
            CheckpointError: there is no such file.
        """
        from aliked_ros.export_aliked import read_network
        from aliked_ros.model import ALIKED
        from aot_runtime.manifest import CheckpointInfo

        if self.weights:
            return read_network(self.model, Path(self.weights) / f"{self.model}.pth")
        return ALIKED(from_name(self.model)).randomise(0), CheckpointInfo.random(0)


def export_cell(cell: Cell) -> dict[str, Any]:
    """Make the cell's artifact.

    Raises:
        AotError: it cannot be made here.
    """
    from aliked_ros.export_aliked import export_aliked

    network, checkpoint = cell.network()
    export_aliked(
        network,
        cell.artifact,
        checkpoint=checkpoint,
        height=cell.height,
        width=cell.width,
        top_k=cell.top_k,
        precision=cell.precision,
        device=cell.device,
        progress=False,
    )
    return {}


def measure_cell(cell: Cell) -> dict[str, Any]:
    """{"modes": {"plain": {...}, "CUDA graph": {...}}, "file_mb": ...}.

    Each mode has the `Timing` of the network on the device as `network`; of an image in host memory to keypoints in
    host memory as `host`; both with `cpu_ms`, this process's processor time a call, all threads; and `peak_mib`.

    Raises:
        AotError: it cannot run here.
    """
    import numpy as np
    import torch

    from aliked_ros.pipeline import AlikedPipeline

    on_gpu = cell.device.startswith("cuda")
    free = _free_memory(cell.device) if on_gpu else 0
    image = np.random.default_rng(0).integers(0, 256, (cell.height, cell.width, 3), np.uint8)
    model = _load(cell)
    modes: dict[str, Any] = {}
    inputs = model.check_inputs({"image": torch.from_numpy(image)[None].to(model.device)})
    wait = (lambda: torch.cuda.synchronize(model.device)) if on_gpu else None

    def add(mode: str, call: Callable[[], object]) -> None:
        def timed(what: Callable[[], object]) -> dict[str, Any]:
            start = time.process_time()
            found = asdict(measure(what, runs=cell.runs, warmup_runs=cell.warmup_runs, synchronize=wait))
            # Warm-up runs are in it; all of this is running.
            return {**found, "cpu_ms": 1e3 * (time.process_time() - start) / (cell.runs + cell.warmup_runs)}

        pipeline = AlikedPipeline(model, cuda_graph=mode != "plain")
        # What compiling and loading took is no memory of running.
        call()
        _reset_peak()
        network, host = timed(call), timed(lambda: pipeline.process(image))
        peak = _gpu_peak(cell.device, free) if on_gpu else _peak_rss()
        modes[mode] = {"network": network, "host": host, "peak_mib": peak}

    add("plain", lambda: model.run_positional(inputs))
    if on_gpu and model.capturable:
        add("CUDA graph", model.capture_cuda_graph().replay)
    size = cell.artifact.stat().st_size / 1e6 if cell.runtime in FILES else None
    return {"modes": modes, "file_mb": size}


def _load(cell: Cell) -> CompiledModel:
    if cell.runtime in FILES:
        from aot_runtime.compiled_model import load_model

        return load_model(cell.artifact, cell.device)
    from aliked_ros.eager import eager_model

    network, checkpoint = cell.network()
    return eager_model(
        network,
        checkpoint,
        height=cell.height,
        width=cell.width,
        top_k=cell.top_k,
        precision=cell.precision,
        device=cell.device,
        compiled=cell.runtime == "compile",
    )


def _free_memory(device: str) -> int:
    import torch

    place: torch.device = torch.device(device)
    if not torch.cuda.is_available():
        return 0  # eager_model() and load_model() say it better
    torch.zeros(1, device=place)  # the context, which is nobody's
    return int(torch.cuda.mem_get_info(place)[0])


def _gpu_peak(device: str, free_before: int) -> float:
    """MiB that the driver gave out since the start: the allocator keeps what it had at its peak, and AOTInductor's
    constants, which are outside PyTorch's counters, are in it too. Other processes must be quiet.
    """
    import torch

    return max(0, free_before - int(torch.cuda.mem_get_info(torch.device(device))[0])) / MIB


def _reset_peak() -> None:
    """Forget the peak of the resident memory so far, where the kernel allows it."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return


def _peak_rss() -> float:
    """Peak resident MiB of this process since `_reset_peak`, Python and the libraries included."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024 / MIB
    except (OSError, StopIteration, ValueError):
        return peak_rss_mb() * 1e6 / MIB


def main(argv: Sequence[str] | None = None) -> int:
    """Do one job; the last line of standard output is its result, or {"reason": ...}."""
    (text,) = sys.argv[1:] if argv is None else argv
    cell = Cell(**json.loads(text))
    try:
        told = export_cell(cell) if cell.job == "export" else measure_cell(cell)
    except AotError as error:
        told = {"reason": str(error)}
    print(json.dumps(told))
    return 0


if __name__ == "__main__":
    sys.exit(main())
