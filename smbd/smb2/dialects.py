"""What each dialect has, as a frozen table: handlers ask the row, never compare numbers ([MS-SMB2] 1.7, 3.3.5.4)."""

from __future__ import annotations

from dataclasses import dataclass

from smbd.smb2.constants import (
    CIPHER_AES128_CCM,
    DIALECT_202,
    DIALECT_210,
    DIALECT_300,
    DIALECT_302,
    DIALECT_311,
    SIGNING_AES_CMAC,
    SIGNING_HMAC_SHA256,
)


@dataclass(frozen=True, slots=True)
class Dialect:
    """One row. ``cipher`` and ``signing`` hold where nothing is negotiated; ``cipher`` is 0 where the dialect cannot encrypt."""

    number: int
    name: str
    multi_credit: bool
    leasing: bool
    signing: int
    cipher: int
    smb3: bool  # encryption, multichannel, persistent handles, lease v2, derived keys, ChannelSequence
    cap_encryption: bool  # encryption is agreed by a capability bit, not by a context
    preauth: bool  # 3.1.1: negotiate contexts, pre-authentication integrity, its key labels


_ROWS = (
    Dialect(DIALECT_202, "2.0.2", False, False, SIGNING_HMAC_SHA256, 0, False, False, False),
    Dialect(DIALECT_210, "2.1", True, True, SIGNING_HMAC_SHA256, 0, False, False, False),
    Dialect(DIALECT_300, "3.0", True, True, SIGNING_AES_CMAC, CIPHER_AES128_CCM, True, True, False),
    Dialect(DIALECT_302, "3.0.2", True, True, SIGNING_AES_CMAC, CIPHER_AES128_CCM, True, True, False),
    Dialect(DIALECT_311, "3.1.1", True, True, SIGNING_AES_CMAC, 0, True, False, True),
)

DIALECTS: dict[int, Dialect] = {row.number: row for row in _ROWS}
