"""support/distributed.py: two processes make the steps that one makes with the same batches."""
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import ppo
from support import UserError, distributed
from support.command_line import launch

HERE = Path(__file__).resolve().parent


def trained(folder, processes):
    """What `main` below saves, run in so many processes."""
    folder.mkdir()
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"] if processes > 1 else []
    env = {**os.environ, "PYTHONPATH": f"{HERE}:{HERE.parent}"}
    done = subprocess.run([sys.executable, *torchrun, __file__, str(folder)], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return torch.load(folder / "result.pt")


@pytest.mark.parametrize("there, says", [
    ({"WORLD_SIZE": "4"}, "RANK"), ({"WORLD_SIZE": "4", "RANK": "0"}, "MASTER_ADDR"), ({"WORLD_SIZE": "four", "RANK": "0"}, "invalid literal")])
def test_a_world_size_that_torchrun_did_not_set_is_one_sentence(monkeypatch, there, says):
    for name in ("WORLD_SIZE", "RANK", "MASTER_ADDR", "MASTER_PORT", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in there.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=f"WORLD_SIZE is set, but torchrun did not start this .*{says}.*unset WORLD_SIZE"):
        distributed.join(torch.device("cpu"), None)
    monkeypatch.setenv("WORLD_SIZE", "1")                   # one process needs nobody
    assert distributed.join(torch.device("cpu"), None) == torch.device("cpu")


def test_each_process_has_the_gpu_of_its_number(monkeypatch):
    """Without a GPU: what would be asked of torch."""
    asked = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "set_device", asked.append)
    monkeypatch.setattr(torch.distributed, "init_process_group", asked.append)
    assert distributed.join(torch.device("cuda"), ppo.Config()) == torch.device("cuda", 1)
    assert asked == [torch.device("cuda", 1), "nccl"]


def test_a_script_that_has_done_its_work_leaves_the_group(monkeypatch):
    monkeypatch.setattr("sys.argv", ["ppo.py"])
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    launch(lambda cfg: None, ppo.Config, "ppo")
    assert not torch.distributed.is_initialized()


def test_two_processes_make_the_steps_of_one(tmp_path):
    one, two = trained(tmp_path / "one", 1), trained(tmp_path / "two", 2)
    for stage in ("sft", "reward", "actor", "critic"):
        moved = (one[stage] - one[f"{stage} before"]).abs().max()
        assert moved > 1e-3                                     # several updates away from where it started
        torch.testing.assert_close(two[stage], one[stage], rtol=0, atol=1e-5)
    assert one["kl_coef"][-1] != one["kl_coef"][0]
    for name in ("sft metrics", "reward metrics", "ppo metrics", "kl_coef", "normalisation"):
        torch.testing.assert_close(torch.tensor(two[name]), torch.tensor(one[name]), rtol=1e-4, atol=1e-5)


def test_without_torchrun_there_is_one_process_and_nothing_changes():
    from support import distributed
    x = torch.arange(3.0)
    assert (distributed.rank(), distributed.world_size()) == (0, 1)
    assert distributed.own_rows([1, 2, 3]) == [1, 2, 3]
    assert torch.equal(distributed.total(x), x) and torch.equal(distributed.gather(x), x) and torch.equal(distributed.from_first(x), x)

# ----------------------------------------------------------------------------- what the processes run


def main(folder):
    """A few steps of each stage with tiny models; the first process saves weights and metrics."""
    import reward
    import sft
    import tiny
    from text.batches import pad
    from gpt import GPT
    from support.distributed import join, leave, rank
    from support.optimizer import adamw
    from test_invariances import DEMONSTRATIONS, RANKINGS

    join(torch.device("cpu"), ppo.Config(batch_size=8, minibatches=1))
    # SGD in place of AdamW, which blows the rounding of a gradient that is 0 up to a whole step.
    torch.optim.AdamW = lambda parameters, **_: torch.optim.SGD(parameters, lr=0.0)

    plain = GPT.generate

    def generate(self, ids, mask, max_new_tokens, temperature=1.0, **_):
        """Each row's response depends on its prompt alone, whichever process has it."""
        rows = []
        for row, keep in zip(ids, mask):
            torch.manual_seed(int((row[keep] * torch.arange(1, keep.sum() + 1)).sum()))
            rows.append([part[0] for part in plain(self, row[keep][None], keep[keep][None], max_new_tokens, temperature)])
        tokens, real = pad([tokens.tolist() for tokens, _, _ in rows])
        logprobs = torch.zeros(real.shape)
        logprobs[real] = torch.cat([logprobs for _, _, logprobs in rows])
        return tokens, real, logprobs
    GPT.generate = generate

    def flat(model):
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    def numbers(steps):
        return [value for metrics in steps for _, value in sorted(metrics.items())]

    torch.manual_seed(0)
    result, prompts = {}, [[1, 2, 3], [4], [5, 6], [7, 8, 9, 1], [2], [3, 3], [9, 8], [6, 1, 1]]
    gpt, rm = tiny.model(seed=rank()), tiny.critic(seed=5 + rank())     # the first process's weights count
    result["sft before"], result["reward before"] = flat(gpt), flat(rm)
    cfg = sft.Config(batch_size=4, lr=0.1)
    steps = sft.train(gpt, adamw(gpt), DEMONSTRATIONS, 3, 0.1, {"step": 0}, cfg)
    result["sft metrics"] = numbers([metrics for _, _, metrics in steps]) + [sft.test_loss(gpt, DEMONSTRATIONS, cfg, None)]
    cfg = reward.Config(batch_size=4, steps=3, lr=0.1)
    steps = reward.train(rm, adamw(rm), RANKINGS + RANKINGS[:1], {"step": 0}, cfg)
    result["reward metrics"] = numbers([metrics for _, _, metrics in steps])
    result["sft"], result["reward"] = flat(gpt), flat(rm)
    result["normalisation"] = reward.fit_normalisation(rm, gpt, prompts * 3, reward.Config(max_new_tokens=8), "cpu")

    actor, critic, reference, scorer = gpt, rm, tiny.model(seed=0), tiny.critic(seed=6)
    reference.load_state_dict(actor.state_dict())
    result["actor before"], result["critic before"] = flat(actor), flat(critic)
    cfg = tiny.ppo_config(steps=4, batch_size=8, epochs=2, lr=0.5, critic_lr=0.1, kl_coef=0.3, kl_target=0.5, kl_horizon=40)
    steps = ppo.train(actor, critic, reference, scorer, adamw(actor), adamw(critic), prompts, ppo.first_state(cfg), cfg)
    logged = [metrics for _, _, metrics in steps]
    result["actor"], result["critic"] = flat(actor), flat(critic)
    result["ppo metrics"], result["kl_coef"] = numbers(logged), [metrics["kl_coef"] for metrics in logged]
    if rank() == 0:
        torch.save(result, folder / "result.pt")
    leave()
    running = [task.read_text() for task in Path("/proc/self/task").glob("*/comm")]      # none where there is no /proc
    assert not [name for name in running if "gloo" in name], f"left, and still there: {running}"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
