"""The configuration in a RELOAD message: from the master, which parsed it, to everyone.

Owns: the payload of ``pools.queue.RELOAD``. Invariant: only the master may send that kind (the hub's table), so that unpickling here
never sees a byte that came from elsewhere.
"""

from __future__ import annotations

import io
import pickle
import zlib
from types import MappingProxyType
from typing import Any

from pools.queue import MAX_PAYLOAD
from smbd.config import Config


class _Pickler(pickle.Pickler):
    def reducer_override(self, obj: Any) -> Any:
        """Read-only mappings are the one thing in a configuration that pickle does not know."""
        return (MappingProxyType, (dict(obj),)) if isinstance(obj, MappingProxyType) else NotImplemented


def pack_config(config: Config) -> bytes:
    """The payload; ``ValueError`` when the configuration is too large for a message (about 3,000 shares)."""
    out = io.BytesIO()
    _Pickler(out, protocol=5).dump(config)
    payload = zlib.compress(out.getvalue(), 9)
    if len(payload) > MAX_PAYLOAD:
        raise ValueError(f"this configuration takes {len(payload)} bytes in a message, {MAX_PAYLOAD} is the limit; restart to use it")
    return payload


def unpack_config(payload: bytes | memoryview) -> Config:
    """What ``pack_config`` packed."""
    config = pickle.loads(zlib.decompress(payload))
    if not isinstance(config, Config):
        raise TypeError(f"a RELOAD held {type(config).__name__}")
    return config
