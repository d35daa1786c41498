# SPDX-License-Identifier: Apache-2.0
"""Models as functions of host memory. Streams, pinned copies and graphs: test_cuda.py and the families' pipelines."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from aot_runtime.compiled_model import load_model
from aot_runtime.errors import ArtifactError, InputError
from aot_runtime.host_runner import HostRunner


def test_outputs_and_finish(picture_onnx: Path) -> None:
    with load_model(picture_onnx) as model:
        runner = HostRunner(model)
        spec = model.manifest.inputs[0]
        host = runner.make_input([size for size in spec.shape if isinstance(size, int)])
        assert (str(host.dtype), host.is_pinned()) == (f"torch.{spec.dtype}", False)
        host.copy_(model.golden_inputs()[spec.name])
        expected = model.run(**{spec.name: host})
        outputs = runner.run(host)
        assert outputs.keys() == expected.keys()
        assert all(torch.equal(outputs[name], tensor) for name, tensor in expected.items())
        name = next(iter(expected))
        finished = runner.run(host, lambda device: {"twice": device[name] * 2})
        assert list(finished) == ["twice"]
        assert torch.equal(finished["twice"], expected[name] * 2)
        assert not runner.graphed
        runner.close()
        with pytest.raises(InputError, match="expected shape"):
            runner.run(host[:, :1])


def test_calls_of_several_threads_do_not_mix(picture_onnx: Path) -> None:
    with load_model(picture_onnx) as model:
        runner = HostRunner(model)
        golden = model.golden_inputs()[model.manifest.inputs[0].name]
        inputs = [(golden * factor).contiguous() for factor in (0.0, 0.5, 1.0)]
        alone = [runner.run(host) for host in inputs]
        wrong: list[int] = []

        def work(n: int) -> None:
            for _ in range(20):
                outputs = runner.run(inputs[n])
                if not all(torch.allclose(outputs[name], alone[n][name], atol=1e-6) for name in outputs):
                    wrong.append(n)

        threads = [threading.Thread(target=work, args=(n,)) for n in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong


def test_a_network_of_two_inputs(tiny_artifact: tuple[Path, Any]) -> None:
    with load_model(tiny_artifact[0]) as model, pytest.raises(ArtifactError, match="expected a network of one input"):
        HostRunner(model)
