"""Payload that never enters the process, with a real server, real sockets and clients that meddle."""

from __future__ import annotations

import random
import select
from collections.abc import Callable

import pytest

from pools import port
from smbd.smb2 import constants as c
from smbd.smb2 import status
from smbd.smb2.constants import Command
from tests.server import Server, eventually, given_settings
from tests.wire_client import FileId, Request, SocketTransport, WireClient, charge_of, read_body, write_body

MIB = 1 << 20
LARGEST = 8 * MIB
CONTENT = random.Random(4450).randbytes(LARGEST).replace(b"\0", b"\1")
CREDITS = 3 * 128


@pytest.fixture
def server(make_server: Callable[..., Server]) -> Server:
    return make_server(settings={"data path": "kernel"})


def connected(server: Server) -> WireClient:
    client = server.client(timeout=30)
    while client.credits < CREDITS:
        assert client.echo(credits=256).status == status.SUCCESS
    return client


def ask_to_read(client: WireClient, file: FileId) -> None:
    client.send(Request(Command.READ, read_body(file, 0, LARGEST), charge=charge_of(LARGEST)))


def test_what_went_in_comes_out(server: Server) -> None:
    with connected(server) as client:
        for step in (5000, MIB, LARGEST):
            data = CONTENT[: min(LARGEST, 100 * step)]
            file = client.open(f"by {step}.bin")
            for offset in range(0, len(data), step):
                assert client.write(file, offset, data[offset : offset + step]).status == status.SUCCESS
            assert (server.share / f"by {step}.bin").read_bytes() == data
            assert b"".join(client.read_data(file, offset, step) for offset in range(0, len(data), step)) == data


def test_a_file_that_somebody_empties_while_it_is_sent(server: Server) -> None:
    with connected(server) as reader, connected(server) as other:
        file = reader.open("emptied.bin")
        assert reader.write(file, 0, CONTENT).status == status.SUCCESS
        ask_to_read(reader, file)
        assert isinstance(reader.transport, SocketTransport)
        assert select.select([reader.transport.socket], [], [], 10)[0]
        other.open("emptied.bin", disposition=c.FILE_OVERWRITE)
        answer = reader.receive()
        assert answer.status == status.SUCCESS, status.name(answer.status)  # the header had left
        data = bytes(answer.view[80:])
        assert len(data) == LARGEST
        kept = len(data.rstrip(b"\0"))
        assert data[:kept] == CONTENT[:kept]  # what was there, then zeros
        assert reader.echo().status == status.SUCCESS
        assert status.name(reader.read(file, 0, MIB).status) == "END_OF_FILE"


@pytest.mark.skipif(
    given_settings().get("port") == "posix" or given_settings().get("data path") == "user",
    reason="in user format nothing is written before all of it is here",
)
def test_a_client_that_vanishes_in_mid_write(server: Server) -> None:
    quiet = server.buffers_in_use()
    client = connected(server)
    file = client.open("half.bin")
    pdu = client.pack([Request(Command.WRITE, write_body(file, 0, CONTENT), charge=charge_of(LARGEST))])
    client.transport.send((len(pdu).to_bytes(4, "big") + pdu)[: 3 * MIB])
    eventually(lambda: (server.share / "half.bin").stat().st_size > 2 * MIB)
    client.transport.close()
    eventually(lambda: server.buffers_in_use() <= quiet, what="buffers are lost")
    assert CONTENT.startswith((server.share / "half.bin").read_bytes())
    with connected(server) as second:
        assert second.write(second.open("half.bin", share=0), 0, CONTENT).status == status.SUCCESS  # nobody has it open any more
    assert (server.share / "half.bin").read_bytes() == CONTENT


def test_writes_behind_each_other(server: Server) -> None:
    with connected(server) as client:
        files = [client.open(f"file {number}.bin") for number in range(3)]
        for number, file in enumerate(files):
            body = write_body(file, number, CONTENT[: LARGEST - number])
            client.send(Request(Command.WRITE, body, charge=charge_of(LARGEST)))
        assert [client.receive().status for _ in files] == [status.SUCCESS] * 3
    for number in range(3):
        assert (server.share / f"file {number}.bin").read_bytes() == bytes(number) + CONTENT[: LARGEST - number]


def test_what_the_kernel_cannot_encrypt_is_said_once(make_server: Callable[..., Server]) -> None:
    server = make_server(settings={"data path": "auto", "port": "linux"})
    server.client()
    server.client()
    assert server.log.count("AF_ALG") == bool(port.sockets.no_kernel_cipher())
    other = make_server(settings={"data path": "user"})
    other.client()
    assert "AF_ALG" not in other.log
