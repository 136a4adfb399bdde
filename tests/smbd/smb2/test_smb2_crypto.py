"""Published vectors first: RFC 4493, Microsoft's key derivation, pre-authentication and encryption samples; then round trips."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smbd.smb2 import constants as c
from smbd.smb2.crypto import (
    PreauthHash,
    SessionCipher,
    SessionKeys,
    Unsealable,
    derive_key,
    new_channel,
    new_cipher,
    new_signer,
)
from smbd.smb2.dialects import DIALECTS
from smbd.smb2.header import HEADER, PROTOCOL_ID, TRANSFORM_HEADER
from tests.smbd.smb2.golden import load, pdu

CMAC_KEY = bytes.fromhex("2b7e151628aed2a6abf7158809cf4f3c")
CMAC_MESSAGE = bytes.fromhex(
    "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51"
    "30c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710"
)
LOGON = {name: pdu(fields) for name, fields in load("logon_311.txt").items()}
SEALED = {name: pdu(fields) for name, fields in load("encryption.txt").items()}
SIGNINGS = (c.SIGNING_HMAC_SHA256, c.SIGNING_AES_CMAC, c.SIGNING_AES_GMAC)
CIPHERS = (c.CIPHER_AES128_CCM, c.CIPHER_AES128_GCM, c.CIPHER_AES256_CCM, c.CIPHER_AES256_GCM)


@pytest.mark.parametrize(
    ("length", "expected"),
    [
        (0, "bb1d6929e95937287fa37d129b756746"),
        (16, "070a16b46b4d4144f79bdd9dd04a287c"),
        (40, "dfa66747de9ae63030ca32611497c827"),
        (64, "51f0bebf7e3b9d92fc49741779363cfe"),
    ],
)
def test_cmac_rfc4493(length: int, expected: str) -> None:
    sign = new_signer(c.SIGNING_AES_CMAC, CMAC_KEY, server=True)
    assert sign(memoryview(CMAC_MESSAGE[:length])).hex() == expected
    assert sign(memoryview(CMAC_MESSAGE[:length])).hex() == expected  # the keyed state is not used up


def test_keys_300() -> None:
    keys = SessionKeys(DIALECTS[c.DIALECT_300], bytes.fromhex("7CD451825D0450D235424E44BA6E78CC"), b"", c.CIPHER_AES128_CCM)
    assert keys.signing.hex().upper() == "0B7E9C5CAC36C0F6EA9AB275298CEDCE"
    assert keys.server_in.hex().upper() == "FAD27796665B313EBB578F388632B4F7"
    assert keys.server_out.hex().upper() == "B0F0427F7CEB416D1D9DCC0CD4F99447"
    assert keys.application.hex().upper() == "BB23A4575AA26C721AF525AF15A87B4F"
    second = SessionKeys(DIALECTS[c.DIALECT_300], bytes.fromhex("4E01A2B313BCF660CC250BEF021AEDE6"))
    assert second.signing.hex().upper() == "BA1A17DBBFEC349BCA105563D598952F"


def test_logon_311_from_hash_to_signature() -> None:
    preauth = PreauthHash()
    steps = (
        ("negotiate_request", "DD94EFC5321BB618A2E208BA8920D2F4"),
        ("negotiate_response", "324BFA92A4F3A190E466EBEA08D9C110"),
        ("session_setup_request_1", "AC0B0F2B9986257700365E416D142A6E"),
        ("session_setup_response_1", "2729E3440DFDDD839E37193F6E8F20C2"),
        ("session_setup_request_2", "0DD13628CC3ED218EF9DF9772D436D08"),
    )
    for message, expected in steps:
        preauth.update(LOGON[message])
        assert preauth.value[:16].hex().upper() == expected, message
    keys = SessionKeys(
        DIALECTS[c.DIALECT_311], bytes.fromhex("270E1BA896585EEB7AF3472D3B4C75A7"), preauth.value, c.CIPHER_AES128_GCM
    )
    assert keys.signing.hex().upper() == "73FE7A9A77BEF0BDE49C650D8CCB5F76"
    assert keys.server_in.hex().upper() == "629BCBC54422A0F572B97F45989B6073"
    assert keys.server_out.hex().upper() == "E2AF0DCEFAC68DA71A0DFBD0D1350D74"
    assert keys.application.hex().upper() == "6D7AD7954E9EC61E907B4D473DC178FF"
    client = new_channel(0x100000000019, c.SIGNING_AES_CMAC, keys, server=False)
    final = memoryview(bytearray(LOGON["session_setup_response_2"]))
    assert client.verify(final)
    assert bytes(final) == LOGON["session_setup_response_2"]
    final[-1] ^= 1
    assert not client.verify(final)


PREAUTH_311 = bytes.fromhex(
    "B23F3CBFD69487D9832B79B1594A367CDD950909B774C3A4C412B4FCEA9EDDDBA7DB256BA2EA30E9"
    "77F11F9B113247578E0E915C6D2A513B8F2FCA5707DC8770"
)
SAMPLES = (
    ("300", c.DIALECT_300, c.CIPHER_AES128_CCM, "B4546771B515F766A86735532DD6C4F0", b"", 0x8E40014000011),
    ("311", c.DIALECT_311, c.CIPHER_AES128_GCM, "419FDDF34C1E001909D362AE7FB6AF79", PREAUTH_311, 0x100000000025),
)


@pytest.mark.parametrize("room", [0, 16])
@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample[0])
def test_published_encryption(sample: tuple[str, int, int, str, bytes, int], room: int) -> None:
    name, dialect, cipher_id, key, preauth, session_id = sample
    keys = SessionKeys(DIALECTS[dialect], bytes.fromhex(key), preauth, cipher_id)
    for side, server in (("request", True), ("response", False)):
        cipher = new_cipher(session_id, cipher_id, keys, b"abcd", server=server)
        sealed = SEALED[f"write_{side}_{name}_sealed"]
        view = memoryview(bytearray(sealed + b"r" * room))
        assert bytes(cipher.unseal(view, 0, len(sealed))) == SEALED[f"write_{side}_{name}"]
        assert bytes(view[len(sealed) :]) == b"r" * room


def test_derived_keys_of_256_bits_use_the_whole_session_key() -> None:
    full = bytes(range(32))
    dialect = DIALECTS[c.DIALECT_311]
    keys = SessionKeys(dialect, full, bytes(64), c.CIPHER_AES256_GCM)
    assert keys.server_out == derive_key(full, b"SMBS2CCipherKey\0", bytes(64), 32)
    assert keys.signing == derive_key(full[:16], b"SMBSigningKey\0", bytes(64))
    assert len(keys.server_in) == 32
    short = SessionKeys(dialect, full, bytes(64), c.CIPHER_AES128_GCM)
    assert short.server_out == derive_key(full[:16], b"SMBS2CCipherKey\0", bytes(64))


def test_short_session_keys_are_filled_with_zeros() -> None:
    assert SessionKeys(DIALECTS[c.DIALECT_210], b"abc").signing == b"abc" + bytes(13)


def channels(signing: int, cipher: int = c.CIPHER_AES128_GCM) -> tuple[SessionKeys, SessionCipher, SessionCipher]:
    keys = SessionKeys(DIALECTS[c.DIALECT_311], bytes(range(32)), bytes(64), cipher)
    return keys, new_cipher(9, cipher, keys, b"abcd"), new_cipher(9, cipher, keys, b"efgh", server=False)


@pytest.mark.parametrize("signing", SIGNINGS)
@given(body=st.binary(max_size=300), flip=st.integers(0, 1 << 20))
def test_signatures_hold_for_every_bit(signing: int, body: bytes, flip: int) -> None:
    keys, _, _ = channels(signing)
    server, client = new_channel(9, signing, keys), new_channel(9, signing, keys, server=False)
    view = memoryview(bytearray(HEADER.pack(PROTOCOL_ID, 64, 1, 0, c.Command.READ, 1, c.FLAGS_SIGNED, 0, 5, 0, 1, 9, bytes(16)) + body))
    client.sign(view)
    assert server.verify(view)
    position = flip % (len(view) * 8)
    view[position // 8] ^= 1 << position % 8
    assert not server.verify(view)


def test_gmac_nonce_tells_sides_and_cancel_apart() -> None:
    keys, _, _ = channels(c.SIGNING_AES_GMAC)
    server, client = new_channel(9, 2, keys), new_channel(9, 2, keys, server=False)
    signatures = set()
    for side, command in ((server, c.Command.ECHO), (client, c.Command.ECHO), (client, c.Command.CANCEL), (server, c.Command.CANCEL)):
        view = memoryview(bytearray(HEADER.pack(PROTOCOL_ID, 64, 1, 0, command, 1, 8, 0, 5, 0, 1, 9, bytes(16))))
        side.sign(view)
        signatures.add(bytes(view[48:64]))
    assert len(signatures) == 4


@pytest.mark.parametrize("cipher_id", CIPHERS)
@given(plain=st.binary(min_size=1, max_size=400), room=st.sampled_from([0, 7, 16, 40]))
def test_seal_and_unseal(cipher_id: int, plain: bytes, room: int) -> None:
    _, server, client = channels(2, cipher_id)
    view = memoryview(bytearray(60 + len(plain) + 16))
    view[60 : 60 + len(plain)] = plain
    sealed = bytes(server.seal(view, 60, 60 + len(plain)))
    header = TRANSFORM_HEADER.unpack(sealed)
    assert (header.original_message_size, header.session_id, header.flags) == (len(plain), 9, 1)
    received = memoryview(bytearray(b"before!" + sealed + b"x" * room))
    assert bytes(client.unseal(received, 7, 7 + len(sealed))) == plain
    assert bytes(received[7 + len(sealed) :]) == b"x" * room
    assert bytes(received[:7]) == b"before!"


@pytest.mark.parametrize("cipher_id", CIPHERS)
@given(position=st.integers(4, 51 + 20), bit=st.integers(0, 7))
def test_every_bit_of_a_sealed_message_counts(cipher_id: int, position: int, bit: int) -> None:
    _, server, client = channels(2, cipher_id)
    view = memoryview(bytearray(52 + 20 + 16))
    sealed = bytearray(server.seal(view, 52, 72))
    sealed[position] ^= 1 << bit
    with pytest.raises(Unsealable):
        client.unseal(memoryview(sealed), 0, len(sealed))


@pytest.mark.parametrize("cipher_id", CIPHERS)
def test_nonces_are_never_used_twice(cipher_id: int) -> None:
    _, server, client = channels(2, cipher_id)
    nonces = set()
    for cipher in (server, client):
        for _ in range(1000):
            view = memoryview(bytearray(52 + 8 + 16))
            nonces.add(TRANSFORM_HEADER.unpack(cipher.seal(view, 52, 60)).nonce)
    assert len(nonces) == 2000
