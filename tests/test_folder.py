"""A checkpoint is a whole folder: `transformers` reads text with it as we do, and we read what others have saved."""
import json
import random
import shlex

import pytest
import tiktoken
import torch
import tyro
from huggingface_hub import ModelCard
from tokenizers import ByteLevelBPETokenizer
from transformers import (AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, GPT2Config,
                          GPT2LMHeadModel, GPT2TokenizerFast, pipeline)

import data
import evaluate
import ppo
import reward
import sft
from text import tokenizer as tokenizer_module
from text.batches import pad
from data import built_in
from data.jsonl import read_jsonl
from export.tokenizer_json import CHARACTER
from text.tokenizer import Tokenizer, read_tokens
from text.vocabulary import train_vocabulary
from gpt import GPT, ScalarGPT
from support import UserError
from export.card import command
from support.runs import finish
from tiny import ROWS, close, model, words

STAGES = {"base": GPT, "sft": GPT, "ppo": GPT, "reward": ScalarGPT, "critic": ScalarGPT}
LANGUAGE_MODELS = [stage for stage in STAGES if STAGES[stage] is GPT]
TEXT = [f"{row['prompt']}{completion}" for row in ROWS for completion in row["completions"]]


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """A vocabulary of GPT-2's kind that Hugging Face's own trainer made, in the files that the Hub has of GPT-2."""
    folder = tmp_path_factory.mktemp("theirs")
    trained = ByteLevelBPETokenizer()
    sentences = TEXT + ["it's 2025, we'll see: they've 1,000 owls -- I'd say ... (don't!)\n\n\n  x", "naïve 😀 日本語 ½" * 3]
    trained.train_from_iterator(sentences * 3, vocab_size=500, min_frequency=1, special_tokens=[], show_progress=False)
    trained.save_model(str(folder))
    vocabulary = json.loads((folder / "vocab.json").read_text())
    (folder / "vocab.json").write_text(json.dumps(vocabulary | {"<|endoftext|>": len(vocabulary)}))
    return folder


@pytest.fixture
def like_gpt2(theirs, monkeypatch):
    """That vocabulary in GPT-2's place, and no tiktoken to download another one. Returns ours of it."""
    ours = Tokenizer.words(read_tokens(theirs), "gpt2")
    monkeypatch.setattr(tokenizer_module, "GPT2_FINGERPRINT", ours.fingerprint)
    monkeypatch.setattr(tiktoken, "get_encoding", lambda name: pytest.fail("asked tiktoken for its download"))
    return ours


def vocabulary(name, theirs):
    if name == "like gpt2":
        return Tokenizer.words(read_tokens(theirs), "gpt2")
    try:
        return {"words": words, "trained": lambda: train_vocabulary(TEXT, 320), "toy": lambda: data.tokenizer_for("toy"), "gpt2": Tokenizer.gpt2}[name]()
    except UserError:
        pytest.skip("GPT-2's vocabulary is not on this machine")


@pytest.fixture(scope="module", params=["words", "trained", "like gpt2", pytest.param("toy", marks=pytest.mark.slow),
                                        pytest.param("gpt2", marks=pytest.mark.slow)])
def made(request, theirs, tmp_path_factory):
    """(tokenizer, run): the folders of all stages with small random models, as the scripts save them."""
    tokenizer, run = vocabulary(request.param, theirs), tmp_path_factory.mktemp("run")
    for seed, (stage, kind) in enumerate(STAGES.items()):
        net = model(kind, seed, vocab_size=tokenizer.vocab_size, eos_token_id=tokenizer.eos, block_size=48)
        if kind is ScalarGPT:
            net.config.reward_mean, net.config.reward_std = 0.5, 2.0
        finish(net, tokenizer, run / stage, sft.Config())
    return tokenizer, run

# ----------------------------------------------------------------------------- tokens


def strings(count):
    """Random texts: all of Unicode, its lower planes, runs of one character, pieces that vocabularies cut oddly."""
    rng = random.Random(0)
    pieces = ["<|endoftext|>", "\n\nHuman:", "\n\nAssistant:", " Assistant:", "Human:", "'s", "'LL", " owl", "owl", "  ", "\r\n",
              "\t", "\0", "\x1b[0m", "\x7f", "\x85", "\xa0", "\u200b", "\u2028", "\ufeff", "😀", "👩‍🔬", "é", "e\u0301", "½", "Ⅷ", "١"]
    for i in range(count):
        length = rng.randint(0, 30)
        anything = (rng.choice((rng.randrange(0xD800), rng.randrange(0xE000, 0x110000))) for _ in range(length))
        yield ("".join(map(chr, anything)), "".join(chr(rng.randrange(0x800)) for _ in range(length)),
               rng.choice("-=.* \n\t_a0é") * length + rng.choice(["", "x", " "]),
               "".join(rng.choice(pieces) for _ in range(length // 2)))[i % 4]


def test_every_text_has_our_ids(made):
    tokenizer, run = made
    read = AutoTokenizer.from_pretrained(run / "ppo")
    texts = [*strings(10_000), *TEXT, "", "<|endoftext|>", "a<|endoftext|>b"]
    texts += [row["text"] for row in read_jsonl(built_in.FOLDER / "toy" / "text.jsonl")[:500]] if (built_in.FOLDER / "toy").exists() else []
    assert read(texts)["input_ids"] == [tokenizer.encode(text) for text in texts]


def test_parts_of_words_are_joined_in_tiktokens_order(theirs, tmp_path):
    """Ranks in alphabetical order, as the toy has them: most words are no merge of two tokens, and those that are join
    early or late by chance."""
    rng = random.Random(1)
    tokens = {"".join(rng.choice("abc") for _ in range(rng.randint(2, 5))) for _ in range(60)}
    tokenizer = Tokenizer.words([bytes([b]) for b in range(256)] + sorted(token.encode() for token in tokens))
    model(vocab_size=tokenizer.vocab_size, eos_token_id=tokenizer.eos).save_pretrained(tmp_path, tokenizer)
    read = AutoTokenizer.from_pretrained(tmp_path)
    texts = ["".join(rng.choice("abc") for _ in range(rng.randint(1, 12))) for _ in range(3000)]
    different = [text for text, ids in zip(texts, read(texts)["input_ids"]) if ids != tokenizer.encode(text)]
    assert not different


def test_ids_become_our_text_again(made):
    tokenizer, run = made
    read = AutoTokenizer.from_pretrained(run / "sft")
    for text in TEXT[:5] + ["naïve 😀\n\n\t <|endoftext|> , 's ."]:
        assert read.decode(read(text)["input_ids"]) == text
    assert read.decode([*tokenizer.encode(" owl"), tokenizer.eos], skip_special_tokens=True) == " owl"


@pytest.mark.parametrize("stage", STAGES)
def test_the_settings_are_those_of_the_model(made, stage):
    tokenizer, run = made
    read, scorer = AutoTokenizer.from_pretrained(run / stage), STAGES[stage] is ScalarGPT
    assert (read.eos_token_id, len(read), read.model_max_length) == (tokenizer.eos, tokenizer.vocab_size, 48)
    assert (read.padding_side, read.pad_token) == (("right", None) if scorer else ("left", "<|endoftext|>"))


def test_a_dialogue_has_the_ids_of_our_prompt(made):
    tokenizer, run = made
    read = AutoTokenizer.from_pretrained(run / "ppo")
    turns = [{"role": "user", "content": "Is owl a bird?"}, {"role": "assistant", "content": "Yes."},
             {"role": "user", "content": " And\n\na hen? 😀\n"}]
    prompts = {1: "\n\nHuman: Is owl a bird?\n\nAssistant:",
               3: "\n\nHuman: Is owl a bird?\n\nAssistant: Yes.\n\nHuman: And\n\na hen? 😀\n\nAssistant:"}
    for count, prompt in prompts.items():
        ids = read.apply_chat_template(turns[:count], add_generation_prompt=True)["input_ids"]
        assert ids == tokenizer.encode(prompt)
    whole = AutoTokenizer.from_pretrained(run / "ppo", split_special_tokens=False)     # as tools that train write the end
    ids = whole.apply_chat_template(turns[:2])["input_ids"]
    assert ids == sum(tokenizer.encode(prompts[1], " Yes."), [])


@pytest.mark.parametrize("roles", [["system", "user"], ["assistant"], ["user", "user"], ["user", "assistant", "tool"]])
def test_a_template_refuses_what_is_no_dialogue_here(made, roles):
    read = AutoTokenizer.from_pretrained(made[1] / "ppo")
    with pytest.raises(Exception, match="turns of user and assistant"):
        read.apply_chat_template([{"role": role, "content": "owl"} for role in roles], add_generation_prompt=True)

# ----------------------------------------------------------------------------- models


@pytest.mark.parametrize("stage", LANGUAGE_MODELS)
def test_greedy_answers_of_the_pipeline_are_ours_token_by_token(made, stage):
    tokenizer, run = made
    answer, ours = pipeline("text-generation", str(run / stage)), GPT.from_pretrained(run / stage)
    for question in ("Is owl a bird?", "Is the brown cow a pet?", "no"):
        ids, mask = pad([tokenizer.encode(f"\n\nHuman: {question}\n\nAssistant:")[-20:]])
        tokens, _, _ = ours.generate(ids, mask, 24, temperature=0.0)
        said = answer(tokenizer.decode(ids[0].tolist()), return_tensors=True)[0]["generated_token_ids"]
        assert said == ids[0].tolist() + tokens[0].tolist() and len(tokens[0]) > 1
        said = answer([{"role": "user", "content": question}], max_new_tokens=8)[0]["generated_text"][-1]["content"]
        ids, mask = pad([tokenizer.encode(f"\n\nHuman: {question}\n\nAssistant:")])
        assert said == tokenizer.decode(ours.generate(ids, mask, 8, temperature=0.0)[0][0].tolist())


def test_a_batch_of_texts_is_padded_so_that_answers_stay_what_they_are(made):
    tokenizer, run = made
    read, net = AutoTokenizer.from_pretrained(run / "ppo"), AutoModelForCausalLM.from_pretrained(run / "ppo")
    texts = [" owl", " Is the brown cow", " a"]
    batch = read(texts, return_tensors="pt", padding=True)
    said = net.generate(**batch, max_new_tokens=8)[:, batch["input_ids"].shape[1]:]
    ours, real, _ = GPT.from_pretrained(run / "ppo").generate(*pad(list(map(tokenizer.encode, texts)), left=True), 8, 0.0)
    assert torch.equal(said[:, :ours.shape[1]].where(real, 0), ours * real)


@pytest.mark.parametrize("stage", ["reward", "critic"])
def test_scores_are_ours(made, stage):
    tokenizer, run = made
    read, net = AutoTokenizer.from_pretrained(run / stage), AutoModelForSequenceClassification.from_pretrained(run / stage)
    ids = sum(tokenizer.encode("\n\nHuman: Is owl a bird?\n\nAssistant:", " Yes."), [])[-40:]
    assert read("\n\nHuman: Is owl a bird?\n\nAssistant: Yes.")["input_ids"][-38:] == ids[-39:-1]
    with torch.no_grad():
        score = net(torch.tensor([ids])).logits[0, 0]
    close((score - 0.5) / 2.0, ScalarGPT.from_pretrained(run / stage).reward(*pad([ids]))[0].detach(), 1e-5)


def test_what_transformers_saves_again_opens_here(made, tmp_path):
    tokenizer, run = made
    AutoModelForCausalLM.from_pretrained(run / "sft").save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(run / "sft").save_pretrained(tmp_path)
    assert not (tmp_path / "tokenizer.tiktoken").exists()
    assert Tokenizer.load(tmp_path).fingerprint == tokenizer.fingerprint

# ----------------------------------------------------------------------------- GPT-2 as the Hub has it


@pytest.fixture(params=["tokenizer.json", "vocab.json and merges.txt"])
def hub_gpt2(request, theirs, like_gpt2, tmp_path):
    """A small GPT-2 in the files that the Hub has, one kind of tokenizer files at a time."""
    folder = tmp_path / "gpt2-of-the-hub"
    torch.manual_seed(0)
    size = like_gpt2.vocab_size
    GPT2LMHeadModel(GPT2Config(vocab_size=size, n_positions=64, n_layer=1, n_head=2, n_embd=8, bos_token_id=size - 1,
                               eos_token_id=size - 1)).save_pretrained(folder)
    if request.param == "tokenizer.json":
        GPT2TokenizerFast(vocab=str(theirs / "vocab.json"), merges=str(theirs / "merges.txt")).save_pretrained(folder)
    else:
        for file in ("vocab.json", "merges.txt"):
            (folder / file).write_text((theirs / file).read_text())
    return folder


def test_its_own_files_give_the_ids_that_transformers_gives(hub_gpt2):
    ours, theirs = Tokenizer.load(hub_gpt2), GPT2TokenizerFast.from_pretrained(hub_gpt2)
    assert (ours.name, ours.eos) == ("gpt2", theirs.eos_token_id)
    texts = [text for text in strings(4000) if "<|endoftext|>" not in text] + TEXT
    assert [ours.encode(text) for text in texts] == theirs(texts)["input_ids"]


def test_it_goes_through_all_stages_with_nothing_downloaded(hub_gpt2, run_stage, capsys):
    run = run_stage(sft, init=str(hub_gpt2))
    run_stage(reward)
    run_stage(ppo)
    evaluate.main(evaluate.Config(data="rows.jsonl", run=str(run), device="cpu", samples=1, max_new_tokens=6))
    for stage in ("sft", "reward", "ppo", "ppo/critic"):
        config = json.loads((run / stage / "config.json").read_text())
        assert config["n_ctx"] == config["n_positions"]     # llama.cpp's converter reads the old name
        assert config["tokenizer_name"] == "gpt2" and Tokenizer.load(run / stage).eos == config["eos_token_id"]
    assert "ppo vs sft" in capsys.readouterr().out


@pytest.mark.parametrize("content, message", [
    ({"a": 0, "b": 2}, "not a vocabulary of GPT-2's kind"), ({"▁a": 0}, "not a vocabulary of GPT-2's kind"),
    ({"a": "0"}, "not a vocabulary of GPT-2's kind"), ({"a": 0, "b": 0}, "not a vocabulary of GPT-2's kind"),
    ({"a": 0, "b": 1}, "tokens are missing"),
    ({character: i for i, character in enumerate(CHARACTER.values())}, "its vocabulary of 257 tokens is not that of its model")])
def test_another_vocabulary_is_refused(hub_gpt2, content, message):
    for file, whole in (("vocab.json", content), ("tokenizer.json", {"model": {"vocab": content}})):
        (hub_gpt2 / "tokenizer.json").unlink(missing_ok=True)
        (hub_gpt2 / file).write_text(json.dumps(whole))
        with pytest.raises(UserError, match=message):
            Tokenizer.load(hub_gpt2)
    (hub_gpt2 / "tokenizer.json").write_text('{"model": [1]}')
    with pytest.raises(UserError, match="tokenizer.json is damaged or not a vocabulary"):
        Tokenizer.load(hub_gpt2)


def test_the_alphabet_is_the_one_of_hugging_face():
    from transformers.convert_slow_tokenizer import bytes_to_unicode
    assert CHARACTER == bytes_to_unicode()

# ----------------------------------------------------------------------------- cards


def test_the_hub_can_read_a_card(made):
    for stage, kind in STAGES.items():
        card = ModelCard.load(made[1] / stage / "README.md")
        assert card.data.library_name == "transformers" and card.data.tags == ["gpt2", "rlhf", stage]
        assert card.data.pipeline_tag == ("text-classification" if kind is ScalarGPT else "text-generation")


@pytest.mark.parametrize("script, flags", [
    (sft, dict(data="my rows.jsonl", seed=3, lr=1e-5)), (reward, dict(run="out/x", train="lora:8")), (ppo, {}),
    (ppo, dict(kl_coef=0.0, reward_model="there", resume=True)), (evaluate, dict(details=True, json="a b.json"))])
def test_the_command_on_a_card_makes_the_model_again(script, flags):
    cfg = script.Config(**flags)
    made_with = shlex.split(command(cfg, script.__name__))
    assert made_with[:2] == ["python", f"{script.__name__}.py"]
    if script is not evaluate:
        cfg.resume = False
    assert tyro.cli(script.Config, args=made_with[2:]) == cfg


@pytest.mark.parametrize("stage", STAGES)
def test_a_card_says_what_the_hub_shows(made, stage):
    folder = made[1] / stage
    card = (folder / "README.md").read_text()
    task = "text-classification" if STAGES[stage] is ScalarGPT else "text-generation"
    assert card.startswith(f"---\nlibrary_name: transformers\npipeline_tag: {task}\n")
    for line in (f"- stage: {stage}", "- data: toy", "- seed: 0"):
        assert line in card.splitlines()


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_not_saved(tmp_path, number):
    failed = model()
    failed.transformer.ln_f.bias.data[3] = number
    with pytest.raises(UserError, match="not saved, since transformer.ln_f.bias holds NaN or infinity"):
        failed.save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_vocabulary_whose_ids_have_gaps_is_refused(tmp_path):
    ids = {CHARACTER[b]: b + (b > 99) for b in range(256)}      # closed up, every token from the gap on would be the one before
    (tmp_path / "vocab.json").write_text(json.dumps(ids))
    with pytest.raises(UserError, match="vocab.json is damaged or not a vocabulary of GPT-2's kind .ids with gaps"):
        read_tokens(tmp_path)
