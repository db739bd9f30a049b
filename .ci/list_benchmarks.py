"""Lists the scripts of benchmarks/, each with the question it answers."""

from __future__ import annotations

import ast
from pathlib import Path

root = Path(__file__).resolve().parent.parent
scripts = sorted((root / "benchmarks").glob("*.py"))
for script in scripts:
    question = ast.get_docstring(ast.parse(script.read_text(encoding="utf-8"))) or "(says nothing)"
    print(f".venv/bin/python {script.relative_to(root)}\n    {question.splitlines()[0]}")
if not scripts:
    print("benchmarks/ holds no script yet")
