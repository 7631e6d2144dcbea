"""README.md of a model folder, the card that the Hub shows: what the model is and how it was
made."""
import shlex
from dataclasses import fields

WHAT = {"base": "A language model that has read pages, and continues them.",
        "sft": "An assistant that learned from demonstrations (supervised fine-tuning).",
        "reward": "A reward model: it scores the response that ends a dialogue, and was trained on "
                  "comparisons.",
        "ppo": "An assistant that learned from scores of its responses by PPO, starting from "
               "supervised fine-tuning.",
        "critic": "The critic of a PPO run: it predicts the reward to come at every token of a "
                  "response."}
SCORER = '''\
The score of a dialogue is the one logit of `AutoModelForSequenceClassification`. It means something
only for a response that has ended: append `tokenizer.eos_token_id` to the ids. Minus `reward_mean`
and divided by `reward_std`, both in config.json, the scores of the SFT model's responses have mean
0 and standard deviation 1.
'''
ASSISTANT = '''\
```
from transformers import pipeline
assistant = pipeline("text-generation", "FOLDER OR NAME OF THIS MODEL")
print(assistant([{"role": "user", "content": "What sound does an owl make?"}]))
```
'''


def command(cfg, script):
    """The command line with every flag that is not the default."""
    values = {field.name: str(getattr(cfg, field.name)) for field in fields(cfg)
              if getattr(cfg, field.name) != field.default and field.name != "resume"}
    flags = [f"--{name}" if value == "True" else
             f"--{name} {shlex.quote(value) if value.isprintable() else ascii(value)}"
             for name, value in values.items()]
    return " ".join([f"python {script}.py", *flags])


def card(folder, cfg, frame):
    """The card of the stage that `folder` is named after, made with the flags `cfg`. `frame` is
    what begins the turns of a dialogue, the human's and the assistant's; None without it."""
    run, stage = folder.parent.name, folder.name
    script = {"base": "sft", "critic": "ppo"}.get(stage, stage)
    form = "A prompt is a text as it is, to which the chat template adds nothing"
    if frame:
        dialogue = "".join(f"{turn} …" for turn in frame)
        form = f"A dialogue is `{dialogue!r}`, which the chat template writes"
    scorer = stage in ("reward", "critic")
    return f"""\
---
library_name: transformers
pipeline_tag: {"text-classification" if scorer else "text-generation"}
tags: [gpt2, rlhf, {stage}]
---
# {run}/{stage}

{WHAT[stage]}

- stage: {stage}
- data: {cfg.data}
- seed: {cfg.seed}
- command: `{command(cfg, script)}`

{form}; `<|endoftext|>` ends
a response.

{SCORER if scorer else ASSISTANT}"""
