"""gpt.py: how a model starts, and generation against the model itself; test_weights.py has the rest."""
import math

import pytest
import torch

from support import UserError
from gpt import GPT, GPTConfig, KVCache, ScalarGPT
from tiny import BLOCK, EOS, VOCAB, close, critic, model

# ----------------------------------------------------------------------------- the model


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
    head = torch.cat([ScalarGPT(ScalarGPT.Config(10, 8, 1, 2, 256, 9)).score.weight for _ in range(8)])
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


@pytest.mark.parametrize("rows_at_once", [1, 2, 5, 12])
@pytest.mark.parametrize("temperature", [1.0, 0.0])
def test_parts_change_no_response(rows_at_once, temperature):
    def responses(**parts):
        return model().generate(PROMPTS, PROMPT_MASK, 12, temperature, generator=torch.Generator().manual_seed(3), **parts)
    whole, parts = responses(), responses(rows_at_once=rows_at_once)
    assert torch.equal(whole[0], parts[0]) and torch.equal(whole[1], parts[1])
    close(whole[2], parts[2], 1e-5)
    assert not whole[0][~whole[1]].any() and not whole[2][~whole[1]].any()      # beyond the end


def test_nothing_is_computed_for_pads_or_for_rows_that_have_ended():
    gpt, seen = model(), []
    plain = gpt.transformer.forward
    gpt.transformer.forward = lambda ids, mask, cache: seen.append((ids, mask)) or plain(ids, mask, cache)
    _, mask, _ = gpt.generate(PROMPTS, PROMPT_MASK, 12, rows_at_once=4)
    prompts = [ids.shape for ids, _ in seen if ids.shape[1] > 1 or ids.shape[0] == 4]
    assert prompts[0] == (4, 1) and (4, 2) in prompts and (4, 4) in prompts     # like with like: 1, 2 and 4 tokens
    assert sum(len(ids) for ids, _ in seen) == mask.sum()                       # one row for each token that is drawn
    assert all(len(ids) <= 4 for ids, _ in seen)


def test_a_draw_at_either_end_of_its_range_takes_no_impossible_token():
    """Uniform numbers are exactly 0 now and then, and the first tokens may have no probability."""
    gpt, ids = model(), torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        gpt.transformer.ln_f.bias.copy_(60 * gpt.transformer.wte.weight[4])     # 0 for most tokens, in float32
    possible = gpt(ids)[0, -1].softmax(-1) > 0
    assert 0 < possible.sum() < EOS and not possible[0]
    for draw in (0.0, 1 - 2 ** -24):
        _, token, _ = next(gpt.stream(ids, ids > 0, 1, draws=torch.full((1, 1), draw)))
        assert possible[token]


def test_generation_leaves_no_graph_behind():
    assert not model().generate(PROMPTS, PROMPT_MASK, 2)[2].requires_grad


def test_a_cache_that_is_full_says_so_and_drops_nothing():
    cache = KVCache(3)
    cache.extend(torch.zeros(2, 1, 1, 2, 4))
    with pytest.raises(ValueError, match="4 tokens in a cache for 3"):
        cache.extend(torch.zeros(2, 1, 1, 2, 4))


def test_ids_without_text_get_no_probability_in_sampling_and_in_scoring():
    """A vocabulary that was rounded up from 11 to 16, where all the weight is on the ids that no tokenizer has."""
    plain, padded = model(), model(vocab_size=16)
    with torch.no_grad():
        padded.transformer.wte.weight[:11] = plain.transformer.wte.weight
        padded.transformer.wte.weight[11:] *= 100
    padded.load_state_dict({name: tensor for name, tensor in plain.state_dict().items() if "wte" not in name}, strict=False)
    ids = torch.tensor([[1, 2, 3]])
    close(padded(ids).log_softmax(-1), plain(ids).log_softmax(-1).detach())
    for temperature in (1.0, 0.0):
        tokens, _, logprobs = padded.generate(ids.repeat(50, 1), torch.ones(50, 3).bool(), 8, temperature)
        assert tokens.max() <= EOS and logprobs.isfinite().all()


@pytest.mark.parametrize("spoil, temperature", [(float("nan"), 1.0), (float("inf"), 1.0), (1e30, 1e-30)])
def test_probabilities_that_are_not_finite_are_one_sentence(spoil, temperature):
    broken = model()
    with torch.no_grad():
        broken.transformer.wte.weight.mul_(spoil)
    with pytest.raises(UserError, match="probabilities that are not finite"):
        broken.generate(torch.tensor([[1, 2]]), torch.ones(1, 2).bool(), 4, temperature)
