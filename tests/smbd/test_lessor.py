"""The lessor's promises: the budget is never exceeded, every ask is answered once, the dead give back, nobody starves."""

from hypothesis import given, settings
from hypothesis import strategies as st

from smbd.lessor import PATIENCE, Lessor

SLABS = (64, 256, 1024)


class Answers:
    """Records what was answered, to whom."""

    def __init__(self) -> None:
        self.given: list[tuple[int, int, int, int]] = []
        self.turns: list[int] = []
        self.recalled: list[int] = []

    def __call__(self, slot: int, ask_id: int, class_index: int, slabs: int, turn: bool) -> None:
        self.given.append((slot, ask_id, class_index, slabs))
        if turn:
            self.turns.append(slot)


def make(budget: int = 10_000, turn: int = 0) -> tuple[Lessor, Answers]:
    answers = Answers()
    return Lessor(budget, SLABS, answers, answers.recalled.append, turn), answers


def test_an_ask_within_half_the_budget_is_granted_at_once() -> None:
    lessor, answers = make()
    assert lessor.admit(16, 100)
    lessor.ask(16, 2, 1, 3, 0.0)
    assert answers.given == [(16, 2, 1, 3)]
    assert lessor.figures.leased == 768


def test_a_process_whose_reserve_does_not_fit_is_not_admitted() -> None:
    lessor, _ = make(budget=1000)
    assert lessor.admit(16, 600)
    assert not lessor.admit(17, 600)
    lessor.dismiss(16)
    assert lessor.admit(17, 600)


def test_an_ask_beyond_the_budget_waits_and_is_served_by_a_return() -> None:
    lessor, answers = make(budget=2048)
    assert lessor.admit(16, 0)
    assert lessor.admit(17, 0)
    lessor.ask(16, 2, 2, 1, 0.0)
    lessor.ask(17, 2, 2, 1, 0.0)
    lessor.ask(17, 4, 2, 1, 0.0)
    assert answers.given == [(16, 2, 2, 1), (17, 2, 2, 1)]
    lessor.returned(16, 2, 1)
    lessor.returned(17, 2, 1)
    assert answers.given[-1] == (17, 4, 2, 1)


def test_patience_ends_in_a_refusal() -> None:
    lessor, answers = make(budget=1024)
    assert lessor.admit(16, 0)
    lessor.ask(16, 2, 2, 5, 0.0)
    lessor.tick(PATIENCE - 0.1)
    assert answers.given == []
    lessor.tick(PATIENCE)
    assert answers.given == [(16, 2, 2, 0)]
    assert not lessor.waiting


def test_the_dead_give_everything_back_and_their_asks_are_forgotten() -> None:
    lessor, answers = make(budget=2048)
    for slot in (16, 17):
        assert lessor.admit(slot, 0)
    lessor.ask(16, 2, 2, 2, 0.0)
    lessor.ask(16, 4, 2, 1, 0.0)
    lessor.ask(17, 2, 2, 2, 0.0)
    lessor.dismiss(16)
    assert answers.given == [(16, 2, 2, 2), (17, 2, 2, 2)]
    assert lessor.figures.leased == 2048


def test_a_return_of_more_than_one_has_counts_for_what_one_has() -> None:
    lessor, _ = make()
    assert lessor.admit(16, 300)
    lessor.ask(16, 2, 0, 2, 0.0)
    lessor.returned(16, 0, 3)
    lessor.returned(16, 9, 1)
    assert (lessor.figures.leased, lessor.figures.reserved) == (0, 300)


def test_who_has_no_account_is_refused() -> None:
    lessor, answers = make()
    lessor.ask(1, 2, 0, 1, 0.0)
    assert answers.given == [(1, 2, 0, 0)]


def test_while_somebody_waits_holders_are_recalled() -> None:
    lessor, answers = make(budget=1024)
    for slot in (16, 17):
        assert lessor.admit(slot, 0)
    lessor.ask(16, 2, 2, 1, 0.0)
    lessor.ask(17, 2, 2, 1, 0.0)
    lessor.tick(0.5)
    assert answers.recalled == [16]


def test_under_pressure_a_slot_keeps_to_its_share() -> None:
    lessor, answers = make(budget=1000)
    assert lessor.admit(16, 0)
    assert lessor.admit(17, 0)
    lessor.ask(17, 2, 0, 1, 0.0)
    for ask_id in range(2, 40, 2):
        lessor.ask(16, ask_id, 0, 1, 0.0)
    assert lessor.accounts[16].committed <= 500
    lessor.ask(17, 4, 0, 1, 0.0)
    assert (17, 4, 0, 1) in answers.given


def test_the_turn_serves_the_first_of_those_who_have_nothing() -> None:
    lessor, answers = make(budget=4096, turn=1024)
    for slot in (16, 17, 18):
        assert lessor.admit(slot, 0)
    lessor.ask(16, 2, 2, 3, 0.0)
    lessor.ask(17, 2, 2, 1, 0.0)
    assert answers.given[-1] == (17, 2, 2, 1)
    assert lessor.turn_of == 17
    assert answers.turns == [17]
    lessor.ask(18, 2, 2, 1, 0.0)
    assert answers.given[-1][0] == 17
    lessor.returned(17, 2, 1)
    assert answers.given[-1] == (18, 2, 2, 1)


ACTIONS = st.lists(
    st.tuples(st.sampled_from(["admit", "ask", "return", "dismiss", "tick"]), st.integers(16, 20), st.integers(0, 2), st.integers(1, 6)),
    max_size=120,
)


@settings(max_examples=150, deadline=None)
@given(ACTIONS, st.integers(0, 2048))
def test_the_budget_holds_and_every_ask_is_answered_at_most_once(actions: list[tuple[str, int, int, int]], turn: int) -> None:
    lessor, answers = make(budget=6000, turn=turn)
    ids = iter(range(2, 10_000, 2))
    for now, (verb, slot, class_index, count) in enumerate(actions):
        if verb == "admit" and slot not in lessor.accounts:
            lessor.admit(slot, count * 100)
        elif verb == "ask":
            lessor.ask(slot, next(ids), class_index, count, float(now))
        elif verb == "return":
            lessor.returned(slot, class_index, count)
        elif verb == "dismiss":
            lessor.dismiss(slot)
        else:
            lessor.tick(float(now))
        figures = lessor.figures
        assert figures.leased + figures.reserved <= 6000
        assert figures.leased == sum(account.committed for account in lessor.accounts.values())
        assert figures.reserved == sum(account.reserve for account in lessor.accounts.values())
    seen = [(slot, ask_id) for slot, ask_id, _, _ in answers.given]
    assert len(seen) == len(set(seen))
    lessor.tick(1e9)
    assert not lessor.waiting


def test_the_turn_comes_back_with_the_budget() -> None:
    lessor, answers = make(budget=4096, turn=1024)
    lessor.resize(1000, 1024)
    assert (lessor.budget, lessor.turn) == (1000, 500)
    lessor.resize(4096, 1024)
    assert (lessor.figures.budget, lessor.turn) == (4096, 1024)
    assert lessor.admit(16, 0)
    lessor.resize(4096, 0)
    lessor.ask(16, 2, 2, 4, 0.0)
    assert answers.given == [(16, 2, 2, 4)]
