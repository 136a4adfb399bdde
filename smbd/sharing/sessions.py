"""Sessions of all workers with their channels and tree connects: for status, srvsvc and previous-session lookup.

Owns: the tables sessions, clients, channels and trees. Invariants: a row is removed by its own worker or by a sweep, by nobody else; a row
of clients names a session that is, or was, its client's.
"""

from __future__ import annotations

from smbd.sharing.records import (
    CHANNEL_KEY,
    CHANNEL_STATE,
    CLIENT_KEY,
    SESSION_KEY,
    SESSION_STATE,
    TREE_KEY,
    TREE_STATE,
    ChannelKey,
    ChannelState,
    ClientKey,
    SessionKey,
    SessionState,
    TreeKey,
    TreeState,
    pack_strings,
    unpack_strings,
)
from smbd.sharing.store import Store, Transaction, rows
from smbd.sharing.values import ChannelRecord, SessionRecord, TreeRecord


class Sessions(Store):
    """Sessions, their channels and tree connects."""

    def add_session(self, record: SessionRecord) -> None:
        """Record a session, or change its record (reauthentication)."""
        self._write(self._put_session, record)

    def _put_session(self, transaction: Transaction, record: SessionRecord) -> None:
        fixed = SESSION_STATE.pack(
            record.slot, record.generation, record.dialect, record.flags, record.signing, record.cipher, record.started,
            record.uid, record.gid, record.client_guid,
        )  # fmt: skip
        tail = pack_strings(record.user, record.domain, record.sid, record.client, record.machine)
        transaction.put(SESSION_KEY.pack(record.session_id), fixed + tail, db=self._sessions)
        transaction.put(CLIENT_KEY.pack(record.client_guid, record.session_id), b"", db=self._clients)

    def remove_session(self, session_id: int) -> None:
        """Forget a session, its channels and its tree connects."""
        self._write(self._remove_session, session_id)

    def _remove_session(self, transaction: Transaction, session_id: int) -> None:
        prefix = SESSION_KEY.pack(session_id)
        raw = transaction.get(prefix, db=self._sessions)
        if raw is not None:
            transaction.delete(CLIENT_KEY.pack(SESSION_STATE.unpack(raw).client_guid, session_id), db=self._clients)
        transaction.delete(prefix, db=self._sessions)
        for table in (self._trees, self._channels):
            for row_key, _ in rows(transaction, table, prefix):
                transaction.delete(row_key, db=table)

    def session(self, session_id: int) -> SessionRecord | None:
        """The session of this id, if its worker lives."""
        raw = self._read(lambda transaction: transaction.get(SESSION_KEY.pack(session_id), db=self._sessions))
        if raw is None:
            return None
        record = _session(session_id, raw)
        return record if self.is_alive(record.slot, record.generation) else None

    def sessions(self) -> list[SessionRecord]:
        """All sessions of living workers."""
        found = self._read(lambda transaction: rows(transaction, self._sessions))
        records = [_session(_session_id(row_key), raw) for row_key, raw in found]
        return [record for record in records if self.is_alive(record.slot, record.generation)]

    def sessions_of(self, client_guid: bytes) -> list[SessionRecord]:
        """The sessions of one client, the oldest first."""
        found = self._read(self._ids_of, client_guid)
        records = [record for session_id in found if (record := self.session(session_id)) is not None]
        return sorted((record for record in records if record.client_guid == client_guid), key=lambda record: record.started)

    def _ids_of(self, transaction: Transaction, client_guid: bytes) -> list[int]:
        keys: list[ClientKey] = [CLIENT_KEY.unpack(row_key) for row_key, _ in rows(transaction, self._clients, client_guid)]
        return [key.session_id for key in keys]

    def add_channel(self, record: ChannelRecord) -> None:
        """Record a connection of a session."""
        self._write(self._put_channel, record)

    def _put_channel(self, transaction: Transaction, record: ChannelRecord) -> None:
        fixed = CHANNEL_STATE.pack(record.slot, record.generation, record.since, record.bound)
        key = CHANNEL_KEY.pack(record.session_id, record.number)
        transaction.put(key, fixed + pack_strings(record.client, record.server), db=self._channels)

    def remove_channel(self, session_id: int, number: int) -> None:
        """Forget one; its session goes on."""
        self._write(lambda transaction: transaction.delete(CHANNEL_KEY.pack(session_id, number), db=self._channels))

    def channels(self) -> list[ChannelRecord]:
        """All channels of living workers."""
        found = self._read(lambda transaction: rows(transaction, self._channels))
        records = [_channel(row_key, raw) for row_key, raw in found]
        return [record for record in records if self.is_alive(record.slot, record.generation)]

    def add_tree(self, record: TreeRecord) -> None:
        """Record a tree connect."""
        self._write(self._put_tree, record)

    def _put_tree(self, transaction: Transaction, record: TreeRecord) -> None:
        fixed = TREE_STATE.pack(record.slot, record.generation, record.connected, record.flags, 0)
        transaction.put(TREE_KEY.pack(record.session_id, record.tree_id), fixed + pack_strings(record.share), db=self._trees)

    def remove_tree(self, session_id: int, tree_id: int) -> None:
        """Forget a tree connect."""
        self._write(lambda transaction: transaction.delete(TREE_KEY.pack(session_id, tree_id), db=self._trees))

    def trees(self) -> list[TreeRecord]:
        """All tree connects of living workers."""
        found = self._read(lambda transaction: rows(transaction, self._trees))
        records = [_tree(row_key, raw) for row_key, raw in found]
        return [record for record in records if self.is_alive(record.slot, record.generation)]


def _session_id(row_key: bytes) -> int:
    at: SessionKey = SESSION_KEY.unpack(row_key)
    return at.session_id


def _session(session_id: int, raw: bytes) -> SessionRecord:
    state: SessionState = SESSION_STATE.unpack(raw)
    user, domain, sid, client, machine = unpack_strings(raw, SESSION_STATE.size, 5)
    return SessionRecord(
        session_id, state.slot, state.generation, state.dialect, state.started, state.flags, state.signing, state.cipher,
        state.uid, state.gid, state.client_guid, user, domain, sid, client, machine,
    )  # fmt: skip


def _channel(row_key: bytes, raw: bytes) -> ChannelRecord:
    at: ChannelKey = CHANNEL_KEY.unpack(row_key)
    state: ChannelState = CHANNEL_STATE.unpack(raw)
    client, server = unpack_strings(raw, CHANNEL_STATE.size, 2)
    return ChannelRecord(at.session_id, at.number, state.slot, state.generation, state.since, state.bound, client, server)


def _tree(row_key: bytes, raw: bytes) -> TreeRecord:
    at: TreeKey = TREE_KEY.unpack(row_key)
    state: TreeState = TREE_STATE.unpack(raw)
    (share,) = unpack_strings(raw, TREE_STATE.size, 1)
    return TreeRecord(at.session_id, at.tree_id, state.slot, state.generation, state.connected, state.flags, share)
