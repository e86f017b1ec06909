"""Many concepts: what is missing is made, what is broken stays its own affair."""

import json
import os
import shutil

import pytest
from safetensors.torch import load_file

from pipelines.distill import ConceptWorker, check_names, distill_folder, distill_here
from schemas.errors import InputError
from schemas.storage import LocalStorage
from tests.support.page_reader import read_page
from tests.support.tiny_models import save_tiny_flux
from tests.support.tiny_teachers import tiny_denoiser, tiny_teacher, tiny_training
from trainers.checkpoint import Checkpoints
from trainers.concept_file import concept_files
from trainers.dual_process import DualProcess

WEIGHTS = "pytorch_lora_weights.safetensors"
CONCEPT = "name: {name}\nprompt: a photo of a red star\nqa_pairs: [{{question: 'Is there a red star?'}}]\n"


@pytest.fixture(scope="module")
def flux(tmp_path_factory):
    return save_tiny_flux(tmp_path_factory.mktemp("models") / "flux")


@pytest.fixture
def concepts(tmp_path):
    folder = tmp_path / "concepts"
    folder.mkdir()
    for name in ("a", "b"):
        (folder / f"{name}.yaml").write_text(CONCEPT.format(name=name))
    return folder


def worker_of(flux, out, **changes) -> ConceptWorker:
    config = tiny_training(flux, steps=2, **changes)
    return ConceptWorker(out, config, DualProcess(config, tiny_denoiser(flux), tiny_teacher()))


def distill(worker, concepts, stop=lambda: False):
    told = []
    outcomes = distill_folder(
        concepts, LocalStorage(worker.out), lambda files: distill_here(worker, files, stop), told.append
    )
    assert sorted(told, key=lambda o: (o.file, o.name)) == outcomes
    return {outcome.name: outcome for outcome in outcomes}


def test_a_second_run_makes_only_what_changed(flux, concepts, tmp_path):
    worker = worker_of(flux, tmp_path / "out")
    assert {name: o.status for name, o in distill(worker, concepts).items()} == {"a": "learnt", "b": "learnt"}
    card = (tmp_path / "out" / "a" / "card.json").read_bytes()
    (concepts / "b.yaml").write_text(CONCEPT.format(name="b").replace("red", "blue"))
    again = distill(worker, concepts)
    assert {name: o.status for name, o in again.items()} == {"a": "learnt before", "b": "learnt"}
    assert (tmp_path / "out" / "a" / "card.json").read_bytes() == card
    assert json.loads((tmp_path / "out" / "b" / "card.json").read_text())["prompt"] == "a photo of a blue star"


def test_folders_that_no_distillation_made_are_not_deleted(flux, concepts, tmp_path):
    """A concept may be called as a folder of photographs, and a link may lead to one."""
    out = tmp_path / "out"
    (out / "a").mkdir(parents=True)
    (out / "a" / "holiday.png").write_bytes(b"mine")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "key.txt").write_text("of another distillation")
    (out / "b").symlink_to(tmp_path / "elsewhere")
    (concepts / "._a.yaml").write_bytes(b"\x00\x05\x16\x07")
    outcomes = distill(worker_of(flux, out), concepts)
    assert {name: o.status for name, o in outcomes.items()} == {"a": "failed", "b": "learnt"}
    assert "holds 'holiday.png', and is no concept's folder" in outcomes["a"].detail
    assert (out / "a" / "holiday.png").read_bytes() == b"mine"
    assert (tmp_path / "elsewhere" / "key.txt").read_text() == "of another distillation"


def test_what_is_broken_is_told_and_the_others_go_on(flux, concepts, tmp_path):
    (concepts / "broken.yaml").write_text("name: broken\nprompt: p\nqa_pairs: none\n")
    (concepts / "c.yaml").write_text(
        "name: c\nprompt: p\nqa_pairs: [{question: q, ref_images: [bad.png]}]\n",
    )
    (concepts / "bad.png").write_bytes(b"no picture")
    (concepts / "twin.yaml").write_text(CONCEPT.format(name="a"))
    outcomes = distill(worker_of(flux, tmp_path / "out"), concepts)
    assert {name: o.status for name, o in outcomes.items()} == {
        "a": "learnt",
        "b": "learnt",
        "broken": "failed",
        "c": "failed",
        "twin": "failed",
    }
    assert "broken.yaml:3" in outcomes["broken"].detail
    assert "bad.png" in outcomes["c"].detail
    assert "'a' is" in outcomes["twin"].detail
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert [entry["status"] for entry in summary].count("failed") == 3


@pytest.mark.timeout(240)
@pytest.mark.parametrize("picture", ['"a\\0b.png"', "/dev/zero", "pipe.png", "../concepts.yaml", "bad.png"])
def test_a_picture_that_is_no_file_costs_its_own_concept_alone(concepts, picture):
    os.mkfifo(concepts / "pipe.png")
    (concepts / "bad.png").write_bytes(b"no picture")
    text = "name: c\nprompt: p\nqa_pairs: [{question: q, ref_images: [%s]}]\n"
    (concepts / "c.yaml").write_text(text % picture)
    usable, failed = check_names(concept_files(concepts))
    assert [one.file.name for one in usable] == ["a.yaml", "b.yaml"]
    assert [(outcome.name, outcome.status) for outcome in failed] == [("c", "failed")]
    assert "qa_pairs[0].ref_images" in failed[0].detail


def test_a_concept_that_is_not_learnt_does_not_stop_the_next(flux, concepts, tmp_path):
    outcomes = distill(worker_of(flux, tmp_path / "out", min_probability=0.9999), concepts)
    assert {o.status for o in outcomes.values()} == {"not learnt"}
    assert all(o.probability_after is not None and "min_probability" in o.detail for o in outcomes.values())
    assert (tmp_path / "out" / "b" / "pytorch_lora_weights.safetensors").exists()


def test_a_concept_that_was_interrupted_goes_on_from_its_checkpoint(flux, concepts, tmp_path, monkeypatch):
    shutil.move(concepts / "b.yaml", tmp_path / "b.yaml")
    worker = worker_of(flux, tmp_path / "out", checkpoint_every=1)
    models = worker.load()
    whole = models.distill

    def interrupted(concept, folder, stop):
        def end(point):
            if point.step == 1:  # the first step is in a checkpoint
                raise KeyboardInterrupt

        return whole(concept, folder, end)

    monkeypatch.setattr(models, "distill", interrupted)
    with pytest.raises(KeyboardInterrupt):
        distill(worker, concepts)
    points = []
    monkeypatch.setattr(
        models, "distill", lambda concept, folder, stop: whole(concept, folder, points.append, stop=stop)
    )
    assert distill(worker, concepts)["a"].status == "learnt"
    assert [point.step for point in points] == []  # both steps were in checkpoints


def test_stopping_leaves_the_rest_for_the_next_time(flux, concepts, tmp_path):
    worker = worker_of(flux, tmp_path / "out")
    answers = iter([False, True])
    assert set(distill(worker, concepts, lambda: next(answers))) == {"a"}
    assert {name: o.status for name, o in distill(worker, concepts).items()} == {"a": "learnt before", "b": "learnt"}


def test_asked_to_stop_it_leaves_the_concept_at_hand_with_a_checkpoint(flux, concepts, tmp_path):
    worker = worker_of(flux, tmp_path / "out")
    asked = iter([False, True])
    worker.stop = lambda: next(asked)
    assert distill(worker, concepts) == {}
    assert Checkpoints(tmp_path / "out" / "a" / "checkpoints").steps() == [1]
    worker.stop = lambda: False
    assert {name: o.status for name, o in distill(worker, concepts).items()} == {"a": "learnt", "b": "learnt"}
    whole = worker_of(flux, tmp_path / "whole")
    distill(whole, concepts)
    stopped, undisturbed = (load_file(tmp_path / name / "a" / WEIGHTS) for name in ("out", "whole"))
    assert all(value.equal(stopped[name]) for name, value in undisturbed.items())


PUBLISHED = """
question_postfix: "Answer with Yes or No."
dataset:
  - name: man-smile
    prompt: "Photo of a man"
    qa_pairs:
      - question: "Is the man smiling?"
        answer: "Yes"
  - {name: broken, prompt: p, qa_pairs: none}
  - name: star
    prompt: a photo of a red star
    qa_pairs: [{question: "Is there a red star?", answer: "Yes", ref_images: null, overlay_mode: null}]
"""


def test_a_published_file_holds_several_concepts_and_a_changed_one_is_made_again_alone(flux, tmp_path):
    file = tmp_path / "demo.yaml"
    file.write_text(PUBLISHED)
    worker = worker_of(flux, tmp_path / "out")
    outcomes = distill(worker, file)
    assert {name: o.status for name, o in outcomes.items()} == {
        "man-smile": "learnt",
        "star": "learnt",
        "demo": "failed",
    }
    assert "demo.yaml:9" in outcomes["demo"].detail
    assert "dataset[1].qa_pairs" in outcomes["demo"].detail
    file.write_text(PUBLISHED.replace("red star?", "blue star?").replace("qa_pairs: none", "qa_pairs: [{question: q}]"))
    again = {name: o.status for name, o in distill(worker, file).items()}
    assert again == {"man-smile": "learnt before", "star": "learnt", "broken": "learnt"}


def test_a_folder_without_concepts_is_bad_input(flux, tmp_path):
    with pytest.raises(InputError, match="no concepts"):
        distill(worker_of(flux, tmp_path / "out"), tmp_path)


def test_the_page_shows_what_went_wrong_as_text(flux, concepts, tmp_path):
    (concepts / "x.yaml").write_text("name: '<b>'\nprompt: p\nqa_pairs: [{question: q}]\n")
    distill(worker_of(flux, tmp_path / "out"), concepts)
    page = read_page((tmp_path / "out" / "index.html").read_text())
    assert page.tags.count("img") == 4
    assert "a: learnt" in page.visible
    assert "x: failed" in page.visible
    assert page.tags.count("b") == 2  # the answers


@pytest.mark.ray
@pytest.mark.timeout(600)
def test_on_ray_the_same_weights_come_out(flux, concepts, tmp_path):
    from safetensors.torch import load_file

    from pipelines.runtime.ray_concepts import distill_on_ray
    from pipelines.stage import Workers
    from tests.support.tiny_vlm import save_tiny_vlm
    from trainers.vqa_loss import TeacherConfig

    teacher = TeacherConfig(str(save_tiny_vlm(tmp_path / "vlm")))
    config = tiny_training(flux, steps=2, teacher=teacher, num_threads=1)
    here, there = tmp_path / "here", tmp_path / "there"
    distill(ConceptWorker(here, config), concepts)
    outcomes = distill_folder(
        concepts,
        LocalStorage(there),
        lambda files: distill_on_ray(there, config, Workers(count=2), files, lambda: False),
        lambda outcome: None,
    )
    assert [outcome.status for outcome in outcomes] == ["learnt", "learnt"]
    for name in ("a", "b"):
        first, second = (load_file(out / name / "pytorch_lora_weights.safetensors") for out in (here, there))
        assert all(value.equal(second[key]) for key, value in first.items())
