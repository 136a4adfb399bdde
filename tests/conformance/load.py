"""Another client, which keeps a server busy while a suite runs, and sees that nothing goes wrong for itself.

Usage: ``python -m tests.conformance.load HOST PORT USER PASSWORD SHARE``: writes, reads back, lists, creates and deletes in a share of its
own until standard input ends, resting as long as it works. Its status is 0 when every answer was right; else it says what was not.
"""

from __future__ import annotations

import os
import random
import select
import subprocess
import sys
import time
from typing import Final

from bench.load.peers import ROOT
from smbd.smb2 import constants as c
from smbd.smb2 import status
from tests.wire_client import Closed, FileId, WireClient

_FILES: Final = 4
_FILE_BYTES: Final = 1 << 18
_LARGEST: Final = 1 << 16
_SMALL_FILES: Final = 5
_STOPS_WITHIN: Final = 30.0


class Load:
    """The running client."""

    def __init__(self, host: str, port: int, user: str, password: str, share: str) -> None:
        command = [sys.executable, "-m", "tests.conformance.load", host, str(port), user, password, share]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip

    def end(self) -> str:
        """Ends it; what it saw go wrong."""
        try:
            out, _ = self._process.communicate("", _STOPS_WITHIN)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
            return f"the other client had no answer for {_STOPS_WITHIN:.0f} s"
        return f"the other client: {out.strip().splitlines()[-1]}" if self._process.returncode and out.strip() else ""


class Work:
    """What the client knows to be in its files."""

    def __init__(self, client: WireClient) -> None:
        self.client = client
        self.random = random.Random(4452)
        self.rounds = 0
        self.files: list[tuple[FileId, bytearray]] = []
        for number in range(_FILES):
            content = bytearray(self.random.randbytes(_FILE_BYTES))
            file_id = client.open(f"large {number}", disposition=c.FILE_OVERWRITE_IF)
            for offset in range(0, _FILE_BYTES, _LARGEST):
                self._right(client.write(file_id, offset, bytes(content[offset : offset + _LARGEST])).status, "WRITE")
            self.files.append((file_id, content))

    def turn(self) -> None:
        """One of everything; AssertionError when an answer is wrong."""
        self._write_and_read()
        self._create_and_delete()
        self.rounds += 1

    def _write_and_read(self) -> None:
        file_id, content = self.random.choice(self.files)
        length = self.random.randrange(1, _LARGEST)
        offset = self.random.randrange(_FILE_BYTES - length)
        data = self.random.randbytes(length)
        self._right(self.client.write(file_id, offset, data).status, "WRITE")
        content[offset : offset + length] = data
        start = self.random.randrange(_FILE_BYTES - _LARGEST)
        assert self.client.read_data(file_id, start, _LARGEST) == content[start : start + _LARGEST], "READ gave what was never written"

    def _create_and_delete(self) -> None:
        names = [f"small {self.rounds % 7} {number}" for number in range(_SMALL_FILES)]
        opened = [self.client.open(name, options=c.FILE_DELETE_ON_CLOSE) for name in names]
        folder = self.client.open("", access=c.FILE_LIST_DIRECTORY, options=c.FILE_DIRECTORY_FILE)
        listing = self.client.output(self.client.query_directory(folder))
        missing = [name for name in names if name.encode("utf-16-le") not in listing]
        assert not missing, f"QUERY_DIRECTORY left out {missing}"
        for file_id in (folder, *opened):
            self._right(self.client.close(file_id).status, "CLOSE")
        answer = self.client.create(names[0], disposition=c.FILE_OPEN).status
        assert answer == status.OBJECT_NAME_NOT_FOUND, f"CREATE of a deleted file: {status.name(answer)}"

    def _right(self, code: int, what: str) -> None:
        assert code == status.SUCCESS, f"{what}: {status.name(code)}"


def main(host: str, port: str, user: str, password: str, share: str) -> int:
    """Works until standard input ends."""
    with WireClient((host, int(port)), timeout=60) as client:
        assert client.negotiate().status == status.SUCCESS
        assert client.session_setup(user, password).status == status.SUCCESS
        client.sign = True  # some suites have a server that insists
        assert client.tree_connect(share).status == status.SUCCESS
        work, rest = Work(client), 0.0
        while not select.select([sys.stdin], [], [], rest)[0]:
            begun = time.monotonic()
            work.turn()
            rest = time.monotonic() - begun
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(*sys.argv[1:]))
    except (AssertionError, Closed, OSError) as error:
        print(f"{type(error).__name__}: {error}")
        sys.exit(1)
