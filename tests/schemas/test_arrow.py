import json
from dataclasses import asdict, dataclass, replace
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings

from schemas.arrow import arrow_schema, arrow_type, from_table, hash_plain, hash_rows, record_from_dict, to_table
from schemas.records import Candidate, Check, PromptRow, Quarantine
from tests.support.rows import prompt_row
from tests.support.strategies import prompt_rows, values


@settings(max_examples=40, deadline=None)
@given(prompt_rows)
def test_a_row_comes_back_from_arrow_as_it_was(row):
    assert from_table(PromptRow, to_table(PromptRow, [row])) == [row]


@settings(max_examples=40, deadline=None)
@given(values(Check))
def test_the_hash_of_a_row_is_the_same_before_writing_and_after_reading(check):
    assert hash_plain(to_table(Check, [check]).to_pylist()) == hash_rows([check])


def test_a_whole_number_in_a_float_field_has_the_same_hash_before_writing_and_after_reading():
    row = replace(prompt_row(0), difficulty=1)
    assert hash_rows(from_table(PromptRow, to_table(PromptRow, [row]))) == hash_rows([row])


@settings(max_examples=30, deadline=None)
@given(prompt_rows, prompt_rows)
def test_rows_that_differ_in_more_than_images_have_different_hashes(one, other):
    def bare(row):
        return replace(row, candidates=tuple(replace(c, image=None) for c in row.candidates))

    assert (hash_rows([one]) == hash_rows([other])) == (bare(one) == bare(other))


def test_images_do_not_count_towards_the_hash_and_masks_do():
    row = prompt_row(0)
    first, second = row.candidates
    assert first.check is not None
    mask = replace(first.check.objects[0], mask_png=b"another")
    without_image = replace(row, candidates=(replace(first, image=None), second))
    other_mask = replace(row, candidates=(replace(first, check=replace(first.check, objects=(mask,))), second))
    assert hash_rows([without_image]) == hash_rows([row])
    assert hash_rows([other_mask]) != hash_rows([row])


def test_the_order_of_rows_counts_towards_the_hash():
    rows = [prompt_row(0), prompt_row(1)]
    assert hash_rows(rows) != hash_rows(rows[::-1])


def test_a_column_younger_than_the_file_takes_its_default():
    table = to_table(PromptRow, [replace(prompt_row(0), recovered="smaller micro-batch")])
    assert from_table(PromptRow, table.drop_columns(["recovered"])) == [prompt_row(0)]


def test_a_missing_column_without_a_default_is_an_error():
    with pytest.raises(TypeError, match="prompt"):
        from_table(PromptRow, to_table(PromptRow, [prompt_row(0)]).drop_columns(["prompt"]))


def test_none_is_written_in_optional_fields_alone():
    schema = arrow_schema(Candidate)
    assert schema.field("image").nullable
    assert not schema.field("seed").nullable
    with pytest.raises(pa.ArrowInvalid, match="non-nullable"):
        pq.write_table(to_table(Quarantine, [Quarantine(stage="x", error=cast(Any, None))]), pa.BufferOutputStream())


def test_a_field_type_that_arrow_does_not_know_is_refused():
    @dataclass(frozen=True)
    class Odd:
        where: complex

    with pytest.raises(TypeError, match="complex"):
        arrow_type(Odd)


def test_a_configuration_with_tuples_in_tuples_comes_back_from_json_as_it_was():
    @dataclass(frozen=True)
    class Palette:
        colors: tuple[tuple[str, tuple[int, int, int]], ...] = (("red", (222, 32, 38)), ("blue", (28, 72, 224)))

    assert record_from_dict(Palette, json.loads(json.dumps(asdict(Palette())))) == Palette()
