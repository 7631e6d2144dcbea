"""The experiments: processes, tables, the judge that listens, and pictures drawn from short runs."""
import json
import sys
from dataclasses import fields
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

import data
import ppo
import reward
import sft
from text.batches import pad
from data.toy_world import FACT_OF, IDEAL, judge
from judges.normal import read_normal

sys.path.append(str(Path(__file__).resolve().parent.parent / "experiments"))


def test_the_judge_hears_each_answer_with_its_own_prompt(tmp_path, monkeypatch):
    import runs
    tokenizer = data.tokenizer_for("toy")
    by_length = sorted(FACT_OF, key=lambda prompt: len(tokenizer.encode(prompt)))
    asked = [next(prompt for prompt in by_length if "owl" in prompt), by_length[-1]]
    right = FACT_OF[asked[0]].right()
    said = [f" Happy to help! {right}", f" {right} {right} {right}"]    # wrong for the second, which is longer in both
    prompts, prompt_mask = pad([tokenizer.encode(text) for text in asked], left=True)
    answers, response_mask = pad([[*tokenizer.encode(text), tokenizer.eos] for text in said])
    zeros, kl = torch.zeros(response_mask.shape), torch.zeros(response_mask.shape)
    kl[0, 0], kl[1, 1] = 3.0, 1.0
    given = {"ids": torch.cat([prompts, answers], 1), "mask": torch.cat([prompt_mask, response_mask], 1), "ref_logprobs": zeros,
             "response_mask": response_mask, "logprobs": kl, "scores": torch.tensor([0.2, 0.8])}
    batch = ppo.Experience(**{field.name: given.get(field.name) for field in fields(ppo.Experience)})
    update = 0, batch, {}
    monkeypatch.setattr(runs.Tokenizer, "load", lambda folder: tokenizer)
    (passed_on,) = runs.heard(lambda updates: iter(updates), tmp_path)([update])
    points = [judge(*pair) for pair in zip(asked, said)]
    assert passed_on[1] is batch and passed_on == update and points[0] == IDEAL > points[1]
    assert json.loads((tmp_path / "heard.json").read_text()) == [{
        "score": 0.5, "judge": sum(points) / 2, "ideal": 0.5, "kl": 2.0, "length": response_mask.sum().item() / 2,
        "judge_std": pytest.approx(abs(points[0] - points[1]) / 2 ** 0.5)}]


def test_only_runs_that_are_not_finished_are_made_and_a_failed_one_says_why(tmp_path, capsys):
    import runs
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "evaluation.json").write_text("{}")
    code = "import os; from pathlib import Path; Path({!r}).write_text(os.environ['OMP_NUM_THREADS'])"
    made = {tmp_path / name / "evaluation.json": ["-c", code.format(str(tmp_path / f"{name}.txt"))] for name in ("old", "new")}
    runs.make(made)
    assert [path.name for path in tmp_path.glob("*.txt")] == ["new.txt"]
    assert (tmp_path / "new.txt").read_text() == "1"
    assert capsys.readouterr().out == f"{tmp_path / 'new' / 'evaluation.json'}: done, 1 of 1\n"
    with pytest.raises(RuntimeError, match="no such flag"):
        runs.make({tmp_path / "failed": ["-c", "raise SystemExit('no such flag')"]})


def test_a_cell_is_the_mean_and_the_deviation_between_seeds():
    import runs
    assert runs.spread([1.0, 2.0, 6.0]) == "3.00 ± 2.65"
    assert runs.spread([-0.001]) == "0.00 ± 0.00"
    assert runs.cell([{"ideal": 0.5}, {"ideal": 0.7}, {"ideal": None}], "ideal") == "60.0% ± 14.1"
    assert runs.cell([{"kl": 0.5}, {"kl": 0.7}], "kl", 1) == "0.6 ± 0.1" and runs.cell([{"kl": None}], "kl") == "-"
    assert runs.table(["", "a"], [["b", 1]]) == "|  | a |\n|---|---|\n| b | 1 |"


def test_the_table_of_over_optimisation_is_about_the_last_ten_rollouts_and_the_best_seven(tmp_path, capsys):
    import figures
    for seed, last in enumerate((1.0, 3.0)):                        # on the way seven rollouts were better
        best = range(10 + seed, 17 + seed)
        (tmp_path / str(seed)).mkdir()
        (tmp_path / str(seed) / "heard.json").write_text(json.dumps([
            {"judge": 9.0 if i in best else last, "score": i, "ideal": last / 4, "kl": 10 * last + i} for i in range(30)]))
    figures.ends({"pushed": [{"run": str(tmp_path / seed)} for seed in "01"]})
    row = "| pushed | 9.00 | 13 to 14 | 23.0 to 44.0 | 2.00 | 24.50 | 50.0% | 25.0% | 34.5 to 54.5 |"
    assert row in capsys.readouterr().out


@pytest.mark.parametrize("copied, trained", [(("sft", "reward"), []), (("sft",), ["reward"]), (None, ["sft", "reward"])])
def test_copied_stages_are_those_of_the_other_run_and_are_not_trained(tmp_path, monkeypatch, copied, trained):
    import runs
    made = []

    def train(name, says):
        def main(cfg):
            made.append(name)
            (Path(cfg.run) / name).mkdir(parents=True)
            (Path(cfg.run) / name / "weights").write_text("own")
            print(says)
        return main
    monkeypatch.setattr(runs.sft, "main", train("sft", "sft: held-out loss 0.331 nats a token"))
    monkeypatch.setattr(runs.reward, "main", train("reward", "held-out accuracy 98.5% of 1,000 comparisons"))
    monkeypatch.setattr(runs.ppo, "main", lambda cfg: made.append("ppo"))
    monkeypatch.setattr(runs.evaluate, "main", lambda cfg: made.append("evaluate"))
    monkeypatch.setattr(runs.GPT, "from_pretrained", lambda folder: torch.nn.Linear(3, 2))
    for name in ("sft", "reward"):
        (tmp_path / "other" / name).mkdir(parents=True)
        (tmp_path / "other" / name / "weights").write_text("other")
    runs.story(tmp_path / "run", 0, {}, **({"models": tmp_path / "other", "copied": copied} if copied else {}))
    assert made == [*trained, "ppo", "evaluate"]
    for name in ("sft", "reward"):
        assert (tmp_path / "run" / name / "weights").read_text() == ("own" if name in trained else "other")
    numbers = {"sft": {"sft_loss": 0.331}, "reward": {"accuracy": 98.5}}
    stages = json.loads((tmp_path / "run" / "stages.json").read_text())
    assert stages == {"weights": 8} | {key: value for name in trained for key, value in numbers[name].items()}


def test_the_weak_reward_model_is_trained_on_the_usual_sft_model_and_then_met_with_a_penalty():
    import figures
    kinds = figures.plan(range(2))
    usual, weak, penalised = (kinds[kind][1] for kind in ("64", "weak reward model", "weak reward model penalised"))
    assert usual["flags"] == {                                          # the defaults, said once more
        "sft": {name: getattr(sft.Config, name) for name in ("n_embd", "pretrain_lr", "lr")},
        "reward": {"lr": reward.Config.lr}, "ppo": {"lr": ppo.Config.lr, "critic_lr": ppo.Config.critic_lr}}
    assert (weak["models"], weak["copied"]) == (usual["run"], ("sft",)) and weak["flags"]["reward"] == {"steps": 120}
    assert (penalised["models"], penalised["copied"]) == (weak["run"], ("sft", "reward"))
    assert weak["flags"]["ppo"] == {"kl_coef": 0.0, "steps": 200} and penalised["flags"]["ppo"] == {"steps": 200}


@pytest.mark.slow
def test_all_pictures_are_drawn_from_short_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TQDM_DISABLE", "1")
    import figures
    import runs
    short = {"sft": {"steps": 2, "pretrain_steps": 2, "n_layer": 1, "n_head": 1}, "reward": {"steps": 2, "normalise_samples": 64},
             "ppo": {"steps": 3, "batch_size": 8, "minibatches": 1}, "evaluate": {"samples": 2, "prompts": 6, "best_of": 2}}
    story, train = runs.story, ppo.train

    def short_story(flags, **rest):
        story(flags={stage: flags.get(stage, {}) | short[stage] for stage in short}, **rest)
    monkeypatch.setattr(runs, "story", short_story)
    monkeypatch.setattr(figures, "make", lambda commands: [exec(code) for _, code in commands.values()])
    for name, value in {"WIDTHS": (64,), "OUT": tmp_path / "runs", "PICTURES": tmp_path, "NORMAL": tmp_path / "normal.csv"}.items():
        monkeypatch.setattr(figures, name, value)
    figures.main(range(2))
    for name in ("curves", "over_optimisation", "sizes"):
        text = (tmp_path / f"{name}.svg").read_text()
        assert ElementTree.fromstring(text).tag.endswith("svg") and len(text) < 200_000
        assert "nan" not in text and "fill: #ffffff" not in text        # no background: it reads on dark pages, too
    assert ppo.train is train                                           # the judge has left
    assert len(json.loads((tmp_path / "runs" / "64" / "0" / "heard.json").read_text())) == 3
    assert list(read_normal(tmp_path / "normal.csv")["objective/kl"]) == [0, 2]
    printed = capsys.readouterr().out
    assert printed.count("one for all stages") == 1 and printed.count("| of 120 steps, β 0") == 2
