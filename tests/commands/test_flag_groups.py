"""Help lists a group's flags; only groups that a command line names are laid out; kinds that it
names get their configuration."""

import pytest

from commands import run
from inference.grounding.color_namer import ColorNamerConfig
from recipes import catalogue
from schemas.errors import InputError

PRESETS = catalogue.names("dataset")


def helped(capsys, *words, preset="flux"):
    with pytest.raises(SystemExit) as end:
        run.main(["--preset", preset, *words])
    assert end.value.code == 0
    return capsys.readouterr().out


def parsed(*flags, preset="micro"):
    return run.parse_run(["--run", "r", "--preset", preset, *flags], "run").dataset


@pytest.mark.parametrize("preset", PRESETS)
def test_help_of_everything_names_every_group(capsys, preset):
    lines = helped(capsys, "--help-all", preset=preset).splitlines()
    for group in ("generate.generator", "reflect", "vlm", "filter.verifier"):
        assert any(line.split()[:1] == [group] for line in lines)
    assert any("--help SUBJECT" in line for line in lines)


def test_help_of_a_group_lists_its_flags_and_no_others(capsys):
    listed = helped(capsys, "--help", "generate.generator")
    assert "--generate.generator.kind" in listed
    assert "--generate.generator.flux.num-steps" in listed
    assert "--num-prompts" not in listed
    assert "--generate.workers.count" not in listed


def test_another_kinds_flags_are_listed_once_it_is_named(capsys):
    usual = helped(capsys, "--help", "filter.verifier")
    assert "--filter.verifier.vlm.prompt" in usual
    assert "--filter.verifier.rules" not in usual
    for said in (["--filter.verifier.kinds", "rules", "rewards"], ["--filter.verifier.kinds=rules"]):
        assert "--filter.verifier.rules.detector.kind" in helped(capsys, *said, "--help", "filter.verifier.rules")


def test_help_of_all_lists_what_is_chosen(capsys):
    listed = helped(capsys, "--help-all")
    assert "--num-prompts" in listed
    assert "--filter.verifier.vlm.prompt" in listed


def test_flags_of_a_kind_that_is_not_chosen_are_taken():
    assert (
        parsed("--filter.verifier.rules.detector.dino.batch-size", "3").filter.verifier.rules.detector.dino.batch_size
        == 3
    )


def test_what_is_parsed_is_what_the_preset_says_but_for_the_flags():
    assert parsed() == run.default_arguments("micro").dataset
    changed = parsed("--generate.generator.flux.num-steps", "3")
    assert type(changed) is type(run.default_arguments("micro").dataset)
    assert changed.generate.generator.flux.num_steps == 3
    assert changed.ground == run.default_arguments("micro").dataset.ground


def test_a_kind_that_the_preset_has_no_model_of_gets_its_defaults_once_it_is_named():
    preset = run.default_arguments("micro").dataset.ground.grounded_sam.color
    assert preset.clip is None
    color = parsed("--ground.grounded-sam.color.kind", "clip").ground.grounded_sam.color
    assert color == ColorNamerConfig("clip", color.clip, preset.pixels)
    assert color.clip is not None


def test_there_may_be_any_number_of_rewards():
    rewards = parsed("--rewards.rewards.3.name", "fourth", "--rewards.rewards.3.clip.model", "a/b").rewards.rewards
    assert [reward.name for reward in rewards] == ["clip", "hps", "pick", "fourth"]
    assert rewards[3].clip.model == "a/b"


def test_sizes_are_checked_while_they_are_parsed():
    generator = parsed("--generate.generator.sizes", "40x24", "24x40").generate.generator
    assert [str(size) for size in generator.all_sizes] == ["40x24", "24x40"]
    assert len({generator.size_of(0, f"p{n}") for n in range(20)}) == 2
    for wrong in ("40", "40x", "0x8", "axb", "40x24x3"):
        with pytest.raises(InputError, match="size"):
            parsed("--generate.generator.sizes", wrong)


def test_a_misspelt_flag_is_refused(capsys):
    for flag in ("--generate.generator.flux.num-step", "--generat.generator.kind", "--rewards.rewards.0.weigth"):
        with pytest.raises(SystemExit) as end:
            parsed(flag, "1")
        assert end.value.code == 2
        assert flag.rpartition(".")[0].split(".")[-1] in capsys.readouterr().err


def test_tyro_takes_no_value_for_another(capsys, monkeypatch):
    """It remembers what it found for a type and a value, where False is 0; under pytest it looks now and then whether
    that was right, here always."""
    monkeypatch.setattr("random.random", lambda: 0.0)
    for group in ("filter.verifier", "generate.generator"):
        assert f"--{group}." in helped(capsys, "--help", group)


def test_what_nobody_chose_is_listed_when_help_is_asked_about_it(capsys):
    from commands import train_dual_process

    with pytest.raises(SystemExit):
        train_dual_process.main(["--help", "referee"])
    told = capsys.readouterr().out
    assert "--referee.doubtful X" in told
    assert "--teacher.model" not in told
