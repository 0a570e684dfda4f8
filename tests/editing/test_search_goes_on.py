"""A search that is cut off goes on as if nothing had happened."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from kit_scene import dne, small
from torch import Tensor, nn

from fairtune.editing import MODES, kept
from fairtune.editing.learned import Learned
from fairtune.errors import Interrupted, ModelError, RunError

STEPWISE = [name for name in MODES if MODES.parse(name).queries]  # type: ignore[attr-defined]
CHILD = """
import sys, time
from pathlib import Path
from kit_scene import dne, small
from fairtune.editing import kept

def hang(call):
    if call == 30:
        print("hangs", flush=True)
        time.sleep(600)

kept.EVERY = 0.0
rule = dne(mode="scalar_normalised", queries=64, refit_every=2, batch_size=8)
rule.make(small(states=Path(sys.argv[1]), embedding=hang).scene)
"""


def same(a: Learned, b: Learned) -> None:
    assert a.edit.sha == b.edit.sha
    assert a.queries == b.queries
    assert list(a.trace) == list(b.trace)
    assert a.edit.about == b.edit.about


def leaving(after: int) -> Callable[..., None]:
    """Return what leaves at the call number `after` that is no look at the features."""
    seen = 0

    def watch(what: str, *_: int) -> None:
        nonlocal seen
        seen += "learning" in what
        if seen > after:
            raise Interrupted("stopped")

    return watch


def failing(at: int) -> Callable[[int], None]:
    def embedding(call: int) -> None:
        if call == at:
            raise ModelError("the endpoint is gone")

    return embedding


@pytest.mark.parametrize("mode", STEPWISE)
def test_a_search_that_is_stopped_again_and_again_ends_as_one_that_is_not(
    mode: str, tmp_path: Path
) -> None:
    budget = 6 * MODES.parse(mode).queries + 10  # type: ignore[attr-defined]
    rule = dne(mode=mode, queries=budget, refit_every=2, batch_size=8, utility_weight=0.5)
    whole = rule.make(small().scene)
    assert whole.queries["refits"] > 0
    folder, stops = tmp_path / "search", 0
    while stops < 50:
        try:
            made = rule.make(small(states=folder, watch=leaving(1 + stops % 2)).scene)
            break
        except Interrupted:
            assert (folder / kept.FILE).is_file()
            stops += 1
    same(made, whole)
    assert stops >= len(whole.trace) // 2
    assert not folder.exists()


@pytest.mark.parametrize("at", [0, 3, 8, 9, 17, 20, 33])
@pytest.mark.parametrize("mode", ["white", "scalar_normalised"])
def test_a_model_that_fails_for_good_loses_nothing(mode: str, at: int, tmp_path: Path) -> None:
    rule = dne(mode=mode, queries=60, refit_every=2, batch_size=8, objective="faap_mix")
    whole = rule.make(small().scene)
    with pytest.raises(ModelError, match="gone"):
        rule.make(small(states=tmp_path, embedding=failing(at)).scene)
    assert (tmp_path / kept.FILE).is_file()
    again = small(states=tmp_path)
    same(rule.make(again.scene), whole)
    # Nothing but the step or refit that was cut off is asked again.
    assert len(again.batches) <= whole.spent - at + max(rule.searched.queries, 5)
    assert not (tmp_path / kept.FILE).exists()


def test_a_process_that_is_killed_loses_one_step(tmp_path: Path) -> None:
    here = str(Path(__file__).parent)
    command = [sys.executable, "-c", CHILD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=here) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "hangs\n"
        child.kill()
    rule = dne(mode="scalar_normalised", queries=64, refit_every=2, batch_size=8)
    again = small(states=tmp_path)
    same(rule.make(again.scene), rule.make(small().scene))
    assert len(again.batches) < 64 - 30 + 8


@pytest.mark.parametrize("harm", ["cut", "flipped", "other"])
def test_a_damaged_state_is_dropped_with_a_message(
    harm: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rule = dne(mode="white", queries=12, batch_size=8)
    with pytest.raises(Interrupted):
        rule.make(small(states=tmp_path, watch=leaving(5)).scene)
    file = tmp_path / kept.FILE
    content = bytearray(file.read_bytes())
    if harm == "cut":
        content = content[: len(content) // 2]
    elif harm == "flipped":
        content[-3] ^= 1
    else:
        rule = rule.model_copy(update={"seed": 1})
    file.write_bytes(bytes(content))
    again = small(states=tmp_path)
    with caplog.at_level(logging.WARNING):
        made = rule.make(again.scene)
    assert "the state of an edit's search is dropped" in caplog.text
    assert len(again.batches) == 12
    same(made, rule.make(small().scene))
    assert not file.exists()


def test_a_folder_that_cannot_be_written_costs_the_state_and_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept, "EVERY", 0.0)
    (tmp_path / "file").write_text("no folder")
    rule = dne(mode="white", queries=6, batch_size=8)
    with caplog.at_level(logging.WARNING):
        made = rule.make(small(states=tmp_path / "file").scene)
    assert "could not be kept" in caplog.text
    same(made, rule.make(small().scene))
    assert (tmp_path / "file").read_text() == "no folder"


def test_a_state_is_not_written_at_every_step(tmp_path: Path) -> None:
    folder = tmp_path / "search"
    dne(mode="white", queries=20, batch_size=8).make(
        small(states=folder, embedding=lambda call: absent(folder)).scene
    )


def absent(folder: Path) -> None:
    assert not folder.exists()


class Broken(nn.Module):
    def forward(self, image: Tensor) -> Tensor:
        return image.flatten(1) * float("nan")


def test_a_loss_that_is_not_finite_leaves_nothing_to_go_on_from(tmp_path: Path) -> None:
    held = small(states=tmp_path, model=Broken())
    rule = dne(mode="white", objective="mean_match", queries=20, batch_size=8)
    with pytest.raises(RunError) as fault:
        rule.make(held.scene)
    assert fault.value.reason == "nan"
    assert not (tmp_path / kept.FILE).exists()
