"""The samr interface: [MS-SAMR] 3.1.5, read only: which users there are and what they are called.

Owns: its operations. Invariants: two domains, the machine's and BUILTIN; nothing here can be changed, and nothing secret is known.
"""

from __future__ import annotations

import uuid
from typing import Any

from smbd.accounts import MAX_LOOKUP, WELL_KNOWN, SidType, UserRecord
from smbd.smb2 import status
from smbd.smb2.dtyp.sid import BUILTIN, SID
from srvsvc.association import Interface, Operation
from srvsvc.ndr import Array, Bytes, Record, Switch, Type, Unique, Varying
from srvsvc.server import NULL_HANDLE, Handle, Server
from srvsvc.shares import server_comment
from srvsvc.types import HANDLE, NEVER, OLD_TIME, OPTIONAL_TEXT, SID_TYPE, U8, U16, U32, U64, USTRING

# [MS-SAMR] 2.2.1.12
USER_ACCOUNT_DISABLED, USER_NORMAL_ACCOUNT, USER_DONT_EXPIRE_PASSWORD = 0x0001, 0x0010, 0x0200
DOMAIN_USERS_RID = 513
NEVER_EXPIRES = 1 << 63
"""The most negative interval: no limit."""

ALL_FIELDS = 0x07FFFFFF & ~0x07000000
"""[MS-SAMR] 2.2.1.8 WhichFields: everything but passwords, private data and the descriptor."""

RID_NAME = Record("SAMPR_RID_ENUMERATION", relative_id=U32, name=USTRING)
ENUMERATION = Record("SAMPR_ENUMERATION_BUFFER", entries_read=U32, buffer=Unique(Array(RID_NAME)))
ULONG_ARRAY = Record("SAMPR_ULONG_ARRAY", count=U32, element=Unique(Array(U32)))
STRING_ARRAY = Record("SAMPR_RETURNED_USTRING_ARRAY", count=U32, element=Unique(Array(USTRING)))
MEMBERSHIP = Record("SAMPR_GET_GROUPS_BUFFER", count=U32, groups=Unique(Array(Record("GROUP_MEMBERSHIP", relative_id=U32, attributes=U32))))
SHORT_BLOB = Record("SAMPR_SHORT_BLOB", length=U16, maximum=U16, buffer=Unique(Varying(U16)))
LOGON_HOURS = Record("SAMPR_LOGON_HOURS", units_per_week=U16, hours=Unique(Varying(U8, 1260)))

_TIMES = ("last_logon", "last_logoff", "password_last_set", "account_expires", "password_can_change", "password_must_change")
_STRINGS = (
    "user_name",
    "full_name",
    "home_directory",
    "home_directory_drive",
    "script_path",
    "profile_path",
    "admin_comment",
    "workstations",
    "user_comment",
    "parameters",
)
USER_ALL = Record(
    "SAMPR_USER_ALL_INFORMATION",
    **dict.fromkeys(_TIMES, OLD_TIME),
    **dict.fromkeys(_STRINGS, USTRING),
    lm_owf_password=SHORT_BLOB,
    nt_owf_password=SHORT_BLOB,
    private_data=USTRING,
    security_descriptor=Record("SAMPR_SR_SECURITY_DESCRIPTOR", length=U32, descriptor=Unique(Bytes())),
    user_id=U32,
    primary_group_id=U32,
    user_account_control=U32,
    which_fields=U32,
    logon_hours=LOGON_HOURS,
    bad_password_count=U16,
    logon_count=U16,
    country_code=U16,
    code_page=U16,
    lm_password_present=U8,
    nt_password_present=U8,
    password_expired=U8,
    private_data_sensitive=U8,
)
USER_GENERAL = Record(
    "SAMPR_USER_GENERAL_INFORMATION",
    user_name=USTRING,
    full_name=USTRING,
    primary_group_id=U32,
    admin_comment=USTRING,
    user_comment=USTRING,
)
_NAME = Record("SAMPR_USER_NAME", name=USTRING)
_NUMBER = Record("USER_NUMBER", number=U32)
# [MS-SAMR] 2.2.6.28 USER_INFORMATION_CLASS
GENERAL, NAME, ACCOUNT_NAME, FULL_NAME, PRIMARY_GROUP, CONTROL, ALL = 1, 6, 7, 8, 9, 16, 21
USER_INFO: dict[int, Type] = {
    GENERAL: USER_GENERAL,
    NAME: Record("SAMPR_USER_NAME_INFORMATION", user_name=USTRING, full_name=USTRING),
    ACCOUNT_NAME: _NAME,
    FULL_NAME: _NAME,
    PRIMARY_GROUP: _NUMBER,
    CONTROL: _NUMBER,
    ALL: USER_ALL,
}
PASSWORD_POLICY = Record("DOMAIN_PASSWORD_INFORMATION", min_length=U16, history=U16, properties=U32, max_age=OLD_TIME, min_age=OLD_TIME)
DOMAIN_GENERAL = Record(
    "SAMPR_DOMAIN_GENERAL_INFORMATION",
    force_logoff=OLD_TIME,
    oem_information=USTRING,
    domain_name=USTRING,
    replica_source_node_name=USTRING,
    domain_modified_count=OLD_TIME,
    domain_server_state=U32,
    domain_server_role=U32,
    uas_compatibility_required=U8,
    user_count=U32,
    group_count=U32,
    alias_count=U32,
)
DOMAIN_INFO: dict[int, Type] = {1: PASSWORD_POLICY, 2: DOMAIN_GENERAL, 5: _NAME, 8: Record("DOMAIN_MODIFIED", count=U64, created=U64)}


def _opened(server: Server, handle: Handle) -> tuple[Any, ...]:
    name = server.open_handle(handle)
    return name, status.SUCCESS if name != NULL_HANDLE else status.INSUFFICIENT_RESOURCES


def connect(server: Server, args: Any) -> tuple[Any, ...]:
    """3.1.5.1 SamrConnect and its successors."""
    del args
    return _opened(server, Handle("server"))


def connect5(server: Server, args: Any) -> tuple[Any, ...]:
    """3.1.5.1.1 SamrConnect5: revision 3, without its optional features."""
    del args
    return 1, (1, (3, 0)), *_opened(server, Handle("server"))


def close(server: Server, args: Any) -> tuple[Any, ...]:
    """3.1.5.13.1 SamrCloseHandle."""
    server.close_handle(args.handle)
    return NULL_HANDLE, status.SUCCESS


def enumerate_domains(server: Server, args: Any) -> tuple[Any, ...]:
    """3.1.5.2.1 SamrEnumerateDomainsInSamServer."""
    server.handle(args.handle, "server")
    rows = [(0, server.backend.ids.domain), (1, "Builtin")][args.context :]
    return 2, (len(rows), rows), len(rows), status.SUCCESS


def lookup_domain(server: Server, args: Any) -> tuple[Any, ...]:
    """3.1.5.11.1 SamrLookupDomainInSamServer."""
    server.handle(args.handle, "server")
    known = {server.backend.ids.domain.casefold(): server.backend.ids.machine, "builtin": BUILTIN}
    sid = known.get((args.name or "").casefold())
    return sid, status.SUCCESS if sid is not None else status.NO_SUCH_DOMAIN


def open_domain(server: Server, args: Any) -> tuple[Any, ...]:
    """3.1.5.1.5 SamrOpenDomain."""
    server.handle(args.handle, "server")
    if args.sid not in (server.backend.ids.machine, BUILTIN):
        return NULL_HANDLE, status.NO_SUCH_DOMAIN
    return _opened(server, Handle("domain", str(args.sid)))


def query_domain(server: Server, args: Any) -> tuple[Any, ...]:
    """3.1.5.5.1 SamrQueryInformationDomain."""
    domain = SID.parse(server.handle(args.handle, "domain").subject)
    name = "Builtin" if domain == BUILTIN else server.backend.ids.domain
    # [MS-SAMR] 2.2.4.1: no forced logoff, an enabled server, the primary of its own domain.
    general = NEVER_EXPIRES, server_comment(server), name, "", 1, 1, 3, 1, len(_users(server, str(domain))), 0, 0
    known: dict[int, tuple[Any, ...]] = {1: (0, 0, 0, NEVER_EXPIRES, 0), 2: general, 5: (name,), 8: (1, 0)}
    if args.information_class not in known:
        return None, status.INVALID_INFO_CLASS
    return (args.information_class, known[args.information_class]), status.SUCCESS


def _users(server: Server, domain: str) -> list[tuple[int, UserRecord]]:
    """(RID, user) of a domain, in the order of RIDs. BUILTIN has none."""
    ids = server.backend.ids
    if domain != str(ids.machine):
        return []
    return sorted((ids.user_sid(user.uid).rid, user) for user in server.backend.users())


def _control(user: UserRecord) -> int:
    return USER_NORMAL_ACCOUNT | USER_DONT_EXPIRE_PASSWORD | (USER_ACCOUNT_DISABLED if user.disabled else 0)


def enumerate_users(server: Server, args: Any) -> tuple[Any, ...]:
    """3.1.5.2.5 SamrEnumerateUsersInDomain; the context is how many were given before."""
    domain = server.handle(args.handle, "domain").subject
    wanted = args.control & (USER_NORMAL_ACCOUNT | USER_ACCOUNT_DISABLED) or USER_NORMAL_ACCOUNT
    every = [(rid, user.name) for rid, user in _users(server, domain) if _control(user) & wanted]
    rows = every[args.context : args.context + 1000]
    code = 0x00000105 if args.context + len(rows) < len(every) else status.SUCCESS  # STATUS_MORE_ENTRIES
    return args.context + len(rows), (len(rows), rows), len(rows), code


def enumerate_aliases(server: Server, args: Any) -> tuple[Any, ...]:
    """3.1.5.2.4 SamrEnumerateAliasesInDomain: BUILTIN's; groups of the machine's domain are Unix groups, not listed here."""
    domain = server.handle(args.handle, "domain").subject
    inside = [account for account in WELL_KNOWN.values() if account.kind == SidType.ALIAS and account.sid.startswith(f"{domain}-")]
    rows = [(SID.parse(account.sid).rid, account.name) for account in inside][args.context :]
    return args.context + len(rows), (len(rows), rows), len(rows), status.SUCCESS


def enumerate_groups(server: Server, args: Any) -> tuple[Any, ...]:
    """3.1.5.2.3 SamrEnumerateGroupsInDomain: none."""
    server.handle(args.handle, "domain")
    return args.context, (0, []), 0, status.SUCCESS


def lookup_names(server: Server, args: Any) -> tuple[Any, ...]:
    """3.1.5.11.2 SamrLookupNamesInDomain."""
    domain = server.handle(args.handle, "domain").subject
    if len(args.names) != args.count or args.count > MAX_LOOKUP or None in args.names:
        return (0, None), (0, None), status.INVALID_PARAMETER
    found = server.backend.lookup_names(args.names)
    inside = [account.sid.rpartition("-")[0] == domain and account.kind != SidType.UNKNOWN for account in found]
    rids = [SID.parse(account.sid).rid if known else 0 for account, known in zip(found, inside, strict=True)]
    kinds = [account.kind if known else SidType.UNKNOWN for account, known in zip(found, inside, strict=True)]
    return (len(rids), rids), (len(kinds), kinds), _mapped(inside)


def lookup_ids(server: Server, args: Any) -> tuple[Any, ...]:
    """3.1.5.11.3 SamrLookupIdsInDomain."""
    domain = server.handle(args.handle, "domain").subject
    if len(args.rids) != args.count or args.count > MAX_LOOKUP:
        return (0, None), (0, None), status.INVALID_PARAMETER
    found = server.backend.lookup_sids([f"{domain}-{rid}" for rid in args.rids])
    names = [account.name or None for account in found]
    kinds = [account.kind for account in found]
    return (len(names), names), (len(kinds), kinds), _mapped([name is not None for name in names])


def _mapped(known: list[bool]) -> int:
    if all(known):
        return status.SUCCESS
    return status.SOME_NOT_MAPPED if any(known) else status.NONE_MAPPED


def open_user(server: Server, args: Any) -> tuple[Any, ...]:
    """3.1.5.1.9 SamrOpenUser."""
    domain = server.handle(args.handle, "domain").subject
    if not any(rid == args.rid for rid, _ in _users(server, domain)):
        return NULL_HANDLE, status.NO_SUCH_USER
    return _opened(server, Handle("user", f"{domain}-{args.rid}"))


def query_user(server: Server, args: Any) -> tuple[Any, ...]:
    """3.1.5.5.5 SamrQueryInformationUser."""
    domain, _, rid = server.handle(args.handle, "user").subject.rpartition("-")
    user = next((user for number, user in _users(server, domain) if number == int(rid)), None)
    if user is None:
        return None, status.NO_SUCH_USER
    if args.information_class not in USER_INFO:
        return None, status.INVALID_INFO_CLASS
    known: dict[int, tuple[Any, ...]] = {
        GENERAL: (user.name, user.full_name, DOMAIN_USERS_RID, "", ""),
        NAME: (user.name, user.full_name),
        ACCOUNT_NAME: (user.name,),
        FULL_NAME: (user.full_name,),
        PRIMARY_GROUP: (DOMAIN_USERS_RID,),
        CONTROL: (_control(user),),
        ALL: _everything(user, int(rid)),
    }
    return (args.information_class, known[args.information_class]), status.SUCCESS


def _everything(user: UserRecord, rid: int) -> tuple[Any, ...]:
    times = 0, NEVER, 0, NEVER, 0, NEVER
    strings = user.name, user.full_name, *("",) * 8
    empty = 0, 0, None
    numbers = rid, DOMAIN_USERS_RID, _control(user), ALL_FIELDS
    return (*times, *strings, empty, empty, None, (0, None), *numbers, (168, [0xFF] * 21), 0, 0, 0, 0, 0, 0, 0, 0)


def groups_for_user(server: Server, args: Any) -> tuple[Any, ...]:
    """3.1.5.9.1 SamrGetGroupsForUser: the one every user is in."""
    server.handle(args.handle, "user")
    return (1, [(DOMAIN_USERS_RID, 7)]), status.SUCCESS


def alias_membership(server: Server, args: Any) -> tuple[Any, ...]:
    """3.1.5.9.2 SamrGetAliasMembership: none."""
    server.handle(args.handle, "domain")
    return (0, []), status.SUCCESS


def _operations() -> dict[int, Operation]:
    handle_status = Record("R", handle=HANDLE, status=U32)
    enumerate_request = Record("Q", handle=HANDLE, context=U32, preferred=U32)
    enumerate_response = Record("R", context=U32, buffer=Unique(ENUMERATION), count=U32, status=U32)
    query = Record("Q", handle=HANDLE, information_class=U16)
    domain_info = Record("R", information=Unique(Switch(DOMAIN_INFO, tag=2)), status=U32)
    user_info = Record("R", information=Unique(Switch(USER_INFO, tag=2)), status=U32)
    revision = Switch({1: Record("SAMPR_REVISION_INFO_V1", revision=U32, supported_features=U32)})
    by_name = Record("Q", handle=HANDLE, count=U32, names=Varying(USTRING))
    by_rid = Record("Q", handle=HANDLE, count=U32, rids=Varying(U32))
    connect_response = Record("R", out_version=U32, out_revision=revision, handle=HANDLE, status=U32)
    users_request = Record("Q", handle=HANDLE, context=U32, control=U32, preferred=U32)
    return {
        0: Operation("SamrConnect", Record("Q"), handle_status, connect),
        1: Operation("SamrCloseHandle", Record("Q", handle=HANDLE), handle_status, close),
        5: Operation(
            "SamrLookupDomainInSamServer",
            Record("Q", handle=HANDLE, name=USTRING),
            Record("R", sid=Unique(SID_TYPE), status=U32),
            lookup_domain,
        ),
        6: Operation("SamrEnumerateDomainsInSamServer", enumerate_request, enumerate_response, enumerate_domains),
        7: Operation("SamrOpenDomain", Record("Q", handle=HANDLE, access=U32, sid=SID_TYPE), handle_status, open_domain),
        8: Operation("SamrQueryInformationDomain", query, domain_info, query_domain),
        11: Operation("SamrEnumerateGroupsInDomain", enumerate_request, enumerate_response, enumerate_groups),
        13: Operation("SamrEnumerateUsersInDomain", users_request, enumerate_response, enumerate_users),
        15: Operation("SamrEnumerateAliasesInDomain", enumerate_request, enumerate_response, enumerate_aliases),
        16: Operation("SamrGetAliasMembership", Record("Q", handle=HANDLE), Record("R", rids=ULONG_ARRAY, status=U32), alias_membership),
        17: Operation("SamrLookupNamesInDomain", by_name, Record("R", rids=ULONG_ARRAY, use=ULONG_ARRAY, status=U32), lookup_names),
        18: Operation("SamrLookupIdsInDomain", by_rid, Record("R", names=STRING_ARRAY, use=ULONG_ARRAY, status=U32), lookup_ids),
        34: Operation("SamrOpenUser", Record("Q", handle=HANDLE, access=U32, rid=U32), handle_status, open_user),
        36: Operation("SamrQueryInformationUser", query, user_info, query_user),
        39: Operation(
            "SamrGetGroupsForUser",
            Record("Q", handle=HANDLE),
            Record("R", groups=Unique(MEMBERSHIP), status=U32),
            groups_for_user,
        ),
        46: Operation("SamrQueryInformationDomain2", query, domain_info, query_domain),
        47: Operation("SamrQueryInformationUser2", query, user_info, query_user),
        57: Operation("SamrConnect2", Record("Q"), handle_status, connect),
        62: Operation("SamrConnect4", Record("Q"), handle_status, connect),
        64: Operation("SamrConnect5", Record("Q", server=OPTIONAL_TEXT), connect_response, connect5),
    }


INTERFACE = Interface("samr", uuid.UUID("12345778-1234-abcd-ef00-0123456789ac").bytes_le, 1, _operations())
