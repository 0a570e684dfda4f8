"""Lengths of time as people write them: `3h50m`, `90s`, `2d`."""

from __future__ import annotations

import re

from fairtune.errors import ConfigError

_SECONDS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0}
_WHOLE = re.compile(r"(?:(?P<d>\d+)d)?(?:(?P<h>\d+)h)?(?:(?P<m>\d+)m)?(?:(?P<s>\d+)s)?\Z")


def seconds_of(text: str, where: str) -> float:
    """Return the seconds of a length of time.

    Args:
        text: Days, hours, minutes, seconds, in this order, each a whole number with its letter.
        where: What to call the place in a message.

    Raises:
        ConfigError: It is written in another way, or is zero.
    """
    found = _WHOLE.match(text.strip().lower())
    parts = {} if found is None else {k: v for k, v in found.groupdict().items() if v}
    total = sum(_SECONDS[unit] * int(number) for unit, number in parts.items())
    if not total:
        raise ConfigError(
            "expected a length of time above zero",
            where=where,
            found=text,
            allowed="e.g. 3h50m, 45m, 2d, 90s",
        )
    return total


def duration(seconds: float) -> str:
    """Return whole seconds as `seconds_of` reads them."""
    left, words = round(seconds), ""
    for unit, size in _SECONDS.items():
        number, left = divmod(left, int(size))
        words += f"{number}{unit}" if number else ""
    return words or "0s"
