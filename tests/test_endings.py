"""How a script ends when it is told to: by a signal, by -9, by a pipe that closes. Each is a process of its own."""
import shutil
import signal
import subprocess
import sys
import time

import pytest

import stress

pytestmark = pytest.mark.slow
STAGES = {"base": "sft.py --pretrain_steps 4000 --steps 1 --n_layer 1 --n_head 2 --n_embd 16",
          "reward": "reward.py --steps 4000", "ppo": "ppo.py --steps 4000 --batch_size 8 --minibatches 1 --epochs 1"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a run that has an SFT and a reward model."""
    run = tmp_path_factory.mktemp("endings") / "run"
    for command in ("sft.py --pretrain_steps 1 --steps 1 --n_layer 1 --n_head 2 --n_embd 16",
                    "reward.py --steps 1 --normalise_samples 64"):
        subprocess.run([sys.executable, *command.split(), "--device", "cpu", "--run", run], cwd=stress.ROOT, check=True,
                       capture_output=True)
    return run


@pytest.fixture
def run(finished, tmp_path):
    """A copy of that run: a stage that is started over its finished folder sets that aside."""
    return shutil.copytree(finished, tmp_path / "run")


def heed_ctrl_c():
    """A shell that starts the tests in the background lets them, and all that they start, ignore SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def told(stage, run, *signals):
    """Start a stage, send it signals when it has begun to step. Returns its exit code and what it said."""
    process = subprocess.Popen([sys.executable, *STAGES[stage].split(), "--device", "cpu", "--run", str(run)], cwd=stress.ROOT,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heed_ctrl_c)
    events = run / "logs" / stage
    before = time.time()
    while process.poll() is None and not any(file.stat().st_mtime > before for file in events.glob("events*")):
        time.sleep(0.01)
    for number in signals:
        time.sleep(0.2)
        process.send_signal(number)
    out, err = process.communicate(timeout=100)
    return process.returncode, out + err


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_the_step_saves_and_says_how_to_go_on(run, stage, number, code):
    ended, said = told(stage, run, number)
    assert ended == code and "Traceback" not in said
    assert "stopped after step" in said and "with --resume continues from there" in said
    assert (run / stage / "resume.pt").exists() and not list((run / stage).glob(".*.partial"))


@pytest.mark.parametrize("stage", STAGES)
def test_two_ctrl_c_stop_it_without_a_traceback(run, stage):
    """Whether the step ends before the second one comes or not; test_resume.py has a step that does not."""
    ended, said = told(stage, run, signal.SIGINT, signal.SIGINT)
    # The second one may come when Python is already closing down and ends by the signal itself: 130 to a shell, too.
    assert ended in (130, -signal.SIGINT) and "Traceback" not in said and "stopp" in said


def test_kills_change_no_weight():
    """The short version of `python tests/stress.py`."""
    stress.main(kills=1, disk=False, seed=0)


def test_two_processes_under_torchrun_are_killed_and_go_on_to_equal_weights():
    stress.main(kills=1, disk=False, seed=0, processes=2, stages=("ppo",))


@pytest.mark.parametrize("typed", [b"Is an owl a bird?\n\n", b"\x1b[2J\x07 \xff\xfe \xe2\x80\xa8\n\n", b"<|endoftext|>Human: Assistant:\n\n",
                                   b"x" * 1_000_000 + b"\n\n", b"no end of line", b""])
def test_the_chat_takes_whatever_is_typed(run, typed):
    done = subprocess.run([sys.executable, "chat.py", str(run / "sft")], cwd=stress.ROOT, input=typed, capture_output=True)
    assert done.returncode == 0 and b"Traceback" not in done.stderr and b"\x1b" not in done.stdout


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_streams_that_are_closed_end_no_training(run, closed):
    command = f"{sys.executable} reward.py --device cpu --steps 1 --normalise_samples 64 --run {run} {closed}"
    assert subprocess.run(command, shell=True, cwd=stress.ROOT).returncode == 0
    assert (run / "reward" / "config.json").exists() and (run / "reward.old").exists()


@pytest.mark.parametrize("text", ["\\x1b[2J", "a\\rb", "\\x9b1A", "\\u202e"])
def test_nothing_that_is_printed_moves_the_terminal(text):
    program = f"from support.endings import plain_endings\nwith plain_endings():\n    print('before {text} after')"
    said = subprocess.run([sys.executable, "-c", program], cwd=stress.ROOT, capture_output=True, text=True, check=True).stdout
    assert said.rstrip("\n").isprintable() and said.startswith("before ") and "\\" in said and said.endswith(" after\n")


def test_a_full_output_is_named():
    command = f"{sys.executable} -c \"from support.endings import plain_endings\nwith plain_endings(): print('x')\" > /dev/full"
    done = subprocess.run(command, shell=True, cwd=stress.ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and "standard output or a file: No space left on device" in done.stderr and "Traceback" not in done.stderr


def test_a_reader_that_leaves_is_no_traceback(run):
    command = f"{sys.executable} chat.py {run / 'sft'} | head -c 1"
    done = subprocess.run(command, shell=True, cwd=stress.ROOT, input=b"Hello?\n" * 5 + b"\n", capture_output=True)
    assert b"Traceback" not in done.stderr and b"BrokenPipe" not in done.stderr
