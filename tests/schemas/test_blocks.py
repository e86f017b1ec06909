import random
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.arrow import hash_rows
from schemas.blocks import attach_images, decode_block, decode_images, encode_block, footer_of, read_footer
from schemas.errors import CorruptDataError
from schemas.records import Cost, Quarantine, Rejection
from tests.support.rows import prompt_row
from tests.support.strategies import prompt_rows

ROWS = [prompt_row(number) for number in range(3)]
FOOTER = footer_of("draw", "0123456789abcdef", 7, "f" * 64, ROWS)


def bare(rows):
    return [replace(row, candidates=tuple(replace(c, image=None) for c in row.candidates)) for row in rows]


@settings(max_examples=25, deadline=None)
@given(st.lists(prompt_rows, max_size=2))
def test_rows_and_images_come_back_from_a_block(rows):
    footer = footer_of("stage", "key", 3, "hash", rows)
    data = encode_block(footer, rows, with_images=True)
    assert decode_block(data, "block") == (footer, bare(rows))
    assert attach_images(bare(rows), decode_images(data, "block")) == rows
    assert read_footer(data, "block") == footer


def test_a_block_without_images_holds_none_and_says_the_same_otherwise():
    data = encode_block(FOOTER, ROWS, with_images=False)
    assert decode_block(data, "block") == (FOOTER, bare(ROWS))
    assert decode_images(data, "block") == [{}, {}, {}]
    assert (ROWS[0].candidates[0].image or b"") not in data


def test_equal_rows_give_equal_bytes():
    again = [prompt_row(number) for number in range(3)]
    assert encode_block(FOOTER, again, with_images=True) == encode_block(FOOTER, ROWS, with_images=True)


def test_the_footer_counts_rejected_and_quarantined_rows_shipped_pairs_and_cost():
    rejected = replace(ROWS[0], rejection=Rejection("select_pairs", "too_easy"))
    failed = replace(ROWS[1], quarantine=Quarantine("select_pairs", "ValueError: x"))
    footer = footer_of("select_pairs", "key", 0, "hash", [rejected, failed, ROWS[2]])
    assert (footer.num_rows, footer.num_rejected, footer.num_quarantined, footer.num_pairs) == (3, 1, 1, 1)
    assert footer.cost == Cost(generations=6)


@pytest.mark.parametrize("with_images", [True, False])
def test_a_flipped_bit_anywhere_is_noticed_or_harmless(with_images):
    data = encode_block(FOOTER, ROWS, with_images=with_images)
    images = decode_images(data, "block")
    draw = random.Random(0)
    noticed = 0
    for _ in range(250):
        flipped = bytearray(data)
        flipped[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        try:
            footer, rows = decode_block(bytes(flipped), "block")
            # What a consumer compares for itself: which block this is, and what it was made from.
            assert replace(footer, stage="draw", key=FOOTER.key, unit=7, input_hash=FOOTER.input_hash) == FOOTER
            assert bare(rows) == bare(ROWS)
            assert decode_images(bytes(flipped), "block") == images
        except CorruptDataError:
            noticed += 1
    assert noticed > 60


def test_a_truncated_block_is_noticed_wherever_it_was_cut():
    data = encode_block(FOOTER, ROWS, with_images=True)
    cuts = [0, 1, 4, 8, *range(16, len(data), 211), len(data) - 8, len(data) - 1]
    for cut in cuts:
        for read in (decode_block, decode_images, read_footer):
            with pytest.raises(CorruptDataError, match="unit 7"):
                read(data[:cut], "unit 7")


def test_a_parquet_file_that_is_no_block_is_refused():
    buffer = pa.BufferOutputStream()
    pq.write_table(pa.table({"a": [1]}), buffer)
    with pytest.raises(CorruptDataError, match="no block of a run"):
        decode_block(buffer.getvalue().to_pybytes(), "block")


def test_rows_under_a_footer_that_was_made_of_other_rows_are_refused():
    changed = [replace(ROWS[0], difficulty=0.75), *ROWS[1:]]
    assert hash_rows(changed) != FOOTER.rows_hash
    with pytest.raises(CorruptDataError, match="not those that its footer"):
        decode_block(encode_block(FOOTER, changed, with_images=False), "block")
    with pytest.raises(CorruptDataError, match="2 rows, its footer says 3"):
        decode_block(encode_block(FOOTER, ROWS[:2], with_images=False), "block")


def test_a_footer_with_other_counts_than_its_rows_is_refused():
    for wrong in (replace(FOOTER, num_pairs=2), replace(FOOTER, cost=Cost(generations=7))):
        with pytest.raises(CorruptDataError, match="not those that its footer"):
            decode_block(encode_block(wrong, ROWS, with_images=False), "block")


def test_an_image_with_other_bytes_than_its_hash_is_refused():
    first, second = ROWS[0].candidates
    swapped = replace(ROWS[0], candidates=(replace(first, image=second.image), second))
    data = encode_block(FOOTER, [swapped, *ROWS[1:]], with_images=True)
    with pytest.raises(CorruptDataError, match="row 0 candidate 0 has other bytes"):
        decode_images(data, "block")
