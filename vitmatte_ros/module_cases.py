# SPDX-License-Identifier: Apache-2.0
"""The modules that `vitmatte_ros.module_report` reports on, each with the inputs that it has inside the network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from vitmatte_ros.deploy import DeployedVitMatte, fastest_form
from vitmatte_ros.model.attention import Attention
from vitmatte_ros.model.vitmatte import VitMatte
from vitmatte_ros.model.windows import partition

RUNTIMES = (".pt2", ".onnx")


@dataclass(frozen=True)
class Case:
    """One row to make: a module and the inputs that it had in a forward of the whole network.

    Attributes:
        exported: suffix -> the module to compile instead, where it is written differently for a kind of artifact.
    """

    name: str
    module: nn.Module
    inputs: tuple[Tensor, ...]
    exported: Mapping[str, nn.Module] = field(default_factory=dict)


class Bound(nn.Module):
    """A module whose arguments that are no tensors stay what they were; it returns a tuple of new tensors."""

    def __init__(self, module: nn.Module, arguments: Sequence[Any]) -> None:
        super().__init__()
        self.module = module
        self.constants = [None if isinstance(item, Tensor) else item for item in arguments]

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        given = iter(tensors)
        result = self.module(*(next(given) if item is None else item for item in self.constants))
        results = result if isinstance(result, list | tuple) else (result,)
        return tuple(item for item in results if not any(item is tensor for tensor in tensors))


class RelativePositions(nn.Module):
    """Queries and the size of the grid -> what they add to the scores by row and by column."""

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        self.attention = attention

    def forward(self, q: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
        rows, columns = self.attention.relative_terms(q, height, width)
        return rows.contiguous(), columns.contiguous()


def cases(model: VitMatte, pixel_values: Tensor) -> list[Case]:
    """The modules to report on, each with its inputs in a forward of the network on `pixel_values`."""
    config = model.config
    windowed = config.windowed[0]
    everywhere = next(index for index in config.residual if index not in config.windowed)
    layer = "backbone.encoder.layer"
    named = {
        "VitMatteBasicConv3x3": "decoder.convstream.convs.0",
        "VitMatteConvStream": "decoder.convstream",
        "VitMatteHead": "decoder.matting_head",
        "VitMatteFusionBlock (coarsest)": "decoder.fusion_blocks.0",
        "VitMatteFusionBlock (finest)": f"decoder.fusion_blocks.{len(config.fusion) - 1}",
        "VitMatteDetailCaptureModule": "decoder",
        "VitDetMlp": f"{layer}.{windowed}.mlp",
        "VitDetLayerNorm": f"{layer}.{everywhere}.residual.norm1",
        "VitDetResBottleneckBlock": f"{layer}.{everywhere}.residual",
        f"VitDetAttention (window {config.window})": f"{layer}.{windowed}.attention",
        "VitDetAttention (global)": f"{layer}.{everywhere}.attention",
        "VitDetLayer (window)": f"{layer}.{windowed}",
        "VitDetLayer (global, residual block)": f"{layer}.{everywhere}",
        "VitDetEmbeddings": "backbone.embeddings",
        f"VitDetEncoder ({config.depth} layers)": "backbone.encoder",
        "whole model": "",
    }
    arguments = _arguments(model, pixel_values, named.values())

    def case(name: str, module: nn.Module, given: Sequence[Any]) -> Case:
        return Case(name, Bound(module, given).eval(), tuple(item for item in given if isinstance(item, Tensor)))

    made = [case(name, model.get_submodule(path), arguments[path]) for name, path in named.items()]
    whole = made.pop()
    for name in (f"VitDetAttention (window {config.window})", "VitDetAttention (global)"):
        attention = model.get_submodule(named[name])
        assert isinstance(attention, Attention)
        queries = _queries(attention, arguments[named[name]])
        relative = name.replace("VitDetAttention", "relative positions")
        made.append(case(relative, RelativePositions(attention), queries))
    height, width = pixel_values.shape[2], pixel_values.shape[3]
    forms = {
        suffix: Bound(
            DeployedVitMatte(model, height, width, form=fastest_form(suffix, pixel_values.device.type)), whole.inputs
        ).eval()
        for suffix in RUNTIMES
    }
    return [*made, whole, Case("whole model, as it is exported", forms[".pt2"], whole.inputs, forms)]


def _arguments(model: VitMatte, pixel_values: Tensor, paths: Iterable[str]) -> dict[str, tuple[Any, ...]]:
    """What each submodule is called with in one forward, contiguous as compiled modules want it."""
    found: dict[str, tuple[Any, ...]] = {}

    def catch(path: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def hook(_: nn.Module, given: tuple[Any, ...]) -> None:
            found[path] = tuple(item.contiguous() if isinstance(item, Tensor) else item for item in given)

        return hook

    hooks = [model.get_submodule(path).register_forward_pre_hook(catch(path)) for path in paths]
    try:
        with torch.no_grad():
            model(pixel_values)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _queries(attention: Attention, given: Sequence[Any]) -> tuple[Tensor, int, int]:
    """The queries that an attention makes of its input, and the height and width of their grid."""
    tokens, window = given
    with torch.no_grad():
        if window:
            tokens = partition(tokens, window)
        q, _, _ = attention.split(attention.qkv(tokens))
    return q.contiguous(), tokens.shape[1], tokens.shape[2]
