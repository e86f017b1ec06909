"""The wheel: every package inside `reflectionflow`, whole, without tests; its command works in any folder."""

import ast
import importlib.util
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import reflectionflow
from tests.support.import_rules import imported, read_sources, tops

ROOT = Path(__file__).parents[1]
SOURCES = read_sources(ROOT)
spec = importlib.util.spec_from_file_location("the_setup", ROOT / "setup.py")
assert spec is not None
assert spec.loader is not None
setup = importlib.util.module_from_spec(spec)
spec.loader.exec_module(setup)


def test_both_lists_of_packages_are_those_that_there_are():
    assert set(setup.PACKAGES) == set(reflectionflow.PACKAGES) == {path.partition("/")[0] for path in SOURCES}


def test_what_is_moved_imports_nothing_from_the_top():
    for path, source in SOURCES.items():
        moved = setup.moved(source)
        assert not tops(imported(moved)) & set(setup.PACKAGES), path
        assert len(moved.splitlines()) == len(source.splitlines()), path
        assert not re.search(r"python -m (inference|trainers|pipelines|commands) ", moved), path
    some = setup.moved("import recipes\nfrom a import schemas\n\n\ndef f():\n    from schemas.images import x\n")
    assert some.splitlines()[:2] == ["from reflectionflow import recipes", "from a import schemas"]
    assert "    from reflectionflow.schemas.images import x" in some
    with pytest.raises(ValueError, match=r"import schemas\.images"):
        setup.moved("import schemas.images\n")


def test_modules_are_named_in_texts_only_where_their_full_name_is_asked_for():
    modules = {path.removesuffix(".py").replace("/", ".") for path in SOURCES if not path.endswith("__init__.py")}
    for path, source in SOURCES.items():
        texts = {node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant)}
        if modules & texts or "import_module(f" in source:
            assert "full_name(" in source, path


def test_a_module_has_one_name_in_a_checkout():
    import reflectionflow.schemas.errors as theirs  # pyright: ignore[reportMissingImports]
    from schemas import errors as ours

    assert theirs is ours
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("reflectionflow.nothing")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built of the tracked files in a bare folder."""
    bare, out = tmp_path_factory.mktemp("bare"), tmp_path_factory.mktemp("wheel")
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    archive = ["tar", "-c", "--null", "-T", "-"]
    packed = subprocess.run(archive, cwd=ROOT, input=tracked, capture_output=True, check=True)
    subprocess.run(["tar", "-x"], cwd=bare, input=packed.stdout, check=True)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    subprocess.run([*build, "--wheel-dir", str(out), str(bare)], check=True)
    return next(out.glob("*.whl"))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_wheel_holds_the_packages_whole_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    inside = {name.removeprefix("reflectionflow/") for name in names if name.startswith("reflectionflow/")}
    assert {name.partition("/")[0] for name in names} == {
        "reflectionflow",
        f"reflectionflow-{reflectionflow.__version__}.dist-info",
    }
    listed = subprocess.run(["git", "ls-files", *setup.PACKAGES], cwd=ROOT, capture_output=True, text=True, check=True)
    assert inside == {*listed.stdout.splitlines(), "__init__.py", "__main__.py"}
    assert wheel.stat().st_size < 60 * 2**20


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_its_command_works_in_a_folder_where_its_names_are_taken(wheel, tmp_path):
    prefix, here = tmp_path / "prefix", tmp_path / "here"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--prefix", str(prefix)]
    subprocess.run([*install, str(wheel)], check=True)
    site = next(prefix.glob("lib/python*/site-packages"))
    for package in setup.PACKAGES:
        (here / package).mkdir(parents=True)
        (here / package / "__init__.py").write_text("raise SystemExit('this is another package')\n")
    environment = {**os.environ, "PYTHONPATH": f"{here}:{site}", "PATH": "/usr/bin:/bin", "COLUMNS": "100"}

    def command(*words: str) -> str:
        started = [str(prefix / "bin" / "reflectionflow"), *words]
        done = subprocess.run(started, cwd=here, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert command("--version") == f"reflectionflow {reflectionflow.__version__}\n"
    assert "  reflectionflow run --run runs/mine --num-prompts 200" in command("run", "--help")
    assert "python -m" not in command("--help") + command("search", "--help")
    assert "shipped" in command("run", "--run", "runs/first", "--num-prompts", "2")
    assert f'"version {reflectionflow.__version__}"' in (here / "runs" / "first" / "run.json").read_text()
    command("verify", "--run", "runs/first", "--deep")
    command("generate", "a photo of two red circles", "--num-images", "1")


@pytest.mark.parametrize(
    ("words", "completed"),
    [(["se"], "search"), (["run", "--num-p"], "--num-prompts"), (["run", "--preset", "flux-"], "flux-24gb")],
)
def test_a_shell_completes_commands_flags_and_presets(words, completed, capsys):
    from commands.main import main

    assert main(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    typed = f"COMP_WORDS=(reflectionflow {' '.join(words)}); COMP_CWORD={len(words)}"
    asked = f"{typed}; _reflectionflow; echo ${{COMPREPLY[@]}}"
    done = subprocess.run(["bash", "-c", f"{script}\n{asked}"], capture_output=True, text=True, check=True)
    assert completed in done.stdout.split()
    assert main(["completion", "fish"]) == 0
    assert "-l num-prompts" in capsys.readouterr().out
