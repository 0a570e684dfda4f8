"""A study as its workers know it: the study file, kept whole with the study."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fairtune.config.yaml12 import Located
from fairtune.errors import StudyError
from fairtune.study.schema import StudyFile, build_study

DEFINITION = "definition"
"""Study attribute: the document, overrides applied, as `fairtune search` last read it."""


def definition_of(study: StudyFile) -> dict[str, Any]:
    """Return what `defined` makes the study from again."""
    located = study.source.located
    assert located is not None
    return {"document": located.data, "name": located.name}


def defined(attrs: Mapping[str, Any], name: str) -> StudyFile:
    """Return the study file of a study.

    Args:
        attrs: Attributes of its search.
        name: Its name, for messages.

    Raises:
        StudyError: The study was made by a version that kept no definition.
        FairtuneError: This version does not take the file; all faults at once.
    """
    stored = attrs.get(DEFINITION)
    if not isinstance(stored, dict):
        raise StudyError(
            "the study holds no study file that a worker could read",
            where=f"study '{name}'",
            todo="give `fairtune search` with its study file once; it stores the file",
        )
    return build_study(Located(stored["document"], name=f"{stored['name']} as stored"))
