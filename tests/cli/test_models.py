from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import Result
from kit_language import SIDE, TEXT_BLOCKS, write_pair
from safetensors.torch import save_file
from typer.testing import CliRunner

from fairtune.cli import doctor, models
from fairtune.errors import FairtuneError
from fairtune.models import load, names
from fairtune.models.backbone import build


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAIRTUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "100")


def call(*words: str) -> Result:
    import typer

    app = typer.Typer()
    models.register(app)
    doctor.register(app)
    result = CliRunner().invoke(app, words)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_list_shows_every_model_and_the_state_of_its_weights(tmp_path: Path) -> None:
    rows = json.loads(call("models", "list", "--format", "json").stdout)
    assert [row["name"] for row in rows] == names()
    assert {row["weights"] for row in rows} == {"none", "not cached"}
    assert all(name in call("models", "list").stdout for name in names())


def test_units_shows_types_and_their_share() -> None:
    out = call("models", "units", "test_vit").stdout
    line = next(line for line in out.splitlines() if line.startswith("attn"))
    assert line.split() == ["attn", "24", "99,840", "33.18%", "0-5"]
    content = json.loads(call("models", "units", "test_vit", "--format", "json").stdout)
    shares = {row["type"]: row["share"] for row in content["rows"]}
    assert sum(shares[t] for t in ("block", "stem", "pos", "final_norm")) == pytest.approx(1)


def test_units_of_one_type_go_block_by_block() -> None:
    words = ("models", "units", "test_vit", "--type", "norm1+attn.qkv.bias")
    rows = json.loads(call(*words, "--format", "json").stdout)["rows"]
    assert [row["block"] for row in rows] == list(range(6))
    assert rows[2]["names"][-1] == "blocks.2.attn.qkv.bias"
    assert "blocks.5.norm1.weight" in call(*words).stdout
    with pytest.raises(FairtuneError, match="did you mean 'norm'"):
        call("models", "units", "test_vit", "--type", "nrm")


def test_units_shows_what_a_mask_space_means() -> None:
    words = ("models", "units", "test_vit", "--space")
    out = call(*words, "cutoff: {types: [norm, attn+mlp]}").stdout
    assert "parameters  4 of the study" in out
    assert "masks       144\n" in out
    assert [line.split() for line in out.splitlines() if line.startswith("attn")] == [
        ["attn+mlp.cut", "0", "to", "1"],
        ["attn+mlp.side", "first", "|", "last"],
    ]
    content = json.loads(call(*words, "auto_peft1", "--format", "json").stdout)
    assert content["space"] == {
        "bits": {"types": ["norm", "attn", "mlp"], "always": [], "blocks": "all"}
    }
    assert (len(content["parameters"]), content["masks"], content["exact"]) == (18, 2**18, True)
    assert content["parameters"][0] == {"name": "norm.0", "one_of": [False, True]}
    types = json.loads(call(*words[:3], "--format", "json").stdout)["rows"]
    whole = sum(row["share"] for row in types if row["type"] in ("norm", "attn", "mlp"))
    assert content["shares"] == [0.0, pytest.approx(whole)]
    overlapping = call(*words, "bits: {types: [block, attn, norm1, norm2, mlp], always: [pos]}")
    assert "masks       at most 1,073,741,824" in overlapping.stdout
    assert "0.36% to at most" in overlapping.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--space", "cutof"], "did you mean 'cutoff'"),
        (["--space", "topk"], "either count or share"),
        (["--space", "topk: {count: 19}"], "more switches than there are"),
        (["--space", "cutoff: {types: [conv]}"], "no unit type"),
        (["--space", "cutoff: {types: [attn}"], "not valid YAML"),
        (["--space", "cutoff", "--type", "attn"], "cannot be shown together"),
    ],
)
def test_a_space_that_cannot_be_shown_is_refused(words: list[str], message: str) -> None:
    with pytest.raises(FairtuneError, match=message):
        call("models", "units", "test_vit", *words)


def test_pull_from_a_file_is_found_afterwards(tmp_path: Path) -> None:
    spec = load("tf_efficientnet_lite0")
    file = tmp_path / "w.safetensors"
    save_file(spec.seeded(64, 0).state_dict(), file)
    out = call("models", "pull", spec.name, "--from", str(file)).stdout
    assert out.startswith("tf_efficientnet_lite0: file w.safetensors\ntensors ")
    rows = json.loads(call("models", "list", "--format", "json").stdout)
    assert {r["name"]: r["weights"] for r in rows}[spec.name] == "cached"
    with pytest.raises(FairtuneError, match="no such weights file"):
        call("models", "pull", spec.name, "--from", str(tmp_path / "absent"))


def test_pull_fetches_the_tokenizer_too(tmp_path: Path) -> None:
    found = []
    for folder in (tmp_path / "one", tmp_path / "two"):
        path = write_pair(folder)
        spec = load(str(path))
        file = folder / "pair.safetensors"
        tensors = build(spec, SIDE, None).net.state_dict()
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file)
        said = call("models", "pull", str(path), "--from", str(file)).stdout
        assert "texts   24 tokens, tokenizer " in said
        found.append(said.rsplit(maxsplit=1)[1])
    assert found[0] == found[1]  # it is what it reads, wherever it lies
    (tmp_path / "one" / "vocab.txt").unlink()
    with pytest.raises(FairtuneError, match="tokenizer of model 'tiny_pair' cannot be read"):
        call("models", "pull", str(tmp_path / "one" / "tiny_pair.yaml"), "--from", str(file))


def test_a_type_of_one_tower_has_the_blocks_of_that_tower(tmp_path: Path) -> None:
    path = write_pair(tmp_path)
    shown = call("models", "units", str(path), "--type", "text.attn", "--format", "json").stdout
    assert [row["block"] for row in json.loads(shown)["rows"]] == list(range(TEXT_BLOCKS))
    rows = json.loads(call("models", "list", "--format", "json").stdout)
    texts = {row["name"]: row["texts"] for row in rows}
    assert texts["dinov2s_minilm"] == "128 tokens"
    assert texts["vit_small_dinov2"] is None


def test_doctor_leaves_with_1_only_when_something_fails(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    good = call("doctor", "--format", "json")
    assert good.exit_code == 0
    assert {check["state"] for check in json.loads(good.stdout)} == {"ok", "warn"}
    monkeypatch.setenv("FAIRTUNE_DATA", str(tmp_path / "absent"))
    bad = call("doctor")
    assert bad.exit_code == 1
    assert "correct FAIRTUNE_DATA" in bad.stdout


def test_the_group_can_be_added_to() -> None:
    import typer

    app = typer.Typer()
    models.register(app)
    assert models.group(app) is models.group(app)
    assert len(app.registered_groups) == 1
