"""Locks, pid files and listening sockets: one clear line when something is in the way."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from smbd.config import Config, Share
from smbd.config_messages import pack_config, unpack_config
from smbd.instance import Instance, StartError
from smbd.listeners import EVERYWHERE, addresses, listen


def test_the_lock_is_exclusive_and_names_its_holder(tmp_path: Path) -> None:
    first, second = Instance(tmp_path / "lock", tmp_path), Instance(tmp_path / "lock", tmp_path)
    first.acquire()
    with pytest.raises(StartError, match=f"as process {os.getpid()};"):
        second.acquire()
    first.release()
    second.acquire()
    second.release()


def test_only_the_holder_wipes(tmp_path: Path) -> None:
    instance = Instance(tmp_path, tmp_path)
    (tmp_path / "sharing").mkdir()
    (tmp_path / "sharing" / "data").touch()
    (tmp_path / "counters").touch()
    with pytest.raises(AssertionError):
        instance.wipe("sharing")
    instance.acquire()
    instance.wipe("sharing", "counters", "absent")
    assert sorted(os.listdir(tmp_path)) == ["millpond.lock"]
    instance.release()


def test_the_pid_file_comes_and_goes(tmp_path: Path) -> None:
    instance = Instance(tmp_path / "lock", tmp_path / "pid")
    instance.acquire()
    instance.write_pid()
    assert instance.pid_file.read_text() == f"{os.getpid()}\n"
    instance.release()
    assert not instance.pid_file.exists()


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StartError, match="file/lock: cannot make this directory"):
        Instance(tmp_path / "file" / "lock", tmp_path).acquire()


@pytest.mark.parametrize(
    ("interfaces", "only", "expected"),
    [
        ((), False, EVERYWHERE),
        (("127.0.0.1",), False, EVERYWHERE),
        (("127.0.0.1",), True, ("127.0.0.1",)),
        (("127.0.0.1", "127.0.0.1/8"), True, ("127.0.0.1",)),
        (("127.0.0.0/8",), True, ("127.0.0.1",)),
        (("::1",), True, ("::1",)),
    ],
)
def test_interfaces_mean_addresses(interfaces: tuple[str, ...], only: bool, expected: tuple[str, ...]) -> None:
    assert addresses(interfaces, only) == expected


def test_an_interface_by_name_and_by_pattern() -> None:
    assert "127.0.0.1" in addresses(("lo",), True)
    assert "127.0.0.1" in addresses(("l*",), True)
    with pytest.raises(StartError, match="no network interface or address is called 'nosuch0'"):
        addresses(("nosuch0",), True)


def test_a_port_in_use_is_named_with_the_way_out() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        number = other.getsockname()[1]
        with pytest.raises(StartError, match=rf"cannot listen on 127.0.0.1:{number}: Address already in use; another server has it"):
            listen("127.0.0.1", number)


def test_an_address_of_another_machine_is_named() -> None:
    with pytest.raises(StartError, match=r"192\.0\.2\.200:4450: .*no such address"):
        listen("192.0.2.200", 4450)


def test_a_configuration_travels_in_a_message() -> None:
    config = Config(shares={"a": Share(name="A", path="/srv/a", valid_users=("ann", "@staff"))}, server_string="x")
    assert unpack_config(pack_config(config)) == config


def test_a_configuration_too_large_for_a_message_is_refused() -> None:
    shares = {str(number): Share(name=str(number), path=os.urandom(60).hex()) for number in range(3000)}
    with pytest.raises(ValueError, match="restart to use it"):
        pack_config(Config(shares=shares))
