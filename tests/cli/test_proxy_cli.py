"""`fairtune proxy` as a process."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest
from kit_cli import here, process

from fairtune.study.family import study_names
from fairtune.study.ledger import Ledger


@pytest.mark.needs("postgres")
@pytest.mark.needs("grpc")
@pytest.mark.slow
def test_it_says_what_to_give_to_workers_and_ends_when_told(postgres_url: str) -> None:
    # Slow: a process of the command is started.
    secret = re.search(r":([^:@]+)@", postgres_url)
    child = process(["proxy", "--port", "0"], FAIRTUNE_STORAGE=postgres_url)
    assert child.stdout is not None
    said = [child.stdout.readline() for _ in range(3)]
    url = re.search(r"grpc://127\.0\.0\.1:\d+", said[1])
    assert url is not None, child.communicate()
    assert "neither encrypted nor authenticated" in said[2]
    Ledger.open(url[0], "through-a-proxy", directions=["maximize"], create=True).close()
    child.send_signal(signal.SIGTERM)
    rest, err = child.communicate(timeout=60)
    assert child.returncode == 130
    assert "the proxy has ended" in err
    assert secret is not None
    assert secret[1] not in "".join(said) + rest + err
    assert "through-a-proxy" in study_names(postgres_url)


def test_it_wants_a_storage_and_a_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = here(["proxy"], monkeypatch, capsys)
    assert code == 2
    assert "which database?" in err
