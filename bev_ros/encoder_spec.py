# SPDX-License-Identifier: Apache-2.0
"""Which encoder to extract with: told on a command line, given to other processes, made on a device."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aot_runtime.errors import InputError

if TYPE_CHECKING:
    import argparse

    from bev_ros.pipeline import BevPipeline


@dataclass(frozen=True)
class EncoderSpec:
    """An encoder that is not made yet; plain values, so that it can be sent to another process.

    Attributes:
        artifacts: a fused artifact, or the parts of a split one; empty: an encoder without an export.
        config: file of its configuration, see `bev_ros.encoders.read_config`.
        custom: "module:Class" of its image stage, see `bev_ros.custom`; "" for the one that the configuration says.
        checkpoint: file of its weights; None: random ones.
        seed: of those.
        tables_dir: where tables of calibrations are kept from run to run.
        allow_list: file of the digests of artifacts that may be loaded.
    """

    artifacts: tuple[Path, ...] = ()
    config: Path | None = None
    custom: str = ""
    checkpoint: Path | None = None
    seed: int = 0
    tables_dir: Path | None = None
    allow_list: Path | None = None

    def resolved(self) -> EncoderSpec:
        """The same with absolute paths, for a process in another folder."""

        def absolute(path: Path | None) -> Path | None:
            return None if path is None else path.resolve()

        return replace(
            self,
            artifacts=tuple(path.resolve() for path in self.artifacts),
            config=absolute(self.config),
            checkpoint=absolute(self.checkpoint),
            tables_dir=absolute(self.tables_dir),
            allow_list=absolute(self.allow_list),
        )

    def make(self, device: str) -> BevPipeline:
        """The encoder on "cpu", "cuda" or "cuda:N".

        Raises:
            InputError: the configuration or the custom encoder is wrong.
            ArtifactError, CheckpointError: the files are.
        """
        from bev_ros.pipeline import BevPipeline

        if self.artifacts:
            options: dict[str, Any] = {} if self.allow_list is None else {"allow_list": self.allow_list}
            return BevPipeline(self.artifacts, device, tables_dir=self.tables_dir, **options)
        from bev_ros.chain import EagerChain
        from bev_ros.encoders import make_encoder, read_config

        assert self.config is not None
        config = read_config(self.config)
        if self.custom:
            config = replace(config, custom_encoder=self.custom)
        encoder, checkpoint = make_encoder(config, self.checkpoint, seed=self.seed)
        return BevPipeline(EagerChain(encoder, checkpoint, device), tables_dir=self.tables_dir)


def add_encoder_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line's arguments for `encoder_spec`."""
    add: Any = parser.add_argument_group("encoder").add_argument
    add("--encoder", nargs="+", type=Path, default=[], metavar="FILE", help="artifact of export_bev, or all its parts")
    add("--custom-encoder", default="", metavar="MODULE:CLASS", help="image stage of your own, run without an export")
    add("--encoder-config", type=Path, metavar="FILE", help="fields of an encoder that is run without an export")
    add("--checkpoint", type=Path, metavar="FILE", help="its weights")
    add("--seed", type=int, default=0, help="of random weights, where there is no --checkpoint")
    add("--tables-dir", type=Path, help="folder where tables of calibrations are kept from run to run")
    add("--allow-list", type=Path, help="file of SHA-256 digests of artifacts that may be loaded")


def encoder_spec(options: argparse.Namespace) -> EncoderSpec | None:
    """What the arguments say; None if they say nothing.

    Raises:
        InputError: contradictions, or a file is not there.
    """
    eager = [name for name in ("custom_encoder", "encoder_config", "checkpoint") if getattr(options, name)]
    if not options.encoder and not eager:
        return None
    if options.encoder and eager:
        raise InputError(f"expected --encoder or --{eager[0].replace('_', '-')}, found both", "leave one out")
    if eager and options.encoder_config is None:
        raise InputError(
            f"expected --encoder-config with --{eager[0].replace('_', '-')}, found none",
            "give a .yaml with the fields of bev_ros.config: grid, depth, image, cameras, channels",
        )
    files = [*options.encoder, *(file for file in (options.encoder_config, options.checkpoint) if file is not None)]
    for file in files:
        if not file.is_file():
            raise InputError(f"expected a file, found none at {file}", "check the path")
    return EncoderSpec(
        tuple(options.encoder),
        options.encoder_config,
        options.custom_encoder,
        options.checkpoint,
        options.seed,
        options.tables_dir,
        options.allow_list,
    )
