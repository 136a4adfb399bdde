"""Golden values of the two xattrs shared with Samba (made by Samba's own NDR code), and hostile ones."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pools.port import choice
from pools.port.linux.attributes import Xattrs
from pools.port.posix.attributes import SideAttributes
from smbd.smb2 import status
from smbd.smb2.fscc import pack_full_eas
from smbd.smb2.names import Path
from smbd.smb2.status import SmbError
from workers.vfs import attributes, dosattrib, ntacl
from workers.vfs.dosattrib import DosInfo
from workers.vfs.interface import NewFile
from workers.vfs.posix import PosixVfs
from workers.vfs.root import VfsSettings

CREATION = 0x01D0112233445566
SD = bytes.fromhex(
    "010004801400000020000000000000002c000000"  # revision, control, owner, group, SACL, DACL
    "010100000000000512000000"  # S-1-5-18
    "010100000000000512000000"
    "04001c0001000000"  # ACL
    "00001400ff010000010100000000000100000000"  # allow, S-1-1-0
)
PREFIX4 = (
    "04000400000002000400020001000000"[:-4]  # version, tag, pointers, hash type
    + bytes(range(64)).hex()
    + b"posix_acl\0".hex()
    + "8877665544332211"
    + "09" * 64
)


@pytest.mark.parametrize(
    "value",
    [
        "307832320000" + "03000300" + "0000" + "11000000" + "22000000" + "00" * 20 + "665544332211d001" + "00" * 8,  # version 3
        "0000" + "04000400" + "0000" + "11000000" + "22000000" + "00" * 8 + "665544332211d001",  # version 4
        "0000" + "05000500" + "0000" + "11000000" + "22000000" + "665544332211d001",  # version 5
    ],
)
def test_sambas_dosattrib(value):
    assert dosattrib.unpack(bytes.fromhex(value)) == DosInfo(0x22, CREATION)


def test_ours_is_sambas_version_5():
    packed = dosattrib.pack(DosInfo(0x22, CREATION))
    assert packed.hex() == "0000" + "05000500" + "0000" + "11000000" + "22000000" + "665544332211d001"


def test_a_change_time_follows_where_samba_reads_no_further():
    info = DosInfo(0x22, CREATION, 0x01D0_0000_0000_0000, 1_700_000_000_000_000_000)
    packed = dosattrib.pack(info)
    assert packed.startswith(dosattrib.pack(DosInfo(0x22, CREATION)))
    assert dosattrib.unpack(packed) == info
    assert dosattrib.unpack(packed[:-1]) == DosInfo(0x22, CREATION)
    never = DosInfo(0x22, CREATION, 1 << 63, 1)
    assert dosattrib.unpack(dosattrib.pack(never)) == DosInfo(0x22, CREATION)


def test_the_oldest_form_is_text():
    assert dosattrib.unpack(b"0x23\0") == DosInfo(0x23, 0)


@given(st.binary(max_size=80))
def test_any_value_is_understood_or_ignored(value):
    info = dosattrib.unpack(value)
    assert info is None or isinstance(info, DosInfo)


@given(st.integers(0, 0xFFFFFFFF), st.integers(0, 2**63 - 1))
def test_round_trip(bits, creation):
    info = dosattrib.unpack(dosattrib.pack(DosInfo(bits, creation)))
    assert info is not None
    assert info.creation == creation
    assert info.attributes & ~bits == 0


@pytest.mark.parametrize(
    "prefix",
    [
        "0100010000000200",
        "020002000000020004000200" + bytes(range(1, 17)).hex(),
        "0300030000000200040002000100" + bytes(range(64)).hex() + "0000",
        PREFIX4,
    ],
)
def test_sambas_ntacl(prefix):
    assert ntacl.unpack(bytes.fromhex(prefix) + SD) == SD


def test_ntacl_round_trip_and_rubbish():
    assert ntacl.unpack(ntacl.pack(SD)) == SD
    for rubbish in (b"", b"\1\0", b"\1\0\2\0\0\0\2\0xxxx", b"\x09\0\x09\0\0\0\2\0xxxx", b"\1\0\1\0\0\0\0\0xxxx"):
        assert ntacl.unpack(rubbish) is None


@given(st.binary(max_size=300))
def test_ntacl_takes_anything(value):
    found = ntacl.unpack(value)
    assert found is None or value.endswith(found)


def test_filetime():
    assert attributes.from_ns(0) == attributes.EPOCH
    assert attributes.to_ns(attributes.from_ns(1_700_000_000_123_456_700)) == 1_700_000_000_123_456_700


def test_an_attribute_that_is_no_ea_is_not_one(share, monkeypatch):
    """An EA's value has at most 65,535 bytes; some file systems hold one more in an xattr, put there by others than SMB's clients."""
    share.put("f")
    handle = share.open("f")
    handle.set_ea("kept", b"v")
    handle.set_ea("large", b"v")
    real = Xattrs.get
    monkeypatch.setattr(Xattrs, "get", staticmethod(lambda fd, name: bytes(65536) if name == "user.large" else real(fd, name)))
    assert handle.eas() == [("kept", b"v")]
    assert pack_full_eas(handle.eas(), 1 << 20).complete
    assert handle.ea_size() > 0
    handle.close()


def test_a_new_file_has_nothing_of_one_that_another_program_removed(share, monkeypatch):
    """Where attributes are kept by number, and numbers are used again: here at once."""
    before = choice.in_use()
    choice.use("posix")
    try:
        share.vfs.close()
        share.vfs = PosixVfs(str(share.root))
        monkeypatch.setattr(SideAttributes, "_names", lambda self, device, inode: (b"00", b"number"))
        share.put("old", b"x", attributes=0x22)
        share.put("old:stream", b"secret")
        (share.root / "old").unlink()
        handle = share.make("new")
        assert handle.opened.attributes == 0x20
        assert [stream.name for stream in handle.streams()] == [""]
        handle.close()
    finally:
        choice.use(before)


def test_descriptors_lie_where_the_share_says(tmp_path):
    """As with Samba's acl_xattr:security_acl_name; and no client sees that attribute, or sets it."""
    vfs = PosixVfs(str(tmp_path), VfsSettings(acl_name="user.NTACL"))
    handle = vfs.create(Path(("f",)), NewFile(security=SD))
    assert ntacl.unpack(os.getxattr(tmp_path / "f", "user.NTACL")) == SD
    assert handle.security() == SD
    assert not {"security.NTACL", "user.millpond.sd"} & set(os.listxattr(tmp_path / "f"))
    assert handle.eas() == []
    for name in ("NTACL", "ntacl"):
        with pytest.raises(SmbError) as caught:
            handle.set_ea(name, b"x")
        assert caught.value.status == status.ACCESS_DENIED
    handle.clear()
    assert handle.security() == SD
    handle.close()
    vfs.close()
