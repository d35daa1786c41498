# SPDX-License-Identifier: Apache-2.0
"""What lies at a path is recognised; options reach the source that they concern."""

from __future__ import annotations

import argparse
import pickle
from pathlib import Path

import pytest
from nuscenes_folder import write_nuscenes
from rig_bags import write_rig_bag

from aot_runtime.errors import InputError
from bev_ros.samples import read_token_list
from bev_ros.selection import Selection
from bev_ros.sources import open_source
from bev_ros.sources.bag import BagSource
from bev_ros.sources.folder import FolderSource
from bev_ros.sources.nuscenes import NuScenesSource
from bev_ros.sources.options import SourceOptions, add_source_arguments, source_options


def _told(*args: str) -> SourceOptions:
    parser = argparse.ArgumentParser()
    add_source_arguments(parser)
    return source_options(parser.parse_args(args))


def test_each_kind_is_recognised(tmp_path: Path) -> None:
    folder = write_nuscenes(tmp_path / "nuscenes", samples=1)
    assert isinstance(open_source(folder.root), NuScenesSource)
    assert isinstance(open_source(folder.tables), NuScenesSource)
    for storage, name in (("mcap", "a"), ("sqlite3", "b"), ("rosbag1", "c.bag")):
        bag = write_rig_bag(tmp_path / name, storage=storage, count=1)
        assert isinstance(open_source(bag.path), BagSource)
    assert isinstance(open_source(next((tmp_path / "a").glob("*.mcap"))), BagSource)
    (tmp_path / "plain" / "samples").mkdir(parents=True)
    (tmp_path / "plain" / "samples" / "x.json").write_text("{}")
    assert isinstance(open_source(tmp_path / "plain"), FolderSource)


def test_what_is_none_of_them_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a data set or a bag, found nothing at"):
        open_source(tmp_path / "absent")
    with pytest.raises(InputError, match="found none of them at"):
        open_source(tmp_path)
    (tmp_path / "file.txt").write_text("x")
    with pytest.raises(InputError, match="found none of them at"):
        open_source(tmp_path / "file.txt")
    for kind, message in (
        ("nuscenes", "expected one version"),
        ("bag", "expected a rosbag2"),
        ("folder", "expected samples"),
    ):
        with pytest.raises(InputError, match=message):
            open_source(tmp_path, SourceOptions(kind=kind))


def test_the_command_line_says_the_same_as_the_defaults() -> None:
    assert _told() == SourceOptions()


def test_options_reach_their_sources(tmp_path: Path) -> None:
    folder = write_nuscenes(tmp_path / "nuscenes", samples=1)
    told = _told("--cameras", "CAM_BACK, CAM_FRONT", "--no-motion-compensation", "--nuscenes-version", "v1.0-mini")
    source = open_source(folder.root, told)
    assert source.identity == "nuScenes format, v1.0-mini, CAM_BACK, CAM_FRONT, poses at each camera's own moment"
    bag = write_rig_bag(tmp_path / "drive", count=2, without={("left", 1)})
    told = _told("--required", "", "--patience", "0.01", "--cameras", "front,left", "--fixed-frame", "", "--raw")
    source = open_source(bag.path, told)
    assert len(source.tokens("all")) == 2
    assert "fixed frame none" in source.identity
    assert "front=/sensors/front/image_rect, left=" in source.identity
    again = pickle.loads(pickle.dumps(told))
    assert open_source(bag.path, again).identity == source.identity


@pytest.mark.parametrize("told", [("--slop", "-1"), ("--patience", "nan"), ("--interval", "1e9")])
def test_times_that_make_no_sense(told: tuple[str, str]) -> None:
    with pytest.raises(InputError, match=f"expected {told[0]} of 0 to 3600 s"):
        _told(*told)


def test_a_split_without_samples_says_what_may_be_the_cause() -> None:
    with pytest.raises(InputError, match=r"expected samples in the split, found none; .*--slop"):
        Selection().of([])


def test_token_lists(tmp_path: Path) -> None:
    path = tmp_path / "tokens.txt"
    path.write_text("# chosen\nb\n\n a \nb\n")
    assert read_token_list(path) == ["b", "a"]
    for text, message in (
        ("", "found none in .*--list-tokens"),
        ("../x\n", "tokens.txt line 1"),
        ("a b\n", "expected a token of at most"),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=message):
            read_token_list(path)
    with pytest.raises(InputError, match="check the path"):
        read_token_list(tmp_path / "absent.txt")
