# SPDX-License-Identifier: Apache-2.0
"""Read official checkpoints as they are published and load them into a network, naming every key that does not fit."""

from __future__ import annotations

import hashlib
import os
import pickle
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aot_runtime.errors import CheckpointError
from aot_runtime.files import sha256_file
from aot_runtime.manifest import CheckpointInfo

if TYPE_CHECKING:
    import torch

# torch.compile puts this in front of the names of what it wraps, at any depth; DataParallel puts `module.` in front.
_COMPILED = "_orig_mod."
_PARALLEL = "module."
_WRAPPERS = ("model", "state_dict")
_SHOWN = 8


def load_state_dict(
    path: str | os.PathLike[str], prefix: str | None = None, *, licence: str = ""
) -> tuple[dict[str, torch.Tensor], CheckpointInfo]:
    """Tensors (on the CPU) by the names a plain network has, and where they come from.

    A training checkpoint is unwrapped (`["model"]`, `["state_dict"]`); `_orig_mod.` goes anywhere in a name and
    `module.` in front of it.

    Args:
        path: a file of torch.save, or *.safetensors.
        prefix: keep only the names that begin with it ("eventff.", "dav2.", "flowhead."), and strip it.
        licence: recorded in the info.

    Raises:
        CheckpointError: the file is missing, empty, damaged, not loadable without running its code, or holds no
            tensors (of this prefix).
    """
    file = Path(path)
    try:
        size = file.stat().st_size
        if not file.is_file():
            raise CheckpointError(f"expected a checkpoint file, found {file} is no regular file", "check the path")
        if size == 0:
            raise CheckpointError(f"expected a checkpoint, found {file} empty", "download it again")
        loaded = _read_safetensors(file) if file.suffix == ".safetensors" else _read_torch(file)
        digest = sha256_file(file)
    except FileNotFoundError as error:
        raise CheckpointError(f"expected a checkpoint, found no file {file}", "check the path") from error
    except OSError as error:
        raise CheckpointError(
            f"expected a readable checkpoint, found {file} unreadable ({error})", "check its mode"
        ) from error
    tensors = _clean_names(_unwrap(loaded, file), file)
    if prefix is not None:
        tensors = _select(tensors, prefix, file)
    return tensors, CheckpointInfo(file=file.name, sha256=digest, licence=licence)


def load_into(
    module: torch.nn.Module,
    state_dict: Mapping[str, torch.Tensor],
    *,
    source: str = "the checkpoint",
    ignore_unexpected: Collection[str] = (),
    allow_missing: Collection[str] = (),
) -> None:
    """Copy a state dict into a network, converting to the network's dtypes; every key must fit.

    Args:
        ignore_unexpected: prefixes of keys in the checkpoint that the network does not have and need not.
        allow_missing: prefixes of the network's keys that keep their values.

    Raises:
        CheckpointError: keys are missing, unexpected, or of another shape; all three kinds are named in one message,
            and the network is unchanged.
    """
    wanted = module.state_dict()
    missing = [key for key in wanted if key not in state_dict and not key.startswith(tuple(allow_missing))]
    unexpected = [key for key in state_dict if key not in wanted and not key.startswith(tuple(ignore_unexpected))]
    reshaped = [
        f"{key} (network {tuple(wanted[key].shape)}, checkpoint {tuple(value.shape)})"
        for key, value in state_dict.items()
        if key in wanted and wanted[key].shape != value.shape
    ]
    problems = [
        f"{len(keys)} {what}: {_shorten(keys)}"
        for what, keys in (("missing", missing), ("unexpected", unexpected), ("of another shape", reshaped))
        if keys
    ]
    if problems:
        raise CheckpointError(
            f"expected the {len(wanted)} keys of {type(module).__name__}, found {'; '.join(problems)} in {source}",
            "choose the model variant that this checkpoint was trained as",
        )
    module.load_state_dict({key: value for key, value in state_dict.items() if key in wanted}, strict=False)


def state_digest(state_dict: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 of a network's weights: of names, shapes and float32 values, in the order of the names.

    Two checkpoints that hold the same network have the same digest, whatever file, wrapper or prefix they come in.
    """
    digest = hashlib.sha256()
    for name in sorted(state_dict):
        tensor = state_dict[name].detach().cpu().float().contiguous()
        digest.update(f"{name} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def _shorten(keys: list[str]) -> str:
    return ", ".join(keys[:_SHOWN]) + (f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else "")


def _read_torch(file: Path) -> Any:
    import torch

    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except pickle.UnpicklingError as error:
        # Any damage is an UnpicklingError too; only a refused global is code.
        if "GLOBAL" in str(error):
            raise CheckpointError(
                f"expected a checkpoint of plain tensors, found objects that need code to be loaded in {file} "
                f"({_reason(error)})",
                "if you trust its author, keep only the tensors: "
                f"python3 -c \"import torch; c = torch.load('{file}', weights_only=False); "
                "torch.save(c.get('state_dict', c.get('model', c)), 'weights.pth')\"",
            ) from error
        raise _damaged(file, error) from error
    except Exception as error:
        # torch.load reports damaged files as RuntimeError, EOFError, KeyError, ValueError and others.
        raise _damaged(file, error) from error


def _reason(error: Exception) -> str:
    """The sentence of torch's long message that names the refused global."""
    lines = [line.strip() for line in str(error).splitlines() if "GLOBAL" in line or "global" in line]
    return (lines[0] if lines else type(error).__name__)[:160]


def _damaged(file: Path, error: Exception) -> CheckpointError:
    text = str(error).splitlines()[0][:160] if str(error) else ""
    return CheckpointError(
        f"expected a checkpoint of torch.save, found {file} damaged or of another format "
        f"({type(error).__name__}: {text})",
        "download it again and compare its SHA-256",
    )


def _read_safetensors(file: Path) -> Any:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise CheckpointError(f"expected the package safetensors to read {file}", "pip install safetensors") from error
    try:
        return load_file(file, device="cpu")
    except SafetensorError as error:
        raise CheckpointError(
            f"expected a safetensors file, found {file} damaged or of another format ({error})",
            "download it again and compare its SHA-256",
        ) from error


def _unwrap(loaded: Any, file: Path) -> Mapping[str, Any]:
    """The mapping of names to tensors inside a training checkpoint."""
    import torch

    for _ in range(4):
        if not isinstance(loaded, Mapping):
            raise CheckpointError(
                f"expected a dict of tensors, found {type(loaded).__name__} in {file}",
                "save the network's state_dict()",
            )
        inner = next((loaded[key] for key in _WRAPPERS if isinstance(loaded.get(key), Mapping)), None)
        if inner is None:
            break
        loaded = inner
    if not any(isinstance(value, torch.Tensor) for value in loaded.values()):
        keys = _shorten([str(key) for key in loaded])
        raise CheckpointError(
            f"expected a dict of tensors (or one under 'model' or 'state_dict'), found keys {keys or '(none)'} "
            f"in {file}",
            "save the network's state_dict()",
        )
    return dict(loaded)


def _clean_names(loaded: Mapping[str, Any], file: Path) -> dict[str, torch.Tensor]:
    import torch

    tensors: dict[str, torch.Tensor] = {}
    for key, value in loaded.items():
        if not isinstance(key, str) or not isinstance(value, torch.Tensor):
            raise CheckpointError(
                f"expected names of tensors, found {key!r:.80} is a {type(value).__name__} in {file}",
                "save the network's state_dict() alone",
            )
        name = key.replace(_COMPILED, "").removeprefix(_PARALLEL)
        if name in tensors:
            raise CheckpointError(
                f"expected one tensor per name, found {name} twice (with and without {_COMPILED}) in {file}",
                "save the network's state_dict() alone",
            )
        tensors[name] = value
    return tensors


def _select(tensors: dict[str, torch.Tensor], prefix: str, file: Path) -> dict[str, torch.Tensor]:
    chosen = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
    if not chosen:
        present = sorted({key.split(".")[0] + "." for key in tensors})
        raise CheckpointError(
            f"expected keys that begin with {prefix!r}, found only {_shorten(present)} in {file}",
            "give the checkpoint of the right model",
        )
    return chosen
