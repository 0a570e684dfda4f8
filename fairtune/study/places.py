"""Which studies there are."""

from __future__ import annotations

from dataclasses import replace

from fairtune.errors import StudyError
from fairtune.study.family import study_names
from fairtune.study.place import Place


def studies_at(place: Place) -> list[Place]:
    """Return the one study that `place` names, or else every study of its storage.

    Without a storage studies lie one by one in the results folder: there must be just one.

    Raises:
        StudyError: There is none, or several of which one has to be named.
        StorageError: The storage cannot be reached.
    """
    if place.name:
        return [place]
    if place.storage is not None:
        names = study_names(place.storage)
    else:
        names = sorted(path.parent.name for path in place.out.glob("*/study.db"))
    if not names or (place.storage is None and len(names) > 1):
        raise StudyError(
            "which study?" if names else "there is no study",
            where=place.out if place.storage is None else "--storage",
            allowed=names or None,
            todo="name one" if names else "give --out or --storage if it lies elsewhere",
        )
    return [replace(place, name=name) for name in names]
