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
    ("gpt.py", "tokens do not see themselves", "causal = (key <= query) & mask[:, None, :]                  # (B, T, S)\n        allowed = causal | (key == query)",
     "causal = (key < query) & mask[:, None, :]\n        allowed = causal"),
    ("gpt.py", "pads are attended to", "causal = (key <= query) & mask[:, None, :]",
     "causal = ((key <= query) | mask[:, None, :] & False)[None]"),
    ("gpt.py", "a cached query forgets how far it is", "torch.arange(S - T, S, device", "torch.arange(T, device"),
    ("gpt.py", "queries and keys change places", "q, k, v = heads",
     "k, q, v = heads"),
    ("gpt.py", "exact GELU instead of GPT-2's", 'approximate="tanh"', 'approximate="none"'),
    ("gpt.py", "the first residual connection is cut", "x = x + self.attn(", "x = self.attn("),
    ("gpt.py", "the second branch reads the first norm", "self.mlp(self.ln_2(x))", "self.mlp(self.ln_1(x))"),
    ("gpt.py", "the last norm is forgotten", "return self.ln_f(x)  ", "return x  "),
    ("gpt.py", "branches are not scaled with depth at the start", "else 1\n                nn.init", "else 1; branch = 1\n                nn.init"),
    ("gpt.py", "the cache overwrites its last entry", "end = self.length + k.shape[2]", "end = max(k.shape[2], self.length)"),
    ("gpt.py", "top-k in sampling, and not in the log-probabilities", "torch.multinomial(distribution.exp(), 1)",
     "torch.multinomial(distribution.exp() * (distribution >= distribution.topk(4)[0][:, -1:]), 1)"),
    ("gpt.py", "temperature in sampling only", "logprobs.append(distribution.gather(1, new))",
     "logprobs.append(F.log_softmax(logits, -1).gather(1, new))"),
    ("gpt.py", "temperature multiplies", "logits / (temperature or 1.0)", "logits * (temperature or 1.0)"),
    ("gpt.py", "the end token is no action", "mask = torch.cat([mask, alive[:, None]], dim=1)",
     "mask = torch.cat([mask, (alive & (new[:, 0] != self.config.eos_token_id))[:, None]], dim=1)"),
    ("gpt.py", "generation goes on after the end", "alive = alive & (new",
     "alive = alive | (new"),
    ("gpt.py", "generation runs to the limit although all have ended", "while alive.any() and len(tokens)",
     "while len(tokens)"),
    ("gpt.py", "the score is read at the last column", "(mask * positions).argmax(dim=1)", "(positions + 0 * mask).argmax(dim=1)"),
    ("gpt.py", "the score is read one token early", "torch.arange(len(ids), device=ids.device), last]", "torch.arange(len(ids), device=ids.device), last - 1]"),
    ("gpt.py", "the score is read at the first pad id", "(mask * positions).argmax(dim=1)", "((ids != 0) * positions).argmax(dim=1)"),
    ("gpt.py", "the score is a mean over all positions",
     "return self(ids, mask)[torch.arange(len(ids), device=ids.device), last]", "return self(ids, mask).mean(1)"),
    ("gpt.py", "the reward is not normalised", "return (raw - self.config.reward_mean) / self.config.reward_std", "return raw"),
    ("gpt.py", "the reward is scaled the wrong way", ") / self.config.reward_std", ") * self.config.reward_std"),
    ("support/checkpoint.py", "weights are stored as nn.Linear has them", 'name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight"))', "False"),
    ("support/trainable.py", "LoRA does not start at zero", "self.lora_b = nn.Parameter(linear.weight.new_zeros(linear.out_features, rank))",
     "self.lora_b = nn.Parameter(linear.weight.new_zeros(linear.out_features, rank).normal_())"),
    ("support/trainable.py", "LoRA is added without its scale", "+ self.scale * F.linear(", "+ F.linear("),
    ("support/trainable.py", "LoRA leaves the matrices free", '    model.requires_grad_(False)\n    if kind == "last":', '    if kind == "last":'),
    ("support/trainable.py", "LoRA freezes the scalar head", "model.score.requires_grad_(True)", "model.score.requires_grad_(False)"),
    ("support/trainable.py", "LoRA forgets the MLP", "            block.mlp.c_fc = LoRA(block.mlp.c_fc, number)\n            block.mlp.c_proj = LoRA(block.mlp.c_proj, number)\n",
     ""),
    ("support/trainable.py", "last:N takes the first blocks", "model.transformer.h[-number:]", "model.transformer.h[:number]"),
    ("support/trainable.py", "last:N of more blocks than there are", "int(match[3]) > n_layer", "int(match[3]) > n_layer + 1"),
    ("gpt.py", "nothing ever runs in bf16", "self.transformer.bf16 = bf16", "self.transformer.bf16 = False"),
    ("gpt.py", "a frozen model keeps its large weights", "                    module.bfloat16()", "                    pass"),
    ("gpt.py", "a model that is trained is stored in bf16", "        self.transformer.bf16 = bf16\n        if frozen:\n", "        self.transformer.bf16 = bf16\n        if True:\n"),
    ("gpt.py", "a frozen model rounds its embeddings too", "for module in self.transformer.h.modules():\n                if bf16 and isinstance(module, nn.Linear):",
     "for module in self.transformer.modules():\n                if bf16 and isinstance(module, (nn.Linear, nn.Embedding)):"),
    ("support/checkpoint.py", "the pad id of a reward model is the end token", "pad_token_id=eos if eos_is_pad else 0)",
     "pad_token_id=eos)"),
    ("support/checkpoint.py", "the fitted mean and deviation are not saved", '    shape = {**shape, "n_positions": shape["block_size"]}\n',
     '    shape = {**shape, "n_positions": shape["block_size"], "reward_mean": 0.0, "reward_std": 1.0}\n'),
    ("gpt.py", "log-probabilities in half precision", "F.log_softmax(logits.float(), dim=-1).gather(-1, ids", "F.log_softmax(logits, dim=-1).gather(-1, ids"),
    ("gpt.py", "gradients are kept while sampling", "    @torch.no_grad()\n    def generate", "    def generate"),
    # ------------------------------------------------------------------------- data
    ("data/encode.py", "prompts are cut from the right", "prompt[-room:]", "prompt[:room]"),
    ("data/encode.py", "room is measured by the first completion", "max(map(len, completions))", "len(completions[0])"),
    ("data/batches.py", "prompts are padded on the right", "if left else slice(len(row))", "if False else slice(len(row))"),
    ("data/batches.py", "masks come from ids", "mask[i, where] = True", "mask[i, where] = torch.tensor(row) != 0"),
    ("data/batches.py", "every epoch has the same order", "seed + 1_000_003 * epoch", "seed"),
    ("data/batches.py", "the order does not depend on the seed", "manual_seed(seed + 1", "manual_seed(1"),
    ("data/batches.py", "the first batch of an epoch comes every time", "torch.cat(orders)[start:start + size]", "torch.cat(orders)[:size]"),
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
    ("support/loop.py", "a run goes on with other weights moving", 'if state["train"] != self.cfg.train:',
     "if False:"),
    ("support/command_line.py", "a preset overrides the flags", "cfg = tyro.cli(Config, default=Config(preset=name, **presets[name]))",
     "return Config(preset=name, **presets[name])"),
    ("support/optimizer.py", "the learning rate starts at zero", "(step + 1) / max(1, warmup * steps)", "step / max(1, warmup * steps)"),
    ("support/optimizer.py", "the learning rate does not decay", "(1 - done) / (1 - warmup), 1.0)", "1.0)"),
    ("support/optimizer.py", "the learning rate is computed and not used", 'group["lr"] = rate', 'group["lr"] = group["lr"]'),
    ("support/loop.py", "random numbers are not restored", 'torch.set_rng_state(state["rng"])', "pass"),
    ("support/loop.py", "β is forgotten when resuming", 'self.values.update(state["values"])', "pass"),
    ("support/loop.py", "a resumed run starts from step 0", 'self.step = state["step"]', "pass"),
    ("support/files.py", "a crash leaves half a file", 'temporary = path.parent / f".{path.name}.{os.getpid()}"',
     "temporary = path"),
    # ------------------------------------------------------------------------- sft.py
    ("sft.py", "prompts are learned, too", "learned = mask & (torch.arange(ids.shape[1], device=device) >= prompts[:, None])", "learned = mask"),
    ("sft.py", "pads are learned", "learned = mask & (torch", "learned = (torch"),
    ("sft.py", "the first token of the completion is not learned", ">= prompts[:, None]", "> prompts[:, None]"),
    ("sft.py", "the end token is not learned", "targets = learned[:, 1:]", "targets = learned[:, 1:] & (ids[:, 1:] != model.config.eos_token_id)"),
    ("sft.py", "each token is to predict itself", "ids[:, 1:][targets])", "ids[:, :-1][targets])"),
    ("sft.py", "the mask is one token off", "[:, :-1][targets])                          # (N, V)", "[:, 1:][targets])"),
    ("sft.py", "the model does not know the padding", "model.transformer(ids, mask)[:, :-1]", "model.transformer(ids.flip(1)).flip(1)[:, :-1]"),
    ("support/optimizer.py", "gradients are not clipped", "clip_grad_norm_(model.parameters(), 1.0)", "clip_grad_norm_(model.parameters(), 1e9)"),
    ("sft.py", "the optimiser is not restored", "model=model, optimizer=optimizer)", "model=model)"),
    ("sft.py", "the SFT model starts from nothing", "    train(model, pages, [], base,",
     "    train(GPT(shape), pages, [], base,"),
    ("sft.py", "the held-out loss weighs batches and not tokens", "cfg.micro_batch_size or cfg.batch_size, learned_tokens)",
     "cfg.micro_batch_size or cfg.batch_size, lambda example: 1)"),
    ("sft.py", "a page's first token counts as learned", "len(completion) if prompt else len(completion) - 1 for", "len(completion) for"),
    ("sft.py", "micro-batches are not weighted", "part_loss = share * sft_loss", "part_loss = sft_loss"),
    ("sft.py", "micro-batches count alike", "cfg.micro_batch_size, learned_tokens)", "cfg.micro_batch_size, lambda example: 1)"),
    ("sft.py", "all weights move whatever --train says", "    set_trainable(model, cfg.train)\n", ""),
    ("data/batches.py", "micro-batches weigh examples", "yield part, weight(part) / weight(batch)", "yield part, len(part) / len(batch)"),
    # ------------------------------------------------------------------------- reward.py
    ("reward.py", "the sign of the pairwise loss", "-F.logsigmoid(chosen - rejected)", "-F.logsigmoid(rejected - chosen)"),
    ("reward.py", "log of sigmoid: infinite, then NaN", "-F.logsigmoid(chosen - rejected).mean()", "-torch.log(torch.sigmoid(chosen - rejected)).mean()"),
    ("reward.py", "chosen and rejected change places", "return scores[better], scores[worse]", "return scores[worse], scores[better]"),
    ("reward.py", "only neighbours of a ranking count", "combinations(range(first, first + len(ranking)), 2)", "zip(range(first, first + len(ranking) - 1), range(first + 1, first + len(ranking)))"),
    ("reward.py", "rankings after the first are misread", "first += len(ranking)", "first += 1"),
    ("reward.py", "a tie counts as a hit", "(chosen > rejected).sum()", "(chosen >= rejected).sum()"),
    ("data/encode.py", "completions are scored without their end", 'tokenizer.encode("", completion)[1] for', 'tokenizer.encode("", completion)[1][:-1] for'),
    ("reward.py", "normalised on top of the last normalisation", "    model.config.reward_mean, model.config.reward_std = 0.0, 1.0\n", ""),
    ("reward.py", "the normalisation reads the prompts' padding", "torch.cat([mask, response_mask], dim=1)    # (B, P+R)",
     "torch.ones_like(torch.cat([mask, response_mask], dim=1))    # (B, P+R)"),
    ("reward.py", "the deviation is measured from zero", "scores.std().item()", "scores.square().mean().sqrt().item()"),
    ("reward.py", "only the mean is normalised", "scores.mean().item(), scores.std().item()", "scores.mean().item(), 1.0"),
    ("reward.py", "the reward model does not start from the SFT model", "model = ScalarGPT.from_pretrained(init, device, bf16, new_head=True)",
     "model = ScalarGPT(sft.config).place(device, bf16)"),
    ("reward.py", "micro-batches are not weighted", "(share * pairwise_loss(", "(1 * pairwise_loss("),
    ("reward.py", "micro-batches count rankings and not pairs", "sum(len(ranking) * (len(ranking) - 1) // 2 for _, ranking in examples)", "len(examples)"),
    ("reward.py", "all weights move whatever --train says", "    set_trainable(model, cfg.train)\n", ""),
    ("reward.py", "the optimiser is not restored", "model=model, optimizer=optimizer)", "model=model)"),
    ("reward.py", "the reward model is saved before it is normalised",
     "    return model.config.reward_mean, model.config.reward_std\n",
     "    got = model.config.reward_mean, model.config.reward_std\n    model.config.reward_mean, model.config.reward_std = 0.0, 1.0\n    return got\n"),
    # ------------------------------------------------------------------------- ppo.py
    ("ppo.py", "means over padding", "return x.where(mask.bool(), 0.0).sum() / mask.sum()", "return (x * mask).mean()"),
    ("ppo.py", "means of rows and not of tokens", "return x.where(mask.bool(), 0.0).sum() / mask.sum()", "return ((x * mask).sum(1) / mask.sum(1)).mean()"),
    ("ppo.py", "whitening over padding", "    mean = masked_mean(x, mask)\n", "    mean, mask = x.mean(), torch.ones_like(mask)\n"),
    ("ppo.py", "whitening by the variance", "torch.rsqrt(variance + 1e-8)", "(1 / (variance + 1e-8))"),
    ("ppo.py", "the KL has the wrong sign", "d = ref_logprobs - logprobs", "d = logprobs - ref_logprobs"),
    ("ppo.py", "k3 with the ratio reversed", "torch.expm1(d) - d", "torch.expm1(-d) + d"),
    ("ppo.py", "the penalty is k3", 'estimator="k1"', 'estimator="k3"'),
    ("ppo.py", "GAE forgets λ", "advantage = delta + gamma * lam * advantage", "advantage = delta + gamma * advantage"),
    ("ppo.py", "GAE forgets γ in λγ", "advantage = delta + gamma * lam * advantage", "advantage = delta + lam * advantage"),
    ("ppo.py", "GAE forgets γ at the next value", "rewards[:, t] + gamma * next_value", "rewards[:, t] + next_value"),
    ("ppo.py", "the terminal value is not zero", "advantage, next_value = 0.0, 0.0", "advantage, next_value = 0.0, values[:, -1]"),
    ("ppo.py", "GAE runs forwards", "reversed(range(rewards.shape[1]))", "range(rewards.shape[1])"),
    ("ppo.py", "returns without the values", "return advantages, advantages + values", "return advantages, advantages"),
    ("ppo.py", "the policy loss has the wrong sign", "plain = -advantages * ratio                     # (B, R)\n    clipped = -advantages",
     "plain = advantages * ratio\n    clipped = advantages"),
    ("ppo.py", "min for max in the policy loss", "    loss = masked_mean(torch.maximum(plain", "    loss = masked_mean(torch.minimum(plain"),
    ("ppo.py", "the ratio is clipped on one side", "ratio.clamp(1 - clip, 1 + clip)", "ratio.clamp(max=1 + clip)"),
    ("ppo.py", "the clip does nothing", "ratio.clamp(1 - clip, 1 + clip)", "ratio"),
    ("ppo.py", "the ratio is upside down", "torch.exp((logprobs - old_logprobs)", "torch.exp((old_logprobs - logprobs)"),
    ("ppo.py", "min for max in the value loss", "0.5 * masked_mean(torch.maximum(plain, clipped), mask)", "0.5 * masked_mean(torch.minimum(plain, clipped), mask)"),
    ("ppo.py", "the value loss without its half", "loss = 0.5 * masked_mean(", "loss = masked_mean("),
    ("ppo.py", "values are clipped around the returns", "torch.clamp(values, old_values - clip, old_values + clip)", "torch.clamp(values, returns - clip, returns + clip)"),
    ("ppo.py", "β follows the KL the wrong way", "kl / target - 1", "1 - kl / target"),
    ("ppo.py", "β moves without a limit", "min(max(kl / target - 1, -0.2), 0.2)", "kl / target - 1"),
    ("gpt.py", "the actor's logits are one token late", "model.transformer(ids, mask)[:, -R - 1:-1]", "model.transformer(ids, mask)[:, -R:]"),
    ("gpt.py", "temperature is forgotten in scoring", "model.head(states).float() / temperature", "model.head(states).float()"),
    ("ppo.py", "the critic is read one token late", "critic(ids, mask)[:, -R - 1:-1]", "critic(ids, mask)[:, -R:]"),
    ("ppo.py", "the critic is read one token early", "critic(ids, mask)[:, -R - 1:-1]", "critic(ids, mask)[:, -R - 2:-2]"),
    ("ppo.py", "the reward model reads the prompt alone", "reward_model.reward(part, real)",
     "reward_model.reward(part[:, :-R], real[:, :-R])"),
    ("ppo.py", "no penalty for a missing end", "torch.where(is_eos.any(1), torch.cat(scores), cfg.missing_eos_score)", "torch.cat(scores)"),
    ("ppo.py", "micro-batches of the actor are not weighted", "(share * actor_loss).backward()",
     "actor_loss.backward()"),
    ("ppo.py", "micro-batches of the critic are not weighted", "(share * critic_loss).backward()",
     "critic_loss.backward()"),
    ("support/monitor.py", "metrics of micro-batches are not weighted", "(share * value).item()",
     "value.item()"),
    ("ppo.py", "only the first part is scored", "torch.where(is_eos.any(1), torch.cat(scores)",
     "torch.where(is_eos.any(1), torch.cat(scores[:1] * len(scores))[:B]"),
    ("support/memory.py", "what moves has no gradient and no moments in the table", "(4 if p.requires_grad else 1)", "1"),
    ("support/memory.py", "the logits are left out of the memory", "(cfg.max_new_tokens * shape.vocab_size * 4 * 4 + ",
     "("),
    ("support/memory.py", "a run that does not fit is started", "if needed > free:", "if False:"),
    ("ppo.py", "actor and critic move whatever --train says", "    set_trainable(actor, train)\n    set_trainable(critic, train)\n",
     ""),
    ("ppo.py", "an end in the prompt counts", "is_eos.any(1), torch.cat", "(ids == actor.config.eos_token_id).any(1), torch.cat"),
    ("ppo.py", "the end is looked for in the last column", "is_eos.any(1), torch.cat", "is_eos[:, -1], torch.cat"),
    ("ppo.py", "KL is earned and not paid", "rewards = -kl_coef * kl_penalty", "rewards = kl_coef * kl_penalty"),
    ("ppo.py", "KL is paid for what stands after the end", "ref_logprobs = torch.cat(ref_logprobs) * response_mask",
     "ref_logprobs = torch.cat(ref_logprobs)"),
    ("ppo.py", "the score lands on a pad", "rewards[rows, last] += scores", "rewards[:, -1] += scores"),
    ("ppo.py", "the score lands one token early", "rewards[rows, last] += scores", "rewards[rows, last - 1] += scores"),
    ("ppo.py", "every token gets the score", "rewards[rows, last] += scores", "rewards += scores[:, None] * response_mask"),
    ("ppo.py", "the score replaces the last token's KL", "rewards[rows, last] += scores", "rewards[rows, last] = scores"),
    ("ppo.py", "values beyond the end are kept", "values = torch.cat(values) * response_mask",
     "values = torch.cat(values)"),
    ("ppo.py", "γ and λ change places", "gae(rewards, values, cfg.gamma, cfg.lam)", "gae(rewards, values, cfg.lam, cfg.gamma)"),
    ("ppo.py", "advantages are not whitened", "advantages = whiten(advantages, response_mask) * response_mask", "advantages = advantages * response_mask"),
    ("ppo.py", "returns are computed after whitening", "advantages = whiten(advantages, response_mask) * response_mask",
     "advantages = whiten(advantages, response_mask) * response_mask; returns = advantages + values"),
    ("ppo.py", "the reference is the actor itself", "response_logprobs(\n            reference, part",
     "response_logprobs(\n            actor, part"),
    ("ppo.py", "one epoch whatever is asked", "for _ in range(cfg.epochs):", "for _ in range(1):"),
    ("ppo.py", "the same order in every epoch", "torch.randperm(B).tensor_split", "torch.arange(B).tensor_split"),
    ("ppo.py", "advantages instead of returns for the critic", "values, part.values, part.returns, mask",
     "values, part.values, part.advantages, mask"),
    ("ppo.py", "the critic's clip is the actor's", "part.returns, mask, cfg.value_clip)", "part.returns, mask, cfg.clip * 0)"),
    ("ppo.py", "the actor's loss counts padding", "part.advantages, mask, cfg.clip)", "part.advantages, torch.ones_like(mask), cfg.clip)"),
    ("ppo.py", "the critic never steps", "take_step(critic, critic_optimizer))",
     "torch.zeros(()))"),
    ("support/monitor.py", "the ratio is not checked", "        if self.steps == 0:\n",
     "        if False:\n"),
    ("support/optimizer.py", "clip after the step", "    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)\n    optimizer.step()\n",
     "    optimizer.step()\n    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)\n"),
    ("support/optimizer.py", "gradients pile up", "    optimizer.zero_grad()\n    return norm", "    return norm"),
    ("support/monitor.py", "a loss of NaN goes unnoticed", "if not torch.isfinite(loss):", "if False:"),
    ("support/monitor.py", "entropy of unnormalised logits", "logits.logsumexp(-1) -", "logits.exp().sum(-1).sqrt().log() -"),
    ("support/monitor.py", "the KL at step 0 is not checked", "    if step == 0:\n",
     "    if step < 0:\n"),
    ("support/monitor.py", "a KL below zero never stops the run", "if negatives == 3:", "if negatives == 4:"),
    ("support/monitor.py", "a KL below zero by chance stops the run", "kl.mean() < -2 * standard_error",
     "kl.mean() < 0"),
    ("support/monitor.py", "the reported KL is a mean over tokens", '"objective/kl": kl.sum(1).mean()',
     '"objective/kl": kl.mean(1).mean()'),
    ("ppo.py", "the reference is trained along", "reference = GPT.from_pretrained(sft, device, bf16, frozen=True)",
     "reference = GPT.from_pretrained(sft, device, bf16)"),
    ("ppo.py", "the reward model is trained along", "reward_model = ScalarGPT.from_pretrained(rm, device, bf16, frozen=True)",
     "reward_model = ScalarGPT.from_pretrained(rm, device, bf16)"),
    ("ppo.py", "the reference is the actor", "reference = GPT.from_pretrained(sft, device, bf16, frozen=True)",
     "reference = actor"),
    ("ppo.py", "the reward model is the critic", "reward_model = ScalarGPT.from_pretrained(rm, device, bf16, frozen=True)",
     "reward_model = critic"),
    ("ppo.py", "the critic starts from nothing", "critic = ScalarGPT.from_pretrained(rm, device, bf16)\n",
     "critic = ScalarGPT(actor.config)\n"),
    ("support/optimizer.py", "both betas the same", "betas=(0.9, 0.95)", "betas=(0.9, 0.9)"),
    ("ppo.py", "one learning rate for both networks", "set_learning_rate(critic_optimizer, cfg.critic_lr, step",
     "set_learning_rate(critic_optimizer, cfg.lr, step"),
    ("ppo.py", "prompts are padded on the right", "ids, mask = pad(batch, left=True, device=device)", "ids, mask = pad(batch, device=device)"),
    ("data/encode.py", "prompts to practise on are cut from the right", "tokenizer.encode(prompt)[-room:]", "tokenizer.encode(prompt)[:room]"),
    ("ppo.py", "β is steered by the KL of a token", 'metrics["objective/kl"].item()', 'metrics["objective/kl"].item() / cfg.max_new_tokens'),
    ("ppo.py", "β never changes", '            state["kl_coef"] = adapt_kl_coef(', "            adapt_kl_coef("),
    ("ppo.py", "the critic's optimiser is not restored", "critic_optimizer=critic_optimizer)",
     "critic_again=critic)"),
    ("ppo.py", "the actor's optimiser is not restored", "actor_optimizer=actor_optimizer,",
     "actor_again=actor,"),
    ("ppo.py", "the critic is saved as the actor", "    finish(actor, tokenizer, run",
     "    finish(critic, tokenizer, run"),
    ("ppo.py", "micro-batches weigh rows instead of tokens", "actions = lambda part: part.response_mask.sum()", "actions = len"),
    ("reward.py", "unfinished completions count in the normalisation", "model.reward(ids, mask)[ended]", "model.reward(ids, mask)"),
    ("evaluate.py", "an unfinished response has the reward model's score", "torch.where(ended, reward_model.reward(ids, mask), cfg.missing_eos_score)",
     "reward_model.reward(ids, mask)"),
    ("data/batches.py", "a batch ends with its epoch", "for epoch in range(first // len(rows), last // len(rows) + 1):", "for epoch in range(first // len(rows), first // len(rows) + 1):"),
    ("ppo.py", "values are clipped to the actor's range", "part.returns, mask, cfg.value_clip)", "part.returns, mask, cfg.clip)"),
    ("support/optimizer.py", "weights decay", "weight_decay=0.0", "weight_decay=0.1"),
    # ------------------------------------------------------------------------- evaluate.py
    ("evaluate.py", "ties and losses change places", '"tie": mean(ties), "loss": mean(losses)', '"tie": mean(losses), "loss": mean(ties)'),
    ("evaluate.py", "ties are wins", "wins = [a.score > b.score and not tie",
     "wins = [a.score >= b.score"),
    ("evaluate.py", "the best of n is chosen by the judge", "key=lambda answer: answer.proxy", "key=lambda answer: answer.score"),
    ("evaluate.py", "answers count as independent in the interval", "torch.tensor([mean(group) for group in by_prompt.values()])",
     "torch.tensor(points)"),
    ("evaluate.py", "KL over what stands after the end", "((logprobs - sft_logprobs) * response_mask).sum(1)", "(logprobs - sft_logprobs).sum(1)"),
    # ------------------------------------------------------------------------- the toy
    ("data/toy.py", "people prefer the worse answer", "felt[text] = 2 * judge(prompt, text)", "felt[text] = -2 * judge(prompt, text)"),
    ("data/toy.py", "people never err", "- math.log(-math.log(rng.random()))", ""),
    ("data/toy.py", "test prompts are practised on", "(test if p == kept else train).append", "(test if p == kept else train).append(dialogue(fact.question(p))) or train.append"),
    # ------------------------------------------------------------------------- weights and their tokenizers
    ("support/hub.py", "a folder called gpt2 is overlooked", "if name in HUB and not Path(name).is_dir():", "if name in HUB:"),
    ("support/hub.py", "shards are not downloaded", '"model*.safetensors*"]', '"model.safetensors"]'),
    ("support/hub.py", "all files of the hub are downloaded", '["config.json", "model*.safetensors*"]', '["*"]'),
    ("support/checkpoint.py", "any activation is taken for GPT-2's", '"activation_function": ["gelu_new", "gelu_pytorch_tanh"],', ""),
    ("support/checkpoint.py", "any epsilon is taken for GPT-2's", ' "layer_norm_epsilon": [1e-5],\n',
     "\n"),
    ("support/checkpoint.py", "any inner width is taken for GPT-2's", '{**GPT2, "n_inner": [None, 4 * stored.get("n_embd", 768)]}',
     "GPT2"),
    ("support/checkpoint.py", "GPT-2's inner width in numbers is refused", '"n_inner": [None, 4 * stored.get("n_embd", 768)]', '"n_inner": [None]'),
    ("support/checkpoint.py", "the tanh GELU by its other name is refused", '["gelu_new", "gelu_pytorch_tanh"]', '["gelu_new"]'),
    ("support/checkpoint.py", "attention without its scale is taken for GPT-2's", '"scale_attn_weights": [True], ', ""),
    ("support/checkpoint.py", "attention scaled by layer is taken for GPT-2's", '"scale_attn_by_inverse_layer_idx": [False],', ""),
    ("support/checkpoint.py", "cross attention is ignored", ' "add_cross_attention": [False],\n',
     "\n"),
    ("support/checkpoint.py", "an untied head is ignored", '"tie_word_embeddings": [True]}',
     "}"),
    ("support/checkpoint.py", "any architecture is read as GPT-2", '{"model_type": ["gpt2"], ', "{"),
    ("support/checkpoint.py", "a config without a model type is read as GPT-2", 'if "model_type" not in stored:', "if False:"),
    ("support/checkpoint.py", "every model has 1024 positions", 'stored["block_size"] = stored.get("n_positions", 1024)', 'stored["block_size"] = 1024'),
    ("support/checkpoint.py", "a config that does not say its positions has none", 'stored.get("n_positions", 1024)', 'stored.get("n_positions", 0)'),
    ("support/checkpoint.py", "a foreign reward model is always read at the end", 'is_scorer(stored) and stored.get("pad_token_id") ==', 'False and stored.get("pad_token_id") =='),
    ("support/checkpoint.py", "a reward model is never read at the end", 'is_scorer(stored) and stored.get("pad_token_id") == stored.get("eos_token_id", 50256)', 'is_scorer(stored)'),
    ("gpt.py", "the score is read at the end though that was padding", "positions = positions * (ids != self.config.eos_token_id)", "positions = positions * (ids >= 0)"),
    ("gpt.py", "an end within a foreign model's text is masked", "positions = positions * (ids != self.config.eos_token_id)  ", "mask = mask & (ids != self.config.eos_token_id)  "),
    ("support/checkpoint.py", "where a foreign model reads is forgotten when it is saved", "pad_token_id=eos if eos_is_pad else 0)",
     "pad_token_id=0)"),
    ("support/checkpoint.py", "only the first shard is read", 'sorted(set(read_json(index).get("weight_map", {}).values()))', 'sorted(set(read_json(index).get("weight_map", {}).values()))[:1]'),
    ("support/checkpoint.py", "a shard that is missing is a traceback", "except (OSError, SafetensorError) as error:", "except SafetensorError as error:"),
    ("support/checkpoint.py", "a file cut off is a traceback", "except (OSError, SafetensorError) as error:", "except OSError as error:"),
    ("support/checkpoint.py", "a reward model is converted as a language model", 'kind = "SequenceClassification" if is_scorer(read_config(folder)) else "CausalLM"', 'kind = "CausalLM"'),
    ("support/checkpoint.py", "pickled weights are not recognised", 'elif list(folder.glob("pytorch_model*.bin")):', "elif False:"),
    ("support/checkpoint.py", "names without the prefix are not read", 'else "transformer." + name\n', "else name\n"),
    ("support/checkpoint.py", "the masks of old files are taken for weights", 'if not name.endswith((".attn.bias", ".attn.masked_bias")):', "if True:"),
    ("support/checkpoint.py", "the biases of the attention are taken for masks", '(".attn.bias", ".attn.masked_bias")', '("attn.bias", ".attn.masked_bias")'),
    ("support/checkpoint.py", "another head than the embedding is dropped in silence", "embedding is not None and not torch.equal(head, embedding)", "embedding is not None and False"),
    ("support/checkpoint.py", "a tied head a second time is refused", "embedding is not None and not torch.equal(head, embedding)", "embedding is not None"),
    ("support/checkpoint.py", "a saved square matrix is not transposed", '"c_proj.weight", "c_fc.weight")) and tensor.ndim == 2', '"c_fc.weight")) and tensor.ndim == 2'),
    ("support/checkpoint.py", "a new head overwrites the one that is there", 'tensors.setdefault("score.weight", ', 'tensors.__setitem__("score.weight", '),
    ("support/checkpoint.py", "the new head is zero", "torch.randn(1, channels) / math.sqrt",
     "torch.zeros(1, channels) / math.sqrt"),
    ("support/checkpoint.py", "a tensor that is missing stays as memory was", "        if name not in tensors:\n",
     "        if name not in tensors:\n            continue\n        if False:\n"),
    ("support/checkpoint.py", "tensors that are left over are dropped", "    if left := sorted(tensors.keys() - expected.keys()):",
     "    tensors = {name: tensors[name] for name in expected}\n    if left := []:"),
    ("gpt.py", "weights are read and not loaded", 'model.to_empty(device="cpu").load_state_dict(read_weights(folder, model.state_dict(), new_head))',
     'model.to_empty(device="cpu"); read_weights(folder, model.state_dict(), new_head)'),
    ("gpt.py", "half precision on disk is half precision in memory", ".load_state_dict(read_weights(folder, model.state_dict(), new_head))",
     ".load_state_dict(read_weights(folder, model.state_dict(), new_head), assign=True)"),
    ("support/trainable.py", "LoRA's own tensors are saved", 'for name, tensor in model.state_dict().items() if ".lora_" not in name}',
     "for name, tensor in model.state_dict().items()}"),
    ("support/trainable.py", "what LoRA learned is not saved", '            state[f"{name}.weight"] = module.merged()\n',
     "            pass\n"),
    ("support/trainable.py", "what LoRA learned is saved without its scale", "return self.weight + self.scale * self.lora_b @ self.lora_a", "return self.weight + self.lora_b @ self.lora_a"),
    ("support/chat.py", "gpt2 cannot be talked to by its name", "folder, device = find_folder(sys.argv[1])", "folder, device = sys.argv[1]"),
    ("support/hub.py", "only some of the hub's errors are one sentence", "except Exception as error:      #", "except OSError as error:      #"),
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
    ("support/runs.py", "a colon in a folder's name", '.replace(":", "-")', ""),
    ("support/runs.py", "a plus sign in a folder's name", '.replace("+", "-")', ""),
    ("support/hub.py", "a cache without the files is taken for the files", "not any(folder.glob(pattern))", "False"),
    ("data/tldr.py", "an incomplete file is taken for the whole", "if path.stat().st_size != size:", "if False:"),
    ("support/files.py", "what is left of a broken download is kept", "temporary.unlink(missing_ok=True)", "pass"),
    ("data/tldr.py", "files are downloaded every time", "if not path.exists():", "if True:"),
    ("data/tldr.py", "only the first piece is written", "while piece :=", "if piece :="),
    ("data/tldr.py", "a server's error is a traceback", "except (OSError, HTTPException)", "except (TimeoutError, HTTPException)"),
    ("data/tldr.py", "XDG_CACHE_HOME is ignored", 'os.environ.get("XDG_CACHE_HOME") or', ""),
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
