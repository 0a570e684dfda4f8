"""Tests here start workers that are processes; see `crew`."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

# `crew` runs phases of the ledger's own tests.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "study"))

from crew import Crew, Orders
from kit_servers import Postgres, fresh_database


@pytest.fixture(scope="session")
def own_server() -> Iterator[Postgres]:
    """A server that tests stop and freeze; each leaves it running."""
    with Postgres() as server:
        yield server


@pytest.fixture
def hire(postgres_url: str, tmp_path: Path) -> Iterator[Callable[..., Crew]]:
    """Make a crew on a new study, by default on the server that tests share."""
    with contextlib.ExitStack() as stack:

        def make(url: str = postgres_url, **orders: Any) -> Crew:
            crew = stack.enter_context(Crew(tmp_path, Orders(url=url, **orders)))
            crew.orders.ledger().close()
            return crew

        yield make


@pytest.fixture
def own_url(own_server: Postgres) -> Iterator[str]:
    """A database on the server that may be stopped."""
    with fresh_database(own_server.url) as url:
        yield url
