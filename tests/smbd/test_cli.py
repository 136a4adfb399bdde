"""The ``millpond`` command: what each command does, prints and returns. The server is a function that notes what it was given."""

from __future__ import annotations

import fcntl
import io
import json
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from authd.users import User, UserDatabase, nt_hash
from pools.port import credentials
from smbd.cli import main
from smbd.cli.connect import address, text
from smbd.cli.enrol import Account, accounts, lasting_id, made_up_password
from smbd.cli.place import holder, running_ports
from smbd.config import Config, parse
from smbd.config.serve import Serve, default_port, from_serve, make_state, share_name, state_directory
from smbd.instance import LOCK_FILE, StartError


class Server:
    """Stands for the composition root's ``run``."""

    def __init__(self, fault: Exception | None = None) -> None:
        self.fault = fault
        self.config = parse("")
        self.reread: Callable[[], Config] = lambda: self.config
        self.users: dict[str, User] = {}
        self.sid = ""
        self.mode = 0

    def __call__(
        self, config: Config, *, reread: Callable[[], Config], prepare: Callable[[], None], ready: Callable[[], None]
    ) -> int:
        if self.fault is not None:
            raise self.fault
        self.config, self.reread = config, reread
        prepare()
        ready()
        self.users = {user.name: user for user in UserDatabase(config.smb_passwd_file).users()}
        sid = Path(config.state_directory) / "machine.sid"
        self.sid = sid.read_text() if sid.exists() else ""
        state = state_directory(config.smb_ports[0])
        self.mode = stat.S_IMODE(state.stat().st_mode) if state.exists() else 0
        return 0


@pytest.fixture(autouse=True)
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """State directories of this test only."""
    made = tmp_path / "runtime"
    made.mkdir(mode=0o700)  # whatever the umask is: one that all may change is not used
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(made))
    return made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "Public Things"
    made.mkdir()
    return made


@pytest.fixture
def config_file(tmp_path: Path, folder: Path) -> Path:
    made = tmp_path / "millpond.conf"
    made.write_text(
        f"[global]\nprivate dir = {tmp_path}/private\nlock directory = {tmp_path}/lock\npid directory = {tmp_path}/lock\n"
        f"state directory = {tmp_path}/state\n[x]\npath = {folder}\n"
    )
    return made


@pytest.fixture
def running(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that holds the lock of ``config_file``'s server, and ends at SIGTERM like one."""
    lock = tmp_path / "lock" / LOCK_FILE
    lock.parent.mkdir()
    program = (
        "import fcntl, os, signal, sys\n"
        "lock = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o644)\n"
        "fcntl.flock(lock, fcntl.LOCK_EX)\n"
        "os.pwrite(lock, b'%d\\n' % os.getpid(), 0)\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP, signal.SIGTERM])\n"
        "print('held', flush=True)\n"
        "while (number := signal.sigwait([signal.SIGHUP, signal.SIGTERM])) != signal.SIGTERM: print(number, flush=True)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(lock)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        yield process
        process.kill()


def fails(capsys: pytest.CaptureFixture[str], *argv: str, run: Any = None) -> str:
    """The one line that a failing command says, without its prefix."""
    assert main(argv, run=run or Server()) == 1
    said = capsys.readouterr().err
    assert said.startswith("millpond: ")
    assert said.count("\n") == 1
    return said.removeprefix("millpond: ").rstrip("\n")


def hold(directory: Path) -> int:
    """Hold the lock there, as a master with this process' number; the descriptor."""
    lock = os.open(directory / LOCK_FILE, os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)
    os.write(lock, b"%d\n" % os.getpid())
    return lock


# ---- serve -----------------------------------------------------------------------------------------------------------------------------


def test_serve_makes_a_configuration_users_and_says_how_to_connect(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server = Server()
    assert main(["serve", str(folder), "--port", "4451", "--user", "ann:secret", "--user", "bob"], run=server) == 0
    config = server.config
    served = config.shares["public things"]
    assert (served.path, served.read_only, served.guest_ok, config.smb_ports) == (str(folder), False, False, (4451,))
    users, state = server.users, state_directory(4451)
    assert config.lock_directory == str(state / "lock")
    assert server.mode == 0o700
    assert not state.exists()
    assert users["ann"].nt_hash == nt_hash("secret")
    out = capsys.readouterr().out
    made_up = next(line.split()[-1] for line in out.splitlines() if " bob " in line)
    assert users["bob"].nt_hash == nt_hash(made_up)
    assert "secret" not in out
    for part in ("Windows", "/tcpport:4451", "macOS", ":4451/Public%20Things", "smbclient", "-p 4451 -U ann", "mount -t cifs", "port=4451"):
        assert part in out
    assert server.reread().shares == config.shares


def test_users_of_a_serve_have_the_same_identity_at_every_start(folder: Path) -> None:
    first, second = Server(), Server()
    assert main(["serve", str(folder), "--port", "4451", "--user", "ann-x:1", "--user", "bob-x:2"], run=first) == 0
    assert main(["serve", str(folder), "--port", "4451", "--user", "bob-x:3"], run=second) == 0
    assert list(second.users) == ["bob-x"]
    assert first.users["bob-x"].uid == second.users["bob-x"].uid == lasting_id("BOB-X")
    assert first.users["ann-x"].uid != first.users["bob-x"].uid
    assert first.sid == second.sid or not Path("/etc/machine-id").exists()
    assert lasting_id("root") is None


def test_serve_leaves_the_state_of_a_running_server_alone(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = state_directory(4451)
    state.mkdir(mode=0o700)
    (state / "kept").touch()
    said = fails(capsys, "serve", str(folder), "--port", "4451", "--user", "bob:2", run=Server(StartError("millpond already runs")))
    assert said == "millpond already runs"
    assert (state / "kept").exists()


def test_a_serve_that_cannot_start_leaves_nothing(folder: Path, runtime: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "in use" in fails(capsys, "serve", str(folder), "--port", "4451", run=Server(StartError("in use")))
    assert list(runtime.iterdir()) == []


def test_but_not_without_what_another_has_begun_meanwhile(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(config: Config, **_callbacks: object) -> int:
        locks.append(hold(Path(config.lock_directory)))
        raise StartError("millpond already runs")

    locks: list[int] = []
    assert fails(capsys, "serve", str(folder), "--port", "4451", run=run) == "millpond already runs"
    assert holder(state_directory(4451) / "lock") == os.getpid()
    os.close(locks[0])


@pytest.mark.parametrize(
    ("listen", "said"), [("127.0.0.1", "in use; another server has it"), ("nosuch0", "is called 'nosuch0': correct --listen")]
)
def test_a_real_serve_that_cannot_start_names_its_option_first(folder: Path, runtime: Path, listen: str, said: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        argv = [sys.executable, "-m", "smbd", "serve", str(folder), "--port", str(taken.getsockname()[1]), "--listen", listen]
        ended = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == 1
    (line,) = [line for line in ended.stderr.splitlines() if line.startswith("millpond: ")]
    assert said in line
    assert line.index(" --") < line.index("`interfaces`" if listen == "nosuch0" else "`smb ports`")
    assert list(runtime.iterdir()) == []


def test_serve_options(folder: Path) -> None:
    server = Server()
    options = ["--share", "x", "--guest", "--read-only", "--listen", "127.0.0.1", "--config-option", "smb encrypt = required"]
    assert main(["serve", str(folder), "--port", "4451", *options, "--config-option", "create mask=0600"], run=server) == 0
    config, served = server.config, server.config.shares["x"]
    assert (served.guest_ok, served.read_only, served.create_mask) == (True, True, 0o600)
    assert (config.map_to_guest, config.server_smb_encrypt) == ("bad_user", "required")
    assert (config.interfaces, config.bind_interfaces_only) == (("127.0.0.1",), True)
    assert server.users == {}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--share", "a/b"], "command line: --share a/b: not a share name"),
        (["--share", "global"], "command line: --share global: not a share name"),
        (["--config-option", "nonsense"], "command line: --config-option 'nonsense': write it as 'name = value'"),
        (["--config-option", "log level = loud"], "command line: log level = loud: 'loud' is not a level"),
        (["--user", "ann:"], "--user ann:: no password after the colon"),
        (["--user", "a/b:c"], "'a/b' cannot be a user name"),
    ],
)
def test_serve_faults(folder: Path, capsys: pytest.CaptureFixture[str], options: list[str], said: str) -> None:
    assert fails(capsys, "serve", str(folder), "--port", "4451", *options).startswith(said)


def test_serve_names_the_folder_that_is_none(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no such folder: make it first" in fails(capsys, "serve", str(folder / "none"))
    (folder / "file").touch()
    assert "is a file, not a folder" in fails(capsys, "serve", str(folder / "file"))


def test_anothers_runtime_directory_is_not_used(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after su(1): its owner could replace what lies in it."""
    assert state_directory(4451).parent == runtime
    runtime.chmod(0o777)
    assert state_directory(4451).parent == Path("/dev/shm")
    runtime.chmod(0o1777)
    assert state_directory(4451).parent == runtime
    monkeypatch.setattr(credentials, "effective_uid", lambda: runtime.stat().st_uid + 1)
    assert state_directory(4451).parent == Path("/dev/shm")


def test_serve_refuses_a_state_directory_that_others_can_read(folder: Path, runtime: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state_directory(4451).mkdir(mode=0o755)
    assert "can be read by others" in fails(capsys, "serve", str(folder), "--port", "4451")
    state_directory(4451).rmdir()
    state_directory(4451).symlink_to(runtime)
    assert "belongs to another user or can be read by others" in fails(capsys, "serve", str(folder), "--port", "4451")


def test_serve_warns_of_unknown_options(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", str(folder), "--port", "4451", "--config-option", "reed only = yes"], run=Server()) == 0
    assert "command line: unknown parameter 'reed only': ignored (did you mean 'read only'?)" in capsys.readouterr().err


def test_folders_with_odd_names_are_served(tmp_path: Path) -> None:
    for name, shown in (("100%U", "100%U"), ("a:b", "a-b"), ("tail ", "tail"), ('"q"', "-q-"), ("ends\\", "ends-")):
        (tmp_path / name).mkdir()
        config = from_serve(Serve(directory=str(tmp_path / name)))
        served = next(one for one in config.shares.values() if one.kind == "disk")
        assert served.name == shown
        assert served.path.replace("%%", "%") == str(tmp_path / name)
    assert share_name("/") == "root"


def test_accounts() -> None:
    (one,) = accounts([], guest=False)
    assert one.made_up
    assert accounts([], guest=True) == []
    assert accounts(["ann:a:b"], guest=False) == [Account("ann", "a:b", False)]
    assert made_up_password() != made_up_password()


def test_default_port_needs_no_rights_the_user_has_not() -> None:
    assert default_port() == (445 if os.geteuid() == 0 else 4450)


def test_how_to_connect_on_the_usual_port(folder: Path) -> None:
    config = from_serve(Serve(directory=str(folder), port=445, share="x", listen=("192.0.2.1",), read_only=True))
    said = text(config, [Account("ann", "pw", True)], True)
    assert "\\\\192.0.2.1\\x" in said
    assert "445 (read only)" in said
    assert "tcpport" not in said
    assert "smb://ann@192.0.2.1/x" in said
    assert "guest" in said
    assert address(parse("interfaces = ::1\nbind interfaces only = yes")) == "[::1]"


# ---- run, errors -----------------------------------------------------------------------------------------------------------------------


def test_run_reads_the_file_and_again_on_reload(config_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server = Server()
    assert main(["run", "--config", str(config_file)], run=server) == 0
    assert "serves x on port 445" in capsys.readouterr().out
    config_file.write_text(config_file.read_text() + "comment = new\n")
    assert server.reread().shares["x"].comment == "new"


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (StartError("cannot listen on 0.0.0.0:445: Address already in use; choose another"), "cannot listen on 0.0.0.0:445"),
        (OSError(28, "No space left on device", "/run/millpond/counters"), "/run/millpond/counters: No space left on device"),
    ],
)
def test_a_server_that_cannot_start_says_why_in_one_line(
    config_file: Path, capsys: pytest.CaptureFixture[str], fault: Exception, said: str
) -> None:
    assert fails(capsys, "run", "--config", str(config_file), run=Server(fault)).startswith(said)


def test_run_without_its_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no such file: name the configuration with --config FILE" in fails(capsys, "run", "--config", str(tmp_path / "none"))


def test_wrong_command_lines_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["no-such-command"], run=Server()) == 2
    assert main(["serve", ".", "--port", "99999"], run=Server()) == 2
    for command in ("serve", "run", "user", "status", "check", "reload", "stop"):
        assert main([command, "--help"], run=Server()) == 0
        assert "example" in capsys.readouterr().out
    assert main(["--version"], run=Server()) == 0


# ---- user ------------------------------------------------------------------------------------------------------------------------------


def give(monkeypatch: pytest.MonkeyPatch, typed: str) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(typed))


def test_users_come_change_and_go(config_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--config", str(config_file)]
    give(monkeypatch, "first\n")
    assert main(["user", "add", "ann", "--password-stdin", *where], run=Server()) == 0
    database = UserDatabase(parse(config_file.read_text()).smb_passwd_file)
    assert database.users()[0].nt_hash == nt_hash("first")
    assert stat.S_IMODE(database.path.stat().st_mode) == 0o600
    give(monkeypatch, "second\n")
    assert main(["user", "password", "ann", "--password-stdin", *where], run=Server()) == 0
    assert database.users()[0].nt_hash == nt_hash("second")
    capsys.readouterr()
    assert main(["user", "list", "--json", *where], run=Server()) == 0
    assert [one["name"] for one in json.loads(capsys.readouterr().out)] == ["ann"]
    assert main(["user", "list", *where], run=Server()) == 0
    assert "enabled" in capsys.readouterr().out
    assert main(["user", "remove", "ann", *where], run=Server()) == 0
    assert database.users() == []


def test_users_are_taken_over_from_an_smbpasswd_file(config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = UserDatabase(tmp_path / "other")
    other.add("ann", "secret", uid=4711)
    assert main(["user", "import", str(other.path), "--config", str(config_file)], run=Server()) == 0
    found = UserDatabase(parse(config_file.read_text()).smb_passwd_file).users()
    assert [(user.name, user.uid, user.nt_hash) for user in found] == [("ann", 0x30000000, nt_hash("secret"))]
    assert "1 users taken over: ann" in capsys.readouterr().out
    assert "No such file" in fails(capsys, "user", "import", str(tmp_path / "none"), "--config", str(config_file))


def test_passwords_that_are_none(config_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--config", str(config_file)]
    give(monkeypatch, "\n")
    assert "an empty password" in fails(capsys, "user", "add", "ann", "--password-stdin", *where)
    give(monkeypatch, "")
    assert "--password-stdin" in fails(capsys, "user", "add", "ann", *where)
    give(monkeypatch, "pw\n")
    assert "no user 'ann'" in fails(capsys, "user", "password", "ann", "--password-stdin", *where)


@pytest.mark.parametrize("typed", [[], ["once"]])
def test_a_password_prompt_that_is_left(
    config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], typed: list[str]
) -> None:
    """Ctrl-D, at the first question or the second."""
    answers = iter(typed)

    def ask(_prompt: str) -> str:
        for answer in answers:
            return answer
        raise EOFError

    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("getpass.getpass", ask)
    assert fails(capsys, "user", "add", "ann", "--config", str(config_file)) == "no password given: nothing was changed"
    assert not (tmp_path / "private").exists()


# ---- check -----------------------------------------------------------------------------------------------------------------------------


def test_check_shows_what_the_file_comes_to(config_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config_file.write_text(config_file.read_text() + "writable = yes\nreed = 1\n")
    assert main(["check", str(config_file)], run=Server()) == 0
    out, err = capsys.readouterr()
    assert "\tread only = no\n" in out
    assert f"{config_file}:9: unknown parameter 'reed'" in err
    assert main(["check", "--verbose", "--config", str(config_file)], run=Server()) == 0
    assert "\tcreate mask = 0744\n" in capsys.readouterr().out


def test_check_for_programs(config_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--json", str(config_file)], run=Server()) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["ok"], found["shares"]["x"]["read only"]) == (True, True)
    config_file.write_text("smb ports = x\nlog level = y\n")
    assert main(["check", "--json", str(config_file)], run=Server()) == 1
    assert [one["line"] for one in json.loads(capsys.readouterr().out)["errors"]] == [1, 2]
    assert main(["check", str(config_file)], run=Server()) == 1
    assert capsys.readouterr().err.count("\n") == 2


# ---- reload, stop, status --------------------------------------------------------------------------------------------------------------


def test_reload_checks_first_and_then_tells(
    config_file: Path, running: subprocess.Popen[bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["reload", "--config", str(config_file)], run=Server()) == 0
    assert running.stdout is not None
    assert int(running.stdout.readline()) == signal.SIGHUP
    good = config_file.read_text()
    config_file.write_text(good + "read only = maybe\n")
    assert "is neither yes nor no" in fails(capsys, "reload", "--config", str(config_file))
    config_file.write_text(good)
    assert main(["stop", "--config", str(config_file)], run=Server()) == 0
    assert running.stdout.read() == b""


def test_stop_waits_for_the_end(
    config_file: Path, running: subprocess.Popen[bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert holder(tmp_path / "lock") == running.pid
    assert main(["stop", "--config", str(config_file)], run=Server()) == 0
    assert running.wait() == 0
    assert holder(tmp_path / "lock") == 0
    capsys.readouterr()
    assert "no server runs with" in fails(capsys, "stop", "--config", str(config_file))


@pytest.mark.parametrize("command", [["status"], ["top"], ["kick", "1"], ["reload"], ["stop"], ["record"], ["tune", "pools"]])
def test_a_server_of_somebody_else_is_left_to_him(
    config_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    def denied(path: Path, flags: int) -> int:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("smbd.cli.place.files.open", denied)
    assert f"{LOCK_FILE}: belongs to another user: do this as that user or as root" in fails(capsys, *command, "--config", str(config_file))


def test_a_server_is_found_without_being_named(runtime: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("smbd.cli.place.DEFAULT_CONFIG", str(runtime / "none.conf"))
    assert "name a server with --config FILE or --port N" in fails(capsys, "status")
    locks = []
    for port in (4460, 4461):
        make_state(state_directory(port))
        locks.append(hold(state_directory(port) / "lock"))
        said = fails(capsys, "status")
        assert ("counters: not there" if port == 4460 else "runs on ports 4460, 4461: say which with --port") in said
    for lock in locks:
        os.close(lock)


def _readable(state: Path) -> None:
    state.chmod(0o755)


def _linked(state: Path) -> None:
    state.symlink_to(state.rename(state.with_name("elsewhere")))


@pytest.mark.parametrize("plant", [_readable, _linked, None])
def test_what_another_user_made_in_a_servers_place_is_no_server(
    runtime: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], plant: Callable[[Path], None] | None
) -> None:
    """In /dev/shm anybody can make a directory of any name, and hold a lock in it with any process' number."""
    monkeypatch.setattr("smbd.cli.place.DEFAULT_CONFIG", str(runtime / "none.conf"))
    monkeypatch.setattr("smbd.config.serve.state_root", lambda: runtime)
    if plant is None:
        own = credentials.effective_uid()
        monkeypatch.setattr(credentials, "effective_uid", lambda: own + 1)
        state_directory(4460).mkdir(mode=0o700)
        (state_directory(4460) / "lock").mkdir()
    else:
        make_state(state_directory(4460))
        plant(state_directory(4460))
    lock = hold(state_directory(4460) / "lock")
    killed = _nobody_is_told(monkeypatch)
    give(monkeypatch, "pw\n")
    assert running_ports() == []
    assert holder(state_directory(4460) / "lock") == 0
    for command in (["status"], ["stop"], ["user", "add", "ann", "--password-stdin"]):
        assert "no 'millpond serve' runs here" in fails(capsys, *command)
        said = fails(capsys, *command, "--port", "4460")
        assert said.startswith(f"{state_directory(4460)}: belongs to another user or can be read by others")
    assert [path.name for path in state_directory(4460).rglob("smbpasswd*")] == []
    assert killed == []
    os.close(lock)


def _nobody_is_told(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    killed: list[int] = []
    monkeypatch.setattr("smbd.cli.control.processes.kill", lambda pid, _number: killed.append(pid))
    return killed


def test_a_user_is_not_added_to_a_server_that_is_not_there(
    runtime: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    give(monkeypatch, "pw\n")
    said = fails(capsys, "user", "add", "ann", "--password-stdin", "--port", "4460")
    assert said == f"{state_directory(4460)}: no server runs here: start it with 'millpond serve --port 4460'"
    assert list(runtime.iterdir()) == []


@pytest.mark.parametrize("real", [False, True])
def test_a_lock_file_that_is_a_pipe_holds_up_nobody(tmp_path: Path, real: bool) -> None:
    """In a ``serve``'s directory as in a configured one."""
    make_state(state_directory(4460))
    directory = tmp_path / "lock" if real else state_directory(4460) / "lock"
    directory.mkdir(exist_ok=True)
    os.mkfifo(directory / LOCK_FILE)
    assert holder(directory) == 0


def test_a_configured_lock_directory_may_be_readable(config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """/run/millpond is, and it may be another user's: the configuration names it."""
    (tmp_path / "lock").mkdir(mode=0o755)
    lock = hold(tmp_path / "lock")
    monkeypatch.setattr(credentials, "effective_uid", lambda: 4711)
    assert holder(tmp_path / "lock") == os.getpid()
    killed = _nobody_is_told(monkeypatch)
    assert main(["reload", "--config", str(config_file)], run=Server()) == 0
    assert killed == [os.getpid()]
    os.close(lock)


def test_status_knows_its_sections(config_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "status has no section 'shares'" in fails(capsys, "status", "shares", "--config", str(config_file))


@pytest.mark.parametrize(
    ("closed", "command", "code"),
    [
        (">&-", "check", 0),
        ("<&- >&- 2>&-", "check", 0),
        (">&- 2>&-", "check --json", 0),
        ("<&-", "user add ann --config", 1),
        (">&- 2>&-", "status --config", 1),
    ],
)
def test_streams_that_the_caller_closed_lead_nowhere(config_file: Path, closed: str, command: str, code: int) -> None:
    program = "import sys; from smbd.cli import main; sys.exit(main(sys.argv[1:], run=None))"
    argv = ["sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, "-c", program, *command.split(), str(config_file)]
    ended = subprocess.run(argv, capture_output=True, check=False)
    assert (ended.returncode, ended.stdout) == (code, b"")
    assert b"Traceback" not in ended.stderr


def test_output_that_nobody_reads_is_no_error(config_file: Path) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.close()
        program = "import sys; from smbd.cli import main; sys.exit(main(sys.argv[1:], run=None))"
        argv = [sys.executable, "-c", program, "check", "--verbose", str(config_file)]
        ended = subprocess.run(argv, stdout=theirs.fileno(), stderr=subprocess.PIPE, check=False)
    assert ended.stderr == b""
