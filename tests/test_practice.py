"""practice.py: what it lays, what it says of blank, right and wrong functions, and that it keeps what was written."""
import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import practice
from mutants import MUTANTS
from practice import EXERCISES, find, judge, main
from support import UserError

ROOT = Path(__file__).parent.parent
REAL = {name: (ROOT / name).read_text() for name in {exercise["file"] for exercise in EXERCISES.values()}}

# Wrong versions in which no check sees anything, because no docstring speaks of it.
UNSEEN = {"sampling from NaN is an index error", "scores that are not finite are saved",
          "micro-batches leave the memory of generation as it is"}

# (exercise, what is wrong, the right text, the wrong text), next to those of mutants.py
WRONG = [
    ("attention", "everybody sees all", "attn_mask=allowed", "attn_mask=None"),
    ("attention", "the cache is filled and not read", "k, v = cache.extend(qkv[1:])", "cache.extend(qkv[1:])"),
    ("attention", "the heads are joined crosswise", "y.transpose(1, 2).reshape", "y.reshape"),
    ("positions", "any length is read", "if S > self.config.block_size:", "if False:"),
    ("sampling", "any length is written", "if P + max_new_tokens > self.config.block_size:", "if False:"),
    ("sampling", "nothing is yielded", "yield rows, new[:, 0], probs.gather(1, new)[:, 0].log()", "return"),
    ("sampling", "random numbers of its own whatever is given", "if draws is None:", "if True:"),
    ("token_logprobs", "probabilities", "F.log_softmax(", "F.softmax("),
    ("token_logprobs", "over the wrong axis", "dim=-1).gather", "dim=0).gather"),
    ("sft_loss", "a sum", "ids[:, 1:][targets])", 'ids[:, 1:][targets], reduction="sum")'),
    ("sft_loss", "no gradient", "model.transformer(ids, mask)[:, :-1]", "model.transformer(ids, mask)[:, :-1].detach()"),
    ("pairwise_loss", "a sum", "-F.logsigmoid(chosen - rejected).mean()", "-F.logsigmoid(chosen - rejected).sum()"),
    ("pairwise_loss", "half of the gradient", "-F.logsigmoid(chosen - rejected)", "-F.logsigmoid(chosen - rejected.detach())"),
    ("normalisation", "it returns nothing", "    return mean, std", "    return None"),
    ("kl_penalty", "never negative", "return logprobs - ref_logprobs", "return (logprobs - ref_logprobs).abs()"),
    ("kl_penalty", "a mean", "return logprobs - ref_logprobs", "return (logprobs - ref_logprobs).mean()"),
    ("whiten", "the unbiased variance", "variance = masked_mean((x - mean) ** 2, mask)", "variance = x[mask].var()"),
    ("whiten", "row by row", "mean = masked_mean(x, mask)", "mean = (x * mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True)"),
    ("policy_loss", "the ratio has no gradient", "-advantages * ratio ", "-advantages * ratio.detach() "),
    ("policy_loss", "pads may be infinite", ".where(mask.bool(), 0.0))", ")"),
    ("value_loss", "nothing is clipped", "near = torch.clamp(values, old_values - clip, old_values + clip)", "near = values"),
    ("make_experience", "another temperature in scoring", "logits = response_logits(actor, rows, real, R, cfg.temperature)",
     "logits = response_logits(actor, rows, real, R, 1.0)"),
    ("train", "it begins at 0", 'range(state["step"], cfg.steps)', "range(cfg.steps)"),
    ("train", "no metrics of the rollout", "{**learned, **rolled, ", "{**learned, "),
    ("train", "the step is counted after the yield", '        state["step"] = step + 1\n        yield step, experience, metrics',
     '        yield step, experience, metrics\n        state["step"] = step + 1'),
    ("train", "β is that of the flags", 'kl_coef = state["kl_coef"]', "kl_coef = cfg.kl_coef"),
    ("train", "the rollout is not checked", "check_rollout(\n            experience, step, state[\"negatives\"], actor.transformer.bf16)", "0"),
]

# Other ways to write it that are as right.
RIGHT = [
    ("attention", "y = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed)",
     "y = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(~allowed, -math.inf).softmax(-1) @ v"),
    ("sampling", "probs.gather(1, new)[:, 0].log()", "F.log_softmax(logits / (temperature or 1.0), -1).gather(1, new)[:, 0]"),
    ("normalisation", "scores.std().item()", "scores.std(correction=0).item()"),
    ("whiten", "* torch.rsqrt(variance + 1e-8)", "/ (variance + 1e-8).sqrt()"),
    ("policy_loss", "    loss = masked_mean(torch.maximum(plain, clipped), mask)", "    loss = -masked_mean(torch.minimum(-plain, -clipped), mask)"),
    ("learn", "from_first(torch.randperm(len(experience)))", "torch.rand(len(experience)).argsort()"),
    ("train", "own_rows(ids), own_rows(mask)", "ids, mask"),
    ("value_loss", "near = torch.clamp(values, old_values - clip, old_values + clip)",
     "near = old_values + (values - old_values).clamp(-clip, clip)"),
]


def text_of(name):
    """The function of an exercise as it stands in the live source."""
    exercise = EXERCISES[name]
    source = REAL[exercise["file"]]
    body, i = find(ast.parse(source), exercise["function"])
    return "".join(source.splitlines(keepends=True)[body[i].lineno - 1:body[i].end_lineno])


BANK = [(name, *m[1:]) for name, exercise in EXERCISES.items() for m in MUTANTS
        if m[0] == exercise["file"] and m[2] in text_of(name) and m[1] not in UNSEEN] + WRONG


@pytest.fixture
def laid(tmp_path, capsys):
    """A folder as `python practice.py` lays it."""
    main([], tmp_path / "mine")
    capsys.readouterr()
    return tmp_path / "mine"


@pytest.fixture
def filled(tmp_path):
    """A folder in which all bodies are the real ones."""
    for name, source in REAL.items():
        (tmp_path / name).write_text(source)
    return tmp_path


def edit(path, right, wrong):
    source = path.read_text()
    assert source.count(right) == 1, right
    path.write_text(source.replace(right, wrong))


def table(capsys):
    """{name: (state, what was seen)} as printed."""
    rows = (re.match(r"(\w+) +\w+\.py +(\w+) ?(.*)", line) for line in capsys.readouterr().out.splitlines())
    return {row[1]: (row[2], row[3]) for row in rows if row}


def test_nothing_but_the_bodies_is_missing(laid):
    for file, source in REAL.items():
        mine, real = ast.parse((laid / file).read_text()), ast.parse(source)
        for exercise in EXERCISES.values():
            if exercise["file"] == file:
                (body, i), (right, j) = find(mine, exercise["function"]), find(real, exercise["function"])
                assert ast.get_docstring(body[i]) == ast.get_docstring(right[j])
                assert isinstance(body[i].body[-1], ast.Raise) and len(body[i].body) <= 2
                body[i].body = right[j].body
        assert ast.dump(mine) == ast.dump(real)
    with pytest.raises(SystemExit):
        main(["check"], laid)


def test_blank_functions_are_blank(laid, capsys):
    with pytest.raises(SystemExit):
        main(["check"], laid)
    assert table(capsys) == {name: ("blank", "") for name in EXERCISES}


def test_real_bodies_are_right(filled, capsys):
    main(["check"], filled)
    assert table(capsys) == {name: ("right", "") for name in EXERCISES}


@pytest.mark.parametrize("name", EXERCISES)
def test_a_right_function_is_right_while_all_others_are_blank(laid, name):
    exercise = EXERCISES[name]
    path = laid / exercise["file"]
    source = path.read_text()
    body, i = find(ast.parse(source), exercise["function"])
    lines = source.splitlines(keepends=True)
    lines[body[i].lineno - 1:body[i].end_lineno] = [text_of(name)]
    path.write_text("".join(lines))
    assert judge(exercise, laid) == ("right", "")


@pytest.mark.parametrize("name, what, right, wrong", BANK, ids=[f"{m[0]}: {m[1]}" for m in BANK])
def test_a_wrong_function_is_wrong_and_a_sentence_says_what_was_seen(filled, name, what, right, wrong):
    exercise = EXERCISES[name]
    edit(filled / exercise["file"], right, wrong)
    state, saw = judge(exercise, filled)
    assert state == "wrong" and re.fullmatch(r"[^\n:]+: [^\n]{10,250}", saw), (state, saw)


@pytest.mark.parametrize("name, right, other", RIGHT)
def test_another_right_way_is_right(filled, name, right, other):
    edit(filled / EXERCISES[name]["file"], right, other)
    assert judge(EXERCISES[name], filled) == ("right", "")


def test_each_function_has_three_wrong_versions_and_three_hints():
    assert all(sum(m[0] == name for m in BANK) >= 3 for name in EXERCISES)
    for name, exercise in EXERCISES.items():
        code = [line.partition("#")[0].strip() for line in text_of(name).splitlines()[1:]]
        assert len(exercise["hints"]) == 3
        assert not [line for line in code if len(line) > 20 and any(line in hint for hint in exercise["hints"])]


def test_what_was_written_is_kept(laid, capsys):
    edit(laid / "ppo.py", "# ---------- the loop", "# ---------- my loop")
    mine = (laid / "ppo.py").read_text()
    (laid / "sft.py").unlink()
    main([], laid)
    said = capsys.readouterr().out
    assert "1 files were laid" in said and "Left as you have them: ppo.py." in said
    assert (laid / "ppo.py").read_text() == mine and (laid / "sft.py").exists()


def test_hints_come_one_after_the_other(laid, capsys):
    for number in (1, 2, 3, 3):
        main(["hint", "gae"], laid)
        assert f"hint {number} of 3: {EXERCISES['gae']['hints'][number - 1]}" in capsys.readouterr().out


@pytest.mark.parametrize("right, wrong, saw", [
    ("return logprobs - ref_logprobs", "return logprobs -", "ppo.py, line "),
    ("return logprobs - ref_logprobs", "return logprobs[99]", "known answers: IndexError in line "),
    ("return logprobs - ref_logprobs", "while True: pass", "it has not ended after 1 seconds"),
    ("return logprobs - ref_logprobs", "pass", "k1 is None, should be a tensor"),
    ("return logprobs - ref_logprobs", "return (logprobs - ref_logprobs)[0]", "k1 has shape (1,), should have (1, 1)"),
    ("def kl_penalty(", "def penalty(", "it has no kl_penalty any more")])
def test_whatever_is_written_gets_a_sentence(filled, capsys, monkeypatch, right, wrong, saw):
    if "while True" in wrong:           # on a busy machine other checks may take longer than that
        monkeypatch.setattr(practice, "SECONDS", 1)
    edit(filled / "ppo.py", right, wrong)
    with pytest.raises(SystemExit):
        main(["check", "kl_penalty"], filled)
    state, said = table(capsys)["kl_penalty"]
    assert state == "wrong" and saw in said


@pytest.mark.parametrize("words", (["chek"], ["check", "gea"], ["hint"]))
def test_a_wrong_word_gets_the_names(laid, words):
    with pytest.raises(UserError, match="the names are attention, positions"):
        main(words, laid)


def test_before_anything_is_laid(tmp_path):
    with pytest.raises(UserError, match="run `python practice.py` first"):
        main(["check"], tmp_path / "mine")


@pytest.mark.slow
def test_the_scripts_in_mine_need_nothing_from_outside(laid):
    for name, source in REAL.items():
        (laid / name).write_text(source)
    program = "import sys, sft, reward, ppo, evaluate, chat; print(*[m.__file__ for m in sys.modules.values() if getattr(m, '__file__', None)], sep='\\n')"
    said = subprocess.run([sys.executable, "-c", program], cwd=laid, capture_output=True, text=True, check=True).stdout
    loaded = list(map(Path, said.splitlines()))
    ours = [path for path in loaded if path.is_relative_to(ROOT) and not path.is_relative_to(sys.prefix)]     # .venv is inside
    assert laid / "ppo.py" in loaded and not ours
