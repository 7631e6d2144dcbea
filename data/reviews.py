"""reviews: sentences of film reviews, and how real people rated each, from -4 to 4.

    reviews             comparisons from the ratings of one half of the sentences
    reviews:others      from those of the other half: a reward model that can judge the first one

Hutto & Gilbert, ICWSM 2014: some 19 people's ratings of each of 10,605 sentences of reviews, from
the source archive of vaderSentiment 3.3.2, MIT licence. docs/reviews.md says more.

    texts           whole sentences
    demonstrations  the first words of a sentence, and the rest
    comparisons     two sentences, each as one person rated it, disagreement included; no prompt
    held out        a tenth of the sentences: pairs by the mean of all ratings, pairs by single
                    people as in training, and first words with which no training sentence begins
"""
import hashlib
import json
import os
import random
import subprocess
import sys
import tarfile
from collections import Counter
from html import unescape
from io import BytesIO
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory

from data.jsonl import read_rows
from support import UserError, reason

PACKAGE, ARCHIVE = "vaderSentiment==3.3.2", "vaderSentiment-3.3.2.tar.gz"
SHA256 = "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9"
INNER = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
FILES = [f"hutto_ICWSM_2014/movieReviewSnippets_{name}.txt"
         for name in ("GroundTruth", "anonDataRatings")]
PARTS = ("", "others")
FIRST_WORDS = 4         # of a prompt; a sentence with fewer than twice as many gives none
VOTES = 4               # people in a ranking at most
APART = 0.3             # the least distance of two means that make a held-out pair
PAIRS = 2000            # held out, of each kind

# ---------- the archive

def fetch():
    """The archive, downloaded once by pip into the folder of Hugging Face's cache. Raises UserError
    if that fails or if its hash differs. pip compares the hash, too, before it runs the
    archive's setup.py, as it does to learn the version."""
    from huggingface_hub import constants
    path = Path(constants.HF_HUB_CACHE) / ARCHIVE
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        print(f"reviews: pip downloads {ARCHIVE}, 2.5 MB, to {path.parent}")
        with TemporaryDirectory(dir=path.parent) as folder:
            pinned = Path(folder) / "requirements.txt"
            pinned.write_text(f"{PACKAGE} --hash=sha256:{SHA256}\n")
            done = subprocess.run(
                [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary",
                 "vaderSentiment", "--require-hashes", "-r", pinned, "-d", folder],
                capture_output=True, text=True)
            if done.returncode:
                said = [line for line in done.stderr.splitlines() if "ERROR" in line]
                raise UserError(
                    f"pip could not download {PACKAGE} ({' '.join(said[:1]) or 'no reason given'}"
                    f"); connect once, or put {ARCHIVE} of the package index into {path.parent}")
            os.replace(Path(folder) / ARCHIVE, path)    # whole or not at all
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != SHA256:
        raise UserError(f"{path}: not the archive of {PACKAGE}, its SHA-256 differs: delete "
                        "it, and it is downloaded again")
    return content


def unpack(content):
    """The text of each of FILES. Members are read by their names, in memory: nothing in the archive
    says where anything is written. Raises UserError."""
    try:
        with tarfile.open(fileobj=BytesIO(content)) as outer:
            inner = outer.extractfile(INNER).read()
        with tarfile.open(fileobj=BytesIO(inner)) as archive:
            return [decode(archive.extractfile(name).read()) for name in FILES]
    except (AttributeError, EOFError, KeyError, OSError, tarfile.TarError) as error:
        raise UserError(f"{ARCHIVE}: cannot be unpacked ({reason(error)})") from error


def decode(content):
    """The bytes as text: UTF-8, or else Latin-1."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")

# ---------- its rows

def read_sentences(truth, ratings):
    """{sentence: its ratings} from the two files' texts: id, mean, sentence; and id, mean, standard
    deviation, ratings. What is odd is dropped, and counted on the screen."""
    texts = dict(row[::2] for row in cells_of(truth, 3))
    found, rows, dropped = {}, cells_of(ratings, 4), Counter()
    for name, _, _, numbers in rows:
        text = clean(texts.get(name, ""))
        people = whole_numbers(numbers)
        if not text:
            dropped["without a sentence"] += 1
        elif not people:
            dropped["ratings that are no whole numbers from -4 to 4"] += 1
        elif text in found:
            dropped["a sentence for the second time"] += 1
        else:
            found[text] = people
    if dropped:
        print(f"reviews: {len(rows):,} rows read, {len(found):,} used; "
              + "; ".join(f"{count} dropped: {why}" for why, count in dropped.items()))
    return found


def cells_of(text, columns):
    """The lines of a file with so many columns; one with more or fewer is no row."""
    rows = [line.split("\t") for line in text.splitlines()]
    return [row for row in rows if len(row) == columns]


def clean(text):
    """A sentence as people write it: the files double their quotes, ''so'', spell & as in HTML, and
    have blanks where a dash was."""
    return " ".join(unescape(text).replace("''", '"').split())


def whole_numbers(text):
    """The list of ratings that a cell holds; [] if it holds anything else."""
    try:
        numbers = json.loads(text)
    except ValueError:
        return []
    right = isinstance(numbers, list) and all(
        type(number) is int and -4 <= number <= 4 for number in numbers)
    return numbers if right else []

# ---------- from ratings to rows

def load(name):
    """(training rows, held-out rows, held-out comparisons of single people, their ceiling)."""
    part = name.partition(":")[2]
    if part not in PARTS:
        raise UserError(f"--data {name}: there are reviews and reviews:others")
    rated = read_sentences(*unpack(fetch()))
    held_out = {text: people for text, people in rated.items() if place(text) < 2}
    read = [text for text in rated if text not in held_out]
    rating = {text: rated[text] for text in read if place(text) % 2 == PARTS.index(part)}

    known = set(map(first_words, read))
    new = [text for text in held_out if first_words(text) not in known]
    train = [*({"text": text} for text in read), *demonstrations(read),
             *comparisons(rank(rating))]
    test = [*demonstrations(new), *comparisons(by_mean(held_out))]
    pairs, ceiling = single_people(held_out)
    held_out_set = read_rows(f"{name}, held out", named(test))
    return read_rows(name, named(train)), held_out_set, pairs, ceiling


def named(objects):
    return ((f"reviews, row {i}", row) for i, row in enumerate(objects, start=1))


def place(text):
    """Where a sentence belongs, 0 to 19, by its words alone: 0 and 1 are held out, of the others
    the odd ones are rated for reviews:others."""
    words = "".join(filter(str.isalnum, text.lower()))
    return int(hashlib.sha256(words.encode()).hexdigest(), 16) % 20


def first_words(text):
    return " ".join(text.split(" ")[:FIRST_WORDS])


def demonstrations(texts):
    """A row for each sentence that is long enough: its first words, and the rest of it."""
    prompts = {text: first_words(text) for text in texts if text.count(" ") + 1 >= 2 * FIRST_WORDS}
    return [{"prompt": prompt, "completion": text[len(prompt):]}
            for text, prompt in prompts.items()]


def comparisons(rankings):
    """A row for each ranking. Sentences differ from the first word on, so there is no prompt."""
    return [{"prompt": "", "completions": ranking} for ranking in rankings]


def votes(rated):
    """(rating, sentence, mean of all others' ratings of it) of every person, in a random order."""
    ballots = [(rating, text, (sum(people) - rating) / max(1, len(people) - 1))
               for text, people in rated.items() for rating in people]
    random.Random(0).shuffle(ballots)
    return ballots


def rank(rated):
    """Sentences, best first, by the ratings of VOTES people, each of whom rated one: of those that
    were rated alike the first stays, since equal ratings are no comparison."""
    ballots = votes(rated)
    for i in range(0, len(ballots), VOTES):
        chosen = {}
        for rating, text, _ in ballots[i:i + VOTES]:
            if text not in chosen.values():
                chosen.setdefault(rating, text)
        if len(chosen) > 1:
            yield [chosen[rating] for rating in sorted(chosen, reverse=True)]


def single_people(rated):
    """Comparisons by two people, each of whom rated one sentence, [("", [better, worse])]; and the
    share of them that the means of all others order alike, ties half: the ceiling."""
    ballots, pairs, alike = votes(rated), [], 0.0
    for one, other in zip(ballots[::2], ballots[1::2]):
        (high, better, liked), (low, worse, disliked) = sorted((one, other), reverse=True)
        if high > low and better != worse and len(pairs) < PAIRS:
            pairs.append(("", [better, worse]))
            alike += (liked > disliked) + (liked == disliked) / 2
    return pairs, alike / max(1, len(pairs))


def by_mean(rated):
    """Pairs of sentences, the one with the higher mean first, whose means are apart by APART."""
    means, chance = {text: fmean(people) for text, people in rated.items()}, random.Random(0)
    texts, pairs = list(means), []
    for _ in range(2 * PAIRS):
        worse, better = sorted((chance.choice(texts), chance.choice(texts)), key=means.get)
        if means[better] - means[worse] >= APART and len(pairs) < PAIRS:
            pairs.append([better, worse])
    return pairs
