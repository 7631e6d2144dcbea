"""Other defaults for OpenAI's GPT-2s: places to start from, for Anthropic's HH. They have not been tried on a GPU yet.

A run that is about one of the four takes its preset; --preset names another one, and flags override it. `unified`
has one learning rate for all stages, as the N+ reproduction (arXiv:2403.17031). A micro-batch changes memory alone.

SFT             342 steps of 128 are one pass over helpful-base; batch and pass as in N+.
                Rates: TRL's SFTConfig (2e-5), trlX's TL;DR example (1e-5, for GPT-J).
reward model    one pass over 43,835 comparisons, 64 a step, as in N+.
                Rates: trlX's TL;DR example (1e-5); minChatGPT takes 1e-4 with batches of 2.
PPO             four epochs of one step, as Ziegler et al. and all who reproduced them; 128 responses a rollout as trlX.
                Rates: 1e-5 is Ziegler's for the smallest, 5e-6 and 9e-6 minChatGPT's for medium, 3e-6 TRL's and N+'s.
evaluation      64 responses at a time: of 128 tokens, they have 1.6 GB of logits.
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
