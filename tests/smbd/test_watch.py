"""``millpond top`` and ``millpond web``: screens and metrics of made-up snapshots, and both commands against a live server."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any

import pytest

from bench.load.peers import ROOT, free_port
from pools.counters import PAST, ROW_WORDS, Row
from smbd.cli import main
from smbd.monitor.metrics import exposition
from smbd.monitor.snapshot import classes_in_use, totals
from smbd.monitor.top import frame
from smbd.monitor.web import Web, _as_asked_for, _without_port, page
from tests.server import Server


def process(slot: int, role: str = "worker", **more: Any) -> dict[str, Any]:
    row = {"role": role, "slot": slot, "pid": 100 + slot, "since": 5.0, "cpu_seconds": 0.0, "private": 1 << 20}
    row["title"] = f"millpond: {role}"
    return row | dict.fromkeys(("requests", "errors", "bytes_read", "bytes_written", "pool_bytes", "sessions", "opens"), 0) | more


def snapshot(taken: float, *processes: dict[str, Any], **sums: int) -> dict[str, Any]:
    all_of_it = dict.fromkeys(("requests", "errors", "bytes_read", "bytes_written", "workers", "pool_bytes", "budget"), 0) | sums
    pool = {"size": 4096, "requests": 9, "requested_bytes": 8, "misses": 7, "waits": 6, "refusals": 5, "in_use": 4, "committed_bytes": 3}
    pool |= {"buffers": 14, "high_water": 2}
    return {
        "version": "1", "form": "pure", "master": 7, "started": 10.0, "taken": taken, "totals": all_of_it, "sessions": [],
        "channels": [{}] * 3, "opens": [{"lost": False}, {"lost": True}],
        "locks": [], "processes": list(processes), "pools": [pool],
    }  # fmt: skip


# -- top -------------------------------------------------------------------------------------------------------------------------


def test_rates_are_differences_by_time_and_the_busiest_comes_first() -> None:
    before = snapshot(100.0, process(16, requests=100), process(17, cpu_seconds=1.0), requests=100)
    after = snapshot(102.0, process(16, requests=300), process(17, cpu_seconds=2.0, bytes_read=4 << 20), requests=400, pool_bytes=1 << 20)
    lines = frame(before, after, 200, 50)
    assert "workers 2   sessions 0   channels 3   opens 2 (1 lost)   locks 0" in lines[0]
    assert lines[1].startswith("requests 150/s   read 0/s")
    assert lines[4].split()[:3] == ["50.0", "0", "2M"]
    assert lines[5].split()[:2] == ["0.0", "100"]


def test_a_new_process_counts_from_nothing_and_one_at_the_same_slot_is_another() -> None:
    before = snapshot(100.0, process(16, requests=1000))
    after = snapshot(101.0, process(16, requests=10, pid=999))
    assert frame(before, after, 200, 50)[4].split()[1] == "10"


def test_the_screen_fits_and_no_client_writes_on_it() -> None:
    rows = [process(slot, title="millpond: worker \x1b[31m\u202e" + "x" * 300) for slot in range(16, 40)]
    lines = frame(snapshot(1.0, *rows), snapshot(2.0, *rows), 120, 12)
    assert len(lines) == 12
    assert all(len(line) <= 120 and line.isprintable() for line in lines)
    assert "\\x1b[31m" in lines[5]


def test_totals_count_the_dead_too() -> None:
    master, worker = Row.private(), Row(Row.private().words, 16)
    for name in PAST:
        worker.set(name, 5)
    master.inherit(worker, worker=True)
    worker.set("requests", 2)
    found = totals([master.read(), worker.read()])
    assert (found["requests"], found["bytes_read"], found["workers"]) == (7, 5, 2)


def test_what_concerns_the_server_is_the_masters_row_alone() -> None:
    master, wrong = Row.private(), Row(Row.private().words, 16)
    master.set("budget", 1 << 30)
    master.set("pool_classes", 0b101)
    for word in range(ROW_WORDS):
        wrong.words[word] = (1 << 64) - 1
    rows = [master.read(), wrong.read()]
    assert totals(rows)["budget"] == 1 << 30
    assert classes_in_use(rows) == (0, 2)


# -- metrics and pages -------------------------------------------------------------------------------------------------------------


def test_metrics_are_in_prometheus_form() -> None:
    text = exposition(snapshot(1.0, process(0, "master"), process(16), process(17), requests=12))
    assert "\nmillpond_requests_total 12\n" in text
    assert '\nmillpond_processes{role="worker"} 2\n' in text
    assert '\nmillpond_pool_misses_total{size="4096"} 7\n' in text
    form = re.compile(r'# (HELP \w+ .+|TYPE \w+ (counter|gauge))|[a-z_]+(\{[a-z]+="[^"]*"(,[a-z]+="[^"]*")*\})? [0-9.e+-]+')
    assert all(form.fullmatch(line) for line in text.splitlines())
    assert all(line.split()[2].endswith("_total") for line in text.splitlines() if line.endswith(" counter"))


def test_what_clients_chose_is_no_html() -> None:
    one = snapshot(1.0)
    one["sessions"] = [{"session": "1", "user": "<script>", "since": 0.5, "shares": []}]
    made = page("/", {key: value for key, value in one.items() if key not in ("opens", "processes")})
    assert made is not None
    assert "&lt;script&gt;" in made.text
    assert "<script>" not in made.text
    assert page("/etc/passwd", one) is None


@contextmanager
def serving(made: Web) -> Iterator[Web]:
    with made:
        thread = threading.Thread(target=made.serve_forever)
        thread.start()
        yield made
        made.shutdown()
        thread.join()


@pytest.fixture
def web() -> Iterator[Web]:
    def take() -> dict[str, Any]:
        looks.append(1)
        if len(looks) > 1:
            raise FileNotFoundError(2, "gone", "counters")
        return snapshot(1.0)

    looks: list[int] = []
    with serving(Web(("127.0.0.1", 0), take, frozenset({"nas"}))) as made:
        yield made


def fetch(web: Web, path: str, host: str | None = None, method: str = "GET") -> tuple[int, str]:
    connection = http.client.HTTPConnection(str(web.server_address[0]), web.server_address[1], timeout=10)
    connection.request(method, path, headers={"Host": host} if host else {})
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, text


def test_only_its_own_names_and_get_are_answered(web: Web) -> None:
    assert fetch(web, "/status.json")[0] == HTTPStatus.OK
    assert fetch(web, "/metrics", "NAS:8450")[0] == HTTPStatus.OK
    assert fetch(web, "/metrics", "evil.example:8450")[0] == HTTPStatus.MISDIRECTED_REQUEST
    assert fetch(web, "/else")[0] == HTTPStatus.NOT_FOUND
    assert fetch(web, "/", method="POST")[0] == HTTPStatus.NOT_IMPLEMENTED


def test_it_listens_on_an_ipv6_address() -> None:
    with serving(Web(("0:0::1", 0), lambda: snapshot(1.0))) as web:
        port = web.server_address[1]
        assert fetch(web, "/metrics")[0] == HTTPStatus.OK
        assert [fetch(web, "/metrics", host)[0] for host in (f"[::1]:{port}", "[::1]", "localhost")] == [HTTPStatus.OK] * 3
        assert fetch(web, "/metrics", f"[::2]:{port}")[0] == HTTPStatus.MISDIRECTED_REQUEST


@pytest.mark.parametrize(("address", "host"), [("2001:DB8:0::1", "[2001:db8::1]"), ("fe80::1%eth0", "[fe80::1]"), ("NAS", "nas")])
def test_an_address_is_asked_for_as_browsers_write_it(address: str, host: str) -> None:
    assert _as_asked_for(address) == host
    assert _without_port(host) == _without_port(f"{host}:8450") == host


def test_looks_are_shared_and_a_server_that_has_ended_is_said(web: Web) -> None:
    assert [fetch(web, "/metrics")[0] for _ in range(3)] == [HTTPStatus.OK] * 3
    web.looks._taken -= 10
    code, text = fetch(web, "/metrics")
    assert (code, "does not run" in text) == (HTTPStatus.SERVICE_UNAVAILABLE, True)


# -- the commands ------------------------------------------------------------------------------------------------------------------


def test_top_shows_a_live_server(server: Server) -> None:
    client = server.client()
    client.write(client.open("watched"), 0, b"x")
    done = server.command("top", "--interval", "0.2", "--count", "2")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("PROCESS") == 2
    assert f"worker 127.0.0.1 {server.user}" in done.stdout
    assert "\x1b" not in done.stdout


@pytest.mark.parametrize(("listen", "host"), [([], "127.0.0.1"), (["--listen", "::1"], "[::1]")])
def test_web_serves_a_live_server_until_ctrl_c(server: Server, listen: list[str], host: str) -> None:
    argv = [sys.executable, "-m", "smbd", "web", "--config", str(server.peer.config), "--web-port", str(free_port()), *listen]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(argv, stdout=subprocess.PIPE, cwd=ROOT, text=True, env=environment) as command:
        assert command.stdout is not None
        said = command.stdout.readline()
        place = re.search(rf"http://{re.escape(host)}:(\d+)/", said)
        assert place, said
        connection = http.client.HTTPConnection(host.strip("[]"), int(place[1]), timeout=10)
        connection.request("GET", "/status.json")
        assert json.loads(connection.getresponse().read())["master"] == server.pid
        connection.request("GET", "/metrics")
        assert b"millpond_requests_total" in connection.getresponse().read()
        connection.close()
        command.send_signal(signal.SIGINT)
        assert command.wait(20) == 0


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["top", "--port", "1"], "no server runs"),
        (["web", "--port", "1"], "no server runs"),
        (["top", "--interval", "0"], "not a number of seconds"),
        (["web", "--web-port", "0"], "not a port"),
    ],
)
def test_errors_name_the_thing(argv: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*_arguments: object, **_callbacks: object) -> int:
        raise AssertionError("nothing is served here")

    assert main(argv, run=run) in (1, 2)
    assert said in capsys.readouterr().err
