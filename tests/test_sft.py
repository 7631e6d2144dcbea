"""sft.py: where the loss counts, what is cut and dropped, and that a handful of answers can be learned by heart."""
import pytest
import torch

import sft
from support import UserError
from gpt import GPT
from sft import encode_demonstrations, encode_texts, sft_loss
from sft import test_loss as held_out_loss
from tiny import EOS, close, model, words


def surprise(gpt, prompt, completion):
    """-log p of each token of the completion, by one plain pass over the text alone."""
    logprobs = gpt(torch.tensor([prompt + completion]))[0].log_softmax(-1)
    return torch.stack([-logprobs[len(prompt) + i - 1, token] for i, token in enumerate(completion)]).detach()


def test_the_loss_is_the_surprise_at_the_completion_and_its_end_alone():
    gpt = model()
    close(sft_loss(gpt, [([1, 2, 3], [4, 5, EOS])]).detach(), surprise(gpt, [1, 2, 3], [4, 5, EOS]).mean(), 1e-5)


def test_every_token_weighs_the_same_in_long_answers_and_short_ones():
    gpt, long, short = model(), ([1, 2, 3], [4, 5, 6, 7, EOS]), ([8], [EOS])
    together = torch.cat([surprise(gpt, *long), surprise(gpt, *short)]).mean()       # 6 tokens
    close(sft_loss(gpt, [long, short]).detach(), together, 1e-5)


def test_all_of_a_page_is_learned_but_its_first_token():
    gpt = model()
    close(sft_loss(gpt, [([], [4, 5, 6, EOS])]).detach(), surprise(gpt, [4], [5, 6, EOS]).mean(), 1e-5)


def test_the_end_is_learned():
    gpt = model(scale=0)
    with torch.no_grad():                                       # the next token is never <|endoftext|>
        gpt.transformer.ln_f.weight.zero_()
        gpt.transformer.ln_f.bias.copy_(-100 * gpt.transformer.wte.weight[EOS])
    sft_loss(gpt, [([1, 2], [3, EOS])]).backward()
    assert sft_loss(gpt, [([1, 2], [3, EOS])]) > sft_loss(gpt, [([1, 2], [3, 4])]) + 1
    assert gpt.transformer.wte.weight.grad[EOS].norm() > 0.1


def test_the_held_out_loss_does_not_depend_on_the_batches():
    gpt = model()
    examples = [([1, 2, 3], [4, 5, 6, 7, EOS]), ([8], [EOS]), ([9, 1], [2, EOS])]
    expected = torch.cat([surprise(gpt, *example) for example in examples]).mean().item()
    for batch_size in (1, 2, 3):
        cfg = sft.Config(batch_size=batch_size)
        assert held_out_loss(gpt, examples, cfg, None) == pytest.approx(expected, abs=1e-5)


def test_pages_are_cut_into_pieces_and_end_with_the_end_token():
    tokenizer = words()
    ids = tokenizer.encode("Is owl a bird?")
    n = len(ids)
    assert encode_texts(["Is owl a bird?"], tokenizer, n + 1) == [([], ids + [tokenizer.eos])]
    assert encode_texts(["Is owl a bird?"] * 2, tokenizer, n - 1) == [([], ids[:-1]), ([], [ids[-1], tokenizer.eos])] * 2
    assert encode_texts(["Is owl a bird?"], tokenizer, n) == [([], ids)]        # a lone end token predicts nothing


def test_a_demonstration_that_cannot_fit_is_dropped_and_counted(capsys):
    tokenizer = words()
    prompt, completion = tokenizer.encode("Is owl a bird?", " Yes, owl is.")
    rows = [("Is owl a bird?", " Yes, owl is."), ("Is owl a bird?", " Yes, owl is." * 9)]
    assert encode_demonstrations(rows, tokenizer, len(completion) + 2) == [(prompt[-2:], completion)]
    assert "1 demonstrations dropped" in capsys.readouterr().out
    with pytest.raises(UserError, match="no demonstration fits into 3 tokens: train the SFT model with a larger --block_size"):
        encode_demonstrations(rows, tokenizer, 3)


def test_a_handful_of_answers_is_learned_by_heart():
    gpt = model(scale=0, n_embd=16)
    examples = [([i, 1], [9 - i, i, EOS]) for i in range(4)]
    optimizer = torch.optim.AdamW(gpt.parameters(), lr=1e-2)
    for _ in range(80):
        loss = sft_loss(gpt, examples)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss < 0.05
    prompts = torch.tensor([prompt for prompt, _ in examples])
    tokens, _, _ = gpt.generate(prompts, torch.ones_like(prompts).bool(), 5, temperature=0.0)
    assert tokens.tolist() == [completion for _, completion in examples]

# ----------------------------------------------------------------------------- the loop


def test_from_scratch_it_reads_first_and_answers_from_what_it_read(run_stage, quiet, monkeypatch):
    trained = []
    run_loop = sft.run_loop

    def spy(net, examples, held_out, folder, steps, lr, cfg, device):
        before = [p.detach().clone() for p in net.parameters()]
        run_loop(net, examples, held_out, folder, steps, lr, cfg, device)
        trained.append((folder.name, examples, held_out, steps, lr, before, [p.detach().clone() for p in net.parameters()]))
    monkeypatch.setattr(sft, "run_loop", spy)
    run = run_stage(sft, steps=3, pretrain_steps=5, lr=0.02, pretrain_lr=0.04)
    (base, texts, none, base_steps, base_lr, _, read), (name, demonstrations, held_out, steps, lr, start, _) = trained
    assert (base, base_steps, base_lr, none, name, steps, lr) == ("base", 5, 0.04, [], "sft", 3, 0.02)
    assert all(prompt == [] for prompt, _ in texts) and all(prompt for prompt, _ in demonstrations)
    assert held_out and not {tuple(p) for p, _ in held_out} & {tuple(p) for p, _ in demonstrations}
    assert all(torch.equal(a, b) for a, b in zip(read, start))
    assert all(torch.equal(a, b) for a, b in zip(read, GPT.from_pretrained(run / "base").parameters()))
    assert GPT.from_pretrained(run / "sft").config == GPT.from_pretrained(run / "base").config


def test_from_a_folder_it_answers_at_once_and_keeps_its_vocabulary(run_stage, quiet):
    run = run_stage(sft)
    quiet.runs.clear()
    run_stage(sft, init=str(run / "base"), run="other")
    assert set(quiet.runs) == {"sft"}
    assert (run.parent / "other/sft/tokenizer.tiktoken").read_text() == (run / "base/tokenizer.tiktoken").read_text()


def test_a_model_with_fewer_positions_than_asked_for_reads_only_as_far(run_stage):
    run = run_stage(sft, block_size=10)
    run_stage(sft, init=str(run / "base"), run="other", block_size=64)
    assert GPT.from_pretrained("other/sft").config.block_size == 10


def test_every_step_reads_other_examples_until_all_are_read(run_stage, monkeypatch):
    read = []

    def spy(net, examples, device=None):
        read.append([str(example) for example in examples])
        return sft_loss(net, examples, device)
    monkeypatch.setattr(sft, "sft_loss", spy)
    run_stage(sft, pretrain_steps=4, steps=4, batch_size=4)
    for epoch in (read[:4], read[4:8]):
        assert len({example for batch in epoch for example in batch}) == 16


def test_every_loop_uses_adamw_with_two_betas_and_no_decay(run_stage, optimizers):
    run_stage(sft)
    assert [optimizer.param_groups[0]["betas"] for optimizer in optimizers] == [(0.9, 0.95)] * 2
    assert [optimizer.param_groups[0]["weight_decay"] for optimizer in optimizers] == [0.0] * 2


def test_training_lowers_the_loss_with_a_rate_that_warms_up_and_decays(run_stage, quiet):
    run_stage(sft, steps=40, pretrain_steps=40, batch_size=8)
    for name, peak in (("base", 5e-3), ("sft", 1e-2)):
        steps = quiet.runs[name]
        assert steps[39]["loss"] < steps[0]["loss"] - 0.5
        assert [steps[i]["lr"] for i in (0, 1, 39)] == pytest.approx([peak / 2, peak, peak * (1 / 40) / 0.95])
    assert quiet.runs["sft"][40]["test_loss"] < steps[0]["loss"]


def test_gradients_are_clipped_to_one_and_zeroed_in_the_loop(run_stage, monkeypatch):
    clip, norms = torch.nn.utils.clip_grad_norm_, []

    def spy(parameters, most):
        parameters = list(parameters)
        norm = clip(parameters, most)
        norms.append((norm.item(), torch.cat([p.grad.flatten() for p in parameters]).norm().item()))
        return norm
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", spy)
    monkeypatch.setattr(sft, "sft_loss", lambda *given: 100 * sft_loss(*given))
    monkeypatch.setattr(sft, "batch_at", lambda examples, *given: examples)
    run_stage(sft, lr=0.0, pretrain_lr=0.0)                     # lr 0 and all examples: the same gradient every step
    assert len(norms) == 8 and norms[0][0] > 1
    for before, after in norms:
        assert after == pytest.approx(min(before, 1.0), rel=1e-4)
    assert [n for n, _ in norms[:4]] == pytest.approx([norms[0][0]] * 4, rel=1e-3)


def test_a_loss_that_is_not_finite_stops_the_run(run_stage):
    with pytest.raises(UserError, match="(loss|gradient_norm) is (nan|inf) at step .*failed"):
        run_stage(sft, pretrain_lr=1e8, pretrain_steps=9)
