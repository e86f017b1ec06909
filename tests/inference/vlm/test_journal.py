import pytest

from inference.vlm.journal import StorageJournal
from schemas.storage import LocalStorage

KEY = "ab" + "0" * 62


@pytest.mark.parametrize(("folder", "place"), [("", "ab"), ("journal/reflect", "journal/reflect/ab")])
def test_answers_lie_by_their_keys_first_digits(tmp_path, folder, place):
    journal = StorageJournal(LocalStorage(tmp_path), folder)
    assert journal.get(KEY) is None
    journal.put(KEY, {"text": "größer", "num_tokens": 3})
    assert journal.get(KEY) == {"text": "größer", "num_tokens": 3}
    assert (tmp_path / place / f"{KEY}.json").is_file()


@pytest.mark.parametrize("damaged", [b"", b'{"text": "hal', b"[1]", b"\xff", b"[" * 100_000])
def test_what_does_not_read_is_asked_again(tmp_path, damaged):
    journal = StorageJournal(LocalStorage(tmp_path))
    journal.put(KEY, {"text": "whole"})
    (tmp_path / "ab" / f"{KEY}.json").write_bytes(damaged)
    assert journal.get(KEY) is None


def test_an_answer_with_a_flipped_bit_is_asked_again(tmp_path):
    journal = StorageJournal(LocalStorage(tmp_path))
    answer = {"text": "Add a red circle.", "num_tokens": 5}
    journal.put(KEY, answer)
    path = tmp_path / "ab" / f"{KEY}.json"
    whole = path.read_bytes()
    for bit in range(8 * len(whole)):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        assert journal.get(KEY) in (None, answer)  # spaces between may be others
