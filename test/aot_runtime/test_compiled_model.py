# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import dataclasses
import json
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from aot_runtime.backends.aoti import AotiRunner, compile_program
from aot_runtime.backends.package import write_with_manifest
from aot_runtime.compiled_model import CompiledModel, load_model
from aot_runtime.errors import ArtifactError, InputError
from aot_runtime.files import sha256_file
from aot_runtime.manifest import CheckpointInfo, Golden, Manifest
from aot_runtime.verdict import VerdictError


@pytest.fixture(scope="module")
def model(tiny_artifact: tuple[Path, Manifest]) -> Iterator[CompiledModel]:
    with load_model(tiny_artifact[0]) as loaded:
        yield loaded


def rewritten(tiny_artifact: tuple[Path, Manifest], folder: Path, **changes: Any) -> Path:
    """The tiny artifact with another manifest around the same code."""
    path = folder / "changed.pt2"
    write_with_manifest(tiny_artifact[0], path, dataclasses.replace(tiny_artifact[1], **changes).to_json())
    return path


@pytest.mark.parametrize("n", [0, 1, 2, 16, 99, 100])
def test_the_same_numbers_as_eager_at_every_size(model: CompiledModel, tiny_network: Any, n: int) -> None:
    events, scale = torch.rand(n, 4), torch.rand(8) + 0.5
    outputs = model.run(events=events, scale=scale)
    with torch.no_grad():
        eager = tiny_network(events, scale)
    assert list(outputs) == ["features", "total"]
    for name, tensor in outputs.items():
        assert torch.allclose(tensor, eager[name], atol=1e-5)


def good() -> dict[str, torch.Tensor]:
    return {"events": torch.rand(16, 4), "scale": torch.ones(8)}


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        (
            "events",
            torch.zeros(16, 4).double(),
            "input events: expected dtype float32, found float64; convert it with .to()",
        ),
        ("events", torch.zeros(16, 4).half(), "input events: expected dtype float32, found float16"),
        ("events", torch.zeros(16, 4, dtype=torch.int64), "input events: expected dtype float32, found int64"),
        ("events", torch.zeros(16, 5), "input events: expected shape (n, 4), found shape (16, 5) (axis 1 is 5)"),
        ("events", torch.zeros(64), "input events: expected shape (n, 4), found shape (64,)"),
        ("events", torch.zeros(1, 16, 4), "input events: expected shape (n, 4), found shape (1, 16, 4)"),
        ("events", torch.zeros(101, 4), "input events: expected shape (n, 4) with n in 0 .. 100, found n = 101"),
        ("scale", torch.zeros(7), "input scale: expected shape (8), found shape (7,) (axis 0 is 7)"),
        (
            "events",
            torch.zeros(4, 16).t(),
            "input events: expected a contiguous tensor of shape (16, 4), found strides (1, 16); call .contiguous()",
        ),
        ("events", torch.zeros(16, 8)[:, ::2], "found strides (8, 2)"),
        (
            "scale",
            torch.zeros(1).expand(8),
            "input scale: expected a contiguous tensor of shape (8,), found strides (0,)",
        ),
        ("events", torch.zeros(16, 4).to_sparse(), "found torch.sparse_coo"),
        (
            "events",
            torch.zeros(16, 4, device="meta"),
            "input events: expected device cpu, found meta; move it with .to()",
        ),
        ("events", [[0.0] * 4], "input events: expected a torch.Tensor, found list; convert it with torch.from_numpy"),
    ],
)
def test_wrong_inputs_are_named(model: CompiledModel, name: str, tensor: Any, message: str) -> None:
    with pytest.raises(InputError) as caught:
        model.run(**{**good(), name: tensor})
    assert message in str(caught.value)


def test_missing_and_unknown_inputs_are_named(model: CompiledModel) -> None:
    with pytest.raises(InputError, match=r"expected inputs events, scale, found no input scale for .*tiny\.pt2"):
        model.run(events=torch.zeros(1, 4))
    with pytest.raises(InputError, match="expected inputs events, scale, found an unknown input event"):
        model.run(**good(), event=torch.zeros(1, 4))


def test_a_dim_of_two_inputs_has_one_size(model: CompiledModel) -> None:
    from aot_runtime.compiled_model import InputCheck
    from aot_runtime.manifest import TensorSpec

    second = InputCheck(TensorSpec("times", "float32", ("n",)), model.manifest, model.device)
    assert second(torch.zeros(3), {"n": 3}).shape == (3,)
    with pytest.raises(
        InputError, match=r"input times: expected shape \(n\) with n = 4 as in an earlier input, found n = 3"
    ):
        second(torch.zeros(3), {"n": 4})


def test_memory_that_is_not_aligned_is_copied(model: CompiledModel, tiny_network: Any) -> None:
    events = torch.rand(16 * 4 + 1)[1:].reshape(16, 4)
    assert events.data_ptr() % 64
    scale = torch.ones(8)
    assert model.check_inputs({"events": events, "scale": scale})[0].data_ptr() % 64 == 0
    with torch.no_grad():
        expected = tiny_network(events, scale)["features"]
    assert torch.allclose(model.run(events=events, scale=scale)["features"], expected, atol=1e-5)


def test_outputs_are_new_tensors(model: CompiledModel) -> None:
    inputs = good()
    first = model.run(**inputs)["features"].clone()
    kept = model.run(**inputs)["features"]
    model.run(events=torch.zeros(16, 4), scale=torch.ones(8))
    assert torch.equal(kept, first)


class Transposed(torch.nn.Module):
    """Gives a view of its result, with the strides (1, n)."""

    def forward(self, rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (torch.mm(rows, rows.t()).t(),)


def test_outputs_are_contiguous_whatever_the_package_gives(tmp_path: Path) -> None:
    """So that one artifact's output can be another's input, whose layout is checked."""
    rows = torch.rand(16, 8)
    path = tmp_path / "transposed.pt2"
    compile_program(torch.export.export(Transposed().eval(), (rows,)), path)
    runner = AotiRunner(path)
    assert not runner._loader.run([rows])[0].is_contiguous(), "this network tests nothing any more"
    (found,) = runner.run([rows])
    assert found.is_contiguous()
    assert torch.allclose(found, rows @ rows.t())


@pytest.mark.parametrize("runners", [1, 2])
def test_threads_get_their_own_answers(tiny_artifact: tuple[Path, Manifest], tiny_network: Any, runners: int) -> None:
    wrong: list[int] = []
    with load_model(tiny_artifact[0], num_runners=runners) as model:

        def work(seed: int) -> None:
            events = torch.rand(50, 4, generator=torch.Generator().manual_seed(seed))
            with torch.no_grad():
                expected = tiny_network(events, torch.ones(8))["features"]
            for _ in range(50):
                if not torch.allclose(model.run(events=events, scale=torch.ones(8))["features"], expected, atol=1e-5):
                    wrong.append(seed)

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


def test_loads_from_several_threads(tiny_artifact: tuple[Path, Manifest]) -> None:
    failures: list[BaseException] = []

    def work() -> None:
        try:
            with load_model(tiny_artifact[0]) as model:
                model.run(**good())
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_a_closed_model_says_so(tiny_artifact: tuple[Path, Manifest]) -> None:
    model = load_model(tiny_artifact[0])
    model.close()
    model.close()
    with pytest.raises(ArtifactError, match=r"expected an open model, found .*tiny\.pt2 closed; load it again"):
        model.run(**good())


def wrong_golden(manifest: Manifest) -> Golden:
    first = manifest.golden.outputs[0]
    values = (first.values[0] + 1.0, *first.values[1:])
    return dataclasses.replace(
        manifest.golden, outputs=(dataclasses.replace(first, values=values), *manifest.golden.outputs[1:])
    )


def test_a_wrong_self_test_output_is_refused(tiny_artifact: tuple[Path, Manifest], tmp_path: Path) -> None:
    path = rewritten(tiny_artifact, tmp_path, golden=wrong_golden(tiny_artifact[1]))
    with pytest.raises(VerdictError) as caught:
        load_model(path)
    verdict = caught.value.verdict
    assert (verdict.kind, verdict.code) == ("REFUSE", "SELF_TEST_WRONG")
    assert f"self-test of {path}: expected output features to be" in verdict.reason
    assert "at sample 0, found" in verdict.reason
    assert "export_tiny --output-name tiny.pt2" in verdict.remedy
    with load_model(path, self_test=False) as model, pytest.raises(VerdictError):
        model.self_test()


def test_a_self_test_with_nan_is_refused(tiny_artifact: tuple[Path, Manifest], tmp_path: Path) -> None:
    golden = tiny_artifact[1].golden
    negative = dataclasses.replace(golden.inputs[1], law={"kind": "uniform", "low": -2.0, "high": -1.0})
    path = rewritten(tiny_artifact, tmp_path, golden=dataclasses.replace(golden, inputs=(golden.inputs[0], negative)))
    with pytest.raises(VerdictError) as caught:
        load_model(path)
    assert (caught.value.verdict.kind, caught.value.verdict.code) == ("REFUSE", "SELF_TEST_NON_FINITE")
    assert "output features to be finite numbers, found 100 % NaN or infinite" in caught.value.verdict.reason


def test_what_judge_refuses_is_not_loaded(tiny_artifact: tuple[Path, Manifest], tmp_path: Path) -> None:
    target = dataclasses.replace(tiny_artifact[1].target, torch="2.0.1")
    path = rewritten(tiny_artifact, tmp_path, target=target)
    with pytest.raises(
        VerdictError, match=r"REBUILD TORCH_VERSION: expected torch .* found an artifact for torch 2.0.1"
    ):
        load_model(path)
    with pytest.raises(VerdictError, match="REFUSE MISSING_FILE"):
        load_model(tmp_path / "none.pt2")
    with pytest.raises(VerdictError, match="REBUILD DEVICE_KIND"):
        load_model(tiny_artifact[0], "cuda")


def test_a_changed_byte_of_code_is_not_loaded(tiny_artifact: tuple[Path, Manifest], tmp_path: Path) -> None:
    content = bytearray(tiny_artifact[0].read_bytes())
    content[content.index(b"\x7fELF") + 5000] ^= 1
    (tmp_path / "c.pt2").write_bytes(content)
    with pytest.raises(VerdictError, match=r"REFUSE DAMAGED: .*\.so changed"):
        load_model(tmp_path / "c.pt2")


def test_a_valid_manifest_around_something_torch_cannot_load(plain_manifest: dict[str, Any], make_package: Any) -> None:
    from aot_runtime.environment import this_host

    host = this_host()
    plain_manifest["target"].update(torch=host.torch, os=host.os, machine=host.machine, cpu_flags=[])
    with pytest.raises(ArtifactError, match=r"can load, found .*m\.pt2 rejected: .*export the model again"):
        load_model(make_package(plain_manifest))


def test_allow_list(tiny_artifact: tuple[Path, Manifest], tmp_path: Path) -> None:
    path = tiny_artifact[0]
    allow = tmp_path / "allow.txt"
    allow.write_text(f"{sha256_file(path)}  tiny.pt2\n")
    load_model(path, allow_list=allow).close()
    load_model(path, allow_list={sha256_file(path)}).close()
    allow.write_text(f"{'00' * 32}  tiny.pt2\n")
    with pytest.raises(VerdictError, match=r"REFUSE NOT_ALLOWED: expected a digest of .*allow\.txt"):
        load_model(path, allow_list=str(allow))


def test_random_weights_are_said_loudly(
    tiny_artifact: tuple[Path, Manifest], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = rewritten(tiny_artifact, tmp_path, checkpoint=CheckpointInfo.random(8))
    with caplog.at_level(logging.WARNING), load_model(path) as model:
        assert model.verdict.random_weights
    assert "weights are random (seed 8)" in caplog.text


def test_golden_inputs_are_those_of_the_manifest(model: CompiledModel) -> None:
    inputs = model.golden_inputs()
    assert {name: tuple(tensor.shape) for name, tensor in inputs.items()} == {"events": (16, 4), "scale": (8,)}
    assert json.dumps(model.manifest.golden.inputs[0].law)
    model.self_test()


def test_a_cuda_graph_needs_cuda(model: CompiledModel) -> None:
    with pytest.raises(
        ArtifactError, match=r"expected a model on CUDA to capture, found .* on cpu; load it with device cuda"
    ):
        model.capture_cuda_graph({"n": 4})
