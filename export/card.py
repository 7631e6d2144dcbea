"""README.md of a model folder, the card that the Hub shows: what the model is, how it was made, how
well it does."""
import shlex
from dataclasses import fields

from support.files import write_whole
from text.dialogue import ASSISTANT, HUMAN

WHAT = {"base": "A language model that has read pages, and continues them.",
        "sft": "An assistant that learned from demonstrations (supervised fine-tuning).",
        "reward": "A reward model: it scores the response that ends a dialogue, and was trained on "
                  "comparisons.",
        "ppo": "An assistant that learned from a reward model by PPO, starting from supervised "
               "fine-tuning.",
        "critic": "The critic of a PPO run: it predicts the reward to come at every token of a "
                  "response."}
READ = {True: '''\
The score of a dialogue is the one logit of `AutoModelForSequenceClassification`. It means something
only for a response that has ended: append `tokenizer.eos_token_id` to the ids. Minus `reward_mean`
and divided by `reward_std`, both in config.json, the scores of the SFT model's responses have mean
0 and standard deviation 1.
''', False: '''\
```
from transformers import pipeline
assistant = pipeline("text-generation", "FOLDER OR NAME OF THIS MODEL")
print(assistant([{"role": "user", "content": "What sound does an owl make?"}]))
```
'''}
EVALUATION = "\n## Evaluation\n"


def command(cfg, script):
    """The command line with every flag that is not the default."""
    flags = [f"--{field.name} {shlex.quote(str(getattr(cfg, field.name)))}" for field in fields(cfg)
             if getattr(cfg, field.name) != field.default and field.name != "resume"]
    return " ".join([f"python {script}.py", *flags])


def write_card(folder, cfg):
    """Write the README.md of the stage that `folder` is named after, made with the flags `cfg`."""
    stage, scorer = folder.name, folder.name in ("reward", "critic")
    script = {"base": "sft", "critic": "ppo"}.get(stage, stage)
    task = "text-classification" if scorer else "text-generation"
    write_whole(folder / "README.md", f"""\
---
library_name: transformers
pipeline_tag: {task}
tags: [gpt2, rlhf, {stage}]
---
# {folder.resolve().parent.name}/{stage}

{WHAT[stage]}

- stage: {stage}
- data: {cfg.data}
- seed: {cfg.seed}
- command: `{command(cfg, script)}`

A dialogue is `{f'{HUMAN} …{ASSISTANT} …'!r}`, which the chat template writes; `<|endoftext|>` ends
a response.

{READ[scorer]}""")


def add_evaluation(folder, cfg, table):
    """Put the table that evaluate.py has printed at the end of a card, in place of an earlier."""
    card = folder / "README.md"
    if card.exists():
        before = card.read_text(encoding="utf-8").partition(EVALUATION)[0]
        made = f"`{command(cfg, 'evaluate')}`\n```\n{table}\n```\n"
        write_whole(card, f"{before}{EVALUATION}\n{made}")
