"""Faults of real servers: which are told at once, and which are waited for."""

from __future__ import annotations

import contextlib
import threading
import uuid
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy
from kit_ledger import open_ledger, proposal
from kit_mariadb import MariaDB
from optuna.exceptions import StorageInternalError
from optuna.study import StudyDirection

from fairtune.errors import StorageError
from fairtune.study.storages import engine_of, open_storage, tables
from fairtune.study.storages.faults import first_line, is_busy, is_full, may_pass

SECONDS = 60.0


@pytest.fixture
def database(mariadb: MariaDB) -> str:
    return mariadb.make(f"t{uuid.uuid4().hex[:12]}")


class Said(Exception):
    """What a driver raises, with a state where it gives one."""

    def __init__(self, *args: Any, sqlstate: str | None = None) -> None:
        super().__init__(*args)
        self.sqlstate = sqlstate


def fault(*args: Any, state: str | None = None) -> StorageInternalError:
    """An error as Optuna raises it, round that of SQLAlchemy, round the driver's."""
    error = StorageInternalError("An exception is raised during the commit.")
    error.__cause__ = sqlalchemy.exc.OperationalError("", {}, Said(*args, sqlstate=state))
    return error


@pytest.mark.parametrize(
    ("error", "passes", "busy", "full"),
    [
        (fault("FATAL:  the database system is starting up"), True, True, False),
        (fault("FATAL:  the database system is shutting down"), True, True, False),
        (fault("FATAL:  the database system is in recovery mode"), True, True, False),
        (fault("x", state="57P03"), True, True, False),
        (fault("FATAL:  sorry, too many clients already"), True, True, False),
        (fault("ERROR: no more connections allowed (max_client_conn)"), True, True, False),
        (fault("server closed the connection unexpectedly"), True, False, False),
        (fault("canceling statement", state="57014"), True, False, False),
        (fault('FATAL:  password authentication failed for user "x"'), False, False, False),
        (fault("nein", state="28P01"), False, False, False),
        (fault("nein", state="3D000"), False, False, False),
        (fault("could not extend file", state="53100"), False, False, True),
        (fault(1045, "Access denied"), False, False, False),
        (fault(1049, "Unknown database"), False, False, False),
        (fault(1040, "Too many connections"), True, True, False),
        (fault(1213, "Deadlock found"), True, True, False),
        (fault(1205, "Lock wait timeout exceeded"), True, True, False),
        (fault(2006, "MySQL server has gone away"), True, False, False),
        (fault(1021, "Disk full"), False, False, True),
        (ConnectionError("proxy: UNAVAILABLE"), True, False, False),
        (OSError(28, "No space left on device"), False, False, True),
    ],
    ids=lambda value: first_line(value)[:40] if isinstance(value, Exception) else None,
)
def test_what_a_fault_means(error: Exception, passes: bool, busy: bool, full: bool) -> None:
    assert (may_pass(error), is_busy(error), is_full(error)) == (passes, busy, full)


@pytest.mark.needs("mariadb")
@pytest.mark.slow
def test_what_mariadb_refuses_is_one_message_without_the_password(
    mariadb: MariaDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Slow: a server is started.
    with pytest.raises(StorageError, match="Access denied") as caught:
        open_storage(mariadb.url(secret="wr0ng-one"))
    assert "wr0ng-one" not in str(caught.value)
    with pytest.raises(StorageError, match="Unknown database 'absent'"):
        open_storage(mariadb.url("absent"))
    monkeypatch.setattr(tables, "BUSY_SECONDS", 0.5)
    limit = int(mariadb.ask("SELECT @@max_connections")[0][0])
    mariadb.ask("SET GLOBAL max_connections = 10")
    try:
        with contextlib.ExitStack() as held:
            import pymysql

            for _ in range(11):
                held.enter_context(
                    contextlib.closing(
                        pymysql.connect(
                            host="127.0.0.1",
                            port=mariadb.port,
                            user="fairtune",
                            password=sqlalchemy.make_url(mariadb.url()).password,
                        )
                    )
                )
            with pytest.raises(StorageError, match=r"Too many connections[\s\S]*pooler"):
                open_storage(mariadb.url())
    finally:
        mariadb.ask(f"SET GLOBAL max_connections = {limit}")


@pytest.mark.needs("mariadb")
@pytest.mark.slow
def test_mariadb_refuses_a_row_that_does_not_fit_and_takes_no_part_of_it(database: str) -> None:
    # Slow: a server is started.
    with open_ledger(database) as ledger:
        wide = proposal({}, {}, attrs={"note": "x" * 70_000})
        with pytest.raises(StorageError, match=r"longer than this database can hold[\s\S]*65535"):
            ledger.append_final(wide, [0.5], {})
        assert ledger.rows("final") == []
        storage = ledger._family.opened.storage
        made = storage.create_new_trial(storage.get_study_id_from_name("s"))
        with pytest.raises(StorageError, match=r"refuses what was asked[\s\S]*Data too long"):
            ledger._family.opened.patiently(
                lambda: storage.set_trial_user_attr(made, "a", "x" * 70_000), "writing", SECONDS
            )
        assert storage.get_trial(made).user_attrs == {}


@pytest.mark.needs("mariadb")
@pytest.mark.slow
def test_a_mariadb_that_is_restarted_is_waited_for(mariadb: MariaDB, database: str) -> None:
    # Slow: a server is started twice.
    with open_ledger(database, patience=SECONDS) as ledger:
        ledger.set_attr("a", 1)
        mariadb.stop()
        threading.Timer(1.0, mariadb.start).start()
        ledger.set_attr("a", 2)
        assert ledger.attrs()["a"] == 2


@pytest.mark.needs("mariadb")
@pytest.mark.slow
def test_a_deadlock_and_a_lock_that_is_held_are_tried_again(database: str) -> None:
    # Slow: a server is started.
    opened = open_storage(database)
    engine = engine_of(opened.storage)
    assert engine is not None
    study = opened.storage.create_new_study([StudyDirection.MAXIMIZE], "s")
    for name in ("a", "b"):
        opened.storage.set_study_user_attr(study, name, 0)
    change = "UPDATE study_user_attributes SET value_json='1' WHERE `key`='{}'"
    met, deadlocks = threading.Barrier(2), []

    def both(first: str, second: str) -> Callable[[], None]:
        tried: list[int] = []

        def do() -> None:
            tried.append(1)
            with engine.begin() as connection:
                connection.exec_driver_sql(change.format(first))
                if len(tried) == 1:
                    met.wait(SECONDS)
                try:
                    connection.exec_driver_sql(change.format(second))
                except sqlalchemy.exc.OperationalError as error:
                    deadlocks.append(error)
                    raise

        return do

    threads = [
        threading.Thread(target=opened.patiently, args=(both(*names), "changing", SECONDS))
        for names in (("a", "b"), ("b", "a"))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [error.orig.args[0] for error in deadlocks] == [1213]
    assert opened.storage.get_study_user_attrs(study) == {"a": 1, "b": 1}
    opened.close()


@pytest.mark.needs("postgres")
def test_a_connection_to_postgres_has_bounds_for_every_wait(made: Callable[[], str]) -> None:
    opened = open_storage(made())
    engine = engine_of(opened.storage)
    assert engine is not None
    with engine.connect() as connection:
        driver = connection.connection.driver_connection
        names = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout")
        assert {connection.exec_driver_sql(f"SHOW {n}").scalar() for n in names} == {"1min"}
    told = driver.info.get_parameters()  # type: ignore[union-attr]
    assert told["tcp_user_timeout"] == "30000"
    assert (told["keepalives_idle"], told["connect_timeout"]) == ("10", "10")
    assert driver.prepare_threshold is None  # type: ignore[union-attr]
    assert (engine.pool.size(), engine.pool._max_overflow) == (1, 2)  # type: ignore[attr-defined]
    opened.close()


@pytest.mark.needs("postgres")
def test_what_the_url_says_itself_is_left_to_it(made: Callable[[], str]) -> None:
    opened = open_storage(made() + "?connect_timeout=3&application_name=fairtune")
    engine = engine_of(opened.storage)
    assert engine is not None
    with engine.connect() as connection:
        told = connection.connection.driver_connection.info.get_parameters()  # type: ignore[union-attr]
    assert (told["connect_timeout"], told["application_name"]) == ("3", "fairtune")
    opened.close()


@pytest.mark.needs("postgres")
def test_a_server_without_a_free_connection_is_waited_for(
    made: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = sqlalchemy.make_url(made())
    admin = sqlalchemy.create_engine(url, isolation_level="AUTOCOMMIT")
    open_storage(url.render_as_string(hide_password=False)).close()
    with admin.connect() as connection:
        role = f"r{uuid.uuid4().hex[:8]}"
        connection.exec_driver_sql(f"CREATE ROLE {role} LOGIN PASSWORD 'pw' CONNECTION LIMIT 2")
        connection.exec_driver_sql(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}")
        theirs = url.set(username=role, password="pw").render_as_string(hide_password=False)
        holder = sqlalchemy.create_engine(theirs)
        held = [holder.connect() for _ in range(2)]
        monkeypatch.setattr(tables, "BUSY_SECONDS", 0.5)
        with pytest.raises(StorageError, match="too many connections for role"):
            open_storage(theirs)
        monkeypatch.setattr(tables, "BUSY_SECONDS", SECONDS)
        threading.Timer(0.5, lambda: ([c.close() for c in held], holder.dispose())).start()
        open_storage(theirs).close()
        connection.exec_driver_sql(f"DROP OWNED BY {role}")
        connection.exec_driver_sql(f"DROP ROLE {role}")
    admin.dispose()


def test_a_password_with_braces_is_no_template(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StorageError, match="cannot be opened") as caught:
        open_storage("postgresql+psycopg://me:{x}{@127.0.0.1:1/db")
    assert "{x}" not in str(caught.value)


def test_a_driver_that_the_url_names_and_that_is_missing_is_said() -> None:
    with pytest.raises(StorageError, match="install the driver that the URL names") as caught:
        open_storage("mysql+mysqldb://me:s3cret@h/d")
    assert "s3cret" not in str(caught.value)
