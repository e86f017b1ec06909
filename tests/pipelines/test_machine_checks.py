"""What a machine lacks is named before a run begins, with what mends it."""

from dataclasses import replace

import pytest

from pipelines import machine_checks
from pipelines.machine_checks import compiler_problems, compiles, machine_problems, shared_memory_problems
from pipelines.node_checks import passed, print_checks
from pipelines.preflight import NodeCheck
from recipes import catalogue

FLUX, MICRO = catalogue.load("flux", "dataset"), catalogue.load("micro", "dataset")
ANNOTATED = replace(MICRO, annotate=True)


def test_who_compiles_anything():
    assert compiles(FLUX, on_gpu=True)  # FLUX's blocks
    plain = replace(FLUX, generate=catalogue.load("flux-24gb", "dataset").generate)
    assert not compiles(plain, on_gpu=True)
    assert compiles(replace(plain, annotate=True), on_gpu=True)  # vLLM
    assert not compiles(ANNOTATED, on_gpu=False)
    served = replace(ANNOTATED, vlm=replace(ANNOTATED.vlm, kind="vllm"))
    assert not compiles(served, on_gpu=False)  # --enforce-eager
    assert compiles(replace(served, vlm=replace(served.vlm, vllm_arguments=())), on_gpu=False)


def test_a_missing_compiler_is_named_with_what_installs_it(monkeypatch):
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.delenv("CXX", raising=False)
    (said,) = compiler_problems(on_gpu=False, which=lambda program: None)
    assert "no C compiler" in said
    assert "apt-get install gcc g++" in said
    (said,) = compiler_problems(on_gpu=False, which={"gcc": "/usr/bin/gcc"}.get)
    assert "no C++ compiler" in said
    monkeypatch.setenv("CC", "mine")
    monkeypatch.setenv("CXX", "mine")
    assert compiler_problems(on_gpu=False, which=lambda program: None) == []


def test_a_missing_cuda_header_is_named_where_there_is_a_gpu(tmp_path, monkeypatch):
    monkeypatch.setattr(machine_checks.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    (said,) = compiler_problems(on_gpu=True)
    assert "no cuda.h" in said
    assert str(tmp_path / "include") in said
    assert compiler_problems(on_gpu=False) == []
    (tmp_path / "include").mkdir()
    (tmp_path / "include" / "cuda.h").touch()
    assert compiler_problems(on_gpu=True) == []


def test_missing_python_headers_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(machine_checks.sysconfig, "get_paths", lambda: {"include": str(tmp_path)})
    (said,) = compiler_problems(on_gpu=False)
    assert "Python.h" in said
    assert "python3-dev" in said


def test_shared_memory_that_is_too_small_is_named_with_docker_s_flag(tmp_path):
    assert shared_memory_problems(str(tmp_path), needed_gib=0.0) == []
    (said,) = shared_memory_problems(str(tmp_path), needed_gib=1e9)
    assert "--shm-size=8g" in said
    (said,) = shared_memory_problems(str(tmp_path / "none"))
    assert "No such file" in said


def test_a_machine_without_gpus_needs_no_shared_memory(monkeypatch):
    monkeypatch.setattr(machine_checks, "shared_memory_problems", lambda: ["too small"])
    assert machine_problems(ANNOTATED, num_gpus=0) == []
    assert machine_problems(ANNOTATED, num_gpus=1) == ["too small"]


def test_a_node_that_lacks_something_keeps_the_run_from_beginning(capsys):
    node = NodeCheck("a", (), machine=("no C compiler: install one",))
    assert not passed([node])
    print_checks([node])
    said = capsys.readouterr().out
    assert "would fail: no C compiler: install one" in said
    assert "mend that first" in said


@pytest.mark.parametrize("num_gpus", [0.0, 1.0])
def test_this_machine_has_what_its_own_runs_compile_with(num_gpus):
    assert compiler_problems(on_gpu=num_gpus > 0) == []
