# SPDX-License-Identifier: Apache-2.0
"""Command `build_engine MODEL.onnx -o MODEL.engine`: a TensorRT engine from an ONNX artifact.

On the machine that has the GPU the engine is built for it (on a Jetson with JetPack's TensorRT) and run once; with
--target sm_89 it is built by TensorRT-RTX for a GPU that need not be here.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from aot_runtime.backends.quantise import TOOLS
from aot_runtime.engine import EngineOptions, build_engine
from aot_runtime.errors import AotError, ExportError
from aot_runtime.manifest import PRECISIONS, TENSORRT_RUNTIMES
from aot_runtime.parity import Tolerance


def add_engine_arguments(parser: argparse.ArgumentParser, *, eight_bits: bool = True) -> None:
    """The options of every command that builds engines; read them with engine_options().

    Args:
        eight_bits: with those of calibration, for commands that offer int8 and fp8.
    """
    group = parser.add_argument_group("TensorRT engines")
    group.add_argument("--target", metavar="SM", help="GPU to build for, e.g. sm_89 (default: the one of this machine)")
    group.add_argument("--runtime", choices=TENSORRT_RUNTIMES, help="library (default: tensorrt where the GPU is here)")
    if eight_bits:
        add = group.add_argument
        add("--calib-data", help="int8 and fp8: a .npy or .npz file, a folder of them, or a glob pattern")
        add("--calib-batches", type=int, default=32, help="at most so many samples of it (default 32)")
        add("--quantiser", choices=TOOLS, help="default: modelopt where it is installed")
        add("--exclude", action="append", default=[], metavar="NODE", help="ONNX node to leave unquantised")
    else:
        parser.set_defaults(calib_data=None, calib_batches=32, quantiser=None, exclude=[])
    group.add_argument(
        "--shapes",
        action="append",
        default=[],
        metavar="DIM=MIN:OPT:MAX",
        help="sizes of a dynamic dim (default: its whole range, best at the size of the self-test)",
    )
    group.add_argument("--workspace-gb", type=float, help="scratch memory for kernels (default: TensorRT's)")
    group.add_argument("--opt-level", type=int, choices=range(6), help="0 builds quickly, 5 tries most (default: 3)")
    group.add_argument("--timing-cache", metavar="FILE", help="kernel timings (default: one per GPU in ~/.cache)")


def engine_options(options: argparse.Namespace, keep_onnx: str | None = None, wait: bool = True) -> EngineOptions:
    """What add_engine_arguments() asked for.

    Raises:
        ExportError: a malformed --shapes, or a number out of range.
    """
    if options.calib_batches < 1:
        raise ExportError(f"expected --calib-batches >= 1, found {options.calib_batches}")
    if options.workspace_gb is not None and options.workspace_gb <= 0:
        raise ExportError(f"expected --workspace-gb > 0, found {options.workspace_gb}")
    return EngineOptions(
        target=options.target,
        runtime=options.runtime,
        sizes=dict(parse_sizes(text) for text in options.shapes),
        workspace_gb=options.workspace_gb,
        optimization_level=options.opt_level,
        timing_cache=options.timing_cache,
        calib_data=options.calib_data,
        calib_batches=options.calib_batches,
        quantiser=options.quantiser,
        quantise_exclude=tuple(options.exclude),
        keep_onnx=keep_onnx,
        wait=wait,
    )


def parse_sizes(text: str) -> tuple[str, tuple[int, int, int]]:
    """ "n=1:16:100" -> ("n", (1, 16, 100)).

    Raises:
        ExportError: anything else.
    """
    match = re.fullmatch(r"([^=]+)=(\d{1,9}):(\d{1,9}):(\d{1,9})", text)
    if match is None:
        raise ExportError(f"expected --shapes DIM=MIN:OPT:MAX, found {text!r}")
    return match.group(1), (int(match.group(2)), int(match.group(3)), int(match.group(4)))


def parse_tolerance(text: str) -> Tolerance:
    """ "0.01,0.1" or "0.01,0.1,0.99" -> Tolerance(atol, rtol, cosine).

    Raises:
        ExportError: anything else.
    """
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) not in (2, 3) or not all(0 <= number < float("inf") for number in numbers):
        raise ExportError(f"expected --tolerance ATOL,RTOL[,COSINE], found {text!r}")
    return Tolerance(*numbers)


def main(argv: list[str] | None = None) -> int:
    """Exit code 0 for a written engine, 2 for anything else."""
    parser = argparse.ArgumentParser(
        prog="build_engine", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("onnx", help="ONNX artifact, as the export commands write it")
    parser.add_argument("-o", "--output", help="engine to write (default: beside the ONNX file)")
    parser.add_argument("--precision", choices=PRECISIONS, help="default: that of the ONNX file")
    parser.add_argument("--tolerance", metavar="ATOL,RTOL[,COSINE]", help="against the ONNX file (default: see README)")
    parser.add_argument("--no-wait", action="store_true", help="fail where another process builds the same engine")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    add_engine_arguments(parser)
    options = parser.parse_args(argv)
    output = options.output or str(Path(options.onnx).with_suffix(".engine"))
    try:
        manifest = build_engine(
            options.onnx,
            output,
            options.precision,
            engine_options(options, wait=not options.no_wait),
            tolerances=None if options.tolerance is None else parse_tolerance(options.tolerance),
            rebuild_command=["build_engine", *(sys.argv[1:] if argv is None else argv)],
            progress=not options.quiet,
        )
    except AotError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("error: stopped, nothing was written", file=sys.stderr)
        return 2
    target = manifest.target
    note = "; not checked on device: its self-test runs at the first start" if manifest.parity_of else ""
    print(
        f"{output}: {manifest.precision} for {target.device_name}, {target.runtime} {target.runtime_version}, "
        f"{Path(output).stat().st_size / 1e6:.1f} MB{note}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
