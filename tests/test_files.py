"""What is written where: links, pipes, devices, modes; and who may write into a stage's folder."""
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

import sft
from support import UserError, printable
from support.files import write_whole
from support.lock import data_name, hold, set_aside
from support.preflight import check_run

ROOT = Path(__file__).parent.parent


def test_a_link_stays_a_link_and_what_it_points_to_changes(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "old.json").write_text("old")
    for link, target in (("a", "deep/old.json"), ("b", "a"), ("c", "deep/new.json")):       # to a link, to nothing yet
        (tmp_path / link).symlink_to(target)
        write_whole(tmp_path / link, {"n": link})
        assert (tmp_path / link).is_symlink() and link in (tmp_path / link).read_text()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "b", "c", "deep", "new.json", "old.json"]


def test_devices_and_pipes_are_written_into_and_stay_what_they_are(tmp_path):
    os.mkfifo(tmp_path / "pipe")        # first: who would replace it, would replace /dev/null of the whole machine
    read = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_text()), daemon=True)
    reader.start()
    write_whole(tmp_path / "pipe", {"n": 1})
    reader.join(10)
    assert read == ['{\n  "n": 1\n}\n'] and (tmp_path / "pipe").is_fifo() and len(list(tmp_path.iterdir())) == 1
    write_whole(Path("/dev/null"), "nothing")
    assert Path("/dev/null").is_char_device()
    if Path("/dev/full").exists():
        with pytest.raises(OSError, match="No space left"):
            write_whole(Path("/dev/full"), "text")


@pytest.mark.parametrize("into", ["| cat", "> file; cat file", ">> file; cat file"])
@pytest.mark.parametrize("stream, redirect", [("stdout", ""), ("stderr", "2>&1 >/dev/null ")])
def test_a_standard_stream_keeps_what_was_printed_before_and_after(tmp_path, stream, redirect, into):
    if redirect and "file" in into:                             # the error stream, and nothing else, in a file
        redirect, into = "", "2" + into
    program = ("import sys; from pathlib import Path; from support.files import write_whole; "
               f"print('before', file=sys.{stream}); write_whole(Path('/dev/{stream}'), 'text\\n'); print('after', file=sys.{stream})")
    said = subprocess.run(f"'{sys.executable}' -c \"{program}\" {redirect}{into}", shell=True, cwd=tmp_path, capture_output=True,
                          text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert said.stdout.split() == ["before", "text", "after"], said


@pytest.mark.parametrize("umask, mode", [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_a_new_file_has_the_mode_of_the_umask_and_an_old_one_keeps_its_own(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        write_whole(tmp_path / "weights", lambda path: save_file({"x": torch.ones(2)}, path))
        write_whole(tmp_path / "text", "new")
        assert {(tmp_path / name).stat().st_mode & 0o777 for name in ("weights", "text")} == {mode}
        (tmp_path / "text").chmod(0o640)
        write_whole(tmp_path / "text", "newer")
        assert (tmp_path / "text").stat().st_mode & 0o777 == 0o640
    finally:
        os.umask(before)


@pytest.mark.parametrize("trouble, raised", [(OSError(28, "No space left on device"), OSError), (KeyboardInterrupt(), KeyboardInterrupt)])
def test_a_file_that_breaks_off_leaves_the_old_one_and_nothing_else(tmp_path, trouble, raised):
    write_whole(tmp_path / "file", "old")

    def breaks_off(path):
        path.write_text("ne")
        raise trouble
    with pytest.raises(raised):
        write_whole(tmp_path / "file", breaks_off)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("file", "old")]


def test_two_programs_that_write_one_file_leave_a_whole_one(tmp_path):
    """Each is held up in its middle, until the other has written."""
    def slow(path):
        path.write_text("a" * 99)
        write_whole(tmp_path / "file", "b" * 999)
        path.write_text("a" * 9999)
    write_whole(tmp_path / "file", slow)
    assert (tmp_path / "file").read_text() == "a" * 9999 and len(list(tmp_path.iterdir())) == 1

# ----------------------------------------------------------------------------- a stage's folder


@pytest.mark.parametrize("end", ["kill", "terminate"])
def test_a_second_script_is_kept_out_until_the_first_has_ended_however_that_is(tmp_path, end):
    program = f"from pathlib import Path; from support.lock import hold; hold(Path({str(tmp_path / 'ppo')!r})); print(1, flush=True); input()"
    first = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    first.stdout.readline()
    with pytest.raises(UserError, match="ppo: another script is at work in it"):
        hold(tmp_path / "ppo")
    hold(tmp_path / "sft")                          # another stage is free
    (tmp_path / "ppo").mkdir()
    (tmp_path / "ppo").rename(tmp_path / "ppo.old")     # as the first one does itself
    with pytest.raises(UserError, match="another script"):
        hold(tmp_path / "ppo")
    getattr(first, end)()
    first.wait()
    hold(tmp_path / "ppo")
    hold(tmp_path / "ppo")                          # the same script may come again


def test_a_stage_that_is_a_link_is_set_aside_and_nothing_elsewhere_changes(tmp_path):
    for name in ("elsewhere", "other"):
        write_whole(tmp_path / name / "config.json", "{}")
    (tmp_path / "sft").symlink_to("elsewhere")
    set_aside(tmp_path / "sft")
    assert not (tmp_path / "sft").exists() and (tmp_path / "sft.old").readlink() == Path("elsewhere")
    write_whole(tmp_path / "sft" / "config.json", "{}")
    set_aside(tmp_path / "sft")
    assert not (tmp_path / "sft.old").is_symlink() and (tmp_path / "sft.old" / "config.json").exists()
    (tmp_path / "sft").symlink_to("other")
    set_aside(tmp_path / "sft")
    assert (tmp_path / "sft.old").is_symlink() and (tmp_path / "elsewhere" / "config.json").exists()


def test_snapshots_without_a_save_are_set_aside_and_take_no_saves_place(tmp_path):
    for left, kept in (("resume.pt", "unfinished"), ("snapshots/2/actor/config.json", "unsaved"), ("config.json", "old")):
        write_whole(tmp_path / "ppo" / left, kept)
        write_whole(tmp_path / "logs" / "ppo" / "events", kept)
        set_aside(tmp_path / "ppo")
    for left, kept in (("resume.pt", "unfinished"), ("snapshots/2/actor/config.json", "unsaved"), ("config.json", "old")):
        assert (tmp_path / f"ppo.{kept}" / left).read_text() == (tmp_path / "logs" / f"ppo.{kept}" / "events").read_text() == kept
    (tmp_path / "ppo").mkdir()
    set_aside(tmp_path / "ppo")                     # nothing is in it
    assert (tmp_path / "ppo").exists()


def test_a_link_to_nothing_is_said_before_the_work(tmp_path):
    for name in ("sft", "logs", "run"):
        run = tmp_path / f"{name}_run"
        link = run if name == "run" else run / name
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(tmp_path / "gone")
        with pytest.raises(UserError, match=f"{name}.* is no folder"):
            check_run(SimpleNamespace(run=str(run), data="toy", resume=False), ("sft",))


@pytest.mark.parametrize("name, other", [("a/rows.jsonl", "b/rows.jsonl"), ("rows.jsonl", "a/rows.jsonl"), ("hub:a/rows", "rows.jsonl")])
def test_two_data_sets_of_one_name_share_no_run_in_silence(tmp_path, monkeypatch, run_stage, name, other):
    monkeypatch.chdir(tmp_path)
    for path in ("a/rows.jsonl", "b/rows.jsonl", "rows.jsonl"):
        write_whole(tmp_path / path, "{}\n")
    cfg = sft.Config(data=name)
    write_whole(tmp_path / "out" / "rows" / "data.txt", data_name(cfg) + "\n")
    check_run(cfg, ("sft",))
    check_run(sft.Config(data=other, run="out/rows"), ("sft",))         # whoever names the folder knows
    with pytest.raises(UserError, match=f"out/rows is a run on --data {name}, not on {other}: give another folder, --run"):
        check_run(sft.Config(data=other), ("sft",))


def test_what_is_held_out_makes_no_other_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_whole(tmp_path / "out" / "toy" / "data.txt", data_name(sft.Config(data="toy:validation")) + "\n")
    check_run(sft.Config(data="toy"), ("sft",))
    check_run(sft.Config(data="toy:validation"), ("sft",))


def test_a_finished_stage_keeps_the_name_of_its_data(tmp_path, run_stage):
    run_stage(sft, run="", pretrain_steps=1, steps=1)
    assert (tmp_path / "out" / "rows" / "data.txt").read_text() == "rows.jsonl\n"


@pytest.mark.parametrize("text, shown", [
    ("\x1b[2Ja", "\\x1b[2Ja"), ("a\rb\x07", "a\\rb\\x07"), ("\u202eabc", "\\u202eabc"), ("\x9b2J", "\\x9b2J"), ("\u2028", "\\u2028"),
    ("\ud83d", "\\ud83d"), ("deux\xa0mots\u3000\u200d\u200c 👩\u200d🔬", "deux\xa0mots\u3000\u200d\u200c 👩\u200d🔬"), ("a\n\tb", "a\n\tb")])
def test_what_moves_a_terminal_is_spelled_out_and_letters_of_all_languages_stay(text, shown):
    assert printable(text, kept="\n\t") == shown
