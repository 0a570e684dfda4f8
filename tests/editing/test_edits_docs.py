"""docs/edits.md says what the registries say."""

from __future__ import annotations

from edits_docs import PAGE, text


def test_the_tables_are_those_of_the_registries() -> None:
    assert PAGE.read_text(encoding="utf-8") == text()
