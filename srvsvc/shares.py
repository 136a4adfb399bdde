"""The srvsvc interface: [MS-SRVS] 3.1.4. Shares, sessions, open files and the server itself.

Owns: its operations. Invariants: shares with ``browseable = no`` are not enumerated; other people's sessions, files and paths are shown to
administrators only.
"""

from __future__ import annotations

import grp
import pwd
import time
import uuid
from typing import Any

from pools.port import credentials
from smbd.config import Share
from smbd.config.access import access, visible
from smbd.config.hosts import admitted
from smbd.config.macros import Client, expand, table
from srvsvc.association import Interface, Operation
from srvsvc.messages import Caller
from srvsvc.names import path_type, share_name_valid
from srvsvc.ndr import Array, Bytes, Record, Type, Unique, Units, Varying
from srvsvc.server import Server
from srvsvc.sessions import connection_enum, file_close, file_enum, session_del, session_enum
from srvsvc.types import OPTIONAL_TEXT, TEXT, U32, DiskText, Win32, choice, enumerated, enumeration, levels, not_enumerated

# [MS-SRVS] 2.2.2.4 share types
DISK_TREE, IPC, SPECIAL = 0, 3, 0x80000000
UNLIMITED = 0xFFFFFFFF
PLATFORM_NT = 500
VERSION_MAJOR, VERSION_MINOR = 6, 1
"""What Samba says too: clients choose behaviour by it."""

# [MS-SRVS] 2.2.2.7: WORKSTATION | SERVER | XENIX_SERVER | NT | SERVER_NT
SERVER_TYPE = 0x00000001 | 0x00000002 | 0x00000800 | 0x00001000 | 0x00008000

CSC = {"manual": 0x00, "documents": 0x10, "programs": 0x20, "disable": 0x30}
ACCESS_BASED_ENUMERATION = 0x0800
DFS = 0x1  # [MS-SRVS] 2.2.4.29 SHI1005_FLAGS_DFS
DFS_ROOT = 0x2

SHARE_INFO_0 = Record("SHARE_INFO_0", netname=OPTIONAL_TEXT)
SHARE_INFO_1 = Record("SHARE_INFO_1", netname=OPTIONAL_TEXT, type=U32, remark=OPTIONAL_TEXT)
_SHARE_2: dict[str, Type] = {
    "netname": OPTIONAL_TEXT,
    "type": U32,
    "remark": OPTIONAL_TEXT,
    "permissions": U32,
    "max_uses": U32,
    "current_uses": U32,
    "path": OPTIONAL_TEXT,
    "passwd": OPTIONAL_TEXT,
}
SHARE_INFO_2 = Record("SHARE_INFO_2", **_SHARE_2)
SHARE_INFO_501 = Record("SHARE_INFO_501", netname=OPTIONAL_TEXT, type=U32, remark=OPTIONAL_TEXT, flags=U32)
SHARE_INFO_502 = Record("SHARE_INFO_502", **_SHARE_2, reserved=U32, security_descriptor=Unique(Bytes()))
SHARE_INFO_1005 = Record("SHARE_INFO_1005", flags=U32)
SHARE_INFOS = {0: SHARE_INFO_0, 1: SHARE_INFO_1, 2: SHARE_INFO_2, 501: SHARE_INFO_501, 502: SHARE_INFO_502}

_SERVER_101: dict[str, Type] = {
    "platform_id": U32,
    "name": OPTIONAL_TEXT,
    "version_major": U32,
    "version_minor": U32,
    "type": U32,
    "comment": OPTIONAL_TEXT,
}
SERVER_INFO_100 = Record("SERVER_INFO_100", platform_id=U32, name=OPTIONAL_TEXT)
SERVER_INFO_101 = Record("SERVER_INFO_101", **_SERVER_101)
SERVER_INFO_102 = Record(
    "SERVER_INFO_102",
    **_SERVER_101,
    users=U32,
    disc=U32,
    hidden=U32,
    announce=U32,
    anndelta=U32,
    licenses=U32,
    userpath=OPTIONAL_TEXT,
)
TIME_OF_DAY_INFO = Record(
    "TIME_OF_DAY_INFO",
    elapsedt=U32,
    msecs=U32,
    hours=U32,
    mins=U32,
    secs=U32,
    hunds=U32,
    timezone=U32,
    tinterval=U32,
    day=U32,
    month=U32,
    year=U32,
    weekday=U32,
)
TRANSPORT_INFO_0 = Record(
    "SERVER_TRANSPORT_INFO_0",
    number_of_vcs=U32,
    transport_name=OPTIONAL_TEXT,
    transport_address=Unique(Bytes()),
    transport_address_length=U32,
    network_address=OPTIONAL_TEXT,
)
DISK_CONTAINER = Record("DISK_ENUM_CONTAINER", entries_read=U32, buffer=Unique(Varying(DiskText())))


def server_comment(server: Server) -> str:
    """``server string`` with its macros replaced."""
    config = server.backend.config
    return expand(
        config.server_string, table(Client(server=config.netbios_name, host=config.netbios_name.lower(), user=server.caller.user))
    )


def _type(share: Share) -> int:
    kind = IPC if share.kind == "pipe" else DISK_TREE
    return kind | (SPECIAL if share.name.endswith("$") else 0)


def _comment(server: Server, share: Share) -> str:
    if share.kind == "pipe" and not share.comment:
        return f"IPC Service ({server_comment(server)})"
    return expand(share.comment, table(Client(server=server.backend.config.netbios_name, user=server.caller.user), share))


def _row(server: Server, share: Share, level: int) -> tuple[Any, ...]:
    """One share as SHARE_INFO_level."""
    flags = CSC.get(share.csc_policy, 0) | (ACCESS_BASED_ENUMERATION if share.access_based_share_enum else 0)
    if share.msdfs_root and server.backend.config.host_msdfs:
        flags |= DFS | DFS_ROOT
    if level == 0:
        return (share.name,)
    if level == 1005:
        return (flags,)
    basic = share.name, _type(share), _comment(server, share)
    if level == 1:
        return basic
    if level == 501:
        return (*basic, flags)
    uses = sum(tree.share.casefold() == share.name.casefold() for tree in server.backend.trees())
    path = _path(share) if server.caller.administrator else ""
    full = (*basic, 0, share.max_connections or UNLIMITED, uses, path, "")
    return full if level == 2 else (*full, 0, None)


def visible_shares(server: Server) -> list[Share]:
    """The shares that an enumeration shows; with ``access based share enum`` only to those who may connect."""
    return [share for share in visible(server.backend.config) if not share.access_based_share_enum or _may_connect(server.caller, share)]


def _may_connect(caller: Caller, share: Share) -> bool:
    word = access(share, caller.user, _groups(caller.uid), caller.guest or caller.anonymous)
    return word.allowed and admitted(share.hosts_allow, share.hosts_deny, caller.address)


def _groups(uid: int) -> set[str]:
    """The names of a Unix user's groups; none where there is no such user."""
    try:
        user = pwd.getpwuid(uid)
    except KeyError:
        return set()
    gids = credentials.groups_of(user.pw_name, user.pw_gid)
    return {group.gr_name for group in grp.getgrall() if group.gr_gid in gids}


def share_enum(server: Server, args: Any) -> tuple[Any, ...]:
    """3.1.4.8 NetrShareEnum."""
    if args.info.level not in SHARE_INFOS:
        return not_enumerated(args.info.level, args.resume, Win32.INVALID_LEVEL)
    rows = [_row(server, share, args.info.level) for share in visible_shares(server)]
    return enumerated(args.info.level, rows, args.resume)


def share_enum_sticky(server: Server, args: Any) -> tuple[Any, ...]:
    """3.1.4.9 NetrShareEnumSticky: every share outlives a restart; there is no level 501."""
    if args.info.level == 501:
        return not_enumerated(args.info.level, args.resume, Win32.INVALID_LEVEL)
    return share_enum(server, args)


def share_get_info(server: Server, args: Any) -> tuple[Any, ...]:
    """3.1.4.10 NetrShareGetInfo. A share that is not enumerated can be asked for by name."""
    if args.level not in (*SHARE_INFOS, 1005):
        return (args.level, None), Win32.INVALID_LEVEL
    share = server.backend.config.share(args.net_name)
    if share is None:
        return (args.level, None), Win32.NET_NAME_NOT_FOUND
    return (args.level, _row(server, share, args.level)), Win32.SUCCESS


def share_check(server: Server, args: Any) -> tuple[Any, ...]:
    """3.1.4.13 NetrShareCheck: whether a folder, named as share paths are shown, is shared, and as what."""
    for share in server.backend.config.shares.values():
        if server.caller.administrator and _path(share).casefold() == args.device.casefold():
            return _type(share), Win32.SUCCESS
    return 0, Win32.DEVICE_NOT_SHARED


def _path(share: Share) -> str:
    return "C:" + (share.path or "/tmp").replace("/", "\\")


def server_get_info(server: Server, args: Any) -> tuple[Any, ...]:
    """3.1.4.17 NetrServerGetInfo."""
    name = server.backend.config.netbios_name
    full = PLATFORM_NT, name, VERSION_MAJOR, VERSION_MINOR, SERVER_TYPE, server_comment(server)
    infos: dict[int, tuple[Any, ...]] = {
        100: (PLATFORM_NT, name),
        101: full,
        # [MS-SRVS] 2.2.4.42: no limit of users, never disconnected, announced every 240 s with a spread of 3 s.
        102: (*full, UNLIMITED, UNLIMITED, 0, 240, 3000, 0, "C:\\"),
    }
    if args.level not in infos:
        return (args.level, None), Win32.INVALID_LEVEL
    return (args.level, infos[args.level]), Win32.SUCCESS


def server_set_info(server: Server, args: Any) -> tuple[Any, ...]:
    """3.1.4.18 NetrServerSetInfo: the server is managed by its configuration file."""
    del args
    return None, Win32.NOT_SUPPORTED if server.caller.administrator else Win32.ACCESS_DENIED


def refuse(server: Server, args: Any) -> tuple[Any, ...]:
    """Changes to shares are made in the configuration file."""
    del args
    return (Win32.NOT_SUPPORTED if server.caller.administrator else Win32.ACCESS_DENIED,)


def server_disk_enum(server: Server, args: Any) -> tuple[Any, ...]:
    """3.1.4.19 NetrServerDiskEnum: one drive, C:, as share paths are shown beneath it."""
    if args.level != 0:
        return (0, None), 0, args.resume, Win32.INVALID_LEVEL
    if not server.caller.administrator:
        return (0, None), 0, args.resume, Win32.ACCESS_DENIED
    return (2, ["C:", ""]), 1, None if args.resume is None else 0, Win32.SUCCESS


def transport_enum(server: Server, args: Any) -> tuple[Any, ...]:
    """3.1.4.24 NetrServerTransportEnum: direct TCP."""
    if args.info.level != 0:
        return not_enumerated(args.info.level, args.resume, Win32.INVALID_LEVEL)
    name = server.backend.config.netbios_name.encode("ascii", "replace")
    rows = [(len(server.backend.sessions()), "\\Device\\NetbiosSmb", name, len(name), "000000000000")]
    return enumerated(0, rows, args.resume)


def remote_time(server: Server, args: Any) -> tuple[Any, ...]:
    """3.1.4.28 NetrRemoteTOD."""
    del args
    now = server.backend.now()
    utc = time.gmtime(now)
    west = -(time.localtime(now).tm_gmtoff // 60) & 0xFFFFFFFF
    hundredths = int(now * 100) % 100
    weekday = (utc.tm_wday + 1) % 7  # Sunday is 0
    uptime = int(time.monotonic() * 1000) & 0xFFFFFFFF
    clock = utc.tm_hour, utc.tm_min, utc.tm_sec, hundredths
    day = utc.tm_mday, utc.tm_mon, utc.tm_year, weekday
    return (int(now) & 0xFFFFFFFF, uptime, *clock, west, 310, *day), Win32.SUCCESS


def netp_path_type(server: Server, args: Any) -> tuple[Any, ...]:
    """3.1.4.30 NetprPathType."""
    del server
    kind = path_type(args.path_name)
    return kind or 0, Win32.SUCCESS if kind else Win32.INVALID_NAME


def netp_name_validate(server: Server, args: Any) -> tuple[Any, ...]:
    """3.1.4.33 NetprNameValidate."""
    del server
    return (Win32.SUCCESS if share_name_valid(args.name, args.name_type) else Win32.INVALID_NAME,)


def netp_name_canonicalize(server: Server, args: Any) -> tuple[Any, ...]:
    """3.1.4.34 NetprNameCanonicalize: upper case, as share and computer names compare. The buffer's length is in characters."""
    del server
    room = 2 * min(args.outbuf_length, 64000)
    units = (args.name.upper() + "\0").encode("utf-16-le", errors="surrogatepass")
    if not share_name_valid(args.name, args.name_type):
        return bytes(room), Win32.INVALID_NAME
    if len(units) > room:
        return bytes(room), Win32.BUFFER_TOO_SMALL
    return units.ljust(room, b"\0"), Win32.SUCCESS


def netp_name_compare(server: Server, args: Any) -> tuple[Any, ...]:
    """3.1.4.35 NetprNameCompare: 0 for equal names, else which comes first."""
    del server
    one, other = args.name.casefold(), args.other.casefold()
    return ((one > other) - (one < other) & 0xFFFFFFFF,)


def get_file_security(server: Server, args: Any) -> tuple[Any, ...]:
    """3.1.4.26 NetrpGetFileSecurity: SMB's QUERY_INFO is the way to a file's descriptor."""
    del server, args
    return None, Win32.NOT_SUPPORTED


def _operations() -> dict[int, Operation]:
    server_name = OPTIONAL_TEXT
    status_only = Record("RESULT", status=U32)
    shares = enumeration("NetrShareEnum", levels(SHARE_INFOS), server_name=server_name)
    transports = enumeration("NetrServerTransportEnum", levels({0: TRANSPORT_INFO_0}), server_name=server_name)
    disks = Record("NetrServerDiskEnum", info=DISK_CONTAINER, total=U32, resume=Unique(U32), status=U32)
    name_query: dict[str, Type] = {"server_name": server_name, "name": TEXT}
    nothing = Record("NetrIgnored", server_name=server_name)
    servers = {100: SERVER_INFO_100, 101: SERVER_INFO_101, 102: SERVER_INFO_102}
    return {
        14: Operation("NetrShareAdd", nothing, Record("R", parameter_error=Unique(U32), status=U32), server_set_info),
        15: Operation("NetrShareEnum", *shares, share_enum),
        16: Operation(
            "NetrShareGetInfo",
            Record("Q", server_name=server_name, net_name=TEXT, level=U32),
            Record("R", info=choice({**SHARE_INFOS, 1005: SHARE_INFO_1005}), status=U32),
            share_get_info,
        ),
        17: Operation("NetrShareSetInfo", nothing, Record("R", parameter_error=Unique(U32), status=U32), server_set_info),
        18: Operation("NetrShareDel", nothing, status_only, refuse),
        20: Operation("NetrShareCheck", Record("Q", server_name=server_name, device=TEXT), Record("R", type=U32, status=U32), share_check),
        21: Operation(
            "NetrServerGetInfo",
            Record("Q", server_name=server_name, level=U32),
            Record("R", info=choice(servers), status=U32),
            server_get_info,
        ),
        22: Operation("NetrServerSetInfo", nothing, Record("R", parameter_error=Unique(U32), status=U32), server_set_info),
        23: Operation(
            "NetrServerDiskEnum",
            Record("Q", server_name=server_name, level=U32, info=DISK_CONTAINER, preferred_maximum=U32, resume=Unique(U32)),
            disks,
            server_disk_enum,
        ),
        26: Operation("NetrServerTransportEnum", *transports, transport_enum),
        28: Operation("NetrRemoteTOD", nothing, Record("R", info=Unique(TIME_OF_DAY_INFO), status=U32), remote_time),
        30: Operation(
            "NetprPathType",
            Record("Q", server_name=server_name, path_name=TEXT, flags=U32),
            Record("R", path_type=U32, status=U32),
            netp_path_type,
        ),
        33: Operation("NetprNameValidate", Record("Q", **name_query, name_type=U32, flags=U32), status_only, netp_name_validate),
        34: Operation(
            "NetprNameCanonicalize",
            Record("Q", **name_query, outbuf_length=U32, name_type=U32, flags=U32),
            Record("R", outbuf=Units(), status=U32),
            netp_name_canonicalize,
        ),
        35: Operation("NetprNameCompare", Record("Q", **name_query, other=TEXT, name_type=U32, flags=U32), status_only, netp_name_compare),
        36: Operation("NetrShareEnumSticky", *shares, share_enum_sticky),
        39: Operation("NetrpGetFileSecurity", nothing, Record("R", descriptor=Unique(Array(U32)), status=U32), get_file_security),
        **connection_enum(server_name),
        **file_enum(server_name),
        11: Operation("NetrFileClose", Record("Q", server_name=server_name, file_id=U32), status_only, file_close),
        **session_enum(server_name),
        13: Operation(
            "NetrSessionDel",
            Record("Q", server_name=server_name, client_name=OPTIONAL_TEXT, user_name=OPTIONAL_TEXT),
            status_only,
            session_del,
        ),
    }


INTERFACE = Interface("srvsvc", uuid.UUID("4b324fc8-1670-01d3-1278-5a47bf6ee188").bytes_le, 3, _operations())
