"""Files that somebody chooses on the page: how large they may be, and what is said otherwise."""

from __future__ import annotations

import base64
import json

import pytest

from workbench.errors import WorkbenchError
from workbench.settings import load_settings
from workbench.ui import files


def handed(*contents: bytes) -> str:
    return json.dumps([{"name": "x", "data": base64.b64encode(c).decode()} for c in contents])


def test_the_limit_is_a_setting_and_named() -> None:
    settings = load_settings(_env_file=None, workbench_max_upload="3MB")
    assert files.most(settings) == 3_000_000
    with pytest.raises(WorkbenchError, match=r"3 MB.*\(WORKBENCH_MAX_UPLOAD\)") as refused:
        files.read("too large", settings, otherwise="Do something else")
    assert refused.value.fix == "Do something else, or raise WORKBENCH_MAX_UPLOAD."


def test_files_as_text_fit_into_a_request() -> None:
    settings = load_settings(_env_file=None, workbench_max_upload="50MB")
    content = bytes(files.most(settings))
    assert len(handed(content)) < settings.workbench_max_body
    with pytest.raises(WorkbenchError, match=r"\(WORKBENCH_MAX_BODY\)"):
        files.read("too large", settings, otherwise="Do something else")
    # The default is within the default of the other.
    settings = load_settings(_env_file=None)
    assert files.most(settings) == settings.workbench_max_upload


def test_what_is_no_file_is_refused() -> None:
    settings = load_settings(_env_file=None)
    (chosen,) = files.read(handed(b"content"), settings, otherwise="x")
    assert (chosen.name, chosen.content) == ("x", b"content")
    for broken in ('[{"name": "x"}]', "[{}]", '[{"name": "x", "data": "%"}]', "3", "nothing"):
        with pytest.raises(WorkbenchError, match="could not be read"):
            files.read(broken, settings, otherwise="x")
