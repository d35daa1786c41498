# SPDX-License-Identifier: Apache-2.0
"""Mattes of images, folders, videos and rosbag2 recordings, without ROS: command `matte`.

Images go through the same `Guide` and `MattePipeline` as in `vitmatte_node`, so alpha is the same, byte by byte.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from aot_runtime.command import exit_status
from aot_runtime.errors import InputError
from aot_runtime.frames import IMAGE_SUFFIXES, Frame, open_frames, write_image
from aot_runtime.offline import ResultFolder, add_common_arguments, run_frames, tell_warnings, warn_of_random_weights
from aot_runtime.video import PictureSink, Video, VideoSink, is_video
from vitmatte_ros.foreground import METHODS, alpha_to_bytes, composite, cut_out, estimate_foreground
from vitmatte_ros.guidance import KINDS, GuidanceOptions, Guide
from vitmatte_ros.parameters import parse_class_ids
from vitmatte_ros.trimap import TrimapCoding

if TYPE_CHECKING:
    from vitmatte_ros.pipeline import MattePipeline, MatteResult

FORMATS = ("alpha", "alpha16", "npy", "cutout", "composite", "trimap")
VIDEOS = {"alpha": "alpha.mp4", "composite": "composite.mp4"}
_DEFAULT_FPS = 10.0


class MatteWriter(ResultFolder):
    """Writes NAME_alpha.png, NAME_alpha16.png, NAME_alpha.npy, NAME_cutout.png, NAME_composite.png, NAME_trimap.png.

    Args:
        formats: some of `FORMATS`.
        method: of the foreground's colours.
        background: RGB of what lies behind composites.
        fps: also writes `VIDEOS` of the formats chosen; None: no videos.
    """

    def __init__(
        self, folder: Path, formats: Sequence[str], method: str, background: Sequence[int], fps: float | None
    ) -> None:
        super().__init__(folder, formats, FORMATS)
        self._method = method
        self._background = np.array(background[::-1], np.uint8)
        chosen = {} if fps is None else {kind: name for kind, name in VIDEOS.items() if self.wants(kind)}
        self._videos: dict[str, PictureSink] = {
            kind: VideoSink(folder / name, fps or _DEFAULT_FPS) for kind, name in chosen.items()
        }

    def add(self, frame: Frame, image: np.ndarray, result: MatteResult) -> None:
        """One frame; image (H, W, 3) uint8 RGB."""
        alpha = result.alpha
        if self.wants("alpha"):
            self._picture(frame, "alpha", alpha_to_bytes(alpha))
        if self.wants("alpha16"):
            write_image(self.path(frame, "alpha16.png"), np.rint(alpha * np.float32(65535)).astype(np.uint16))
        if self.wants("npy"):
            np.save(self.path(frame, "alpha.npy"), alpha)
        if self.wants("trimap"):
            write_image(self.path(frame, "trimap.png"), result.trimap)
        if self.wants("cutout") or self.wants("composite"):
            bgr = np.ascontiguousarray(image[:, :, ::-1])
            colours = estimate_foreground(bgr, alpha, self._method)
            if self.wants("cutout"):
                write_image(self.path(frame, "cutout.png"), cut_out(colours, alpha))
            if self.wants("composite"):
                self._picture(frame, "composite", composite(colours, alpha, self._background))
        self.add_row(
            frame, image, windows=len(result.windows), unknown=float(np.mean(result.trimap == 128)),
            mean_alpha=float(alpha.mean()),
        )  # fmt: skip

    def _picture(self, frame: Frame, kind: str, picture: np.ndarray) -> None:
        write_image(self.path(frame, f"{kind}.png"), picture)
        if kind in self._videos:
            bgr = picture if picture.ndim == 3 else np.repeat(picture[:, :, None], 3, axis=2)
            self._videos[kind].add(frame.name, bgr)

    def close(self) -> None:
        super().close()
        for video in self._videos.values():
            video.close()


class GuidanceFiles:
    """The guidance of each frame: one file for all, or NAME*.SUFFIX in a folder, or the frames of a video in step.

    Args:
        path: of the file, folder or video.

    Raises:
        InputError: nothing there.
    """

    def __init__(self, path: Path) -> None:
        if not path.exists():
            raise InputError(f"expected guidance for the images, found nothing at {path}", "check the path")
        self._path = path
        self._frames: Iterator[Frame] | None = Video(path).frames() if is_video(path) else None
        self._files = sorted(path.iterdir()) if path.is_dir() else []

    def read(self, name: str) -> np.ndarray:
        """The pixels (H, W) of one channel for the frame `name`; see `Guide.trimap` for the dtypes.

        Raises:
            InputError: none or several files have the name, or the file cannot be read.
        """
        if self._frames is not None:
            frame = next(self._frames, None)
            if frame is None:
                raise InputError(f"expected as many frames as in the images' video, found fewer in {self._path}")
            return np.ascontiguousarray(frame.load()[:, :, 0])
        return read_plane(self._of(name) if self._path.is_dir() else self._path)

    def _of(self, name: str) -> Path:
        suffixes = (*IMAGE_SUFFIXES, ".npy")
        fitting = [file for file in self._files if file.suffix.lower() in suffixes]
        found = [file for file in fitting if file.stem == name]
        found = found or [file for file in fitting if file.stem.startswith((f"{name}_", f"{name}."))]
        # bulb_rgb.jpg goes with bulb_trimap.png
        stem = name.rpartition("_")[0]
        found = found or [file for file in fitting if stem and file.stem.startswith(f"{stem}_")]
        if len(found) != 1:
            told = ", ".join(file.name for file in found) or "none"
            raise InputError(
                f"expected one file for {name} in {self._path}, found {told}", f"name it {name}.png, or {name}_mask.png"
            )
        return found[0]


def read_plane(path: Path) -> np.ndarray:
    """One channel of an image file, 8 or 16 bits, or an array from a .npy file.

    Raises:
        InputError: it cannot be read, or has colours.
    """
    import cv2

    if path.suffix.lower() == ".npy":
        try:
            return np.asarray(np.load(path, allow_pickle=False))
        except (OSError, ValueError) as error:
            raise InputError(f"expected an array, found {error} in {path}") from error
    try:
        data = np.fromfile(path, np.uint8)
        pixels = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if data.size else None
    except (OSError, cv2.error) as error:
        raise InputError(f"expected an image, found {error} for {path}") from error
    if pixels is None:
        raise InputError(f"expected an image that OpenCV reads, found something else in {path}")
    plane = np.asarray(pixels)
    if plane.ndim == 3 and (plane[..., :3] == plane[..., :1]).all():
        plane = plane[..., 0]
    if plane.ndim != 2:
        raise InputError(
            f"expected guidance of one channel, found {plane.shape[2]} that differ in {path}", "save it as a grey image"
        )
    return np.ascontiguousarray(plane)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="matte", description="Alpha mattes and cut-outs of images, folders, a video or a rosbag2."
    )
    add_common_arguments(parser, "export_vitmatte")
    add = parser.add_argument
    which = parser.add_mutually_exclusive_group(required=True)
    for kind in KINDS:
        text = f"{kind} of the images: one file for all, a folder with the images' names, or a video"
        which.add_argument(f"--{kind}", type=Path, metavar="PATH", help=text)
    add("--formats", nargs="+", choices=FORMATS, default=["alpha", "cutout"], help="default: alpha cutout")
    add("--background", type=int, nargs=3, metavar=("R", "G", "B"), default=[0, 177, 64], help="behind composites")
    add("--foreground", choices=METHODS, default="blur", help="how cut-outs get their colours")
    add("--fps", type=float, help="also write videos, at this rate (a video's own by default)")
    add("--trimap-coding", default="0,128,255", help="values of background, unknown and foreground")
    add("--class-ids", default="", help="values of a mask that are the object, as in 1,7 (default: all but 0)")
    add("--inner-radius", type=int, default=-1, help="unknown pixels inside a mask's edge; -1: by its size")
    add("--outer-radius", type=int, default=-1, help="unknown pixels outside a mask's edge; -1: by its size")
    add("--low", type=float, default=0.05, help="probability below which there is only background")
    add("--high", type=float, default=0.95, help="probability above which there is only foreground")
    add("--near", type=float, default=1.0, help="depth below which there is only foreground [m]")
    add("--far", type=float, default=1.5, help="depth above which there is only background [m]")
    add("--resize-guidance", action="store_true", help="resize guidance of another size than the image")
    add("--smoothing", type=float, default=1.0, help="weight of the newest trimap in the average over a video")
    add("--no-clamp", action="store_true", help="alpha as the network says where the trimap is certain, too")
    add("--max-pixels", type=int, default=1_500_000, help="of one run of an artifact for any size")
    add("--overlap", type=int, default=64, help="pixels that neighbouring tiles share")
    return parser


def _options(told: argparse.Namespace) -> tuple[GuidanceOptions, Path]:
    kind = next(kind for kind in KINDS if getattr(told, kind) is not None)
    options = GuidanceOptions(
        kind=kind,
        coding=TrimapCoding.parse(told.trimap_coding),
        inner=told.inner_radius,
        outer=told.outer_radius,
        class_ids=parse_class_ids(told.class_ids),
        low=told.low,
        high=told.high,
        near=told.near,
        far=told.far,
        resize=told.resize_guidance,
        smoothing=told.smoothing,
    )
    return options, getattr(told, kind)


def _open_inputs(told: argparse.Namespace) -> tuple[Iterator[Frame], float | None]:
    """The frames, and the rate of the videos to write, if any."""
    videos = [path for path in told.inputs if is_video(path)]
    if videos and len(told.inputs) > 1:
        raise InputError(f"expected one video and nothing else, found {len(told.inputs)} inputs with {videos[0]}")
    if videos:
        video = Video(videos[0])
        return video.frames(), told.fps or video.fps or _DEFAULT_FPS
    return open_frames(told.inputs, told.topic, with_info=False), told.fps


def _worker(
    pipeline: MattePipeline, guide: Guide, guidance: GuidanceFiles, writer: MatteWriter
) -> Callable[[Frame], None]:
    def work(frame: Frame) -> None:
        plane = guidance.read(frame.name)
        image = frame.load()
        trimap = guide.trimap(plane, (image.shape[0], image.shape[1]))
        result = pipeline.process(image, trimap)
        tell_warnings(frame, result.warnings)
        writer.add(frame, image, result)

    return work


def _run(told: argparse.Namespace) -> int:
    from vitmatte_ros.pipeline import MattePipeline

    options, path = _options(told)
    guidance = GuidanceFiles(path)
    frames, fps = _open_inputs(told)
    pipeline = MattePipeline(
        told.artifact,
        told.device,
        clamp_known=not told.no_clamp,
        max_pixels=told.max_pixels,
        overlap=told.overlap,
        cuda_graph=not told.no_cuda_graph,
        allow_list=told.allow_list,
    )
    warn_of_random_weights(pipeline.model.manifest, "its mattes mean")
    writer = MatteWriter(told.output, told.formats, told.foreground, told.background, fps)
    return run_frames(frames, _worker(pipeline, Guide(options), guidance, writer), writer, "mattes")


def main(argv: Sequence[str] | None = None) -> int:
    """Command `matte`: exit status 0, 1 if single images failed, 2 if nothing could be done."""
    told = _parser().parse_args(argv)
    return exit_status(lambda: _run(told))


if __name__ == "__main__":
    sys.exit(main())
