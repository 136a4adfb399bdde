"""The alternating run: every workload on every server in turn, round after round.

Owns: the order of measurements and their samples. Invariant: between two samples of one server every other server has had its turn
at the same workload, so that what disturbs the machine disturbs all.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from bench.load.account import cpu_seconds, private_bytes
from bench.load.client import Client, Failure, Order, Report
from bench.load.crypto import SIGNING_NAMES
from bench.load.peers import PEERS, Peer
from bench.load.wire import Connection, WireFault
from bench.load.workloads import MIB, WORKLOADS, Workload, furnish

WARM_UP = 0.15


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure, how long and how often."""

    peers: tuple[str, ...]
    workloads: tuple[Workload, ...] = WORKLOADS
    protections: tuple[str, ...] = ("plain", "signed", "encrypted")
    rounds: int = 3
    clients: int = 1
    seconds: float = 1.5
    idle_clients: int = 20
    directory: Path | None = None
    settings: dict[str, str] = field(default_factory=dict)


class Key(NamedTuple):
    """Which figure: a workload under a protection on a server."""

    workload: str
    protection: str
    peer: str


class Sample(NamedTuple):
    """One measurement of all clients together. ``server_cpu`` and ``client_cpu`` in seconds, ``seconds`` and ``p99`` (microseconds) the
    slowest client's.
    """

    operations: int
    payload: int
    seconds: float
    server_cpu: float
    client_cpu: float
    p99: float


@dataclass(slots=True)
class Results:
    """Everything that was measured, and why the rest was not."""

    samples: dict[Key, list[Sample]] = field(default_factory=dict)
    failures: dict[Key, str] = field(default_factory=dict)
    idle: dict[str, float] = field(default_factory=dict)
    base: dict[str, float] = field(default_factory=dict)
    signing: dict[str, str] = field(default_factory=dict)


class Crew:
    """The client processes of one server under one protection, replaced when one fails."""

    def __init__(self, peer: Peer, protection: str, size: int) -> None:
        self._peer = peer
        self.protection = protection
        self._size = size
        self._clients: list[Client] = []

    def ready(self) -> int | Failure:
        """The signing algorithm in force, when all clients are connected."""
        if not self._clients:
            self._clients = [Client(self._peer.where, self.protection, number) for number in range(self._size)]
        for client in self._clients:
            if not isinstance(client.signing, int):
                self.dismiss()
                return client.signing if isinstance(client.signing, Failure) else Failure(str(client.signing))
        signing = self._clients[0].signing
        assert isinstance(signing, int)
        return signing

    def work(self, order: Order) -> list[Report] | Failure:
        """The clients' reports on an order given to all at once."""
        for client in self._clients:
            client.begin(order)
        answers = [client.finish(order.seconds) for client in self._clients]
        failure = next((answer for answer in answers if isinstance(answer, Failure)), None)
        if failure is not None:
            self.dismiss()
            return failure
        return [answer for answer in answers if isinstance(answer, Report)]

    def dismiss(self) -> None:
        """Ends the client processes."""
        for client in reversed(self._clients):
            client.close()
        self._clients = []


def measure(peer: Peer, crew: Crew, workload: Workload, seconds: float) -> Sample | Failure:
    """A warm-up and a sample."""
    ready = crew.ready()
    if isinstance(ready, Failure):
        return ready
    warm = crew.work(Order(workload.name, WARM_UP))
    if isinstance(warm, Failure):
        return warm
    before = cpu_seconds(peer.pid)
    reports = crew.work(Order(workload.name, seconds))
    server_cpu = cpu_seconds(peer.pid) - before
    if isinstance(reports, Failure):
        return reports
    tallies = [report.tally for report in reports]
    return Sample(
        sum(tally.operations for tally in tallies), sum(tally.payload for tally in tallies), max(tally.seconds for tally in tallies),
        server_cpu, sum(report.cpu for report in reports), max(tally.p99 for tally in tallies),
    )


def idle_memory(peer: Peer, clients: int) -> tuple[float, float]:
    """Private bytes of the server without clients, and of each of ``clients`` that are connected and silent."""
    _idle(peer, 1)  # what the first client alone brings about is not counted
    before = settled(peer)
    after = _idle(peer, clients)
    return before, (after - before) / clients


def _idle(peer: Peer, clients: int) -> float:
    buffer = bytearray(MIB)
    with contextlib.ExitStack() as stack:
        for _ in range(clients):
            connection = Connection(peer.where, "plain", buffer)
            stack.callback(connection.close)
            connection.open(gather=False)
        return settled(peer)


def settled(peer: Peer) -> float:
    """The tree's private memory when two readings in a row agree (within 5 s)."""
    last, deadline = -1.0, time.monotonic() + 5
    while (now := float(private_bytes(peer.pid))) != last and time.monotonic() < deadline:
        last = now
        time.sleep(0.3)
    return now


@contextlib.contextmanager
def servers(plan: Plan) -> Iterator[list[Peer]]:
    """All servers of the plan, furnished and running."""
    peers: list[Peer] = []
    try:
        for name in plan.peers:
            kind = PEERS[name]
            peer = kind(plan.directory)
            peers.append(peer)
            if name.startswith("millpond") and plan.settings and hasattr(peer, "settings"):
                peer.settings.update(plan.settings)
            furnish(peer.share, plan.clients)
            peer.start()
        yield peers
    finally:
        for peer in peers:
            peer.stop()
            peer.remove()


def run(plan: Plan, say: object = print) -> Results:
    """The whole plan. ``say`` is called with a line of progress."""
    tell = say if callable(say) else print
    results = Results()
    with servers(plan) as peers:
        for peer in peers:
            try:
                results.base[peer.title], results.idle[peer.title] = idle_memory(peer, plan.idle_clients)
            except (OSError, WireFault, ValueError) as error:
                tell(f"{peer.title}: idle memory: {error}")
        for number in range(plan.rounds):
            for protection in plan.protections:
                tell(f"round {number + 1} of {plan.rounds}, {protection}")
                _round(plan, protection, peers, results)
    return results


def _round(plan: Plan, protection: str, peers: Sequence[Peer], results: Results) -> None:
    crews = {peer.title: Crew(peer, protection, plan.clients) for peer in peers if protection in peer.protections}
    try:
        for workload in plan.workloads:
            if protection not in workload.protections:
                continue
            for peer in peers:
                if peer.title in crews:
                    _turn(workload, plan.seconds, peer, crews[peer.title], results)
    finally:
        for crew in crews.values():
            crew.dismiss()


def _turn(workload: Workload, seconds: float, peer: Peer, crew: Crew, results: Results) -> None:
    key = Key(workload.name, crew.protection, peer.title)
    if key in results.failures:
        return
    sample = measure(peer, crew, workload, seconds)
    if isinstance(sample, Failure):
        results.failures[key] = sample.text
        return
    results.samples.setdefault(key, []).append(sample)
    ready = crew.ready()
    if crew.protection == "signed" and isinstance(ready, int):
        results.signing[peer.title] = SIGNING_NAMES[ready]
