"""Answers to the exercises of the lessons: wrong ones, which their checks must refuse, and right ones, which they must
accept, beside the folded solution. A function is given by its body, all else by an expression.

    python tests/answers.py 5_ppo       prints what the checks of a lesson say, as JSON

Only the imports of the lesson run before, and what BEFORE names: code of its own in the place of trained models, or the
beginnings of cheap cells.
"""
import contextlib
import io
import json
import re
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / "notebooks"

TINY = """
model = {kind}({kind}.Config(vocab_size=20, block_size=40, n_layer=1, n_head=2, n_embd=8, eos_token_id=19))
examples = [([1, 2, 3], [4, 5, 19]), ([6], [7, 8, 9, 19]), ([1, 2], [3, 19]), ([4, 4], [19]), ([5], [6, 19]),
            ([7, 8, 9], [1, 19])]
rankings = [(prompt, [completion, [10, *completion], [11, 12, *completion]]) for prompt, completion in examples]
"""
BEFORE = {
    "1_gpt": ["looks, q = torch.randn(16, 11, 11).softmax(-1), torch.randn(4, 11, 16)"],
    "2_sft": [TINY.format(kind="GPT"), """
held_out, end_loss, questions = examples, 0.5, ["Human: Who?"]
prompt_ids, prompt_mask = torch.ones(1, 2, dtype=torch.long), torch.ones(1, 2, dtype=torch.bool)
tokenizer = type("", (), {"decode": lambda self, ids: "What?"})()
imitate = lambda demonstrations, steps: (model, [])
"""],
    "3_reward": [TINY.format(kind="ScalarGPT") + "model.requires_grad_(False)"],
    "4_policy_gradient": ["cell: arms = ", "cell: ref, r = "],
    "5_ppo": [],
    "6_frontier": ["cell: task = Task(", "cell: p = ref.exp()"],
    "7_beyond_ppo": [],
    "8_debug": ["""
from functools import partial
import tiny
case, fine = broken.Case(deal=8), broken.Seen(broken.load(), None, [], [], [])
broken.settings = lambda seed: tiny.ppo_config(batch_size=16, epochs=2, minibatches=2, lr=1e-2, steps=4, kl_coef=0.05)
broken.start, broken.watch = tiny.start, partial(broken.watch, models_and_prompts=tiny.start)
"""],
    "9_checked": [],
}
SUMS = "got = (e.rewards * e.response_mask).sum(1)\ndue = e.scores - kl_coef * ((e.logprobs - e.ref_logprobs) * e.response_mask).sum(1)\n"
OTHER = "other = ids.clone()\nother[:, -1] = (other[:, -1] + 1) % 10\none, two = (state_values(critic, x, mask, R) for x in (ids, other))\n"
WORDS = ["None", "5", "['x']", "torch.ones(3)", "''"]           # that are no answer to a question for a word
FOUR = ["[True] * 4", "[False] * 4", "[True, True, False, False]", "True", "None", "'yes'", "[True, False]"]
PAIR = ["None", "'two'", "0.6", "(1, 2, 3)", "(0.5, 0.5)"]
NUMBER = ["None", "'many'", "float('nan')", "[1, 2, 3]", "0"]

# {lesson: {name: (right, wrong)}}
ANSWERS = {
    "1_gpt": {
        "my_attention": ([
            "return F.scaled_dot_product_attention(q, k, v, attn_mask=allowed)",
            "hidden = torch.zeros(allowed.shape).masked_fill(~allowed, float('-inf'))\n"
            "w = (torch.einsum('bhtd,bhsd->bhts', q, k) / q.size(-1) ** 0.5 + hidden).softmax(dim=3)\n"
            "return torch.einsum('bhts,bhsd->bhtd', w, v)"], [
            "return (q @ k.mT / math.sqrt(q.shape[-1])).softmax(-1) @ v",
            "return F.scaled_dot_product_attention(q, k, v, is_causal=True)",
            "return (q @ k.mT).masked_fill(~allowed, -torch.inf).softmax(-1) @ v",
            "return (q @ k.mT / q.shape[-1]).masked_fill(~allowed, -torch.inf).softmax(-1) @ v",
            "return (q @ k.mT / math.sqrt(q.shape[-1])).masked_fill(~allowed, 0.0).softmax(-1) @ v",
            "return (q @ k.mT / math.sqrt(q.shape[-1])).masked_fill(allowed, -torch.inf).softmax(-1) @ v",
            "return (q @ k.mT / math.sqrt(q.shape[-1])).masked_fill(~allowed, -torch.inf).softmax(-2) @ v",
            "return ((q @ k.mT / math.sqrt(q.shape[-1])).softmax(-1) * allowed) @ v",
            "return (q @ k.mT / math.sqrt(q.shape[-1])).masked_fill(~allowed, -torch.inf).softmax(-1)",
            "return q @ v"]),
        "my_positions": ([
            "return (mask.cumsum(1) - 1).clamp(min=0)",
            "return mask.long().cumsum(-1).sub(1).masked_fill(~mask, 1)"], [
            "return mask.cumsum(1)",
            "return mask.cumsum(1) - 1",
            "return torch.arange(mask.shape[1]).expand(mask.shape)",
            "return mask.cumsum(0) - mask.long()",
            "return (~mask).cumsum(1)",
            "return mask.cumsum(1) * 0.5",
            "return mask.sum(1)"]),
        "prediction": (["'sharper'", "' Sharper'"], ["'flatter'", "'the same'", "['sharper']", *WORDS]),
        "temperature": (["0.68", "2 / math.log(19)"], ["1.47", "-0.68", "0.6", "2.94", "0.95", *NUMBER]),
    },
    "2_sft": {
        "my_targets": ([
            "places = torch.arange(1, mask.shape[1])\nreturn mask[:, 1:] & (places >= prompts[:, None])",
            "later = torch.ones_like(mask).cumsum(1) > prompts[:, None]\nreturn torch.logical_and(mask, later)[:, 1:]"], [
            "return (mask & (torch.arange(mask.shape[1]) >= prompts[:, None]))[:, :-1]",
            "return (torch.arange(mask.shape[1]) >= prompts[:, None])[:, 1:]",
            "return (mask & (torch.arange(mask.shape[1]) > prompts[:, None]))[:, 1:]",
            "return (mask & (torch.arange(mask.shape[1]) < prompts[:, None]))[:, 1:]",
            "return mask[:, 1:]",
            "return mask & (torch.arange(mask.shape[1]) >= prompts[:, None])",
            "return (mask & (torch.arange(mask.shape[1]) >= prompts[:, None]))[:, 1:].float()",
            "return prompts"]),
        "my_sft_loss": ([
            "logp = logits[:, :-1].log_softmax(-1).gather(2, ids[:, 1:, None]).squeeze(2)\n"
            "return -(logp * targets).sum() / targets.sum()",
            "paid = F.cross_entropy(logits[:, :-1].mT, ids[:, 1:], reduction='none')\nreturn paid[targets].mean()"], [
            "return F.cross_entropy(logits[:, 1:][targets], ids[:, 1:][targets])",
            "return F.cross_entropy(logits[:, :-1][targets], ids[:, :-1][targets])",
            "return F.cross_entropy(logits[:, :-1][targets], ids[:, 1:][targets], reduction='sum')",
            "return -F.cross_entropy(logits[:, :-1][targets], ids[:, 1:][targets])",
            "return F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())",
            "return F.cross_entropy(logits[:, :-1][targets], ids[:, 1:][targets]).detach()",
            "return F.cross_entropy(logits[:, :-1][targets], ids[:, 1:][targets]).item()",
            "return (F.cross_entropy(logits[:, :-1].mT, ids[:, 1:], reduction='none') * targets).mean()",
            "return F.nll_loss(logits[:, :-1][targets], ids[:, 1:][targets])"]),
        "flipped": (["'above'", "'Above '"], ["'below'", "'the same'", "['above']", *WORDS]),
        "floor": (["0.673", "-(0.6 * math.log(0.6) + 0.4 * math.log(0.4))"],
                  ["0.51", "0.693", "0.971", "-0.673", "0.4", *NUMBER]),
    },
    "3_reward": {
        "my_pairwise_loss": ([
            "return -F.logsigmoid(chosen - rejected).mean()",
            "return torch.logaddexp(torch.zeros(()), rejected - chosen).mean()"], [
            "return -(chosen - rejected).sigmoid().log().mean()",
            "return F.softplus(chosen - rejected).mean()",
            "return F.softplus(rejected - chosen).sum()",
            "return F.softplus(rejected - chosen)",
            "return F.relu(1 - (chosen - rejected)).mean()",
            "return (rejected - chosen).sigmoid().mean()",
            "return F.softplus((rejected - chosen).clamp(max=20)).mean()",
            "return F.softplus(rejected - chosen.detach()).mean()",
            "return F.logsigmoid(chosen - rejected).mean()"]),
        "my_ranking_loss": ([
            "margins = scores[:, None] - scores\nearlier = torch.ones_like(margins).triu(1).bool()\n"
            "return -F.logsigmoid(margins[earlier]).mean()",
            "losses = [pairwise_loss(scores[i:i + 1], scores[i + 1:]) * (len(scores) - 1 - i) for i in range(len(scores) - 1)]\n"
            "return sum(losses) / (len(scores) * (len(scores) - 1) / 2)"], [
            "return pairwise_loss(scores[:-1], scores[1:])",
            "return pairwise_loss(scores[:1], scores[1:])",
            "return pairwise_loss(scores[:1], scores[-1:])",
            "return -F.logsigmoid(scores[:, None] - scores).mean()",
            "i, j = torch.tensor(list(combinations(range(len(scores)), 2))).T\nreturn pairwise_loss(scores[j], scores[i])",
            "i, j = torch.tensor(list(combinations(range(len(scores)), 2))).T\n"
            "return pairwise_loss(scores[i], scores[j]) * len(i)",
            "i, j = torch.tensor(list(combinations(range(len(scores)), 2))).T\n"
            "return pairwise_loss(scores[i].detach(), scores[j])",
            "return pairwise_loss(scores, scores.mean())"]),
        "guesses": (["('same', 'down')", "['Same', 'down']"],
                    ["('same', 'same')", "('up', 'down')", "('down', 'same')", "'same'", "('same',)", *WORDS]),
        "swapped": (["0.05", "1 - 0.95"], ["0.5", "0.95", "0.25", "-0.05", "5", *NUMBER]),
    },
    "4_policy_gradient": {
        "my_reinforce_loss": ([
            "return (rewards.mean() * logprobs - rewards * logprobs).mean()",
            "return -(rewards * (logprobs - logprobs.mean())).mean()"], [
            "return -(rewards * logprobs).mean()",
            "return ((rewards - rewards.mean()) * logprobs).mean()",
            "return -((rewards - rewards.mean()) * logprobs).sum()",
            "return -((rewards - rewards.mean()) * logprobs.detach()).mean()",
            "return -((rewards - rewards.mean()) * logprobs.exp()).mean()",
            "return -((rewards - rewards.mean()) / rewards.std() * logprobs).mean()",
            "return -((rewards - rewards.max()) * logprobs).mean()",
            "return -((rewards - rewards.mean()) * logprobs)",
            "return -(rewards - rewards.mean()).mean()"]),
        "arm": (["('up', 'down')", "['Up', 'down']"],
                ["('down', 'up')", "('up', 'up')", "('down', 'down')", "'up'", "('up',)", *WORDS]),
        "my_best_policy": ([
            "tilted = ref_logprobs + rewards / beta\nreturn tilted - tilted.logsumexp(-1)",
            "weights = ref_logprobs.exp() * (rewards / beta).exp()\nreturn (weights / weights.sum()).log()"], [
            "return ref_logprobs + rewards / beta",
            "return (ref_logprobs + rewards * beta).log_softmax(-1)",
            "return (ref_logprobs - rewards / beta).log_softmax(-1)",
            "return (rewards / beta).log_softmax(-1)",
            "return (ref_logprobs + rewards / beta).softmax(-1)",
            "return (beta * ref_logprobs + rewards / beta).log_softmax(-1)",
            "return ref_logprobs"]),
    },
    "5_ppo": {
        "my_gae": ([
            "after = torch.cat([values[:, 1:], torch.zeros(len(values), 1)], 1)\n"
            "delta = rewards + gamma * after - values\n"
            "ahead = torch.arange(rewards.shape[1]) - torch.arange(rewards.shape[1])[:, None]\n"
            "weights = torch.where(ahead >= 0, (gamma * lam) ** ahead.clamp(min=0).float(), torch.zeros(()))\n"
            "return delta @ weights.T",
            "return gae(rewards, values, gamma, lam)[0]"], [
            "return gae(rewards, values, gamma, lam)",
            "return gae(rewards, values, gamma, lam)[1]",
            "return gae(rewards, values, 1.0, lam)[0]",
            "return gae(rewards, values, gamma, 1.0)[0]",
            "return gae(rewards, values, gamma, 0.0)[0]",
            "return gae(rewards, 0 * values, gamma, lam)[0] - values",
            "return gae(rewards.flip(1), values.flip(1), gamma, lam)[0].flip(1)",
            "columns, ahead, next_value = [], 0.0, 0.0\n"
            "for t in reversed(range(rewards.shape[1])):\n"
            "    ahead = rewards[:, t] + gamma * next_value - values[:, t] + gamma * lam * ahead\n"
            "    next_value = values[:, t]\n"
            "    columns.append(ahead)\n"
            "return torch.stack(columns, dim=1)",
            "columns, ahead, next_value = [], 0.0, 0.0\n"
            "for t in reversed(range(rewards.shape[1])):\n"
            "    ahead = rewards[:, t] + gamma * next_value - values[:, t] + lam * ahead\n"
            "    next_value = values[:, t]\n"
            "    columns.append(ahead)\n"
            "return torch.stack(columns[::-1], dim=1)",
            "rewards -= values\nreturn rewards"]),
        "my_policy_loss": ([
            "rho = torch.exp(logprobs - old_logprobs)\n"
            "worse = torch.max(-advantages * rho, -advantages * rho.clip(1 - clip, 1 + clip))\n"
            "return worse[mask].sum() / mask.sum()",
            "return policy_loss(logprobs, old_logprobs, advantages, mask, clip)[0]"], [
            "rho = (logprobs - old_logprobs).exp().detach()\n"
            "objective = torch.minimum(rho * advantages, rho.clamp(1 - clip, 1 + clip) * advantages)\n"
            "return -(objective * mask).sum() / mask.sum()",
            "rho = (logprobs - old_logprobs).exp()\nreturn -(rho * advantages * mask).sum() / mask.sum()",
            "rho = (logprobs - old_logprobs).exp()\n"
            "return -(rho.clamp(1 - clip, 1 + clip) * advantages * mask).sum() / mask.sum()",
            "rho = (logprobs - old_logprobs).exp()\n"
            "objective = torch.maximum(rho * advantages, rho.clamp(1 - clip, 1 + clip) * advantages)\n"
            "return -(objective * mask).sum() / mask.sum()",
            "rho = (logprobs - old_logprobs).exp()\n"
            "objective = torch.minimum(rho * advantages, rho.clamp(1 - clip, 1 + clip) * advantages)\n"
            "return (objective * mask).sum() / mask.sum()",
            "rho = (logprobs - old_logprobs).exp()\n"
            "objective = torch.minimum(rho * advantages, rho.clamp(1 - clip, 1 + clip) * advantages)\n"
            "return -(objective * mask).mean()",
            "rho = (logprobs - old_logprobs).exp()\n"
            "objective = torch.minimum(rho * advantages, rho.clamp(1 - clip, 1 + clip) * advantages)\n"
            "return -objective.mean()",
            "rho = logprobs - old_logprobs\n"
            "objective = torch.minimum(rho * advantages, rho.clamp(-clip, clip) * advantages)\n"
            "return -(objective * mask).sum() / mask.sum()",
            "return -((logprobs * advantages) * mask).sum() / mask.sum()"]),
        "no_gradient": (["(True, False, False, True)", "torch.tensor([True, False, False, True])"],
                        ["[False, True, True, False]", "[True, False, True, False]", *FOUR]),
        "means": (["(0.6, 0.375)", "[6 / 10, 6 / 16]"],
                  ["(0.375, 0.6)", "(0.75, 0.375)", "(0.6, 0.6)", "(0.6, 0.75)", *PAIR]),
    },
    "6_frontier": {
        "my_best_of_n": ([
            "upto = (probs * (rewards <= rewards[:, None])).sum(1)\n"
            "level = (probs * (rewards == rewards[:, None])).sum(1)\n"
            "return probs / level * (upto ** n - (upto - level) ** n)",
            "levels, which = rewards.unique(return_inverse=True)\n"
            "level = torch.zeros(len(levels), dtype=probs.dtype).index_add(0, which, probs)\n"
            "upto = level.cumsum(0)\n"
            "return probs * ((upto ** n - (upto - level) ** n) / level)[which]"], [
            "below = (probs * (rewards < rewards[:, None])).sum(1)\nreturn (below + probs) ** n - below ** n",
            "upto = (probs * (rewards <= rewards[:, None])).sum(1)\nreturn probs * n * upto ** (n - 1)",
            "upto = (probs * (rewards <= rewards[:, None])).sum(1)\nreturn (probs * upto ** n) / (probs * upto ** n).sum()",
            "below = (probs * (rewards > rewards[:, None])).sum(1)\n"
            "level = (probs * (rewards == rewards[:, None])).sum(1)\n"
            "return probs / level * ((below + level) ** n - below ** n)",
            "below = (probs * (rewards < rewards[:, None])).sum(1)\n"
            "level = (probs * (rewards == rewards[:, None])).sum(1)\n"
            "return (below + level) ** n - below ** n",
            "return 1 - (1 - probs) ** n",
            "return probs"]),
        "draws": (["403", "math.exp(6)"], ["148", "5", "1097", "33", "-403", *NUMBER]),
        "gain": (["0.005", "0.05 * 0.1"], ["0.05", "0.1", "0.115", "0.5", "-0.005", *NUMBER]),
        "my_cautious_score": ([
            "m = scores.mean(0)\nreturn m - weight * ((scores - m) ** 2).mean(0)",
            "return scores.mean(0) - weight * scores.std(0, unbiased=False) ** 2"], [
            "return scores.mean(0) - weight * scores.var(0)",
            "return scores.mean(0) - weight * scores.std(0, correction=0)",
            "return scores.mean(0) + weight * scores.var(0, correction=0)",
            "return scores.mean(1) - weight * scores.var(1, correction=0)",
            "return scores.mean(0) - scores.var(0, correction=0)",
            "return scores.amin(0)",
            "return scores.mean() - weight * scores.var(correction=0)"]),
    },
    "7_beyond_ppo": {
        "my_leave_one_out": ([
            "rows = rewards.view(-1, k)\nreturn ((rows - rows.mean(1, keepdim=True)) * k / (k - 1)).flatten()",
            "rows = rewards.reshape(-1, k)\n"
            "return torch.stack([row[i] - (row.sum() - row[i]) / (k - 1) for row in rows for i in range(k)])"], [
            "rows = rewards.view(-1, k)\nreturn (rows - rows.mean(1, keepdim=True)).flatten()",
            "return rewards - rewards.mean()",
            "return rewards - (rewards.sum() - rewards) / (len(rewards) - 1)",
            "rows = rewards.view(k, -1)\nreturn ((rows - rows.mean(0)) * k / (k - 1)).flatten()",
            "rows = rewards.view(-1, k)\nreturn (rows - (rows.sum(1, keepdim=True) - rows) / k).flatten()",
            "rows = rewards.view(-1, k)\nreturn ((rows.sum(1, keepdim=True) - rows) / (k - 1) - rows).flatten()",
            "rows = rewards.view(-1, k)\nreturn (rows - rows.mean(1, keepdim=True)) * k / (k - 1)",
            "return methods.within_group(rewards, k)"]),
        "my_dpo_loss": ([
            "return F.softplus(beta * ((rejected - ref_rejected) - (chosen - ref_chosen))).mean()",
            "odds = (chosen - rejected) - (ref_chosen - ref_rejected)\nreturn -F.logsigmoid(beta * odds).mean()"], [
            "return -F.logsigmoid(beta * (chosen - rejected)).mean()",
            "return -F.logsigmoid(chosen - ref_chosen - rejected + ref_rejected).mean()",
            "return F.logsigmoid(beta * (chosen - ref_chosen - rejected + ref_rejected)).mean()",
            "return -F.logsigmoid(beta * (rejected - ref_rejected - chosen + ref_chosen)).mean()",
            "return -F.logsigmoid(beta * (chosen - ref_chosen - rejected + ref_rejected)).sum()",
            "return -F.logsigmoid(beta * (chosen - ref_rejected - rejected + ref_chosen)).mean()",
            "return -(beta * (chosen - ref_chosen - rejected + ref_rejected)).mean()",
            "return -F.logsigmoid(beta * (chosen.detach() - ref_chosen - rejected + ref_rejected)).mean()"]),
        "learns": (["(True, False, False, True)", "[1, 0, 0, 1]"],
                   ["[True, True, False, True]", "[False, True, True, False]", *FOUR]),
        "times": (["(100, 1)", "[100.0, 1.01]"],
                  ["(1, 100)", "(100, 100)", "(10, 1)", "(10000, 1)", "100", *PAIR]),
    },
    "8_debug": {
        "verdicts": (["case.solution() | dict.fromkeys('AB', 'score on a pad')", "dict(reversed(case.solution().items()))"],
                     ["case.solution() | dict.fromkeys('ABD', 'score on a pad')", "dict.fromkeys(broken.RUNS, 'healthy')",
                      "dict(zip(broken.RUNS, BUGS))", "{**case.solution(), 'A': 'a cold'}", "dict(list(case.solution().items())[1:])",
                      "{**case.solution(), 'M': 'healthy'}", "list(case.solution().values())", "{**case.solution(), 'A': ['healthy']}",
                      "{}", *WORDS]),
        "my_reward_guard": ([
            SUMS + "return (got - due).abs().max() < 1e-4",
            "log_ratio = (e.logprobs - e.ref_logprobs)[e.response_mask]\n"
            "owner = e.response_mask.nonzero()[:, 0]\n"
            "due = e.scores.index_add(0, owner, log_ratio, alpha=-kl_coef)\n"
            "got = torch.zeros_like(e.scores).index_add(0, owner, e.rewards[e.response_mask])\n"
            "return torch.isclose(got, due, atol=1e-4).all()",
            SUMS + "e.rewards.zero_()\nreturn not (got - due).abs().gt(1e-4).any()"], [
            SUMS + "return (got - due).max() < 1e-4",
            SUMS + "return (due - got).max() < 1e-4",
            SUMS + "return abs((got - due).mean()) < 1e-4",
            SUMS + "return torch.allclose(got.sort().values, due.sort().values, atol=1e-4)",
            SUMS + "return (got - due).abs().median() < 1e-4",
            SUMS + "return torch.isclose(got, due, atol=1e-4).any()",
            SUMS + "return not torch.allclose(got, due, atol=1e-4)",
            SUMS + "return (got - due).abs() < 1e-4",
            SUMS.replace("(e.rewards * e.response_mask)", "e.rewards") + "return torch.allclose(got, due, atol=1e-4)",
            SUMS.replace("- kl_coef", "+ kl_coef") + "return torch.allclose(got, due, atol=1e-4)",
            SUMS.replace("kl_coef", "0.05") + "return torch.allclose(got, due, atol=1e-4)",
            SUMS.replace("- kl_coef *", "-") + "return torch.allclose(got, due, atol=1e-4)",
            "return torch.allclose((e.rewards * e.response_mask).sum(1), e.scores - kl_coef * e.kl.sum(1), atol=1e-4)",
            "return torch.allclose((e.rewards * e.response_mask).sum(1), e.scores, atol=1e-4)",
            "return True",
            "return False"]),
        "my_value_guard": ([
            OTHER + "return (one == two).all()",
            "before = state_values(critic, ids, mask, R)\nids[:, -1] = (ids[:, -1] + 3) % 10\n"
            "return bool((before - state_values(critic, ids, mask, R)).abs().max() < 1e-6)",
            "values = [state_values(critic, torch.cat([ids[:, :-1], torch.full((len(ids), 1), last)], 1), mask, R) for last in range(10)]\n"
            "return all(torch.allclose(values[0], each) for each in values)"], [
            OTHER + "return not torch.allclose(one, two)",
            OTHER + "return torch.allclose(one[:, :-1], two[:, :-1])",
            OTHER + "return torch.allclose(one[:, 0], two[:, 0])",
            OTHER + "return one == two",
            OTHER.replace("other[:, -1] = (other[:, -1] + 1)", "other[:, 0] = (other[:, 0] + 1)") + "return torch.allclose(one, two)",
            OTHER.replace("other[:, -1] = (other[:, -1] + 1)", "other[:, -R:] = (other[:, -R:] + 1)") + "return torch.allclose(one, two)",
            OTHER.replace("ids.clone()", "ids") + "return torch.allclose(one, two)",
            OTHER.replace("+ 1", "+ 10") + "return torch.allclose(one, two)",
            "values = state_values(critic, ids, mask, R)\nreturn torch.allclose(values, state_values(critic, ids, mask, R))",
            "return (state_values(critic, ids, mask, R) == 0).all()",
            "return True",
            "return False"]),
        "stopped": (["['sampled at another temperature', 'reference one token late']",
                     "{name for name in BUGS if name.startswith(('reference', 'sampled'))}"],
                    ["{'reference one token late'}", "{'sampled at another temperature'}", "set()", "BUGS",
                     "{'reference one token late', 'sampled at another temperature', 'positions count pads'}",
                     "{'reference one token late', 'sampled at another temperature', 'old log-probs recomputed'}",
                     "{'reference one token late', 'KL earned'}", "'reference one token late'", "[['reference one token late']]", *WORDS]),
    },
    "9_checked": {
        "my_pass_at_k": ([
            "missed = 1.0\nfor i in range(k):\n    missed *= max(0, n - right - i) / (n - i)\nreturn 1 - missed",
            "from itertools import combinations\n"
            "picks = [any(i < right for i in pick) for pick in combinations(range(n), min(k, 4))]\n"
            "return sum(picks) / len(picks) if k <= 4 else checked.pass_at_k(right, n, k)"], [
            "return 1 - (1 - right / n) ** k",
            "return right / n",
            "import math\nreturn math.comb(n - right, k) / math.comb(n, k)",
            "import math\nreturn math.comb(right, k) / math.comb(n, k)",
            "import math\nreturn 1 - math.comb(n - right, k) / n ** k",
            "return min(1, k * right / n)",
            "return float(right >= 1)",
            "import math\nreturn 1 - math.comb(n, k) / math.comb(n + right, k)"]),
        "my_token_shares": ([
            "lengths = mask.sum(1, keepdim=True).float()\n"
            "whole = {'responses': len(mask) * lengths, 'tokens': lengths.sum(), 'budget': torch.tensor(float(len(mask) * longest))}\n"
            "return mask.float() / whole[count]",
            "if count == 'responses':\n    return torch.stack([row / row.sum() for row in mask]) / len(mask)\n"
            "return mask / (mask.sum() if count == 'tokens' else mask.shape[0] * longest)"], [
            "return mask / mask.sum()",
            "return mask / (len(mask) * longest)",
            "return mask / (len(mask) * mask.sum(1, keepdim=True))",
            "return torch.ones(mask.shape) / {'responses': len(mask) * mask.sum(1, keepdim=True), 'tokens': mask.sum(), "
            "'budget': len(mask) * longest}[count]",
            "return mask / {'responses': mask.sum(1, keepdim=True), 'tokens': mask.sum(), 'budget': longest}[count]",
            "return mask / {'responses': len(mask) * mask.sum(0, keepdim=True).clamp(min=1), 'tokens': mask.sum(), "
            "'budget': len(mask) * longest}[count]",
            "return mask / {'responses': len(mask) * mask.sum(1, keepdim=True), 'tokens': mask.sum(), 'budget': mask.numel()}[count]",
            "return mask / {'responses': len(mask) * mask.sum(1, keepdim=True), 'tokens': mask.numel(), 'budget': len(mask) * longest}[count]"]),
        "share_equal": (["0.43", "0.9 ** 8"], ["0.57", "0.9", "0.1", "0.45", "1e-8", *NUMBER]),
        "unchanged": (["(True, False, True, True)", "[1, 0, 1, 1]"],
                      ["[False, True, True, True]", "[True, False, True, False]", *FOUR]),
    },
}


def exercises(notebook):
    """{name: (the solution, the empty answer, the check)} of a notebook, as code."""
    cells, found = notebook["cells"], {}
    for place, cell in enumerate(cells):
        folded = "".join(cell["source"]).partition("<summary>Solution</summary>")[2]
        if folded:
            solution = re.search(r"```python\n(.*?)\n```", folded, re.DOTALL)[1]
            empty, check = ("".join(cells[place + i]["source"]) for i in (1, 3))
            found[re.match(r"(?:def )?(\w+)", empty)[1]] = solution, empty, check
    return found


def prepared(notebook, steps):
    """The names that a check may need, as BEFORE says."""
    code = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    names = {}
    exec(code[0], names)
    for step in steps:
        if step.startswith("cell: "):
            step, = [cell for cell in code if cell.startswith(step[6:])]
        exec(step, names)
    return names


def said(code, names):
    with contextlib.redirect_stdout(io.StringIO()) as heard:
        exec(code, names)
    return heard.getvalue()


def main(lesson):
    notebook = json.loads((FOLDER / f"{lesson}.ipynb").read_text(encoding="utf-8"))
    names, results = prepared(notebook, BEFORE[lesson]), []
    for name, (solution, empty, check) in exercises(notebook).items():
        def asked(kind, answer, code):
            exec(code, names)
            results.append([name, kind, answer, said(check, names), said(check, names)])

        asked("empty", "", empty)
        asked("right", solution, solution)
        head = empty.partition("\n")[0] if empty.startswith("def ") else None
        if head:
            lines = re.sub(r"^( +)return ", r"\1", solution, flags=re.MULTILINE)
            asked("no return", lines, lines)
        for kind, bodies in zip(("right", "wrong"), ANSWERS[lesson][name]):
            for body in bodies:
                indented = body.replace("\n", "\n    ")
                asked(kind, body, f"{head}\n    {indented}" if head else f"{name} = {body}")
    return results


if __name__ == "__main__":
    sys.path.insert(0, str(FOLDER))
    with contextlib.redirect_stdout(sys.stderr):
        found = main(sys.argv[1])
    print(json.dumps(found))
