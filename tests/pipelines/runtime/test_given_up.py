"""What is noted of a unit that no worker came back with goes once its block is there."""

from types import SimpleNamespace

from pipelines.runtime import given_up
from tests.support.toy_job import ToyConfig, create
from tests.support.toy_runs import blocks, run, stamps


def test_a_block_that_was_committed_before_its_worker_was_lost_ends_the_care(tmp_path):
    config = ToyConfig(num_prompts=4, unit_size=2)
    folder = create(str(tmp_path), config)
    run(tmp_path)
    drawn = stamps(tmp_path, "draw_squares")
    key = blocks(tmp_path, "draw_squares")[0].relative_to(tmp_path / "stages" / "draw_squares").parts[0]
    step = SimpleNamespace(name="draw_squares", key=key)
    given_up.note(folder, step, 0, "its worker died")  # type: ignore[arg-type]
    for block in blocks(tmp_path, "check_colors"):
        block.unlink()
    run(tmp_path)
    assert stamps(tmp_path, "draw_squares") == drawn
    assert given_up.noted(folder) == set()
