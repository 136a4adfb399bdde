"""A master with small programs instead of the real ones, to be run as a script: ``fake_server.py DIRECTORY PORT [name=value ...]``.

Its worker obeys lines from its client, so that a test decides what a process does and when. ``authd`` echoes, ``broker`` remembers who
died. With ``server_mode=threaded`` the same workers are threads of the real host.
It prints one line, ``ready``, when it accepts connections.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from pools import port
from pools.queue import EVERYONE, PEER, PEER_DIED, PING, RELOAD, STOP, Endpoint, HubClosed, Kind, Message, failure
from pools.queue import KINDS as QUEUE_KINDS
from smbd.child import AUTHD, BROKER, MASTER, READY, SHARING_DIRECTORY, WORKER, Child
from smbd.child import KINDS as CHILD_KINDS
from smbd.config import Config, ConfigError
from smbd.config_messages import unpack_config
from smbd.host_messages import KINDS as HOST_KINDS
from smbd.instance import StartError
from smbd.lease_messages import KINDS as LEASE_KINDS
from smbd.lease_messages import LEASE, LEASE_ASK
from smbd.master import Master
from smbd.sharing import prepare
from workers import host as real_host
from workers.room import Room

ECHO = Kind(0x0200, "ECHO", 1, 0, 65000, EVERYONE)
ECHO_ANSWER = Kind(0x0201, "ECHO_ANSWER", 1, 0, 65000, EVERYONE)
DEAD = Kind(0x0400, "DEAD", 3, 0, 64, frozenset({"worker"}))
DEAD_ANSWER = Kind(0x0401, "DEAD_ANSWER", 3, 0, 65000, frozenset({"broker"}))
PASS = Kind(0x0500, "PASS", 3, 1, 64, frozenset({"worker"}))
FORBIDDEN = Kind(0x0502, "FORBIDDEN", 3, 0, 64, frozenset({"broker"}))
KINDS = (*QUEUE_KINDS, *LEASE_KINDS, *CHILD_KINDS, *HOST_KINDS, ECHO, ECHO_ANSWER, DEAD, DEAD_ANSWER, PASS, FORBIDDEN)


def messages(endpoint: Endpoint) -> Any:
    """Messages for ever, blocking; ends with the master."""
    poller = port.polling.poller()
    poller.register(endpoint.fileno(), port.READABLE)
    while True:
        try:
            message = endpoint.receive()
        except HubClosed:
            return
        if message is None:
            poller.poll(None)
        else:
            yield message


def authd(child: Child) -> None:
    """Echoes; obeys what the payload says."""
    endpoint = Endpoint(child.hub)
    for message in messages(endpoint):
        if message.kind == STOP:
            return
        if message.kind != ECHO.number:
            continue
        payload = bytes(message.payload)
        if payload == b"die":
            os.kill(os.getpid(), signal.SIGKILL)
        if payload.startswith(b"die once "):
            marker = Path(payload[9:].decode())
            if not marker.exists():
                marker.touch()
                os.kill(os.getpid(), signal.SIGKILL)
        if payload == b"stop reading":
            time.sleep(60)
        endpoint.answer(message, payload + b" from %d" % child.generation)


def broker(child: Child) -> None:
    """Collects PEER_DIED."""
    if child.config.server_mode == "threaded":
        prepare(os.path.join(child.config.lock_directory, SHARING_DIRECTORY), 1 << 20)
    endpoint = Endpoint(child.hub)
    endpoint.send(MASTER, READY.number)
    dead: list[bytes] = []
    for message in messages(endpoint):
        if message.kind == STOP:
            return
        if message.kind == PEER_DIED:
            dead.append(b"%d.%d" % PEER.unpack(message.payload))
        if message.kind == DEAD.number:
            endpoint.answer(message, b" ".join(dead))


class Worker:
    """One client's commands, a line each; the answer is a line."""

    def __init__(self, child: Child) -> None:
        assert child.client is not None
        self.child = child
        self.client = child.client
        self.client.setblocking(True)
        self.endpoint = Endpoint(child.hub)
        self.stream = self.client.makefile("rw")
        self.stopped = False

    def run(self) -> None:
        """Until the client leaves, or the master says stop."""
        poller = port.polling.poller()
        poller.register(self.endpoint.fileno(), port.READABLE)
        poller.register(self.client.fileno(), port.READABLE)
        while not self.stopped:
            for fd, _ in poller.poll(None):
                if fd == self.client.fileno():
                    line = self.stream.readline()
                    if not line:
                        return
                    self.obey(*line.split())
                else:
                    try:
                        while (message := self.endpoint.receive()) is not None:
                            self.unasked(message)
                    except HubClosed:
                        return

    def unasked(self, message: Message) -> None:
        if message.kind == STOP and "stubborn" not in sys.argv:
            self.stopped = True
        elif message.kind == RELOAD:
            self.say(f"reload {unpack_config(message.payload).server_string}")
        elif message.kind == PASS.number:
            with os.fdopen(message.descriptors[0], "w") as handed:
                handed.write(f"hello from {self.child.slot}, sent by {message.sender}.{message.generation}\n")

    def say(self, text: object) -> None:
        self.stream.write(f"{text}\n")
        self.stream.flush()

    def ask(self, destination: int, kind: int, payload: bytes = b"", generation: int = 0) -> Message:
        number = self.endpoint.next_id()
        self.endpoint.send(destination, kind, payload, id=number, generation=generation)
        for message in messages(self.endpoint):
            if message.id == number:
                return message
            self.unasked(message)
        raise HubClosed

    def obey(self, verb: str, *arguments: str) -> None:
        action: Callable[..., None] = getattr(self, f"do_{verb}")
        action(*arguments)

    def do_who(self) -> None:
        self.say(f"{os.getpid()} {self.child.slot} {self.child.generation} {len(os.listdir('/proc/self/fd'))}")

    def do_echo(self, *words: str) -> None:
        message = self.ask(AUTHD, ECHO.number, " ".join(words).encode())
        self.say(failure(message) or bytes(message.payload).decode())

    def do_dead(self) -> None:
        self.say(bytes(self.ask(BROKER, DEAD.number).payload).decode())

    def do_absent(self) -> None:
        self.say(failure(self.ask(900, ECHO.number)))

    def do_lease(self, class_index: str, slabs: str) -> None:
        message = self.ask(MASTER, LEASE_ASK.number, LEASE.pack(int(class_index), int(slabs), 0))
        self.say(LEASE.unpack(message.payload))

    def do_forbidden(self) -> None:
        self.endpoint.send(BROKER, FORBIDDEN.number)

    def do_forbidden_and_stay(self) -> None:
        self.do_forbidden()
        time.sleep(60)

    def do_malformed(self) -> None:
        self.endpoint.send(MASTER, LEASE_ASK.number, b"12")

    def do_pass(self, slot: str) -> None:
        self.endpoint.send(int(slot), PASS.number, descriptors=[self.client.fileno()])

    def do_flood(self, count: str) -> None:
        """More requests than a peer's backlog holds, each of 8 KiB; says how many were refused."""
        ids = [self.endpoint.next_id() for _ in range(int(count))]
        busy = 0
        poller = port.polling.poller()
        poller.register(self.endpoint.fileno(), port.READABLE | port.WRITABLE)
        sent = 0
        while sent < len(ids):
            if not self.endpoint.wants_write:
                self.endpoint.send(AUTHD, ECHO.number, bytes(1024), id=ids[sent])
                sent += 1
            else:
                poller.poll(None)
                self.endpoint.flush()
            while (message := self.endpoint.receive()) is not None:
                busy += failure(message) is not None
        self.say(busy)

    def do_sessions(self, count: str) -> None:
        self.child.counters.row(self.child.slot).set("sessions", int(count))
        self.say("noted")

    def do_ping(self) -> None:
        """Ask the master on and on, and read no answer."""
        poller = port.polling.poller()
        poller.register(self.endpoint.fileno(), port.WRITABLE)
        while True:
            self.endpoint.send(MASTER, PING, bytes(4096), id=self.endpoint.next_id())
            while self.endpoint.wants_write:
                poller.poll(None)
                self.endpoint.flush()

    def do_transaction(self) -> None:
        row = self.child.counters.row(self.child.slot)
        row.set("txn_since", time.monotonic_ns() | 1)
        time.sleep(60)

    def do_spoil(self) -> None:
        """Write whatever a row can hold over its own, and end."""
        words = self.child.counters.row(self.child.slot).words
        for word in range(len(words)):
            words[word] = (1 << 64) - 1
        self.stopped = True

    def do_kept(self) -> None:
        self.say(f"{self.child.config.lock_directory} {self.child.config.server_mode}")

    def do_hang(self) -> None:
        time.sleep(60)

    def do_raise(self) -> None:
        raise RuntimeError("a bug")

    def do_deaf(self) -> None:
        self.endpoint.close()
        time.sleep(60)


def worker(child: Child) -> None:
    """The program of a connection."""
    Worker(child).run()


def host(child: Child) -> None:
    """The real host, with these workers."""

    def serve(room: Room) -> None:
        Worker(Child(WORKER, room.slot, room.generation, room.config, room.hub, child.counters, room.arena, room.client)).run()

    real_host.serve = serve  # type: ignore[attr-defined]
    real_host.main(child)


def settings(directory: Path, number: int, pairs: list[str]) -> Config:
    """A configuration beneath ``directory``."""
    config = Config(
        lock_directory=str(directory / "lock"),
        pid_directory=str(directory / "pid"),
        state_directory=str(directory / "state"),
        smb_ports=(number,),
        interfaces=("127.0.0.1",),
        bind_interfaces_only=True,
        pool_budget=64 << 20,
        stop_timeout=1.0,
    )
    return changed(config, pairs)


def changed(config: Config, pairs: list[str]) -> Config:
    """With NAME=VALUE for each of ``pairs`` that is one."""
    for pair in pairs:
        name, _, value = pair.partition("=")
        if value:
            kind = type(getattr(config, name))
            config = replace(config, **{name: (value,) if kind is tuple else kind(value)})
    return config


def reread(directory: Path, config: Config) -> Config:
    """The file ``new`` holds a server string, or 'bad'; on further lines what else is new."""
    text, *pairs = (directory / "new").read_text().splitlines()
    if text == "bad":
        raise ConfigError("new", 1, "is bad")
    return changed(replace(config, server_string=text), pairs)


def main() -> int:
    logging.basicConfig(level=logging.DEBUG, format="%(levelname)s %(message)s", stream=sys.stderr)
    directory = Path(sys.argv[1])
    config = settings(directory, int(sys.argv[2]), sys.argv[3:])
    master = Master(
        config,
        {"worker": worker, "authd": authd, "broker": broker, "host": host},
        KINDS,
        reread=lambda: reread(directory, config),
        ready=lambda: print("ready", flush=True),
    )
    try:
        return master.run()
    except StartError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
