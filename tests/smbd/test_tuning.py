"""tune datapath: the figures, the thresholds that follow, and what is written into a configuration."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from smbd.cli import main
from smbd.config import Config, ConfigError, load
from smbd.tuning import datapath, rewrite
from smbd.tuning.datapath import KIB, MIB, Figure, threshold

PARAMETERS = {"data path": "auto", "data path read threshold": "512K"}


def run(_config: Config, **_: object) -> int:
    raise AssertionError("nothing is served here")


def ratios(direction: str, *kernel: float) -> list[Figure]:
    return [Figure(direction, size, 1.0, one) for size, one in zip(datapath.SIZES, kernel, strict=True)]


@pytest.mark.parametrize(
    ("kernel", "wanted"),
    [
        ((0.8,) * 8, 64 * KIB),
        ((1.2,) * 8, 0),
        ((0.99,) * 8, 0),
        ((1.5, 1.4, 1.3, 1.1, 0.9, 0.8, 0.7, 0.7), MIB),
        ((1.5, 1.4, 0.6, 0.6, 0.6, 1.05, 0.7, 0.7), 256 * KIB),  # one figure of noise in between
        ((0.9, 1.5, 1.5, 1.5, 1.5, 1.5, 1.5, 1.5), 0),
        ((1.5, 1.5, 1.5, 1.5, 1.5, 1.5, 1.5, 0.5), 8 * MIB),
    ],
)
def test_threshold_is_where_the_kernel_format_begins_to_save(kernel: tuple[float, ...], wanted: int) -> None:
    assert threshold(ratios("read", *kernel) + ratios("write", *(1.2,) * 8), "read") == wanted


@pytest.mark.parametrize("direction", ["read", "write"])
@pytest.mark.parametrize("kernel", [False, True])
def test_a_sample_moves_all_its_bytes_to_the_right_place(direction: str, kernel: bool, tmp_path: Path) -> None:
    path = tmp_path / "data"
    with path.open("w+b") as file:
        datapath._fill(file)
        assert datapath._sample(direction, kernel, 256 * KIB, file.fileno(), MIB) > 0
    written = MIB if direction == "write" else 0
    assert path.read_bytes() == bytes(written) + (bytes(range(256)) * (datapath.FILE_BYTES // 256))[written:]


def test_a_peer_that_vanishes_is_an_error_and_no_hang() -> None:
    with datapath._connection(lambda _sock, _length: None, 0) as sock, pytest.raises(ConnectionError):
        datapath._moved(sock, datapath.port.READABLE, sock.recv_into, bytearray(8))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", "[global]\n   data path = auto\n   data path read threshold = 512K\n\n"),
        ("[a]\npath = /\n", "[global]\n   data path = auto\n   data path read threshold = 512K\n\n[a]\npath = /\n"),
        (
            "# mine\n[Global]\n  Data  Path = user ; no\n  log level = 1\n\n# theirs\n[a]\ndata path = x\n",
            "# mine\n[Global]\n  data path = auto\n  log level = 1\n   data path read threshold = 512K\n\n# theirs\n[a]\ndata path = x\n",
        ),
        (
            "[global]\n# data path = user\ndatapath = us\\\ner\nlog level = 1\ndata path read threshold = 1M",
            "[global]\n# data path = user\ndata path = auto\nlog level = 1\ndata path read threshold = 512K",
        ),
    ],
)
def test_parameters_are_set_and_the_rest_stays(before: str, after: str) -> None:
    assert rewrite.changed(before, PARAMETERS) == after
    assert rewrite.changed(after, PARAMETERS) == after


def test_what_would_have_no_effect_is_not_written(tmp_path: Path) -> None:
    (tmp_path / "more.conf").write_text("data path = user\n")
    config = tmp_path / "m.conf"
    config.write_text(f"[global]\ninclude = {tmp_path}/more.conf\n")
    before = config.read_bytes()
    with pytest.raises(ConfigError, match="further down"):
        rewrite.rewrite(str(config), {"data path read threshold": "512K"}, lambda config: config.data_path == "auto")
    with pytest.raises(ConfigError):
        rewrite.rewrite(str(config), {"data path": "both"}, lambda _config: True)
    assert config.read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"m.conf", "more.conf"}


def test_the_command_writes_what_it_shows(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    figures = ratios("read", *(0.8,) * 8) + ratios("write", *(1.2,) * 8)
    monkeypatch.setattr(datapath, "measure", lambda *_given: figures)
    config = tmp_path / "m.conf"
    config.write_text("# keep me\n[global]\n   data path = user\n")
    config.chmod(0o640)
    assert main(["tune", "datapath", "--directory", str(tmp_path), "--config", str(config), "--write", "--json"], run=run) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["parameters"] == {"data path": "auto", "data path read threshold": "64K", "data path write threshold": "0"}
    read = load(str(config))
    assert (read.data_path, read.data_path_read_threshold, read.data_path_write_threshold) == ("auto", 64 * KIB, 0)
    assert config.read_text().startswith("# keep me\n")
    assert config.stat().st_mode & 0o777 == 0o640
    assert Path(shown["backup"]).read_text() == "# keep me\n[global]\n   data path = user\n"


@pytest.mark.parametrize("fault", ["absent", "broken", "read-only"])
def test_what_cannot_be_written_is_said_before_the_measuring(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    measured: list[object] = []
    monkeypatch.setattr(datapath, "measure", lambda *given: measured.append(given))
    config = tmp_path / "m.conf"
    if fault != "absent":
        config.write_text("log level = loud\n" if fault == "broken" else "log level = 1\n")
    if fault == "read-only":
        monkeypatch.setattr(rewrite.files, "may_access_path", lambda path, _mode: path != str(tmp_path))
    assert main(["tune", "datapath", "--config", str(config), "--write"], run=run) == 1
    said = capsys.readouterr().err
    wanted = {"absent": ": no such file", "broken": ":1: log level = loud", "read-only": ": cannot be written: this user may not"}
    assert said.startswith(f"millpond: {config}{wanted[fault]}")
    assert measured == []


def test_a_broken_configuration_is_named_and_not_the_draft(tmp_path: Path) -> None:
    config = tmp_path / "m.conf"
    config.write_text("log level = loud\n")
    with pytest.raises(ConfigError) as caught:
        rewrite.rewrite(str(config), PARAMETERS, lambda _config: True)
    assert (caught.value.file, caught.value.line) == (str(config), 1)
    config.write_text("log level = 1\n")
    with pytest.raises(ConfigError, match="both") as caught:
        rewrite.rewrite(str(config), {"data path": "both"}, lambda _config: True)
    assert caught.value.file == str(config)


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_the_figures_are_shown_whatever_becomes_of_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, form: list[str]
) -> None:
    figures = ratios("read", *(0.8,) * 8) + ratios("write", *(1.2,) * 8)
    monkeypatch.setattr(datapath, "measure", lambda *_given: figures)
    (tmp_path / "more.conf").write_text("data path = user\n")
    config = tmp_path / "m.conf"
    config.write_text(f"[global]\ninclude = {tmp_path}/more.conf\ndata path = kernel\ninclude = {tmp_path}/more.conf\n")
    assert main(["tune", "datapath", "--config", str(config), "--write", *form], run=run) == 1
    out, err = capsys.readouterr()
    assert "set again further down" in err
    if form:
        shown = json.loads(out)
        assert (shown["parameters"]["data path read threshold"], shown["written"]) == ("64K", False)
    else:
        assert "data path read threshold = 64K" in out


def test_the_command_measures_and_changes_nothing_unasked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tune", "datapath", "--directory", str(tmp_path), "--rounds", "1"], run=run) == 0
    out = capsys.readouterr().out
    assert "data path read threshold = " in out
    assert "--write" in out
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tune", "datapath", "--directory", str(tmp_path / "none")], run=run) == 1
    assert capsys.readouterr().err.count("\n") == 1
