"""What moves and what does not: --train, LoRA, precision, the table of roles, the presets."""
import json
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import evaluate
import gpt
import ppo
import reward
import sft
from support.command_line import PRESETS, launch
from support import UserError
from gpt import GPT, ScalarGPT, response_logprobs
from support.checkpoint import HUB
import checks
from checks import check_memory, check_ratio
from support.trainable import LoRA, parameter_count, parse_train, set_trainable
from tiny import BLOCK, VOCAB, Stop, close, critic, model

ROOT = Path(__file__).parent.parent
IDS = torch.randint(VOCAB, (3, BLOCK), generator=torch.Generator().manual_seed(0))
presets = json.loads(PRESETS.read_text())
MODES = ["all", "last:1", "lora:2"]


def moved(before, after):
    """The names of the parameters of a model that differ in another one, which may have a head besides."""
    after = dict(after.named_parameters())
    return {name for name, old in before.named_parameters() if not torch.equal(old, after[name])}

# ----------------------------------------------------------------------------- --train


def test_last_n_moves_the_last_blocks_and_what_follows_them():
    for kind, head in ((model, []), (critic, ["score.weight"])):
        net = kind(n_layer=3)
        set_trainable(net, "last:2")
        moving = [name for name, p in net.named_parameters() if p.requires_grad]
        assert moving == [name for name, _ in net.named_parameters()
                          if name.startswith(("transformer.h.1.", "transformer.h.2.", "transformer.ln_f."))] + head


def test_lora_moves_two_thin_matrices_at_every_matrix_of_the_blocks_and_the_scalar_head():
    # per block, with C = 8 channels and rank 2: 2·(8 + 24) + 2·(8 + 8) + 2·(8 + 32) + 2·(32 + 8)
    for kind, head in ((model, 0), (critic, 8)):
        net, plain = kind(), parameter_count(kind())[1]
        set_trainable(net, "lora:2")
        assert parameter_count(net) == (2 * 256 + head, plain + 2 * 256)


def test_all_moves_everything():
    net = critic()
    set_trainable(net, "all")
    assert parameter_count(net) == (parameter_count(net)[1],) * 2


@pytest.mark.parametrize("train", ["last:0", "last:3", "lora:0", "lora", "last:x", "none", "all:1", "lora:-1"])
def test_a_train_that_makes_no_sense_is_refused(train):
    with pytest.raises(UserError, match=f"--train {train}: must be all, last:N with N of the model's 2 blocks, or lora:R"):
        parse_train(train, 2)


def test_lora_starts_as_the_model_it_is_added_to_and_then_leaves_it():
    net, plain = model(), model()(IDS)
    set_trainable(net, "lora:2")
    assert torch.equal(net(IDS), plain)
    net(IDS).square().mean().backward()
    torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=1.0).step()
    assert (net(IDS) - plain).abs().max() > 1e-3


def test_the_adapters_of_a_seed_are_the_same_whether_the_base_was_just_made_or_was_there(run_stage):
    ends = [load_file(run_stage(sft, train="lora:2") / "sft" / "model.safetensors") for _ in range(2)]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_lora_adds_the_product_of_its_two_matrices():
    linear = torch.nn.Linear(3, 2)
    lora = LoRA(linear, 16)
    with torch.no_grad():
        lora.lora_a.zero_()[0] = torch.tensor([1.0, 2.0, 3.0])
        lora.lora_b.zero_()[:, 0] = torch.tensor([10.0, -1.0])
    x = torch.tensor([[1.0, 0.0, -1.0]])                        # A x = -2, B A x = (-20, 2), times 32 / 16
    close((lora(x) - linear(x)).detach(), [[-40.0, 4.0]], 1e-5)
    close((lora.merged() @ x[0] + linear.bias).detach(), lora(x)[0].detach(), 1e-5)


@pytest.mark.parametrize("train", MODES)
def test_each_stage_moves_what_it_should_and_saves_plain_gpt2(run_stage, world, train):
    run_stage(sft)
    run_stage(sft, run="moved", train=train, init="run/base")
    for stage in (reward, ppo):
        run_stage(stage, run="moved", train=train)
    plain = load_file("run/base/model.safetensors").keys()
    sft_model, base = GPT.from_pretrained("moved/sft"), GPT.from_pretrained("run/base")
    actor = GPT.from_pretrained("moved/ppo")
    value_model, rm = ScalarGPT.from_pretrained("moved/ppo/critic"), ScalarGPT.from_pretrained("moved/reward")
    assert load_file("moved/sft/model.safetensors").keys() == load_file("moved/ppo/model.safetensors").keys() == plain
    assert load_file("moved/reward/model.safetensors").keys() == plain | {"score.weight"}

    blocks = {name for name, _ in base.named_parameters() if ".h.0." in name}
    expected = {"all": {name for name, _ in base.named_parameters()}, "last:1": blocks | {"transformer.ln_f.weight", "transformer.ln_f.bias"},
                "lora:2": {name for name in blocks if name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight"))}}[train]
    rows = {"transformer.wpe.weight"}                           # positions that no text of this world reaches stay
    for before, after in ((base, sft_model), (sft_model, rm), (sft_model, actor)):
        assert moved(before, after) - rows == expected - rows
    assert moved(rm, value_model) - rows == (expected | {"score.weight"}) - rows


@pytest.mark.parametrize("train", MODES)
def test_the_actor_starts_at_the_reference_in_every_mode(run_stage, world, quiet, train, monkeypatch):
    run_stage(sft)
    run_stage(reward)
    checked = []
    monkeypatch.setattr(checks, "check_reference", lambda kl, bf16: checked.append((kl.abs().max().item(), bf16)))
    run_stage(ppo, train=train, steps=2)
    [(kl, bf16)] = checked
    assert kl < 1e-5 and not bf16


def test_a_run_cannot_be_resumed_with_other_weights_moving(run_stage, world, quiet):
    run_stage(sft)
    run_stage(reward)
    quiet.stop = 3
    with pytest.raises(Stop):
        run_stage(ppo, train="lora:2", save_every=2)
    with pytest.raises(UserError, match="ppo/resume.pt was written with --train lora:2, and now it is all"):
        run_stage(ppo, resume=True)

# ----------------------------------------------------------------------------- precision


def test_a_frozen_model_in_bf16_has_the_very_numbers_of_the_one_that_it_is_a_copy_of():
    for kind in (model, critic):
        moving, frozen = kind().place("cpu", bf16=True), kind().place("cpu", bf16=True, frozen=True)
        assert torch.equal(moving(IDS), frozen(IDS))
        assert moving(IDS).dtype == torch.float32


def test_bf16_rounds_the_blocks_and_nothing_else():
    exact, rounded = model()(IDS), model().place("cpu", bf16=True)(IDS)
    assert 1e-4 < (exact - rounded).abs().max() < 0.5
    frozen = critic().place("cpu", bf16=True, frozen=True)
    halves = {name for name, p in frozen.named_parameters() if p.dtype == torch.bfloat16}
    assert halves == {name for name, _ in frozen.named_parameters() if ".attn.c_" in name or ".mlp.c_" in name}


def test_what_is_trained_keeps_float32_weights_and_gradients():
    for train in MODES:
        net = model().place("cpu", bf16=True)
        set_trainable(net, train)
        net(IDS).square().mean().backward()
        assert {p.dtype for p in net.parameters()} == {p.grad.dtype for p in net.parameters() if p.requires_grad} == {torch.float32}


def test_logprobs_that_were_sampled_in_bf16_are_found_again():
    actor = model(block_size=64, n_layer=4, n_head=4, n_embd=32).place("cpu", bf16=True)
    prompts = IDS[:, :6]
    torch.manual_seed(0)
    tokens, mask, logprobs = actor.generate(prompts, torch.ones_like(prompts).bool(), 40)
    ids, whole = torch.cat([prompts, tokens], 1), torch.cat([torch.ones_like(prompts).bool(), mask], 1)
    check_ratio((response_logprobs(actor, ids, whole, tokens.shape[1], 1.0) - logprobs)[mask].exp(), bf16=True)


@pytest.mark.parametrize("train", MODES)
def test_the_whole_story_runs_in_bf16(run_stage, world, quiet, train):
    run_stage(sft, precision="bf16")
    for stage in (reward, ppo):
        run_stage(stage, precision="bf16", train=train)
    run = quiet.runs["ppo"]
    assert all(value == value for step in range(4) for value in run[step].values())     # no NaN
    assert {p.dtype for p in load_file("run/ppo/model.safetensors").values()} == {torch.float32}


def test_a_precision_that_does_not_exist_is_refused(run_stage, world):
    with pytest.raises(UserError, match="--precision fp8: must be fp32 or bf16"):
        run_stage(sft, precision="fp8")

# ----------------------------------------------------------------------------- who takes part


def gpt2_small(kind=GPT):
    with torch.device("meta"):
        return kind(kind.Config())


def test_the_table_counts_gpt2_small_right_and_a_gpu_that_lacks_a_byte_is_refused(capsys, monkeypatch):
    """124,439,808 weights by the paper's shape: 50257·768 + 1024·768 + 12·(12·768² + 13·768) + 2·768. Trained in
    float32 they take 16 bytes each, frozen in bf16 2 for the 12·12·768² + 12·9·768 of the matrices and 4 for the rest."""
    V, P, C, L = 50257, 1024, 768, 12
    total, matrices = V * C + P * C + L * (12 * C ** 2 + 13 * C) + 2 * C, L * (12 * C ** 2 + 9 * C)
    assert total == 124_439_808
    actor, reference = gpt2_small().place("meta", True), gpt2_small().place("meta", True, frozen=True)
    critic = torch.nn.Linear(1, 1, bias=False).requires_grad_(False)           # 4 bytes
    cfg = ppo.Config(batch_size=64, micro_batch_size=8, max_new_tokens=100)
    weights = 16 * total + 2 * matrices + 4 * (total - matrices)
    cache = 64 * 512 * C * 2 * (2 * L + 12)                     # keys and values of 64 answers in bf16, a layer at work
    step = 8 * 100 * V * 4 * 5 + 8 * 512 * L * C * 40
    needed = weights + 4 + max(cache, step)
    for device, free in (("cuda", needed), ("cuda", needed - 1), ("cpu", 0)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 24 * 2 ** 30))
        refused = pytest.raises(UserError, match="needs about [0-9.]+ GiB and cuda has [0-9.]+ GiB free: lower --micro_batch_size")
        with refused if device == "cuda" and free < needed else nullcontext():
            check_memory((actor, critic, reference), ("sft", "rm", "sft"), 412, cfg, torch.device(device))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:4] for line in (lines[1], lines[3])] == [["actor", "sft", "124,439,808", "124,439,808"],
                                                         ["reference", "sft", "124,439,808", "0"]]


@pytest.mark.parametrize("shape, prompt, response, most", [
    (dict(n_embd=1024, vocab_size=11), 1000, 24, 8 * 1024 * 1024 * 4 * (2 + 12)),      # 8 rows at a time: 448 MiB
    (dict(n_embd=8, vocab_size=65536), 8, 1016, 7 * 1016 * 65536 * 4)], ids=["generation", "scoring"])
def test_the_phase_that_needs_most_is_counted(capsys, shape, prompt, response, most):
    """One layer, one row in a micro-batch, 100 responses. A step needs 80 MiB in the first case, 1,270 of 1,778 in the second."""
    with torch.device("meta"):
        models = [GPT(GPT.Config(n_layer=1, n_head=1, eos_token_id=10, **shape))] * 4
    check_memory(models, ["a", "b", "c", "d"], prompt, ppo.Config(batch_size=100, micro_batch_size=1, max_new_tokens=response),
                 torch.device("cpu"))
    [line] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("rollout, step")]
    assert f" {most / 2 ** 20:,.0f} MiB, " in line


@pytest.mark.slow
@pytest.mark.parametrize("flags", [
    "--n_layer 3 --prompt 248 --response 56 --vocab_size 1000",
    "--micro_batch_size 4 --n_layer 3 --prompt 248 --response 56 --vocab_size 1000",
    "--micro_batch_size 4 --n_layer 2 --prompt 100 --response 200 --vocab_size 20000",
    "--micro_batch_size 4 --n_layer 2 --prompt 250 --response 20 --vocab_size 2000 --batch_size 32"])
def test_the_memory_that_is_estimated_is_the_memory_that_is_taken(flags):
    """Where the micro-batches are small, where they are large, where logits count most, where generation does."""
    said = subprocess.run([sys.executable, ROOT / "tests" / "memory.py", *flags.split()], capture_output=True, text=True, check=True)
    found = json.loads(said.stdout)
    assert 0.75 * found["peak"] < found["estimate"] < 1.25 * found["peak"]


def test_shapes_without_weights_take_no_memory(tmp_path):
    critic().save_pretrained(tmp_path)
    assert {p.device.type for p in ScalarGPT.from_pretrained(tmp_path, "meta").parameters()} == {"meta"}


def test_nothing_is_loaded_before_the_memory_is_checked(run_stage, world, monkeypatch):
    run_stage(sft)
    run_stage(reward)
    loaded, checked, read = [], [], gpt.read_weights
    monkeypatch.setattr(gpt, "read_weights", lambda *given: loaded.append(given) or read(*given))
    monkeypatch.setattr(ppo, "check_memory", lambda *given: checked.append(len(loaded)))
    run_stage(ppo, steps=1)
    assert checked == [0] and len(loaded) == 4

# ----------------------------------------------------------------------------- presets


@pytest.fixture
def flags(monkeypatch):
    """The Config that a script would run with."""
    def read(script, *arguments):
        got = []
        monkeypatch.setattr("sys.argv", [f"{script.__name__}.py", *arguments])
        launch(got.append, script.Config, script.__name__)
        return got[0]
    return read


@pytest.mark.parametrize("script", [sft, reward, ppo, evaluate])
def test_every_preset_is_made_of_flags_that_exist_and_fits_gpt2(script):
    assert presets[script.__name__].keys() >= {*HUB, "unified", "reviews"}
    for preset in presets[script.__name__].values():
        cfg = script.Config(**preset)
        assert getattr(cfg, "max_new_tokens", 0) + getattr(cfg, "block_size", 0) < 1024


def test_a_unified_rate_is_one_rate_in_all_stages():
    rates = {presets["sft"]["unified"]["lr"], presets["reward"]["unified"]["lr"], presets["ppo"]["unified"]["lr"],
             presets["ppo"]["unified"]["critic_lr"]}
    assert rates == {3e-6}


def test_a_gpt2_by_its_name_brings_its_preset_and_a_flag_overrides_it(flags, capsys):
    cfg = flags(sft, "--init", "gpt2-large", "--steps", "7")
    assert (cfg.lr, cfg.steps, cfg.batch_size, cfg.data) == (1e-5, 7, 128, "toy")
    assert "preset gpt2-large: --lr 1e-05 --micro_batch_size 8 --steps 342" in capsys.readouterr().out


@pytest.mark.parametrize("width, lr, critic_lr", [(768, 1e-5, 1e-5), (1024, 5e-6, 9e-6), (64, ppo.Config.lr, ppo.Config.critic_lr)])
def test_a_run_about_a_gpt2_brings_the_preset_of_its_width(flags, tmp_path, width, lr, critic_lr):
    (tmp_path / "sft").mkdir()
    (tmp_path / "sft" / "config.json").write_text(f'{{"n_embd": {width}}}')
    cfg = flags(ppo, "--run", str(tmp_path))
    assert (cfg.lr, cfg.critic_lr) == (lr, critic_lr)


@pytest.mark.parametrize("given", [["--batch_size", "16"], ["--batch-size", "16"], ["--batch_size=16"], ["--batch-size=16"]])
def test_a_flag_overrides_the_preset_however_it_is_written_and_even_with_the_default(flags, given):
    assert sft.Config.batch_size == 16
    assert flags(sft, "--preset", "gpt2", "--run=--lr", *given) == sft.Config(
        run="--lr", preset="gpt2", **{**presets["sft"]["gpt2"], "batch_size": 16})


def test_a_preset_by_name_goes_before_that_of_the_model(flags):
    assert flags(sft, "--init", "gpt2", "--preset", "unified").lr == 3e-6


@pytest.mark.parametrize("data", ["reviews", "reviews:others"])
def test_a_data_set_brings_its_preset_unless_the_model_has_one(flags, data):
    assert flags(sft, "--data", data) == sft.Config(data=data, preset="reviews", **presets["sft"]["reviews"])
    assert flags(sft, "--data", data, "--init", "gpt2").preset == "gpt2"
    assert flags(sft, "--data", data, "--preset", "unified").preset == "unified"
    assert flags(sft, "--data", "reviews.jsonl") == sft.Config(data="reviews.jsonl")


def test_a_preset_that_does_not_exist_is_one_sentence(flags):
    with pytest.raises(SystemExit, match="^ppo.py: --preset gpt3: there is no such preset; there are gpt2, gpt2-medium"):
        flags(ppo, "--preset", "gpt3")
