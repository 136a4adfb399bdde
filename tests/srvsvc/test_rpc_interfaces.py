"""Every operation through impacket's client classes: what we pack, another implementation unpacks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from impacket.dcerpc.v5 import lsad, lsat, samr, srvs, wkst
from impacket.dcerpc.v5.dtypes import NULL, RPC_SID
from impacket.dcerpc.v5.rpcrt import DCERPCException

from srvsvc import ndr, shares
from srvsvc.messages import Caller
from srvsvc.server import Server
from tests.srvsvc.conftest import World

Connect = Callable[..., Any]


def text(value: str) -> str:
    return value.rstrip("\0")


@pytest.mark.parametrize("level", [0, 1, 2, 501, 502])
def test_share_enum(connect: Connect, level: int) -> None:
    answer = srvs.hNetrShareEnum(connect("srvsvc", srvs.MSRPC_UUID_SRVS), level)
    rows = answer["InfoStruct"]["ShareInfo"][f"Level{level}"]["Buffer"]
    assert [text(row[f"shi{level}_netname"]) for row in rows] == ["Public", "Größe", "IPC$"]
    assert answer["TotalEntries"] == 3
    if level:
        assert [row[f"shi{level}_type"] for row in rows] == [0, 0, 0x80000003]
        assert text(rows[0][f"shi{level}_remark"]) == "Open to MILLPOND"
    if level in (2, 502):
        assert rows[0][f"shi{level}_path"] == "C:\\srv\\public\0"
        assert [row[f"shi{level}_max_uses"] for row in rows] == [0xFFFFFFFF, 5, 0xFFFFFFFF]
        assert [row[f"shi{level}_current_uses"] for row in rows] == [1, 0, 0]
    if level == 501:
        assert rows[0]["shi501_flags"] == 0x10


@pytest.mark.parametrize(("user", "seen"), [("alice", True), ("bob", False)])
def test_access_based_share_enum(connect: Connect, world: World, user: str, seen: bool) -> None:
    share = replace(world.config.shares["public"], access_based_share_enum=True, valid_users=("alice",))
    world.use(replace(world.config, shares={**world.config.shares, "public": share}))
    rows = srvs.hNetrShareEnum(connect("srvsvc", srvs.MSRPC_UUID_SRVS, user=user), 0)["InfoStruct"]["ShareInfo"]["Level0"]["Buffer"]
    assert ("Public" in [text(row["shi0_netname"]) for row in rows]) is seen


def test_share_enum_refuses_other_levels(connect: Connect) -> None:
    with pytest.raises(DCERPCException, match="LEVEL"):
        srvs.hNetrShareEnum(connect("srvsvc", srvs.MSRPC_UUID_SRVS), 503)


def test_share_enum_sticky(connect: Connect) -> None:
    rpc = connect("srvsvc", srvs.MSRPC_UUID_SRVS)
    assert srvs.hNetrShareEnumSticky(rpc, 1)["TotalEntries"] == 3
    with pytest.raises(DCERPCException, match="LEVEL"):
        srvs.hNetrShareEnumSticky(rpc, 501)


def test_share_check(connect: Connect) -> None:
    rpc = connect("srvsvc", srvs.MSRPC_UUID_SRVS)
    assert srvs.hNetrShareCheck(rpc, "c:\\srv\\PUBLIC\0")["Type"] == 0
    with pytest.raises(DCERPCException, match="0x907"):
        srvs.hNetrShareCheck(rpc, "C:\\elsewhere\0")


@pytest.mark.parametrize("level", [0, 1, 2, 501, 502, 1005])
def test_share_get_info(connect: Connect, level: int) -> None:
    rpc = connect("srvsvc", srvs.MSRPC_UUID_SRVS)
    found = srvs.hNetrShareGetInfo(rpc, "HIDDEN\0", level)["InfoStruct"][f"ShareInfo{level}"]
    if level != 1005:
        assert text(found[f"shi{level}_netname"]) == "hidden"
    with pytest.raises(DCERPCException, match="0x906"):
        srvs.hNetrShareGetInfo(rpc, "nothing\0", level)


def test_paths_are_for_administrators(connect: Connect) -> None:
    rpc = connect("srvsvc", srvs.MSRPC_UUID_SRVS, administrator=False)
    assert text(srvs.hNetrShareGetInfo(rpc, "Public\0", 2)["InfoStruct"]["ShareInfo2"]["shi2_path"]) == ""


@pytest.mark.parametrize("level", [100, 101, 102])
def test_server_get_info(connect: Connect, level: int) -> None:
    found = srvs.hNetrServerGetInfo(connect("srvsvc", srvs.MSRPC_UUID_SRVS), level)["InfoStruct"][f"ServerInfo{level}"]
    assert text(found[f"sv{level}_name"]) == "MILLPOND"


@pytest.mark.parametrize("level", [0, 1, 2, 10, 502])
def test_session_enum(connect: Connect, level: int) -> None:
    answer = srvs.hNetrSessionEnum(connect("srvsvc", srvs.MSRPC_UUID_SRVS), NULL, NULL, level)
    (row,) = answer["InfoStruct"]["SessionInfo"][f"Level{level}"]["Buffer"]
    assert text(row[f"sesi{level}_cname"]) == "\\\\PC"
    if level:
        assert text(row[f"sesi{level}_username"]) == "alice"
        assert row[f"sesi{level}_time"] == 60
    if level in (1, 2, 502):
        assert (row[f"sesi{level}_num_opens"], row[f"sesi{level}_user_flags"]) == (1, 0)


@pytest.mark.parametrize("level", [1, 2, 502])
def test_sessions_are_for_administrators(connect: Connect, level: int) -> None:
    rpc = connect("srvsvc", srvs.MSRPC_UUID_SRVS, administrator=False)
    with pytest.raises(DCERPCException, match="access_denied"):
        srvs.hNetrSessionEnum(rpc, NULL, NULL, level)


@pytest.mark.parametrize("who", ["guest", "anonymous"])
@pytest.mark.parametrize("level", [0, 10])
def test_sessions_are_not_for_strangers(connect: Connect, level: int, who: str) -> None:
    rpc = connect("srvsvc", srvs.MSRPC_UUID_SRVS, administrator=False, **{who: True})
    with pytest.raises(DCERPCException, match="access_denied"):
        srvs.hNetrSessionEnum(rpc, NULL, NULL, level)


@pytest.mark.parametrize("level", [0, 1])
@pytest.mark.parametrize("qualifier", ["public\0", "\\\\PC\0"])
def test_connection_enum(connect: Connect, qualifier: str, level: int) -> None:
    answer = srvs.hNetrConnectionEnum(connect("srvsvc", srvs.MSRPC_UUID_SRVS), qualifier, level)
    assert answer["TotalEntries"] == 1
    if level:
        (row,) = answer["InfoStruct"]["ConnectInfo"]["Level1"]["Buffer"]
        assert (text(row["coni1_username"]), row["coni1_num_opens"]) == ("alice", 1)


def test_files(connect: Connect, world: Any) -> None:
    rpc = connect("srvsvc", srvs.MSRPC_UUID_SRVS)
    (row,) = srvs.hNetrFileEnum(rpc, NULL, NULL, 3)["InfoStruct"]["FileInfo"]["Level3"]["Buffer"]
    assert (text(row["fi3_path_name"]), text(row["fi3_username"]), row["fi3_num_locks"]) == ("Public\\dir\\file.txt", "alice", 2)
    assert row["fi3_permissions"] == 3
    (short,) = srvs.hNetrFileEnum(rpc, NULL, NULL, 2)["InfoStruct"]["FileInfo"]["Level2"]["Buffer"]
    srvs.hNetrFileClose(rpc, short["fi2_id"])
    srvs.hNetrSessionDel(rpc, "\\\\192.0.2.1\0", NULL)
    assert world.closed == [99, 7]


def test_time(connect: Connect) -> None:
    answer = srvs.hNetrRemoteTOD(connect("srvsvc", srvs.MSRPC_UUID_SRVS))["BufferPtr"]
    assert (answer["tod_elapsedt"], answer["tod_year"], answer["tod_hunds"], answer["tod_weekday"]) == (1_700_000_000, 2023, 25, 2)


def test_names_and_paths(connect: Connect) -> None:
    rpc = connect("srvsvc", srvs.MSRPC_UUID_SRVS)
    assert srvs.hNetprPathType(rpc, "\\\\server\\share\0", 0)["PathType"] == 4096
    assert srvs.hNetprPathType(rpc, "C:\\dir\\f*\0", 0)["PathType"] == 8199
    srvs.hNetprNameValidate(rpc, "Share\0", 9)
    with pytest.raises(DCERPCException):
        srvs.hNetprNameValidate(rpc, "Sh/are\0", 9)


def test_a_canonical_name_fills_the_buffer(world: Any) -> None:
    # By hand: impacket expects a NameType in the answer, which the specification does not have.
    operation = shares.INTERFACE.operations[34]
    server = Server(world, Caller("alice", "M", "S-1", "192.0.2.1", 1))
    request = ndr.unpack(operation.request, ndr.pack(operation.request, (None, "Share", 8, 9, 0)))
    stub = ndr.pack(operation.response, operation.call(server, request))
    assert stub == (8).to_bytes(4, "little") + "SHARE\0\0\0".encode("utf-16-le") + bytes(4)
    assert operation.call(server, request._replace(outbuf_length=3))[1] == 2123
    assert operation.call(server, request._replace(name="a/b"))[1] == 123


def test_transports_and_disks(connect: Connect) -> None:
    rpc = connect("srvsvc", srvs.MSRPC_UUID_SRVS)
    assert srvs.hNetrServerTransportEnum(rpc, 0)["TotalEntries"] == 1
    disks = srvs.hNetrServerDiskEnum(rpc, 0)["DiskInfoStruct"]["Buffer"]
    assert text(disks[0]["Disk"]) == "C:"


@pytest.mark.parametrize("level", [100, 101, 102])
def test_workstation(connect: Connect, level: int) -> None:
    found = wkst.hNetrWkstaGetInfo(connect("wkssvc", wkst.MSRPC_UUID_WKST), level)["WkstaInfo"][f"WkstaInfo{level}"]
    assert (text(found[f"wki{level}_computername"]), text(found[f"wki{level}_langroup"])) == ("MILLPOND", "WORKGROUP")


def test_workstation_enumerations(connect: Connect) -> None:
    rpc = connect("wkssvc", wkst.MSRPC_UUID_WKST)
    assert wkst.hNetrWkstaTransportEnum(rpc, 0)["TotalEntries"] == 1
    (user,) = wkst.hNetrWkstaUserEnum(rpc, 1)["UserInfo"]["WkstaUserInfo"]["Level1"]["Buffer"]
    assert text(user["wkui1_username"]) == "alice"


def test_lookup_names_and_sids(connect: Connect) -> None:
    rpc = connect("lsarpc", lsat.MSRPC_UUID_LSAT)
    policy = lsad.hLsarOpenPolicy2(rpc)["PolicyHandle"]
    names = ("root", "MILLPOND\\root", "Everyone", "BUILTIN\\Users")
    answer = lsat.hLsarLookupNames(rpc, policy, names)
    assert [(row["Use"], row["RelativeId"]) for row in answer["TranslatedSids"]["Sids"]] == [(1, 1000), (1, 1000), (5, 0), (4, 545)]
    domains = [row["Name"] for row in answer["ReferencedDomains"]["Domains"]]
    assert domains == ["MILLPOND", "", "BUILTIN"]
    answer = lsat.hLsarLookupSids(rpc, policy, ["S-1-5-21-1-2-3-1000", "S-1-1-0", "S-1-5-21-1-2-3"])
    assert [(row["Use"], row["Name"]) for row in answer["TranslatedNames"]["Names"]] == [(1, "root"), (5, "Everyone"), (3, "")]
    for call in (lsat.hLsarLookupNames2, lsat.hLsarLookupNames3):
        assert call(rpc, policy, names)["MappedCount"] == 4
    assert lsat.hLsarLookupSids2(rpc, policy, ["S-1-1-0"])["MappedCount"] == 1
    with pytest.raises(DCERPCException, match="SOME_NOT_MAPPED"):
        lsat.hLsarLookupNames(rpc, policy, ("root", "no such name"))
    with pytest.raises(DCERPCException, match="NONE_MAPPED"):
        lsat.hLsarLookupSids(rpc, policy, ["S-1-5-21-9-9-9-9"])


def test_policy(connect: Connect) -> None:
    rpc = connect("lsarpc", lsat.MSRPC_UUID_LSAT)
    policy = lsad.hLsarOpenPolicy2(rpc)["PolicyHandle"]
    account = lsad.hLsarQueryInformationPolicy2(rpc, policy, lsad.POLICY_INFORMATION_CLASS.PolicyAccountDomainInformation)
    info = account["PolicyInformation"]["PolicyAccountDomainInfo"]
    assert (info["DomainName"], info["DomainSid"].formatCanonical()) == ("MILLPOND", "S-1-5-21-1-2-3")
    primary = lsad.hLsarQueryInformationPolicy(rpc, policy, lsad.POLICY_INFORMATION_CLASS.PolicyPrimaryDomainInformation)
    assert primary["PolicyInformation"]["PolicyPrimaryDomainInfo"]["Name"] == "WORKGROUP"
    dns = lsad.hLsarQueryInformationPolicy2(rpc, policy, lsad.POLICY_INFORMATION_CLASS.PolicyDnsDomainInformation)
    assert dns["PolicyInformation"]["PolicyDnsDomainInfo"]["Name"] == "WORKGROUP"
    assert lsat.hLsarGetUserName(rpc)["UserName"] == "alice"
    lsad.hLsarClose(rpc, policy)
    with pytest.raises(DCERPCException, match="context_mismatch"):
        lsad.hLsarQueryInformationPolicy2(rpc, policy, lsad.POLICY_INFORMATION_CLASS.PolicyAccountDomainInformation)


def test_accounts(connect: Connect) -> None:
    rpc = connect("samr", samr.MSRPC_UUID_SAMR)
    server = samr.hSamrConnect5(rpc)["ServerHandle"]
    domains = samr.hSamrEnumerateDomainsInSamServer(rpc, server)["Buffer"]["Buffer"]
    assert [row["Name"] for row in domains] == ["MILLPOND", "Builtin"]
    sid: RPC_SID = samr.hSamrLookupDomainInSamServer(rpc, server, "MILLPOND")["DomainId"]
    assert sid.formatCanonical() == "S-1-5-21-1-2-3"
    domain = samr.hSamrOpenDomain(rpc, server, domainId=sid)["DomainHandle"]
    (user,) = samr.hSamrEnumerateUsersInDomain(rpc, domain)["Buffer"]["Buffer"]
    assert user["Name"] == "millponduser"
    assert samr.hSamrEnumerateGroupsInDomain(rpc, domain)["CountReturned"] == 0
    handle = samr.hSamrOpenUser(rpc, domain, userId=user["RelativeId"])["UserHandle"]
    everything = samr.hSamrQueryInformationUser2(rpc, handle, samr.USER_INFORMATION_CLASS.UserAllInformation)["Buffer"]["All"]
    assert (everything["UserName"], everything["UserId"], everything["UserAccountControl"]) == ("millponduser", user["RelativeId"], 0x210)
    assert len(samr.hSamrGetGroupsForUser(rpc, handle)["Groups"]["Groups"]) == 1
    found = samr.hSamrLookupNamesInDomain(rpc, domain, ("millponduser", "root"))
    assert found["RelativeIds"]["Element"][0]["Data"] == user["RelativeId"]
    assert samr.hSamrLookupIdsInDomain(rpc, domain, (1000,))["Names"]["Element"][0]["Data"] == "root"
    builtin = samr.hSamrOpenDomain(rpc, server, domainId=samr.hSamrLookupDomainInSamServer(rpc, server, "Builtin")["DomainId"])[
        "DomainHandle"
    ]
    assert samr.hSamrEnumerateAliasesInDomain(rpc, builtin)["CountReturned"] == 5
    assert samr.hSamrQueryInformationDomain(rpc, domain, samr.DOMAIN_INFORMATION_CLASS.DomainPasswordInformation)["ErrorCode"] == 0
    samr.hSamrCloseHandle(rpc, handle)
    with pytest.raises(DCERPCException, match="context_mismatch"):
        samr.hSamrGetGroupsForUser(rpc, handle)
