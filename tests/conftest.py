"""What every test can ask for: a running server, and the options of the whole run.

Owns: the fixtures ``server`` (one per test module), ``make_server`` (one with settings of its own), the Hypothesis profile and the hard
bound of each test. Invariant: a server that a fixture started has ended cleanly, and without a traceback in its log, or the test fails;
no test, whatever it hangs in, holds up the run.
"""

from __future__ import annotations

import faulthandler
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from tests.server import Server, given_settings  # noqa: E402  (the tree is importable from here on)

settings.register_profile(
    "millpond",
    max_examples=int(os.environ.get("MILLPOND_EXAMPLES", "100")),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("millpond")


def pytest_configure(config: pytest.Config) -> None:
    """The markers of this tree."""
    config.addinivalue_line("markers", "isolation: of what a process for each client gives; left out where clients are threads")
    config.addinivalue_line("markers", "slow: takes more than about ten seconds; part of the whole run, left out by -m 'not slow'")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What is not claimed is not tried: threads of one process are not isolated from each other."""
    if given_settings().get("server mode") == "threaded":
        for item in items:
            if item.get_closest_marker("isolation"):
                item.add_marker(pytest.mark.skip(reason="clients are threads of one process here"))


# pytest-timeout raises an exception in the main thread, which one that waits in C for a lock never sees. This one ends the process.
_BEYOND_TIMEOUT = 120.0


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """The last resort: every thread's traceback, then the end of this process, which pytest-xdist reports and replaces."""
    limit = float(item.config.getini("timeout"))
    marked = item.get_closest_marker("timeout")
    if marked is not None and marked.args:
        limit = float(marked.args[0])
    if limit and item.config.getoption("--timeout") != 0:
        faulthandler.dump_traceback_later(limit + _BEYOND_TIMEOUT, exit=True, file=sys.__stderr__)
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A server with default settings, shared by a module's tests."""
    with Server().running() as made:
        yield made


@pytest.fixture
def make_server() -> Iterator[Callable[..., Server]]:
    """Makes servers with settings of their own: ``make_server(settings={...}, share_settings={...}, start=False)``."""
    made: list[Server] = []

    def make(*, start: bool = True, **options: Any) -> Server:
        running = Server(**options)
        made.append(running)
        if start:
            running.start()
        return running

    try:
        yield make
        for running in made:
            running.finish()
    finally:
        for running in made:
            running.discard()
