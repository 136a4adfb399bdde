"""Persistent opens as bytes: what has to be known of one to have it stand again after the shared state is gone.

Owns: the form in which they are kept on disk. Invariants: an image says nothing of processes, and is made in one read of the tables; what
is restored is disconnected, and the sums, names, locks and lease of it are as if it had been lost just now.

The device is not in it: after a restart of the machine it may have another number. Whoever restores has found the file by its path.
"""

from __future__ import annotations

from typing import NamedTuple

from pools.layout import U32, U64, Layout, WireError
from smbd.sharing.caches import count_cache
from smbd.sharing.durables import Durables, row_key_of
from smbd.sharing.records import (
    BUCKET_PREFIX,
    DURABLE_STATE,
    FILE_ID_KEY,
    LEASE_KEY,
    LOCK_ROW,
    LOCK_STATE,
    OPEN_KEY,
    OPEN_STATE,
    OWNER_KEY,
    STREAM_KEY,
    lock_bucket,
    lock_key,
    stream_key,
    unpack_strings,
)
from smbd.sharing.rules import Owner, count, count_named
from smbd.sharing.store import Transaction, walk
from smbd.sharing.values import DISCONNECTED, NOBODY, CacheKind, FileKey, Lasting, OpenFlags, Parting
from smbd.smb2 import status
from smbd.smb2.status import SmbError

VERSION = 2
FORM = VERSION << 24 | OPEN_STATE.size << 12 | DURABLE_STATE.size
"""Another one with each change of the layouts: what an older server has left is then not understood, and forgotten."""


class ImageHead(NamedTuple):
    """What an image begins with; the row, the durable row and the locks follow, of so many bytes each."""

    form: U32
    row: U32
    durable: U32
    locks: U32
    file_id: U64


class Kept(NamedTuple):
    """Where to look for the file of an image, and how to know it.

    ``root``: the share's folder as it was; ``uid``, ``gid``: its user's; ``exact``: see ``OpenFlags``.
    """

    file_id: int
    share: str
    path: str
    stream: str
    ino: int
    birth: int
    root: str = ""
    uid: int = NOBODY
    gid: int = NOBODY
    exact: bool = False


IMAGE_HEAD = Layout(ImageHead)


def kept_of(image: bytes) -> Kept:
    """``WireError`` for what is no image of this form."""
    head, row, durable, _ = _parts(image)
    share, path, stream, _ = unpack_strings(row, OPEN_STATE.size, 4)
    _, root = unpack_strings(durable, DURABLE_STATE.size, 2)
    opener, state = OPEN_STATE.unpack(row), DURABLE_STATE.unpack(durable)
    exact = bool(opener.flags & OpenFlags.EXACT)
    return Kept(head.file_id, share, path, stream, state.ino, state.birth, root, opener.uid, opener.gid, exact)


def _parts(image: bytes) -> tuple[ImageHead, bytes, bytes, bytes]:
    head = IMAGE_HEAD.unpack(image)
    at = IMAGE_HEAD.size
    if head.form != FORM or len(image) != at + head.row + head.durable + head.locks or head.locks % LOCK_STATE.size:
        raise WireError(f"an image of form {head.form} and {len(image)} bytes")
    ends = at + head.row, at + head.row + head.durable
    return head, image[at : ends[0]], image[ends[0] : ends[1]], image[ends[1] :]


class Images(Durables):
    """Persistent opens, out of the tables and into them."""

    def note(self, file_id: int, parting: Parting) -> None:
        """What only the worker knows of its open, so that it is in the next image."""
        self._write(self._note, file_id, parting)

    def _note(self, transaction: Transaction, file_id: int, parting: Parting) -> None:
        name = FILE_ID_KEY.pack(file_id)
        kept = transaction.get(name, db=self._durables)
        if kept is not None:
            state = DURABLE_STATE.unpack(kept)
            state = state._replace(**parting._asdict())
            transaction.put(name, DURABLE_STATE.pack(*state) + kept[DURABLE_STATE.size :], db=self._durables)

    def persistent(self) -> list[int]:
        """The FileIds of all persistent opens."""
        return self._read(self._persistent)

    def _persistent(self, transaction: Transaction) -> list[int]:
        found = walk(transaction, self._durables)
        return [FILE_ID_KEY.unpack(name).file_id for name, raw in found if DURABLE_STATE.unpack(raw).lasting & Lasting.PERSISTENT]

    def image(self, file_id: int) -> bytes | None:
        """A persistent open as bytes; None when there is none of this number."""
        return self._read(self._image, file_id)

    def _image(self, transaction: Transaction, file_id: int) -> bytes | None:
        kept = transaction.get(FILE_ID_KEY.pack(file_id), db=self._durables)
        if kept is None:
            return None
        state = DURABLE_STATE.unpack(kept)
        raw = transaction.get(row_key_of(state, file_id), db=self._opens)
        if raw is None or not state.lasting & Lasting.PERSISTENT:
            return None
        row, at = OPEN_STATE.unpack(raw), STREAM_KEY.pack(state.dev, state.ino, state.stream)
        if self._state(transaction, at).delete_pending:
            row = row._replace(flags=row.flags | OpenFlags.DELETE_ON_CLOSE)
        if row.breaking:
            row = row._replace(cache=row.required, breaking=0, requested=0, required=0, deadline=0)
        fixed = OPEN_STATE.pack(*row) + raw[OPEN_STATE.size :]
        durable = DURABLE_STATE.pack(*state._replace(dev=0, slot=DISCONNECTED, generation=0, deadline=0)) + kept[DURABLE_STATE.size :]
        owner = Owner(state.slot, state.generation, file_id)
        held = LOCK_ROW.iter_unpack(self._locks_at(transaction, at))
        locks = b"".join(LOCK_STATE.pack(DISCONNECTED, 0, *lock[2:]) for lock in held if lock[:3] == owner)
        return IMAGE_HEAD.pack(FORM, len(fixed), len(durable), len(locks), file_id) + fixed + durable + locks

    def _locks_at(self, transaction: Transaction, at: bytes) -> bytes:
        key = STREAM_KEY.unpack(at)
        return transaction.get(BUCKET_PREFIX.pack(lock_bucket(key.dev, key.ino)) + at, db=self._locks) or b""

    def restore(self, image: bytes, key: FileKey) -> bool:
        """Have a persistent open stand again, of the file ``key``; False when it stands already. ``WireError`` for what is no image.

        SHARING_VIOLATION when a client has the file open: it was let in while nobody knew of this open.
        """
        return self._write(self._restore, image, key)

    def _restore(self, transaction: Transaction, image: bytes, key: FileKey) -> bool:
        head, raw, durable, locks = _parts(image)
        name = FILE_ID_KEY.pack(head.file_id)
        if transaction.get(name, db=self._durables) is not None:
            return False
        row, at = OPEN_STATE.unpack(raw), stream_key(key)
        if any(OPEN_KEY.unpack(other).slot != DISCONNECTED for other, _ in walk(transaction, self._opens, at)):
            raise SmbError(status.SHARING_VIOLATION)  # the vault could not be read at the start, and somebody has opened the file since
        state = DURABLE_STATE.unpack(durable)._replace(dev=key.dev, ino=key.ino, stream=STREAM_KEY.unpack(at).stream)
        row_key = at + OWNER_KEY.pack(DISCONNECTED, 0, head.file_id)
        transaction.put(row_key, raw, db=self._opens)
        transaction.put(name, DURABLE_STATE.pack(*state) + durable[DURABLE_STATE.size :], db=self._durables)
        self._enter_names(transaction, state, name)
        if row.kind >= CacheKind.LEASE:
            transaction.put(LEASE_KEY.pack(row.client_guid, row.lease_key), at, db=self._leases)
        sums = count_cache(count(self._state(transaction, at), row.access, row.share_access, 1), row.cache, 1)
        self._save(transaction, at, sums._replace(lasting=sums.lasting + 1))
        if key.stream:
            base_at = STREAM_KEY.pack(key.dev, key.ino, 0)
            self._save(transaction, base_at, count_named(self._state(transaction, base_at), row.access, row.share_access, 1))
        if locks:
            transaction.put(lock_key(key), self._locks_at(transaction, at) + locks, db=self._locks)
            self._buckets[lock_bucket(key.dev, key.ino)] = 1
        self._part(transaction, row_key, raw, None)
        return True
