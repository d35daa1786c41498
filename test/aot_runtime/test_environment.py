# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import io
import platform
import sys
from pathlib import Path

import pytest
import torch

from aot_runtime import environment
from aot_runtime.progress import Steps


def test_torch_is_found_without_importing_it() -> None:
    assert environment.torch_build() == (str(torch.__version__), torch.version.cuda or "")


def test_torch_may_be_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment.importlib.util, "find_spec", lambda name: None)
    assert environment.torch_build() == ("", "")


def test_this_host() -> None:
    host = environment.this_host()
    assert (host.os, host.machine) == (sys.platform, platform.machine())
    assert host.cpu_flags <= environment.ISA_FLAGS
    assert host.cpu_flags or platform.system() != "Linux"


@pytest.mark.parametrize(
    ("text", "flags", "model"),
    [
        (
            "model name\t: Some CPU @ 2 GHz\nflags\t\t: fpu avx2 fma vmx avx512f\n",
            {"avx2", "fma", "avx512f"},
            "Some CPU @ 2 GHz",
        ),
        ("processor : 0\nFeatures\t: fp asimd evtstrm sve2\n", {"asimd", "sve2"}, platform.machine()),
        ("", set(), platform.machine()),
    ],
)
def test_cpu_of_x86_arm_and_unknown(monkeypatch: pytest.MonkeyPatch, text: str, flags: set[str], model: str) -> None:
    monkeypatch.setattr(environment, "_cpuinfo", lambda: text)
    assert environment.cpu_flags() == flags
    assert environment.cpu_model() == model


def test_the_stamp_has_what_a_number_needs_beside_it() -> None:
    stamp = environment.stamp(["benchmark", "a b.pt2"])
    assert stamp.command == "benchmark 'a b.pt2'"
    assert stamp.cores >= 1
    assert stamp.threads == torch.get_num_threads()
    for words in (stamp.cpu, f"torch {torch.__version__}", stamp.date, "benchmark 'a b.pt2'"):
        assert words in stamp.line()
    assert stamp.as_dict()["cpu"] == stamp.cpu


def test_steps_are_one_line_each_where_nobody_watches() -> None:
    stream = io.StringIO()
    steps = Steps("export x", 2, stream=stream)
    with steps.step("first"):
        pass

    def fail() -> None:
        with steps.step("second [a]"):
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    lines = stream.getvalue().splitlines()
    assert lines[0].startswith("export x [1/2] first: done, 0.")
    assert lines[1].startswith("export x [2/2] second [a]: failed, 0.")


def test_steps_are_live_on_a_terminal_and_silent_when_told() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    with Steps("export", 1, stream=stream).step("compile [x]"):
        pass
    assert "export [1/1] compile [x]" in stream.getvalue()
    quiet = Terminal()
    with Steps("export", 1, enabled=False, stream=quiet).step("compile"):
        pass
    assert quiet.getvalue() == ""


def test_versions_are_read_without_loading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorRT's version is in the bindings where pip brought it, in the module where apt did."""
    from aot_runtime.environment import module_version

    monkeypatch.syspath_prepend(str(tmp_path))
    for name, text in (
        ("fakert_bindings", '__version__ = "1.7.1.116"\nraise SystemExit'),
        ("fakert", "from fakert_bindings import *"),
        ("fakeapt", "__version__ = '10.3.0'"),
        ("fakenone", "x = 1"),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(text)
    assert module_version("fakert") == "1.7.1.116"
    assert module_version("fakeapt") == "10.3.0"
    assert module_version("fakenone") == ""
    assert module_version("no_such_module") == ""


def test_details_of_a_step_are_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    steps = Steps("build", 1, stream=stream)
    clock = [0.0]
    monkeypatch.setattr("aot_runtime.progress.time.monotonic", lambda: clock[0])
    with steps.step("compile"):
        for clock[0] in (1.0, 11.0, 12.0, 25.0):
            steps.detail(f"phase at {clock[0]:.0f}")
    assert stream.getvalue().splitlines() == [
        "build [1/1] compile: phase at 11",
        "build [1/1] compile: phase at 25",
        "build [1/1] compile: done, 25.0 s",
    ]
    silent = Steps("build", 1, enabled=False, stream=stream)
    with silent.step("compile"):
        silent.detail("phase")
    assert len(stream.getvalue().splitlines()) == 3
