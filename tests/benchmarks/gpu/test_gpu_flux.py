"""The GPU measurements run at tiny size on the CPU, with the code of the full size: finite numbers in every part."""

import json

import pytest

from benchmarks.gpu.attention_kernels import fastest_attention_kernel
from benchmarks.gpu.gpu_flux import Arguments, run

COMPILED = ("compiled", "fused", "float8", "none", "cached", "joint", "text_copy", "compiled_batch")


def figures_of(tmp_path, *parts):
    run(Arguments("tiny", "cpu", 600.0, tmp_path, parts))
    figures = json.loads((tmp_path / "gpu_flux_tiny.json").read_text())["figures"]
    failed = {name: value for group in figures.values() for name, value in group.items() if name.endswith("_failed")}
    assert not failed
    entries = [value for group in figures.values() for value in group.values() if isinstance(value, dict)]
    assert all(entry.get("finite", True) for entry in entries)
    return figures


@pytest.mark.slow
def test_parts_without_a_compiler_give_finite_figures(tmp_path):
    figures = figures_of(tmp_path, "eager", "joint_eager", "cached_eager", "corrector_steps")
    assert figures["generation"]["forward_eager"]["ms"] > 0
    assert figures["corrector"]["cached_eager"]["prefix_ms"] > 0
    assert figures["training"]["corrector_step_batch_4"]["ms_a_sample"] > 0


def test_a_part_that_fails_or_has_no_time_loses_nothing_of_the_others(tmp_path, monkeypatch):
    def fail(self):
        raise RuntimeError("no kernel")

    monkeypatch.setattr("benchmarks.gpu.gpu_generation.GenerationBenchmark.attention", fail)
    run(Arguments("tiny", "cpu", 600.0, tmp_path, ("attention", "joint_eager")))
    figures = json.loads((tmp_path / "gpu_flux_tiny.json").read_text())["figures"]
    assert figures["generation"]["attention_failed"] == "RuntimeError: no kernel"
    assert figures["corrector"]["joint_eager"]["finite"]


@pytest.mark.slow
def test_compiled_parts_and_the_dual_process_step_run_too(tmp_path):
    figures = figures_of(tmp_path, "eager", "eager_image", *COMPILED, "dual")
    assert figures["generation"]["forward_fused"]["difference_from_eager"] < 1e-5
    assert 0 < figures["generation"]["forward_float8"]["difference_from_eager"] < 0.1
    assert figures["training"]["dual_process_step"]["finite"]


def test_the_fastest_kernel_is_the_one_with_the_least_milliseconds():
    assert fastest_attention_kernel({"default": 3.0, "flash": 3.0, "cudnn": 2.0}) == "cudnn"
    assert fastest_attention_kernel({"default": 2.1, "flash": 3.0, "cudnn": 2.0}) == "default"
    assert fastest_attention_kernel({}) == "default"
