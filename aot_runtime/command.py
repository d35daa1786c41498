# SPDX-License-Identifier: Apache-2.0
"""How a command ends: results on stdout, one sentence on stderr for a mistake, and an exit status."""

from __future__ import annotations

import sys
from collections.abc import Callable

from aot_runtime.errors import AotError


def exit_status(run: Callable[[], int]) -> int:
    """What `run` returns; 2 and "error: ..." on stderr after an `AotError`, 130 after Ctrl-C, as shells have it.

    A file or folder that the system refuses is the user's to mend, not the program's: 2 as well.
    """
    try:
        return run()
    except AotError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.filename is None:
            raise
        print(
            f"error: expected a file or folder that can be used, found {error.strerror} for {error.filename}; "
            "check the path, its permissions and the space there",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        return 130
