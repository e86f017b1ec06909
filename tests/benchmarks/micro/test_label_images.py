"""Labels of generated images: the prompts do not change, and a CSV is read with care."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.micro.label_images import choose_prompts, digest, read_rows, wilson, write_rows, write_sheets
from inference.prompt_grammar import parse_prompt
from microworld.scenes.captions import TAGS
from schemas.errors import InputError


def test_prompts_and_seeds_are_the_same_at_every_call_and_cover_the_tags_evenly():
    rows = choose_prompts(200)
    assert rows == choose_prompts(200)
    assert rows[:50] == choose_prompts(50)
    assert {rows.count(r) for r in rows} == {1}
    assert all(33 <= sum(r.tag == tag for r in rows) <= 34 for tag in TAGS)
    assert len({r.seed for r in rows}) == 200
    assert all(parse_prompt(r.prompt).include for r in rows)


def test_a_csv_comes_back_as_it_was_written(tmp_path):
    rows = [
        replace(r, label=label, note='a "note", with a comma')
        for r, label in zip(choose_prompts(2), ("right", ""), strict=True)
    ]
    write_rows(tmp_path / "labels.csv", rows)
    assert read_rows(tmp_path / "labels.csv") == rows


def test_an_unknown_label_is_named_with_its_line(tmp_path):
    path = tmp_path / "labels.csv"
    write_rows(path, [replace(r, label=label) for r, label in zip(choose_prompts(2), ("right", "rigth"), strict=True)])
    with pytest.raises(InputError, match=r"labels\.csv:3: unknown label 'rigth'"):
        read_rows(path)
    with pytest.raises(InputError, match="no labels yet"):
        read_rows(tmp_path / "none.csv")


def test_sheets_show_every_image_enlarged(tmp_path):
    from PIL import Image

    images = [np.full((32, 32, 3), 10 * i, np.uint8) for i in range(22)]
    paths = write_sheets(choose_prompts(22), images, tmp_path)
    assert len(paths) == 2
    sheet = np.asarray(Image.open(paths[1]))
    assert (sheet[26 : 26 + 256, :256] == 200).all()
    assert len({digest(image) for image in images}) == 22


def test_the_interval_holds_the_share_and_narrows():
    low, high = wilson(95, 100)
    assert low < 0.95 < high
    assert high - low < wilson(19, 20)[1] - wilson(19, 20)[0]
    assert wilson(0, 0) == (0.0, 1.0)
    assert wilson(20, 20)[1] == pytest.approx(1.0)
