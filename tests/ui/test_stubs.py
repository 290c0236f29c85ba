"""What gradio does for editors at its import is left out, and nothing else."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import sys

opened = set()
sys.addaudithook(lambda event, given: opened.add(str(given[0])) if event == "open" else None)
from workbench.ui import stubs

stubs.leave_out()
import gradio

with gradio.Blocks():
    gradio.Textbox().change(print, api_name="told")
assert any("textbox" in path for path in opened)
assert not [path for path in opened if path.endswith(".pyi")]
finders = len(sys.meta_path)
stubs.leave_out()
assert len(sys.meta_path) == finders, "there is nothing left to leave out"
"""


def test_gradio_is_imported_without_a_look_at_its_stubs() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
