"""A search and a live one whose corrector is an editor that needs no training."""

import json

import numpy as np
import pytest

from commands.main import main
from commands.runs import open_run
from pipelines.evaluation import read_rows
from pipelines.search_job import SearchJobConfig
from schemas.images import decode_image
from tests.support.tiny_models.editors import save_editor

EDITOR = ("--tools.corrector.kind", "editor")
QUICK = ("--search.width", "1", "--search.depth", "2", "--search.strategy", "reflection")
SCORED = ("--tools.verifier.kinds", "rewards", "--tools.critic.kind", "vlm")


@pytest.fixture(scope="module")
def klein(tmp_path_factory):
    return save_editor("Flux2KleinPipeline", tmp_path_factory.mktemp("klein") / "model")


def drawn_by(folder):
    flags = {"model": folder, "steps": 2, "size-px": 64, "device": "cpu", "dtype": "float32"}
    given = [text for name, value in flags.items() for text in (f"--tools.generator.diffusers.{name}", str(value))]
    return ("--tools.generator.kind", "diffusers", *given)


@pytest.mark.slow
def test_a_search_that_draws_and_edits_with_one_model_gives_the_same_bytes_again(klein, tmp_path):
    arguments = ("--num-prompts", "2", "--unit-size", "2", "--num-threads", "1", "--quiet", *QUICK, *SCORED, *EDITOR)
    blocks = []
    for name in ("first", "again"):
        run = tmp_path / name
        assert main(["search", "--run", str(run), *arguments, *drawn_by(klein)]) == 0
        blocks.append({p.name: p.read_bytes() for p in (run / "stages" / "draft_round").rglob("*.parquet")})
    assert blocks[0]
    assert blocks[0] == blocks[1]
    folder, config = open_run(str(tmp_path / "first"))
    assert isinstance(config, SearchJobConfig)
    drafts = [candidate.search for row in read_rows(folder, config) for candidate in row.candidates]
    edits = [draft for draft in drafts if draft and draft.parent is not None]
    assert edits
    assert {draft.cost.denoiser_passes for draft in drafts if draft} == {2}
    editor = json.loads((tmp_path / "first" / "run.json").read_text())["config"]["tools"]["corrector"]["editor"]
    assert editor["template"] == "edit"


@pytest.mark.slow
def test_an_editor_of_its_own_corrects_what_the_micro_flux_drew(tmp_path, capsys):
    kontext = save_editor("FluxKontextPipeline", tmp_path / "kontext")
    own = ("--tools.corrector.editor.model", str(kontext), "--tools.corrector.editor.steps", "2")
    images = []
    for name in ("first", "again"):
        out = tmp_path / name
        assert main(["reflect", "a photo of a star", "--out", str(out), *QUICK, *SCORED, *EDITOR, *own]) == 0
        images.append(decode_image((out / "filmstrip.png").read_bytes()))
    assert "from image 0" in capsys.readouterr().out
    assert np.array_equal(*images)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ((), "corrector.editor.model"),  # the micro FLUX edits nothing
        (("--tools.corrector.editor.model", "nobody/has-it"), "no weights for 'nobody/has-it'"),
    ],
)
def test_what_is_missing_is_said_before_any_work(flags, says, tmp_path, capsys):
    assert main(["reflect", "a star", "--out", str(tmp_path / "no"), *QUICK, *SCORED, *EDITOR, *flags]) == 2
    said = capsys.readouterr()
    assert says in said.err + said.out
    assert "models loaded" not in said.out
    assert not (tmp_path / "no").exists()


def test_the_papers_corrector_wants_its_own_generator(klein, tmp_path, capsys):
    assert main(["reflect", "a star", "--out", str(tmp_path / "no"), *QUICK, *SCORED, *drawn_by(klein)]) == 2
    assert "corrector.kind" in capsys.readouterr().err
