import subprocess
import sys
from pathlib import Path

import pipelines.prompts

MODULES = sorted(path.stem for path in Path(pipelines.prompts.__path__[0]).glob("*.py"))


def test_importing_every_module_loads_nothing_heavy():
    imports = "; ".join(f"import pipelines.prompts.{name}" for name in MODULES if name != "__init__")
    heavy = "{'openai', 'torch', 'transformers', 'ray', 'diffusers', 'pandas'} & set(sys.modules)"
    code = f"import sys; {imports}; print(sorted({heavy}))"
    root = Path(pipelines.prompts.__path__[0]).parents[1]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout.strip() == "[]"
    assert len(MODULES) > 5
