"""Which studies there are."""

from __future__ import annotations

from dataclasses import replace

from fairtune.errors import StudyError
from fairtune.study.family import study_names
from fairtune.study.place import Place, studies_in
from fairtune.study.storages import is_missing
from fairtune.study.storages.address import absolute, redact


def studies_at(place: Place) -> list[Place]:
    """Return the one study that `place` names, or else every study of its storage.

    Without a storage studies lie one by one in the results folder: there must be just one.

    Raises:
        StudyError: There is none, or several of which one has to be named.
        StorageError: The storage cannot be reached.
    """
    if place.name:
        return [place]
    names = studies_in(place.out) if place.storage is None else study_names(place.url)
    if not names or (place.storage is None and len(names) > 1):
        raise StudyError(
            "which study?" if names else "there is no study",
            where=place.out if place.storage is None else "--storage",
            allowed=names or None,
            todo="name one" if names else "give --out or --storage if it lies elsewhere",
        )
    return [replace(place, name=name) for name in names]


def check_home(place: Place) -> None:
    """Refuse to make a study in one storage that lies in another already.

    Raises:
        StudyError: That is so.
        StorageError: A storage cannot be reached.
    """
    if place.storage is None:
        return
    home = place.remembered
    given = redact(absolute(place.storage))
    if home is None and _holds(place.beside, place):
        home = place.beside
    if home in (None, given) or _holds(place.url, place):
        return
    merge = f"fairtune merge {place.name} --from URL --storage URL"
    raise StudyError(
        f"the study '{place.name}' lies in another storage",
        where="--storage",
        found=given,
        allowed=home,
        todo=f"leave --storage out, move the study with `{merge}`, or give the new one another "
        "--name; SQLite takes one worker",
    )


def _holds(url: str, place: Place) -> bool:
    return not is_missing(url) and place.name in study_names(url)
