"""TREE_CONNECT and TREE_DISCONNECT: [MS-SMB2] 2.2.9 to 2.2.12. Owns their layouts."""

from __future__ import annotations

from typing import NamedTuple

from pools.layout import U8, U16, U32, Layout, Raw8


class TreeConnectRequest(NamedTuple):
    """[MS-SMB2] 2.2.9 SMB2 TREE_CONNECT Request; the path follows. ``flags`` is Reserved before 3.1.1."""

    structure_size: U16
    flags: U16
    path_offset: U16
    path_length: U16


class TreeConnectRequestExtension(NamedTuple):
    """[MS-SMB2] 2.2.9.1 SMB2 TREE_CONNECT Request Extension; path and contexts follow."""

    tree_connect_context_offset: U32
    tree_connect_context_count: U16
    reserved: Raw8
    reserved2: U16


class TreeConnectResponse(NamedTuple):
    """[MS-SMB2] 2.2.10 SMB2 TREE_CONNECT Response."""

    structure_size: U16
    share_type: U8
    reserved: U8
    share_flags: U32
    capabilities: U32
    maximal_access: U32


class TreeDisconnectRequest(NamedTuple):
    """[MS-SMB2] 2.2.11 SMB2 TREE_DISCONNECT Request."""

    structure_size: U16
    reserved: U16


class TreeDisconnectResponse(NamedTuple):
    """[MS-SMB2] 2.2.12 SMB2 TREE_DISCONNECT Response."""

    structure_size: U16
    reserved: U16


TREE_CONNECT_REQUEST = Layout(TreeConnectRequest)
TREE_CONNECT_REQUEST_EXTENSION = Layout(TreeConnectRequestExtension)
TREE_CONNECT_RESPONSE = Layout(TreeConnectResponse)
TREE_DISCONNECT_REQUEST = Layout(TreeDisconnectRequest)
TREE_DISCONNECT_RESPONSE = Layout(TreeDisconnectResponse)

TREE_CONNECT_REQUEST_STRUCTURE_SIZE = 9
TREE_CONNECT_RESPONSE_STRUCTURE_SIZE = 16
TREE_DISCONNECT_STRUCTURE_SIZE = 4
