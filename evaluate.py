"""Who wins: base, SFT, best-of-n and PPO answer the same test prompts, and a judge marks them.

    python evaluate.py                  the toy: a few seconds
    python evaluate.py --json out/toy/evaluation.json

The judge of the toy is `data.toy.judge`, which no training script can see: what it says is the truth
that the reward model is only an estimate of. Other data sets have no such judge. There the reward
model itself marks the answers and the table says so: it shows how far PPO got on its own terms, and
nothing about whether people would agree.

best_of_n is what the reward model can do without any training: the SFT model answers n times, and
the answer with the highest score is taken.
"""
import json
import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

import data
import ppo
from common import find_model, launch, start, write_whole
from data.batches import pad
from data.tokenizer import Tokenizer
from gpt import GPT, ScalarGPT


@dataclass
class Config:
    data: str = "toy"       # data set: toy, hh (or hh:SUBSET+…), tldr, or a .jsonl or .jsonl.gz of your own
    preset: str = ""            # length and batch of one of ppo.py's presets; default by the model
    run: str = ""               # folder of the run; default out/<data>
    samples: int = 4            # answers of each model to each test prompt
    prompts: int = 256          # test prompts at most
    best_of: int = 8            # the n of best_of_n
    max_new_tokens: int = 32    # an answer that has not ended by then never will
    temperature: float = 0.7    # of sampling: cooler than practice, as assistants are used; the same for all models
    batch_size: int = 256       # answers at a time
    json: str = ""              # write the numbers into this file, too
    seed: int = 0               # of sampling
    device: str = ""            # cuda, cpu, mps; default what there is
    precision: str = ""         # fp32 or bf16; default bf16 on a GPU that has it


# A batch of 64 answers of 128 tokens has 1.6 GB of logits in GPT-2's vocabulary.
PRESETS = {name: dict(max_new_tokens=preset["max_new_tokens"], batch_size=64) for name, preset in ppo.PRESETS.items()}

# ----------------------------------------------------------------------------- answers

@dataclass
class Answer:
    """One answer to one prompt."""
    prompt: str
    text: str
    score: float        # the judge's
    proxy: float        # the reward model's, in standard deviations of SFT answers
    ideal: bool         # could not be better, says the judge
    ended: bool         # with <|endoftext|>
    length: int         # tokens, <|endoftext|> included
    kl: float           # log π(answer) - log π_sft(answer), nats


@torch.no_grad()
def answer_all(model, sft, reward_model, prompts, tokenizer, judge, is_ideal, cfg, device):
    """One sampled Answer to each prompt (str), in order."""
    answers = []
    room = model.config.block_size - cfg.max_new_tokens
    for i in range(0, len(prompts), cfg.batch_size):
        batch = prompts[i:i + cfg.batch_size]
        prompt_ids, prompt_mask = pad([tokenizer.encode(prompt)[-room:] for prompt in batch], left=True, device=device)
        tokens, response_mask, logprobs = model.generate(prompt_ids, prompt_mask, cfg.max_new_tokens, cfg.temperature)
        ids, mask = torch.cat([prompt_ids, tokens], 1), torch.cat([prompt_mask, response_mask], 1)      # (B, P+R)
        sft_logprobs = ppo.action_logprobs(sft, ids, mask, tokens.shape[1], cfg.temperature)            # (B, R)
        kl = ((logprobs - sft_logprobs) * response_mask).sum(1)                                         # (B)
        proxy = reward_model.reward(ids, mask)                                                          # (B)
        for j, prompt in enumerate(batch):
            real = tokens[j][response_mask[j]].tolist()
            text = tokenizer.decode(real)
            answers.append(Answer(prompt, text, judge(prompt, text) if judge else proxy[j].item(), proxy[j].item(),
                                  bool(is_ideal and is_ideal(prompt, text)), real[-1] == tokenizer.eos, len(real),
                                  kl[j].item()))
    return answers


def best_of(answers, n):
    """The highest-scoring of each n answers in a row, as the reward model sees it."""
    return [max(answers[i:i + n], key=lambda answer: answer.proxy) for i in range(0, len(answers), n)]

# ----------------------------------------------------------------------------- numbers

def mean(numbers):
    numbers = list(numbers)
    return sum(numbers) / len(numbers)


def summary(answers, has_ideal):
    """The row of one model."""
    return {"score": mean(a.score for a in answers), "ideal": mean(a.ideal for a in answers) if has_ideal else None,
            "proxy": mean(a.proxy for a in answers), "eos_rate": mean(a.ended for a in answers),
            "length": mean(a.length for a in answers), "kl": mean(a.kl for a in answers)}


def win_rate(ours, theirs, seed=0):
    """Score against score on the same prompts: shares of wins, ties, losses, the rate win + tie/2, and its
    95% interval from 2,000 bootstrap samples of the prompts (several answers to one prompt stay together)."""
    points = {}
    for a, b in zip(ours, theirs):
        points.setdefault(a.prompt, []).append(1.0 if a.score > b.score else 0.5 if a.score == b.score else 0.0)
    flat = [point for group in points.values() for point in group]
    per_prompt = torch.tensor([mean(group) for group in points.values()])                               # (prompts)
    draws = torch.randint(len(per_prompt), (2000, len(per_prompt)), generator=torch.Generator().manual_seed(seed))
    low, high = torch.quantile(per_prompt[draws].mean(1), torch.tensor([0.025, 0.975])).tolist()
    shares = {name: mean(p == point for p in flat) for name, point in (("win", 1.0), ("tie", 0.5), ("loss", 0.0))}
    return {**shares, "rate": mean(flat), "ci95": [low, high]}

# ----------------------------------------------------------------------------- what a person reads

def show_table(models, win_rates, judge_name):
    print(f"\n{'':12}{'score':>8}{'ideal':>8}{'proxy':>8}{'eos':>8}{'length':>8}{'KL':>8}   (judge: {judge_name})")
    for name, row in models.items():
        ideal = "-" if row["ideal"] is None else f"{row['ideal']:.1%}"
        print(f"{name:12}{row['score']:8.2f}{ideal:>8}{row['proxy']:8.2f}{row['eos_rate']:8.1%}{row['length']:8.1f}"
              f"{row['kl']:8.2f}")
    print()
    for name, row in win_rates.items():
        low, high = row["ci95"]
        print(f"{name.replace('_vs_', ' vs '):18} wins {row['win']:6.1%}  ties {row['tie']:6.1%}  "
              f"losses {row['loss']:6.1%}   rate {row['rate']:.1%}  [{low:.1%}, {high:.1%}]")


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
    folders = {stage: find_model(run, stage) for stage in ("sft", "reward", "ppo")}
    if (run / "base" / "config.json").exists():
        folders = {"base": run / "base", **folders}
    tokenizer = Tokenizer.load(folders["sft"])
    sft = GPT.from_pretrained(folders["sft"]).place(device, bf16, frozen=True)
    reward_model = ScalarGPT.from_pretrained(folders.pop("reward")).place(device, bf16, frozen=True)
    judge, is_ideal, judge_name = None, None, "reward_model"
    if cfg.data == "toy":
        from data.toy import is_ideal, judge
        judge_name = "gold"

    asked = [prompt for prompt in prompts for _ in range(cfg.samples)]
    ask = partial(answer_all, sft=sft, reward_model=reward_model, tokenizer=tokenizer, judge=judge, is_ideal=is_ideal,
                  cfg=cfg, device=device)
    answers = {name: ask(GPT.from_pretrained(folder).place(device, bf16, frozen=True), prompts=asked)
               for name, folder in folders.items()}
    candidates = ask(sft, prompts=[prompt for prompt in asked for _ in range(cfg.best_of)])
    answers["best_of_n"] = best_of(candidates, cfg.best_of)
    answers["ppo"] = answers.pop("ppo")                 # last in every table

    models = {name: summary(rows, is_ideal is not None) for name, rows in answers.items()}
    # What the best of n costs in KL needs no measuring; it is an upper bound (Beirami et al., arXiv:2401.01879).
    models["best_of_n"]["kl"] = math.log(cfg.best_of) - (cfg.best_of - 1) / cfg.best_of
    pairs = (("sft", "base"), ("best_of_n", "sft"), ("ppo", "sft"), ("ppo", "best_of_n"))
    win_rates = {f"{a}_vs_{b}": win_rate(answers[a], answers[b]) for a, b in pairs if b in answers}

    show_samples(answers)
    show_table(models, win_rates, judge_name)
    if cfg.json:
        numbers = {"judge": judge_name, "data": cfg.data, "run": str(run), "prompts": len(prompts),
                   "samples": cfg.samples, "models": models, "win_rates": win_rates}
        write_whole(Path(cfg.json), json.dumps(numbers, indent=2) + "\n")


if __name__ == "__main__":
    launch(main, Config, PRESETS)
