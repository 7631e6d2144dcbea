"""The words that a reader meets: what --help says, and later in this file those that no page uses."""
import re
import sys

import pytest

import chat
import evaluate
import label
import page
import ppo
import reward
import sft
from support.command_line import launch

SCRIPTS = sft, reward, ppo, evaluate, label, chat, page


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.__name__)
def test_help_begins_with_what_the_script_is_and_writes_flags_as_the_docs_do(script, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [f"{script.__name__}.py", "--help"])
    monkeypatch.setenv("COLUMNS", "160")
    with pytest.raises(SystemExit):
        script.main() if script in (chat, page) else launch(script.main, script.Config, script.__name__)
    said = capsys.readouterr().out
    first = script.__doc__.split("\n\n")[0].replace("\n", " ")
    assert first in " ".join(said.split()) and "(default: '')" not in said
    flags = set(re.findall(r"--[a-z][\w-]*", said))
    assert flags >= {f"--{name}" for name in script.Config.__dataclass_fields__} - {"--folders"}
    assert [flag for flag in flags if "-" in flag[2:]] == []
