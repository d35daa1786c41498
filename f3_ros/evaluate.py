# SPDX-License-Identifier: Apache-2.0
"""Command `evaluate`: depth and flow of F3 and its heads against ground truth.

At the time of every label the events before it go through the models; depth and flow are resized to the sensor and
compared there with the official evaluation's numbers (`depth_ros.metrics`, `f3_ros.flow_metrics`). What is printed is
the mean over labels. A relative depth is aligned to each label first. Flow counts where an event fell, and is scaled to
the time that the true flow spans.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from aot_runtime.errors import AotError, InputError
from depth_ros.metrics import aligned_depth, eval_depth, eval_disparity, near_errors, valid_depth
from f3_ros.flow_metrics import eval_flow, valid_flow
from f3_ros.labelled import SCENES, LabelledFile, LabelledRecording, SimulatedRecording
from f3_ros.predictions import ModelPredictor, Prediction, Predictor, StoredPredictor

if TYPE_CHECKING:
    from f3_ros.events.types import Events
    from f3_ros.ground_truth import Truth

Scores = dict[str, dict[str, float]]
"""Numbers by group ("depth", "disparity", "flow") and name."""
ALIGNMENTS = ("least_squares", "median")
_DEFAULT_SIZE = (346, 260)
_UNITS = {"1pe": "%", "2pe": "%", "3pe": "%", "aepe": "px", "aae": "deg", "pixels": "per label"}


@dataclass(frozen=True)
class EvaluationOptions:
    """How predictions are compared.

    Attributes:
        align: how a relative depth gets its scale and shift: see `depth_ros.metrics.fit_disparity`.
        max_depth: metres; the truth beyond is left out.
        dense: compare flow everywhere, not only where an event fell.
        centred: let the window of events lie around the label (half of it later) instead of before it. The official
            flow evaluation does so.
        every: take one of so many labels.
    """

    align: str = "least_squares"
    max_depth: float | None = None
    dense: bool = False
    centred: bool = False
    every: int = 1


@dataclass
class Evaluation:
    """Scores of every label that could be compared.

    Attributes:
        scores: per label.
        skipped: labels that could not be compared, by cause.
    """

    scores: list[Scores] = field(default_factory=list)
    skipped: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    def mean(self) -> Scores:
        """The mean over labels of every number; NaN counts as absent."""
        collected: dict[str, dict[str, list[float]]] = {}
        for score in self.scores:
            for group, numbers in score.items():
                for name, value in numbers.items():
                    collected.setdefault(group, {}).setdefault(name, []).append(value)
        return {
            group: {name: _mean(values) for name, values in numbers.items()} for group, numbers in collected.items()
        }

    def labels(self, group: str) -> int:
        """How many labels a group's means are over."""
        return sum(group in score for score in self.scores)

    def to_dict(self) -> dict[str, Any]:
        """For JSON: means (null where undefined), counts, and every label's scores."""
        means = self.mean()
        return {
            "labels": {group: self.labels(group) for group in means},
            "skipped": dict(self.skipped),
            "mean": _without_nan(means),
            "per_label": [_without_nan(score) for score in self.scores],
        }


def score_depth(prediction: Prediction, truth: Truth, options: EvaluationOptions) -> Scores:
    """Scores of a depth; empty if no pixel can be compared.

    Raises:
        InputError: the shapes differ, or the prediction says too little about itself.
    """
    if prediction.depth is None or truth.depth is None:
        return {}
    target = np.asarray(truth.depth, np.float64)
    if prediction.depth.shape != target.shape:
        raise InputError(f"expected a depth {target.shape} as the truth, found {prediction.depth.shape}")
    if options.max_depth is not None:
        target = np.where(target <= options.max_depth, target, np.nan)
    depth = np.asarray(prediction.depth, np.float64)
    scores: Scores = {}
    if prediction.depth_kind == "relative":
        if not (np.isfinite(depth) & np.isfinite(target) & (target > 0)).any():
            return {}
        depth = aligned_depth(depth, target, options.align)
    elif prediction.depth_kind == "disparity":
        if not (prediction.focal_baseline or 0) > 0:
            raise InputError("expected focal_baseline beside a disparity, found none")
        focal_baseline = float(prediction.focal_baseline or 0)
        known = np.isfinite(depth) & np.isfinite(target) & (target > 0)
        if known.any():
            scores["disparity"] = eval_disparity(depth[known], focal_baseline / target[known])
        with np.errstate(divide="ignore", invalid="ignore"):
            depth = focal_baseline / depth
    valid = valid_depth(depth, target)
    if valid.any():
        compared = depth[valid], target[valid]
        scores["depth"] = {**eval_depth(*compared), **near_errors(*compared), "pixels": float(valid.sum())}
    return scores


def score_flow(
    prediction: Prediction, truth: Truth, events: Events, options: EvaluationOptions, rows: int | None = None
) -> Scores:
    """Scores of a flow; empty if no pixel can be compared.

    Args:
        events: of the window, sensor pixels.
        rows: the truth's rows from here on do not count.
    """
    if prediction.flow is None or truth.flow is None:
        return {}
    height, width = truth.flow.shape[1:]
    if prediction.flow.shape != truth.flow.shape:
        raise InputError(f"expected a flow {truth.flow.shape} as the truth, found {prediction.flow.shape}")
    fell = None
    if not options.dense:
        fell = np.zeros((height, width), bool)
        fell[events.y, events.x] = True
    # Points are taken to move evenly.
    flow = prediction.flow * (truth.flow_us / prediction.flow_us)
    valid = valid_flow(truth.flow, fell, rows) & np.isfinite(flow).all(axis=0)
    if not valid.any():
        return {}
    return {"flow": {**eval_flow(flow, truth.flow, valid), "pixels": float(valid.sum())}}


def evaluate(
    recording: LabelledRecording, predictor: Predictor, options: EvaluationOptions, into: Evaluation | None = None
) -> Iterator[Evaluation]:
    """Compare label by label; yields the growing evaluation (`into`, if given) after each."""
    evaluation = into or Evaluation()
    for truth in islice(recording.labels(), 0, None, options.every):
        end_us = truth.time_us + (predictor.window_us // 2 if options.centred else 0)
        window = recording.window(end_us, predictor.window_us)
        prediction = None
        if window is None:
            evaluation.skipped["no events around the label"] += 1
        else:
            prediction = predictor.predict(end_us, window, recording.width, recording.height)
            if prediction is None:
                evaluation.skipped["no prediction at the label"] += 1
        if window is not None and prediction is not None:
            scores = score_depth(prediction, truth, options)
            scores |= score_flow(prediction, truth, window.events, options, recording.rows)
            if scores:
                evaluation.scores.append(scores)
            else:
                evaluation.skipped["nothing to compare"] += 1
        yield evaluation


def _mean(values: Iterable[float]) -> float:
    finite = [value for value in values if np.isfinite(value)]
    return float(np.mean(finite)) if finite else float("nan")


def _without_nan(scores: Scores) -> dict[str, dict[str, float | None]]:
    return {
        group: {name: value if np.isfinite(value) else None for name, value in numbers.items()}
        for group, numbers in scores.items()
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="evaluate", description=__doc__)
    add = parser.add_argument
    add("events", nargs="*", type=Path, help="recordings; with their truth inside, or in --truth")
    add("--simulate", metavar="SCENE", choices=SCENES, help="instead of recordings: " + ", ".join(SCENES))
    add("--f3", type=Path, metavar="ART", help="model made by export_f3_to_pt2")
    add("--depth", type=Path, metavar="ART", help="depth head for its features, made by export_dav2_to_pt2")
    add("--flow", type=Path, metavar="ART", help="flow head for its features, made by export_flowhead_to_pt2")
    add("--predictions", type=Path, metavar="DIR", help="instead of models: what f3_offline wrote for the recording")
    add("--frame", type=int, nargs=2, metavar=("W", "H"), help="F3's frame, for predictions on a head's own grid")
    add("--window-ms", type=float, help="with --predictions: events this long before a label count (default 20)")
    add("--truth", type=Path, action="append", default=[], metavar="PATH", help="ground truth: HDF5, or DSEC's folder")
    add("--focal-baseline", type=float, help="px m, of DSEC's disparities")
    add("--camera", default="left", choices=("left", "right"), help="camera of a file with two")
    add("--rectify", action="store_true", help="DSEC: move events to rectified pixels, where its truth is")
    add("--align", default="least_squares", choices=ALIGNMENTS, help="scale and shift of a relative depth")
    add("--max-depth", type=float, help="leave out truth beyond [m]")
    add("--dense", action="store_true", help="compare flow everywhere, not only where events fell")
    add("--centred", action="store_true", help="events around the label, as in the official flow evaluation")
    add("--every", type=int, default=1, metavar="N", help="one of N labels")
    add("--max-labels", type=int, metavar="N", help="stop after N labels of each recording")
    add("--size", type=int, nargs=2, metavar=("W", "H"), help="sensor to simulate (default 346 260, or F3's frame)")
    add("--duration", type=float, default=1.0, help="seconds to simulate (default 1)")
    add("--seed", type=int, default=1, help="of the simulation (default 1)")
    add("--label-ms", type=float, default=100.0, help="time between simulated labels (default 100)")
    add("--device", default="cpu", help="cpu, cuda or cuda:N")
    add("--allow-list", type=Path, help="file of SHA-256 digests that may be loaded")
    add("--json", metavar="FILE", help="write the numbers; - prints them instead of the table")
    return parser


def _check(options: argparse.Namespace) -> None:
    """Refuse contradictions before anything slow happens."""
    if bool(options.events) == (options.simulate is not None):
        raise InputError("expected recordings or --simulate SCENE, one of the two", "see evaluate --help")
    if (options.f3 is None) == (options.predictions is None):
        raise InputError("expected --f3 ART or --predictions DIR, one of the two", "see evaluate --help")
    if options.f3 is not None and options.depth is None and options.flow is None:
        raise InputError("expected --depth ART or --flow ART beside --f3, found neither", "name what to evaluate")
    if options.predictions is not None and (options.depth or options.flow or options.simulate):
        raise InputError("expected --predictions alone with their recording, found --depth, --flow or --simulate")
    if options.predictions is not None and len(options.events) > 1:
        raise InputError(f"expected one recording for --predictions, found {len(options.events)}")
    if options.truth and len(options.events) != 1:
        raise InputError(f"expected one recording for --truth, found {len(options.events)}")
    if options.every < 1 or (options.max_labels is not None and options.max_labels < 1):
        raise InputError("expected --every and --max-labels from 1")


def _predictor(options: argparse.Namespace, stack: ExitStack) -> Predictor:
    if options.predictions is not None:
        frame = tuple(options.frame) if options.frame else None
        return StoredPredictor(options.predictions, round((options.window_ms or 20) * 1000), frame)
    from f3_ros.perception import PerceptionPipeline

    pipeline = PerceptionPipeline.load(
        options.f3, options.device, depth=options.depth, flow=options.flow, allow_list=options.allow_list
    )
    stack.callback(pipeline.close)
    for text in pipeline.warnings:
        print(f"warning: {text}", file=sys.stderr)
    for family, model in pipeline.models.items():
        if model.manifest.checkpoint.is_random:
            print(f"warning: the {family} artifact has random weights: these numbers mean nothing", file=sys.stderr)
    return ModelPredictor(pipeline)


def _recordings(options: argparse.Namespace, predictor: Predictor, stack: ExitStack) -> Iterator[LabelledRecording]:
    from f3_ros.events.readers import open_events

    if options.simulate is not None:
        assert isinstance(predictor, ModelPredictor)
        f3, flow = predictor.pipeline.f3, predictor.pipeline.head_infos.get("flow")
        smaller = min(_DEFAULT_SIZE[0], f3.width), min(_DEFAULT_SIZE[1], f3.height)
        yield SimulatedRecording(
            options.simulate,
            tuple(options.size) if options.size else smaller,
            duration_s=options.duration,
            seed=options.seed,
            label_us=round(options.label_ms * 1000),
            flow_us=(flow.interval_us if flow else None) or 100_000,
        )
    for file in options.events:
        reader = stack.enter_context(open_events(file, camera=options.camera, rectify=options.rectify))
        for notice in reader.notices:
            print(f"notice: {notice}", file=sys.stderr)
        yield LabelledFile(reader, options.truth, options.camera, options.focal_baseline)


def _run(options: argparse.Namespace) -> int:
    from rich.console import Console

    _check(options)
    chosen = EvaluationOptions(options.align, options.max_depth, options.dense, options.centred, options.every)
    evaluation, names = Evaluation(), []
    with ExitStack() as stack, Console(stderr=True).status("evaluating") as status:
        predictor = _predictor(options, stack)
        for recording in _recordings(options, predictor, stack):
            names.append(recording.name)
            steps = evaluate(recording, predictor, chosen, evaluation)
            for done, _ in enumerate(islice(steps, options.max_labels), 1):
                status.update(f"{recording.name}: {done} labels")
    causes = ", ".join(f"{count} {cause}" for cause, count in evaluation.skipped.items())
    if not evaluation.scores:
        raise InputError(f"expected labels to compare with, found none in {', '.join(names)} ({causes or 'no label'})")
    told = {"recordings": names, "align": options.align, "dense": options.dense, **evaluation.to_dict()}
    if options.json == "-":
        print(json.dumps(told, indent=2))
        return 0
    _print_table(evaluation, f"{', '.join(names)}; skipped: {causes or 'nothing'}")
    if options.json is not None:
        _write(Path(options.json), json.dumps(told, indent=2) + "\n")
    return 0


def _write(file: Path, text: str) -> None:
    from aot_runtime.files import atomic_write

    try:
        with atomic_write(file) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"expected to write {file}, found {error}", "choose another --json") from error


def _print_table(evaluation: Evaluation, caption: str) -> None:
    from rich.table import Table

    from aot_runtime.progress import table_console

    table = Table("", "number", "mean over labels", "unit", caption=caption)
    for group, numbers in evaluation.mean().items():
        for position, (name, value) in enumerate(numbers.items()):
            title = f"{group} ({evaluation.labels(group)} labels)" if position == 0 else ""
            unit = _UNITS.get(name, "m" if name.startswith("mae") or (name, group) == ("rmse", "depth") else "")
            table.add_row(title, name, f"{value:.6g}", unit)
        table.add_section()
    table_console().print(table)


def main(argv: Sequence[str] | None = None) -> int:
    """Command `evaluate`."""
    options = _parser().parse_args(argv)
    try:
        return _run(options)
    except AotError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
