"""Which GPU does what: every GPU once, all of its time, in text and in a picture that a browser reads."""

import xml.etree.ElementTree as ElementTree

import pytest

from commands.plan import main as plan
from pipelines.placement import Cluster, StageEstimate, place
from pipelines.placement_picture import BAR_CHARS, as_svg, as_text, gpu_times


def stages(flux_s, ground_s, gib):
    return [
        StageEstimate("generate_candidates", "images", 1, flux_s, flux_s, "stated", memory_gib=gib),
        StageEstimate("ground_objects", "images", 1, ground_s, ground_s, "stated", memory_gib=gib),
    ]


@pytest.mark.parametrize(("gib", "gpus"), [(20.0, 8), (30.0, 8), (30.0, 32), (30.0, 1)])
def test_every_gpu_is_there_once_and_works_as_long_as_its_stages_take(gib, gpus):
    cluster, both = Cluster(gpus=gpus, gpu_type="l40s"), stages(31_000, 1_000, gib)
    placement = place(both, cluster)
    times = gpu_times(both, placement, cluster)
    assert [n for t in times for n in range(t.first, t.last + 1)] == list(range(gpus))
    worked: dict[str, float] = {}
    for t in times:
        for name, share in t.shares:
            worked[name] = worked.get(name, 0) + share * (t.last - t.first + 1) * placement.hours * 3600
    assert worked == pytest.approx({"generate_candidates": 31_000, "ground_objects": 1_000})
    assert all(0 <= t.idle < 0.06 for t in times if t.shares[0][0] == "generate_candidates")


def test_text_has_a_bar_of_one_length_a_line():
    cluster, both = Cluster(gpus=32, gpu_type="l40s"), stages(31_000, 1_000, 30.0)
    lines = as_text(gpu_times(both, place(both, cluster), cluster)).splitlines()
    assert [line.split("|")[0].strip() for line in lines] == ["GPU 0-30", "GPU 31"]
    assert all(len(line.split("|")[1]) == BAR_CHARS for line in lines)
    assert set(lines[0].split("|")[1]) <= {"G", "."}
    assert "R ground_objects" in lines[1]  # G is taken


def test_the_svg_is_well_formed_and_as_wide_as_the_time():
    cluster, both = Cluster(gpus=12, gpu_type="l40s"), stages(31_000, 1_000, 20.0)
    placement = place(both, cluster)
    root = ElementTree.fromstring(as_svg(gpu_times(both, placement, cluster), placement, cluster))
    titled = [r for r in root.iter("{http://www.w3.org/2000/svg}rect") if len(r)]
    assert len(titled) == 2 * 12
    assert sum(float(r.get("width", 0)) for r in titled) == pytest.approx(12 * 560, rel=0.01)


def test_plan_draws_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    plan(["--preset", "flux", "--picture", str(tmp_path / "gpus.svg")])
    assert "GPU 0-7 |G" in capsys.readouterr().out
    assert "generate_candidates" in (tmp_path / "gpus.svg").read_text()
    assert plan(["--preset", "micro"]) == 0
