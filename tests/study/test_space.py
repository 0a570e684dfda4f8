"""The searched part: names, draws and encodings, and what is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kit_plan import plan, vit
from pydantic import Field as Bound

from fairtune.adaptation import ALIASES, Rule
from fairtune.config import Choice, Config, Dimension, Float, Int, Registry, parse
from fairtune.config.model import Source
from fairtune.config.yaml12 import loads
from fairtune.errors import ConfigError, FairtuneError, ModelError, Problems
from fairtune.study import written
from fairtune.study.fields import Field
from fairtune.study.space import Constant, Leaf, Member, OneOf, Space, middle

VIT = vit(12)
SMALL = vit(3)


def space_of(text: str) -> Space:
    located = loads(text, "s.yaml")
    space, problems = written.compile_space(located.data, Source(located))
    assert problems == []
    return space


def refused(text: str) -> FairtuneError:
    located = loads(text, "s.yaml")
    _, problems = written.compile_space(located.data, Source(located))
    (problem,) = problems
    return problem


def first(name: str, dimension: Dimension) -> Any:
    return dimension.options[0] if isinstance(dimension, Choice) else dimension.low


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("optim.lr: {float: [1e-5, 1e-3], log: true}", Float(1e-5, 1e-3, log=True)),
        ("optim.warmup: {float: [0, 0.2], step: 0.05}", Float(0.0, 0.2, step=0.05)),
        ("optim.epochs: {int: [1, 9], step: 2}", Int(1, 9, step=2)),
        ("optim.epochs: {int: [1, 8], log: true}", Int(1, 8, log=True)),
        ("optim.lr: {int: [1, 3]}", Int(1, 3)),
        ("optim.optimizer: {one_of: [adamw, sgd]}", Choice(("adamw", "sgd"))),
        ("optim.optimizer: declared", Choice(("adamw", "sgd"))),
        ("optim.lr: declared", Float(1e-5, 1e-3, log=True)),
        ("optim.batch_size: {one_of: [16]}", Choice((16,))),
    ],
)
def test_a_plain_distribution_is_one_parameter_of_its_path(text: str, expected: Any) -> None:
    space = space_of(text)
    path = text.partition(":")[0]
    assert space.parameters(VIT) == {path: expected}
    assert not space.conditional(VIT)
    assert space.draw(first, VIT) == {path: first(path, expected)}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("optim.epochs: {float: [1, 4]}", "integer"),
        ("optim.epochs: {one_of: [2, 2.5]}", "integer"),
        ("optim.epochs: {one_of: ['4']}", "integer"),
        ("optim.lr: {one_of: [true]}", "number"),
        ("optim.lr: {float: [0, 1e-3]}", "greater than 0"),
        ("optim.lr: {float: [1e-3, 1e-5]}", "in order"),
        ("optim.lr: {float: [0, 1], log: true}", "above 0"),
        ("optim.lr: {float: [1e-5, 1e-3], log: true, step: 1e-5}", "either log or step"),
        ("optim.lr: {float: [1e-5], log: true}", "[low, high]"),
        ("optim.lr: {float: [1e-5, 1e-3], lo: true}", "unknown key 'lo'"),
        ("optim.epochs: {int: [1, 2.5]}", "whole ends"),
        ("optim.epochs: {int: [0, 4]}", "greater than or equal to 1"),
        ("optim.warmup: {float: [0, 1]}", "less than 1"),
        ("optim.optimizer: {one_of: [adam]}", "adamw"),
        ("optim.optimizer: {int: [0, 1]}", "adamw"),
        ("optim.lr: {one_of: [1e-3, 1e-3]}", "twice"),
        ("optim.lr: {one_of: []}", "one_of takes a list"),
        ("optim.lr: {one_of: [1e-3], log: true}", "nothing else"),
        ("optim.lr: {one_of: [[1]]}", "not a choice"),
        ("optim.lr: {one_of: [{one_of: [1, 2]}]}", "does not stand inside one_of"),
        ("optim.lr: 1e-3", "not a distribution"),
        ("optim.lr: {lo: 1}", "not a distribution"),
        ("optim.lr: {subset_of: [1]}", "list fields only"),
        ("optim.clip: declared", "unknown recipe field"),
        ("fit.rows: {one_of: [train]}", "fixed for a study"),
        ("fit.precision: {one_of: [bf16]}", "fixed for a study"),
        ("data.dataset: {one_of: [a]}", "fixed for a study"),
        ("model: {one_of: [a]}", "fixed for a study"),
        ("mitigations: {subset_of: [group_dor]}", "unknown mitigation"),
        ("mitigations: {subset_of: []}", "not a choice among members"),
        ("mitigations: {subset_of: [laftr, laftr]}", "stands twice"),
        ("mitigations: {subset_of: [sinkhorn], max: 0}", "max is a whole number"),
        ("mitigations: {subset_of: [sinkhorn], most: 1}", "unknown key 'most'"),
        ("mitigations: {one_of: [none, sinkhorn], max: 1}", "unknown key 'max'"),
        ("mitigations: [sinkhorn]", "not a choice among members"),
        ("mitigations: declared", "not a choice among members"),
        ("mitigations: {subset_of: [{sinkhorn: {wieght: 1.0}}]}", "unknown field 'wieght'"),
        ("mitigations: {subset_of: [{sinkhorn: {distance: {one_of: [w3]}}}]}", "unknown distance"),
        ("adaptation.method.attn: {one_of: [drect]}", "unknown adaptation method"),
        ("adaptation.method.attn: {int: [1, 2]}", "chosen by name"),
        ("adaptation.method.attn+: {one_of: [direct]}", "not a unit type"),
        ("adaptation.method: declared", "declares no range"),
        ("adaptation.method: {float: [0, 1]}", "chosen by name"),
        ("adaptation.method: {one_of: [{lora: {rank: 0}}]}", "greater than or equal to 1"),
        ("adaptation.method: {one_of: [{lora: {rank: {int: [0, 4]}}}]}", "greater than or equal"),
        ("adaptation.method: {one_of: [{lora: {targets: w}}]}", "qkv"),
        ("adaptation.method: {one_of: [dirct]}", "unknown adaptation method"),
        ("adaptation.method: {one_of: [{direct: {rank: 3}}]}", "unknown field 'rank'"),
        ("adaptation.mask: {int: [0, 4]}", "valid string"),
        ("adaptation.mask: auto_peft3", "unknown mask space"),
        ("adaptation.mask: {bits: {typs: [attn]}}", "typs"),
        ("adaptation.mask: {one_of: ['attn:x']}", "not a depth"),
        ("adaptation.mask: {one_of: [none, none]}", "twice"),
        ("adaptation.mask: declared", "declares no range"),
    ],
)  # fmt: skip
def test_what_is_refused_names_place_and_reason(text: str, words: str) -> None:
    located = loads(text, "s.yaml")
    _, problems = written.compile_space(located.data, Source(located))
    assert problems
    assert words in "\n".join(map(str, problems))
    for problem in problems:
        assert str(problem.where).startswith("s.yaml:1:1 (")


def test_an_unknown_path_and_alias_are_met_with_the_closest() -> None:
    assert refused("optim.leraning_rate: declared").allowed
    assert refused("optim.epoch: declared").todo == "did you mean 'optim.epochs'?"
    assert refused("adaptation.mask: auto_pft2").todo == "did you mean 'auto_peft2'?"


@pytest.mark.parametrize(
    ("alias", "switches"),
    [
        ("tune_full_block", 12),
        ("tune_attention_blocks_random", 12),
        ("tune_layernorm_blocks_random", 12),
        ("tune_mlp_blocks_random", 12),
        ("tune_attention_layernorm", 12),
        ("tune_attention_mlp", 12),
        ("tune_layernorm_mlp", 12),
        ("tune_attention_layernorm_mlp", 12),
        ("auto_peft1", 36),
        ("auto_peft2", 48),
        ("tune_attention_params_random", 48),
    ],
)
def test_every_method_of_fairtune_is_a_space(alias: str, switches: int) -> None:
    parameters = space_of(f"adaptation.mask: {alias}").parameters(VIT)
    assert len(parameters) == switches
    assert set(map(type, parameters.values())) == {Choice}
    assert alias in ALIASES


def test_all_aliases_are_covered_above() -> None:
    assert len(ALIASES) == 11


def test_auto_peft1_is_interleaved_by_block() -> None:
    names = list(space_of("adaptation.mask: auto_peft1").parameters(VIT))
    assert names[:4] == [
        "adaptation.mask.bits.norm.0",
        "adaptation.mask.bits.attn.0",
        "adaptation.mask.bits.mlp.0",
        "adaptation.mask.bits.norm.1",
    ]


def test_a_mask_is_one_of_spaces_and_rules() -> None:
    space = space_of(
        "adaptation.mask: {one_of: [fullft, 'attn:last-2', {bits: {types: [norm, mlp]}}]}"
    )
    parameters = space.parameters(SMALL)
    assert parameters["adaptation.mask"] == Choice(("fullft", "attn:last-2", "bits"))
    assert set(parameters) == {"adaptation.mask"} | {
        f"adaptation.mask.bits.{kind}.{i}" for kind in ("norm", "mlp") for i in range(3)
    }
    assert space.conditional(SMALL)
    drawn = space.draw(lambda name, dimension: "attn:last-2", SMALL)
    assert drawn == {"adaptation.mask": list(Rule.parse("attn:last-2").mask(SMALL).units)}
    assert space.encode({"adaptation.mask": "attn:1-2"}, SMALL) == {
        "adaptation.mask": "attn:last-2"
    }
    assert space.encode({"adaptation.mask": "norm:0"}, SMALL) == {
        "adaptation.mask": "bits",
        **{f"adaptation.mask.bits.{k}.{i}": (k, i) == ("norm", 0) for i in range(3)
           for k in ("norm", "mlp")},
    }  # fmt: skip
    assert space.encode({"adaptation.mask": "attn:0"}, SMALL) is None


def test_a_single_option_needs_no_label() -> None:
    space = space_of("adaptation.mask: {one_of: [{bits: {types: [norm]}}]}")
    assert list(space.parameters(SMALL)) == [f"adaptation.mask.bits.norm.{i}" for i in range(3)]


def test_a_rule_or_type_that_the_model_does_not_have_is_refused_before_any_trial() -> None:
    space = space_of("adaptation.mask: {one_of: [none, 'attn:0-11']}")
    assert list(space.parameters(VIT)) == ["adaptation.mask"]
    with pytest.raises(ModelError, match="beyond the network's 3 blocks"):
        space.parameters(SMALL)
    with pytest.raises(ModelError, match="no unit type"):
        space_of("adaptation.mask: {bits: {types: [conv]}}").parameters(SMALL)


def test_mixed_choices_are_a_label_and_a_range() -> None:
    space = space_of("optim.weight_decay: {one_of: [0.0, {log: true, float: [1e-4, 1e-1]}]}")
    assert space.parameters(VIT) == {
        "optim.weight_decay": Choice((0.0, "float")),
        "optim.weight_decay.range": Float(1e-4, 1e-1, log=True),
    }
    assert space.conditional(VIT)
    asked: list[str] = []

    def suggest(label: Any) -> Any:
        def one(name: str, dimension: Dimension) -> Any:
            asked.append(name)
            return label if isinstance(dimension, Choice) else 0.05

        return one

    assert space.draw(suggest(0.0), VIT) == {"optim.weight_decay": 0.0}
    assert asked == ["optim.weight_decay"]
    assert space.draw(suggest("float"), VIT) == {"optim.weight_decay": 0.05}
    assert space.encode({"optim.weight_decay": 0.05}, VIT) == {
        "optim.weight_decay": "float",
        "optim.weight_decay.range": 0.05,
    }
    assert space.encode({"optim.weight_decay": 0.0}, VIT) == {"optim.weight_decay": 0.0}
    assert space.encode({"optim.weight_decay": 0.5}, VIT) is None


KINDS: Registry[Config] = Registry("kind", "none.such", optional=True)
MODES: Registry[Config] = Registry("mode", "none.such", optional=True)


@MODES.register("still")
class Still(Config):
    """No field."""


@MODES.register("gezo")
class Gezo(Config):
    """Two declared fields."""

    init_step: Annotated[float, Float(1e-3, 1e-1, log=True)] = 1e-2
    samples: Annotated[int, Choice((1, 2, 5))] = 1


@KINDS.register("dne")
class Dne(Config):
    """A member with a member inside."""

    mode: Annotated[Any, MODES.field()] = Bound("still", validate_default=True)
    weight: Annotated[float, Float(0.1, 10.0, log=True), Bound(gt=0)] = 1.0
    steps: Annotated[int, Bound(ge=1)] = 3


class Holder(Config):
    """What a recipe would hold."""

    edit: Annotated[Any, KINDS.field()] = Bound("dne", validate_default=True)


def member_space(text: str) -> Space:
    node = written._distribution(loads(text).data, Field.of("edit", Holder, "edit"))
    return Space((("edit", node),))


NESTED = """
one_of:
  - none
  - dne:
      mode:
        one_of:
          - still
          - gezo: {init_step: {float: [5e-4, 3e-2], log: true}, samples: {one_of: [1, 10]}}
      weight: {one_of: [1.0, {float: [0.1, 3], log: true}]}
      steps: 7
"""


def test_members_nest_with_names_of_rule_2() -> None:
    space = member_space(NESTED)
    assert list(space.parameters(SMALL)) == [
        "edit",
        "edit.dne.mode",
        "edit.dne.mode.gezo.init_step",
        "edit.dne.mode.gezo.samples",
        "edit.dne.weight",
        "edit.dne.weight.range",
    ]
    assert space.conditional(SMALL)


def test_what_stands_inside_a_member_is_drawn_only_when_it_is_chosen() -> None:
    space = member_space(NESTED)

    def drawn(**wanted: Any) -> tuple[Any, list[str]]:
        asked: list[str] = []

        def suggest(name: str, dimension: Dimension) -> Any:
            asked.append(name)
            return wanted.get(name.replace(".", "_"), first(name, dimension))

        return space.draw(suggest, SMALL)["edit"], asked

    assert drawn(edit="none") == ("none", ["edit"])
    value, asked = drawn(edit="dne", edit_dne_mode="gezo", edit_dne_weight="float")
    assert value == {
        "dne": {
            "mode": {"gezo": {"init_step": 5e-4, "samples": 1}},
            "weight": 0.1,
            "steps": 7,
        }
    }
    assert asked == list(space.parameters(SMALL))
    still, asked = drawn(edit="dne")
    assert still == {"dne": {"mode": {"still": {}}, "weight": 1.0, "steps": 7}}
    assert "edit.dne.mode.gezo.init_step" not in asked
    for made in (value, still):
        assert parse(Holder, {"edit": made}).edit.steps == 7
        params = space.encode({"edit": made}, SMALL)
        assert params is not None
        assert space.draw(lambda name, _, p=params: p[name], SMALL) == {"edit": made}


def test_a_name_alone_has_its_declared_ranges() -> None:
    space = member_space("{one_of: [dne]}")
    assert space.parameters(SMALL) == {"edit.dne.weight": Float(0.1, 10.0, log=True)}
    assert space.nodes[0][1] == Member("dne", (("weight", Leaf(Float(0.1, 10.0, log=True))),))


def test_a_field_may_be_a_member_without_one_of() -> None:
    space = member_space(
        "{one_of: [{dne: {mode: {gezo: {samples: declared}}, weight: declared}}]}"
    )
    assert list(space.parameters(SMALL)) == ["edit.dne.mode.gezo.samples", "edit.dne.weight"]
    assert space.draw(first, SMALL)["edit"] == {
        "dne": {"mode": {"gezo": {"samples": 1}}, "weight": 0.1}
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{one_of: [{dne: {steps: 0}}]}", "greater than or equal to 1"),
        ("{one_of: [{dne: {steps: declared}}]}", "declares no range"),
        ("{one_of: [{dne: {step: 3}}]}", "unknown field 'step' of kind 'dne'"),
        ("{one_of: [{dne: {mode: fast}}]}", "unknown mode"),
        ("{one_of: [{dne: {mode: {gezo: {sample: 3}}}}]}", "unknown field 'sample'"),
        ("{one_of: [{dne: {}, x: {}}]}", "is written NAME or"),
        ("{one_of: [snes]}", "unknown kind"),
        ("{one_of: [dne, dne]}", "twice"),
    ],
)
def test_a_wrong_member_is_refused_before_any_trial(text: str, words: str) -> None:
    with pytest.raises((ConfigError, Problems)) as caught:
        member_space(text)
    assert words in str(caught.value)


def test_a_constant_and_a_choice_of_one_say_only_their_value() -> None:
    assert Constant(3).encode("x", 4, SMALL) is None
    node = OneOf(((0.0, Constant(0.0)), ("float", Leaf(Float(1, 2)))))
    assert node.encode("x", 9.0, SMALL) is None


@pytest.mark.parametrize(
    ("dimension", "expected"),
    [
        (Float(1e-4, 1e-2, log=True), 1e-3),
        (Float(0.0, 1.0), 0.5),
        (Float(0.0, 1.0, step=0.3), 0.3),
        (Int(1, 10, step=3), 4),
        (Int(1, 9), 5),
        (Int(1, 100, log=True), 10),
        (Int(3, 3), 3),
    ],
)
def test_the_middle_lies_on_the_grid(dimension: Float | Int, expected: float) -> None:
    assert middle(dimension) == pytest.approx(expected)
    assert type(middle(dimension)) is (float if isinstance(dimension, Float) else int)


FILES = (
    "{optim.lr: {float: [1e-5, 1e-3], log: true}, adaptation.mask: auto_peft1}",
    "{optim.lr: {one_of: [1e-4, {float: [1e-3, 1e-2]}]}, adaptation.mask: auto_peft2}",
    "{optim.epochs: {int: [1, 9], step: 2}, optim.optimizer: declared, "
    "adaptation.mask: {one_of: [none, fullft, 'attn:first-1', tune_full_block]}}",
    "{optim.warmup: {float: [0, 0.2], step: 0.05}, "
    "adaptation.mask: {bits: {types: [attn+norm], always: [pos]}}}",
)  # fmt: skip


def draws(name: str, dimension: Dimension, data: st.DataObject) -> Any:
    match dimension:
        case Choice(options):
            return data.draw(st.sampled_from(options), name)
        case Int(low, high, _, step):
            return low + (step or 1) * data.draw(st.integers(0, (high - low) // (step or 1)), name)
        case Float(low, high, _, None):
            return data.draw(st.floats(low, high), name)
        case Float(low, high, _, step):
            return low + step * data.draw(st.integers(0, round((high - low) / step)), name)


@settings(max_examples=50)
@given(st.sampled_from(FILES), st.data())
def test_every_point_is_a_valid_recipe_and_encodes_to_itself(text: str, data: Any) -> None:
    space, whole = space_of(text), plan(SMALL)
    params: dict[str, Any] = {}

    def suggest(name: str, dimension: Dimension) -> Any:
        params[name] = draws(name, dimension, data)
        return params[name]

    values = space.draw(suggest, SMALL)
    recipe = whole.recipe({"optim.lr": 1e-3, **values})
    assert set(recipe.adaptation.mask) <= set(SMALL.names)
    again = space.encode(values, SMALL)
    assert again is not None
    assert space.draw(lambda name, _: again[name], SMALL) == values
    known: Mapping[str, Dimension] = space.parameters(SMALL)
    assert set(params) <= set(known)
    assert set(again) <= set(known)
