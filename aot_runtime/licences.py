# SPDX-License-Identifier: Apache-2.0
"""Whether an artifact's weights may be used for everything; its manifest carries their licence."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from aot_runtime.errors import ArtifactError

if TYPE_CHECKING:
    from aot_runtime.manifest import Manifest

_NONCOMMERCIAL = re.compile(r"non-?\s?commercial|(?<![a-z])nc(?![a-z])", re.IGNORECASE)


def is_noncommercial(licence: str) -> bool:
    """Whether a licence's name says that it is for non-commercial use only, as "CC-BY-NC-4.0" does."""
    return _NONCOMMERCIAL.search(licence) is not None


def require_commercial(manifest: Manifest, file: object, *, accepted: bool) -> None:
    """Refuses weights for non-commercial use unless that was accepted.

    Args:
        file: the artifact, for the message.
        accepted: the user said that the restriction is known.

    Raises:
        ArtifactError: not accepted.
    """
    licence = manifest.checkpoint.licence
    if is_noncommercial(licence) and not accepted:
        raise ArtifactError(
            f"expected weights that may be used for everything, found '{licence}' in {file}",
            "set accept_noncommercial_weights:=true if your use is non-commercial, or use other weights",
        )
