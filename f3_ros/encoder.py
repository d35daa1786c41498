# SPDX-License-Identifier: Apache-2.0
"""From events to the field of summed event features (reference f3.md section 2).

`MultiResolutionHashEncoder` looks every event up in the level tables and interpolates; `VoxelTable` is the same,
evaluated once for every voxel that can matter ("hashed feats" in the official code); `pool` sums per pixel.
`Downsampling` holds the transposed bilinear weights with which events go straight into a smaller field.

No control flow depends on data, so all of it exports with any number of events, none included. Indices are clamped:
malformed coordinates (NaN, outside 0..1) can give wrong features but never touch memory outside the tables.
**Padding**: an event whose t is negative contributes nothing; artifacts with a fixed number of events rely on it.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from aot_runtime.errors import InputError
from f3_ros.config import EncoderConfig, Triple

_PRIMES = (1, 2654435761, 805459861)


class MultiResolutionHashEncoder(nn.Module):
    """Trilinear lookup in one table per level (Instant-NGP, arXiv 2201.05989), in the official index order.

    Parameters `hashmap` (L, 2**log2_entries, F), or `hashmap_neg` and `hashmap_pos` in polarity mode.
    """

    hashmap: Tensor
    hashmap_neg: Tensor
    hashmap_pos: Tensor
    _resolutions: Tensor
    _strides: Tensor
    _offsets: Tensor

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        shape = (config.levels, 1 << config.log2_entries, config.feature_size)
        for name in ("hashmap_neg", "hashmap_pos") if config.polarity else ("hashmap",):
            self.register_parameter(name, nn.Parameter(torch.rand(shape) * 2e-4 - 1e-4))
        self._remember([level * shape[1] for level in range(config.levels)])

    def _remember(self, offsets: list[int]) -> None:
        """Keep what the index arithmetic needs, as constants that are not part of the checkpoint."""
        config = self.config
        resolutions = torch.tensor(config.resolutions, dtype=torch.int32)
        self.dense = config.levels - config.hashed_levels
        strides = torch.tensor([(1, x, x * y) for x, y, _ in config.resolutions], dtype=torch.int32)
        # Only the low bits of the hash matter, so the primes may be reduced first, which keeps products in 32 bits.
        primes = [p % (1 << config.log2_entries) for p in _PRIMES]
        if any(max(r) * prime >= 1 << 31 for r, prime in zip(zip(*config.resolutions), primes)):
            raise ValueError("level resolutions too large for 32-bit hashing")
        strides[self.dense :] = torch.tensor(primes, dtype=torch.int32)
        self.register_buffer("_resolutions", resolutions, persistent=False)
        self.register_buffer("_strides", strides, persistent=False)
        self.register_buffer("_offsets", torch.tensor(offsets, dtype=torch.int32), persistent=False)

    def table(self) -> Tensor:
        """All tables as one (rows, F) matrix; with polarity the negative tables come first."""
        parts = [self.hashmap_neg, self.hashmap_pos] if self.config.polarity else [self.hashmap]
        return torch.cat([part.reshape(-1, self.config.feature_size) for part in parts])

    def corners(self, events: Tensor) -> tuple[Tensor, Tensor]:
        """Rows and weights of the eight corners around each event, on each level.

        Args:
            events: (N, >= 3) x/W, y/H, t/T.

        Returns:
            Rows int32 (N, L, 8) within one polarity's tables, and weights float32 (N, L, 8). Corner order: x slowest,
            t fastest.
        """
        corner = torch.arange(8, device=events.device, dtype=torch.int32)
        weight: Tensor | None = None
        index: list[Tensor] = []
        for d in range(3):
            limit = self._resolutions[:, d][None, :, None]
            position = events[:, d, None, None] * limit  # (N, L, 1), float32 as in the official code
            low = position.to(torch.int32).clamp(min=0).minimum(limit)
            high = (low + 1).minimum(limit)
            cell = torch.where(((corner >> (2 - d)) & 1)[None, None, :] > 0, high, low)
            factor = 1.0 - (cell - position).abs()
            weight = factor if weight is None else weight * factor
            index.append(cell * self._strides[:, d][None, :, None])
        dense = index[0] + index[1] + index[2]
        if self.dense < self.config.levels:
            hashed = (index[0] ^ index[1] ^ index[2]) & ((1 << self.config.log2_entries) - 1)
            level = torch.arange(self.config.levels, device=events.device, dtype=torch.int32)[None, :, None]
            dense = torch.where(level < self.dense, dense, hashed)
        assert weight is not None
        return dense + self._offsets[None, :, None], weight

    def forward(self, events: Tensor) -> Tensor:
        """Features (N, L*F) float32, level-major, of events (N, 3) or (N, 4)."""
        rows, weights = self.corners(events)
        table = self.table()
        if self.config.polarity:
            polarity = events[:, -1, None, None]
            weights = weights * ((polarity == 0) | (polarity == 1))
            rows = rows + (polarity == 1).to(torch.int32) * (table.shape[0] // 2)
        # One gather, product and sum over the corners, events outermost: compilers turn this, the index arithmetic and
        # the pooling that follows into a single kernel. Measured against embedding_bag, which they cannot fuse.
        features = (table[rows] * weights[..., None]).sum(dim=2)
        return features.flatten(1)


class PackedEncoder(MultiResolutionHashEncoder):
    """The encoder for deployment: only the rows that an event can touch (a quarter of the official tables)."""

    _packed: Tensor

    def __init__(self, encoder: MultiResolutionHashEncoder) -> None:
        nn.Module.__init__(self)
        config = self.config = encoder.config
        rows = [config.rows(level) for level in range(config.levels)]
        names = ("hashmap_neg", "hashmap_pos") if config.polarity else ("hashmap",)
        parts = [getattr(encoder, name)[level, : rows[level]] for name in names for level in range(config.levels)]
        self.register_buffer("_packed", torch.cat(parts).detach().float().clone())
        self._remember([sum(rows[:level]) for level in range(config.levels)])

    def table(self) -> Tensor:
        return self._packed


class VoxelTable(nn.Module):
    """Encoder output for every voxel of chosen columns and rows of the frame: one lookup per event.

    Time is rounded to the nearest bin: bit-identical to the encoder for events on the grid, by design different off it.

    Args:
        encoder: the encoder to tabulate.
        frame: (W, H, T).
        columns, rows: sensor columns and rows worth storing; the others read some stored voxel and must be weighted 0.
    """

    _table: Tensor
    _scale: Tensor
    _column: Tensor
    _row: Tensor

    def __init__(
        self,
        encoder: MultiResolutionHashEncoder,
        frame: Triple,
        columns: np.ndarray,
        rows: np.ndarray,
    ) -> None:
        super().__init__()
        if encoder.config.polarity:
            raise InputError(
                "expected an encoder with one table, found polarity tables", "export without --build-hashed-feats"
            )
        width, height, self.bins = frame
        x = torch.from_numpy(columns.astype(np.float32)) / width
        y = torch.from_numpy(rows.astype(np.float32)) / height
        t = torch.arange(self.bins, dtype=torch.float32) / self.bins
        channels = encoder.config.channels
        table = torch.empty(len(x), len(y) * self.bins, channels)
        grid = torch.meshgrid(y, t, indexing="ij")
        plane = torch.stack([torch.zeros(len(y) * self.bins), *(g.flatten() for g in grid)], 1)
        chunk = max(1, 200_000 // plane.shape[0])
        with torch.no_grad():
            for start in range(0, len(x), chunk):
                part = plane.repeat(min(chunk, len(x) - start), 1)
                part[:, 0] = x[start : start + chunk].repeat_interleave(plane.shape[0])
                table[start : start + chunk] = encoder(part).view(-1, plane.shape[0], channels)
        self.register_buffer("_table", table.view(-1, channels))
        self.register_buffer("_scale", torch.ones(channels))
        self.register_buffer("_column", torch.from_numpy(_compact(columns, width)), persistent=False)
        self.register_buffer("_row", torch.from_numpy(_compact(rows, height)), persistent=False)
        self.stored_rows = len(y)

    def halve(self) -> None:
        """Store the table in float16, with a power-of-two scale per channel so that small features stay exact."""
        peak = self._table.abs().amax(0).clamp(min=1e-30)
        self._scale = torch.exp2(torch.floor(torch.log2(peak)) - 10)
        self._table = (self._table / self._scale).half()

    def forward(self, events: Tensor, xi: Tensor, yi: Tensor) -> Tensor:
        """Features (N, L*F) float32 of events (N, >= 3) whose pixels are xi, yi int32 (N,)."""
        bin_ = (events[:, 2] * self.bins).round().to(torch.int32).clamp(0, self.bins - 1)
        features = self._table[(self._column[xi] * self.stored_rows + self._row[yi]) * self.bins + bin_].float()
        return features * self._scale if self._table.dtype != torch.float32 else features


def _compact(kept: np.ndarray, size: int) -> np.ndarray:
    """Index of each of `size` columns among the kept ones; 0 for the others."""
    index = np.zeros(size, np.int32)
    index[kept] = np.arange(len(kept), dtype=np.int32)
    return index


def pixels(events: Tensor, width: int, height: int) -> tuple[Tensor, Tensor]:
    """Integer pixel (N,) int32 of each event, rounded half to even as in the official code and clamped to the frame."""
    xi = (events[:, 0] * width).round().to(torch.int32).clamp(0, width - 1)
    yi = (events[:, 1] * height).round().to(torch.int32).clamp(0, height - 1)
    return xi, yi


def bilinear_taps(size: int, target: int) -> tuple[np.ndarray, np.ndarray]:
    """Bilinear interpolation (align_corners=True) from `size` to `target` samples, transposed.

    Returns:
        outputs int32 (size, K) and weights float32 (size, K): sample i of the input adds weights[i, k] times itself to
        sample outputs[i, k] of the output. K is the most outputs that one input sample feeds; unused places have weight
        0. The arithmetic is float32 in the order of torch's own kernel, so that the weights are the same bits.
    """
    scale = np.float32(size - 1) / np.float32(target - 1) if target > 1 else np.float32(0)
    position = scale * np.arange(target, dtype=np.float32)
    low = np.minimum(position.astype(np.int64), size - 1)
    fraction = (position - low.astype(np.float32)).astype(np.float32)
    high = np.minimum(low + 1, size - 1)
    feeds: list[list[tuple[int, np.float32]]] = [[] for _ in range(size)]
    for out in range(target):
        for source, weight in ((low[out], np.float32(1) - fraction[out]), (high[out], fraction[out])):
            if weight != 0:
                feeds[source].append((out, weight))
    most = max(1, *(len(f) for f in feeds))
    outputs, weights = np.zeros((size, most), np.int32), np.zeros((size, most), np.float32)
    for source, feed in enumerate(feeds):
        for k, (out, weight) in enumerate(feed):
            outputs[source, k], weights[source, k] = out, weight
    return outputs, weights


class Downsampling(nn.Module):
    """Where events go in a field of another size, and with what weight.

    Pooling into the full frame and then resizing it (bilinear, align_corners=True) is linear, so an event can be
    added straight to the few output cells it influences: the same field up to the order of summation, without the
    full one (reference section 12). When shrinking by two or more an event reaches at most one cell.
    """

    _x_out: Tensor
    _x_weight: Tensor
    _y_out: Tensor
    _y_weight: Tensor

    def __init__(self, frame: tuple[int, int], target: tuple[int, int]) -> None:
        super().__init__()
        self.target = target
        for axis, size, out in zip("xy", frame, target):
            outputs, weights = bilinear_taps(size, out)
            self.register_buffer(f"_{axis}_out", torch.from_numpy(outputs), persistent=False)
            self.register_buffer(f"_{axis}_weight", torch.from_numpy(weights), persistent=False)

    @staticmethod
    def worthwhile(frame: tuple[int, int], target: tuple[int, int]) -> bool:
        """Whether the direct way is cheaper: not when enlarging, where one event reaches many cells."""
        return frame[0] >= target[0] and frame[1] >= target[1]

    def used(self) -> tuple[np.ndarray, np.ndarray]:
        """Sensor columns and rows that influence the output at all."""
        return tuple(  # type: ignore[return-value]
            np.flatnonzero(getattr(self, f"_{axis}_weight").cpu().numpy().any(1)) for axis in "xy"
        )

    def pool(self, features: Tensor, xi: Tensor, yi: Tensor) -> Tensor:
        """The field (1, W', H', C) of features (N, C) at pixels xi, yi."""
        width, height = self.target
        field = features.new_zeros(width * height, features.shape[1])
        for i in range(self._x_out.shape[1]):
            for j in range(self._y_out.shape[1]):
                weight = self._x_weight[xi, i] * self._y_weight[yi, j]
                cell = self._x_out[xi, i] * height + self._y_out[yi, j]
                field = accumulate(field, cell, features * weight[:, None])
        return field.view(1, width, height, features.shape[1])


def mask_padding(events: Tensor, features: Tensor) -> Tensor:
    """Zero the features of padding events (t < 0)."""
    return torch.where(events[:, 2:3] >= 0, features, 0.0)


def pool(features: Tensor, cell: Tensor, batch: int, width: int, height: int) -> Tensor:
    """The field (B, W, H, C) float32: the sum of features (N, C) per cell, int32 (N,) counted over batch, x and y."""
    field = features.new_zeros(batch * width * height, features.shape[1])
    return accumulate(field, cell, features).view(batch, width, height, features.shape[1])


def accumulate(field: Tensor, cell: Tensor, features: Tensor) -> Tensor:
    """`field` (cells, C) plus each row of `features` (N, C) at row `cell` (N,).

    As scatter_add, which a CPU sums in one order whatever the number of threads, so that the same events give the same
    bits; index_add becomes atomic additions in an order of chance. On CUDA both do.
    """
    return field.scatter_add(0, cell.long()[:, None].expand_as(features), features)
