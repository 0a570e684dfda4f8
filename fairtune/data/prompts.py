"""Prompts: what a class is called in words, for models that compare images with sentences."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import pydantic

from fairtune.config import Config, digest, parse
from fairtune.config.model import carried
from fairtune.data.labels import Task
from fairtune.errors import ConfigError, did_you_mean

MANY: Task = "multilabel"
_PLACE = "{}"
_BRACES = re.compile(r"[{}]")
# "not normal" says the opposite of "normal": the two together are no sign.
_TWICE = re.compile(r"\b(?:no|not|non|without)[\s-]+(?:normal|healthy)\b", re.IGNORECASE)
_NEGATION = re.compile(
    r"\b(?:no|not|non|without|absence\s+of|absent|free\s+of|negative\s+for|normal|healthy)\b",
    re.IGNORECASE,
)


def _listed(value: Any) -> Any:
    return value if isinstance(value, list | tuple) else (value,)


Phrases = Annotated[
    tuple[str, ...], pydantic.BeforeValidator(_listed), pydantic.Field(min_length=1)
]


def _sound(templates: tuple[str, ...]) -> tuple[str, ...]:
    for index, template in enumerate(templates):
        what = None
        if template.count(_PLACE) != 1 or len(_BRACES.findall(template)) != 2:
            what = "a template has exactly one {}, where the phrase goes, and no other braces"
        elif template in templates[:index]:
            what = "this template stands twice"
        if what is not None:
            problem = ConfigError(what, found=template, allowed="e.g. 'a photo of {}'")
            raise carried(problem, index)
    return templates


Templates = Annotated[
    tuple[str, ...], pydantic.BeforeValidator(_listed), pydantic.AfterValidator(_sound)
]
"""Sentences with one `{}` each, where the phrase goes; a single one needs no list."""


class Polar(Config):
    """What a label of a multilabel target is called where it holds, and where it does not.

    Attributes:
        present: Phrases for 1.
        absent: Phrases for 0.
    """

    present: Phrases
    absent: Phrases


def _by_name(value: Any) -> Any:
    if isinstance(value, list | tuple):
        problem = ConfigError(
            "phrases stand under the names of their classes, as a list would leave open which "
            "of them is meant",
            found=list(value),
            allowed="e.g. `classes: {healthy: [healthy eyes], ill: [eye disease]}`",
        )
        raise carried(problem)
    return value


class PromptRule(Config):
    """Sentences for the classes of one target: every template with every phrase.

    Attributes:
        templates: Sentences with one `{}`, where the phrase goes.
        classes: Phrases by class name; for a multilabel target `{present: .., absent: ..}` by
            label. One phrase needs no list.
    """

    templates: Annotated[Templates, pydantic.Field(min_length=1)]
    classes: Annotated[Mapping[str, Polar | Phrases], pydantic.BeforeValidator(_by_name)]

    def faults(
        self, names: Sequence[str], task: Task
    ) -> Iterator[tuple[ConfigError, tuple[str, ...]]]:
        """Yield what keeps these from being prompts of a target, and the field it stands in.

        The names are not those of the target's classes, their form is not that of its task, or a
        phrase is empty or stands twice.
        """
        strange = _name_fault(self.classes, names)
        if strange is not None:
            yield strange, ("classes",)
        odd = [n for n, p in self.classes.items() if isinstance(p, Polar) != (task == MANY)]
        if odd:
            yield _form_fault(self.classes[odd[0]], task), ("classes", odd[0])
        seen: set[str] = set()
        for name, given in self.classes.items():
            for phrase in _phrases(given):
                plain = " ".join(phrase.casefold().split())
                if not plain or plain in seen:
                    what = "a phrase stands twice" if plain else "a phrase is empty"
                    yield ConfigError(what, found=phrase), ("classes", name)
                seen.add(plain)

    def of(self, names: Sequence[str]) -> ClassPrompts:
        """Return the prompts of a target with these classes, or labels, that is without faults."""
        groups: list[tuple[str, ...]] = []
        for name in names:
            given = self.classes[name]
            groups += [given.absent, given.present] if isinstance(given, Polar) else [given]
        return ClassPrompts(self.templates, tuple(groups))


@dataclass(frozen=True)
class ClassPrompts:
    """The prompts of a target.

    Attributes:
        templates: Sentences with one `{}`.
        classes: Phrases in the order of the class codes; of a multilabel target two entries for
            every label, absent and then present.
    """

    templates: tuple[str, ...]
    classes: tuple[tuple[str, ...], ...]

    @property
    def sha(self) -> str:
        """Digest of templates and phrases by the codes of their classes."""
        return digest([self.templates, self.classes])

    def to_json(self, names: Sequence[str], task: Task) -> dict[str, Any]:
        """Return templates and phrases by class name, as a dataset spec has them."""
        said: list[Any] = [list(phrases) for phrases in self.classes]
        if task == MANY:
            pairs = zip(said[::2], said[1::2], strict=True)
            said = [{"present": present, "absent": absent} for absent, present in pairs]
        return {
            "templates": list(self.templates),
            "classes": dict(zip(names, said, strict=True)),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> ClassPrompts:
        """Read what `to_json` wrote; classes in the order in which they stand."""
        return parse(PromptRule, dict(value)).of(list(value["classes"]))

    def sentences(self) -> list[tuple[int, str]]:
        """Return `(index into classes, sentence)` for every template with every phrase."""
        return [
            (index, template.replace(_PLACE, phrase))
            for index, phrases in enumerate(self.classes)
            for template in self.templates
            for phrase in phrases
        ]

    def doubts(self, names: Sequence[str], task: Task) -> list[str]:
        """Return a sentence for every pair of classes whose prompts may be the wrong way round.

        That is where a phrase of the positive side negates (no, not, non-, without, absence of,
        free of, negative for, normal, healthy) and none of the negative side does. It may be
        meant so: `normal` can be the class that is asked for.

        Args:
            names: Class names, or the names of the labels.
            task: The task; several classes have no negative side.
        """
        if task == "multiclass":
            return []
        labels = names if task == MANY else names[1:]
        pairs = zip(labels, self.classes[::2], self.classes[1::2], strict=True)
        return [
            f"the prompts of '{name}' may be the wrong way round: {_found(present)} negates, and "
            f"no phrase for its absence does"
            for name, absent, present in pairs
            if any(map(_negates, present)) and not any(map(_negates, absent))
        ]


def _negates(phrase: str) -> bool:
    return _NEGATION.search(_TWICE.sub(" ", phrase)) is not None


def _found(phrases: Sequence[str]) -> str:
    return repr(next(filter(_negates, phrases)))


def _name_fault(given: Mapping[str, Any], names: Sequence[str]) -> ConfigError | None:
    lacking = [name for name in names if name not in given]
    surplus = [name for name in given if name not in names]
    if not lacking and not surplus:
        return None
    hint = did_you_mean(surplus[0], lacking) if surplus and lacking else None
    return ConfigError(
        "these are not the classes of the target",
        found=list(given),
        allowed=", ".join(map(repr, names)),
        todo=hint or "write every class once, under its own name; their order does not matter",
    )


def _form_fault(given: Polar | tuple[str, ...], task: Task) -> ConfigError:
    if isinstance(given, Polar):
        what = "'present' and 'absent' are for the labels of a multilabel target"
        return ConfigError(what, found=f"a {task} target", allowed="a list of phrases")
    return ConfigError(
        "a label of a multilabel target needs phrases for both of its answers",
        found=list(given),
        allowed="{present: [..], absent: [..]}",
    )


def _phrases(given: Polar | tuple[str, ...]) -> tuple[str, ...]:
    return (*given.absent, *given.present) if isinstance(given, Polar) else given
