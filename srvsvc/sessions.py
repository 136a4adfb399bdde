"""srvsvc's sessions, connections and open files: [MS-SRVS] 3.1.4.1 to 3.1.4.6.

Owns: how rows of smbd.sharing are shown. Invariant: only administrators see or end what others have open; a file's id is derived from
its open, so the same open has the same id in every enumeration.
"""

from __future__ import annotations

import zlib
from typing import Any

from smbd.sharing import OpenRow, SessionRecord
from srvsvc.association import Operation
from srvsvc.ndr import Record, Type
from srvsvc.server import Server
from srvsvc.types import OPTIONAL_TEXT, U32, Win32, enumerated, enumeration, levels, not_enumerated

FILETIME_EPOCH = 11644473600
GUEST_SESSION = 1
"""[MS-SRVS] 2.2.2.3 SESS_GUEST."""

# [MS-SRVS] 2.2.2.5: what an open may do
PERM_READ, PERM_WRITE, PERM_CREATE = 1, 2, 4
_WRITES = 0x00000002 | 0x00000004 | 0x40000000 | 0x10000000
_READS = 0x00000001 | 0x00000020 | 0x80000000 | 0x10000000

SESSION_INFOS = {
    0: Record("SESSION_INFO_0", cname=OPTIONAL_TEXT),
    1: Record("SESSION_INFO_1", cname=OPTIONAL_TEXT, username=OPTIONAL_TEXT, num_opens=U32, time=U32, idle_time=U32, user_flags=U32),
    2: Record(
        "SESSION_INFO_2",
        cname=OPTIONAL_TEXT,
        username=OPTIONAL_TEXT,
        num_opens=U32,
        time=U32,
        idle_time=U32,
        user_flags=U32,
        cltype_name=OPTIONAL_TEXT,
    ),
    10: Record("SESSION_INFO_10", cname=OPTIONAL_TEXT, username=OPTIONAL_TEXT, time=U32, idle_time=U32),
    502: Record(
        "SESSION_INFO_502",
        cname=OPTIONAL_TEXT,
        username=OPTIONAL_TEXT,
        num_opens=U32,
        time=U32,
        idle_time=U32,
        user_flags=U32,
        cltype_name=OPTIONAL_TEXT,
        transport=OPTIONAL_TEXT,
    ),
}
CONNECTION_INFOS = {
    0: Record("CONNECTION_INFO_0", id=U32),
    1: Record("CONNECTION_INFO_1", id=U32, type=U32, num_opens=U32, num_users=U32, time=U32, username=OPTIONAL_TEXT, netname=OPTIONAL_TEXT),
}
FILE_INFOS = {
    2: Record("FILE_INFO_2", id=U32),
    3: Record("FILE_INFO_3", id=U32, permissions=U32, num_locks=U32, pathname=OPTIONAL_TEXT, username=OPTIONAL_TEXT),
}


def _age(server: Server, filetime: int) -> int:
    """Seconds since a FILETIME, as far as they fit."""
    return max(0, min(0xFFFFFFFF, int(server.backend.now() - (filetime / 10**7 - FILETIME_EPOCH))))


def _client(record: SessionRecord) -> str:
    return "\\\\" + (record.machine or record.client)


def _matches(record: SessionRecord, client: str | None, user: str | None) -> bool:
    names = {record.client.casefold(), record.machine.casefold()}
    if client and client.lstrip("\\").casefold() not in names:
        return False
    return not user or record.user.casefold() == user.casefold()


def sessions(server: Server, args: Any) -> tuple[Any, ...]:
    """3.1.4.5 NetrSessionEnum. Levels 0 and 10 are every user's; who proved to be nobody learns of nobody."""
    level = args.info.level
    if level not in SESSION_INFOS:
        return not_enumerated(level, args.resume, Win32.INVALID_LEVEL)
    stranger = server.caller.guest or server.caller.anonymous
    if stranger or (level not in (0, 10) and not server.caller.administrator):
        return not_enumerated(level, args.resume, Win32.ACCESS_DENIED)
    found = [one for one in server.backend.sessions() if _matches(one, args.client_name, args.user_name)]
    if not found and args.client_name:
        return not_enumerated(level, args.resume, Win32.CLIENT_NAME_NOT_FOUND)
    opens: dict[int, int] = {}
    for row in server.backend.opens():
        opens[row.session_id] = opens.get(row.session_id, 0) + 1
    return enumerated(level, [_session_row(server, one, level, opens.get(one.session_id, 0)) for one in found], args.resume)


def _session_row(server: Server, record: SessionRecord, level: int, opens: int) -> tuple[Any, ...]:
    name, age = _client(record), _age(server, record.started)
    if level == 0:
        return (name,)
    if level == 10:
        return name, record.user, age, 0
    basic = name, record.user, opens, age, 0, GUEST_SESSION if record.user == server.backend.config.guest_account else 0
    return {1: basic, 2: (*basic, ""), 502: (*basic, "", "\\Device\\NetbiosSmb")}[level]


def session_del(server: Server, args: Any) -> tuple[Any, ...]:
    """3.1.4.6 NetrSessionDel."""
    if not server.caller.administrator:
        return (Win32.ACCESS_DENIED,)
    if not args.client_name and not args.user_name:
        return (Win32.INVALID_PARAMETER,)
    found = [one for one in server.backend.sessions() if _matches(one, args.client_name, args.user_name)]
    ended = [one for one in found if server.backend.close_session(one)]
    return (Win32.SUCCESS if ended else Win32.CLIENT_NAME_NOT_FOUND,)


def connections(server: Server, args: Any) -> tuple[Any, ...]:
    """3.1.4.1 NetrConnectionEnum: the tree connects of a share, or of a client (\\\\name)."""
    level = args.info.level
    if level not in CONNECTION_INFOS:
        return not_enumerated(level, args.resume, Win32.INVALID_LEVEL)
    if not server.caller.administrator:
        return not_enumerated(level, args.resume, Win32.ACCESS_DENIED)
    if not args.qualifier:
        return not_enumerated(level, args.resume, Win32.INVALID_PARAMETER)
    owners = {one.session_id: one for one in server.backend.sessions()}
    opens = [(row.session_id, row.tree_id) for row in server.backend.opens()]
    rows = []
    for tree in server.backend.trees():
        owner = owners.get(tree.session_id)
        of_client = args.qualifier.startswith("\\\\")
        if owner is None or not (
            _matches(owner, args.qualifier, None) if of_client else tree.share.casefold() == args.qualifier.casefold()
        ):
            continue
        number = zlib.crc32(f"{tree.slot}/{tree.generation}/{tree.session_id}/{tree.tree_id}".encode())
        count = opens.count((tree.session_id, tree.tree_id))
        shown = tree.share if of_client else _client(owner)
        full = (number, 0, count, 1, _age(server, tree.connected), owner.user, shown)
        rows.append(full if level == 1 else full[:1])
    return enumerated(level, rows, args.resume)


def _file_id(row: OpenRow) -> int:
    return zlib.crc32(f"{row.slot}/{row.generation}/{row.file_id}".encode())


def files(server: Server, args: Any) -> tuple[Any, ...]:
    """3.1.4.2 NetrFileEnum."""
    level = args.info.level
    if level not in FILE_INFOS:
        return not_enumerated(level, args.resume, Win32.INVALID_LEVEL)
    if not server.caller.administrator:
        return not_enumerated(level, args.resume, Win32.ACCESS_DENIED)
    rows = []
    for row in server.backend.opens():
        path = f"{row.share}\\{row.path}".replace("/", "\\")
        wanted = not args.base_path or path.casefold().startswith(args.base_path.lstrip("\\").casefold())
        if not wanted or (args.user_name and args.user_name.casefold() != row.user.casefold()):
            continue
        permissions = (PERM_READ if row.access & _READS else 0) | (PERM_WRITE if row.access & _WRITES else 0)
        full = (_file_id(row), permissions, row.locks, path, row.user)
        rows.append(full if level == 3 else full[:1])
    return enumerated(level, rows, args.resume)


def file_close(server: Server, args: Any) -> tuple[Any, ...]:
    """3.1.4.4 NetrFileClose."""
    if not server.caller.administrator:
        return (Win32.ACCESS_DENIED,)
    found = next((row for row in server.backend.opens() if _file_id(row) == args.file_id), None)
    return (Win32.SUCCESS if found is not None and server.backend.close_open(found) else Win32.FILE_ID_NOT_FOUND,)


def session_enum(server_name: Type) -> dict[int, Operation]:
    """Operation 12."""
    before = {"server_name": server_name, "client_name": OPTIONAL_TEXT, "user_name": OPTIONAL_TEXT}
    return {12: Operation("NetrSessionEnum", *enumeration("NetrSessionEnum", levels(SESSION_INFOS), **before), sessions)}


def connection_enum(server_name: Type) -> dict[int, Operation]:
    """Operation 8."""
    before = {"server_name": server_name, "qualifier": OPTIONAL_TEXT}
    return {8: Operation("NetrConnectionEnum", *enumeration("NetrConnectionEnum", levels(CONNECTION_INFOS), **before), connections)}


def file_enum(server_name: Type) -> dict[int, Operation]:
    """Operation 9."""
    before = {"server_name": server_name, "base_path": OPTIONAL_TEXT, "user_name": OPTIONAL_TEXT}
    return {9: Operation("NetrFileEnum", *enumeration("NetrFileEnum", levels(FILE_INFOS), **before), files)}
