"""A folder at a URL: what it is called, what is asked again, what is refused at once."""

from __future__ import annotations

import errno
import logging
import socket
import sys
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from fairtune.errors import ConfigError, StorageError
from fairtune.remote import Remote

S3 = pytest.mark.needs("s3")


class Flaky(MemoryFileSystem):
    """A file system that fails as often as it is told to, then works."""

    protocol = "flaky"
    store: dict[str, object] = {}  # noqa: RUF012
    pseudo_dirs = [""]  # noqa: RUF012
    faults: list[Exception] = []  # noqa: RUF012

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **more: object) -> None:
        if self.faults:
            raise self.faults.pop()
        super().pipe_file(path, value, mode, **more)


@pytest.fixture
def flaky(monkeypatch: pytest.MonkeyPatch) -> type[Flaky]:
    fsspec.register_implementation("flaky", Flaky, clobber=True)
    monkeypatch.setattr("fairtune.remote._PAUSE", 0.01)
    Flaky.faults.clear()
    return Flaky


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("s3://bucket/runs/", "s3://bucket/runs"),
        (" s3://bucket ", "s3://bucket"),
        ("file:///some/path", "file:///some/path"),
        ("/some/a path", "file:///some/a path"),
        ("memory://x/y", "memory://x/y"),
        ("s3://bucket/of@us", "s3://bucket/of@us"),
        ("sftp://host:22/data/of@us", "sftp://host:22/data/of@us"),
    ],
)
def test_a_url_names_a_folder(text: str, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fairtune.remote._check_library", lambda scheme, url: None)
    assert Remote.at(text).url == url


def test_a_path_is_the_folder_itself(tmp_path: Path) -> None:
    folder = tmp_path / "a folder, 50%"
    Remote.at(str(folder)).write("x/y", b"1")
    assert (folder / "x" / "y").read_bytes() == b"1"
    assert Remote.at(f"file://{folder}/").names("x") == ["x/y"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("results/runs", "not a URL of a folder"),
        ("s3://", "not a URL of a folder"),
        ("s3://bucket/x?versionId=hunter2", "not a URL of a folder"),
        ("simplecache::s3://bucket/x", "not a URL of a folder"),
        ("s4://bucket/x", "unknown kind of URL"),
        ("s3://me:hunter2@bucket/x", "holds no credentials"),
        ("s3://me:hun/hunter2@bucket/x", "holds no credentials"),
        ("me:hunter2@bucket/x", "holds no credentials"),
        ("s3://hunter2@bucket/x", "holds no credentials"),
    ],
)
def test_what_is_no_such_url_is_refused_without_its_secrets(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        Remote.at(text)
    assert "hunter2" not in str(caught.value)
    assert caught.value.allowed or caught.value.todo


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
    with pytest.raises(ConfigError) as caught:
        Remote.at("s3://bucket/x")
    assert caught.value.todo == "pip install 'fairtune[s3]'"


def test_what_may_pass_is_asked_again(
    flaky: type[Flaky], caplog: pytest.LogCaptureFixture
) -> None:
    flaky.faults[:] = [ConnectionResetError("reset"), TimeoutError(), OSError(errno.EBUSY, "busy")]
    there = Remote.at("flaky://x")
    with caplog.at_level(logging.WARNING):
        there.write("a", b"1")
    assert there.read("a") == b"1"
    assert len(caplog.records) == 3
    assert "cannot write: reset; again in" in caplog.text


@pytest.mark.parametrize(
    "fault",
    [
        PermissionError("Access Denied"),
        OSError(errno.ENOSPC, "full"),
        ValueError("bad"),
        FileExistsError("a file"),
        FileNotFoundError("no bucket"),
    ],
)
def test_what_is_refused_is_not_asked_again(
    fault: Exception, flaky: type[Flaky], caplog: pytest.LogCaptureFixture
) -> None:
    flaky.faults[:] = [fault]
    with caplog.at_level(logging.WARNING), pytest.raises(StorageError) as caught:
        Remote.at("flaky://x").write("a", b"1")
    assert "does not answer" not in caught.value.what
    assert not caplog.records


def test_it_is_given_up_after_its_time(flaky: type[Flaky]) -> None:
    flaky.faults[:] = [ConnectionError("down")] * 100
    with pytest.raises(StorageError, match="does not answer") as caught:
        Remote.at("flaky://x", patience=0.1).write("a", b"1")
    assert caught.value.found == "down"
    assert caught.value.where == "flaky://x"


def test_what_is_read_back_wrong_is_told(flaky: type[Flaky]) -> None:
    class Lying(Flaky):
        def cat_file(self, path: str, **more: object) -> bytes:
            return b"other"

    fsspec.register_implementation("flaky", Lying, clobber=True)
    with pytest.raises(StorageError, match="not what was written"):
        Remote.at("flaky://x").check()


@S3
def test_a_bucket_that_is_not_there_is_told_before_any_work(s3_url: str) -> None:
    Remote.at(s3_url).check()
    with pytest.raises(StorageError, match="cannot write") as caught:
        Remote.at(f"{s3_url.rsplit('/', 2)[0]}-of-nobody/x").check()
    assert "bucket does not exist" in str(caught.value.found)
    assert "a-secret-of-the-tests" not in str(caught.value)


@S3
def test_a_server_that_is_gone_is_told(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        # Bound and not listening: the port is nobody else's, and connections are refused.
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{held.getsockname()[1]}")
        fsspec.get_filesystem_class("s3").clear_instance_cache()
        with pytest.raises(StorageError, match="does not answer") as caught:
            Remote.at(s3_url, patience=0.0).read("a")
    assert "a-secret-of-the-tests" not in str(caught.value)


@S3
def test_a_server_that_says_nothing_is_given_up(
    s3_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("fairtune.remote._ONCE", 0.5)
    (tmp_path / "a").write_text("1")
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        fsspec.get_filesystem_class("s3").clear_instance_cache()
        there = Remote.at(s3_url, patience=0.0)
        for ask in (
            lambda: there.put({"a": tmp_path / "a"}),
            lambda: there.write("a", b"1"),
            lambda: there.read("a"),
            lambda: there.names("a"),
        ):
            with pytest.raises(StorageError, match="does not answer"):
                ask()


@S3
def test_without_credentials_it_is_told_at_once(
    s3_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    with pytest.raises(StorageError) as caught:
        Remote.at(s3_url).write("a", b"1")
    assert "credentials" in str(caught.value)
