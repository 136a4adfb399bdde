"""Fifty clients at once: every byte verified, and the pools' memory back afterwards."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from smbd.smb2 import status
from tests.server import Server, eventually, given_settings

CLIENTS = 50
SIZE = 3 << 20
CHUNKS = (65536, 262144, 1 << 20)


def _transfer(server: Server, number: int) -> str:
    """One client's work: write, read back, verify, with a protection of its own."""
    data = random.Random(number).randbytes(SIZE)
    with server.client(timeout=100) as client:
        client.sign = number % 3 == 1
        client.seal = number % 3 == 2
        step = CHUNKS[number % len(CHUNKS)]
        file = client.open(f"client {number}.bin")
        for offset in range(0, SIZE, step):
            answer = client.write(file, offset, data[offset : offset + step])
            assert answer.status == status.SUCCESS, status.name(answer.status)
        back = b"".join(client.read_data(file, offset, step) for offset in range(0, SIZE, step))
        client.close(file)
        assert back == data, f"client {number}: what came back differs"
    return hashlib.sha256(data).hexdigest()


def test_fifty_clients_at_once(make_server: Callable[..., Server]) -> None:
    server = make_server(settings={"pool decay": "1"})
    with server.client() as first:
        assert first.echo().status == status.SUCCESS
    quiet_buffers, quiet_bytes = server.buffers_in_use(), server.pool_bytes()
    idle = [server.client(timeout=100) for _ in range(3)]
    with ThreadPoolExecutor(CLIENTS) as clients:
        sums = list(clients.map(lambda number: _transfer(server, number), range(CLIENTS)))
    for number, expected in enumerate(sums):
        data = (server.share / f"client {number}.bin").read_bytes()
        assert hashlib.sha256(data).hexdigest() == expected
    for client in idle:
        assert client.echo().status == status.SUCCESS
        client.close_connection()
    eventually(lambda: server.buffers_in_use() <= quiet_buffers, what="buffers are lost")
    eventually(lambda: server.pool_bytes() <= quiet_bytes, what="the pools keep their memory")


@pytest.mark.skipif(given_settings().get("pool mode") == "malloc", reason="without slabs there is nothing that a pool keeps or gives back")
def test_a_connection_gives_its_memory_back_while_it_lives(make_server: Callable[..., Server]) -> None:
    server = make_server(settings={"pool decay": "1"})
    with server.client(timeout=60) as client:
        file = client.open("big.bin")
        eventually(lambda: client.echo().status == status.SUCCESS and client.credits > 128)
        quiet = server.pool_bytes()
        data = random.Random(1).randbytes(8 << 20)
        for _ in range(4):
            assert client.write(file, 0, data).status == status.SUCCESS
            assert client.read_data(file, 0, len(data)) == data
        assert server.pool_bytes() > 0
        eventually(lambda: server.pool_bytes() <= quiet, timeout=30, what="an idle connection keeps what a transfer needed")
        assert client.echo().status == status.SUCCESS


@pytest.mark.parametrize("mode", ["static", "malloc"])
def test_the_other_pool_modes(make_server: Callable[..., Server], mode: str) -> None:
    server = make_server(settings={"pool mode": mode})
    data = random.Random(2).randbytes(8 << 20)
    with server.client(timeout=60) as client:
        file = client.open("mode.bin")
        eventually(lambda: client.echo().status == status.SUCCESS and client.credits > 128)
        assert client.write(file, 0, data).status == status.SUCCESS
        assert client.read_data(file, 0, len(data)) == data
