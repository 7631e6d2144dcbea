"""TRL's PPOTrainer and ppo.py from the same SFT and reward model, on the toy, marked by the toy's judge.

    pip install torch==2.13.0 transformers==5.23.0 trl==1.12.0 accelerate datasets tiktoken tyro tensorboard matplotlib
    python experiments/trl_race.py --run out/toy --seeds 5          writes out/toy/race.json, and the picture race.svg

Both get the same prompts, numbers of responses, epochs, minibatches, learning rates and their schedule, AdamW, β, clips,
γ and λ. What TRL does otherwise is left as TRL does it; docs/trl.md lists it. Seconds are those of training alone.
"""
import argparse
import json
import os
import sys
import time
from importlib.metadata import version
from pathlib import Path
from statistics import mean, stdev
from types import SimpleNamespace

os.environ.update(TRL_EXPERIMENTAL_SILENCE="1", HF_HUB_OFFLINE="1", TQDM_DISABLE="1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

import data
import evaluate
import ppo
from text.batches import encode_prompts
from text.tokenizer import Tokenizer
from gpt import GPT, ScalarGPT
from judges import Gold
from support.checkpoint import plain_names
from support.loop import Loop
from support.optimizer import adamw, set_learning_rate


class Referee:
    """Marks a policy now and then: answers to the test prompts, as evaluate.py samples them."""

    def __init__(self, run, tokenizer, prompts, every):
        self.sft, self.rm = GPT.from_pretrained(run / "sft"), ScalarGPT.from_pretrained(run / "reward")
        self.tokenizer, self.prompts, self.every = tokenizer, prompts, every
        self.sft_answers = self.answers(self.sft)
        self.start()

    def start(self):
        self.rows, self.spent, self.began = [], 0.0, time.perf_counter()

    def answers(self, policy):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return evaluate.answer_all(policy, self.sft, self.rm, self.prompts, self.tokenizer, Gold(),
                                       evaluate.Config(), "cpu")

    def look(self, policy, update, batch_size):
        """Mark the policy after so many updates. The clock stands still meanwhile."""
        seconds = time.perf_counter() - self.began - self.spent
        answers = self.answers(policy)
        wins = evaluate.win_rate(answers, self.sft_answers)["rate"]
        self.rows.append({"responses": update * batch_size, "seconds": seconds, "wins": wins,
                          **evaluate.summary(answers, True)})
        print(f"   {update * batch_size:6} responses  {seconds:6.1f} s  ideal {self.rows[-1]['ideal']:6.1%}  "
              f"KL {self.rows[-1]['kl']:.2f}", flush=True)
        self.spent = time.perf_counter() - self.began - seconds


def ours(run, prompts, cfg, referee):
    """ppo.py's own loop."""
    class Watched(Loop):
        def __iter__(self):
            for step in super().__iter__():
                yield step
                if (step + 1) % referee.every == 0:
                    referee.look(self.parts["actor"], step + 1, cfg.batch_size)
    ppo.Loop, models = Watched, ppo.four_models(run / "sft", run / "reward", "all", "cpu", False)
    referee.start()
    samples = SimpleNamespace(tokenizer=referee.tokenizer)      # never asked for any: sample_every is too large
    ppo.train(*models, prompts, samples, Path(cfg.run) / "ppo", cfg, torch.device("cpu"))


def theirs(run, prompts, cfg, referee):
    """TRL's trainer. Its models read the same folders."""
    from datasets import Dataset
    from transformers import (AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, TrainerCallback)
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    def scorer():
        """The reward model with its normalisation as part of its head, since TRL knows of none."""
        net, shape = AutoModelForSequenceClassification.from_pretrained(run / "reward"), referee.rm.config
        head = torch.nn.Linear(shape.n_embd, 1)
        with torch.no_grad():
            head.weight.copy_(net.score.weight / shape.reward_std)
            head.bias.fill_(-shape.reward_mean / shape.reward_std)
        net.score = head
        return net

    class Look(TrainerCallback):
        def on_train_begin(self, *args, **kwargs):
            referee.start()

        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step % referee.every == 0:
                copy.load_state_dict(plain_names({k: v.clone() for k, v in policy.state_dict().items()}, run))
                referee.look(copy, state.global_step, cfg.batch_size)

    tokenizer = AutoTokenizer.from_pretrained(run / "sft")
    tokenizer.add_special_tokens({"pad_token": "<|pad|>"})      # TRL finds pads by their id: they need one of their own
    copy, policy, value = GPT.from_pretrained(run / "sft"), AutoModelForCausalLM.from_pretrained(run / "sft"), scorer()
    optimizer = torch.optim.AdamW([{"params": policy.parameters(), "lr": cfg.lr},
                                   {"params": value.parameters(), "lr": cfg.critic_lr}],
                                  betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    rate = adamw(torch.nn.Linear(1, 1))                         # our schedule, as a share of the peak
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: set_learning_rate(rate, 1.0, min(step, cfg.steps - 1), cfg.steps))
    args = PPOConfig(
        output_dir=cfg.run, seed=cfg.seed, use_cpu=True, bf16=False, gradient_checkpointing=False, report_to="none",
        disable_tqdm=True, save_strategy="no", num_sample_generations=0, logging_steps=10**9, dataloader_pin_memory=False,
        total_episodes=cfg.steps * cfg.batch_size, per_device_train_batch_size=cfg.batch_size,
        gradient_accumulation_steps=1, local_rollout_forward_batch_size=cfg.batch_size, num_ppo_epochs=cfg.epochs,
        num_mini_batches=cfg.minibatches, response_length=cfg.max_new_tokens, temperature=cfg.temperature,
        stop_token="eos", missing_eos_penalty=-cfg.missing_eos_score, kl_coef=cfg.kl_coef, kl_estimator="k1",
        cliprange=cfg.clip, cliprange_value=cfg.value_clip, gamma=cfg.gamma, lam=cfg.lam, vf_coef=1.0)
    rows = Dataset.from_dict({"input_ids": prompts})
    PPOTrainer(args=args, processing_class=tokenizer, model=policy, reward_model=scorer(), value_model=value,
               ref_model=AutoModelForCausalLM.from_pretrained(run / "sft"), train_dataset=rows, eval_dataset=rows,
               optimizers=(optimizer, schedule), callbacks=[Look()]).train()


def draw(results, file):
    import matplotlib
    matplotlib.use("agg")
    import matplotlib.pyplot as plt
    grey = "#8a8a8a"                # of text and axes: it reads on white and on black
    plt.rcParams.update({key: grey for key in (
        "text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")})
    plt.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "plainRLHF", "legend.frameon": False})
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.2), constrained_layout=True)
    for key, title, axis in (("ideal", "ideal answers", axes[0]), ("wins", "wins over SFT, ties half", axes[1]),
                             ("kl", "KL to SFT, nats an answer", axes[2])):
        for side, colour in (("ppo.py", "C0"), ("TRL", "C1")):
            runs = [run["rows"] for run in results if run["side"] == side]
            for i, rows in enumerate(runs):
                axis.plot([row["responses"] for row in rows], [row[key] for row in rows], colour, alpha=0.3, lw=0.8)
            middle = [mean(rows[i][key] for rows in runs) for i in range(len(runs[0]))] if runs else []
            axis.plot([row["responses"] for row in runs[0]] if runs else [], middle, colour, label=side)
        axis.set(title=title, xlabel="responses")
    axes[0].legend()
    figure.savefig(file, transparent=True, metadata={"Date": None})


def table(results):
    """The last marks as a table in Markdown: mean ± standard deviation over the seeds, and the worst seed."""
    print("\n| | seeds | ideal | the worst | wins over SFT | KL, nats | ends | tokens an answer | seconds |\n"
          "|---|---|---|---|---|---|---|---|---|")
    for side in sorted({run["side"] for run in results}, reverse=True):
        last = [run["rows"][-1] for run in results if run["side"] == side]
        cells = [str(len(last))]
        for key, form in (("ideal", "{:.1%}"), ("wins", "{:.1%}"), ("kl", "{:.2f}"), ("eos_rate", "{:.1%}"),
                          ("length", "{:.1f}"), ("seconds", "{:.0f}")):
            values = [row[key] for row in last]
            cells.append(form.format(mean(values)) + (f" ± {form.format(stdev(values))}" if len(values) > 1 else ""))
            if key == "ideal":
                cells.append(form.format(min(values)))
        print(f"| {side} | " + " | ".join(cells) + " |")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--run", default="out/toy", help="the folder with sft/ and reward/")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--sides", default="ppo.py,TRL")
    parser.add_argument("--every", type=int, default=10, help="updates between two looks")
    parser.add_argument("--steps", type=int, default=ppo.Config.steps)
    flags = parser.parse_args()
    run = Path(flags.run)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    train_set, test_set = data.load("toy")
    tokenizer = Tokenizer.shared(run / "sft", run / "reward")
    prompts = encode_prompts(train_set.prompts, tokenizer, 128, 32)
    referee = Referee(run, tokenizer, test_set.prompts * 4, flags.every)
    file, results = run / "race.json", []
    if file.exists():
        results = json.loads(file.read_text())["runs"]
    for seed in range(flags.first, flags.first + flags.seeds):
        for side in flags.sides.split(","):
            if any((run["side"], run["seed"]) == (side, seed) for run in results):
                continue
            print(f"{side}, seed {seed}", flush=True)
            cfg = ppo.Config(run=str(run / "race" / f"{side}-{seed}"), seed=seed, steps=flags.steps,
                             sample_every=10**9)
            torch.manual_seed(seed)
            (ours if side == "ppo.py" else theirs)(run, prompts, cfg, referee)
            results.append({"side": side, "seed": seed, "rows": referee.rows})
            versions = {name: version(name) for name in ("torch", "transformers", "trl")}
            file.write_text(json.dumps({"versions": versions, "date": time.strftime("%F"), "runs": results}) + "\n")
    draw(results, run / "race.svg")
    table(results)


if __name__ == "__main__":
    main()
