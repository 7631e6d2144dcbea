"""Weights in folders, ours and other people's: against `transformers`, which wrote most of those in the world."""
import io
import json
import sys
import threading
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import close_session, constants
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2ForSequenceClassification, GPT2LMHeadModel

import ppo
import reward
import sft
from support import UserError
from text.batches import pad
from text.tokenizer import Tokenizer
from gpt import GPT, ScalarGPT
from chat import main as talk
from support.trainable import set_trainable
from tiny import BLOCK, EOS, ROWS, VOCAB, close, critic, model, words

KINDS = {GPT2LMHeadModel: GPT, GPT2ForSequenceClassification: ScalarGPT}


def foreign(kind=GPT2LMHeadModel, **changes):
    """A model that transformers made, with large random weights: its own are so small that mistakes hide."""
    torch.manual_seed(0)
    shape = dict(vocab_size=VOCAB, n_positions=BLOCK, n_layer=2, n_head=2, n_embd=8, num_labels=1)
    config = {**shape, "eos_token_id": changes.get("vocab_size", VOCAB) - 1, "pad_token_id": 0, **changes}
    made = kind(GPT2Config(bos_token_id=config["eos_token_id"], **config)).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.4 * torch.randn(parameter.shape))
    return made


def saved(folder, kind=GPT2LMHeadModel, **changes):
    """(folder, what lies in it): a model as transformers saves it."""
    made = foreign(kind, **changes)
    made.save_pretrained(folder)
    return folder, made


@torch.no_grad()
def said_by(net, ids, mask):
    """Logits at the real tokens, or scores, of a model of either side."""
    if isinstance(net, ScalarGPT):
        return net.reward(ids, mask)
    if isinstance(net, GPT):
        return net(ids, mask)[mask]
    position = (mask.cumsum(1) - 1).clamp(min=0)
    logits = net(ids, attention_mask=mask.long(), position_ids=position).logits
    return logits[mask] if isinstance(net, GPT2LMHeadModel) else logits[:, 0]


def same(ours, theirs, atol=1e-5):
    batch = texts(ours.config.vocab_size, "right")
    close(said_by(ours, *batch), said_by(theirs, *batch), atol)


def texts(vocab_size, padding):
    """A batch of ids and its mask; neither a pad, 0, nor the end, the last id, is among the real tokens."""
    generator = torch.Generator().manual_seed(0)
    lengths = (9, 4, 1, 7) if padding else (9, 9, 9)
    rows = [torch.randint(1, vocab_size - 1, (length,), generator=generator).tolist() for length in lengths]
    return pad(rows, left=padding == "left")

# ----------------------------------------------------------------------------- they agree

SHAPES = {          # what is special about the model, how it lies on the disk
    "one layer, one head": (dict(n_layer=1, n_head=1, vocab_size=29), torch.float32, {}),
    "three heads, 1024 positions": (dict(n_head=3, n_embd=24, n_positions=1024, vocab_size=61), torch.float32, {}),
    "three layers, five heads, in shards": (
        dict(n_layer=3, n_head=5, n_embd=40, vocab_size=97), torch.float32, dict(max_shard_size="20KB")),
    "four layers, seven heads, float16": (dict(n_layer=4, n_head=7, n_embd=56, vocab_size=50), torch.float16, {}),
    "six layers, bfloat16, in shards": (
        dict(n_layer=6, n_embd=48, vocab_size=128), torch.bfloat16, dict(max_shard_size="50KB")),
    "GPT-2's vocabulary, its shape in other words": (
        dict(vocab_size=50257, n_embd=12, n_inner=48, n_head=3, activation_function="gelu_pytorch_tanh"),
        torch.float32, {})}
CASES = [pytest.param((kind, shape), id=f"{KINDS[kind].__name__}, {shape}") for kind in KINDS for shape in SHAPES]


@pytest.fixture(scope="module")
def both(request, tmp_path_factory):
    """A model that transformers saved, read by transformers and by us."""
    kind, shape = request.param
    changes, dtype, shards = SHAPES[shape]
    folder = tmp_path_factory.mktemp("theirs")
    foreign(kind, **{"n_positions": 48, **changes}).to(dtype).save_pretrained(folder, **shards)
    assert (folder / "model.safetensors").exists() != bool(shards)
    return SimpleNamespace(theirs=kind.from_pretrained(folder, dtype=torch.float32).eval(),
                           ours=KINDS[kind].from_pretrained(folder))


@pytest.mark.parametrize("padding", ["", "left", "right"])
@pytest.mark.parametrize("both", CASES, indirect=True)
def test_logits_and_scores_are_those_of_transformers(both, padding):
    ids, mask = texts(both.ours.config.vocab_size, padding)
    close(said_by(both.ours, ids, mask), said_by(both.theirs, ids, mask), 1e-4)


@pytest.mark.parametrize("both", CASES[:len(SHAPES)], indirect=True)
def test_thirty_greedy_tokens_are_those_of_transformers(both):
    ids, mask = texts(both.ours.config.vocab_size, "left")
    tokens, real, _ = both.ours.generate(ids, mask, 30, temperature=0.0)
    expected = both.theirs.generate(ids, attention_mask=mask.long(), max_new_tokens=30, do_sample=False, pad_token_id=0)
    assert torch.equal(tokens * real, expected[:, ids.shape[1]:])
    assert real.sum(1).max() == 30 and len(set(tokens[real].tolist())) > 5


@pytest.mark.parametrize("both", CASES, indirect=True)
def test_what_is_saved_here_opens_in_transformers_with_nothing_missing_left_over_or_changed(both, tmp_path):
    both.ours.save_pretrained(tmp_path)
    opened, found = type(both.theirs).from_pretrained(tmp_path, output_loading_info=True)
    assert "missing_keys" in found and not any(found.values())
    ids, mask = texts(both.ours.config.vocab_size, "right")
    close(said_by(opened.eval(), ids, mask), said_by(both.theirs, ids, mask), 1e-5)


def test_a_saved_model_comes_back_whole(tmp_path):
    first = critic(reward_mean=1.5, reward_std=2.5, eos_is_pad=True)
    first.save_pretrained(tmp_path, words())
    back = ScalarGPT.from_pretrained(tmp_path)
    assert back.config == first.config
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), back.state_dict().values(), strict=True))


@pytest.mark.parametrize("kind", [model, critic])
def test_what_lora_learned_is_in_the_matrices_of_the_saved_model(tmp_path, kind):
    net = kind()
    set_trainable(net, "lora:2")
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if name.endswith("lora_b"):
                parameter.normal_()
    net.save_pretrained(tmp_path)
    theirs, found = {GPT: GPT2LMHeadModel, ScalarGPT: GPT2ForSequenceClassification}[type(net)].from_pretrained(
        tmp_path, output_loading_info=True)
    assert not any(found.values())
    same(net, theirs.eval(), 1e-4)
    same(net, type(net).from_pretrained(tmp_path), 1e-4)

# ----------------------------------------------------------------------------- folders as they are


def change_tensors(folder, change):
    """Read model.safetensors, change the tensors by `change`, write them back."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    return folder


def change_config(folder, change):
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("bare", [True, False])
def test_the_masks_of_old_files_are_ignored_and_names_need_no_prefix(tmp_path, bare):
    """OpenAI's own files on the hub have both: the names of a bare GPT2Model, and each block's mask."""
    made = foreign()
    (made.transformer if bare else made).save_pretrained(tmp_path)
    prefix = "" if bare else "transformer."
    change_tensors(tmp_path, lambda tensors: tensors.update(
        {f"{prefix}h.{i}.attn.bias": torch.ones(1, 1, BLOCK, BLOCK).tril() for i in range(2)}
        | {f"{prefix}h.{i}.attn.masked_bias": torch.tensor(-1e4) for i in range(2)}))
    assert f"{prefix}wte.weight" in load_file(tmp_path / "model.safetensors")
    same(GPT.from_pretrained(tmp_path), made)


def test_a_tied_head_may_be_stored_a_second_time_and_no_other(tmp_path):
    folder, made = saved(tmp_path)
    change_tensors(folder, lambda t: t.update({"lm_head.weight": t["transformer.wte.weight"].clone()}))
    same(GPT.from_pretrained(folder), made)
    change_tensors(folder, lambda t: t["lm_head.weight"][3, 1].add_(1e-3))
    with pytest.raises(UserError, match="lm_head.weight is not the token embedding, and GPT-2's head is tied to it"):
        GPT.from_pretrained(folder)


def test_what_a_config_does_not_say_is_as_in_gpt2(tmp_path):
    folder, made = saved(tmp_path, vocab_size=50257, n_positions=1024)
    usual = GPT2Config().to_dict()
    change_config(folder, lambda c: [c.pop(key) for key in list(c) if c[key] == usual[key] and key != "model_type"])
    assert not {"vocab_size", "n_positions", "eos_token_id"} & json.loads((folder / "config.json").read_text()).keys()
    same(GPT.from_pretrained(folder), made)
    assert GPT.from_pretrained(folder).config.eos_token_id == made.config.eos_token_id


def test_a_reward_model_starts_from_a_language_model_with_a_new_head(tmp_path):
    folder, made = saved(tmp_path)
    with pytest.raises(UserError, match="the tensor score.weight is missing, so this is no reward model"):
        ScalarGPT.from_pretrained(folder)
    torch.manual_seed(0)
    started, other = (ScalarGPT.from_pretrained(folder, new_head=True) for _ in range(2))
    ids, mask = texts(VOCAB, "right")
    close(GPT.forward(started, ids, mask)[mask].detach(), said_by(made, ids, mask), 1e-5)
    assert started.score.weight.std() > 0 and not torch.equal(started.score.weight, other.score.weight)


def test_the_folder_says_what_the_model_was_trained_with(tmp_path):
    tokenizer = words()
    critic().save_pretrained(tmp_path, tokenizer)
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["tokenizer_name"], config["tokenizer_fingerprint"]) == ("words", tokenizer.fingerprint)
    assert (config["n_positions"], config["eos_token_id"], config["id2label"]) == (BLOCK, EOS, {"0": "reward"})

# ----------------------------------------------------------------------------- folders that are refused


@pytest.mark.parametrize("change, message", [
    (lambda t: t.pop("transformer.ln_f.bias"), "transformer.ln_f.bias is missing"),
    (lambda t: t.update({"transformer.ln_f.bias": torch.zeros(9)}), r"ln_f.bias has shape \(9,\).*asks for \(8,\)"),
    (lambda t: t.update({"h.9.what": torch.zeros(1)}), "h.9.what is no part of GPT-2"),
    (lambda t: t.update({"score.weight": torch.zeros(1, 8)}), "score.weight is no part of a language model")])
def test_a_folder_with_other_tensors_is_refused_by_name(tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        GPT.from_pretrained(change_tensors(saved(tmp_path)[0], change))


@pytest.mark.parametrize("key, value, message", [
    ("model_type", "gpt_neo", 'model_type is "gpt_neo", and GPT-2\'s is "gpt2"'),
    ("activation_function", "relu", 'activation_function is "relu", and GPT-2\'s is "gelu_new"'),
    ("activation_function", "gelu", 'activation_function is "gelu", and GPT-2\'s is "gelu_new"'),
    ("layer_norm_epsilon", 1e-6, "layer_norm_epsilon is 1e-06, and GPT-2's is 1e-05"),
    ("n_inner", 16, "n_inner is 16, and GPT-2's is null"),
    ("tie_word_embeddings", False, "tie_word_embeddings is false, and GPT-2's is true"),
    ("add_cross_attention", True, "add_cross_attention is true, and GPT-2's is false"),
    ("scale_attn_weights", False, "scale_attn_weights is false, and GPT-2's is true"),
    ("scale_attn_by_inverse_layer_idx", True, "scale_attn_by_inverse_layer_idx is true, and GPT-2's is false"),
    ("vocab_size", 12, r"wte.weight has shape \(11, 8\), its config.json asks for \(12, 8\)"),
    ("n_positions", 12, r"wpe.weight has shape \(24, 8\), its config.json asks for \(12, 8\)")])
def test_a_config_of_another_model_is_refused_by_its_key(tmp_path, key, value, message):
    with pytest.raises(UserError, match=message):
        GPT.from_pretrained(change_config(saved(tmp_path)[0], lambda config: config.update({key: value})))


@pytest.mark.parametrize("content, message", [(b"{", r"config.json: not JSON"), (b"\xff", r"config.json: cannot be read as UTF-8 text"),
                                              (b"[1]", r"config.json: must be an object")])
def test_a_config_that_is_no_object_is_named(tmp_path, content, message):
    model().save_pretrained(tmp_path)
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(UserError, match=message):
        GPT.from_pretrained(tmp_path)


def test_a_missing_shard_is_named(tmp_path):
    foreign().save_pretrained(tmp_path, max_shard_size="2KB")
    shard = sorted(tmp_path.glob("model-*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(UserError, match=f"{shard}: cannot be read"):
        GPT.from_pretrained(tmp_path)


@pytest.mark.parametrize("damage", [lambda b: b[:-100], lambda b: b[:50], lambda b: b"", lambda b: b"\xff" * 99])
def test_a_file_that_is_cut_off_or_no_safetensors_is_named(tmp_path, damage):
    file = saved(tmp_path)[0] / "model.safetensors"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(UserError) as error:
        GPT.from_pretrained(tmp_path)
    assert str(error.value).startswith(f"{file}: cannot be read (") and "\n" not in str(error.value)


def test_a_folder_without_weights_is_named(tmp_path):
    (saved(tmp_path)[0] / "model.safetensors").unlink()
    with pytest.raises(UserError, match=f"{tmp_path}: there is no model.safetensors"):
        GPT.from_pretrained(tmp_path)


def test_weights_that_can_hide_programs_are_not_opened(tmp_path):
    folder, made = saved(tmp_path, GPT2LMHeadModel)
    (folder / "model.safetensors").unlink()
    torch.save(made.state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="there is no model.safetensors; .save_pretrained. .* makes one of a pytorch_model.bin"):
        GPT.from_pretrained(folder)

# ----------------------------------------------------------------------------- the tokenizer that goes with them


@pytest.fixture
def known(monkeypatch):
    """A small vocabulary in place of GPT-2's, which would have to be downloaded."""
    monkeypatch.setattr(Tokenizer, "gpt2", words)
    return words()


def test_a_folder_that_names_no_tokenizer_has_gpt2s(known, tmp_path):
    folder, _ = saved(tmp_path, vocab_size=known.vocab_size)
    assert Tokenizer.load(folder).fingerprint == known.fingerprint


def test_a_vocabulary_that_was_rounded_up_is_fine_and_its_last_ids_say_nothing(known, tmp_path):
    folder, _ = saved(tmp_path, vocab_size=512, eos_token_id=known.eos)
    loaded = Tokenizer.load(folder)
    ids = [*loaded.encode(" Is owl"), 511, loaded.vocab_size, *loaded.encode(" a bird")]
    assert loaded.decode(ids) == " Is owl a bird"


@pytest.mark.parametrize("more, end", [(-1, 0), (0, -1), (9, 9)])
def test_a_model_that_does_not_go_with_the_tokenizer_is_refused(known, tmp_path, more, end):
    size, eos = known.vocab_size + more, known.eos + end
    folder, _ = saved(tmp_path, vocab_size=size, eos_token_id=eos)
    with pytest.raises(UserError) as error:
        Tokenizer.load(folder)
    assert str(error.value) == (
        f"{folder}: a model of {size} tokens whose texts end with token {eos} does not go with the tokenizer words "
        f"({known.vocab_size} tokens, <|endoftext|> is {known.eos})")


def test_models_share_a_tokenizer_whatever_they_are_rounded_up_to_and_other_tokens_are_refused(known, tmp_path):
    saved(tmp_path / "a", vocab_size=known.vocab_size)
    saved(tmp_path / "b", vocab_size=512, eos_token_id=known.eos)
    assert Tokenizer.shared(tmp_path / "a", tmp_path / "b").fingerprint == known.fingerprint
    other = words(json.loads(json.dumps(ROWS).replace("owl", "ewe")))
    model(vocab_size=other.vocab_size, eos_token_id=other.eos).save_pretrained(tmp_path / "c", other)
    with pytest.raises(UserError, match=f"{tmp_path / 'a'} and {tmp_path / 'c'} have different tokenizers"):
        Tokenizer.shared(tmp_path / "a", tmp_path / "b", tmp_path / "c")

# ----------------------------------------------------------------------------- reward models from elsewhere


@pytest.mark.parametrize("pad_id", [EOS, 0])
def test_a_text_is_scored_where_transformers_scores_it(tmp_path, pad_id):
    """At the last token that is not the pad id: before the end, if that is the pad id. All before it is read."""
    folder, made = saved(tmp_path / "theirs", GPT2ForSequenceClassification, pad_token_id=pad_id)
    ours = ScalarGPT.from_pretrained(folder)
    rows = [[1, 2, 3, EOS], [4, 5, EOS, 6, 7, EOS], [8, EOS], [9, 1, 2, 3, 4, 5, 6]]
    ids, mask = pad(rows)
    ids = ids.where(mask, pad_id)
    close(said_by(ours, ids, mask), said_by(made, ids, mask), 1e-5)
    last = torch.tensor([len(row) - 1 - (row[-1] == pad_id) for row in rows])
    with torch.no_grad():
        close(said_by(ours, ids, mask), ours(ids, mask)[range(4), last], 1e-5)
    ours.save_pretrained(tmp_path / "ours")
    again = GPT2ForSequenceClassification.from_pretrained(tmp_path / "ours").eval()
    assert again.config.pad_token_id == pad_id
    close(said_by(again, ids, mask), said_by(made, ids, mask), 1e-5)


def test_a_model_with_two_labels_is_no_reward_model(tmp_path):
    folder, _ = saved(tmp_path, GPT2ForSequenceClassification, num_labels=2)
    with pytest.raises(UserError, match=r"score.weight has shape \(2, 8\)"):
        ScalarGPT.from_pretrained(folder)


def test_ppo_takes_a_foreign_reward_model_as_it_is_and_reward_fits_its_scores(run_stage, known, tmp_path, capsys):
    run = run_stage(sft)
    folder, made = saved(tmp_path / "foreign", GPT2ForSequenceClassification, vocab_size=known.vocab_size,
                         n_positions=64, pad_token_id=known.eos)
    run_stage(ppo, steps=1, reward_model=str(folder))
    assert (f"the scores of {folder} are used as they are; `python reward.py --init {folder} --steps 0` would"
            in capsys.readouterr().out)

    run_stage(reward, steps=0, init=str(folder))
    weights = [load_file(path / "model.safetensors") for path in (folder, run / "reward")]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    config = json.loads((run / "reward" / "config.json").read_text())
    ids, mask = pad([[3, 4, 5, known.eos], [6, known.eos]])
    close(said_by(ScalarGPT.from_pretrained(run / "reward"), ids, mask),
          (said_by(made, ids.where(mask, known.eos), mask) - config["reward_mean"]) / config["reward_std"], 1e-5)
    assert config["reward_mean"] != 0 and config["reward_std"] not in (0, 1)

    run_stage(ppo, steps=1)
    assert "as they are" not in capsys.readouterr().out

# ----------------------------------------------------------------------------- the hub

REPOSITORY, COMMIT = "openai-community/gpt2", "c" * 40


class Hub(BaseHTTPRequestHandler):
    """As much of Hugging Face's protocol as a download needs; `server.folder` is the repository."""

    def do_GET(self):
        files = {path.name: path.read_bytes() for path in self.server.folder.iterdir()}
        listed = [dict(type="file", path=name, oid=sha256(content).hexdigest(), size=len(content))
                  for name, content in files.items()]
        answers = {f"/api/models/{REPOSITORY}/revision/main": json.dumps({"id": REPOSITORY, "sha": COMMIT}).encode(),
                   f"/api/models/{REPOSITORY}/tree/{COMMIT}": json.dumps(listed).encode(),
                   **{f"/{REPOSITORY}/resolve/{COMMIT}/{name}": content for name, content in files.items()}}
        answer = answers.get(self.path.partition("?")[0])
        if answer is None:
            return self.send_error(404)
        self.send_response(200)
        self.send_header("ETag", f'"{sha256(answer).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", len(answer))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(answer)
    do_HEAD = do_GET

    def log_message(self, *what):
        """Say nothing."""


class Deaf(Hub):
    """A server that hangs up without a word."""

    def do_GET(self):
        pass
    do_HEAD = do_GET


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of Hugging Face's."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache"


@pytest.fixture
def hub(cache, tmp_path, monkeypatch):
    """A server of one repository, on this machine. Returns a function that starts it and one that ends it."""
    servers = []

    def start(handler=Hub):
        servers.append(server := ThreadingHTTPServer(("127.0.0.1", 0), handler))
        server.folder = tmp_path / "repository"
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE",
                            address + "/{repo_id}/resolve/{revision}/{filename}")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        close_session()                                         # one that was opened before knows another NO_PROXY

    def end():
        for server in servers:
            server.shutdown()
            server.server_close()
        servers.clear()
    yield start, end
    end()


@pytest.mark.parametrize("sharded", [dict(), dict(max_shard_size="2KB")])
def test_gpt2_is_downloaded_once_without_what_nobody_reads_and_then_read_from_the_cache(hub, cache, tmp_path, sharded):
    start, end = hub
    made = foreign()
    made.save_pretrained(tmp_path / "repository", **sharded)
    (tmp_path / "repository" / "vocab.json").write_text("{}")
    needed = {path.name for path in (tmp_path / "repository").iterdir()} - {"generation_config.json"}
    for other in ("merges.txt", "pytorch_model.bin", "tf_model.h5", "README.md", "64.tflite"):
        (tmp_path / "repository" / other).write_text("large")
    start()
    same(GPT.from_pretrained("gpt2"), made)
    assert {path.name for path in cache.glob("*/snapshots/*/*")} == needed
    end()
    same(GPT.from_pretrained("gpt2"), made)


def test_a_folder_called_gpt2_is_that_folder(cache, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    _, made = saved(tmp_path / "gpt2")
    same(GPT.from_pretrained("gpt2"), made)


@pytest.mark.parametrize("trouble", ["offline by choice", "nobody there", "hangs up"])
def test_a_download_that_fails_is_one_sentence_with_address_and_destination(hub, cache, monkeypatch, trouble):
    start, end = hub
    if trouble == "offline by choice":
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    else:
        start(Deaf)
    if trouble == "nobody there":
        end()
    with pytest.raises(UserError) as error:
        GPT.from_pretrained("gpt2")
    message = str(error.value)
    assert message.startswith(f"{constants.ENDPOINT}/openai-community/gpt2 could not be downloaded to {cache} (")
    assert message.endswith("; connect once, and it is read from there ever after") and "\n" not in message


def test_gpt2_can_be_talked_to_by_its_name(hub, known, tmp_path, monkeypatch, capsys):
    hub[0]()
    saved(tmp_path / "repository", vocab_size=known.vocab_size)
    questions = iter(["Is owl a bird?", ""])
    monkeypatch.setattr("builtins.input", lambda prompt: next(questions))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))
    monkeypatch.setattr(sys, "argv", ["chat.py", "gpt2"])
    talk()
    assert "Assistant:" in capsys.readouterr().out


@pytest.mark.parametrize("prefix", ["pretrained_model.", "module.", "_orig_mod.", "base_model.model."])
def test_a_prefix_before_all_names_is_named(tmp_path, prefix):
    model().save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    save_file({prefix + name: tensor for name, tensor in tensors.items()}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=f"is missing; there is {prefix}transformer.*: take the prefix {prefix} away from all names"):
        GPT.from_pretrained(tmp_path)


def test_tied_weights_under_the_heads_name_alone_are_the_embedding(tmp_path):
    made = model()
    made.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["lm_head.weight"] = tensors.pop("transformer.wte.weight")
    save_file(tensors, tmp_path / "model.safetensors")
    ids = torch.tensor([[1, 2, 3]])
    close(GPT.from_pretrained(tmp_path)(ids), made(ids).detach())


@pytest.mark.parametrize("vocab_size, expected", [(11, 10), (609, 608), (50257, 50256), (50304, 50256)])
def test_without_an_end_token_it_is_the_last_one_or_gpt2s(tmp_path, vocab_size, expected):
    small = model(vocab_size=vocab_size)
    small.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["eos_token_id"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert GPT.from_pretrained(tmp_path).config.eos_token_id == expected


@pytest.mark.parametrize("extra", ["v_head.summary.weight", "qa_outputs.weight", "transformer.h.0.crossattention.c_attn.weight"])
def test_a_tensor_of_another_model_is_named_as_it_is(tmp_path, extra):
    model().save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors") | {extra: torch.zeros(2, 2)}
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=f": {extra} is no part of GPT-2"):
        GPT.from_pretrained(tmp_path)
