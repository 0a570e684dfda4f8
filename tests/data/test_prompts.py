"""Prompts of a data set: sentences by class, never by position."""

from __future__ import annotations

from typing import Any

import pytest
from kit_data import HEADER, ROWS

from fairtune.data.prompts import ClassPrompts
from fairtune.errors import ConfigError, FairtuneError, Problems
from fairtune.usage import USAGES

KIND = {"column": "ill", "classes": {"well": 0, "ill": 1}}
SIGNS = {"columns": ["ill"], "positive": 1, "negative": 0}
ILL = {"not ill": ["clear lungs"], "ill": ["pneumonia", "a lung disease"]}
TWO = ["a photo of {}", "{} on an X-ray"]


def prompts(classes: Any, templates: Any = "a photo of {}", target: str = "ill") -> dict[str, Any]:
    return {target: {"templates": templates, "classes": classes}}


def test_sentences_stand_in_the_order_of_the_class_codes_however_they_are_written(
    make: Any,
) -> None:
    spec = make(prompts=prompts(dict(reversed(ILL.items())), TWO))
    found = spec.prompts_of("ill")
    assert found.classes == (("clear lungs",), ("pneumonia", "a lung disease"))
    assert found.sentences() == [
        (0, "a photo of clear lungs"),
        (0, "clear lungs on an X-ray"),
        (1, "a photo of pneumonia"),
        (1, "a photo of a lung disease"),
        (1, "pneumonia on an X-ray"),
        (1, "a lung disease on an X-ray"),
    ]


def test_several_classes_and_labels_have_prompts_too(make: Any) -> None:
    targets = {"kind": KIND, "signs": SIGNS}
    spec = make(
        targets=targets,
        prompts={
            **prompts({"ill": "illness", "well": "health"}, target="kind"),
            **prompts({"ill": {"present": "illness", "absent": ["no", "none"]}}, target="signs"),
        },
    )
    assert spec.prompts_of("kind").classes == (("health",), ("illness",))
    assert spec.prompts_of("signs").classes == (("no", "none"), ("illness",))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (prompts(ILL, "a photo"), ["prompts.ill.templates.0", "exactly one {}", "'a photo'"]),
        (prompts(ILL, ["{}", "{} or {}"]), ["prompts.ill.templates.1", "'{} or {}'"]),
        (prompts(ILL, "a {label} of {}"), ["exactly one {}", "no other braces"]),
        (prompts(ILL, ["{}", "{}"]), ["templates.1", "stands twice"]),
        (prompts(ILL, []), ["prompts.ill.templates", "at least 1"]),
        (prompts([["clear"], ["pneumonia"]]), ["prompts.ill.classes", "names of their classes"]),
        (prompts({"healthy": "clear", "ill": "pneumonia"}),
         ["prompts.ill.classes", "'healthy'", "'not ill', 'ill'", "every class"]),
        (prompts({"not il": "clear", "ill": "pneumonia"}), ["did you mean 'not ill'"]),
        (prompts({"ill": "pneumonia"}), ["not the classes of the target"]),
        (prompts({**ILL, "other": "x"}), ["'other'"]),
        (prompts({"not ill": ["x", " "], "ill": "y"}),
         ["phrase is empty", "prompts.ill.classes.not ill"]),
        (prompts({"not ill": [], "ill": "y"}), ["classes.not ill", "at least 1"]),
        (prompts({"not ill": "Lungs", "ill": ["x", "lungs "]}), ["'lungs '", "stands twice"]),
        (prompts({"not ill": "x", "ill": {"present": "y", "absent": "z"}}),
         ["prompts.ill.classes.ill", "multilabel"]),
        (prompts(ILL, target="il"), ["unknown target", "did you mean 'ill'"]),
        ({"ill": {"classes": ILL}}, ["'templates' is missing"]),
    ],
)  # fmt: skip
def test_prompts_that_cannot_be_are_refused_with_their_place(
    make: Any, given: Any, says: list[str]
) -> None:
    with pytest.raises(FairtuneError) as caught:
        make(prompts=given)
    for part in ("tiny.yaml:", *says):
        assert part in str(caught.value)


def test_a_label_needs_both_sides(make: Any) -> None:
    given = prompts({"ill": ["illness"]}, target="signs")
    with pytest.raises(ConfigError, match=r"both of its answers"):
        make(targets={"signs": SIGNS}, prompts=given)
    with pytest.raises((ConfigError, Problems), match=r"'absent' is missing"):
        make(targets={"signs": SIGNS}, prompts=prompts({"ill": {"present": "x"}}, target="signs"))


def test_a_target_without_prompts_says_what_to_write(make: Any) -> None:
    spec = make(prompts=prompts(ILL), targets={"ill": SPEC_ILL, "kind": KIND})
    with pytest.raises(ConfigError) as caught:
        spec.prompts_of("kind")
    for part in ("no prompts", "'kind'", "well, ill", "allowed: ill"):
        assert part in str(caught.value)
    with pytest.raises(ConfigError, match="did you mean 'kind'"):
        spec.prompts_of("knd")


SPEC_ILL = {"column": "ill", "positive": 1, "negative": 0}


@pytest.mark.parametrize(
    ("negative", "positive", "doubted"),
    [
        ("non-glaucoma", "glaucoma", False),
        ("glaucoma", "non-glaucoma", True),
        ("glaucoma", "no sign of glaucoma", True),
        ("disease", "absence of disease", True),
        ("disease", "free  of disease", True),
        ("disease", "negative for disease", True),
        ("disease", "a Healthy eye", True),
        ("an eye", "not normal", False),
        ("an eye", "an abnormal eye", False),
        ("a normal eye", "no healthy tissue", False),
        ("an eye", "a nodule, knotted", False),
    ],
)
def test_prompts_that_may_be_the_wrong_way_round_are_doubted(
    negative: str, positive: str, doubted: bool
) -> None:
    two = ClassPrompts(("{}",), ((negative,), (positive,)))
    assert len(two.doubts(("no", "yes"), "binary")) == doubted
    assert len(two.doubts(("sign",), "multilabel")) == doubted
    assert two.doubts(("no", "yes"), "multiclass") == []
    if doubted:
        assert "'yes'" in two.doubts(("no", "yes"), "binary")[0]


def test_prompts_do_not_change_what_a_table_is(make: Any) -> None:
    assert make(ROWS, HEADER, prompts=prompts(ILL)).target("ill") == make().target("ill")


@pytest.mark.parametrize("name", ["zero_shot", "contrastive"])
def test_templates_of_a_usage_are_checked_alike(name: str) -> None:
    assert USAGES.parse({name: {"templates": TWO}}).templates == tuple(TWO)
    with pytest.raises(ConfigError) as caught:
        USAGES.parse({name: {"templates": ["a photo of {}", "a photo"]}})
    for part in ("templates.1", "exactly one {}", "'a photo'"):
        assert part in str(caught.value)
