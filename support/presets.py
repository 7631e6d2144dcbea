"""Other defaults for OpenAI's GPT-2s: places to start from, for Anthropic's HH. docs/gpt2.md has their sources.

A run that is about one of the four takes its preset; --preset names another one, and flags override it. They have not
been tried on a GPU yet. `unified` has one learning rate for all stages.
"""
MODELS = ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl", "unified")


def per_model(shared, **lists):
    """{model: its flags}: those shared by all, and from each list the one of this model."""
    return {model: {**{flag: values[i] for flag, values in lists.items()}, **shared}
            for i, model in enumerate(MODELS)}


SFT = per_model(dict(steps=342, batch_size=128, block_size=512),
                lr=[2e-5, 2e-5, 1e-5, 1e-5, 3e-6], micro_batch_size=[16, 16, 8, 4, 8])

REWARD = per_model(dict(steps=684, batch_size=64, max_new_tokens=128),
                   lr=[1e-5, 1e-5, 5e-6, 5e-6, 3e-6], micro_batch_size=[8, 8, 4, 2, 4])

PPO = per_model(dict(epochs=4, minibatches=1, max_new_tokens=128),
                lr=[1e-5, 5e-6, 3e-6, 3e-6, 3e-6], critic_lr=[1e-5, 9e-6, 3e-6, 3e-6, 3e-6],
                steps=[400, 400, 400, 400, 1953], batch_size=[128, 128, 128, 128, 512],
                micro_batch_size=[16, 16, 8, 4, 8])

EVALUATE = per_model(dict(max_new_tokens=128, batch_size=64))
