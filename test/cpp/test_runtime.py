# SPDX-License-Identifier: Apache-2.0
"""C++ and Python load, refuse and run the same artifacts: the same numbers, the same verdicts, the same words."""

from __future__ import annotations

import copy
import json
import random
import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cpp_programs import find_program, run_json
from small_artifacts import export_for_test, two_outputs, with_manifest

from aot_runtime.backends import onnx_file
from aot_runtime.compiled_model import CompiledModel, load_model
from aot_runtime.errors import AotError
from aot_runtime.files import sha256_file
from aot_runtime.verdict import VerdictError, judge, read_manifest

Run = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def run_artifact() -> Run:
    """run_artifact(path, *arguments): what the C++ program says."""
    program = find_program("test/runtime/run_artifact")
    return lambda path, *arguments: run_json(program, ["--artifact", str(path), *map(str, arguments)])


@pytest.fixture(scope="module")
def artifact(artifact_cache: Path) -> Path:
    return two_outputs(artifact_cache)


@pytest.fixture(scope="module")
def model(artifact: Path) -> CompiledModel:
    return load_model(artifact)


@pytest.fixture
def own(artifact: Path, tmp_path: Path) -> Path:
    """A copy of the artifact, to be spoiled."""
    return Path(shutil.copy(artifact, tmp_path / "own.pt2"))


def given(folder: Path, **arrays: np.ndarray) -> list[str]:
    """Arguments that give arrays to the program."""
    arguments = []
    for name, array in arrays.items():
        file = folder / f"{name}.in"
        file.write_bytes(np.ascontiguousarray(array).tobytes())
        arguments += ["--input", f"{name}={array.dtype}:{','.join(map(str, array.shape))}:{file}"]
    return arguments


def outputs_of(told: dict[str, Any], folder: Path) -> dict[str, np.ndarray]:
    assert not told["error"]
    return {
        name: np.frombuffer((folder / f"{name}.bin").read_bytes(), about["dtype"]).reshape(about["shape"])
        for name, about in told["outputs"].items()
    }


@pytest.mark.parametrize("count", [0, 1, 37, 100])
def test_outputs_equal_pythons(
    run_artifact: Run, artifact: Path, model: CompiledModel, tmp_path: Path, count: int
) -> None:
    import torch

    rng = np.random.default_rng(count)
    events = rng.random((count, 4), np.float32)
    scale = rng.random(8, np.float32) + 0.5
    expected = model.run(events=torch.from_numpy(events), scale=torch.from_numpy(scale))
    told = run_artifact(artifact, *given(tmp_path, events=events, scale=scale), "--output-folder", tmp_path)
    found = outputs_of(told, tmp_path)
    assert found.keys() == expected.keys()
    for name, array in found.items():
        # The same machine code on the same bytes.
        np.testing.assert_array_equal(array, expected[name].numpy())


def test_a_package_that_needs_libtorch_by_name(
    run_artifact: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As packages for CUDA do, whose folder of torch nobody tells the dynamic linker."""
    import torch

    compiler = tmp_path / "g++"
    compiler.write_text(
        '#!/bin/sh\ncase " $* " in *" -shared "*) exec g++ -Wl,--no-as-needed "$@";; esac\nexec g++ "$@"\n'
    )
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    path = tmp_path / "linked.pt2"
    export_for_test(torch.nn.Linear(3, 2), {"x": torch.zeros(4, 3)}, path, ["y"])
    with zipfile.ZipFile(path) as package:
        library = next(name for name in package.namelist() if name.endswith(".so"))
        assert b"\0libtorch.so\0" in package.read(library)
    told = run_artifact(path, "--golden", "--output-folder", tmp_path)
    assert not told["error"]
    assert told["outputs"]["y"]["shape"] == [4, 2]


def test_golden_inputs_are_pythons_at_any_size(
    run_artifact: Run, artifact: Path, model: CompiledModel, tmp_path: Path
) -> None:
    told = run_artifact(artifact, "--golden", "--output-folder", tmp_path)
    expected = model.run(**model.golden_inputs())
    for name, array in outputs_of(told, tmp_path).items():
        np.testing.assert_array_equal(array, expected[name].numpy())


def test_random_weights_are_told(run_artifact: Run, artifact: Path) -> None:
    verdict = run_artifact(artifact, "--judge")["verdict"]
    assert verdict == vars(judge(artifact, "cpu"))
    assert verdict["code"] == "RANDOM_WEIGHTS"


@pytest.mark.parametrize(
    "arrays",
    [
        {"events": np.zeros((2, 4), np.float32)},
        {"events": np.zeros((2, 5), np.float32), "scale": np.ones(8, np.float32)},
        {"events": np.zeros((101, 4), np.float32), "scale": np.ones(8, np.float32)},
        {"events": np.zeros((2, 4), np.float64), "scale": np.ones(8, np.float32)},
        {"events": np.zeros(8, np.float32), "scale": np.ones(8, np.float32)},
        {"events": np.zeros((2, 4), np.float32), "scale": np.ones(8, np.float32), "more": np.ones(1, np.float32)},
    ],
)
def test_wrong_inputs_are_refused_in_the_same_words(
    run_artifact: Run, artifact: Path, model: CompiledModel, tmp_path: Path, arrays: dict[str, np.ndarray]
) -> None:
    import torch

    with pytest.raises(AotError) as caught:
        model.run(**{name: torch.from_numpy(array) for name, array in arrays.items()})
    told = run_artifact(artifact, *given(tmp_path, **arrays), "--output-folder", tmp_path)
    assert told["error"].startswith(caught.value.reason)


def test_a_golden_that_does_not_fit_fails_the_self_test(run_artifact: Run, artifact: Path, tmp_path: Path) -> None:
    def spoil(document: dict[str, Any]) -> None:
        document["golden"]["outputs"][1]["values"][2] += 1.5

    path = with_manifest(artifact, tmp_path / "wrong.pt2", spoil)
    with pytest.raises(VerdictError) as caught:
        load_model(path)
    told = run_artifact(path)
    assert told["verdict"] == vars(caught.value.verdict)
    assert told["verdict"]["code"] == "SELF_TEST_WRONG"
    assert told["error"] == str(caught.value)
    assert not run_artifact(path, "--no-self-test", "--golden", "--output-folder", tmp_path)["error"]


def test_non_finite_outputs_fail_the_self_test(run_artifact: Run, artifact: Path, tmp_path: Path) -> None:
    def spoil(document: dict[str, Any]) -> None:
        document["golden"]["inputs"][1]["law"] = {"kind": "uniform", "low": -2.0, "high": -1.0}  # log(scale) is NaN

    path = with_manifest(artifact, tmp_path / "nan.pt2", spoil)
    with pytest.raises(VerdictError) as caught:
        load_model(path)
    assert caught.value.verdict.code == "SELF_TEST_NON_FINITE"
    assert run_artifact(path)["verdict"] == vars(caught.value.verdict)


def test_bytes_that_torch_rejects(run_artifact: Run, own: Path, tmp_path: Path) -> None:
    """A package with a manifest and without a library: an error, no crash."""
    import zipfile

    path = tmp_path / "empty.pt2"
    with zipfile.ZipFile(own) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            if name.endswith(".json"):
                target.writestr(name, source.read(name))
    assert judge(path, "cpu").ok
    told = run_artifact(path)
    assert re.match(r"expected a package that torch \S+ can load, found \S+ rejected: ", told["error"])
    assert told["error"].endswith("export the model again on this machine")


def words_of(reason: str) -> str:
    """Without what another zip library or JSON parser says in brackets."""
    return re.sub(r"expected JSON, found .* in ", "expected JSON, found ... in ", re.sub(r" ?\([^()]*\)$", "", reason))


def test_verdicts_on_files_are_pythons(run_artifact: Run, own: Path, tmp_path: Path) -> None:
    whole = own.read_bytes()
    digest = sha256_file(own)
    listed, other = tmp_path / "allow.txt", tmp_path / "other.txt"
    listed.write_text(f"# mine\n{digest}  own.pt2\n")
    other.write_text(f"{'0' * 64}  other.pt2\n")
    from aot_runtime.files import AllowList

    def compare(code: str, allow: Path | None = None, device: str = "cpu", path: Path = own) -> None:
        expected = judge(path, device, None if allow is None else AllowList.read(allow))
        assert expected.code == code
        arguments = ["--judge", "--device", device, *([] if allow is None else ["--allow-list", allow])]
        found = run_artifact(path, *arguments)["verdict"]
        assert (found["kind"], found["code"], found["remedy"]) == (expected.kind, code, expected.remedy)
        assert words_of(found["reason"]) == words_of(expected.reason)

    compare("RANDOM_WEIGHTS")
    compare("RANDOM_WEIGHTS", listed)
    compare("NOT_ALLOWED", other)
    compare("DEVICE_KIND", device="cuda:1")
    compare("MISSING_FILE", path=tmp_path / "none.pt2")
    compare("UNREADABLE", path=tmp_path)
    own.write_bytes(whole[:-20])
    compare("NOT_A_PACKAGE")
    damaged = bytearray(whole)
    damaged[whole.index(b"\x7fELF") + 2000] ^= 1
    own.write_bytes(damaged)
    compare("DAMAGED")
    own.write_bytes(whole)
    own.chmod(0o666)
    compare("WORLD_WRITABLE")
    for change, code in (
        ({"schema_version": 9}, "SCHEMA_VERSION"),
        ({"precision": "fp4"}, "BAD_MANIFEST"),
        ({"target": {"device": "cpu", "os": "linux", "machine": "x86_64", "torch": "1.0.0"}}, "TORCH_VERSION"),
        ({"target": {"device": "cpu", "os": "win32", "machine": "x86_64", "torch": "1.0.0"}}, "OS"),
    ):
        path = with_manifest(own, tmp_path / "changed.pt2", lambda document, change=change: document.update(change))
        compare(code, path=path)


def mutate(document: Any, rng: random.Random) -> None:
    """One random change somewhere in a JSON document."""
    values = (None, True, -1, 0, 7, 1.5, 1e300, -0.0, 1e-7, 123456789.125, "", "it's", 'a "b"', "ü\n", [], {}, [1, "a"])
    place = document
    while True:
        key = rng.choice(sorted(place) if isinstance(place, dict) else range(len(place)))
        if isinstance(place[key], (dict, list)) and place[key] and rng.random() < 0.6:
            place = place[key]
            continue
        if rng.random() < 0.7:
            place[key] = copy.deepcopy(rng.choice(values))
        else:
            del place[key]
        return


def test_mutated_manifests_are_judged_in_the_same_words(run_artifact: Run, tmp_path: Path) -> None:
    """Onnx files, because those are quick to write."""
    table = json.loads((Path(__file__).parent.parent / "data" / "verdict_cases.json").read_text())
    base = {**table["base_manifest"], "target": {**table["base_manifest"]["target"], "runtime": "onnxruntime"}}
    graph = tmp_path / "graph"
    graph.write_bytes(b"\x3a\x01g")  # field 7, one byte
    rng = random.Random(1)
    documents, paths = [], []
    for index in range(400):
        documents.append(copy.deepcopy(base))
        mutate(documents[-1], rng)
        paths.append(tmp_path / f"{index}.onnx")
        onnx_file.write_with_manifest(graph, paths[-1], json.dumps(documents[-1]))
    others = [argument for path in paths[1:] for argument in ("--artifact", path)]
    told = run_artifact(paths[0], "--judge", *others)["verdicts"]
    codes = set()
    for document, path, found in zip(documents, paths, told, strict=True):
        expected = judge(path, "cpu")
        codes.add(expected.code)
        if expected.ok and found["code"] == "RUNTIME_MISSING":
            continue  # a C++ build without ONNX Runtime
        assert (found["kind"], found["code"]) == (expected.kind, expected.code), document
        assert found["reason"] == expected.reason
    assert {"OK", "BAD_MANIFEST"} <= codes


def test_onnx_runs_or_the_verdict_names_what_to_install(
    run_artifact: Run, artifact_cache: Path, tmp_path: Path
) -> None:
    path = two_outputs(artifact_cache, ".onnx")
    told = run_artifact(path, "--golden", "--output-folder", tmp_path)
    if told["verdict"]["code"] == "RUNTIME_MISSING":
        assert told["verdict"]["kind"] == "REFUSE"
        assert "ONNXRUNTIME_ROOT" in told["verdict"]["remedy"]
        assert told["error"].startswith("REFUSE RUNTIME_MISSING: expected onnxruntime to run")
        return
    model = load_model(path)
    expected = model.run(**model.golden_inputs())
    for name, array in outputs_of(told, tmp_path).items():
        np.testing.assert_allclose(array, expected[name].numpy(), rtol=0, atol=1e-6)
    rng = np.random.default_rng(0)
    for count in (0, 1, 100):
        import torch

        events, scale = rng.random((count, 4), np.float32), rng.random(8, np.float32) + 0.5
        told = run_artifact(path, *given(tmp_path, events=events, scale=scale), "--output-folder", tmp_path)
        wanted = model.run(events=torch.from_numpy(events), scale=torch.from_numpy(scale))
        for name, array in outputs_of(told, tmp_path).items():
            np.testing.assert_allclose(array, wanted[name].numpy(), rtol=0, atol=1e-6)


def test_an_engine_for_another_gpu_is_refused(run_artifact: Run, tmp_path: Path) -> None:
    table = json.loads((Path(__file__).parent.parent / "data" / "verdict_cases.json").read_text())
    path = tmp_path / "m.engine"
    path.write_bytes(b"engine")
    target = {
        **table["base_manifest"]["target"],
        "device": "cuda",
        "runtime": "tensorrt",
        "runtime_version": "10.3.0.26",
        "compute_capability": "8.7",
    }
    document = {**table["base_manifest"], "target": target, "file_sha256": sha256_file(path)}
    (tmp_path / "m.engine.json").write_text(json.dumps(document))
    verdict = run_artifact(path, "--judge", "--device", "cuda")["verdict"]
    assert verdict["kind"] == "REBUILD"
    assert verdict["code"] in ("RUNTIME_MISSING", "RUNTIME_VERSION", "COMPUTE_CAPABILITY")
    if verdict["code"] == "RUNTIME_MISSING":
        assert "install tensorrt 10.3.0.26" in verdict["remedy"]


def test_the_manifest_is_the_one_that_python_reads(artifact: Path) -> None:
    # What the comparisons above stand on: the cached artifact has dynamic sizes and two inputs.
    manifest = read_manifest(artifact)
    assert [spec.shape for spec in manifest.inputs] == [("n", 4), (8,)]
