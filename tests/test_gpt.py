"""gpt.py against `transformers`, and generation against the model itself."""
import json
import math

import pytest
import torch
from safetensors.torch import load_file, save_file

from common import UserError
from gpt import GPT, GPTConfig, ScalarGPT, transposed
from tiny import BLOCK, EOS, VOCAB, close, critic, model, words

# ----------------------------------------------------------------------------- the model


def test_logits_are_those_of_transformers_whichever_side_wrote_the_folder(tmp_path):
    from transformers import GPT2LMHeadModel
    ours = model()
    ours.save_pretrained(tmp_path / "ours")
    theirs = GPT2LMHeadModel.from_pretrained(tmp_path / "ours").eval()
    ids = torch.randint(VOCAB, (3, BLOCK))
    with torch.no_grad():
        close(ours(ids), theirs(ids).logits, 1e-5)
        theirs.save_pretrained(tmp_path / "theirs")
        assert torch.equal(GPT.from_pretrained(tmp_path / "theirs")(ids), ours(ids))


def test_scores_are_those_of_transformers_at_the_last_real_token(tmp_path):
    from transformers import GPT2ForSequenceClassification
    ours = critic()
    ours.save_pretrained(tmp_path)
    theirs = GPT2ForSequenceClassification.from_pretrained(tmp_path).eval()
    pad = theirs.config.pad_token_id
    assert pad != EOS
    ids = torch.tensor([[1, 2, 3, EOS, pad, pad], [4, 5, 6, 7, 8, EOS]])
    mask = torch.tensor([[1, 1, 1, 1, 0, 0], [1] * 6]).bool()
    with torch.no_grad():
        close(ours.reward(ids, mask), theirs(ids, attention_mask=mask.long()).logits[:, 0], 1e-5)


def test_scores_are_measured_in_the_fitted_mean_and_deviation():
    ids, mask = torch.tensor([[1, 2, EOS]]), torch.ones(1, 3)
    raw = critic()(ids, mask)
    close(critic(reward_mean=2.0, reward_std=4.0)(ids, mask), (raw - 2.0) / 4.0)


def test_a_fresh_model_knows_nothing_and_says_so():
    torch.manual_seed(0)
    ids = torch.randint(100, (8, 16))
    loss = torch.nn.functional.cross_entropy(GPT(GPTConfig(100, 16, 4, 4, 64, 99))(ids)[:, :-1].flatten(0, 1),
                                             ids[:, 1:].flatten())
    assert loss.item() == pytest.approx(math.log(100), abs=0.35)


def test_fresh_weights_are_drawn_as_gpt2_draws_them():
    torch.manual_seed(0)
    made = GPT(GPTConfig(5000, 64, 8, 4, 192, 0))            # a quarter of 768 channels: twice 0.02
    for name, std in (("wte.weight", 0.04), ("h.3.attn.c_attn.weight", 0.04), ("h.3.mlp.c_fc.weight", 0.04),
                      ("h.3.attn.c_proj.weight", 0.01), ("h.3.mlp.c_proj.weight", 0.01)):      # 1 / √(2·8 layers)
        assert made.get_parameter("transformer." + name).std().item() == pytest.approx(std, rel=0.03)
    assert all((made.get_parameter(name) == value).all() for name, value in
               (("transformer.h.0.mlp.c_fc.bias", 0), ("transformer.ln_f.bias", 0), ("transformer.ln_f.weight", 1)))


def test_the_first_scores_of_a_fresh_head_have_deviation_one():
    head = torch.cat([ScalarGPT(GPTConfig(10, 8, 1, 2, 256, 9)).score.weight for _ in range(8)])
    assert head.std().item() * math.sqrt(257) == pytest.approx(1, rel=0.08)


def test_a_text_longer_than_the_model_is_refused():
    with pytest.raises(UserError, match="25 tokens, but this model has only 24"):
        model()(torch.zeros(1, 25, dtype=torch.long))

# ----------------------------------------------------------------------------- generation

PROMPTS = torch.tensor([[0, 0, 1, 2], [3, 4, 5, 6], [0, 0, 0, 7]] * 4)
PROMPT_MASK = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1], [0, 0, 0, 1]] * 4).bool()


def test_generated_rows_end_with_their_first_end_token():
    tokens, mask, _ = model().generate(PROMPTS, PROMPT_MASK, 12)
    lengths = mask.sum(1)
    assert len(set(lengths.tolist())) > 3 and lengths.max() == tokens.shape[1]
    for row, real in zip(tokens, mask):
        n = real.sum()
        assert real[:n].all() and (row[:n - 1] != EOS).all()
        assert row[n - 1] == EOS or n == 12


def test_generation_stops_when_all_rows_have_ended():
    ends = model(scale=0)
    with torch.no_grad():                                       # the next token is <|endoftext|>, whatever comes before
        ends.transformer.ln_f.weight.zero_()
        ends.transformer.ln_f.bias.copy_(100 * ends.transformer.wte.weight[EOS])
    assert ends.generate(PROMPTS, PROMPT_MASK, 12)[0].tolist() == [[EOS]] * len(PROMPTS)


@pytest.mark.parametrize("temperature", [0.7, None, 1.6])
def test_sampled_tokens_have_the_log_probabilities_they_were_sampled_with(temperature):
    """Cached, batched and left-padded against one plain pass over each row alone, at every step."""
    gpt, options = model(), {} if temperature is None else {"temperature": temperature}
    tokens, mask, logprobs = gpt.generate(PROMPTS, PROMPT_MASK, 12, **options)
    temperature = temperature or 1.0                            # the default
    for i, prompt in enumerate(PROMPTS):
        prompt, answer = prompt[PROMPT_MASK[i]], tokens[i][mask[i]]
        logits = gpt(torch.cat([prompt, answer])[None])[0, len(prompt) - 1:-1] / temperature
        again = torch.distributions.Categorical(logits=logits).log_prob(answer)
        close(logprobs[i][mask[i]], again.detach(), 1e-5)


def test_tokens_come_as_often_as_the_model_says():
    gpt, n, temperature = model(), 20_000, 0.5
    ids = torch.tensor([[1, 2, 3]])
    expected = (gpt(ids)[0, -1] / temperature).softmax(-1).detach()
    tokens, _, _ = gpt.generate(ids.repeat(n, 1), torch.ones(n, 3).bool(), 1, temperature)
    seen = torch.bincount(tokens[:, 0], minlength=VOCAB) / n
    assert ((seen - expected).abs() < 5 * (expected * (1 - expected) / n).sqrt() + 1e-4).all()


def test_temperature_zero_takes_the_likeliest_token():
    gpt = model()
    tokens, mask, _ = gpt.generate(PROMPTS, PROMPT_MASK, 6, temperature=0.0)
    for i, prompt in enumerate(PROMPTS):
        text = torch.cat([prompt[PROMPT_MASK[i]], tokens[i][mask[i]]])
        best = gpt(text[None])[0].argmax(-1)
        assert torch.equal(best[PROMPT_MASK[i].sum() - 1:-1], tokens[i][mask[i]])


def test_a_generation_may_fill_the_model_and_not_a_token_more():
    no_end = model(eos_token_id=VOCAB + 1)
    assert no_end.generate(PROMPTS, PROMPT_MASK, BLOCK - 4)[0].shape[1] == BLOCK - 4
    with pytest.raises(UserError, match="a prompt of 4 tokens and 21 new ones do not fit"):
        no_end.generate(PROMPTS, PROMPT_MASK, BLOCK - 3)


def test_generation_leaves_no_graph_behind():
    assert not model().generate(PROMPTS, PROMPT_MASK, 2)[2].requires_grad

# ----------------------------------------------------------------------------- folders


def test_a_saved_model_comes_back_whole(tmp_path):
    saved = critic(reward_mean=1.5, reward_std=2.5)
    saved.save_pretrained(tmp_path, words())
    back = ScalarGPT.from_pretrained(tmp_path)
    assert back.config == saved.config
    assert all(torch.equal(a, b) for a, b in zip(saved.state_dict().values(), back.state_dict().values()))


def test_matrices_are_stored_the_way_gpt2_stores_them(tmp_path):
    saved = model()
    saved.save_pretrained(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    assert stored["transformer.h.0.attn.c_attn.weight"].shape == (8, 24)
    assert stored["transformer.h.0.mlp.c_proj.weight"].shape == (32, 8)
    assert torch.equal(stored["transformer.wte.weight"], saved.transformer.wte.weight)


def test_a_reward_model_starts_from_a_language_model_with_a_new_head(tmp_path):
    sft = model()
    sft.save_pretrained(tmp_path)
    started = ScalarGPT.from_pretrained(tmp_path, new_head=True)
    assert all(torch.equal(tensor, started.state_dict()[name]) for name, tensor in sft.state_dict().items())
    assert started.score.weight.std() > 0


def broken(tmp_path, change):
    model().save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    change(tensors)
    save_file(tensors, tmp_path / "model.safetensors")
    return tmp_path


@pytest.mark.parametrize("change, message", [
    (lambda t: t.pop("transformer.ln_f.bias"), "transformer.ln_f.bias is missing"),
    (lambda t: t.update({"transformer.ln_f.bias": torch.zeros(9)}), r"ln_f.bias has shape \(9,\).*asks for \(8,\)"),
    (lambda t: t.update({"h.9.what": torch.zeros(1)}), "h.9.what is no part of GPT-2"),
    (lambda t: t.update({"score.weight": torch.zeros(1, 8)}), "score.weight is no part of a language model")])
def test_a_folder_with_other_tensors_is_refused_by_name(tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        GPT.from_pretrained(broken(tmp_path, change))


def test_the_folder_says_what_the_model_was_trained_with(tmp_path):
    tokenizer = words()
    critic().save_pretrained(tmp_path, tokenizer)
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["tokenizer_name"], config["tokenizer_fingerprint"]) == ("words", tokenizer.fingerprint)
    assert (config["n_positions"], config["eos_token_id"], config["id2label"]) == (BLOCK, EOS, {"0": "reward"})


@pytest.mark.parametrize("name, swaps", [("h.0.attn.c_attn.weight", True), ("h.0.attn.c_proj.weight", True),
                                         ("h.0.mlp.c_fc.weight", True), ("wte.weight", False), ("score.weight", False)])
def test_only_the_matrices_of_the_blocks_are_transposed(name, swaps):
    assert transposed(name, torch.zeros(2, 3)).shape == ((3, 2) if swaps else (2, 3))
