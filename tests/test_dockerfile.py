"""The image's file, and its steps as far as they go without Docker: the same commands on a folder of what it copies."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "deploy" / "Dockerfile").read_text()
STEPS = [
    line.split(None, 1)
    for line in re.sub(r"\\\n\s*", " ", re.sub(r"^#.*\n", "", TEXT, flags=re.MULTILINE)).splitlines()
    if line.strip()
]


def packages() -> set[str]:
    """That apt installs."""
    (line,) = [said for kind, said in STEPS if kind == "RUN" and "apt-get install" in said]
    words = line.split("apt-get install", 1)[1].split("&&")[0].split()
    return {word for word in words if not word.startswith("-")}


def test_what_it_copies_is_there():
    copied = [said.split()[:-1] for kind, said in STEPS if kind == "COPY"]
    sources = [source for some in copied for source in some]
    assert {"requirements-core.txt", "pyproject.toml", "."} == set(sources)
    assert all((ROOT / source).exists() for source in sources)
    left_out = (ROOT / ".dockerignore").read_text().split("\n")
    assert {".venv", "runs"} <= set(left_out)


def test_it_has_what_triton_and_vllm_compile_with():
    assert {"gcc", "g++", "libc6-dev"} <= packages()
    assert STEPS[0] == ["FROM", "python:3.11-slim"]  # built from source: its headers are in /usr/local/include
    pinned = (ROOT / "requirements-cpu.txt").read_text()
    assert re.search(r"^ninja==", pinned, re.MULTILINE)
    assert re.search(r"^triton==", pinned, re.MULTILINE)


def test_apt_takes_its_packages():
    """Names that no source has are refused, even where nothing is installed."""
    known = subprocess.run(["apt-cache", "show", "gcc"], capture_output=True)
    if known.returncode:
        pytest.skip("apt has no lists here")
    command = ["apt-get", "install", "--simulate", "--no-install-recommends", *sorted(packages())]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_pip_reads_its_requirements():
    lines = [line for line in (ROOT / "requirements-core.txt").read_text().splitlines() if line.strip()]
    from packaging.requirements import Requirement

    assert len([Requirement(line) for line in lines]) > 100


@pytest.mark.slow
def test_the_command_that_it_installs_answers(tmp_path):
    """`pip install --no-deps .` in a bare folder of the tracked files."""
    bare, prefix = tmp_path / "app", tmp_path / "prefix"
    bare.mkdir()
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    archive = subprocess.run(
        ["tar", "-c", "--null", "-T", "-"], cwd=ROOT, input=tracked, capture_output=True, check=True
    )
    subprocess.run(["tar", "-x"], cwd=bare, input=archive.stdout, check=True)
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    subprocess.run([*install, "--prefix", str(prefix), str(bare)], check=True)
    site = next(prefix.glob("lib/python*/site-packages"))
    environment = {"PYTHONPATH": str(site), "PATH": "/usr/bin:/bin"}
    command = [str(prefix / "bin" / "reflectionflow")]
    for more in (["--help"], ["plan", "--help"]):
        done = subprocess.run([*command, *more], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "usage" in done.stdout.lower() or "commands" in done.stdout.lower()


def test_gpu_pods_have_shared_memory():
    spec = yaml.safe_load((ROOT / "deploy" / "kuberay.yaml").read_text())["spec"]["rayClusterSpec"]
    for group in spec["workerGroupSpecs"]:
        pod = group["template"]["spec"]
        (mount,) = pod["containers"][0]["volumeMounts"]
        volumes = {volume["name"]: volume["emptyDir"] for volume in pod["volumes"]}
        assert mount["mountPath"] == "/dev/shm"
        assert volumes[mount["name"]]["medium"] == "Memory"
