"""Two hosts that cannot see each other's processes, and a link between them that is cut."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import pytest
from crew import LEFT, Crew, Orders
from kit_faults import done, peaceful, reasons, wait_for
from kit_hosts import Host, hosts
from kit_servers import LONG, Postgres, fresh_database, until

from fairtune.study.rows import STALE
from fairtune.study.storages.servers import CUT_SECONDS
from fairtune.study.worker import Exit

pytestmark = [pytest.mark.needs("postgres"), pytest.mark.needs("netns"), pytest.mark.slow]
DONE = LEFT[Exit.DONE]


def as_seen_from(host: Host, url: str) -> str:
    parts = urlsplit(url)
    netloc = parts.netloc.replace("@127.0.0.1", f"@{host.ours}")
    return urlunsplit(parts._replace(netloc=netloc))


# A cut that outlasts the grace and a connection's patience: its seconds are the test.
AWAY = CUT_SECONDS + 8.0


def test_two_hosts_outlive_a_link_that_is_cut(tmp_path: Path) -> None:
    with (
        Postgres(listen_addresses="*") as server,
        fresh_database(server.url) as url,
        hosts(2, tmp_path) as (near, far),
        Crew(tmp_path, Orders(url=url, trials=90, seconds=(0.5, 2.0), grace=20.0)) as crew,
    ):
        crew.orders.ledger().close()
        workers = []
        for slot in range(4):
            host = (near, far)[slot % 2]
            diary = str(tmp_path / f"diary-{slot}")
            orders = replace(crew.orders, url=as_seen_from(host, url), slot=slot, diary=diary)
            workers.append(host.start(orders))
        wait_for(crew, 8, "complete")
        names = {row.worker.split(":")[0] for row in wait_for(crew, 8, "complete")}
        assert names == {near.name, far.name}
        far.cut()
        time.sleep(AWAY)
        far.mend()
        until(lambda: all(w.poll() is not None for w in workers), "the end of the study", 4 * LONG)
        rows = peaceful(crew)
        assert [worker.returncode for worker in workers] == [DONE] * 4, crew.said()
        assert done(rows) == crew.orders.trials
        # Cut off for longer than the grace: given up by the other host, which cannot see them.
        assert 1 <= reasons(rows)[STALE] <= 2
