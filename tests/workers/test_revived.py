"""The file of an open that outlived the server is found by the name that the open knows it by."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pools.port import files
from smbd.config import Config, Share
from smbd.sharing.images import Kept
from workers.revived import find


def kept(path: Path, name: str, exact: bool = False) -> Kept:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        st = files.stat_fd(descriptor)
    finally:
        os.close(descriptor)
    return Kept(1, "pub", name, "", st.ino, st.btime * 1_000_000_000 + st.btime_ns, exact=exact)


def test_names_of_the_posix_extensions_are_exact(tmp_path: Path) -> None:
    config = Config(shares={"pub": Share(name="pub", path=str(tmp_path))})
    for name in ("file", "File", "with:colon"):
        (tmp_path / name).write_text(name)
        assert find(config, kept(tmp_path / name, name, exact=True)).ino == (tmp_path / name).stat().st_ino
    (tmp_path / "file").unlink()
    assert find(config, kept(tmp_path / "File", "file")).ino == (tmp_path / "File").stat().st_ino
    with pytest.raises(FileNotFoundError):
        find(config, kept(tmp_path / "File", "file", exact=True))


def test_another_file_of_the_same_name_is_not_it(tmp_path: Path) -> None:
    config = Config(shares={"pub": Share(name="pub", path=str(tmp_path))})
    (tmp_path / "file").write_text("old")
    old = kept(tmp_path / "file", "file")
    (tmp_path / "new").write_text("new")
    (tmp_path / "new").replace(tmp_path / "file")
    with pytest.raises(FileNotFoundError):
        find(config, old)
