from dataclasses import replace
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from pipelines.runtime.failures import Breaker, FailurePolicy, classify, execute
from pipelines.runtime.given_up import Care, GivenUp
from pipelines.stage import Stage
from schemas.arrow import hash_rows
from schemas.errors import OutageError, StorageError, TransientError
from schemas.records import Cost, PromptRecord, PromptRow, Rejection

POLICY = FailurePolicy()


def rows(count: int) -> list[PromptRow]:
    return [PromptRow(PromptRecord(f"p{number:04d}", "a red square", "rule")) for number in range(count)]


class Doubler(Stage):
    """Costs one call a row. fails: prompt id -> the error it raises. errors: raised by the first calls, in turn."""

    name: ClassVar[str] = "doubler"
    version: ClassVar[int] = 1

    def __init__(self, fails=(), errors=(), micro_batch=8, fits=8):
        super().__init__(None, 0)
        self.fails, self.errors = dict(fails), list(errors)
        self.micro_batch, self.fits = micro_batch, fits
        self.calls = []

    def shrink(self) -> bool:
        self.micro_batch //= 2
        return self.micro_batch >= 1

    def __call__(self, rows):
        self.calls.append(len(rows))
        if self.errors:
            raise self.errors.pop(0)
        if self.micro_batch > self.fits:
            raise MemoryError
        for row in rows:
            if row.prompt.prompt_id in self.fails:
                raise self.fails[row.prompt.prompt_id]
        return [replace(row, cost=Cost(verifier_calls=1)) for row in rows]


def test_one_poison_row_in_a_thousand_is_found_in_few_calls():
    stage = Doubler(fails={"p0613": ValueError("cannot be drawn")})
    done, failures = execute(stage, rows(1000), POLICY)
    assert len(stage.calls) <= 21  # 1 + 2 log2(1000)
    assert [row.prompt.prompt_id for row in done if row.quarantine] == ["p0613"]
    assert [row.prompt.prompt_id for row in done] == [row.prompt.prompt_id for row in rows(1000)]
    (failure,) = failures
    assert failure.error == "ValueError: cannot be drawn"
    assert "raise self.fails" in failure.trace
    assert sum(row.cost.verifier_calls for row in done) == 999
    assert done[613].quarantine.stage == "doubler"


def test_rows_that_were_done_in_another_batch_are_marked():
    done, _ = execute(Doubler(fails={"p0002": ValueError()}), rows(4), POLICY)
    assert [row.recovered for row in done] == ["fewer rows at once"] * 2 + [None, "fewer rows at once"]
    done, _ = execute(Doubler(), rows(4), POLICY)
    assert [row.recovered for row in done] == [None] * 4


def test_an_outage_that_began_in_units_before_says_what_is_in_quarantine():
    """Units of one row are committed before four rows have failed alike."""
    breaker = Breaker()
    stage = Doubler(fails={f"p{number:04d}": ValueError("away") for number in range(4)})
    for row in rows(3):
        assert len(execute(stage, [row], POLICY, breaker)[1]) == 1
    with pytest.raises(OutageError, match=r"of this unit nothing was quarantined, 3 of units before it were") as error:
        execute(stage, rows(4)[3:], POLICY, breaker)
    assert "nothing was quarantined for it" not in str(error.value)


def test_several_poison_rows_among_good_ones_are_all_quarantined():
    poison = {f"p{number:04d}": ValueError() for number in range(0, 100, 10)}
    done, failures = execute(Doubler(fails=poison), rows(100), POLICY)
    assert {row.prompt.prompt_id for row in done if row.quarantine} == set(poison)
    assert len(failures) == 10


def test_a_transient_failure_is_tried_again_with_growing_waits():
    waits = []
    stage = Doubler(errors=[TransientError("503"), TimeoutError(), ConnectionResetError()])
    done, failures = execute(stage, rows(4), POLICY, sleep=waits.append)
    assert waits == [0.5, 1.0, 2.0]
    assert stage.calls == [4, 4, 4, 4]
    assert failures == []
    assert all(row.active and row.recovered is None for row in done)


def test_a_transient_failure_that_stays_is_an_outage_and_quarantines_nothing():
    waits = []
    stage = Doubler(errors=[TransientError("503")] * 99)
    with pytest.raises(
        OutageError, match=r"doubler: TransientError: 503\n  tried 5 times, and a plain .*; nothing was quarant"
    ):
        execute(stage, rows(4), POLICY, sleep=waits.append)
    assert stage.calls == [4, 4, 4, 4, 4, 1]  # and the probe
    assert len(waits) == 4


def test_waits_do_not_grow_beyond_their_limit():
    waits = []
    policy = FailurePolicy(max_attempts=10, max_wait_s=3)
    execute(Doubler(errors=[TransientError("503")] * 9), rows(1), policy, sleep=waits.append)
    assert waits == [0.5, 1, 2, 3, 3, 3, 3, 3, 3]


def test_out_of_memory_shrinks_the_micro_batch_and_marks_the_rows():
    stage = Doubler(micro_batch=8, fits=2)
    done, failures = execute(stage, rows(4), POLICY)
    assert stage.micro_batch == 2
    assert failures == []
    assert [row.recovered for row in done] == ["smaller micro-batch"] * 4


def test_units_after_an_out_of_memory_are_marked_too():
    stage, breaker = Doubler(micro_batch=8, fits=2), Breaker()
    execute(stage, rows(4), POLICY, breaker)
    done, _ = execute(stage, rows(4), POLICY, breaker)
    assert [row.recovered for row in done] == ["smaller micro-batch"] * 4


def test_a_row_too_big_for_the_smallest_micro_batch_is_quarantined_alone():
    class Huge(Doubler):
        def __call__(self, rows):
            if any(row.prompt.prompt_id == "p0002" for row in rows):
                raise MemoryError
            return super().__call__(rows)

    done, failures = execute(Huge(), rows(8), POLICY)
    assert [row.prompt.prompt_id for row in done if row.quarantine] == ["p0002"]
    assert failures[0].error.startswith("MemoryError")


def test_eight_rows_failing_alike_are_an_outage():
    stage = Doubler(fails={row.prompt.prompt_id: RuntimeError("no device") for row in rows(40)})
    with pytest.raises(OutageError, match="8 rows failed alike, one after the other: RuntimeError: no device"):
        execute(stage, rows(40), POLICY)


@pytest.mark.parametrize("count", [4, 5, 7])
def test_a_whole_small_unit_failing_alike_is_an_outage(count):
    stage = Doubler(fails={row.prompt.prompt_id: RuntimeError("no device") for row in rows(count)})
    with pytest.raises(OutageError, match=f"{count} rows failed alike"):
        execute(stage, rows(count), POLICY)


def test_failures_alike_are_counted_over_units():
    breaker = Breaker()
    stage = Doubler(fails={row.prompt.prompt_id: RuntimeError("no device") for row in rows(3)})
    execute(stage, rows(3), POLICY, breaker)
    with pytest.raises(OutageError, match="4 rows failed alike"):
        execute(stage, rows(3), POLICY, breaker)


def test_seven_alike_and_then_a_good_row_are_no_outage():
    fails = {f"p{number:04d}": RuntimeError() for number in [*range(7), *range(8, 15)]}
    done, failures = execute(Doubler(fails=fails), rows(16), POLICY)
    assert len(failures) == 14
    assert [row.prompt.prompt_id for row in done if row.active] == ["p0007", "p0015"]


def test_failures_of_different_kinds_are_no_outage():
    kinds = [ValueError, KeyError]
    fails = {f"p{number:04d}": kinds[number % 2](number) for number in range(20)}
    _, failures = execute(Doubler(fails=fails), rows(20), POLICY)
    assert len(failures) == 20


def test_a_full_disk_is_not_the_rows_fault():
    with pytest.raises(StorageError, match="disk is full"):
        execute(Doubler(errors=[StorageError("disk is full")]), rows(4), POLICY)


@pytest.mark.parametrize("returned", [[], [0, 1, 2], [0, 1, 2, 3, 0]])
def test_a_stage_that_loses_or_makes_up_rows_is_caught(returned):
    class Wrong(Stage):
        name = "wrong"
        version = 1

        def __call__(self, rows):
            return [rows[i] for i in returned] if len(rows) == 4 else list(rows)

    done, failures = execute(Wrong(None, 0), rows(4), POLICY)
    assert failures == []
    assert [row.prompt.prompt_id for row in done] == ["p0000", "p0001", "p0002", "p0003"]


def test_rejected_and_quarantined_rows_pass_through_at_no_cost():
    rejected = replace(rows(3)[1], rejection=Rejection("before", "too_easy"), cost=Cost(generations=9))
    before = [rows(3)[0], rejected, rows(3)[2]]
    stage = Doubler(fails={"p0001": AssertionError("a rejected row reached the stage")})
    done, failures = execute(stage, before, POLICY)
    assert failures == []
    assert done[1] == replace(rejected, cost=Cost())
    assert [row.cost.verifier_calls for row in done] == [1, 0, 1]


def test_a_unit_without_active_rows_does_not_reach_the_stage():
    stage = Doubler()
    before = [replace(row, rejection=Rejection("before", "too_easy")) for row in rows(3)]
    assert execute(stage, before, POLICY) == (before, [])
    assert stage.calls == []


def test_an_error_message_with_a_lone_surrogate_can_be_written_down():
    done, failures = execute(Doubler(fails={"p0000": ValueError("file \udcff")}), rows(2), POLICY)
    assert hash_rows(done)
    assert failures[0].trace.encode()


def test_errors_of_libraries_that_are_not_imported_are_told_apart_by_name():
    kinds = {name: type(name, (Exception,), {}) for name in ("OutOfMemoryError", "RateLimitError", "BadRequestError")}
    assert classify(kinds["OutOfMemoryError"]()) == "out_of_memory"
    assert classify(type("Sub", (kinds["RateLimitError"],), {})()) == "transient"
    assert classify(kinds["BadRequestError"]()) == "permanent"


class Picky(Stage):
    """Fails at what its rows say, not at who they are. away: fails at anything."""

    name: ClassVar[str] = "picky"
    version: ClassVar[int] = 1

    def __init__(self, error: type[Exception] = ValueError, away=False):
        super().__init__(None, 0)
        self.error, self.away, self.calls = error, away, []

    def __call__(self, rows):
        self.calls.append([row.prompt.text for row in rows])
        if self.away or any(row.prompt.text.startswith("bad") for row in rows):
            raise self.error("absolute aspect ratio must be smaller than 200")
        return list(rows)


def bad_rows(count: int, first: int = 0) -> list[PromptRow]:
    return [
        PromptRow(PromptRecord(f"b{number:04d}", f"bad {number}", "rule")) for number in range(first, first + count)
    ]


@pytest.mark.parametrize("count", [4, 8, 40])
def test_rows_that_are_to_blame_themselves_are_quarantined_however_many_they_are(count):
    done, failures = execute(Picky(), bad_rows(count), POLICY)
    assert all(row.quarantine is not None for row in done)
    assert len(failures) == count


def test_a_row_that_passed_before_is_what_the_stage_is_probed_with():
    stage, breaker = Picky(), Breaker()
    execute(stage, rows(3), POLICY, breaker)
    execute(stage, bad_rows(8), POLICY, breaker)
    assert stage.calls.count(["a red square"]) == 1
    stage.away = True
    with pytest.raises(OutageError, match="a row that it had done before fails, too"):
        execute(stage, bad_rows(8, 8), POLICY, breaker)


def test_a_client_is_probed_with_something_that_no_journal_knows():
    class Asking(Picky):
        @classmethod
        def is_client(cls, config):
            return True

    stage, breaker = Asking(), Breaker()
    execute(stage, rows(3), POLICY, breaker)
    execute(stage, bad_rows(16), POLICY, breaker)
    probes = [call for call in stage.calls if call[0].startswith("a red apple")]
    assert len(probes) == len({tuple(call) for call in probes}) == 2


def test_a_request_that_always_times_out_does_not_stop_a_run_whose_endpoint_answers():
    done, failures = execute(Picky(TimeoutError), [*rows(3), *bad_rows(1)], POLICY, sleep=lambda seconds: None)
    assert [row.quarantine is not None for row in done] == [False, False, False, True]
    assert failures[0].error.startswith("TimeoutError")


def test_without_an_outage_limit_whatever_fails_goes_to_quarantine():
    done, _ = execute(Picky(away=True), rows(9), replace(POLICY, outage_rows=0))
    assert all(row.quarantine is not None for row in done)


class Remembers:
    """A folder for `Care`, with what it was told."""

    def __init__(self):
        self.notes = []

    def write_checked(self, path, value):
        self.notes.append(tuple(value["at_hand"]))


def test_rows_that_nobody_came_back_with_are_halved_down_to_the_one():
    step: Any = SimpleNamespace(name="picky", key="k")
    four = rows(4)
    ids = [row.prompt.prompt_id for row in four]
    lost = (tuple(ids), tuple(ids[2:]), (ids[3],))
    folder: Any = Remembers()
    care = Care(folder, step, 0, GivenUp("no answer within 30:00", (), lost))
    done, failures = execute(Picky(), four, POLICY, care=care)
    assert [row.prompt.prompt_id for row in done if row.quarantine] == [ids[3]]
    assert "no answer within 30:00" in failures[0].error
    assert folder.notes == [tuple(ids[:2]), (ids[2],)]
