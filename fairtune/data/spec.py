"""Dataset specs: one YAML file says everything about a data set."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic

from fairtune.config import Config, Source, digest, parse, yaml12
from fairtune.config import shipped as shipped_files
from fairtune.config.model import carried
from fairtune.data.augment_rule import AugmentRule
from fairtune.data.groups import AttributeRule
from fairtune.data.labels import Target
from fairtune.data.layout import Layout
from fairtune.data.prompts import ClassPrompts, PromptRule
from fairtune.data.readers.base import READERS, Reader
from fairtune.data.readers.pil import PilReader
from fairtune.data.rules import Condition, Derive, fields_of
from fairtune.data.split import SplitRule
from fairtune.data.subsample import Subsample
from fairtune.data.text import TextRule, as_rule
from fairtune.errors import ConfigError, FairtuneError, did_you_mean

RESERVED = ("id", "patient", "image", "label", "split", "text", "row", "weight", "score")


class DatasetSpec(Config):
    """What a data set is, where it lies, and how its columns are to be read.

    Attributes:
        title: One line for people.
        licence: Terms of use.
        citation: What to cite.
        link: Where to get it.
        acknowledgement: Text its owners ask to be kept.
        layouts: Ways in which the files may lie; the first that is found counts.
        reader: How an image file is decoded.
        resize: `squash` to a square, `crop` the middle after scaling the short side, or `pad`
            with black after scaling the long side.
        flip: Mirror images that show the same thing, used by augmentation.
        augment: Ranges of the augmentation `medical`.
        id: Column that names an image, unique.
        patient: Column of what is split and resampled by (patient, lesion).
        patient_ids: Name of the space of those ids; data sets that share it share patients.
        text: Column with a text for each image, or the rule by which it is read.
        text_leaks_label: The text was written by somebody or something that knew the label.
        derive: Columns made out of others, in this order.
        filter: Conditions that every row must pass.
        targets: Label rules by name.
        prompts: What the classes of a target are called in words, by target.
        attributes: Attribute rules by name.
        split: How rows are divided.
        subsample: Which rows of the splits are drawn; all when absent.
    """

    title: str
    licence: str
    citation: str
    link: str
    acknowledgement: str | None = None
    layouts: tuple[Layout, ...] = pydantic.Field(min_length=1)
    reader: Annotated[Reader, READERS.field()] = PilReader()
    resize: Literal["squash", "crop", "pad"] = "squash"
    flip: Literal["none", "horizontal", "both"] = "none"
    augment: AugmentRule | None = None
    id: str
    patient: str
    patient_ids: str | None = None
    text: Annotated[TextRule | None, pydantic.BeforeValidator(as_rule)] = None
    text_leaks_label: bool = False
    derive: Mapping[str, Derive] = {}
    filter: tuple[Condition, ...] = ()
    targets: Mapping[str, Target] = pydantic.Field(min_length=1)
    prompts: Mapping[str, PromptRule] = {}
    attributes: Mapping[str, AttributeRule] = {}
    split: SplitRule
    subsample: Subsample | None = None

    _name: str = pydantic.PrivateAttr(default="dataset")
    _home: Path | None = pydantic.PrivateAttr(default=None)

    @pydantic.model_validator(mode="after")
    def _consistent(self) -> DatasetSpec:
        for name in (*self.attributes, *self.derive):
            if name in self.attributes and (name in RESERVED or name.startswith("label_")):
                problem = ConfigError("this name is taken by the table itself", found=name)
                raise carried(problem, "attributes", name)
        stratify = self.split.stratify
        if stratify is not None and stratify not in self.targets:
            raise carried(_unknown("target", stratify, self.targets), "split", "stratify")
        if stratify is not None and self.targets[stratify].task == "multilabel":
            problem = ConfigError("a multilabel target has no classes to stratify by")
            raise carried(problem, "split", "stratify")
        if self.subsample is not None:
            for problem, field in self.subsample.faults(self.targets, self.attributes):
                raise carried(problem, "subsample", field)
        if self.text_leaks_label and self.text is None:
            raise carried(ConfigError("there is no 'text' that could leak"), "text_leaks_label")
        return self

    @pydantic.model_validator(mode="after")
    def _prompted(self) -> DatasetSpec:
        for name, rule in self.prompts.items():
            if name not in self.targets:
                raise carried(_unknown("target", name, self.targets), "prompts", name)
            target = self.targets[name]
            for problem, field in rule.faults(target.class_names(name), target.task):
                raise carried(problem, "prompts", name, *field)
        return self

    @property
    def name(self) -> str:
        """The stem of the file the spec was read from."""
        return self._name

    @property
    def augmentation(self) -> str:
        """Digest of all that the augmentation `medical` depends on."""
        return digest([self.flip, None if self.augment is None else self.augment.to_json()])

    def ranges(self) -> AugmentRule:
        """Return the ranges of the augmentation `medical`.

        Raises:
            ConfigError: None are declared.
        """
        if self.augment is None:
            raise ConfigError(
                "the data set declares no ranges for the augmentation 'medical'",
                where=f"dataset {self.name}",
                found="no 'augment'",
                todo="add e.g. `augment: {rotate: 10, brightness: 0.1}` to its YAML, or take "
                "'light'",
            )
        return self.augment

    @property
    def home(self) -> Path | None:
        """The folder of a spec that the user wrote; its files may lie beside it."""
        return self._home

    @property
    def id_space(self) -> str:
        """The name of the space of patient ids."""
        return self.patient_ids or self._name

    def target(self, name: str) -> Target:
        """Return the label rule `name`.

        Raises:
            ConfigError: There is none of that name.
        """
        if name not in self.targets:
            raise _unknown("target", name, self.targets, f"dataset {self.name}")
        return self.targets[name]

    def attribute(self, name: str) -> AttributeRule:
        """Return the attribute rule `name`.

        Raises:
            ConfigError: There is none of that name.
        """
        if name not in self.attributes:
            raise _unknown("attribute", name, self.attributes, f"dataset {self.name}")
        return self.attributes[name]

    def texts(self) -> TextRule:
        """Return the rule by which texts are read.

        Raises:
            ConfigError: The data set has none.
        """
        if self.text is None:
            raise ConfigError(
                "the data set has no texts",
                where=f"dataset {self.name}",
                todo="name the column that holds them: `text: COLUMN`",
            )
        return self.text

    def prompts_of(self, target: str) -> ClassPrompts:
        """Return the prompts of `target`, in the order of its class codes.

        Raises:
            ConfigError: There is no such target, or there are no prompts for it.
        """
        rule = self.target(target)
        if target not in self.prompts:
            raise ConfigError(
                "the data set declares no prompts for this target",
                where=f"dataset {self.name}",
                found=target,
                allowed=list(self.prompts) or "none has prompts",
                todo=f"add `prompts: {{{target}: {{templates: [..], classes: {{..}}}}}}` to its "
                f"YAML, with phrases for {', '.join(rule.class_names(target))}",
            )
        return self.prompts[target].of(rule.class_names(target))

    def columns(self, layout: Layout) -> dict[str, list[str]]:
        """Return the columns that `id`, `patient`, `images.name` and the rest always read."""
        out: dict[str, list[str]] = {}
        reads: list[tuple[str, tuple[str, ...]]] = [
            ("id", (self.id,)),
            ("patient", (self.patient,)),
        ]
        reads.append(("images.name", fields_of(layout.images.name)))
        reads += [("text.column", (self.text.column,))] if self.text else []
        reads += [("split.column", (self.split.column,))] if self.split.column else []
        reads += [(f"filter.{i}", (rule.column,)) for i, rule in enumerate(self.filter)]
        for field, columns in reads:
            for column in columns:
                out.setdefault(column, []).append(field)
        return out


def load_spec(name: str) -> DatasetSpec:
    """Return the dataset spec `name`: a shipped one, or the path of a .yaml file.

    Raises:
        ConfigError: Nothing of that name, or the file says something that cannot be.
        Problems: Several faults of the file, each with its line.
    """
    path = shipped_files.find("datasets", name)
    own = name.endswith((".yaml", ".yml"))
    located = yaml12.read(path)
    spec = parse(DatasetSpec, located.data, Source(located))
    spec._name = path.stem
    spec._home = path.resolve().parent if own else None
    return spec


def _unknown(
    kind: str, name: str, known: Mapping[str, Any], where: str | None = None
) -> FairtuneError:
    return ConfigError(
        f"unknown {kind}",
        where=where,
        found=name,
        allowed=list(known) or "none: the dataset spec declares no " + kind,
        todo=did_you_mean(name, known),
    )
