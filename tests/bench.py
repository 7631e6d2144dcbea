"""What the work costs, beside `transformers` on the same weights in the same process.

    python tests/bench.py                       sizes S and M; a few minutes. Nothing else should run meanwhile
    python tests/bench.py --sizes S --json bench.json
    python tests/bench.py --bf16                bfloat16 on both sides

Ours and theirs take turns, and each number is a median. "of peak" is the share of what this machine reaches in one
large matrix product: 2 operations for each weight of a matrix and token, three times that with a backward pass;
attention is not counted. Each line of the table is a process of its own. Its peak memory is that of the process: where
there is a factor, both models and `transformers` itself are in it.
"""
import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
import torch.nn.functional as F

import ppo
from gpt import GPT, ScalarGPT
from reward import pairwise_loss, score_pairs
from sft import sft_loss
from support.optimizer import adamw, take_step

# name -> shape (vocabulary, positions, layers, heads, channels), responses of a rollout, responses of a minibatch
SIZES = {"S": ((512, 256, 4, 4, 128), 32, 8), "M": ((50257, 1024, 12, 12, 768), 8, 4),
         "L": ((50257, 1024, 24, 16, 1024), 128, 32),              # for GPUs
         "V": ((50257, 1024, 1, 1, 64), 4, 4)}                     # a large vocabulary and little else, for its memory
PROMPT, NEW, EPOCHS = 32, 64, 4
ROWS, LENGTH = 16, 128                                              # of a step of SFT; pairs, and tokens, of reward.py
WORK = ("generation", "SFT step", "reward step", "PPO iteration")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")

# ----------------------------------------------------------------------------- the machine

def seconds(function):
    """What one call takes, the GPU's queue included."""
    start = time.perf_counter()
    function()
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def peak_rate(dtype):
    """Operations a second in one large matrix product."""
    n = 8192 if DEVICE.type == "cuda" else 2048
    a, b = torch.randn(2, n, n, device=DEVICE, dtype=dtype)
    return 2 * n ** 3 / min(seconds(lambda: a @ b) for _ in range(5))


def peak_memory():
    """MiB: of the GPU, or of the process."""
    if DEVICE.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2 ** 20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2 ** 10

# ----------------------------------------------------------------------------- ours and theirs

def models(size, bf16, layers=None):
    """GPT and ScalarGPT with random weights; nothing ever ends, so that every response has its NEW tokens."""
    (vocabulary, positions, n_layer, n_head, n_embd), *_ = SIZES[size]
    shape = vocabulary, positions, layers or n_layer, n_head, n_embd, vocabulary
    return [kind(kind.Config(*shape)).place(DEVICE, bf16) for kind in (GPT, ScalarGPT)]


def twin(model):
    """The same weights as a model of `transformers`."""
    from transformers import GPT2Config, GPT2ForSequenceClassification, GPT2LMHeadModel
    c, scalar = model.config, isinstance(model, ScalarGPT)
    config = GPT2Config(vocab_size=c.vocab_size, n_positions=c.block_size, n_layer=c.n_layer, n_head=c.n_head,
                        n_embd=c.n_embd, attn_pdrop=0, embd_pdrop=0, resid_pdrop=0, eos_token_id=None,
                        bos_token_id=None, **(dict(num_labels=1, pad_token_id=0) if scalar else {}))
    theirs = (GPT2ForSequenceClassification if scalar else GPT2LMHeadModel)(config)
    turned = ("c_attn.weight", "c_proj.weight", "c_fc.weight")      # transformers has them (in, out)
    theirs.load_state_dict({name: tensor.T if name.endswith(turned) else tensor
                            for name, tensor in model.state_dict().items()}, strict=False)
    return theirs.to(DEVICE)


def generation(size, bf16, prompt=PROMPT, new=NEW, batch=None, layers=None):
    """(ours, theirs, what one call does, tokens that pass the blocks, and the head), backward passes counted twice."""
    model, batch = models(size, bf16, layers)[0], batch or SIZES[size][1]
    other, model = twin(model), model.place(DEVICE, bf16, frozen=True)
    other = other.bfloat16() if bf16 else other
    ids = torch.randint(1, 512, (batch, prompt), device=DEVICE)
    options = dict(attention_mask=torch.ones_like(ids), max_new_tokens=new, min_new_tokens=new, pad_token_id=0)

    def theirs(sample=True):
        with torch.no_grad():
            return other.generate(ids, do_sample=sample, **options, **(dict(top_k=0) if sample else {}))[:, prompt:]
    mask = torch.ones_like(ids, dtype=torch.bool)
    if not bf16 and model.config.vocab_size == 512:                 # 50,257 random logits have near ties
        assert torch.equal(model.generate(ids, mask, new, temperature=0)[0], theirs(sample=False)), "other tokens"
    return lambda: model.generate(ids, mask, new), theirs, batch * new, batch * (prompt + new), batch * new


def sft_step(size, bf16):
    model = models(size, bf16)[0]
    other, optimizer = twin(model), adamw(model)
    theirs_optimizer = adamw(other)
    ids = torch.randint(1, 512, (ROWS, LENGTH), device=DEVICE)
    examples = [([], row) for row in ids.tolist()]

    def ours():
        sft_loss(model, examples, DEVICE).backward()
        take_step(model, optimizer)

    def theirs():
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=bf16):
            loss = other(input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids).loss
        loss.backward()
        take_step(other, theirs_optimizer)
    return ours, theirs, ROWS * LENGTH, 3 * ROWS * LENGTH, 3 * ROWS * LENGTH


def reward_step(size, bf16):
    model = models(size, bf16)[1]
    other, optimizer = twin(model), adamw(model)
    theirs_optimizer = adamw(other)
    ids = torch.randint(1, 512, (2 * ROWS, LENGTH), device=DEVICE)
    pairs = [([], pair) for pair in zip(ids[::2].tolist(), ids[1::2].tolist())]

    def ours():
        pairwise_loss(*score_pairs(model, pairs, DEVICE)).backward()
        take_step(model, optimizer)

    def theirs():
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=bf16):
            scores = other(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[:, 0]
        (-F.logsigmoid(scores[::2] - scores[1::2]).mean()).backward()
        take_step(other, theirs_optimizer)
    return ours, theirs, 2 * ROWS * LENGTH, 6 * ROWS * LENGTH, 0


def ppo_iteration(size, bf16, prompt=PROMPT, new=NEW, batch=None, layers=None):
    """Four models, EPOCHS passes in minibatches. `transformers` has no PPO to compare with."""
    actor, critic = models(size, bf16, layers)
    reference, reward_model = models(size, bf16, layers)
    reference.load_state_dict(actor.state_dict()), reward_model.load_state_dict(critic.state_dict())
    for model in (reference, reward_model):
        model.place(DEVICE, bf16, frozen=True)
    batch = batch or SIZES[size][1]
    cfg = ppo.Config(epochs=EPOCHS, minibatches=max(1, batch // SIZES[size][2]), max_new_tokens=new)
    prompts = torch.randint(1, 512, (batch, prompt), device=DEVICE)
    mask, optimizers = torch.ones_like(prompts, dtype=torch.bool), (adamw(actor), adamw(critic))
    for optimizer in optimizers:
        optimizer.param_groups[0]["lr"] = 1e-6
    parts = {"rollout": [], "rollout and scoring": [], "learning": []}

    def ours():
        parts["rollout"].append(seconds(lambda: actor.generate(prompts, mask, new)))    # once more, to know its share
        made = []
        parts["rollout and scoring"].append(seconds(lambda: made.append(
            ppo.make_experience(actor, critic, reference, reward_model, prompts, mask, 0.05, cfg))))
        parts["learning"].append(seconds(lambda: ppo.learn(actor, critic, *optimizers, made[0], cfg)))
    ours.parts = parts
    passes, head_passes = 1 + 3 + 2 * 3 * EPOCHS, 1 + 1 + 3 * EPOCHS
    return ours, None, batch, passes * batch * (prompt + new), head_passes * batch * new


FUNCTIONS = dict(zip(WORK, (generation, sft_step, reward_step, ppo_iteration)))

# ----------------------------------------------------------------------------- one line of a table

def measure(work, size, bf16, repeats, **changes):
    """The numbers of one line."""
    torch.manual_seed(0)
    ours, theirs, done, passes, head_passes = FUNCTIONS[work](size, bf16, **changes)
    times = {"ours": [], "theirs": []}
    for _ in range(repeats + 1):                                    # the first warms up
        times["ours"].append(seconds(ours))
        if theirs:
            times["theirs"].append(seconds(theirs))
    row = {"work": work, "size": size, **changes}
    took = statistics.median(times["ours"][1:])
    if work == "PPO iteration":
        rollout, both, learning = (statistics.median(part[1:]) for part in ours.parts.values())
        row.update(rollout=rollout, scoring=both - rollout, learning=learning)
        took = both + learning
    row.update(seconds=took, rate=done / took, unit="responses/s" if work == "PPO iteration" else "tokens/s")
    if theirs:
        row.update(theirs=statistics.median(times["theirs"][1:]))
        row.update(ratio=row["theirs"] / took)
    (vocabulary, _, n_layer, _, n_embd), *_ = SIZES[size]
    operations = 2 * (12 * n_embd ** 2 * changes.get("layers", n_layer) * passes + vocabulary * n_embd * head_passes)
    row.update(of_peak=operations / took / peak_rate(torch.bfloat16 if bf16 else torch.float32), mib=peak_memory())
    return row


def apart(repeats, bf16, **line):
    """`measure` in a process of its own."""
    command = [sys.executable, __file__, "--one", json.dumps({"repeats": repeats, "bf16": bf16, **line})]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    if done.returncode:
        sys.exit(done.stderr)
    row = json.loads(done.stdout.splitlines()[-1])
    show(row, line)
    return row


def show(row, line):
    name = " ".join(f"{key} {value}" for key, value in line.items() if key not in ("work", "size"))
    ratio = f"{row['ratio']:8.2f} x" if "ratio" in row else " " * 10
    print(f"{row['work']:14}{row['size']:3}{name:14}{row['seconds']:9.3f} s {row['rate']:10,.1f} {row['unit']:12}"
          f"{ratio}{row['of_peak']:8.0%}{row['mib']:9,.0f} MiB", flush=True)
    if row["work"] == "PPO iteration":
        print(" " * 31 + "  ".join(f"{part} {row[part]:.3f} s" for part in ("rollout", "scoring", "learning")))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", nargs="*", default=["S", "M"] + ["L"] * (DEVICE.type == "cuda"), choices=SIZES)
    parser.add_argument("--work", nargs="*", default=WORK, choices=WORK)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--scaling", default="S", help="size of the second table; empty leaves it out")
    parser.add_argument("--json", default="")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.one:
        return print(json.dumps(measure(**json.loads(flags.one))))
    print(f"{'':31}{'median':>11} {'rate':>23}{'x transformers':>16}{'of peak':>6}{'memory':>12}")
    rows = [apart(flags.repeats, flags.bf16, work=work, size=size) for size in flags.sizes for work in flags.work]
    scaling = []
    if flags.scaling:
        batch, layers = SIZES[flags.scaling][1], SIZES[flags.scaling][0][2]
        changes = {"batch": (batch // 2, 2 * batch), "prompt": (64, 128), "new": (32, 128), "layers": (2 * layers,)}
        print("\nhow cost grows, one change at a time")
        scaling = [apart(flags.repeats, flags.bf16, work="PPO iteration", size=flags.scaling, **{name: value})
                   for name, values in changes.items() for value in values]
        print("\nlogits of prompts, which nobody reads, would take 345 MiB more in the second line")
        scaling += [apart(1, flags.bf16, work="PPO iteration", size="V", new=16, prompt=value) for value in (32, 482)]
    if flags.json:
        Path(flags.json).write_text(json.dumps({"device": str(DEVICE), "threads": torch.get_num_threads(),
                                                "bf16": flags.bf16, "rows": rows, "scaling": scaling}, indent=2) + "\n")


if __name__ == "__main__":
    main()
