"""Editing triplets from Parquet, tar and the micro world: intake by quality, and the two images as a pair."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from microworld.prompt_source import MicroWorld
from microworld.scenes.edit_file import sample_edit_row, write_edit_file
from pipelines.prompts.edit_files import EditIntake, EditQuality, iterate_edits, iterate_world_edits
from pipelines.stages.caption_images import CaptionImages, CaptionImagesConfig
from pipelines.stages.read_edits import EDITED, SOURCE, ReadEdits, ReadEditsConfig
from schemas.errors import CorruptDataError, InputError
from schemas.images import decode_image
from schemas.records import Reason
from tests.support.vlm_rows import ScriptedVlm

ANY = EditQuality(0, 0, 0)


def png(array):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def write_rows(path, rows):
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=3)


def read(path, quality=ANY, skip=False):
    counts = EditIntake()
    return list(iterate_edits(str(path), quality, counts, skip)), counts


def stage():
    made = ReadEdits(ReadEditsConfig(), 0)
    made.load()
    return made


@pytest.mark.parametrize("name", ["edits.parquet", "edits.tar"])
def test_files_of_both_kinds_give_the_same_pairs_as_the_world_itself(tmp_path, name):
    path = tmp_path / name
    write_edit_file(path, 12, seed=3, flawed_share=0.4)
    rows, counts = read(path, EditQuality())
    world_counts = EditIntake()
    wanted = [n for n in range(12) if sample_edit_row(3, n, 0.4)["o_score"] == 10]
    assert counts.num_rows == 12
    assert len(rows) == len(wanted) == 12 - counts.num_below_quality
    done = stage()(rows)
    for number, row in zip(wanted, done, strict=True):
        values = sample_edit_row(3, number, 0.4)
        by_index = {c.index: decode_image(c.image or b"") for c in row.candidates}
        assert (by_index[SOURCE] == decode_image(values["src_img"])).all()
        assert (by_index[EDITED] == decode_image(values["edited_img"])).all()
        (pair,) = row.pairs
        assert (pair.good, pair.bad) == (EDITED, SOURCE)
        assert pair.reflection.text == values["edited_prompt_list"][0] == row.prompt.text
    first = next(iterate_world_edits(MicroWorld(), 3, EditQuality(), world_counts))
    assert stage()([first])[0].pairs


def test_rows_may_be_read_in_any_order(tmp_path):
    path = tmp_path / "edits.parquet"
    write_edit_file(path, 10, seed=0, flawed_share=0.0)
    rows, _ = read(path)
    forward = stage()(rows)
    assert stage()(rows[::-1]) == forward[::-1]


def test_images_that_do_not_do_are_rejections(tmp_path):
    one = np.zeros((20, 20, 3), np.uint8)
    other = np.full((20, 20, 3), 200, np.uint8)
    thin = np.zeros((2, 600, 3), np.uint8)
    rows = [
        {"src_img": png(one), "edited_img": b"no image", "edited_prompt_list": ["a"]},
        {"src_img": png(one), "edited_img": png(one), "edited_prompt_list": ["b"]},
        {"src_img": png(one), "edited_img": png(other[:10]), "edited_prompt_list": ["c"]},
        {"src_img": png(one), "edited_img": png(other[:16, :16]), "edited_prompt_list": ["d"]},
        {"src_img": None, "edited_img": png(one), "edited_prompt_list": ["e"]},
        {"src_img": png(thin), "edited_img": png(thin + 9), "edited_prompt_list": ["f"]},
        {"src_img": png(thin.swapaxes(0, 1)), "edited_img": png(thin.swapaxes(0, 1) + 9), "edited_prompt_list": ["g"]},
    ]
    write_rows(tmp_path / "edits.parquet", rows)
    done = stage()(read(tmp_path / "edits.parquet")[0])
    reasons = [row.rejection.reason if row.rejection else None for row in done]
    assert reasons == [
        Reason.BROKEN_IMAGE,
        Reason.EQUAL_IMAGES,
        Reason.OTHER_SIZES,
        None,
        Reason.BROKEN_IMAGE,
        Reason.EXTREME_ASPECT,
        Reason.EXTREME_ASPECT,
    ]
    assert {(c.width_px, c.height_px) for c in done[3].candidates} == {(16, 16)}


def test_images_of_other_kinds_are_what_a_viewer_shows_of_them(tmp_path):
    clear = np.full((8, 8, 4), (255, 0, 0, 0), np.uint8)
    deep = np.full((8, 8), 30_000, np.uint16)
    rows = [{"src_img": png(clear), "edited_img": png(deep), "edited_prompt_list": ["Fill it."]}]
    write_rows(tmp_path / "edits.parquet", rows)
    (done,) = stage()(read(tmp_path / "edits.parquet")[0])
    assert [int(decode_image(c.image or b"")[0, 0, 1]) for c in done.candidates] == [255, 117]


def test_what_is_said_of_a_format_that_is_not_read_is_the_same_each_time(tmp_path):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "TIFF")
    rows = [{"src_img": buffer.getvalue(), "edited_img": buffer.getvalue(), "edited_prompt_list": ["Fill it."]}]
    write_rows(tmp_path / "edits.parquet", rows)
    said = {stage()(read(tmp_path / "edits.parquet")[0])[0].rejection for _ in range(2)}
    assert len(said) == 1
    assert "TIFF is not read" in said.pop().detail


def test_the_hub_s_structs_of_bytes_are_read(tmp_path):
    one, other = np.zeros((8, 8, 3), np.uint8), np.full((8, 8, 3), 200, np.uint8)
    cell = [{"bytes": png(image), "path": None} for image in (one, other)]
    write_rows(
        tmp_path / "e.parquet", [{"src_img": cell[0], "edited_img": cell[1], "edited_prompt_list": ["Paint it."]}]
    )
    (done,) = stage()(read(tmp_path / "e.parquet")[0])
    assert done.pairs[0].reflection.text == "Paint it."


def test_a_file_that_changed_since_intake_is_noticed(tmp_path):
    path = tmp_path / "edits.parquet"
    write_edit_file(path, 4, seed=0)
    rows, _ = read(path)
    write_edit_file(path, 4, seed=1)
    with pytest.raises(CorruptDataError, match="another one than when the run was started"):
        stage()(rows)


def test_bad_rows_are_named_or_kept_as_rejections(tmp_path):
    good = sample_edit_row(0, 0, 0.0)
    write_rows(tmp_path / "e.parquet", [good, good | {"edited_prompt_list": []}, good])
    with pytest.raises(InputError, match=r"e\.parquet:2: \[\] holds no instruction"):
        read(tmp_path / "e.parquet")
    rows, _ = read(tmp_path / "e.parquet", skip=True)
    assert [row.rejection is None for row in rows] == [True, False, True]


@pytest.mark.parametrize(
    ("content", "problem"),
    [(None, "no such file"), (b"PAR1", "not readable as Parquet"), ({"a": 1}, "no column src_img")],
)
def test_files_that_hold_no_edits_are_refused(tmp_path, content, problem):
    path = tmp_path / "e.parquet"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content:
        write_rows(path, [content])
    with pytest.raises(InputError, match=problem):
        read(path)


def test_a_caption_in_the_file_is_the_prompt_and_nobody_is_asked(tmp_path):
    values = [sample_edit_row(5, number, 0.0) for number in range(2)]
    values[0]["caption"], values[1]["caption"] = "a photo of a red star", ""
    write_rows(tmp_path / "edits.parquet", values)
    rows, _ = read(tmp_path / "edits.parquet")
    assert [row.prompt.text for row in rows] == ["a photo of a red star", values[1]["edited_prompt_list"][0]]
    captions = CaptionImages(CaptionImagesConfig(), 0)
    captions.vlm = ScriptedVlm(lambda request: "what the VLM sees")
    first, second = captions(stage()(rows))
    assert (first.prompt.text, second.prompt.text) == ("a photo of a red star", "what the VLM sees")
    assert (first.cost.vlm_calls, second.cost.vlm_calls) == (0, 1)


def test_a_caption_that_is_no_text_is_named(tmp_path):
    values = sample_edit_row(5, 0, 0.0) | {"caption": 7}
    write_rows(tmp_path / "edits.parquet", [values])
    with pytest.raises(InputError, match="caption"):
        read(tmp_path / "edits.parquet")
