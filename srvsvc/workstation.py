"""The wkssvc interface: [MS-WKST] 3.2.4. What the machine is called and who is on it.

Owns: its operations. Invariant: users are shown to administrators only.
"""

from __future__ import annotations

import uuid
from typing import Any

from srvsvc.association import Interface, Operation
from srvsvc.ndr import Record, Type
from srvsvc.server import Server
from srvsvc.shares import PLATFORM_NT, VERSION_MAJOR, VERSION_MINOR
from srvsvc.types import OPTIONAL_TEXT, U32, Win32, choice, enumerated, enumeration, levels, not_enumerated

_WKSTA_100: dict[str, Type] = {
    "platform_id": U32,
    "computername": OPTIONAL_TEXT,
    "langroup": OPTIONAL_TEXT,
    "ver_major": U32,
    "ver_minor": U32,
}
WKSTA_INFOS = {
    100: Record("WKSTA_INFO_100", **_WKSTA_100),
    101: Record("WKSTA_INFO_101", **_WKSTA_100, lanroot=OPTIONAL_TEXT),
    102: Record("WKSTA_INFO_102", **_WKSTA_100, lanroot=OPTIONAL_TEXT, logged_on_users=U32),
}
USER_INFOS = {
    0: Record("WKSTA_USER_INFO_0", username=OPTIONAL_TEXT),
    1: Record(
        "WKSTA_USER_INFO_1", username=OPTIONAL_TEXT, logon_domain=OPTIONAL_TEXT, oth_domains=OPTIONAL_TEXT, logon_server=OPTIONAL_TEXT
    ),
}
TRANSPORT_INFO_0 = Record(
    "WKSTA_TRANSPORT_INFO_0",
    quality_of_service=U32,
    number_of_vcs=U32,
    transport_name=OPTIONAL_TEXT,
    transport_address=OPTIONAL_TEXT,
    wan_ish=U32,
)


def get_info(server: Server, args: Any) -> tuple[Any, ...]:
    """3.2.4.1 NetrWkstaGetInfo. Level 100 is everybody's, the number of users is an administrator's."""
    config = server.backend.config
    basic = PLATFORM_NT, config.netbios_name, config.workgroup, VERSION_MAJOR, VERSION_MINOR
    if args.level not in WKSTA_INFOS:
        return (args.level, None), Win32.INVALID_LEVEL
    if args.level == 102 and not server.caller.administrator:
        return (args.level, None), Win32.ACCESS_DENIED
    row: tuple[Any, ...] = basic if args.level == 100 else (*basic, "")
    if args.level == 102:
        row = *row, len({one.user for one in server.backend.sessions()})
    return (args.level, row), Win32.SUCCESS


def user_enum(server: Server, args: Any) -> tuple[Any, ...]:
    """3.2.4.3 NetrWkstaUserEnum."""
    level = args.info.level
    if level not in USER_INFOS:
        return not_enumerated(level, args.resume, Win32.INVALID_LEVEL)
    if not server.caller.administrator:
        return not_enumerated(level, args.resume, Win32.ACCESS_DENIED)
    users = sorted({(one.user, one.domain) for one in server.backend.sessions()})
    name = server.backend.config.netbios_name
    rows: list[Any] = [(user,) if level == 0 else (user, domain, "", name) for user, domain in users]
    return enumerated(level, rows, args.resume)


def transport_enum(server: Server, args: Any) -> tuple[Any, ...]:
    """3.2.4.4 NetrWkstaTransportEnum: direct TCP."""
    if args.info.level != 0:
        return not_enumerated(args.info.level, args.resume, Win32.INVALID_LEVEL)
    return enumerated(0, [(0xFFFF, len(server.backend.sessions()), "\\Device\\NetbiosSmb", "000000000000", 0)], args.resume)


def _operations() -> dict[int, Operation]:
    get_request = Record("NetrWkstaGetInfo", server_name=OPTIONAL_TEXT, level=U32)
    get_response = Record("NetrWkstaGetInfo", info=choice(WKSTA_INFOS), status=U32)
    users = enumeration("NetrWkstaUserEnum", levels(USER_INFOS), server_name=OPTIONAL_TEXT)
    transports = enumeration("NetrWkstaTransportEnum", levels({0: TRANSPORT_INFO_0}), server_name=OPTIONAL_TEXT)
    return {
        0: Operation("NetrWkstaGetInfo", get_request, get_response, get_info),
        2: Operation("NetrWkstaUserEnum", *users, user_enum),
        5: Operation("NetrWkstaTransportEnum", *transports, transport_enum),
    }


INTERFACE = Interface("wkssvc", uuid.UUID("6bffd098-a112-3610-9833-46c3f87e345a").bytes_le, 1, _operations())
