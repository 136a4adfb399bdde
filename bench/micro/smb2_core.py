"""What one READ of 4 KiB costs in the protocol core, and how fast large messages are signed and sealed.

    python -m bench.micro.smb2_core

Owns: nothing; prints the least of several rounds, in CPU time, which is what the figures in smbd/smb2/README.md are.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Final

from smbd.smb2 import constants as c
from smbd.smb2.connection import Connection, Reply
from smbd.smb2.crypto import Channel, PreauthHash, SessionKeys, new_channel, new_cipher, new_signer
from smbd.smb2.dialects import DIALECTS
from smbd.smb2.header import HEADER, HEADER_SIZE, NO_SIGNATURE, PROTOCOL_ID, TRANSFORM_SIZE
from smbd.smb2.messages.file import READ_REQUEST, READ_RESPONSE
from smbd.smb2.negotiate import Choice, NegotiateSettings
from smbd.smb2.reply import pack_in_place

ROUNDS: Final = 7
REQUESTS: Final = 4000
PAYLOAD: Final = 4096
FRONT: Final = 256
LARGE: Final = 1 << 20
KEY: Final = bytes(range(32))
DIALECT: Final = DIALECTS[c.DIALECT_311]
SIGNINGS: Final = {"HMAC-SHA256": c.SIGNING_HMAC_SHA256, "AES-CMAC": c.SIGNING_AES_CMAC, "AES-GMAC": c.SIGNING_AES_GMAC}
CIPHERS: Final = {
    "AES-128-CCM": c.CIPHER_AES128_CCM,
    "AES-128-GCM": c.CIPHER_AES128_GCM,
    "AES-256-CCM": c.CIPHER_AES256_CCM,
    "AES-256-GCM": c.CIPHER_AES256_GCM,
}


def server(signing: int, cipher: int) -> tuple[Connection, Channel]:
    """A connection in session, and the client's end of its channel."""
    connection = Connection(NegotiateSettings(bytes(16), max_credits=1 << 20), os.urandom)
    connection.dialect = DIALECT
    connection.choice = Choice(DIALECT, 0, cipher, signing)
    connection.new_channel(5, KEY, PreauthHash())
    connection.credits.high = 1 << 40
    keys = SessionKeys(DIALECT, KEY, bytes(64), cipher)
    client = new_channel(5, signing, keys, server=False)
    client.cipher = new_cipher(5, cipher, keys, os.urandom(4), server=False)
    return connection, client


def frames(client: Channel, mode: str) -> list[tuple[memoryview, int, int]]:
    """READ requests as they arrive in a receive buffer: view, start, end."""
    made = []
    end = TRANSFORM_SIZE + HEADER_SIZE + READ_REQUEST.size + 1
    for message_id in range(REQUESTS):
        view = memoryview(bytearray(end + 16))
        flags = c.FLAGS_SIGNED if mode == "sign" else 0
        HEADER.pack_into(view, 52, PROTOCOL_ID, 64, 1, 0, c.Command.READ, 1, flags, 0, message_id, 0, 1, 5, NO_SIGNATURE)
        READ_REQUEST.pack_into(view, 116, 49, 80, 0, PAYLOAD, 0, 1, 1, 0, 0, 0, 0, 0)
        if mode == "sign":
            client.sign(view[52:end])
        if mode == "seal" and client.cipher is not None:
            client.cipher.seal(view, 52, end)
        made.append((view, 0 if mode == "seal" else 52, end))
    return made


def small(mode: str, signing: int, cipher: int) -> tuple[float, float]:
    """Microseconds of CPU to receive and to answer one READ."""
    buffer = memoryview(bytearray(FRONT + PAYLOAD + 16))
    fixed = READ_RESPONSE.pack(17, 80, 0, PAYLOAD, 0, 0)
    received, replied = 1e9, 1e9
    for _ in range(ROUNDS):
        connection, client = server(signing, cipher)
        arriving = frames(client, mode)
        start = time.process_time()
        for view, first, end in arriving:
            element = connection.receive(view, first, end)[0]
        middle = time.process_time()
        for _ in arriving:
            reply = Reply(element.header, 0, b"", connection.credits.grant(1), element.sign)
            pack_in_place(buffer, FRONT, PAYLOAD, fixed, reply, seal=element.seal)
        end_time = time.process_time()
        assert not element.error
        received = min(received, middle - start)
        replied = min(replied, end_time - middle)
    return received / REQUESTS * 1e6, replied / REQUESTS * 1e6


def rate(work: Callable[[], object]) -> float:
    """GB/s of ``work`` over a large message."""
    best = 1e9
    for _ in range(ROUNDS * 4):
        start = time.process_time()
        work()
        best = min(best, time.process_time() - start)
    return LARGE / best / 1e9


def large_seal(cipher: int, room: int) -> tuple[float, float]:
    """GB/s to seal, and to unseal with ``room`` bytes behind the frame."""
    keys = SessionKeys(DIALECT, KEY, bytes(64), cipher)
    ours, theirs = new_cipher(1, cipher, keys, b"aaaa"), new_cipher(1, cipher, keys, b"bbbb", server=False)
    view = memoryview(bytearray(TRANSFORM_SIZE + LARGE + 16))
    end = TRANSFORM_SIZE + LARGE
    seal = rate(lambda: ours.seal(view, TRANSFORM_SIZE, end))
    best = 1e9
    for _ in range(ROUNDS * 4):
        ours.seal(view, TRANSFORM_SIZE, end)
        start = time.process_time()
        theirs.unseal(view[: end + room], 0, end)
        best = min(best, time.process_time() - start)
    return seal, LARGE / best / 1e9


def main() -> None:
    """Print the tables."""
    print(f"READ of {PAYLOAD} bytes, microseconds      receive  reply")
    print("{:36}{:9.1f}{:7.1f}".format("plain", *small("plain", c.SIGNING_AES_GMAC, c.CIPHER_AES128_GCM)))
    for name, signing in SIGNINGS.items():
        print("{:36}{:9.1f}{:7.1f}".format("signed " + name, *small("sign", signing, c.CIPHER_AES128_GCM)))
    for name, cipher in CIPHERS.items():
        print("{:36}{:9.1f}{:7.1f}".format("encrypted " + name, *small("seal", c.SIGNING_AES_GMAC, cipher)))
    print(f"\n{LARGE} bytes, GB/s")
    message = memoryview(bytearray(LARGE))
    for name, signing in SIGNINGS.items():
        signer = new_signer(signing, KEY[:16], server=True)
        print(f"{'sign ' + name:36}{rate(lambda signer=signer: signer(message)):9.1f}")  # type: ignore[misc]
    for name, cipher in CIPHERS.items():
        seal, unseal = large_seal(cipher, 16)
        _, moved = large_seal(cipher, 0)
        print(f"{name:20} seal{seal:6.1f}   unseal{unseal:6.1f}   unseal without room behind{moved:6.1f}")


if __name__ == "__main__":
    main()
