"""One stable digest for anything that can be written as JSON."""

from __future__ import annotations

import hashlib
import json
from typing import Any

DIGEST_LENGTH = 32


def canonical_json(value: Any) -> str:
    """Return `value` as JSON with sorted keys, no spaces, and shortest round-trip floats.

    Raises:
        ValueError: `value` holds NaN or an infinity, which have no JSON form.
        TypeError: `value` holds something JSON cannot say.
    """
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def digest(value: Any) -> str:
    """Return the first 32 hex digits (128 bits) of SHA-256 over `canonical_json(value)`."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:DIGEST_LENGTH]
