"""Remote procedure calls as administrators' tools make them: rpcclient and impacket."""

from __future__ import annotations

import re

import pytest
from impacket.dcerpc.v5 import lsad, lsat, srvs, transport, wkst
from impacket.dcerpc.v5.dtypes import MAXIMUM_ALLOWED

from tests.interop.tools import CASES, Case, rpcclient
from tests.server import SHARE, Server


@pytest.mark.parametrize("case", CASES, ids=str)
def test_rpcclient_server_and_shares(server: Server, case: Case) -> None:
    info = rpcclient(server, "srvinfo", case)
    assert re.search(r"platform_id\s*:\s*500", info), info
    assert re.search(r"os version\s*:\s*\d+\.\d+", info), info
    shares = rpcclient(server, "netshareenum", case)
    assert f"netname: {SHARE}" in shares, shares
    assert "netname: IPC$" in rpcclient(server, "netshareenumall", case)
    one = rpcclient(server, f"netsharegetinfo {SHARE} 1", case)
    assert f"netname: {SHARE}" in one, one
    assert "result was WERR_" in rpcclient(server, "netsharegetinfo absent 1", case, ok=None)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_rpcclient_names_and_sids(server: Server, case: Case) -> None:
    found = rpcclient(server, f"lookupnames {server.user}", case)
    match = re.search(rf"{server.user} (S-1-5-21-[\d-]+) \(User: 1\)", found)
    assert match, found
    back = rpcclient(server, f"lookupsids {match.group(1)}", case)
    assert re.search(rf"{re.escape(match.group(1))} .*\\{server.user} \(1\)", back), back
    assert re.search(r"S-1-1-0 .*Everyone \(5\)", rpcclient(server, "lookupsids S-1-1-0", case))
    assert "NT_STATUS_NONE_MAPPED" in rpcclient(server, "lookupnames nobody-by-this-name", case, ok=None)
    assert "S-1-5-21-" in rpcclient(server, "lsaquery 5", case)
    assert server.user in rpcclient(server, "getusername", case)


def _bound(server: Server, pipe: str, interface: tuple[str, ...]) -> object:
    pipe_transport = transport.DCERPCTransportFactory(rf"ncacn_np:127.0.0.1[\pipe\{pipe}]")
    pipe_transport.set_dport(server.port)
    pipe_transport.set_credentials(server.user, server.password)
    pipe_transport.setRemoteHost("127.0.0.1")
    rpc = pipe_transport.get_dce_rpc()
    rpc.connect()
    rpc.bind(interface)
    return rpc


def test_impacket_srvsvc(server: Server) -> None:
    rpc = _bound(server, "srvsvc", srvs.MSRPC_UUID_SRVS)
    shares = srvs.hNetrShareEnum(rpc, 1)["InfoStruct"]["ShareInfo"]["Level1"]["Buffer"]
    assert {SHARE, "IPC$"} <= {share["shi1_netname"].rstrip("\0") for share in shares}
    info = srvs.hNetrServerGetInfo(rpc, 101)["InfoStruct"]["ServerInfo101"]
    assert info["sv101_platform_id"] == 500
    assert srvs.hNetrRemoteTOD(rpc)["BufferPtr"]["tod_year"] >= 2024
    rpc.disconnect()


def test_impacket_wkssvc(server: Server) -> None:
    rpc = _bound(server, "wkssvc", wkst.MSRPC_UUID_WKST)
    info = wkst.hNetrWkstaGetInfo(rpc, 100)["WkstaInfo"]["WkstaInfo100"]
    assert info["wki100_platform_id"] == 500
    assert info["wki100_langroup"].rstrip("\0") == "WORKGROUP"
    rpc.disconnect()


def test_impacket_lsarpc(server: Server) -> None:
    rpc = _bound(server, "lsarpc", lsat.MSRPC_UUID_LSAT)
    policy = lsad.hLsarOpenPolicy2(rpc, MAXIMUM_ALLOWED | lsat.POLICY_LOOKUP_NAMES)["PolicyHandle"]
    names = lsat.hLsarLookupNames(rpc, policy, [server.user])
    assert names["TranslatedSids"]["Sids"][0]["Use"] == 1
    sids = lsat.hLsarLookupSids(rpc, policy, ["S-1-1-0", "S-1-5-18"])
    assert [name["Name"] for name in sids["TranslatedNames"]["Names"]] == ["Everyone", "SYSTEM"]
    lsad.hLsarClose(rpc, policy)
    rpc.disconnect()
