"""Wrong versions of the code, one line each, that the tests must catch.

    python tests/mutants.py                 all of them: one run of the fast tests each, until the first failure
    python tests/mutants.py ppo gae         only those whose file or name contains one of the words

Every line below has been a bug somewhere, in well-known code or nearly so: most of them leave a run that
finishes, a reward that rises a little, and results that are wrong. Prints which test caught which, and
exits with 1 if any survives, or if a line to be changed is no longer in the code exactly once.
"""
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

ROOT = Path(__file__).parent.parent

# (file, what is wrong, the right text, the wrong text)
MUTANTS = [
    # ------------------------------------------------------------------------- gpt.py
    ("gpt.py", "positions ignore the padding", "position = (mask.cumsum(1) - mask.long())[:, -T:]",
     "position = torch.arange(S, device=ids.device).expand(len(ids), S)[:, -T:]"),
    ("gpt.py", "positions start at one", "(mask.cumsum(1) - mask.long())[:, -T:]", "mask.cumsum(1)[:, -T:]"),
    ("gpt.py", "with a cache, positions start again", "- mask.long())[:, -T:]", "- mask.long())[:, :T]"),
    ("gpt.py", "tokens see the future", "(key <= query) & mask", "(key < S) & mask"),
    ("gpt.py", "tokens do not see themselves", "(key <= query) & mask[:, None, :] | (key == query)", "(key < query) & mask[:, None, :]"),
    ("gpt.py", "pads are attended to", "(key <= query) & mask[:, None, :] | (key == query)", "((key <= query) | mask[:, None, :] & False)[None]"),
    ("gpt.py", "a cached query forgets how far it is", "torch.arange(S - T, S, device", "torch.arange(T, device"),
    ("gpt.py", "queries and keys change places", "q, k, v = (part", "k, q, v = (part"),
    ("gpt.py", "exact GELU instead of GPT-2's", 'approximate="tanh"', 'approximate="none"'),
    ("gpt.py", "the first residual connection is cut", "x = x + self.attn(", "x = self.attn("),
    ("gpt.py", "the second branch reads the first norm", "self.mlp(self.ln_2(x))", "self.mlp(self.ln_1(x))"),
    ("gpt.py", "the last norm is forgotten", "return self.ln_f(x)  ", "return x  "),
    ("gpt.py", "branches are not scaled with depth at the start", "else 1\n                nn.init", "else 1; branch = 1\n                nn.init"),
    ("gpt.py", "the cache overwrites its last entry", "end = self.length + k.shape[2]", "end = max(k.shape[2], self.length)"),
    ("gpt.py", "top-k in sampling, and not in the log-probabilities", "torch.multinomial(logprobs.exp(), 1)",
     "torch.multinomial(logprobs.exp() * (logprobs >= logprobs.topk(4)[0][:, -1:]), 1)"),
    ("gpt.py", "temperature in sampling only", "logprobs.gather(1, token)))", "F.log_softmax(logits, -1).gather(1, token)))"),
    ("gpt.py", "temperature multiplies", "logits / (temperature or 1.0)", "logits * (temperature or 1.0)"),
    ("gpt.py", "the end token is no action", "steps.append((token, alive[:, None],",
     "steps.append((token, (alive & (token[:, 0] != self.config.eos_token_id))[:, None],"),
    ("gpt.py", "generation goes on after the end", "alive = alive & (token", "alive = alive | (token"),
    ("gpt.py", "generation runs to the limit although all have ended", "while alive.any() and len(steps)", "while len(steps)"),
    ("gpt.py", "the score is read at the last column", "(mask * positions).argmax(dim=1)", "(positions + 0 * mask).argmax(dim=1)"),
    ("gpt.py", "the score is read one token early", "torch.arange(len(ids), device=ids.device), last]", "torch.arange(len(ids), device=ids.device), last - 1]"),
    ("gpt.py", "the score is read at the first pad id", "(mask * positions).argmax(dim=1)", "((ids != 0) * positions).argmax(dim=1)"),
    ("gpt.py", "the score is a mean over all positions",
     "return self(ids, mask)[torch.arange(len(ids), device=ids.device), last]", "return self(ids, mask).mean(1)"),
    ("gpt.py", "the reward is not normalised", "return (raw - self.config.reward_mean) / self.config.reward_std", "return raw"),
    ("gpt.py", "the reward is scaled the wrong way", ") / self.config.reward_std", ") * self.config.reward_std"),
    ("gpt.py", "weights are stored as nn.Linear has them", 'name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight"))', "False"),
    ("gpt.py", "LoRA does not start at zero", "self.lora_b = nn.Parameter(linear.weight.new_zeros(linear.out_features, rank))",
     "self.lora_b = nn.Parameter(linear.weight.new_zeros(linear.out_features, rank).normal_())"),
    ("gpt.py", "LoRA is added without its scale", "+ self.scale * F.linear(", "+ F.linear("),
    ("gpt.py", "LoRA leaves the matrices free", '    model.requires_grad_(False)\n    if kind == "last":', '    if kind == "last":'),
    ("gpt.py", "LoRA freezes the scalar head", "model.score.requires_grad_(True)", "model.score.requires_grad_(False)"),
    ("gpt.py", "LoRA forgets the MLP", "block.mlp.c_fc, block.mlp.c_proj = LoRA(block.mlp.c_fc, number), LoRA(block.mlp.c_proj, number)", "pass"),
    ("gpt.py", "last:N takes the first blocks", "model.transformer.h[-number:]", "model.transformer.h[:number]"),
    ("gpt.py", "last:N of more blocks than there are", "int(match[3]) > n_layer", "int(match[3]) > n_layer + 1"),
    ("gpt.py", "nothing ever runs in bf16", "self.transformer.bf16 = bf16", "self.transformer.bf16 = False"),
    ("gpt.py", "a frozen model keeps its large weights", "                    module.bfloat16()", "                    pass"),
    ("gpt.py", "a model that is trained is stored in bf16", "        self.transformer.bf16 = bf16\n        if frozen:\n", "        self.transformer.bf16 = bf16\n        if True:\n"),
    ("gpt.py", "a frozen model rounds its embeddings too", "for module in self.transformer.h.modules():\n                if bf16 and isinstance(module, nn.Linear):",
     "for module in self.transformer.modules():\n                if bf16 and isinstance(module, (nn.Linear, nn.Embedding)):"),
    ("gpt.py", "the pad id of a reward model is the end token", "if self.config.eos_is_pad else 0}", "if True else 0}"),
    ("gpt.py", "the fitted mean and deviation are not saved", "config = asdict(self.config)",
     'config = {**asdict(self.config), "reward_mean": 0.0, "reward_std": 1.0}'),
    ("gpt.py", "log-probabilities in half precision", "F.log_softmax(logits.float(), dim=-1).gather(-1, ids", "F.log_softmax(logits, dim=-1).gather(-1, ids"),
    ("gpt.py", "gradients are kept while sampling", "    @torch.no_grad()\n    def generate", "    def generate"),
    # ------------------------------------------------------------------------- data
    ("data/batches.py", "prompts are cut from the right", "prompt[-room:]", "prompt[:room]"),
    ("data/batches.py", "room is measured by the first completion", "max(map(len, completions))", "len(completions[0])"),
    ("data/batches.py", "prompts are padded on the right", "if left else slice(len(row))", "if False else slice(len(row))"),
    ("data/batches.py", "masks come from ids", "mask[i, where] = True", "mask[i, where] = torch.tensor(row) != 0"),
    ("data/batches.py", "every epoch has the same order", "seed + 1_000_003 * epoch", "seed"),
    ("data/batches.py", "the order does not depend on the seed", "manual_seed(seed + 1", "manual_seed(1"),
    ("data/batches.py", "the first batch of an epoch comes every time", "order[position * size:(position + 1) * size]", "order[:size]"),
    ("data/tokenizer.py", "completions have no end", "self.encoding.encode_ordinary(completion) + [self.eos]", "self.encoding.encode_ordinary(completion)"),
    ("data/tokenizer.py", "a text can spell the end token", "prompt_ids = self.encoding.encode_ordinary(prompt)",
     'prompt_ids = self.encoding.encode(prompt, allowed_special="all")'),
    ("data/tokenizer.py", "prompt and completion are encoded together",
     "return prompt_ids, self.encoding.encode_ordinary(completion) + [self.eos]",
     "return prompt_ids, self.encoding.encode_ordinary(prompt + completion)[len(prompt_ids):] + [self.eos]"),
    ("data/tokenizer.py", "the fingerprint is not compared", 'config.get("tokenizer_fingerprint", tokenizer.fingerprint) != tokenizer.fingerprint', "False"),
    ("data/jsonl.py", "dialogues are split at the first answer", "row[key].rpartition(TURN)", "row[key].partition(TURN)"),
    ("data/jsonl.py", "chosen and rejected change places in the data", 'or [row["chosen"], row["rejected"]]', 'or [row["rejected"], row["chosen"]]'),
    ("data/jsonl.py", "equal replies are kept", "dict.fromkeys(ranking) if", "ranking if"),
    ("data/jsonl.py", "different prompts make a pair", "if prompt != other:", "if False:"),
    ("data/__init__.py", "a prompt is in training and in test", "if key not in held_out]", "if True]"),
    ("data/__init__.py", "demonstrations are the worst answers", "(prompt, ranking[0])", "(prompt, ranking[-1])"),
    # ------------------------------------------------------------------------- common.py
    ("common.py", "a run goes on with other weights moving", 'if state["train"] != cfg.train:', "if False:"),
    ("common.py", "a preset overrides the flags", "cfg = tyro.cli(Config, default=Config(preset=name, **presets[name]))",
     "cfg = Config(preset=name, **presets[name])"),
    ("common.py", "the learning rate starts at zero", "(step + 1) / max(1, warmup * steps)", "step / max(1, warmup * steps)"),
    ("common.py", "the learning rate does not decay", "(1 - done) / (1 - warmup), 1.0)", "1.0)"),
    ("common.py", "the learning rate is computed and not used", 'group["lr"] = rate', 'group["lr"] = group["lr"]'),
    ("common.py", "random numbers are not restored", 'torch.set_rng_state(state.pop("rng"))', 'state.pop("rng")'),
    ("common.py", "a crash leaves half a file", 'temporary = path.parent / f".{path.name}.{os.getpid()}"', "temporary = path"),
    # ------------------------------------------------------------------------- sft.py
    ("sft.py", "prompts are learned, too", "learned = mask & (torch.arange(ids.shape[1], device=device) >= prompts[:, None])", "learned = mask"),
    ("sft.py", "pads are learned", "learned = mask & (torch", "learned = (torch"),
    ("sft.py", "the first token of the completion is not learned", ">= prompts[:, None]", "> prompts[:, None]"),
    ("sft.py", "the end token is not learned", "targets = learned[:, 1:]", "targets = learned[:, 1:] & (ids[:, 1:] != model.config.eos_token_id)"),
    ("sft.py", "each token is to predict itself", "ids[:, 1:][targets])", "ids[:, :-1][targets])"),
    ("sft.py", "the mask is one token off", "[:, :-1][targets])                          # (N, V)", "[:, 1:][targets])"),
    ("sft.py", "the model does not know the padding", "model.transformer(ids, mask)[:, :-1]", "model.transformer(ids.flip(1)).flip(1)[:, :-1]"),
    ("sft.py", "gradients are clipped after the step", "optimizer.step()\n        optimizer.zero_grad()", "optimizer.zero_grad()\n        optimizer.step()"),
    ("sft.py", "gradients pile up", "        optimizer.zero_grad()\n", ""),
    ("sft.py", "gradients are not clipped", "clip_grad_norm_(model.parameters(), 1.0)", "clip_grad_norm_(model.parameters(), 1e9)"),
    ("sft.py", "the optimiser is not restored", '        optimizer.load_state_dict(state["optimizer"])\n', ""),
    ("sft.py", "a resumed run starts from step 0", 'first = state["step"]', "first = 0"),
    ("sft.py", "the SFT model starts from nothing", "train(model.place(device, bf16), texts, [], run", "train(GPT(model.config), texts, [], run"),
    ("sft.py", "the held-out loss weighs batches and not tokens", "examples[:512], size, learned_tokens)", "examples[:512], size, lambda example: 1)"),
    ("sft.py", "a page's first token counts as learned", "return len(completion) if prompt else len(completion) - 1", "return len(completion)"),
    ("sft.py", "micro-batches are not weighted", "part_loss = share * sft_loss", "part_loss = sft_loss"),
    ("sft.py", "micro-batches count alike", "cfg.micro_batch_size, learned_tokens)", "cfg.micro_batch_size, lambda example: 1)"),
    ("sft.py", "all weights move whatever --train says", "    set_trainable(model, cfg.train)\n", ""),
    ("data/batches.py", "micro-batches weigh examples", "yield part, sum(map(weight, part)) / total", "yield part, len(part) / len(batch)"),
    # ------------------------------------------------------------------------- reward.py
    ("reward.py", "the sign of the pairwise loss", "-F.logsigmoid(chosen - rejected)", "-F.logsigmoid(rejected - chosen)"),
    ("reward.py", "log of sigmoid: infinite, then NaN", "-F.logsigmoid(chosen - rejected).mean()", "-torch.log(torch.sigmoid(chosen - rejected)).mean()"),
    ("reward.py", "chosen and rejected change places", "return scores[better], scores[worse]", "return scores[worse], scores[better]"),
    ("reward.py", "only neighbours of a ranking count", "combinations(range(first, first + len(ranking)), 2)", "zip(range(first, first + len(ranking) - 1), range(first + 1, first + len(ranking)))"),
    ("reward.py", "rankings after the first are misread", "first += len(ranking)", "first += 1"),
    ("reward.py", "a tie counts as a hit", "(chosen > rejected).sum()", "(chosen >= rejected).sum()"),
    ("reward.py", "completions are scored without their end", 'tokenizer.encode("", completion)[1] for', 'tokenizer.encode("", completion)[1][:-1] for'),
    ("reward.py", "normalised on top of the last normalisation", "    model.config.reward_mean, model.config.reward_std = 0.0, 1.0\n", ""),
    ("reward.py", "the normalisation reads the prompts' padding", "torch.cat([mask, response_mask], 1)))", "torch.ones_like(torch.cat([mask, response_mask], 1))))"),
    ("reward.py", "only the mean is normalised", "scores.mean().item(), scores.std().item()", "scores.mean().item(), 1.0"),
    ("reward.py", "the reward model does not start from the SFT model", "model = ScalarGPT.from_pretrained(init, new_head=True).place(", "model = ScalarGPT(sft.config).place("),
    ("reward.py", "micro-batches are not weighted", "(share * pairwise_loss(", "(1 * pairwise_loss("),
    ("reward.py", "micro-batches count rankings and not pairs", "return len(example[1]) * (len(example[1]) - 1) // 2", "return 1"),
    ("reward.py", "all weights move whatever --train says", "    set_trainable(model, cfg.train)\n", ""),
    ("reward.py", "gradients pile up", "        optimizer.zero_grad()\n", ""),
    ("reward.py", "the optimiser is not restored", '        optimizer.load_state_dict(state["optimizer"])\n', ""),
    ("reward.py", "the reward model is saved before it is normalised",
     "    return model.config.reward_mean, model.config.reward_std\n",
     "    got = model.config.reward_mean, model.config.reward_std\n    model.config.reward_mean, model.config.reward_std = 0.0, 1.0\n    return got\n"),
    # ------------------------------------------------------------------------- ppo.py
    ("ppo.py", "means over padding", "return x.where(mask.bool(), 0.0).sum() / mask.sum()", "return (x * mask).mean()"),
    ("ppo.py", "means of rows and not of tokens", "return x.where(mask.bool(), 0.0).sum() / mask.sum()", "return ((x * mask).sum(1) / mask.sum(1)).mean()"),
    ("ppo.py", "whitening over padding", "    mean = masked_mean(x, mask)\n", "    mean, mask = x.mean(), torch.ones_like(mask)\n"),
    ("ppo.py", "whitening by the variance", "torch.rsqrt(variance + 1e-8)", "(1 / (variance + 1e-8))"),
    ("ppo.py", "whitening never shifts", "whitened if shift_mean else", "whitened + mean if shift_mean else"),
    ("ppo.py", "the KL has the wrong sign", "d = ref_logprobs - logprobs", "d = logprobs - ref_logprobs"),
    ("ppo.py", "k3 with the ratio reversed", "torch.expm1(d) - d", "torch.expm1(-d) + d"),
    ("ppo.py", "k2 without its half", "d ** 2 / 2", "d ** 2"),
    ("ppo.py", "the penalty is k3", 'estimator="k1"', 'estimator="k3"'),
    ("ppo.py", "GAE forgets λ", "advantage = delta + gamma * lam * advantage", "advantage = delta + gamma * advantage"),
    ("ppo.py", "GAE forgets γ in λγ", "advantage = delta + gamma * lam * advantage", "advantage = delta + lam * advantage"),
    ("ppo.py", "GAE forgets γ at the next value", "rewards[:, t] + gamma * next_value", "rewards[:, t] + next_value"),
    ("ppo.py", "the terminal value is not zero", "advantage, next_value = 0.0, 0.0", "advantage, next_value = 0.0, values[:, -1]"),
    ("ppo.py", "GAE runs forwards", "reversed(range(rewards.shape[1]))", "range(rewards.shape[1])"),
    ("ppo.py", "returns without the values", "return advantages, advantages + values", "return advantages, advantages"),
    ("ppo.py", "the policy loss has the wrong sign", "plain, clipped = -advantages * ratio, -advantages", "plain, clipped = advantages * ratio, advantages"),
    ("ppo.py", "min for max in the policy loss", "masked_mean(torch.maximum(plain, clipped), mask), masked_mean((clipped > plain).float(), mask)\n\n\ndef value_loss",
     "masked_mean(torch.minimum(plain, clipped), mask), masked_mean((clipped > plain).float(), mask)\n\n\ndef value_loss"),
    ("ppo.py", "the ratio is clipped on one side", "ratio.clamp(1 - clip, 1 + clip)", "ratio.clamp(max=1 + clip)"),
    ("ppo.py", "the clip does nothing", "ratio.clamp(1 - clip, 1 + clip)", "ratio"),
    ("ppo.py", "the ratio is upside down", "torch.exp((logprobs - old_logprobs)", "torch.exp((old_logprobs - logprobs)"),
    ("ppo.py", "min for max in the value loss", "0.5 * masked_mean(torch.maximum(plain, clipped), mask)", "0.5 * masked_mean(torch.minimum(plain, clipped), mask)"),
    ("ppo.py", "the value loss without its half", "return 0.5 * masked_mean(", "return masked_mean("),
    ("ppo.py", "values are clipped around the returns", "torch.clamp(values, old_values - clip, old_values + clip)", "torch.clamp(values, returns - clip, returns + clip)"),
    ("ppo.py", "β follows the KL the wrong way", "kl / target - 1", "1 - kl / target"),
    ("ppo.py", "β moves without a limit", "min(max(kl / target - 1, -0.2), 0.2)", "kl / target - 1"),
    ("ppo.py", "the actor's logits are one token late", "model.transformer(ids, mask)[:, -R - 1:-1]", "model.transformer(ids, mask)[:, -R:]"),
    ("ppo.py", "temperature is forgotten in scoring", "model.head(states).float() / temperature", "model.head(states).float()"),
    ("ppo.py", "the critic is read one token late", "critic(ids, mask)[:, -R - 1:-1]", "critic(ids, mask)[:, -R:]"),
    ("ppo.py", "the critic is read one token early", "critic(ids, mask)[:, -R - 1:-1]", "critic(ids, mask)[:, -R - 2:-2]"),
    ("ppo.py", "the reward model reads the prompt alone", "reward, size, ids, mask)", "reward, size, ids[:, :-R], mask[:, :-R])"),
    ("ppo.py", "no penalty for a missing end", "torch.where(ended, in_parts(reward_model.reward, size, ids, mask), cfg.missing_eos_score)",
     "in_parts(reward_model.reward, size, ids, mask)"),
    ("ppo.py", "micro-batches of the actor are not weighted", "backward(share * actor_loss)", "backward(actor_loss)"),
    ("ppo.py", "micro-batches of the critic are not weighted", "backward(share * critic_loss)", "backward(critic_loss)"),
    ("ppo.py", "micro-batches weigh rows instead of tokens", "lengths.__getitem__)", "lambda row: 1)"),
    ("ppo.py", "metrics of micro-batches are not weighted", "+ share * value.item()", "+ value.item()"),
    ("ppo.py", "only the first part is scored", "torch.cat([function(*part) for part in parts])", "torch.cat([function(*part) for part in parts][:1] * (len(tensors[0]) // (size or len(tensors[0]))))"),
    ("ppo.py", "what moves has no gradient and no moments in the table", "(4 if p.requires_grad else 1)", "1"),
    ("ppo.py", "the logits are left out of the memory", "(cfg.max_new_tokens * config.vocab_size * 4 * 4 + ", "("),
    ("ppo.py", "a run that does not fit is started", "if needed > free:", "if False:"),
    ("ppo.py", "memory is checked after loading", "check_memory(show_roles(", "four_models(sft, rm, cfg.train, device, bf16); check_memory(show_roles("),
    ("ppo.py", "actor and critic move whatever --train says", "            set_trainable(model, train)\n", "            pass\n"),
    ("ppo.py", "an end in the prompt counts", "ended = tokens[rows, last] == actor.config.eos_token_id", "ended = (ids == actor.config.eos_token_id).any(1)"),
    ("ppo.py", "the end is looked for in the last column", "ended = tokens[rows, last] ==", "ended = tokens[:, -1] =="),
    ("ppo.py", "KL is earned and not paid", "rewards = -kl_coef * kl_penalty", "rewards = kl_coef * kl_penalty"),
    ("ppo.py", "KL is paid for what stands after the end", "logprobs * response_mask, ref_logprobs * response_mask", "logprobs, ref_logprobs"),
    ("ppo.py", "the score lands on a pad", "rewards[rows, last] += scores", "rewards[:, -1] += scores"),
    ("ppo.py", "the score lands one token early", "rewards[rows, last] += scores", "rewards[rows, last - 1] += scores"),
    ("ppo.py", "every token gets the score", "rewards[rows, last] += scores", "rewards += scores[:, None] * response_mask"),
    ("ppo.py", "the score replaces the last token's KL", "rewards[rows, last] += scores", "rewards[rows, last] = scores"),
    ("ppo.py", "values beyond the end are kept", "size, ids, mask) * response_mask", "size, ids, mask)"),
    ("ppo.py", "γ and λ change places", "gae(rewards, values, cfg.gamma, cfg.lam)", "gae(rewards, values, cfg.lam, cfg.gamma)"),
    ("ppo.py", "advantages are not whitened", "advantages = whiten(advantages, response_mask) * response_mask", "advantages = advantages * response_mask"),
    ("ppo.py", "returns are computed after whitening", "advantages = whiten(advantages, response_mask) * response_mask",
     "advantages = whiten(advantages, response_mask) * response_mask; returns = advantages + values"),
    ("ppo.py", "the reference is the actor itself", "action_logprobs(reference, *rows, R, cfg.temperature)", "action_logprobs(actor, *rows, R, cfg.temperature)"),
    ("ppo.py", "one epoch whatever is asked", "for _ in range(cfg.epochs):", "for _ in range(1):"),
    ("ppo.py", "the same order in every epoch", "torch.randperm(len(experience.ids)).chunk", "torch.arange(len(experience.ids)).chunk"),
    ("ppo.py", "advantages instead of returns for the critic", "value_loss(values, batch.values, batch.returns, mask", "value_loss(values, batch.values, batch.advantages, mask"),
    ("ppo.py", "the critic's clip is the actor's", "batch.returns, mask, cfg.value_clip)", "batch.returns, mask, cfg.clip * 0)"),
    ("ppo.py", "the actor's loss counts padding", "policy_loss(logprobs, batch.logprobs, batch.advantages, mask, cfg.clip)",
     "policy_loss(logprobs, batch.logprobs, batch.advantages, torch.ones_like(mask), cfg.clip)"),
    ("ppo.py", "the critic never steps", ', ("val", critic, critic_optimizer)):', ",):"),
    ("ppo.py", "the ratio is not checked", "                if steps == 0:\n", "                if False:\n"),
    ("ppo.py", "clip after the step", "    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)\n    optimizer.step()\n",
     "    optimizer.step()\n    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)\n"),
    ("ppo.py", "gradients pile up", "    optimizer.zero_grad()\n    return norm", "    return norm"),
    ("ppo.py", "a loss of NaN goes unnoticed", "if not torch.isfinite(loss):", "if False:"),
    ("ppo.py", "entropy of unnormalised logits", "logits.logsumexp(-1) -", "logits.exp().sum(-1).sqrt().log() -"),
    ("ppo.py", "the KL at step 0 is not checked", "        if step == 0:\n", "        if step < 0:\n"),
    ("ppo.py", "a KL below zero never stops the run", "if negatives == 3:", "if negatives == 4:"),
    ("ppo.py", "a KL below zero by chance stops the run", "kl.mean() < -2 * kl.std() / len(kl) ** 0.5", "kl.mean() < 0"),
    ("ppo.py", "the reported KL is a mean over tokens", "kl = (experience.logprobs - experience.ref_logprobs).sum(1)  ", "kl = (experience.logprobs - experience.ref_logprobs).mean(1)  "),
    ("ppo.py", "the reference is trained along", '("reference", GPT, sft, False)', '("reference", GPT, sft, True)'),
    ("ppo.py", "the reward model is trained along", '("reward model", ScalarGPT, rm, False)', '("reward model", ScalarGPT, rm, True)'),
    ("ppo.py", "the reference is the actor", "models[role] = model.place(device, bf16, frozen=not trained)",
     'models[role] = models["actor"] if role == "reference" else model.place(device, bf16, frozen=not trained)'),
    ("ppo.py", "the reward model is the critic", "models[role] = model.place(device, bf16, frozen=not trained)",
     'models[role] = models["critic"] if role == "reward model" else model.place(device, bf16, frozen=not trained)'),
    ("ppo.py", "the critic starts from nothing", "kind.blank(folder) if device == \"meta\" else kind.from_pretrained(folder)",
     'kind.blank(folder) if device == "meta" else kind(kind.blank(folder).config) if role == "critic" else kind.from_pretrained(folder)'),
    ("ppo.py", "both betas the same", "betas=(0.9, 0.95)", "betas=(0.9, 0.9)"),
    ("ppo.py", "one learning rate for both networks", "set_learning_rate(optimizers[1], cfg.critic_lr, step", "set_learning_rate(optimizers[1], cfg.lr, step"),
    ("ppo.py", "prompts are padded on the right", "step, cfg.seed), left=True, device=device)   # (B, P)", "step, cfg.seed), device=device)   # (B, P)"),
    ("ppo.py", "prompts are cut from the right", "tokenizer.encode(prompt)[-room:]", "tokenizer.encode(prompt)[:room]"),
    ("ppo.py", "β is steered by the KL of a token", "adapt_kl_coef(kl_coef, kl.sum(1).mean().item()", "adapt_kl_coef(kl_coef, kl.mean().item()"),
    ("ppo.py", "β never changes", "            kl_coef = adapt_kl_coef(", "            adapt_kl_coef("),
    ("ppo.py", "β is forgotten when resuming", 'first, kl_coef, negatives, before = state["step"], state["kl_coef"]', 'first, kl_coef, negatives, before = state["step"], kl_coef'),
    ("ppo.py", "the critic's optimiser is not restored", '("critic_optimizer", optimizers[1])):', '("critic", critic)):'),
    ("ppo.py", "the actor's optimiser is not restored", '("actor_optimizer", optimizers[0]),', '("actor", actor),'),
    ("ppo.py", "the critic is saved as the actor", "    finish(actor, tokenizer, folder)", "    finish(critic, tokenizer, folder)"),
    # ------------------------------------------------------------------------- evaluate.py
    ("evaluate.py", "ties are wins", "1.0 if a.score > b.score", "1.0 if a.score >= b.score"),
    ("evaluate.py", "the best of n is chosen by the judge", "key=lambda answer: answer.proxy", "key=lambda answer: answer.score"),
    ("evaluate.py", "answers count as independent in the interval", "torch.tensor([mean(group) for group in points.values()])", "torch.tensor(flat)"),
    ("evaluate.py", "KL over what stands after the end", "((logprobs - sft_logprobs) * response_mask).sum(1)", "(logprobs - sft_logprobs).sum(1)"),
    # ------------------------------------------------------------------------- the toy
    ("data/toy.py", "people prefer the worse answer", "felt[text] = 2 * judge(prompt, text)", "felt[text] = -2 * judge(prompt, text)"),
    ("data/toy.py", "people never err", "- math.log(-math.log(rng.random()))", ""),
    ("data/toy.py", "test prompts are practised on", "(test if p == kept else train).append", "(test if p == kept else train).append(dialogue(fact.question(p))) or train.append"),
    # ------------------------------------------------------------------------- weights and their tokenizers
    ("gpt.py", "a folder called gpt2 is overlooked", "if name in HUB and not Path(name).is_dir():", "if name in HUB:"),
    ("gpt.py", "shards are not downloaded", '"model*.safetensors*"]', '"model.safetensors"]'),
    ("gpt.py", "all files of the hub are downloaded", '["config.json", "model*.safetensors*"]', '["*"]'),
    ("gpt.py", "any activation is taken for GPT-2's", '"activation_function": ["gelu_new", "gelu_pytorch_tanh"],', ""),
    ("gpt.py", "any epsilon is taken for GPT-2's", '"layer_norm_epsilon": [1e-5], ', ""),
    ("gpt.py", "any inner width is taken for GPT-2's", '"n_inner": [None, 4 * stored.get("n_embd", 768)],', ""),
    ("gpt.py", "GPT-2's inner width in numbers is refused", '"n_inner": [None, 4 * stored.get("n_embd", 768)]', '"n_inner": [None]'),
    ("gpt.py", "the tanh GELU by its other name is refused", '["gelu_new", "gelu_pytorch_tanh"]', '["gelu_new"]'),
    ("gpt.py", "attention without its scale is taken for GPT-2's", '"scale_attn_weights": [True], ', ""),
    ("gpt.py", "attention scaled by layer is taken for GPT-2's", '"scale_attn_by_inverse_layer_idx": [False],', ""),
    ("gpt.py", "cross attention is ignored", '"add_cross_attention": [False], ', ""),
    ("gpt.py", "an untied head is ignored", ', "tie_word_embeddings": [True]}', "}"),
    ("gpt.py", "any architecture is read as GPT-2", '{"model_type": ["gpt2"], ', "{"),
    ("gpt.py", "a config without a model type is read as GPT-2", 'if "model_type" not in stored:', "if False:"),
    ("gpt.py", "every model has 1024 positions", 'stored["block_size"] = stored.get("n_positions", 1024)', 'stored["block_size"] = 1024'),
    ("gpt.py", "a config that does not say its positions has none", 'stored.get("n_positions", 1024)', 'stored.get("n_positions", 0)'),
    ("gpt.py", "a foreign reward model is always read at the end", 'is_scorer(stored) and stored.get("pad_token_id") ==', 'False and stored.get("pad_token_id") =='),
    ("gpt.py", "a reward model is never read at the end", 'is_scorer(stored) and stored.get("pad_token_id") == stored.get("eos_token_id", 50256)', 'is_scorer(stored)'),
    ("gpt.py", "the score is read at the end though that was padding", "positions = positions * (ids != self.config.eos_token_id)", "positions = positions * (ids >= 0)"),
    ("gpt.py", "an end within a foreign model's text is masked", "positions = positions * (ids != self.config.eos_token_id)  ", "mask = mask & (ids != self.config.eos_token_id)  "),
    ("gpt.py", "where a foreign model reads is forgotten when it is saved", '"pad_token_id": self.config.eos_token_id if self.config.eos_is_pad else 0}', '"pad_token_id": 0}'),
    ("gpt.py", "only the first shard is read", 'sorted(set(read_json(index).get("weight_map", {}).values()))', 'sorted(set(read_json(index).get("weight_map", {}).values()))[:1]'),
    ("gpt.py", "a shard that is missing is a traceback", "except (OSError, SafetensorError) as error:", "except SafetensorError as error:"),
    ("gpt.py", "a file cut off is a traceback", "except (OSError, SafetensorError) as error:", "except OSError as error:"),
    ("gpt.py", "a reward model is converted as a language model", 'kind = "SequenceClassification" if is_scorer(read_config(folder)) else "CausalLM"', 'kind = "CausalLM"'),
    ("gpt.py", "pickled weights are not recognised", 'elif list(folder.glob("pytorch_model*.bin")):', "elif False:"),
    ("gpt.py", "names without the prefix are not read", 'else "transformer." + name\n', "else name\n"),
    ("gpt.py", "the masks of old files are taken for weights", 'if not name.endswith((".attn.bias", ".attn.masked_bias")):', "if True:"),
    ("gpt.py", "the biases of the attention are taken for masks", '(".attn.bias", ".attn.masked_bias")', '("attn.bias", ".attn.masked_bias")'),
    ("gpt.py", "another head than the embedding is dropped in silence", "embedding is not None and not torch.equal(head, embedding)", "embedding is not None and False"),
    ("gpt.py", "a tied head a second time is refused", "embedding is not None and not torch.equal(head, embedding)", "embedding is not None"),
    ("gpt.py", "a saved square matrix is not transposed", '"c_proj.weight", "c_fc.weight")) and tensor.ndim == 2', '"c_fc.weight")) and tensor.ndim == 2'),
    ("gpt.py", "a new head overwrites the one that is there", 'tensors.setdefault("score.weight", ', 'tensors.__setitem__("score.weight", '),
    ("gpt.py", "the new head is zero", "torch.randn(1, model.config.n_embd) / math.sqrt", "torch.zeros(1, model.config.n_embd) / math.sqrt"),
    ("gpt.py", "a tensor that is missing stays as memory was", "            if name not in tensors:\n", "            if False:\n"),
    ("gpt.py", "tensors that are left over are dropped", "if left := sorted(tensors.keys() - own.keys()):", "if left := []:"),
    ("gpt.py", "weights are read and not loaded", "        model.load_state_dict(tensors)\n        return model", "        return model"),
    ("gpt.py", "half precision on disk is half precision in memory", "        model.load_state_dict(tensors)\n        return model", "        model.load_state_dict(tensors, assign=True)\n        return model"),
    ("gpt.py", "LoRA's own tensors are saved", 'for name, tensor in self.state_dict().items() if ".lora_" not in name}', "for name, tensor in self.state_dict().items()}"),
    ("gpt.py", "what LoRA learned is not saved", '        tensors.update({f"{name}.weight": part.merged() for name, part in adapted})\n', ""),
    ("gpt.py", "what LoRA learned is saved without its scale", "return self.weight + self.scale * self.lora_b @ self.lora_a", "return self.weight + self.lora_b @ self.lora_a"),
    ("gpt.py", "gpt2 cannot be talked to by its name", "folder = find_folder(sys.argv[1])", "folder = sys.argv[1]"),
    ("common.py", "only some of the hub's errors are one sentence", "except Exception as error:      #", "except OSError as error:      #"),
    ("data/tokenizer.py", "a vocabulary larger than the model's goes with it", "if size < tokenizer.vocab_size or eos", "if eos"),
    ("data/tokenizer.py", "a model that was rounded up is refused", "if size < tokenizer.vocab_size", "if size != tokenizer.vocab_size"),
    ("data/tokenizer.py", "any token may end the texts", " or eos != tokenizer.eos:", ":"),
    ("data/tokenizer.py", "a folder that names no tokenizer is expected to bring one", 'config.get("tokenizer_name") == "words"', 'config.get("tokenizer_name") in ("words", None)'),
    ("data/tokenizer.py", "ids beyond the vocabulary are a traceback", "if i < self.eos]", "if i != self.eos]"),
    ("data/tokenizer.py", "only the second model's tokens are compared", "for folder, tokenizer in zip(folders, tokenizers):", "for folder, tokenizer in list(zip(folders, tokenizers))[:2]:"),
    ("data/tokenizer.py", "models may have different tokens", "if tokenizer.fingerprint != tokenizers[0].fingerprint:", "if False:"),
    # ------------------------------------------------------------------------- hh, tldr, downloads
    ("data/hh.py", "the default is another subset", "or SUBSETS[0])", "or SUBSETS[-1])"),
    ("data/hh.py", "the test is read from the training file", 'read_jsonl(folder / subset / f"{split}.jsonl.gz")',
     'read_jsonl(folder / subset / "train.jsonl.gz")'),
    ("data/hh.py", "only the first subset is read", "[[row for subset in subsets for row", "[[row for subset in subsets[:1] for row"),
    ("data/jsonl.py", "a speaker's name within a line begins a turn", 'TURN = "\\n\\nAssistant:"', 'TURN = "\\nAssistant:"'),
    ("data/jsonl.py", "a human's last turn is an answer", 'if "\\n\\nHuman:" in chosen + rejected:', "if False:"),
    ("data/jsonl.py", "only one answer's last turn is looked at", "in chosen + rejected:", "in chosen:"),
    ("data/jsonl.py", "empty replies are kept", "if completion.strip()]\n    if len", "if True]\n    if len"),
    ("data/jsonl.py", "a damaged archive is a traceback", ", zlib.error) as", ") as"),
    ("common.py", "a colon in a folder's name", '.replace(":", "-")', ""),
    ("common.py", "a plus sign in a folder's name", '.replace("+", "-")', ""),
    ("common.py", "a cache without the files is taken for the files", "not any(folder.glob(pattern))", "False"),
    ("data/download.py", "an incomplete file is taken for the whole", "if path.stat().st_size != size:", "if False:"),
    ("data/download.py", "a download has its name before it is complete", 'temporary = path.parent / f".{path.name}.{os.getpid()}"', "temporary = path"),
    ("data/download.py", "what is left of a broken download is kept", "temporary.unlink(missing_ok=True)", "pass"),
    ("data/download.py", "files are downloaded every time", "if not path.exists():", "if True:"),
    ("data/download.py", "only the first piece is written", "while piece :=", "if piece :="),
    ("data/download.py", "a server's error is a traceback", "except (OSError, HTTPException)", "except (TimeoutError, HTTPException)"),
    ("data/download.py", "XDG_CACHE_HOME is ignored", 'os.environ.get("XDG_CACHE_HOME") or', ""),
    ("data/tldr.py", "chosen and rejected change places", 'row["summaries"][row["choice"]], row["summaries"][1 - row["choice"]]',
     'row["summaries"][1 - row["choice"]], row["summaries"][row["choice"]]'),
    ("data/tldr.py", "the first summary is always the better one", 'row["summaries"][row["choice"]], row["summaries"][1 - row["choice"]]', 'row["summaries"]'),
    ("data/tldr.py", "two spaces before a summary", 'return " " + summary.strip()', 'return " " + summary'),
    ("data/tldr.py", "no space before a summary", 'return " " + summary.strip()', "return summary.strip()"),
    ("data/tldr.py", "the test trains the reward model", '"valid2": "test"}', '"valid2": "train"}'),
    ("data/tldr.py", "models are tested on what they were chosen by", '"valid1": None', '"valid1": "test"'),
    ("data/tldr.py", "prompts are cut on the right, TL;DR: is lost",
     "        if not text or len(tokenizer.encode(whole)) <= PROMPT_TOKENS:\n            return whole",
     "        if True:\n            return tokenizer.decode(tokenizer.encode(whole)[:PROMPT_TOKENS])"),
    ("data/tldr.py", "one token less", "<= PROMPT_TOKENS", "< PROMPT_TOKENS"),
    ("data/tldr.py", "the limit counts letters", "len(tokenizer.encode(whole))", "len(whole)"),
    ("data/tldr.py", "the post alone is measured", "tokenizer.encode(whole)", "tokenizer.encode(text)"),
    ("data/tldr.py", "a post loses its first lines", 'text.rpartition("\\n")[0] or', 'text.partition("\\n")[2] or'),
    ("data/tldr.py", "words are lost before lines", 'text.rpartition("\\n")[0] or text', "text"),
    ("data/tldr.py", "a long line is left out whole", ' or text.rpartition(" ")[0] or text[:-1]', ""),
    ("data/tldr.py", "news is read, too", '"batch22", "edit_b2_eval_test"]', '"batch22", "edit_b2_eval_test", "cnndm0"]'),
    ("data/tldr.py", "the training posts are the test", '"test": "datasets/tldr_3_filtered/test.jsonl"}', '"test": "datasets/tldr_3_filtered/train.jsonl"}'),
]


def find(file, right, root=ROOT):
    """The source that holds `right` exactly once. Raises ValueError if it does not."""
    source = (root / file).read_text()
    if source.count(right) != 1:
        raise ValueError(f"{file} has {right!r} {source.count(right)} times, not once: bring tests/mutants.py up to date")
    return source


NOTHING = ("ppo.py", "nothing is wrong: all tests must pass", "def main(cfg):", "def main(cfg):")


def killer(base, mutant):
    """The test that fails when the mutant stands in a copy of the tree `base`; None if all pass."""
    file, _, right, wrong = mutant
    source = find(file, right, base)
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        shutil.copytree(base, tree)
        (tree / file).write_text(source.replace(right, wrong))
        # The test of this list would see any change at all; the notebooks are not the specification.
        tests = {f"tests/{path.name}" for path in tree.glob("tests/test_*.py") if path.stem not in ("test_mutants", "test_notebooks")}
        near = {name for name in tests if Path(file).stem in name or "maths" in name or file == "gpt.py" and "weights" in name}
        last = {"tests/test_optimum.py"}
        for some in filter(None, (near, tests - near - last, last)):        # most are caught at the first try
            run = subprocess.run([sys.executable, "-m", "pytest", "-x", "-q", "--no-header", "--tb=no", "-p", "no:cacheprovider",
                                  "-m", "not slow and not notebooks", *sorted(some)],
                                 cwd=tree, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
            failed = [line.split(" ", 2)[1] for line in run.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
            if run.returncode:
                return failed[0].removeprefix("tests/") if failed else f"pytest ended with code {run.returncode}"
    return None


def main(wanted):
    mutants = [m for m in MUTANTS if not wanted or any(word in m[0] or word in m[1] for word in wanted)]
    if not mutants:
        sys.exit(f"no mutant is called {' or '.join(wanted)}")
    for file, _, right, _ in mutants:
        find(file, right)
    survivors = 0
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(int(os.environ.get("WORKERS", os.cpu_count()))) as pool:
        base = Path(folder) / "base"                            # as it is now, whatever is edited meanwhile
        shutil.copytree(ROOT, base, ignore=shutil.ignore_patterns(".*", "out", "toy", "__pycache__"))
        if failed := killer(base, NOTHING):
            sys.exit(f"{failed} fails without any mutant: mend that first")
        for mutant, caught in zip(mutants, pool.map(partial(killer, base), mutants)):
            survivors += caught is None
            print(f"{mutant[0]:18} {mutant[1]:58} {caught or 'SURVIVED'}", flush=True)
    print(f"{len(mutants) - survivors} of {len(mutants)} caught")
    sys.exit(survivors > 0)


if __name__ == "__main__":
    main(sys.argv[1:])
