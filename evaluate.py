"""Who wins: base, SFT, best-of-n and PPO respond to the same test prompts, and a judge scores the responses.

    python evaluate.py                  the toy: a few seconds
    python evaluate.py --json out/toy/evaluation.json

The judge of the toy is a function in data/toy_world.py that no training script can see: it says what the reward model
only estimates. Other data sets have no such judge. There the reward model scores the responses, and the table says so:
it shows how far PPO got by its own measure, and nothing about whether people would agree.

best_of_n is what the reward model can do without further training: the SFT model responds n times, and the response
with the highest score is taken.
"""
import json
import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean as mean

import torch

import data
from data.batches import pad
from data.encode import encode_prompts
from data.tokenizer import Tokenizer
from gpt import GPT, ScalarGPT, response_logprobs
from support.card import add_evaluation
from support.command_line import Flags, launch, start
from support.files import write_whole
from support.runs import find_model


@dataclass
class Config(Flags):            # with --data, --run, --preset, --seed, --device, --precision
    samples: int = 4            # responses of each model to each test prompt
    prompts: int = 256          # test prompts at most
    best_of: int = 8            # the n of best_of_n
    max_new_tokens: int = 32    # a response that has not ended by then is cut off
    temperature: float = 0.7    # of sampling: lower than in training, as assistants are used; the same for all models
    missing_eos_score: float = -1.0     # proxy of an unfinished response, as in ppo.py
    batch_size: int = 256       # responses at a time
    json: str = ""              # write the numbers into this file, too

# ----------------------------------------------------------------------------- answers

@dataclass
class Answer:
    """One response to one prompt."""
    prompt: str
    text: str
    score: float        # the judge's
    proxy: float        # the reward model's score, or missing_eos_score
    ideal: bool         # could not be better, says the judge
    ended: bool         # with <|endoftext|>
    length: int         # tokens, <|endoftext|> included
    kl: float           # log π(answer) - log π_sft(answer), nats


@torch.no_grad()
def answer_all(model, sft, reward_model, prompts, tokenizer, judge, is_ideal, cfg, device):
    """One sampled Answer to each prompt (str), in order."""
    answers = []
    encoded = encode_prompts(prompts, tokenizer, model.config.block_size, cfg.max_new_tokens)
    for i in range(0, len(prompts), cfg.batch_size):
        prompt_ids, prompt_mask = pad(encoded[i:i + cfg.batch_size], left=True, device=device)              # (B, P)
        tokens, response_mask, logprobs = model.generate(prompt_ids, prompt_mask, cfg.max_new_tokens, cfg.temperature)
        ids = torch.cat([prompt_ids, tokens], dim=1)                                                        # (B, P+R)
        mask = torch.cat([prompt_mask, response_mask], dim=1)                                               # (B, P+R)
        sft_logprobs = response_logprobs(sft, ids, mask, tokens.shape[1], cfg.temperature)                    # (B, R)
        kl = ((logprobs - sft_logprobs) * response_mask).sum(1)                                             # (B)
        ended = ((tokens == tokenizer.eos) & response_mask).any(1)                                          # (B)
        proxy = torch.where(ended, reward_model.reward(ids, mask), cfg.missing_eos_score)                   # (B)
        for j, prompt in enumerate(prompts[i:i + cfg.batch_size]):
            text = tokenizer.decode(tokens[j][response_mask[j]].tolist())
            length = response_mask[j].sum().item()
            score = judge(prompt, text) if judge else proxy[j].item()
            ideal = is_ideal(prompt, text) if is_ideal else False
            answers.append(Answer(prompt, text, score, proxy[j].item(), ideal, ended[j].item(), length, kl[j].item()))
    return answers


def best_of(answers, n):
    """Of each n answers in a row the one with the highest score of the reward model."""
    return [max(answers[i:i + n], key=lambda answer: answer.proxy) for i in range(0, len(answers), n)]

# ----------------------------------------------------------------------------- numbers

def summary(answers, has_ideal):
    """The row of one model."""
    return {"score": mean(a.score for a in answers), "ideal": mean(a.ideal for a in answers) if has_ideal else None,
            "proxy": mean(a.proxy for a in answers), "eos_rate": mean(a.ended for a in answers),
            "length": mean(a.length for a in answers), "kl": mean(a.kl for a in answers)}


def win_rate(ours, theirs, seed=0):
    """Score against score on the same prompts: shares of wins, ties and losses, the rate win + tie/2, and its
    95% interval from 2,000 bootstrap samples of the prompts (several answers to one prompt stay together)."""
    # The same text is a tie whatever the scores say: a reward model's depend a little on the batch it was read in.
    ties = [a.score == b.score or a.text == b.text for a, b in zip(ours, theirs)]
    wins = [a.score > b.score and not tie for a, b, tie in zip(ours, theirs, ties)]
    losses = [a.score < b.score and not tie for a, b, tie in zip(ours, theirs, ties)]
    points = [win + tie / 2 for win, tie in zip(wins, ties)]
    by_prompt = {}
    for answer, point in zip(ours, points):
        by_prompt.setdefault(answer.prompt, []).append(point)
    means = torch.tensor([mean(group) for group in by_prompt.values()])                                 # (prompts)
    draws = torch.randint(len(means), (2000, len(means)), generator=torch.Generator().manual_seed(seed))
    low, high = torch.quantile(means[draws].mean(1), torch.tensor([0.025, 0.975])).tolist()
    return {"win": mean(wins), "tie": mean(ties), "loss": mean(losses), "rate": mean(points), "ci95": [low, high]}

# ----------------------------------------------------------------------------- what a person reads

def table(models, win_rates, judge_name):
    """The numbers as text: a row a model, then who wins."""
    lines = [f"{'':12}{'score':>8}{'ideal':>8}{'proxy':>8}{'eos':>8}{'length':>8}{'KL':>8}   (judge: {judge_name})"]
    for name, row in models.items():
        ideal = "-" if row["ideal"] is None else f"{row['ideal']:.1%}"
        lines.append(f"{name:12}{row['score']:8.2f}{ideal:>8}{row['proxy']:8.2f}{row['eos_rate']:8.1%}"
                     f"{row['length']:8.1f}{round(row['kl'], 2) + 0.0:8.2f}")      # + 0.0: no "-0.00"
    lines.append("")
    for name, row in win_rates.items():
        low, high = row["ci95"]
        lines.append(f"{name.replace('_vs_', ' vs '):18} wins {row['win']:6.1%}  ties {row['tie']:6.1%}  "
                     f"losses {row['loss']:6.1%}   rate {row['rate']:.1%}  [{low:.1%}, {high:.1%}]")
    return "\n".join(lines)


def show_samples(answers, count=6):
    """The same prompts answered by all models, spread over the test set."""
    names, rows = list(answers), list(zip(*answers.values()))
    for row in rows[::max(1, len(rows) // count)][:count]:
        print("\n" + row[0].prompt.strip().removesuffix("Assistant:").strip())
        for name, answer in zip(names, row):
            print(f"  {name:10} {answer.text.strip()}")


def main(cfg):
    run, device, bf16 = start(cfg)
    _, test_set = data.load(cfg.data)
    prompts = test_set.need("prompts", cfg.data)[:cfg.prompts]
    sft_folder, rm_folder, _ = (find_model(run, stage) for stage in ("sft", "reward", "ppo"))
    tokenizer = Tokenizer.load(sft_folder)
    sft = GPT.from_pretrained(sft_folder, device, bf16, frozen=True)
    reward_model = ScalarGPT.from_pretrained(rm_folder, device, bf16, frozen=True)
    judge, is_ideal, judge_name = None, None, "reward_model"
    if cfg.data == "toy":
        from data.toy_world import is_ideal, judge
        judge_name = "gold"

    asked = [prompt for prompt in prompts for _ in range(cfg.samples)]
    ask = partial(answer_all, sft=sft, reward_model=reward_model, tokenizer=tokenizer, judge=judge, is_ideal=is_ideal,
                  cfg=cfg, device=device)
    stages = [stage for stage in ("base", "sft", "ppo") if (run / stage / "config.json").exists()]
    models = {stage: GPT.from_pretrained(run / stage, device, bf16, frozen=True) for stage in stages}
    answers = {stage: ask(model, prompts=asked) for stage, model in models.items()}
    candidates = ask(sft, prompts=[prompt for prompt in asked for _ in range(cfg.best_of)])
    answers["best_of_n"] = best_of(candidates, cfg.best_of)
    answers["ppo"] = answers.pop("ppo")                 # last in every table

    rows = {name: summary(answered, is_ideal is not None) for name, answered in answers.items()}
    # What the best of n costs in KL needs no measuring; this is an upper bound (Beirami et al., arXiv:2401.01879).
    rows["best_of_n"]["kl"] = math.log(cfg.best_of) - (cfg.best_of - 1) / cfg.best_of
    pairs = (("sft", "base"), ("best_of_n", "sft"), ("ppo", "sft"), ("ppo", "best_of_n"))
    win_rates = {f"{a}_vs_{b}": win_rate(answers[a], answers[b]) for a, b in pairs if b in answers}

    show_samples(answers)
    text = table(rows, win_rates, judge_name)
    print("\n" + text)
    for stage in (*stages, "reward"):
        add_evaluation(run / stage, cfg, text)
    if cfg.json:
        numbers = {"judge": judge_name, "data": cfg.data, "run": str(run), "prompts": len(prompts),
                   "samples": cfg.samples, "models": rows, "win_rates": win_rates}
        write_whole(Path(cfg.json), json.dumps(numbers, indent=2) + "\n")


if __name__ == "__main__":
    launch(main, Config, "evaluate")
