"""Who may do what through the dashboard's address."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from fairtune.errors import ConfigError
from fairtune.report.serve import guarded
from fairtune.study.overview import Overview


def passed(method: str, path: str, host: str = "127.0.0.1:8080") -> bool:
    seen: list[str] = []

    def app(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        seen.append("app")
        return []

    environ = {"REQUEST_METHOD": method, "PATH_INFO": path, "HTTP_HOST": host}
    told: list[str] = []
    list(guarded(app)(environ, lambda status, headers: told.append(status)))
    assert told == ([] if seen else ["403 Forbidden"])
    return bool(seen)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:9000"])
def test_this_machine_reads_and_notes(host: str) -> None:
    assert passed("GET", "/api/studies/1", host)
    assert passed("PUT", "/api/studies/1/7/note", host)
    assert passed("PUT", "/api/studies/1/note/", host)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("DELETE", "/api/studies/1"), ("POST", "/api/studies/1/rename"),
        ("POST", "/api/trials/3/tell"), ("PUT", "/api/studies/1/preference_feedback_component"),
        ("POST", "/api/studies/1/note"),
    ],
)  # fmt: skip
def test_nothing_that_a_worker_would_not_survive_passes(method: str, path: str) -> None:
    assert not passed(method, path)


@pytest.mark.parametrize("host", ["evil.example:80", "", "127.0.0.1.evil.example:80"])
def test_pages_from_elsewhere_are_refused(host: str) -> None:
    assert not passed("GET", "/api/studies", host)


@pytest.mark.slow
def test_the_real_dashboard_answers_on_loopback(view: Overview) -> None:
    from fairtune.report.serve import Dashboard

    with Dashboard(view.place.url, None) as served:
        base = served.address.removesuffix("/dashboard")
        with urllib.request.urlopen(f"{base}/api/studies", timeout=30) as answer:
            names = [s["study_name"] for s in json.load(answer)["study_summaries"]]
        assert "tested" in names
        wrong = urllib.request.Request(f"{base}/api/studies/1", method="DELETE")
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(wrong, timeout=30)
        port = int(base.rpartition(":")[2])
        with pytest.raises(ConfigError, match="port cannot be used"):
            Dashboard(view.place.url, None, port)
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(f"{base}/api/studies", timeout=5)
