"""What can be counted instead of sampled: means over all answers of the enumerable task. Bias and
variance of a gradient estimate are then numbers without noise, and so is where a method ends.

    python -m notebooks.exact       prints the five tables of docs/numerics.md: seconds

A policy is a table here: a row of logits for each state, a state being the tokens so far. The
gradient estimate of one answer is Σ w_t ∇ log π(y_t), by these logits.

Axes: A answers, R tokens, S states, V vocabulary, K answers in a group.
"""
import copy
from statistics import fmean

import torch
import torch.nn as nn
import torch.nn.functional as F

import methods
from experiments.runs import table
from notebooks.enumerable import END, PROMPT, Task, optimum
from ppo import gae
from text.batches import pad

TASKS = range(20)               # seeds of the tasks that a table has means over
LAMBDAS = (0.0, 0.5, 0.8, 0.95, 1.0)
CRITIC_ERROR = 0.5              # deviation of what a critic says wrongly of a state


class Tree:
    """The answers of a task and the states on their way. ids, mask, state: (A, R), state a number
    below S; lengths, rewards: (A)."""

    def __init__(self, task):
        self.ids, self.mask = pad(task.answers)                         # 2 x (A, R)
        prefixes = {answer[:t] for answer in task.answers for t in range(len(answer))}
        self.prefixes = sorted(prefixes, key=lambda prefix: (len(prefix), prefix))
        index = {prefix: s for s, prefix in enumerate(self.prefixes)}
        self.state = torch.zeros_like(self.ids)
        for a, answer in enumerate(task.answers):
            self.state[a, :len(answer)] = torch.tensor([index[answer[:t]]
                                                        for t in range(len(answer))])
        self.lengths, self.rewards = self.mask.sum(1), task.rewards     # (A), (A)

    @torch.no_grad()
    def logits(self, policy):
        """The table (S, V) of a GPT: log π of the next token in each state."""
        rows = [policy(torch.tensor([[*PROMPT, *prefix]]))[0, -1] for prefix in self.prefixes]
        return torch.stack(rows).double().log_softmax(-1)

    def logprobs(self, logits):
        """log π (A, R) of all tokens, 0 beyond the end."""
        return logits.log_softmax(-1)[self.state, self.ids] * self.mask

    def probs(self, logits):
        """π (A) of all answers."""
        return self.logprobs(logits).sum(1).exp()

    def gradients(self, logits, weights):
        """Σ_t w_t ∇ log π(y_t) of each answer, by the logits: weights (A, R) -> (A, S, V)."""
        pushed = F.one_hot(self.ids, logits.shape[1]) - logits.softmax(-1)[self.state]  # (A, R, V)
        found = torch.zeros(*self.ids.shape[:1], *logits.shape, dtype=torch.double)
        index = self.state[..., None].expand_as(pushed)
        return found.scatter_add(1, index, pushed * (weights * self.mask)[..., None])

    def by_action(self, p, weights):
        """E[w_t | state, token] (S, V) of weights (A, R) under p (A); 0 where nothing passes."""
        sums = torch.zeros(2, len(self.prefixes), END + 1, dtype=torch.double)
        share = p[:, None] * self.mask                                  # (A, R)
        for sum_, x in zip(sums, (share * weights, share)):
            sum_.index_put_((self.state, self.ids), x, accumulate=True)
        return sums[0] / sums[1].clamp(min=1e-300)


def moments(p, estimates):
    """Mean (S, V) and variance (a number: the sum over S and V) of estimates (A, S, V) under p."""
    mean = (p[:, None, None] * estimates).sum(0)
    return mean, (p[:, None, None] * (estimates - mean) ** 2).sum().item()


def true_gradient(tree, logits):
    """∇ E[r] (S, V) by autograd, through nothing but the probabilities of all answers."""
    logits = logits.clone().requires_grad_()
    return torch.autograd.grad((tree.probs(logits) * tree.rewards).sum(), logits)[0]

# ---------- GAE: bias and variance over λ

def state_values(tree, logits):
    """The exact V (S): the mean reward of the answers that pass a state."""
    p, total = tree.probs(logits), torch.zeros(2, len(tree.prefixes), dtype=torch.double)
    for sum_, x in zip(total, (p * tree.rewards, p)):
        sum_.index_put_((tree.state,), x[:, None] * tree.mask, accumulate=True)
    return total[0] / total[1]


def gae_moments(tree, logits, values, lam):
    """(bias², variance) of the policy gradient of one answer, with advantages by ppo.gae from a
    critic that says `values` (S)."""
    last = F.one_hot(tree.lengths - 1, tree.ids.shape[1])               # (A, R)
    advantages, _ = gae(last * tree.rewards[:, None], values[tree.state] * tree.mask, 1.0, lam)
    p = tree.probs(logits)
    mean, variance = moments(p, tree.gradients(logits, advantages))
    return ((mean - true_gradient(tree, logits)) ** 2).sum().item(), variance

# ---------- a sampler that is not the learner

def rounded(policy, bits):
    """A copy whose matrices have 2 ** bits - 1 levels a row, as quantised weights have."""
    policy = copy.deepcopy(policy)
    for module in policy.modules():
        if isinstance(module, nn.Linear):
            with torch.no_grad():
                step = module.weight.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1)
                module.weight.copy_((module.weight / step).round() * step)
    return policy


def later(tree, logits, updates, rate=1.0):
    """The table after some exact gradient steps: what has become of the learner when the answers
    that it sampled come back."""
    for _ in range(updates):
        logits = logits + rate * true_gradient(tree, logits)
    return logits


def samplers(task, tree):
    """{name: (learner, sampler)}, tables (S, V)."""
    policy = task.reference
    exact = tree.logits(policy)
    half = copy.deepcopy(policy).place("cpu", bf16=True)
    return {"bf16": (exact, tree.logits(half)), "8 bits": (exact, tree.logits(rounded(policy, 8))),
            "4 bits": (exact, tree.logits(rounded(policy, 4))),
            **{f"stale by {n}": (later(tree, exact, n), exact) for n in (1, 4, 16)}}


def token_weights(tree, learner, sampler, cap):
    """What truncated importance sampling weighs each token by, (A, R)."""
    return methods.truncated_weights(
        tree.logprobs(learner), tree.logprobs(sampler), tree.mask, cap)


def answer_weights(tree, learner, sampler, cap):
    """The same of whole answers, (A, 1): without a cap, the weights that leave no bias."""
    return (tree.probs(learner) / tree.probs(sampler)).clamp(max=cap)[:, None]


def off_policy(tree, learner, sampler, weights):
    """(bias, deviation) of the learner's gradient from one answer of the sampler, in lengths of the
    true one. The baseline is the sampler's mean reward, as in a rollout."""
    mu, right = tree.probs(sampler), true_gradient(tree, learner)
    advantages = (tree.rewards - (mu * tree.rewards).sum())[:, None]    # (A, 1)
    mean, variance = moments(mu, tree.gradients(learner, weights * advantages))
    return ((mean - right).norm() / right.norm()).item(), variance ** 0.5 / right.norm().item()

# ---------- groups: what an answer's advantage is on average

def groups(count, k):
    """All groups of k of `count` answers, (count ** k, k); the first of them varies slowest."""
    return torch.cartesian_prod(*[torch.arange(count)] * k).view(-1, k)


def mean_over_groups(p, values, members):
    """E[value | the first of a group is y] (A): the others are drawn from p."""
    chance = p[members[:, 1:]].prod(1)                                  # (groups)
    return (chance * values).view(len(p), -1).sum(1)


def group_advantages(p, rewards, k, advantages_of):
    """E[A | y] (A) of an advantage function of methods.py, in a group of k drawn from p."""
    members = groups(len(p), k)
    found = advantages_of(rewards[members].flatten(), k).view(-1, k)[:, 0]
    return mean_over_groups(p, found, members)


def shared_advantages(tree, p, k, count, divide):
    """E[A x share | y] (A): what a token of an answer is pushed by in GRPO (`count` is
    "responses"), DAPO ("tokens") or Dr. GRPO ("budget"); see methods.token_shares."""
    members = groups(len(p), k)
    lengths = tree.lengths[members].double()                            # (groups, k)
    share = {"responses": k * lengths[:, 0], "tokens": lengths.sum(1),
             "budget": k * tree.ids.shape[1]}[count]
    A = methods.within_group(tree.rewards[members].flatten(), k, divide).view(-1, k)[:, 0]
    return mean_over_groups(p, A / share, members)


def growth(tree, logits, direction, some):
    """How fast the mean length of the answers in `some` (A) changes along a direction (S, V),
    tokens for a step of length 1."""
    logits = logits.clone().requires_grad_()
    p = tree.probs(logits) * some
    slope, = torch.autograd.grad((p * tree.lengths).sum() / p.sum(), logits)
    return ((slope * direction).sum() / direction.norm()).item()

# ---------- fixed points

def rloo_push(tree, logits, ref, beta, k):
    """The mean weight of each token (A, R) in RLOO: the penalty is in the reward."""
    p, logprobs = tree.probs(logits), tree.logprobs(logits)
    whole = tree.rewards - beta * (logprobs - tree.logprobs(ref)).sum(1)        # (A)
    return group_advantages(p, whole, k, methods.leave_one_out)[:, None].expand_as(logprobs)


def dr_grpo_push(tree, logits, ref, beta, k):
    """GRPO's push without the two divisions, with the penalty."""
    return grpo_push(tree, logits, ref, beta, k, divide=False)


def grpo_push(tree, logits, ref, beta, k, divide=True):
    """The same in GRPO: the penalty is k3 in the loss, whose slope by log π is 1 - π_ref / π, and
    each answer is divided by its length, and the advantage by the group's deviation; or neither."""
    A = group_advantages(tree.probs(logits), tree.rewards, k,
                         lambda scores, k: methods.within_group(scores, k, divide))
    slope = 1 - (tree.logprobs(ref) - tree.logprobs(logits)).exp()              # (A, R)
    return (A[:, None] - beta * slope) / (tree.lengths[:, None] if divide else 1)


def fixed_point(tree, push, ref, beta, k, rate=0.2):
    """The table (S, V) at which no token is pushed more than another of its state, on average; by
    steps from the reference on."""
    logits = ref.clone()
    for _ in range(5000):
        pushed = tree.by_action(tree.probs(logits), push(tree, logits, ref, beta, k))   # (S, V)
        after = (logits + rate * pushed).log_softmax(-1)
        moved, logits = (after - logits).abs().max(), after
        if moved < 1e-12:
            return logits
    raise ArithmeticError(f"still moving by {moved:.0e} a step")


def dpo_fixed_point(tree, ref, beta):
    """log π (A) at the minimum of DPO's loss over all pairs of answers, whose preferences are those
    of the rewards (Bradley-Terry)."""
    prefer = torch.sigmoid(tree.rewards[:, None] - tree.rewards)        # (A, A)
    start = logp = tree.logprobs(ref).sum(1)                            # (A)
    for _ in range(3000):
        margin = beta * (logp - start)                                  # (A)
        error = prefer - torch.sigmoid(margin[:, None] - margin)        # (A, A), minus the slope
        logp = (logp + error.sum(1) * 4 / (beta * len(logp))).log_softmax(0)
    return logp

# ---------- what a person reads

def row(name, numbers, digits=2):
    """A name, and the means of columns of numbers."""
    return [name, *(f"{fmean(column):.{digits}f}" for column in zip(*numbers))]


def lambda_table():
    """Bias² and variance of GAE's gradient over λ, in squared lengths of the true gradient."""
    rows = {lam: [] for lam in LAMBDAS}
    for seed in TASKS:
        tree, ref = start(seed, 3)
        values, scale = state_values(tree, ref), true_gradient(tree, ref).norm().item() ** 2
        wrong = values + CRITIC_ERROR * torch.randn(len(values), dtype=torch.double)
        for lam in LAMBDAS:
            found = [*gae_moments(tree, ref, values, lam), *gae_moments(tree, ref, wrong, lam)]
            bias, variance = found[2:]
            rows[lam].append([x / scale for x in (*found, bias + variance / 16,
                                                  bias + variance / 256)])
    return table(["λ", "exact V: bias²", "variance", "wrong V: bias²", "variance",
                  "error² of 16 answers", "of 256"],
                 [row(f"{lam:g}", rows[lam], 3) for lam in LAMBDAS])


def start(seed, length):
    """(tree, the reference as a table) of a task. Random numbers start again."""
    task = Task(length, seed)
    tree = Tree(task)
    torch.manual_seed(seed)
    return tree, tree.logits(task.reference)


def sampler_table():
    """Bias and deviation of the learner's gradient from another sampler's answers."""
    rows, ranges, better = {}, {}, {}
    for seed in TASKS:
        task = Task(3, seed)
        tree = Tree(task)
        for name, (learner, sampler) in samplers(task, tree).items():
            ratios = token_weights(tree, learner, sampler, float("inf"))[tree.mask]
            low, high = ranges.get(name, (1.0, 1.0))
            ranges[name] = min(low, ratios.min().item()), max(high, ratios.max().item())
            found = [off_policy(tree, learner, sampler, weights) for weights in (
                1.0, token_weights(tree, learner, sampler, 2.0),
                answer_weights(tree, learner, sampler, 2.0),
                answer_weights(tree, learner, sampler, float("inf")))]
            rows.setdefault(name, []).append([bias for bias, _ in found] + [x for _, x in found])
            better[name] = better.get(name, 0) + (found[1][0] < found[0][0])
    head = ["sampler", "π / μ of a token", "bias: as it is", "tokens, cap 2", "answers, cap 2",
            "answers, no cap", "deviation: as it is", "tokens", "answers", "no cap",
            f"tokens better, of {len(TASKS)}"]
    return table(head, [[name, f"{ranges[name][0]:.3f} to {ranges[name][1]:.3f}",
                         *row(name, rows[name], 3)[1:], better[name]] for name in rows])


def length_table(k=3):
    """Where three means push."""
    rows = {"responses": [], "tokens": [], "budget": []}
    for seed in TASKS:
        tree, ref = start(seed, 3)
        tree.rewards = (torch.rand(len(tree.rewards)) < 1 / 3).double()     # a third is right
        p, right = tree.probs(ref), true_gradient(tree, ref)
        for count in rows:
            A = shared_advantages(tree, p, k, count, divide=False)[:, None].expand_as(tree.ids)
            direction, _ = moments(p, tree.gradients(ref, A))
            cosine = F.cosine_similarity(direction.flatten(), right.flatten(), dim=0).item()
            rows[count].append([cosine, growth(tree, ref, direction, 1 - tree.rewards),
                                growth(tree, ref, direction, tree.rewards)])
    return table(["mean over", "cosine to ∇J", "wrong answers grow by", "right ones"],
                 [row(count, rows[count], 3) for count in rows])


def pass_rate_table(k=8):
    """What a prompt counts by how often it is answered right: E[A | right] - E[A | wrong]."""
    rows = []
    for rate in (0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99):
        p, rewards = torch.tensor([rate, 1 - rate]), torch.tensor([1.0, 0.0])
        gaps = [group_advantages(p, rewards, k, lambda scores, k: methods.within_group(
            scores, k, divide)) for divide in (True, False)]
        rows.append([rate, f"{1 - rate ** k - (1 - rate) ** k:.1%}",
                     *(f"{(right - wrong).item():.2f}" for right, wrong in gaps)])
    return table(["right", f"groups of {k} not all alike", "divided by the deviation",
                  "not divided"], rows)


def fixed_table(beta=0.3):
    """KL(π ‖ π*) at each method's fixed point, in nats, and which part of the way from J(π_ref) to
    J(π*) it has come."""
    rows = {"π_ref": [], "DPO": [], "RLOO, K = 2": [], "GRPO, K = 2": [], "GRPO, K = 3": [],
            "Dr. GRPO, K = 3": []}
    for seed in TASKS[:5]:
        tree, ref = start(seed, 2)
        first = tree.logprobs(ref).sum(1)                               # (A)
        best, most = optimum(tree.rewards, first, beta)
        fixed = [first, dpo_fixed_point(tree, ref, beta), *(
            tree.logprobs(fixed_point(tree, push, ref, beta, k)).sum(1) for push, k in (
                (rloo_push, 2), (grpo_push, 2), (grpo_push, 3), (dr_grpo_push, 3)))]
        earned = [(p.exp() * (tree.rewards - beta * (p - first))).sum().item() for p in fixed]
        for numbers, p, J in zip(rows.values(), fixed, earned):
            numbers.append([(p.exp() * (p - best)).sum().abs().item(),
                            (J - earned[0]) / (most - earned[0])])
    return table(["", "KL(π ‖ π*)", "of the way to J(π*)"],
                 [row(name, numbers, 4) for name, numbers in rows.items()])


if __name__ == "__main__":
    for make in (lambda_table, sampler_table, length_table, pass_rate_table, fixed_table):
        print(make(), end="\n\n", flush=True)
