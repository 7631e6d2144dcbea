"""Who wins: base, SFT, best-of-n and PPO respond to the same test prompts, and a judge compares the responses.

    python evaluate.py                  the toy: a few seconds
    python evaluate.py --json out/toy/evaluation.json
    python evaluate.py --best_of 64 --details       best of 2 to 64 and PPO at their KL, and who wins at which length
    python evaluate.py --compare        is this run normal? Its curves beside those of five good runs

The judge of the toy is a function in data/toy_world.py that no training script can see: it says what the reward model
only estimates. Other data sets have no such judge. There the reward model scores the responses, and the table says so:
it shows how far PPO got by its own measure, and nothing about whether people would agree. With --judge, a reward model
that PPO has not learned from says more, and so does a language model (docs/judges.md).

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
from text.batches import encode_prompts, pad
from text.tokenizer import Tokenizer
from gpt import GPT, ScalarGPT, response_logprobs
from judges import open_judge
from judges.agreement import agreement, siblings
from judges.by_length import by_length
from judges.report import report, show_samples
from judges.win_rate import win_rate
from support import UserError
from export.card import add_evaluation
from support.command_line import Flags, launch, start
from support.files import write_whole
from judges.normal import compare
from support.runs import find_model


@dataclass
class Config(Flags):            # with --data, --run, --preset, --seed, --device, --precision
    judge: str = ""             # a reward model's folder, or a language model's http://…/v1; default the data's own
    judge_model: str = ""       # name of the language model at that address
    details: bool = False       # print best of 2, 4, … n at their KL, and the win rate by length, too
    compare: bool = False       # lay the curves of ppo.py beside those of five good runs: the toy, default flags
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
    proxy: float        # the reward model's score, or missing_eos_score
    ended: bool         # with <|endoftext|>
    length: int         # tokens, <|endoftext|> included
    kl: float           # log π(answer) - log π_sft(answer), nats
    score: float = None     # the judge's; a language model gives none, it only compares
    ideal: bool = False     # could not be better, says the judge


@torch.no_grad()
def answer_all(model, sft, reward_model, prompts, tokenizer, judge, cfg, device):
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
            answers.append(Answer(prompt, text, proxy[j].item(), ended[j].item(), length, kl[j].item()))
    for answer, score in zip(answers, judge.score(answers)):
        answer.score, answer.ideal = score, score is not None and score == judge.ideal
    return answers

# ----------------------------------------------------------------------------- numbers

def summary(answers, has_ideal):
    """The row of one model."""
    return {"score": mean(a.score for a in answers) if answers[0].score is not None else None,
            "ideal": mean(a.ideal for a in answers) if has_ideal else None,
            "proxy": mean(a.proxy for a in answers), "eos_rate": mean(a.ended for a in answers),
            "length": mean(a.length for a in answers), "kl": mean(a.kl for a in answers)}


def best_of(answers, n):
    """Of each n answers in a row the one with the highest score of the reward model."""
    return [max(answers[i:i + n], key=lambda answer: answer.proxy) for i in range(0, len(answers), n)]


def best_of_kl(n):
    """What the best of n costs in KL needs no measuring: an upper bound, in nats (Beirami et al., arXiv:2401.01879)."""
    return math.log(n) - (n - 1) / n


def best_of_curve(candidates, most, has_ideal, ppo_kl):
    """{n: row of the best of n} for n = 2, 4, … and `most`, and for the n whose KL is nearest to PPO's.

    Every n uses all candidates, `most` in a row to each prompt. Of n drawn among them, the i-th best (from 0) is the
    best with probability C(most - 1 - i, n - 1) / C(most, n) (WebGPT, arXiv:2112.09332, appendix I).
    """
    groups = [sorted(candidates[i:i + most], key=lambda a: -a.proxy) for i in range(0, len(candidates), most)]
    by_rank = [summary(ranked, has_ideal) for ranked in zip(*groups)]       # best first
    counts = {most, *(2 ** i for i in range(1, most.bit_length()))}
    if ppo_kl <= best_of_kl(most):
        counts.add(min(range(1, most + 1), key=lambda n: abs(best_of_kl(n) - ppo_kl)))
    curve = {}
    for n in sorted(counts):
        chances = [math.comb(most - 1 - i, n - 1) / math.comb(most, n) for i in range(most)]
        curve[n] = {key: None if best is None else sum(p * row[key] for p, row in zip(chances, by_rank))
                    for key, best in by_rank[0].items()} | {"kl": best_of_kl(n)}
    return curve


def compare_all(answers, judge):
    """Who wins; at which length; and whether the reward model agrees with the judge, if that is another one."""
    rivals = (("sft", "base"), ("best_of_n", "sft"), ("ppo", "sft"), ("ppo", "best_of_n"))
    rivals = {f"{a}_vs_{b}": (answers[a], answers[b]) for a, b in rivals if b in answers}
    within = {} if judge.is_proxy else {f"{a}_vs_{a}": siblings(answers[a]) for a in ("sft", "ppo")}
    pairs = rivals | within
    verdicts = judge.compare(pairs)                         # all at once: a judge may want to be paid for each
    kinds = ("sft_vs_sft", "ppo_vs_sft", "ppo_vs_ppo") if within else ()
    return {"win_rates": {name: win_rate(*rivals[name], verdicts[name]) for name in rivals},
            "by_length": by_length(*pairs["ppo_vs_sft"], verdicts["ppo_vs_sft"]),
            "agreement": {name: agreement(*pairs[name], verdicts[name]) for name in kinds}}

# ----------------------------------------------------------------------------- main

def main(cfg):
    run, device, bf16 = start(cfg)
    if cfg.compare and cfg.data != "toy":
        raise UserError(f"--compare: the five good runs are of the toy, not of --data {cfg.data}; leave it out")
    _, test_set = data.load(cfg.data)
    prompts = test_set.need("prompts", cfg.data)[:cfg.prompts]
    sft_folder, rm_folder, _ = (find_model(run, stage) for stage in ("sft", "reward", "ppo"))
    tokenizer = Tokenizer.load(sft_folder)
    sft = GPT.from_pretrained(sft_folder, device, bf16, frozen=True)
    reward_model = ScalarGPT.from_pretrained(rm_folder, device, bf16, frozen=True)
    judge = open_judge(cfg, run, device, bf16)

    asked = [prompt for prompt in prompts for _ in range(cfg.samples)]
    ask = partial(answer_all, sft=sft, reward_model=reward_model, tokenizer=tokenizer, judge=judge, cfg=cfg,
                  device=device)
    stages = [stage for stage in ("base", "sft", "ppo") if (run / stage / "config.json").exists()]
    models = {stage: GPT.from_pretrained(run / stage, device, bf16, frozen=True) for stage in stages}
    answers = {stage: ask(model, prompts=asked) for stage, model in models.items()}
    candidates = ask(sft, prompts=[prompt for prompt in asked for _ in range(cfg.best_of)])
    answers["best_of_n"] = best_of(candidates, cfg.best_of)
    answers["ppo"] = answers.pop("ppo")                 # last in every table
    show_samples(answers)

    has_ideal = judge.ideal is not None
    rows = {name: summary(answered, has_ideal) for name, answered in answers.items()}
    rows["best_of_n"]["kl"] = best_of_kl(cfg.best_of)
    numbers = {"judge": judge.name, "data": cfg.data, "run": str(run), "prompts": len(prompts), "samples": cfg.samples,
               "models": rows, **compare_all(answers, judge), "replies": judge.replies,
               "best_of": best_of_curve(candidates, cfg.best_of, has_ideal, rows["ppo"]["kl"])}
    text = report(numbers, judge, cfg.details)
    print("\n" + text)
    for stage in (*stages, "reward"):
        add_evaluation(run / stage, cfg, text)
    if cfg.json:
        write_whole(Path(cfg.json), json.dumps(numbers, indent=2) + "\n")
    if cfg.compare:
        print("\n" + compare(run / "logs" / "ppo"))


if __name__ == "__main__":
    launch(main, Config, "evaluate")
