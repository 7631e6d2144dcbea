"""The experiments: processes, tables, tests over seeds, the judge that listens, and pictures."""
import json
import math
import random
import shutil
import sys
import types
from dataclasses import fields
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

import data
import ppo
import reward
import sft
import tiny
from text.batches import pad
from data.toy_world import FACT_OF, IDEAL, judge
from judges.normal import read_normal
from support.optimizer import adamw

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
    kl = torch.zeros(response_mask.shape)
    kl[0, 0], kl[1, 1] = 3.0, 1.0
    given = {"ids": torch.cat([prompts, answers], 1), "mask": torch.cat([prompt_mask, response_mask], 1),
             "response_mask": response_mask, "exact_kl": kl, "scores": torch.tensor([0.2, 0.8])}
    batch = ppo.Experience(**{field.name: given.get(field.name) for field in fields(ppo.Experience)})
    points = [judge(*pair) for pair in zip(asked, said)]
    assert points[0] == IDEAL > points[1]
    assert runs.opinion(batch, tokenizer) == pytest.approx({
        "score": 0.5, "judge": sum(points) / 2, "ideal": 0.5, "kl": 2.0, "length": response_mask.sum().item() / 2,
        "judge_std": abs(points[0] - points[1]) / 2 ** 0.5})


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


def test_results_are_kept_and_only_what_is_missing_is_made(tmp_path, monkeypatch):
    import runs
    made, counted = [], types.ModuleType("counted")
    counted.run = lambda point, seed: made.append((point, seed)) or {"twice": 2 * seed}
    monkeypatch.setitem(sys.modules, "counted", counted)
    monkeypatch.setattr(runs, "python", lambda flag, code: exec(code))
    points = [("a, b", 0.5), ("a", 0.5), "λ = 0"]
    runs.results(tmp_path, "counted", points, (3, 4))
    assert sorted(made, key=str) == sorted([(point, seed) for point in points for seed in (3, 4)], key=str)
    made.clear()
    found = runs.results(tmp_path, "counted", points[:2], (3, 4, 5))
    assert sorted(made) == sorted([(points[0], 5), (points[1], 5)])
    assert found == {point: [{"twice": 6}, {"twice": 8}, {"twice": 10}] for point in points[:2]}


@pytest.mark.parametrize("t, runs_, p", [(2.776, 5, 0.05), (4.604, 5, 0.01), (12.706, 2, 0.05), (2.262, 10, 0.05), (0.0, 5, 1.0)])
def test_p_of_a_paired_t_is_that_of_the_printed_tables(t, runs_, p):
    import runs
    unit = [i - (runs_ - 1) / 2 for i in range(runs_)]                  # mean 0
    error = (sum(x * x for x in unit) / (runs_ - 1) / runs_) ** 0.5     # of the mean
    base = [10.0 * i for i in range(runs_)]                             # what the pairs share
    mean, half, found_t, found_p = runs.paired([b + x / error + t for b, x in zip(base, unit)], base)
    assert (mean, found_t) == pytest.approx((t, t), abs=1e-9) and found_p == pytest.approx(p, abs=2e-4)
    assert runs_ != 5 or half == pytest.approx(2.776)


def test_seeds_that_all_differ_alike_are_certain_and_equal_ones_are_not_apart():
    import runs
    assert runs.paired([2.0, 3.0], [1.0, 2.0]) == (1.0, 0.0, math.inf, pytest.approx(0.0, abs=1e-4))
    assert runs.paired([1.0, 2.0], [1.0, 2.0])[2:] == (0.0, pytest.approx(1.0))


def test_holm_allows_one_false_alarm_in_twenty_families():
    import runs
    draw, alarms = random.Random(0), 0
    for _ in range(1000):                                               # 7 methods that do not differ
        found = {name: [draw.gauss(0, 1) for _ in range(5)] for name in "abcdefg"} | {"base": [0.0] * 5}
        cells, said = runs.against("base", found)
        alarms += "below 0.05: none." not in said
    assert 25 <= alarms <= 65                                           # without Holm about 300


def test_holm_by_hand(monkeypatch):
    import runs
    ps = {1: 0.024, 2: 0.005, 3: 0.02, 4: 0.9}                          # twice 0.024 is below 0.05, but three times 0.02 is not
    monkeypatch.setattr(runs, "paired", lambda ones, base: (1.0, 0.5, 2.0, ps[ones]))
    cells, said = runs.against("base", {"base": 0, "w": 1, "x": 2, "y": 3, "z": 4})
    assert [cells[name][-1] for name in "xywz"] == ["0.020", "0.060", "0.060", "0.900"]
    assert cells["x"][:2] == ["+1 ± 0.5", "2.0"] and said.endswith("below 0.05: x. Not: y; w; z.")


def test_the_responses_until_three_rollouts_are_90_percent_ideal():
    import ablations

    def measured(*ideal):
        found = ablations.measure([{"ideal": x, "judge": 0.0, "kl": i} for i, x in enumerate(ideal)], 128)
        return found["needed"], found["came"], found["kl"]
    assert measured(0.5, 1.0, 0.9, 0.8, 0.9, 1.0) == (4 * 128, True, 2.5)       # 1.0, 0.9 and 0.8
    assert measured(0.99, 0.5, 0.99) == (3 * 128, False, 1.0)
    assert measured(*[0.0] * 10, *[1.0] * 10)[2] == 14.5                # the last ten


def test_every_variant_changes_what_is_there():
    import ablations
    names = {field.name for field in fields(ppo.Config)}
    for flags, replaced in ablations.VARIANTS.values():
        assert flags.keys() <= names and all(hasattr(ppo, name) for name in replaced)
    assert sum(flags == replaced == {} for flags, replaced in ablations.VARIANTS.values()) == 1


def test_at_first_only_the_critic_moves(monkeypatch):
    import ablations
    monkeypatch.setattr(ppo, "set_learning_rate", ablations.critic_first)
    actor, critic, cfg = tiny.model(), tiny.critic(), tiny.ppo_config(steps=20, batch_size=4)
    weights = [next(model.parameters()) for model in (actor, critic)]
    start = [weight.clone() for weight in weights]
    models = actor, critic, tiny.model(), tiny.critic().requires_grad_(False)
    for step, _, _ in ppo.train(*models, adamw(actor), adamw(critic), [[1, 2], [3]] * 4, ppo.first_state(cfg), cfg):
        moved = [not torch.equal(weight, was) for weight, was in zip(weights, start)]
        assert moved == [step >= ablations.CRITIC_ONLY, True]


def rollouts(seed, updates):
    draw = random.Random(seed)
    return {"rollouts": [{"score": i / 10 + draw.random(), "judge": 4 - abs(i - 8) / 4, "judge_std": 1.5, "ideal": 0.5,
                          "kl": i / 8, "length": 9.0, "metrics": {"objective/kl": i + draw.random(), "lr": 0.1}}
                         for i in range(updates)]}


def test_pictures_band_and_table_are_drawn_from_what_the_judge_said(tmp_path, monkeypatch, capsys):
    import figures
    monkeypatch.setattr(figures, "seed_models", lambda: None)
    monkeypatch.setattr(figures, "make", lambda commands: None)
    monkeypatch.setattr(figures.shutil, "copytree", lambda *given, **options: None)
    monkeypatch.setattr(figures, "results", lambda folder, module, titles, seeds: {
        title: [rollouts(seed, 20) for seed in seeds] for title in titles})
    for name, value in {"PICTURES": tmp_path, "NORMAL": tmp_path / "normal.csv"}.items():
        monkeypatch.setattr(figures, name, value)
    figures.main()
    for name in ("curves", "over_optimisation"):
        text = (tmp_path / f"{name}.svg").read_text()
        assert ElementTree.fromstring(text).tag.endswith("svg") and len(text) < 200_000
        assert "nan" not in text and "fill: #ffffff" in text            # a background of its own: it reads on dark pages, too
    assert {name: list(ends) for name, ends in read_normal(tmp_path / "normal.csv").items()} == {"objective/kl": [0, 8, 16, 19]}
    # best: the mean of 3.25, 3.5, 3.75, 4, 3.75, 3.5, 3.25; last ten: 10 to 19, so 1.4 points and 1.8125 nats
    printed = capsys.readouterr().out.splitlines()
    assert printed[2].startswith("| reward model of 1,200 steps, β 0 | 3.57 ± 0.00 | 8 to 8 | 2.38 ± 0.00 | ")
    assert printed[2].endswith(" | 50.0% ± 0.0 | 1.81 ± 0.00 |") and len(printed) == 5


@pytest.mark.slow
def test_a_variant_and_a_run_against_a_weak_reward_model_start_from_the_seeds_models(tmp_path, monkeypatch):
    monkeypatch.setenv("TQDM_DISABLE", "1")
    import ablations
    import figures
    import runs
    out, asked, four_models = tmp_path / "out", [], ppo.four_models
    common = {"device": "cpu", "steps": 2}
    sft.main(sft.Config(**common, run=str(out / "seed3"), pretrain_steps=2, n_layer=1, n_head=1, n_embd=8))
    reward.main(reward.Config(**common, run=str(out / "seed3"), normalise_samples=64))
    shutil.copytree(out / "seed3" / "sft", out / "weak3" / "sft")
    reward.main(reward.Config(**common, run=str(out / "weak3"), normalise_samples=64))
    monkeypatch.setattr(runs, "ROOT", tmp_path)
    monkeypatch.setattr(figures, "OUT", out)
    monkeypatch.setattr(ppo, "four_models", lambda *given: asked.append(given[:2]) or four_models(*given))
    monkeypatch.setattr(ablations, "STEPS", 2)
    monkeypatch.setattr(figures, "RUNS", dict.fromkeys(figures.RUNS, {"steps": 2, "batch_size": 8}))
    assert ablations.run("λ = 0", 3).keys() == {"ideal", "judge", "kl", "needed", "came"}
    for title in figures.RUNS:
        assert len(figures.run(title, 3)["rollouts"]) == 2
    own = out / "seed3" / "sft"
    assert asked == [(own, out / "seed3" / "reward")] * 3 + [(own, out / "weak3" / "reward")] * 2


def test_the_table_of_both_worlds_has_each_runs_numbers_their_mean_and_the_lowest(tmp_path, monkeypatch, capsys):
    import worlds
    monkeypatch.setattr(worlds, "ROOT", tmp_path)
    for world, ideals in (("toy", (0.95, 0.99)), ("toy2", (1.0, 0.9))):
        for seed, ideal in enumerate(ideals):
            run = worlds.folder(world, seed)
            run.mkdir(parents=True)
            models = {name: {"ideal": share, "eos_rate": 1.0, "kl": 2.5} for name, share in
                      (("sft", 0.1), ("best_of_n", 0.6), ("ppo", ideal))}
            (run / "eval.json").write_text(json.dumps({"models": models, "win_rates": {"ppo_vs_sft": {"rate": 0.9}}}))
            (run / "log.txt").write_text("held-out accuracy 98.9% of 10 comparisons (chance 50%)\n"
                                         "held-out accuracy 87.0% of 30 noisy comparisons (ceiling 88.8%, chance 50%)\n")
    worlds.main(0, 1)
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()]
    assert rows[2] == ["toy", "0", "10.0", "60.0", "95.0", "90.0", "100.0", "2.5", "98.9", "87.0", "88.8"]
    assert [row[4] for row in rows[2:]] == ["95.0", "99.0", "97.0", "2.8", "95.0", "100.0", "90.0", "95.0", "7.1", "90.0"]
