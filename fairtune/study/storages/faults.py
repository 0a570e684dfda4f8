"""What storages say when something is wrong, and whether asking again may help.

While a study runs everything may pass that is not known to be a fault of the question: a database
that is restarted says many things. When a storage is opened it is the other way round, so that a
wrong address or password is told at once.
"""

from __future__ import annotations

import errno

import optuna
import sqlalchemy.exc

# What a database says when it cannot be asked just now; anything else is a fault of the question.
PASSING = (
    optuna.exceptions.StorageInternalError,
    sqlalchemy.exc.DBAPIError,
    sqlalchemy.exc.TimeoutError,
    OSError,
)
_WRONG = (
    sqlalchemy.exc.DataError,
    sqlalchemy.exc.IntegrityError,
    sqlalchemy.exc.NotSupportedError,
    sqlalchemy.exc.ProgrammingError,
)
# PostgreSQL: log-in refused, no such database. A driver may give no code for what is said while
# it connects.
_REFUSED_STATES = ("28", "3D")
_REFUSED_WORDS = (
    "password authentication failed",
    "no password supplied",
    "no pg_hba.conf entry",
    "authentication failed",
    "does not exist",
)
_BUSY_STATES = ("57P03", "53300")
_BUSY_WORDS = (
    "starting up",
    "shutting down",
    "in recovery mode",
    "not yet accepting connections",
    "too many clients",
    "too many connections",
    "connection slots are reserved",
    "no more connections allowed",
)
# MySQL: access denied, unknown database; too many connections, shutting down, deadlocks. The last
# are disks that are full, of both.
_REFUSED_CODES = {1044, 1045, 1049, 1142, 1143, 1251, 1698}
_BUSY_CODES = {1020, 1040, 1053, 1203, 1205, 1213, 1684}
_FULL_CODES = ("53100", 1021, 1114)


def may_pass(error: BaseException) -> bool:
    """Tell whether asking again may help a study that runs."""
    cause = error.__cause__ or error
    if is_full(error) or isinstance(cause, _WRONG):
        return False
    code, said = _code(error), first_line(error)
    if isinstance(code, int):
        return code not in _REFUSED_CODES
    return not (code.startswith(_REFUSED_STATES) or _holds(said, _REFUSED_WORDS))


def is_busy(error: BaseException) -> bool:
    """Tell whether a server says that it cannot be opened just now, but will be."""
    code = _code(error)
    if isinstance(code, int):
        return code in _BUSY_CODES
    return code in _BUSY_STATES or _holds(first_line(error), _BUSY_WORDS)


def is_full(error: BaseException) -> bool:
    """Tell whether the disk under a storage is full: waiting frees nothing."""
    if _code(error) in _FULL_CODES:
        return True
    parts = (error, error.__cause__, getattr(error.__cause__, "orig", None))
    said = " ".join(str(part) for part in parts if part is not None)
    full = "database or disk is full" in said or "No space left on device" in said
    return full or getattr(error, "errno", None) == errno.ENOSPC


def first_line(error: BaseException) -> str:
    """Return the first line of what the driver said."""
    original = _original(error)
    said = str(original)
    match original.args:
        case (int(code), str(words)) if not isinstance(original, OSError):
            said = f"{words} ({code})"
    lines = said.strip().splitlines() or [type(original).__name__]
    return lines[0][:300]


def _original(error: BaseException) -> BaseException:
    cause = error.__cause__ or error
    return getattr(cause, "orig", None) or cause


def _code(error: BaseException) -> int | str:
    """Return MySQL's number or PostgreSQL's state of an error, an empty string for neither."""
    original = _original(error)
    state = getattr(original, "sqlstate", None) or getattr(original, "pgcode", None)
    if state:
        return str(state)
    head = original.args[0] if original.args else None
    return head if isinstance(head, int) and not isinstance(original, OSError) else ""


def _holds(said: str, words: tuple[str, ...]) -> bool:
    return any(word in said for word in words)
