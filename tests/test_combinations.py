"""The named combinations cover every pair that can be, in as few rows as can be; a short visit to a server in each of them."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import combinations, product

import pytest

from smbd.config import parse
from smbd.smb2 import status
from tests.combinations import TABLE, VALUES, VARIABLE, Combination, Pair, chosen, main, pairs, possible
from tests.server import Server, given_settings
from tests.wire_client import WireClient

SIZE = (2 << 20) + 4321
STEP = 1 << 20


def every_pair() -> set[Pair]:
    """All pairs of values of two parameters that a server can have."""
    whole = (dict(zip(VALUES, row, strict=True)) for row in product(*VALUES.values()))
    return {pair for settings in whole if possible(settings) for pair in pairs(settings)}


def test_each_possible_pair_stands_in_a_row() -> None:
    covered = {pair for row in TABLE for pair in pairs(row.settings)}
    assert covered == every_pair()


def test_no_fewer_rows_would_do() -> None:
    # Two pairs of the same two parameters are never in one row: the most such pairs are the least number of rows.
    assert len(TABLE) == max(len(one) * len(other) for one, other in combinations(VALUES.values(), 2))


def test_rows_have_names_of_their_own_and_can_be() -> None:
    assert len({row.name for row in TABLE}) == len(TABLE)
    for row in TABLE:
        assert possible(row.settings), row.name
        assert all(value in VALUES[name] for name, value in row.settings.items()), row.name


@pytest.mark.parametrize("row", TABLE, ids=[row.name for row in TABLE])
def test_the_configuration_knows_every_row(row: Combination) -> None:
    text = "[global]\n" + "\n".join(f"{name} = {value}" for name, value in row.settings.items())
    config = parse(text, "test")
    assert (config.port, config.data_path, config.pool_mode, config.server_mode) == row[1:]


def test_a_row_is_chosen_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert chosen() == {}
    monkeypatch.setenv(VARIABLE, "pocket")
    monkeypatch.setenv("MILLPOND_TEST_SETTINGS", "pool mode = malloc; deadtime = 3")
    assert given_settings() == {**chosen(), "pool mode": "malloc", "deadtime": "3"}
    assert chosen()["server mode"] == "threaded"


def test_an_unknown_name_is_refused(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["pocket", "saucepan"]) == 2
    assert "no such combination: saucepan; there are appliance, " in capsys.readouterr().err
    monkeypatch.setenv(VARIABLE, "saucepan")
    with pytest.raises(KeyError, match="saucepan"):
        chosen()


@pytest.mark.parametrize("row", TABLE, ids=[row.name for row in TABLE])
def test_a_visit(make_server: Callable[..., Server], row: Combination) -> None:
    server = make_server(settings=row.settings)
    with server.client(timeout=60) as one, server.client(timeout=60) as other:
        for protection in ("plain", "signed", "sealed"):
            one.sign, one.seal = protection == "signed", protection == "sealed"
            _carry(one, protection)
        held = one.open("held.bin", share=0)
        assert other.create("held.bin").status == status.SHARING_VIOLATION
        one.close(held)
        assert other.create("held.bin").status == status.SUCCESS
        workers = [process for process in server.status("processes")["processes"] if process["role"] == "worker"]
        assert len({process["pid"] for process in workers}) == (1 if row.server_mode == "threaded" else 2)


def _carry(client: WireClient, name: str) -> None:
    """Bytes there and back, in pieces that leave by either data path."""
    data = random.Random(name).randbytes(SIZE)
    file = client.open(f"{name}.bin")
    for offset in range(0, SIZE, STEP):
        assert client.write(file, offset, data[offset : offset + STEP]).status == status.SUCCESS
    assert b"".join(client.read_data(file, offset, STEP) for offset in range(0, SIZE, STEP)) == data
    client.close(file)
