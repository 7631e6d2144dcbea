"""Who wins: base, SFT, best-of-n and PPO respond to the same test prompts, and a judge compares.

    python evaluate.py                  the toy: a few seconds
    python evaluate.py --json out/toy/evaluation.json
    python evaluate.py --best_of 64 --details   best of 2 to 64, who wins at which length
    python evaluate.py --compare        is this run normal? Compares its curves with good ones

The judge of the toy is a function that no training script can see: it says what the reward model
only estimates. Other data sets have none. There the reward model scores the responses, and the
table says so: it shows how far PPO got by its own measure, and nothing about whether people would
agree. --judge names other judges, which say more (docs/judges.md).

best_of_n is what the reward model can do without further training: the SFT model responds n times,
and the response with the highest score is taken.
"""
import math
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import fmean as mean

import torch

import data
from gpt import GPT, ScalarGPT, response_logprobs
from judges import open_judge
from judges.by_length import by_length
from judges.normal import compare
from judges.report import report, show_samples
from judges.win_rate import agreement, siblings, win_rate
from support import UserError
from support.command_line import Flags, Text, launch, start
from support.files import write_whole
from support.runs import check_origin, find_model
from text.batches import encode_prompts, pad
from text.rule import Rule
from text.tokenizer import Tokenizer


@dataclass
class Config(Flags):            # with --data, --run, --preset, --seed, --device, --precision
    reward: Text = ""           # MODULE:FUNCTION that ppo.py learned from instead of a reward model
    judge: Text = ""            # reward model's folder, http://…/v1, vader; without it the data's
    judge_model: Text = ""      # name of the language model at that address
    details: bool = False       # print best of 2, 4, … n, win rates by length, and repetition
    compare: bool = False       # say whether the curves of ppo.py are normal, for a run of the toy
    samples: int = 4            # responses of each model to each test prompt
    prompts: int = 256          # maximum number of test prompts
    best_of: int = 8            # n of best of n, the SFT model's n responses
    max_new_tokens: int = 32    # maximum response length in tokens
    temperature: float = 0.7    # sampling temperature of all models: lower than in training
    missing_eos_score: float | None = None  # score if unfinished; None: reward.py's lowest sample
    batch_size: int = 256       # responses at a time
    json: Text = ""             # file for the numbers

# ----------------------------------------------------------------------------- responses

@dataclass
class Response:
    """One response to one prompt."""
    prompt: str
    text: str
    proxy: float        # the reward model's score; if unfinished, a low one
    ended: bool         # with <|endoftext|>
    length: int         # tokens, <|endoftext|> included
    kl: float           # log π(response) - log π_sft(response), nats
    score: float = None     # the judge's; a language model gives none, it only compares
    ideal: bool = None      # could not be better, says the judge if it can tell


@torch.no_grad()
def respond_all(model, sft, reward_model, prompts, tokenizer, judge, cfg, device):
    """One sampled Response to each prompt (str), in order."""
    responses = []
    models = (model, sft) if isinstance(reward_model, Rule) else (model, sft, reward_model)
    block_size = min(one.config.block_size for one in models)
    lowest = reward_model.unfinished_score(cfg.missing_eos_score)
    encoded = encode_prompts(prompts, tokenizer, block_size, cfg.max_new_tokens)
    if isinstance(reward_model, Rule):
        reward_model.expect(prompts, encoded)
    for i in range(0, len(prompts), cfg.batch_size):
        batch = encoded[i:i + cfg.batch_size]
        prompt_ids, prompt_mask = pad(batch, left=True, device=device)              # (B, P) each
        tokens, response_mask, logprobs = model.generate(
            prompt_ids, prompt_mask, cfg.max_new_tokens, cfg.temperature)           # (B, R) each
        ids = torch.cat([prompt_ids, tokens], dim=1)                                # (B, P+R)
        mask = torch.cat([prompt_mask, response_mask], dim=1)                       # (B, P+R)
        R = tokens.shape[1]
        sft_logprobs = response_logprobs(sft, ids, mask, R, cfg.temperature)        # (B, R)
        kl = ((logprobs - sft_logprobs) * response_mask).sum(1)                     # (B)
        ended = ((tokens == tokenizer.eos) & response_mask).any(1)                  # (B)
        scores = reward_model.reward(ids, mask)                                     # (B)
        proxy = torch.where(ended, scores, lowest)                                  # (B)
        for j, prompt in enumerate(prompts[i:i + cfg.batch_size]):
            said = tokens[j][response_mask[j]].tolist()
            responses.append(Response(prompt, tokenizer.decode(said), proxy[j].item(),
                                      ended[j].item(), len(said), kl[j].item()))
    for response, score in zip(responses, judge.score(responses)):
        response.score = score
        response.ideal = None if judge.ideal is None else score == judge.ideal
    return responses


def best_of(responses, n):
    """Of each n responses in a row the one with the highest score of the reward model."""
    groups = [responses[i:i + n] for i in range(0, len(responses), n)]
    return [max(group, key=lambda response: response.proxy) for group in groups]

# ----------------------------------------------------------------------------- numbers

def summary(responses):
    """The row of one model: means, or None where the judge gives no number."""
    measures = {"score": "score", "ideal": "ideal", "proxy": "proxy", "eos_rate": "ended",
                "length": "length", "kl": "kl"}
    columns = {key: [getattr(r, name) for r in responses] for key, name in measures.items()}
    return {key: None if None in values else mean(values) for key, values in columns.items()}


def distinct_2(responses):
    """The share of different pairs among all pairs of neighbouring words in the responses (Li et
    al., arXiv:1510.03055): low if a model repeats itself. None without a pair."""
    pairs = [pair for response in responses for pair in pairwise(response.text.split())]
    return len(set(pairs)) / len(pairs) if pairs else None


def best_of_kl(n):
    """Upper bound of the KL of the best of n, in nats (Beirami et al., arXiv:2401.01879)."""
    return math.log(n) - (n - 1) / n


def best_of_curve(candidates, most, ppo_kl):
    """{n: row of the best of n} for n = 2, 4, … and `most`, and the n whose KL is nearest to PPO's.

    Every n uses all candidates, `most` in a row to each prompt. Of n drawn among them, the i-th
    best (from 0) is the best with probability C(most - 1 - i, n - 1) / C(most, n) (WebGPT,
    arXiv:2112.09332, appendix I).
    """
    groups = [candidates[i:i + most] for i in range(0, len(candidates), most)]
    ranked = [sorted(group, key=lambda r: r.proxy, reverse=True) for group in groups]
    by_rank = [summary(place) for place in zip(*ranked)]                    # best first
    counts = {most, *(2 ** i for i in range(1, most.bit_length()))}
    if ppo_kl <= best_of_kl(most):
        counts.add(min(range(1, most + 1), key=lambda n: abs(best_of_kl(n) - ppo_kl)))
    curve = {}
    for n in sorted(counts):
        chances = [math.comb(most - 1 - i, n - 1) / math.comb(most, n) for i in range(most)]
        curve[n] = {key: None if best is None else
                    sum(chance * row[key] for chance, row in zip(chances, by_rank))
                    for key, best in by_rank[0].items()} | {"kl": best_of_kl(n)}
    return curve


def compare_all(responses, judge):
    """Who wins; at which length; and how often the reward model agrees with another judge."""
    rivals = (("sft", "base"), ("best_of_n", "sft"), ("ppo", "sft"), ("ppo", "best_of_n"))
    pairs = {f"{a}_vs_{b}": (responses[a], responses[b]) for a, b in rivals if b in responses}
    contests = list(pairs)
    agreed = []
    if not judge.is_proxy:
        pairs |= {f"{a}_vs_{a}": siblings(responses[a]) for a in ("sft", "ppo")}
        agreed = ["sft_vs_sft", "ppo_vs_sft", "ppo_vs_ppo"]
    verdicts = judge.compare(pairs)             # all at once: a judge may want to be paid for each
    return {"win_rates": {name: win_rate(*pairs[name], verdicts[name]) for name in contests},
            "by_length": by_length(*pairs["ppo_vs_sft"], verdicts["ppo_vs_sft"]),
            "agreement": {name: agreement(*pairs[name], verdicts[name]) for name in agreed}}

# ----------------------------------------------------------------------------- main

def main(cfg):
    run, device, bf16 = start(cfg)
    if cfg.compare and cfg.data.partition(":")[0] != "toy":
        raise UserError(f"--compare: the good runs are of the toy, not of {cfg.data}; leave it out")
    _, test_set = data.load(cfg.data)
    prompts = test_set.need("prompts", cfg.data)[:cfg.prompts]
    needed = ("sft", "ppo") if cfg.reward else ("sft", "reward", "ppo")
    folders = {stage: find_model(run, stage) for stage in needed}
    for stage in needed:
        check_origin(run, stage)
    tokenizer = Tokenizer.load(folders["sft"])
    reward_model = Rule(cfg.reward, tokenizer) if cfg.reward else ScalarGPT.from_pretrained(
        folders["reward"], device, bf16, frozen=True)
    judge = open_judge(cfg, run, device, bf16)
    stages = [name for name in ("base", "sft", "ppo") if (run / name / "config.json").exists()]
    models = {stage: GPT.from_pretrained(run / stage, device, bf16, frozen=True)
              for stage in stages}

    respond = partial(respond_all, sft=models["sft"], reward_model=reward_model,
                      tokenizer=tokenizer, judge=judge, cfg=cfg, device=device)
    repeated = [prompt for prompt in prompts for _ in range(cfg.samples)]
    responses = {stage: respond(models[stage], prompts=repeated) for stage in stages}
    candidates = respond(models["sft"], prompts=[p for p in repeated for _ in range(cfg.best_of)])
    responses["best_of_n"] = best_of(candidates, cfg.best_of)
    responses["ppo"] = responses.pop("ppo")     # last in every table
    show_samples(responses, cfg.best_of)

    rows = {name: {**summary(given), "distinct_2": distinct_2(given)}
            for name, given in responses.items()}
    rows["best_of_n"]["kl"] = best_of_kl(cfg.best_of)
    curve = best_of_curve(candidates, cfg.best_of, rows["ppo"]["kl"])
    numbers = {"judge": judge.name, "data": cfg.data, "run": str(run), "prompts": len(prompts),
               "proxy": cfg.reward or "the reward model", "samples": cfg.samples, "models": rows,
               **compare_all(responses, judge),
               "replies": judge.replies, "best_of": curve}
    print("\n" + report(numbers, judge, cfg.details))
    if cfg.json:
        write_whole(Path(cfg.json), numbers)
    if cfg.compare:
        print("\n" + compare(run / "logs" / "ppo"))


if __name__ == "__main__":
    launch(main, Config, "evaluate")
