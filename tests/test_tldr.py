"""data/tldr.py: which rows of TRL's two data sets on the Hub are for training and which are held out."""
import json

import pytest
from huggingface_hub import constants
from huggingface_hub.utils import filter_repo_objects

import data
from support import UserError

POST = "SUBREDDIT: r/tea\n\nTITLE: {0}\n\nPOST: My kettle sings {0}.\n\nTL;DR:"


def demonstration(name):
    return {"prompt": POST.format(name), "completion": f" {name} kettle."}


def comparison(name):
    return {"prompt": POST.format(name), "chosen": f" {name} kettle.", "rejected": f" {name}?"}


FILES = {
    "trl-lib/tldr": {"data/train.jsonl": [demonstration("loud"), demonstration("soft")],
                     "data/test.jsonl": [demonstration("odd")], "data/validation.jsonl": [demonstration("never read")]},
    "trl-lib/tldr-preference": {"data/train.jsonl": [comparison("high"), comparison("low")],
                                "data/validation.jsonl": [comparison("new")]}}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The two repositories; a download takes only what it asks for."""
    files = {repo: dict(there) for repo, there in FILES.items()}
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))

    def snapshot_download(repo, repo_type, allow_patterns):
        assert repo_type == "dataset"
        cache = tmp_path / repo.replace("/", "--")
        for file in filter_repo_objects(files[repo], allow_patterns=allow_patterns):
            (cache / file).parent.mkdir(parents=True, exist_ok=True)
            (cache / file).write_text("".join(json.dumps(row) + "\n" for row in files[repo][file]))
        return str(cache)
    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    return files


def test_each_kind_of_row_is_in_its_split(hub):
    train, test = data.load("tldr")
    assert train.demonstrations == [(POST.format(name), f" {name} kettle.") for name in ("loud", "soft")]
    assert train.comparisons == [(POST.format(name), [f" {name} kettle.", f" {name}?"]) for name in ("high", "low")]
    assert test.demonstrations == [(POST.format("odd"), " odd kettle.")]
    assert test.comparisons == [(POST.format("new"), [" new kettle.", " new?"])]


def test_ppo_practises_on_the_posts_of_the_demonstrations(hub):
    train, test = data.load("tldr")
    assert train.prompts == [POST.format("loud"), POST.format("soft")] and test.prompts == [POST.format("odd")]


def test_odd_rows_are_counted_by_set(hub, capsys):
    hub["trl-lib/tldr-preference"]["data/train.jsonl"] = [comparison("high"), {**comparison("low"), "rejected": " low kettle."}]
    assert len(data.load("tldr")[0].comparisons) == 1
    assert "hub:trl-lib/tldr-preference, train: 2 rows read, 1 used; 1 dropped: identical replies" in capsys.readouterr().out


def test_a_split_that_is_gone_is_one_sentence(hub):
    del hub["trl-lib/tldr-preference"]["data/validation.jsonl"]
    with pytest.raises(UserError, match='tldr-preference:validation: no Parquet or JSON-lines file of a split "validation"'):
        data.load("tldr")
