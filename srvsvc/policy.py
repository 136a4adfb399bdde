"""The lsarpc interface: [MS-LSAT] 3.1.4 look-ups, and as much of [MS-LSAD] 3.1.4 as they need.

Owns: its operations. Invariant: SIDs and names are answered from the same accounts that files are owned by; nothing can be changed here.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

from pools.port import sockets
from smbd.accounts import MAX_LOOKUP, Account, SidType
from smbd.smb2 import status
from smbd.smb2.dtyp.sid import SID
from srvsvc.association import Interface, Operation
from srvsvc.ndr import Array, Raw, Record, Switch, Type, Unique
from srvsvc.server import NULL_HANDLE, Handle, Server
from srvsvc.types import HANDLE, OPTIONAL_TEXT, SID_TYPE, U16, U32, USTRING

UNKNOWN_DOMAIN = 0xFFFFFFFF

TRUST_INFORMATION = Record("LSAPR_TRUST_INFORMATION", name=USTRING, sid=Unique(SID_TYPE))
DOMAIN_LIST = Record("LSAPR_REFERENCED_DOMAIN_LIST", entries=U32, domains=Unique(Array(TRUST_INFORMATION)), max_entries=U32)

POINTER = Record("PRPC_UNICODE_STRING", string=Unique(USTRING))


def _list(name: str, element: Type) -> Record:
    return Record(name, entries=U32, elements=Unique(Array(element)))


SID_ENUM = _list("LSAPR_SID_ENUM_BUFFER", Record("LSAPR_SID_INFORMATION", sid=Unique(SID_TYPE)))
NAMES = _list("LSAPR_TRANSLATED_NAMES", Record("LSAPR_TRANSLATED_NAME", use=U16, name=USTRING, domain_index=U32))
NAMES_EX = _list("LSAPR_TRANSLATED_NAMES_EX", Record("LSAPR_TRANSLATED_NAME_EX", use=U16, name=USTRING, domain_index=U32, flags=U32))
SIDS = _list("LSAPR_TRANSLATED_SIDS", Record("LSA_TRANSLATED_SID", use=U16, relative_id=U32, domain_index=U32))
SIDS_EX = _list("LSAPR_TRANSLATED_SIDS_EX", Record("LSAPR_TRANSLATED_SID_EX", use=U16, relative_id=U32, domain_index=U32, flags=U32))
SIDS_EX2 = _list(
    "LSAPR_TRANSLATED_SIDS_EX2", Record("LSAPR_TRANSLATED_SID_EX2", use=U16, sid=Unique(SID_TYPE), domain_index=U32, flags=U32)
)

# [MS-LSAD] 2.2.4.1 POLICY_INFORMATION_CLASS
PRIMARY_DOMAIN, ACCOUNT_DOMAIN, SERVER_ROLE, DNS_DOMAIN = 3, 5, 6, 12
ROLE_PRIMARY = 3
DOMAIN_INFO = Record("LSAPR_POLICY_DOM_INFO", name=USTRING, sid=Unique(SID_TYPE))
DNS_INFO = Record(
    "LSAPR_POLICY_DNS_DOMAIN_INFO",
    name=USTRING,
    dns_domain_name=USTRING,
    dns_forest_name=USTRING,
    domain_guid=Raw(16, 4),
    sid=Unique(SID_TYPE),
)
POLICY_INFORMATION = Switch(
    {PRIMARY_DOMAIN: DOMAIN_INFO, ACCOUNT_DOMAIN: DOMAIN_INFO, SERVER_ROLE: Record("ROLE", role=U16), DNS_DOMAIN: DNS_INFO}, tag=2
)


def open_policy(server: Server, args: Any) -> tuple[Any, ...]:
    """[MS-LSAD] 3.1.4.4.1 LsarOpenPolicy2."""
    del args
    handle = server.open_handle(Handle("policy"))
    return handle, status.SUCCESS if handle != NULL_HANDLE else status.INSUFFICIENT_RESOURCES


def close(server: Server, args: Any) -> tuple[Any, ...]:
    """[MS-LSAD] 3.1.4.9.4 LsarClose."""
    server.close_handle(args.handle)
    return NULL_HANDLE, status.SUCCESS


def query_policy(server: Server, args: Any) -> tuple[Any, ...]:
    """[MS-LSAD] 3.1.4.4.4 LsarQueryInformationPolicy. A stand-alone server: its primary domain has a name and no SID."""
    server.handle(args.handle, "policy")
    config, ids = server.backend.config, server.backend.ids
    dns = sockets.host_name().partition(".")[2]
    known: dict[int, tuple[Any, ...]] = {
        PRIMARY_DOMAIN: (config.workgroup, None),
        ACCOUNT_DOMAIN: (ids.domain, ids.machine),
        SERVER_ROLE: (ROLE_PRIMARY,),
        DNS_DOMAIN: (config.workgroup, dns, "", bytes(16), None),
    }
    if args.information_class not in known:
        return None, status.INVALID_PARAMETER
    return (args.information_class, known[args.information_class]), status.SUCCESS


class _Domains:
    """The domains that an answer refers to, each once."""

    def __init__(self) -> None:
        self._rows: list[tuple[str, SID]] = []

    def index(self, account: Account) -> int:
        """The number of the account's domain; UNKNOWN_DOMAIN for one without."""
        if account.kind in (SidType.UNKNOWN, SidType.INVALID) or not account.sid:
            return UNKNOWN_DOMAIN
        sid = SID.parse(account.sid)
        row = (account.domain, sid if account.kind == SidType.DOMAIN else SID(sid.authority, sid.sub_authorities[:-1]))
        if row not in self._rows:
            self._rows.append(row)
        return self._rows.index(row)

    def value(self) -> tuple[Any, ...]:
        """As LSAPR_REFERENCED_DOMAIN_LIST."""
        return len(self._rows), self._rows, 32 if self._rows else 0


def _mapped(kinds: Sequence[int]) -> tuple[int, int]:
    """(how many were mapped, the status that says so)."""
    count = sum(kind not in (SidType.UNKNOWN, SidType.INVALID) for kind in kinds)
    if count == len(kinds):
        return count, status.SUCCESS
    return count, status.SOME_NOT_MAPPED if count else status.NONE_MAPPED


def _refused(code: int) -> tuple[Any, ...]:
    return None, (0, None), 0, code


def _lookup_sids(server: Server, args: Any, flagged: bool) -> tuple[Any, ...]:
    """[MS-LSAT] 3.1.4.9 to 3.1.4.11."""
    _check_policy(server, args)
    sids = [element.sid for element in args.sids.elements or ()]
    if len(sids) > MAX_LOOKUP or len(sids) != args.sids.entries or None in sids:
        return _refused(status.INVALID_PARAMETER)
    found = server.backend.lookup_sids([str(sid) for sid in sids])
    domains = _Domains()
    rows = []
    for account in found:
        # [MS-LSAT] 3.1.4.11: what cannot be translated is answered by its text.
        name = account.name if account.kind != SidType.UNKNOWN else account.sid
        row = account.kind, name, domains.index(account)
        rows.append((*row, 0) if flagged else row)
    count, code = _mapped([account.kind for account in found])
    return domains.value(), (len(rows), rows), count, code


def lookup_sids(server: Server, args: Any) -> tuple[Any, ...]:
    """[MS-LSAT] 3.1.4.11 LsarLookupSids."""
    return _lookup_sids(server, args, flagged=False)


def lookup_sids2(server: Server, args: Any) -> tuple[Any, ...]:
    """[MS-LSAT] 3.1.4.10 LsarLookupSids2, and 3.1.4.9 LsarLookupSids3."""
    return _lookup_sids(server, args, flagged=True)


def _check_policy(server: Server, args: Any) -> None:
    """The handle must be a policy's; the operations without one need none."""
    if hasattr(args, "handle"):
        server.handle(args.handle, "policy")


def _lookup_names(server: Server, args: Any, form: int) -> tuple[Any, ...]:
    """[MS-LSAT] 3.1.4.5 to 3.1.4.8; ``form`` 1, 2 or 3 is the shape of a translated SID."""
    _check_policy(server, args)
    if len(args.names) > MAX_LOOKUP or len(args.names) != args.count:
        return _refused(status.INVALID_PARAMETER)
    found = server.backend.lookup_names([name or "" for name in args.names])
    domains = _Domains()
    rows: list[tuple[Any, ...]] = []
    for account in found:
        index = domains.index(account)
        known = index != UNKNOWN_DOMAIN
        rid = UNKNOWN_DOMAIN if not known or account.kind == SidType.DOMAIN else SID.parse(account.sid).rid
        if form == 3:
            rows.append((account.kind, SID.parse(account.sid) if known else None, index, 0))
        else:
            rows.append((account.kind, rid if known else 0, index, 0)[: form + 2])
    count, code = _mapped([account.kind for account in found])
    return domains.value(), (len(rows), rows), count, code


def lookup_names(server: Server, args: Any) -> tuple[Any, ...]:
    """[MS-LSAT] 3.1.4.8 LsarLookupNames."""
    return _lookup_names(server, args, 1)


def lookup_names2(server: Server, args: Any) -> tuple[Any, ...]:
    """[MS-LSAT] 3.1.4.7 LsarLookupNames2."""
    return _lookup_names(server, args, 2)


def lookup_names3(server: Server, args: Any) -> tuple[Any, ...]:
    """[MS-LSAT] 3.1.4.6 LsarLookupNames3, and 3.1.4.5 LsarLookupNames4."""
    return _lookup_names(server, args, 3)


def get_user_name(server: Server, args: Any) -> tuple[Any, ...]:
    """[MS-LSAT] 3.1.4.2 LsarGetUserName: who the session is."""
    return server.caller.user, None if args.domain is None else (server.caller.domain,), status.SUCCESS


def denied(server: Server, args: Any) -> tuple[Any, ...]:
    """[MS-LSAD] 3.1.4.5.2 LsarEnumerateAccounts: who holds which privilege is not shown."""
    del server
    return args.context, (0, None), status.ACCESS_DENIED


def no_trusts(server: Server, args: Any) -> tuple[Any, ...]:
    """[MS-LSAD] 3.1.4.7.8 LsarEnumerateTrustedDomains: a stand-alone server trusts none."""
    del server
    return args.context, (0, None), status.NO_MORE_ENTRIES


def _operations() -> dict[int, Operation]:
    handle_only = Record("LsarClose", handle=HANDLE)
    opened = Record("LsarOpenPolicy", handle=HANDLE, status=U32)
    ignored = Record("LsarOpenPolicy")
    enumerate_request = Record("LsarEnumerateAccounts", handle=HANDLE, context=U32, preferred=U32)
    enumerate_response = Record("LsarEnumerateAccounts", context=U32, buffer=SID_ENUM, status=U32)
    trusted = _list("LSAPR_TRUSTED_ENUM_BUFFER", TRUST_INFORMATION)
    trusted_response = Record("LsarEnumerateTrustedDomains", context=U32, buffer=trusted, status=U32)
    query = Record("LsarQueryInformationPolicy", handle=HANDLE, information_class=U16)
    queried = Record("LsarQueryInformationPolicy", information=Unique(POLICY_INFORMATION), status=U32)

    def answer(translated: Record) -> Record:
        return Record("LsarLookup", domains=Unique(DOMAIN_LIST), translated=translated, mapped=U32, status=U32)

    # What follows the SIDs or names (the level, and a count that means nothing) is not read.
    by_sid = Record("LsarLookupSids", handle=HANDLE, sids=SID_ENUM)
    by_name = Record("LsarLookupNames", handle=HANDLE, count=U32, names=Array(USTRING))
    return {
        0: Operation("LsarClose", handle_only, opened, close),
        6: Operation("LsarOpenPolicy", ignored, opened, open_policy),
        7: Operation("LsarQueryInformationPolicy", query, queried, query_policy),
        11: Operation("LsarEnumerateAccounts", enumerate_request, enumerate_response, denied),
        13: Operation("LsarEnumerateTrustedDomains", enumerate_request, trusted_response, no_trusts),
        14: Operation("LsarLookupNames", by_name, answer(SIDS), lookup_names),
        15: Operation("LsarLookupSids", by_sid, answer(NAMES), lookup_sids),
        44: Operation("LsarOpenPolicy2", ignored, opened, open_policy),
        45: Operation(
            "LsarGetUserName",
            Record("LsarGetUserName", system=OPTIONAL_TEXT, user=Unique(USTRING), domain=Unique(POINTER)),
            Record("LsarGetUserName", user=Unique(USTRING), domain=Unique(POINTER), status=U32),
            get_user_name,
        ),
        46: Operation("LsarQueryInformationPolicy2", query, queried, query_policy),
        57: Operation("LsarLookupSids2", by_sid, answer(NAMES_EX), lookup_sids2),
        58: Operation("LsarLookupNames2", by_name, answer(SIDS_EX), lookup_names2),
        68: Operation("LsarLookupNames3", by_name, answer(SIDS_EX2), lookup_names3),
        76: Operation("LsarLookupSids3", Record("LsarLookupSids3", sids=SID_ENUM), answer(NAMES_EX), lookup_sids2),
        77: Operation("LsarLookupNames4", Record("LsarLookupNames4", count=U32, names=Array(USTRING)), answer(SIDS_EX2), lookup_names3),
    }


INTERFACE = Interface("lsarpc", uuid.UUID("12345778-1234-abcd-ef00-0123456789ab").bytes_le, 0, _operations())
