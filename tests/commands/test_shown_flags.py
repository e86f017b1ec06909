"""Help lists the flags of the models that are chosen, and of those that the command line chooses."""

import pytest

from commands import run
from commands.shown_flags import only_chosen_kinds


def helped(capsys, *flags):
    with pytest.raises(SystemExit) as end:
        run.main(["--preset", "flux", *flags, "--help"])
    assert end.value.code == 0
    return capsys.readouterr().out


def test_a_kind_is_listed_once_it_is_named(capsys):
    usual = helped(capsys)
    assert "--filter.verifier.vlm.prompt" in usual
    assert "--filter.verifier.rules" not in usual
    for said in (["--filter.verifier.kinds", "rules", "rewards"], ["--filter.verifier.kinds=rules"]):
        assert "--filter.verifier.rules.detector.kind" in helped(capsys, *said)


def test_what_is_hidden_can_still_be_given():
    flags = ["--run", "r", "--preset", "micro", "--filter.verifier.rules.detector.dino.batch-size", "3"]
    config = run.parse_run(flags, "run").dataset
    assert config.filter.verifier.rules.detector.dino.batch_size == 3


def test_only_the_choice_itself_decides():
    default = run.default_arguments("flux")
    verifier = only_chosen_kinds(default, ["--prompts", "kinds"]).dataset.filter.verifier
    assert verifier.vlm is not None
    assert verifier.rewards == ()
    assert verifier.trained is None
    assert default.dataset.filter.verifier.trained is not None
