"""The lock on the test rows: only a `TestPass` opens them, and only the test gate issues one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from fairtune.errors import StudyError

_TOKEN = object()


@dataclass(frozen=True)
class TestPass:
    """Permission to read the test rows of one split, bound to an opening that is on record.

    Made by `issue`, which `experiment/gate.py` alone calls after it has written the opening down.

    Attributes:
        split_hash: Split that may be opened.
        opening: Identity of the recorded opening.
    """

    __test__: ClassVar[bool] = False

    split_hash: str
    opening: str
    token: object = field(repr=False, compare=False, default=None)

    def __post_init__(self) -> None:
        if self.token is not _TOKEN:
            raise StudyError(
                "a test pass is issued by the test gate only",
                todo="use `fairtune finetune` or `fairtune evaluate`, which record the opening",
            )


def issue(split_hash: str, opening: str) -> TestPass:
    """Return a pass for the test rows of `split_hash`; the opening must be on record already."""
    return TestPass(split_hash, opening, _TOKEN)


def check(test_pass: TestPass | None, split_hash: str) -> None:
    """Let a valid pass through.

    Raises:
        StudyError: There is no pass, or it is for another split.
    """
    if test_pass is None:
        raise StudyError(
            "the test rows are locked",
            allowed="train and val rows; test rows with a pass of the test gate",
            todo="use `fairtune finetune` or `fairtune evaluate`, which record the opening",
        )
    if test_pass.split_hash != split_hash:
        raise StudyError(
            "the test pass is for another split",
            found=test_pass.split_hash,
            allowed=split_hash,
        )
