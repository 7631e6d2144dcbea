"""Bad input is answered with one plain sentence: what is wrong, where, and what to do. Nothing is overwritten.

    pytest tests/test_bad_input.py -s -k table          prints all the sentences, to be read in one go
"""
import dataclasses
import gzip
import json
import os
import pickle
import shutil
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

import data
import evaluate
import ppo
import reward
import sft
import tiny
import label
from chat import main as talk
from support.command_line import launch

HUMAN, ASSISTANT = "\n\nHuman: Hi?", "\n\nAssistant:"
PAIR = {"prompt": HUMAN + ASSISTANT, "chosen": " Hello.", "rejected": " Go."}

# ----------------------------------------------------------------------------- ways to spoil a folder

def rows(*lines, name="bad.jsonl"):
    """A file of rows: dicts, or lines as they are."""
    def spoil(world):
        text = "".join((json.dumps(line) if isinstance(line, dict) else line) + "\n" for line in lines)
        (world / name).write_text(text, encoding="utf-8")
    return spoil


def raw(content, name="bad.jsonl"):
    return lambda world: (world / name).write_bytes(content)


def folder(name):
    return lambda world: (world / name).mkdir(parents=True)


def config(stage, **changes):
    def spoil(world):
        file = world / "run" / stage / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    return spoil


def removed(name):
    return lambda world: (world / "run" / name).unlink()


def tensors(stage, change):
    def spoil(world):
        file = world / "run" / stage / "model.safetensors"
        weights = load_file(file)
        change(weights)
        save_file(weights, file)
    return spoil


def nan(weights):
    weights["transformer.h.0.ln_1.weight"][0] = float("nan")


def cut(name, keep):
    """A file of which only the first bytes are left."""
    return lambda world: (world / "run" / name).write_bytes((world / "run" / name).read_bytes()[:keep])


def vocabulary(change):
    """The SFT model's vocabulary, its lines changed."""
    def spoil(world):
        file = world / "run" / "sft" / "tokenizer.tiktoken"
        file.write_text("\n".join(change(file.read_text().splitlines())))
    return spoil


class Malice:
    """Unpickled, it leaves a file behind."""

    def __reduce__(self):
        return os.mkdir, ("executed",)


def pickled(name):
    return lambda world: (world / "run" / name).write_bytes(pickle.dumps(Malice()))


def both(*spoils):
    return lambda world: [spoil(world) for spoil in spoils]

# ----------------------------------------------------------------------------- the table

ROWS = "--data rows.jsonl --run run --device cpu"
ON_BAD = "--data bad.jsonl"
# (script, flags, what is spoilt before, what the sentence says)
TABLE = [
    # flags
    (sft, "--steps -1", None, ["--steps -1", "at least 0"]),
    (sft, "--pretrain_steps -1", None, ["--pretrain_steps -1", "at least 0"]),
    (sft, "--batch_size 0", None, ["--batch_size 0", "at least 1"]),
    (sft, "--lr nan", None, ["--lr nan", "at least"]),
    (sft, "--lr inf", None, ["--lr inf", "at least"]),
    (sft, "--lr -1", None, ["--lr -1", "at least 0"]),
    (sft, "--pretrain_lr -inf", None, ["--pretrain_lr -inf", "at least"]),
    (sft, "--n_head 0", None, ["--n_head 0", "at least 1"]),
    (sft, "--n_head 5 --n_embd 16", None, ["16 channels", "5 heads"]),
    (sft, "--block_size 1", None, ["--block_size 1", "at least 2"]),
    (sft, "--seed -1", None, ["--seed -1", "at least 0"]),
    (sft, "--seed 18446744073709551616", None, ["--seed 18446744073709551616", "at most"]),
    (sft, "--train none", None, ["--train none", "all, last:N", "lora:R"]),
    (sft, "--train last:9", None, ["--train last:9", "4 blocks"]),
    (sft, "--train lora:0", None, ["--train lora:0", "lora:R"]),
    (sft, "--device warp", None, ["--device warp", "can't use it"]),
    (sft, "--device meta", None, ["--device meta", "can't use it"]),
    (sft, "--device cuda:99", None, ["--device cuda:99", "can't use it"]),
    (sft, "--precision fp8", None, ["--precision fp8", "fp32 or bf16"]),
    (sft, "--preset gpt5", None, ["--preset gpt5", "gpt2-medium"]),
    (sft, "--init nowhere", None, ["nowhere", "no model here"]),
    (sft, "--resume --run elsewhere", None, ["--resume", "start without --resume"]),
    (reward, "--steps -3", None, ["--steps -3", "at least 0"]),
    (reward, "--normalise_samples 1", None, ["--normalise_samples 1", "at least 2"]),
    (reward, "--max_new_tokens 64", None, ["--max_new_tokens 64", "64 positions"]),
    (reward, "--micro_batch_size -1", None, ["--micro_batch_size -1", "at least 0"]),
    (ppo, "--epochs 0", None, ["--epochs 0", "at least 1"]),
    (ppo, "--minibatches 0", None, ["--minibatches 0", "at least 1"]),
    (ppo, "--minibatches 9 --batch_size 8", None, ["--minibatches 9", "at most"]),
    (ppo, "--max_new_tokens 0", None, ["--max_new_tokens 0", "at least 1"]),
    (ppo, "--sample_every 0", None, ["--sample_every 0", "at least 1"]),
    (ppo, "--temperature 0", None, ["--temperature 0", "above 0"]),
    (ppo, "--temperature nan", None, ["--temperature nan", "above 0"]),
    (ppo, "--gamma 1.01", None, ["--gamma 1.01", "at most 1"]),
    (ppo, "--gamma -0.1", None, ["--gamma -0.1", "at least 0"]),
    (ppo, "--lam 1.5", None, ["--lam 1.5", "at most 1"]),
    (ppo, "--lam nan", None, ["--lam nan", "at least"]),
    (ppo, "--kl_coef -0.05", None, ["--kl_coef -0.05", "at least 0"]),
    (ppo, "--kl_target -1", None, ["--kl_target -1", "at least 0"]),
    (ppo, "--kl_target 1 --kl_coef 0", None, ["--kl_target 1.0 with --kl_coef 0", "would stay 0"]),
    (ppo, "--kl_horizon 0", None, ["--kl_horizon 0", "above 0"]),
    (ppo, "--clip -0.1", None, ["--clip -0.1", "above 0"]),
    (ppo, "--value_clip 0", None, ["--value_clip 0", "above 0"]),
    (ppo, "--critic_lr inf", None, ["--critic_lr inf", "at least"]),
    (ppo, "--missing_eos_score nan", None, ["--missing_eos_score nan", "at least"]),
    (ppo, "--reward_model nowhere", None, ["nowhere", "no model here"]),
    (evaluate, "--samples 0", None, ["--samples 0", "at least 1"]),
    (evaluate, "--prompts 0", None, ["--prompts 0", "at least 1"]),
    (evaluate, "--temperature -1", None, ["--temperature -1", "above 0"]),
    (evaluate, "--batch_size 0", None, ["--batch_size 0", "at least 1"]),
    (evaluate, "--compare", None, ["--compare", "the toy", "leave it out"]),
    (evaluate, "--json run", None, ["--json run", "a folder"]),
    (evaluate, "--json rows.jsonl/numbers.json", None, ["rows.jsonl is no folder"]),

    # files of rows
    (sft, "--data gone.jsonl", None, ["gone.jsonl", "no such file", "toy, toy2, hh, tldr"]),
    (sft, "--data hh:nothing", None, ['"nothing"', "helpful-base"]),
    (sft, "--data some", folder("some"), ["--data some", "a folder", ".jsonl"]),
    (sft, "--data /proc/self/mem", None, ["/proc/self/mem", "cannot be read"]),
    (sft, ON_BAD, raw(b""), ["bad.jsonl", "no usable row"]),
    (sft, ON_BAD, raw(b"\n \n\t\n"), ["bad.jsonl", "no usable row"]),
    (sft, ON_BAD, rows({"prompt": ""}, {"prompt": " \n"}), ["bad.jsonl", "no usable row"]),
    (sft, ON_BAD, rows(PAIR, '{"prompt": '), ["bad.jsonl, line 2", "not JSON"]),
    (sft, ON_BAD, rows(PAIR, "prompt,chosen,rejected"), ["bad.jsonl, line 2", "not JSON"]),
    (sft, ON_BAD, rows('[{"prompt": "p"}]'), ["bad.jsonl, line 1", "must be an object"]),
    (sft, ON_BAD, rows('"text"'), ["bad.jsonl, line 1", "must be an object"]),
    (sft, ON_BAD, rows("[" * 100_000 + "]" * 100_000), ["bad.jsonl, line 1", "recursion"]),
    (sft, ON_BAD, rows('{"text": ' + "9" * 5000 + "}"), ["bad.jsonl, line 1", "4300 digits"]),
    (sft, ON_BAD, rows("x" * 50_000_000), ["bad.jsonl, line 1", "not JSON"]),
    (sft, ON_BAD, raw("{\"text\": \"Grüße\"}\n".encode("latin-1")), ["bad.jsonl", "UTF-8"]),
    (sft, ON_BAD, raw(b"\x00\x01\x02\x80"), ["bad.jsonl", "UTF-8"]),
    (sft, ON_BAD, raw("{}\n".encode("utf-16")), ["bad.jsonl", "UTF-8"]),
    (sft, ON_BAD, rows('{"text": "half a smile \\ud83d"}'), ["bad.jsonl, line 1", "half of a character"]),
    (sft, ON_BAD, rows(PAIR, {"prompt": 3}), ["bad.jsonl, line 2", '"prompt" must be a string']),
    (sft, ON_BAD, rows({"text": None}), ["bad.jsonl, line 1", '"text" is missing']),
    (sft, ON_BAD, rows({"text": ["a"]}), ["bad.jsonl, line 1", '"text" must be a string']),
    (sft, ON_BAD, rows({"title": "q"}), ["bad.jsonl, line 1", '"text" is missing', "title"]),
    (sft, ON_BAD, rows({"prompt": "p", "completion": 1}), ["bad.jsonl, line 1", '"completion" must be a string']),
    (sft, ON_BAD, rows({"completion": " c"}), ["bad.jsonl, line 1", '"prompt" is missing']),
    (reward, ON_BAD, rows({"prompt": "p", "chosen": " c"}), ["bad.jsonl, line 1", '"rejected" is missing']),
    (reward, ON_BAD, rows({"prompt": "p", "completions": "ab"}), ["bad.jsonl, line 1", "a list of strings"]),
    (reward, ON_BAD, rows({"prompt": "p", "completions": ["a", 2]}), ["bad.jsonl, line 1", "a list of strings"]),
    (reward, ON_BAD, rows({"prompt": "p", "completions": ["a"]}), ["bad.jsonl", "no usable row"]),
    (reward, ON_BAD, rows({"chosen": "a", "rejected": HUMAN + ASSISTANT}), ["bad.jsonl, line 1", '"chosen" has no turn']),
    (reward, ON_BAD, rows({"prompt": "p", "completion": " c"}, {"prompt": "q", "completion": " c"}),
     ["has no comparisons", "docs/data.md"]),
    (sft, ON_BAD, rows({"prompt": "p"}, {"prompt": "q"}), ["has no demonstrations", "docs/data.md"]),
    (ppo, ON_BAD, rows({"text": "page"}, {"text": "other"}), ["has no prompts", "docs/data.md"]),
    (evaluate, ON_BAD, rows({"text": "page"}, {"text": "other"}), ["has no prompts", "docs/data.md"]),
    (ppo, ON_BAD, rows({"prompt": "", "completion": " a"}, {"prompt": " ", "completion": " b"}), ["all prompts are blank"]),
    (sft, ON_BAD, rows(PAIR), ["bad.jsonl", "1 different prompt;", "at least one each"]),
    (sft, f"{ON_BAD} --block_size 4", rows(PAIR, {**PAIR, "prompt": "other", "chosen": " x" * 9}), ["fits into 4 tokens"]),
    (sft, "--data bad.jsonl.gz", raw(b"no gzip", "bad.jsonl.gz"), ["bad.jsonl.gz", "cannot be read"]),
    (sft, "--data bad.jsonl.gz", raw(gzip.compress(json.dumps(PAIR).encode())[:-9], "bad.jsonl.gz"),
     ["bad.jsonl.gz", "cannot be read"]),
    (sft, "--data bad.jsonl.gz", raw(b"", "bad.jsonl.gz"), ["bad.jsonl.gz", "no usable row"]),

    # what stages leave to each other
    (reward, "--run elsewhere", None, ["no sft model in elsewhere/sft", "python sft.py"]),
    (ppo, "--run elsewhere", None, ["no sft model in elsewhere/sft", "python sft.py"]),
    (ppo, "", removed("reward/config.json"), ["no reward model in run/reward", "python reward.py"]),
    (evaluate, "", removed("ppo/config.json"), ["no ppo model in run/ppo", "python ppo.py"]),
    (ppo, "--reward_model run/sft", None, ["run/sft", "score.weight", "no reward model"]),
    (sft, "--run rows.jsonl", None, ["rows.jsonl is no folder", "--run"]),
    (sft, "--run rows.jsonl/deeper", None, ["rows.jsonl is no folder"]),
    (sft, "--run here", both(folder("here"), raw(b"", "here/sft")), ["here/sft is no folder"]),
    (ppo, "--run /proc/nowhere", None, ["/proc/nowhere"]),

    # config.json
    (reward, "", raw(b"", "run/sft/config.json"), ["run/sft/config.json", "not JSON"]),
    (reward, "", raw(b"\xff{}", "run/sft/config.json"), ["run/sft/config.json", "UTF-8"]),
    (reward, "", raw(b"[1]", "run/sft/config.json"), ["run/sft/config.json", "must be an object"]),
    (reward, "", raw(b'{"a":' * 100_000, "run/sft/config.json"), ["run/sft/config.json", "recursion"]),
    (reward, "", both(removed("sft/config.json"), folder("run/sft/config.json")), ["run/sft/config.json", "directory"]),
    (reward, "", config("sft", n_layer="two"), ["run/sft/config.json", 'n_layer is "two"', "whole number"]),
    (reward, "", config("sft", n_layer=1.5), ["n_layer is 1.5", "whole number"]),
    (reward, "", config("sft", n_head=0), ["n_head is 0", "whole number"]),
    (reward, "", config("sft", n_embd=-8), ["n_embd is -8", "whole number"]),
    (reward, "", config("sft", n_embd=[8]), ["n_embd is [8]", "whole number"]),
    (reward, "", config("sft", vocab_size=None), ["vocab_size is null", "whole number"]),
    (reward, "", config("sft", n_embd=10 ** 9), ["run/sft/config.json", "n_embd is 1000000000", "to 10,000,000"]),
    (reward, "", config("sft", n_layer=10 ** 12), ["n_layer is 1000000000000", "to 10,000,000"]),
    (reward, "", config("sft", vocab_size=10 ** 40), ["vocab_size is 1000", "to 10,000,000"]),
    (reward, "", config("sft", n_embd=100_000, n_positions=1_000_000), ["has shape", ", 100000)"]),
    (reward, "", config("sft", n_positions=True), ["n_positions is true", "whole number"]),
    (reward, "", config("sft", n_head=3), ["8 channels", "3 heads"]),
    (reward, "", config("sft", eos_token_id="end"), ['eos_token_id is "end"']),
    (reward, "", config("sft", eos_token_id=7), ["does not go with the tokenizer", "token 7"]),
    (reward, "", config("sft", model_type="llama"), ['model_type is "llama"', "gpt2"]),
    (reward, "", config("sft", activation_function=["relu"]), ["activation_function", "gelu_new"]),
    (ppo, "", config("reward", reward_std=0), ["reward_std 0", "reward.py again"]),
    (ppo, "", config("reward", reward_mean=-10 ** 4000), ["reward_mean is -1000", "reward.py again"]),
    (ppo, "", config("reward", reward_std=10 ** 4000), ["reward_std 1000", "reward.py again"]),
    (sft, "--seed 1" + "0" * 4000, None, ["--seed 1000", "at most"]),
    (ppo, "", config("reward", reward_mean=float("nan")), ["reward_mean is NaN", "reward.py again"]),

    # weights and vocabularies
    (reward, "", removed("sft/model.safetensors"), ["run/sft", "no model.safetensors"]),
    (reward, "", cut("sft/model.safetensors", 0), ["run/sft/model.safetensors", "cannot be read"]),
    (reward, "", cut("sft/model.safetensors", 1000), ["run/sft/model.safetensors", "cannot be read"]),
    (reward, "", pickled("sft/model.safetensors"), ["run/sft/model.safetensors", "cannot be read"]),
    (reward, "", both(removed("sft/model.safetensors"), pickled("sft/pytorch_model.bin")),
     ["run/sft", "no model.safetensors", "pytorch_model.bin"]),
    (reward, "", both(removed("sft/model.safetensors"), raw(b'{"weight_map": 5}', "run/sft/model.safetensors.index.json")),
     ["run/sft/model.safetensors.index.json", "weight_map"]),
    (reward, "", tensors("sft", nan), ["run/sft", "ln_1.weight", "NaN"]),
    (reward, "", tensors("sft", lambda w: w.pop("transformer.ln_f.bias")), ["transformer.ln_f.bias is missing"]),
    (reward, "", tensors("sft", lambda w: w.update(more=torch.ones(2))), ["run/sft", "more", "no part of GPT-2"]),
    (reward, "", config("sft", n_embd=16), ["has shape", "config.json asks for"]),
    (reward, "", both(removed("sft/tokenizer.tiktoken"), removed("sft/tokenizer.json")),
     ["run/sft/tokenizer.tiktoken is missing"]),
    (reward, "", both(removed("sft/tokenizer.tiktoken"), raw(b'{"model": 5}', "run/sft/tokenizer.json")),
     ["run/sft/tokenizer.json", "not a vocabulary"]),
    (reward, "", both(removed("sft/tokenizer.tiktoken"), raw(b'{"model": {"vocab": {"a": 0}}}', "run/sft/tokenizer.json")),
     ["run/sft/tokenizer.json is damaged", "missing"]),
    (reward, "", vocabulary(lambda lines: []), ["tokenizer.tiktoken is damaged"]),
    (reward, "", vocabulary(lambda lines: lines[1:]), ["tokenizer.tiktoken is damaged", "missing"]),
    (reward, "", vocabulary(lambda lines: lines + lines[-1:]), ["tokenizer.tiktoken is damaged", "twice"]),
    (reward, "", vocabulary(lambda lines: lines + ["", "?"]), ["tokenizer.tiktoken is damaged"]),
    (reward, "", vocabulary(lambda lines: lines + ["!!!! 300"]), ["tokenizer.tiktoken is damaged"]),
    (reward, "", vocabulary(lambda lines: lines[:-1]), ["run/sft", "is not that of its model"]),
    (reward, "", raw(b"\xff\xfe", "run/sft/tokenizer.tiktoken"), ["tokenizer.tiktoken", "UTF-8"]),

    # what a run goes on from
    (ppo, "--resume", None, ["--resume: run/ppo is finished", "start without --resume"]),
    (reward, "--resume", removed("reward/config.json"), ["--resume: run/reward has no resume.pt"]),
    (ppo, "--resume", raw(b"PK", "run/ppo/resume.pt"), ["run/ppo/resume.pt is damaged", "without --resume"]),
    (ppo, "--resume", pickled("ppo/resume.pt"), ["run/ppo/resume.pt is damaged", "without --resume"]),
    (ppo, "--save_every -1", None, ["--save_every -1", "at least 0"]),

    # the chat
    ("chat", "", None, ["give the folder of a model"]),
    ("chat", "nowhere", None, ["nowhere", "no model here"]),
    ("chat", "rows.jsonl", None, ["rows.jsonl", "no model here"]),
    ("chat", "run/reward", None, ["run/reward", "score.weight"]),
    ("chat", "run/sft", cut("sft/model.safetensors", 99), ["run/sft/model.safetensors", "cannot be read"]),
    ("chat", "run/sft nowhere", None, ["nowhere", "no model here"]),
    ("chat", "run/sft", cut("reward/model.safetensors", 99), ["run/reward/model.safetensors", "cannot be read"]),
    ("chat", "run/sft --temperature 0", None, ["--temperature 0", "above 0"]),
    ("chat", "run/sft --temperature nan", None, ["--temperature nan", "above 0"]),
    ("chat", "run/sft --turns -1", None, ["--turns -1", "at least 0"]),

    # the human
    (label, "--file bad.jsonl", rows("my diary"), ["bad.jsonl, line 1: not JSON"]),
    (label, "--file bad.jsonl", rows({"prompt": "p", "completions": ["a", "b"]}, {"prompt": "p"}), ["bad.jsonl, line 2: no label", "another --file"]),
    (label, "--file bad.jsonl", folder("bad.jsonl"), ["bad.jsonl"]),
    (label, "--answers 1", None, ["--answers 1", "at least 2"]),
    (label, "--answers 5", None, ["--answers 5", "at most 4"]),
    (label, "--file mine.txt", None, ["--file mine.txt", "must end with .jsonl"]),
    (label, "--run empty", None, ["no sft model in empty/sft", "python sft.py"]),
]

# (script, what its training raises, what the sentence says)
FAILURES = [
    (sft, torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore"), ["2.00 GiB", "--micro_batch_size"]),
    (ppo, RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes"), ["--micro_batch_size"]),
    (reward, MemoryError(), ["out of memory", "--batch_size"]),
    (ppo, OSError(28, "No space left on device", "run/ppo/resume.pt"), ["run/ppo/resume.pt", "No space left on device"]),
    (reward, PermissionError(13, "Permission denied", "run/reward"), ["run/reward", "Permission denied"]),
]

# ----------------------------------------------------------------------------- the tests


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder with rows and a run of all stages, as small as they can be."""
    world = tmp_path_factory.mktemp("finished")
    tiny.write_rows(world / "rows.jsonl")
    flags = {sft: "--n_layer 1 --n_head 2 --n_embd 8 --block_size 64 --pretrain_steps 1",
             reward: "--normalise_samples 64 --max_new_tokens 24", ppo: "--max_new_tokens 4"}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(world)
        patch.setattr(data, "tokenizer_for", lambda name: tiny.words())
        for script in (sft, reward, ppo):
            patch.setattr(sys, "argv", f"{script.__name__}.py {ROWS} --steps 1 {flags[script]}".split())
            launch(script.main, script.Config, script.__name__)
    return world


@pytest.fixture
def world(finished, tmp_path, monkeypatch):
    """A copy of it to spoil; the tests run in it."""
    shutil.copytree(finished, tmp_path / "world")
    monkeypatch.chdir(tmp_path / "world")
    monkeypatch.setattr(data, "tokenizer_for", lambda name: tiny.words())
    return tmp_path / "world"


def name_of(script):
    return "gpt" if script == "chat" else script.__name__.removeprefix("data.")


def ended(monkeypatch, capsys, script, flags):
    """Run a command line in this process; (exit code, the last thing it said)."""
    name, more = name_of(script), [] if script == "chat" else ROWS.split()
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *more, *flags.split()])
    with pytest.raises(SystemExit) as end:
        talk() if script == "chat" else launch(script.main, script.Config, name)
    said = capsys.readouterr()
    if isinstance(end.value.code, str):                         # sys.exit(text) prints it and exits with 1
        return 1, end.value.code
    return end.value.code, said.err + said.out


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_table_is_long_enough():
    assert len(TABLE) + len(FAILURES) >= 80
    assert len({(script, flags, str(says)) for script, flags, _, says in TABLE}) > len(TABLE) - 15


@pytest.mark.parametrize("script, flags, spoil, says", TABLE,
                         ids=[f"{getattr(t[0], '__name__', t[0])} {t[1]} {t[3][0]}"[:60] for t in TABLE])
def test_table(world, monkeypatch, capsys, script, flags, spoil, says):
    if spoil:
        spoil(world)
    before = contents(world)
    code, said = ended(monkeypatch, capsys, script, flags)
    name = name_of(script)
    with capsys.disabled():
        if sys.stdout.isatty() or "-s" in sys.argv:
            print("\n  " + said)
    assert code == 1 and said.startswith(f"{name}.py: ")
    assert said.count("\n") == 0 and len(said) < 500 and "Errno" not in said
    for fragment in says:
        assert fragment in said, said
    assert {path: content for path, content in contents(world).items() if path in before} == before
    assert not (world / "executed").exists()


@pytest.mark.parametrize("script, error, says", FAILURES, ids=[str(failure[2]) for failure in FAILURES])
def test_table_of_failing_machines(world, monkeypatch, capsys, script, error, says):
    def fails(*args):
        raise error
    monkeypatch.setattr(script, "train", fails)
    code, said = ended(monkeypatch, capsys, script, "")
    print("\n  " + said)
    assert code == 1 and said.count("\n") == 0 and all(fragment in said for fragment in says), said


@pytest.mark.parametrize("script", [sft, reward, ppo, evaluate, label])
@pytest.mark.parametrize("flags", ["--stepps 3", "--seed many", "--batch_size 1.5", "--seed", "stray"])
def test_what_is_no_flag_ends_with_code_2(world, monkeypatch, capsys, script, flags):
    code, said = ended(monkeypatch, capsys, script, flags)
    assert code == 2 and flags.split()[0].replace("_", "-") in said.replace("_", "-") and "Traceback" not in said


@pytest.mark.parametrize("script", [sft, reward, ppo, evaluate, label])
def test_every_number_has_its_limits(world, monkeypatch, capsys, script):
    """NaN, infinity, and what is far below or above any use: for each number of each script."""
    for field in dataclasses.fields(script.Config):
        values = {float: ["nan", "inf", "-inf", "1e10"], int: ["-7", "9" * 30]}.get(type(field.default), [])
        for value in values:
            code, said = ended(monkeypatch, capsys, script, f"--{field.name} {value}")
            assert code == 1 and said.startswith(f"{name_of(script)}.py: --{field.name} ") and "must be" in said


@pytest.mark.parametrize("script, goes_on", [(sft, True), (reward, True), (ppo, True), (evaluate, False), (label, False)])
def test_ctrl_c_names_resume_where_there_is_one(world, monkeypatch, capsys, script, goes_on):
    def stop(name):
        raise KeyboardInterrupt
    monkeypatch.setattr(data, "load", stop)
    code, said = ended(monkeypatch, capsys, script, "")
    assert code == 130 and "stopped at once" in said and ("--resume" in said) is goes_on


def test_an_error_of_the_code_keeps_its_traceback(world, monkeypatch):
    def fails(*args):
        raise RuntimeError("shapes do not match")
    monkeypatch.setattr(sft, "train", fails)
    monkeypatch.setattr(sys, "argv", ["sft.py", *ROWS.split()])
    with pytest.raises(RuntimeError, match="shapes"):
        launch(sft.main, sft.Config, "sft")
