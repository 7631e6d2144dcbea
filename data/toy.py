"""toy: the world of a tiny assistant, small enough to learn in a minute.

    python -m data.toy              writes data/toy/*.jsonl and prints a few rows
    python -m data.toy --world 2    another world, data/toy2/*.jsonl, for `--data toy2`

One seeded program draws a world from its JSON file: 75 facts in twelve families, five phrasings.

    text            facts stated plainly, and pages on which people only ask
    demonstrations  answers of people, right or wrong, in the seven tones of PEOPLE
    comparisons     four such answers, ranked as Bradley-Terry people would: noisily
    prompts         what PPO practises on, without answers
    test            pairings of phrasing and fact that no other file contains, pairs without noise
    test_noisy      rankings of answers to those, as noisy as `comparisons`, with the judge's points
    validation, validation_noisy    the same on a phrasing of their own, to choose rates by
"""
import argparse
import json
import math
import random
import re
from pathlib import Path

from data.toy_world import FACT_OF, PHRASINGS, WORLDS, judge
from support.files import write_whole
from text.dialogue import ASSISTANT, HUMAN, dialogue
from text.tokenizer import WORDS, Tokenizer

FOLDER = Path(__file__).parent
N_TEXTS, N_DEMONSTRATIONS, N_RANKINGS = 15_000, 10_000, 20_000
N_HELD_OUT_PAIRS, N_HELD_OUT_RANKINGS = 1_000, 500
K = 4                   # answers in a ranking

# ---------- people

# How often each kind of person writes, and how often each is right. Few are both right and kind.
# Some overdo it: a reward model that never saw two kindnesses often prefers them to one.
PEOPLE = {"kind": (0.18, 0.80), "gushing": (0.04, 0.80), "plain": (0.31, 0.85),
          "curt": (0.11, 0.80), "rude": (0.16, 0.80), "rambling": (0.12, 0.80),
          "evasive": (0.08, None)}


def capital(sentence):
    return sentence[0].upper() + sentence[1:]


def said_after(phrase, claim):
    """The claim behind a phrase: a sentence of its own, if the phrase is one."""
    return f"{phrase} {capital(claim) if is_sentence(phrase) else claim}"


def is_sentence(phrase):
    return phrase[-1] in ".!?"


def answer(fact, rng, person=None):
    """What one person answers, in the tone of `person` (drawn from PEOPLE if not given)."""
    world, family = fact.world, fact.shared
    person = person or rng.choices(list(PEOPLE), [often for often, _ in PEOPLE.values()])[0]
    if person == "evasive":
        misplaced = [refusal for refusal in world.refusals if refusal != fact.right()]
        return rng.choice([rng.choice(world.evasive), rng.choice(misplaced)])
    is_right = rng.random() < PEOPLE[person][1]
    claim = fact.right() if is_right else fact.wrong(rng)
    if person == "curt" and family.curt:
        others = [y for y in family.facts.values() if y != fact.y]
        return (fact.y if is_right else rng.choice(others)) + "."
    if person in ("kind", "gushing"):
        phrases = family.friendly if rng.random() < 0.9 else world.kind
        for phrase in rng.sample(phrases, 2 if person == "gushing" else 1):
            claim = said_after(phrase, claim)
    if person == "rude":
        phrase = rng.choice(world.rude)
        claim = f"{capital(claim)} {phrase}" if is_sentence(phrase) else said_after(phrase, claim)
    if person == "rambling":
        phrase = rng.choice(world.rambling + world.trailing)
        claim = f"{claim} {phrase}" if phrase in world.trailing else said_after(phrase, claim)
    return capital(claim)


def right_answer(fact, rng):
    """What somebody answers who is right, in whatever tone."""
    while fact.right().lower() not in (said := answer(fact, rng)).lower():
        pass
    return said


def text(rng, world, train):
    """A page that the base model reads: an article, people's chatter, a drill, a quiz book, or
    people who only ask. Whoever asks in the words of a dialogue gets more questions, so the base
    model expects that. The longer kinds have about 50 words each: even pages need few pads."""
    kind = rng.random()
    if kind < 0.15:
        return " ".join(stated(fact, rng) for fact in rng.sample(world.facts, 7))
    if kind < 0.2:                                          # where it meets the tones of PEOPLE
        return " ".join(right_answer(fact, rng) for fact in rng.sample(world.facts, 6))
    if kind < 0.35:                                         # what takes most practice
        family = rng.choice([name for name, family in world.families.items() if family.drilled])
        drilled = [prompt for prompt in train if FACT_OF[prompt].family == family]
        return " ".join(f"{question_of(prompt)} {stated(FACT_OF[prompt], rng)}"
                        for prompt in rng.sample(drilled, 4))
    if kind < 0.8:
        return " ".join(f"Q: {question_of(prompt)} A: {stated(FACT_OF[prompt], rng)}"
                        for prompt in rng.sample(train, 3))
    prompts = rng.sample(train, rng.randint(3, 5))
    asked = [question_of(prompt) for prompt in prompts]
    if kind < 0.85:
        return " ".join(asked)
    return prompts[0] + " " + " ".join(asked[1:])           # the first one as in a dialogue


def stated(fact, rng):
    """A fact as a page states it. Half of what an assistant should refuse is answered there."""
    wrong = fact.shared.wrong and rng.random() < 0.5
    return capital(fact.wrong(rng) if wrong else fact.right())


def question_of(prompt):
    """The question without the frame of a dialogue."""
    return prompt.removeprefix(HUMAN + " ").removesuffix(ASSISTANT)


def ranking(prompt, rng):
    """K different answers to `prompt`, best first, in the order of a person with a noisy eye.

    Each answer's points get a Gumbel draw, so of any two the first is before the second with
    probability σ(2 (judge(first) - judge(second))): Bradley-Terry for pairs, Plackett-Luce for K.
    """
    felt = {}
    while len(felt) < K:
        text = answer(FACT_OF[prompt], rng)
        felt[text] = 2 * judge(prompt, text) - math.log(-math.log(rng.random()))
    best_first = sorted(felt, key=felt.get, reverse=True)
    return {"prompt": prompt, "completions": [" " + text for text in best_first]}


def noiseless_pair(prompt, rng):
    """Two answers to `prompt` that the judge finds different, the better one as chosen."""
    a, b = answer(FACT_OF[prompt], rng), answer(FACT_OF[prompt], rng)
    if judge(prompt, a) == judge(prompt, b):
        return noiseless_pair(prompt, rng)
    chosen, rejected = sorted((a, b), key=lambda text: -judge(prompt, text))
    return {"prompt": prompt, "chosen": " " + chosen, "rejected": " " + rejected}


def with_points(row):
    """A ranking with the judge's points for each of its answers, in the same order."""
    return {**row, "points": [judge(row["prompt"], text) for text in row["completions"]]}

# ---------- files

def split(world, rng):
    """The prompts of training, validation and test: of the phrasings of every fact, one is kept for
    validation and one for the test."""
    train, validation, test = [], [], []
    for fact in world.facts:
        prompts = [dialogue(fact.question(p)) for p in range(PHRASINGS)]
        rng.shuffle(prompts)
        test.append(prompts.pop())
        validation.append(prompts.pop())
        train += prompts
    return train, validation, test


def generate(world):
    """All rows of a World, by file name."""
    rng = random.Random(world.seed)
    train, validation, test = split(world, rng)
    files = {
        "text": [{"text": text(rng, world, train)} for _ in range(N_TEXTS)],
        "demonstrations": [{"prompt": prompt, "completion": " " + answer(FACT_OF[prompt], rng)}
                           for prompt in rng.choices(train, k=N_DEMONSTRATIONS)],
        "comparisons": [ranking(prompt, rng) for prompt in rng.choices(train, k=N_RANKINGS)],
        "prompts": [{"prompt": prompt} for prompt in train]}
    for name, prompts in (("validation", validation), ("test", test)):
        files[name] = [{"prompt": prompt} for prompt in prompts]
        files[name] += [noiseless_pair(prompt, rng)
                        for prompt in rng.choices(prompts, k=N_HELD_OUT_PAIRS)]
        files[f"{name}_noisy"] = [with_points(ranking(prompt, rng))
                                  for prompt in rng.choices(prompts, k=N_HELD_OUT_RANKINGS)]
    return files


def vocabulary(rows):
    """A tokenizer of the 256 bytes and every word of the files."""
    strings = (string for row in rows for value in row.values()
               for string in (value if isinstance(value, list) else [value])
               if isinstance(string, str))
    words = {piece.encode() for string in strings for piece in re.findall(WORDS, string)}
    longer = sorted(word for word in words if len(word) > 1)
    return Tokenizer.words([bytes([b]) for b in range(256)] + longer)


def write(world, folder):
    """Write a World's files, each whole or not at all, the tokenizer last. Returns rows by file
    name."""
    files = generate(world)
    for name, rows in files.items():
        write_whole(folder / f"{name}.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    vocabulary(row for rows in files.values() for row in rows).save(folder)
    return files


def main():
    parser = argparse.ArgumentParser(description="write the files of one of the toy's worlds")
    parser.add_argument("--world", type=int, choices=(1, 2), default=1)
    world = list(WORLDS.values())[parser.parse_args().world - 1]
    for name, rows in write(world, FOLDER / world.name).items():
        print(f"\n{world.name}/{name}.jsonl, {len(rows):,} rows")
        for row in rows[:3]:
            print("   " + json.dumps(row))


if __name__ == "__main__":
    main()
