"""The interoperability table, measured: each row that is not slow."""

from __future__ import annotations

from typing import Any

import interop_options  # noqa: F401  (these add their rows)
import interop_parts  # noqa: F401
import interop_sampling  # noqa: F401
from interop import ROWS, outcome, quiet
from rig import measure


@measure
def interoperability() -> list[dict[str, Any]]:
    with quiet():
        return [outcome(one) for one in ROWS if not one.slow]
