import os
import subprocess
import sys

import pytest

SAY = "import os, sys, {package}; assert 'torch' not in sys.modules; print(os.environ.get('GOMP_SPINCOUNT'))"


def said(package: str, **environment: str) -> str:
    without = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    command = [sys.executable, "-c", SAY.format(package=package)]
    done = subprocess.run(command, env=without | environment, capture_output=True, text=True, check=True, timeout=200)
    return done.stdout.strip()


@pytest.mark.parametrize("package", ["inference", "trainers", "pipelines"])
def test_threads_are_told_to_make_way_before_torch_is_there(package: str):
    assert said(package) == "1000"


def test_what_the_user_has_set_stays():
    assert said("inference", GOMP_SPINCOUNT="7") == "7"
    assert said("inference", OMP_WAIT_POLICY="active") == "None"
