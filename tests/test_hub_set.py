"""Data sets of the Hub: which of their files are read, and that every shape gives the rows of our own files."""
import gzip
import json
import sys
from types import SimpleNamespace

import pyarrow
import pyarrow.parquet
import pytest
from huggingface_hub import constants
from huggingface_hub.utils import filter_repo_objects

import data
from data import hub_set
from support import UserError
from support.hub import from_hub
from support.runs import run_folder
from test_messages import A, U, dialogue


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A repository, of which a download takes only what it asks for. Returns a function that puts a file into it."""
    everything, cache = {}, tmp_path / "cache"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))

    def snapshot_download(repo, repo_type, allow_patterns):
        assert (repo, repo_type) == ("some/set", "dataset")
        for file in filter_repo_objects(everything, allow_patterns=allow_patterns):
            (cache / file).parent.mkdir(parents=True, exist_ok=True)
            (cache / file).write_bytes(everything[file])
        cache.mkdir(exist_ok=True)
        return str(cache)
    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)

    def put(file, *rows):
        lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
        if file.endswith(".parquet"):
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), tmp_path / "x.parquet")
            lines = (tmp_path / "x.parquet").read_bytes()
        everything[file] = gzip.compress(lines) if file.endswith(".gz") else lines
    put.cache = cache
    return put


def test_a_cache_that_lacks_the_file_is_not_taken_for_it(hub):
    """Offline, `snapshot_download` gives whatever folder there is."""
    with pytest.raises(UserError, match=r"some/set could not be downloaded to .*the cache lacks train.jsonl.*connect once"):
        from_hub("some/set", ["train.jsonl"], "dataset")


def rows(name, count=3):
    return [{"prompt": dialogue(f"{name} {i}?"), "completion": dialogue(f"{name}.", first="assistant")} for i in range(count)]


def prompts(name, count=3):
    return [f"{U}{name} {i}?{A}" for i in range(count)]


NAMES = ["data/train-00000-of-00001.parquet", "train-00000-of-00001-0a1b2c.parquet", "train.jsonl", "data/train.jsonl.gz",
         "train.json", "default/train/0000.parquet", "some-folder/train.parquet"]


@pytest.mark.parametrize("file", NAMES)
def test_the_test_split_goes_by_the_same_name(hub, file):
    hub(file, *rows("practice"))
    hub(file.replace("train", "test"), *rows("exam"))
    train, test = data.load("hub:some/set")
    assert train.prompts == prompts("practice") and test.prompts == prompts("exam")
    assert train.demonstrations[0] == (f"{U}practice 0?{A}", " practice.")


def test_parts_of_a_split_are_read_in_order_and_other_splits_are_not_even_downloaded(hub):
    for i in (1, 0):
        hub(f"data/train_prefs-0000{i}-of-00002.parquet", *rows(f"part {i}"))
    for other in ("train_sft", "train_gen", "train", "test_sft"):
        hub(f"data/{other}-00000-of-00001.parquet", *rows(other))
    hub("set.py", {})
    hub("data/test_prefs-00000-of-00001.parquet", *rows("exam"))
    train, test = data.load("hub:some/set:train_prefs")
    assert train.prompts == prompts("part 0") + prompts("part 1") and test.prompts == prompts("exam")
    assert {path.name for path in hub.cache.rglob("*-of-*")} == {
        "train_prefs-00000-of-00002.parquet", "train_prefs-00001-of-00002.parquet", "test_prefs-00000-of-00001.parquet"}
    assert not (hub.cache / "set.py").exists()


@pytest.mark.parametrize("split", ["train", "validation"])
def test_a_set_without_a_test_split_is_split_by_its_prompts(hub, split):
    hub(f"{split}.parquet", *rows("practice", 40))
    train, test = data.load(f"hub:some/set:{split}")
    assert sorted(train.prompts + test.prompts) == sorted(prompts("practice", 40)) and len(test.prompts) == 2


def test_a_split_in_several_folders_must_be_named(hub):
    for name in ("easy", "hard"):
        hub(f"{name}/train-00000-of-00001.parquet", *rows(name))
        hub(f"{name}/test-00000-of-00001.parquet", *rows(f"{name} exam"))
    with pytest.raises(UserError, match="several folders have that split; name one of easy/train, hard/train"):
        data.load("hub:some/set")
    train, test = data.load("hub:some/set:hard/train")
    assert train.prompts == prompts("hard") and test.prompts == prompts("hard exam")


@pytest.mark.parametrize("shape", [
    {"text": "A page."}, {"prompt": "p", "completion": " c"}, {"prompt": "p", "chosen": " c", "rejected": " r"},
    {"chosen": f"{U}p{A} c", "rejected": f"{U}p{A} r"}, {"messages": dialogue("p", "c", "q", "d")},
    {"prompt": dialogue("p"), "chosen": dialogue("c", first="assistant"), "rejected": dialogue("r", first="assistant")},
    {"chosen": dialogue("p", "c"), "rejected": dialogue("p", "r"), "score": 0.5, "messages": None, "tools": None}])
def test_parquet_gives_the_rows_of_json_lines(hub, tmp_path, shape):
    both = [shape, json.loads(json.dumps(shape).replace('p"', 'another"').replace("page", "leaf").replace("Human: p", "Human: q"))]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in both))
    hub("train.parquet", *both)
    assert data.load("hub:some/set") == data.load(str(tmp_path / "own.jsonl"))


def test_what_is_dropped_is_said(hub, capsys):
    system = {"messages": [{"role": "system", "content": "Be kind."}, *dialogue("p", "c")]}
    hub("train.parquet", *[{"messages": dialogue(f"{i}?", "c")} for i in range(3)], system, {"messages": dialogue("p")})
    data.load("hub:some/set")
    assert ("hub:some/set, train: 5 rows read, 3 used; 1 dropped: a system message; 1 dropped: no answer at the end"
            in capsys.readouterr().out)


@pytest.mark.parametrize("name, message", [
    ("hub:set", "must be hub:OWNER/NAME or"), ("hub:", "must be hub:OWNER/NAME or"), ("hub:a/b/c", "must be hub:OWNER/NAME or"),
    ("hub:some/set", 'no Parquet or JSON-lines file of a split "train" was found'),
    ("hub:some/set:tests", 'no Parquet or JSON-lines file of a split "tests" was found')])
def test_what_is_not_there_is_named(hub, name, message):
    hub("train.csv", {"prompt": "p"})
    hub("test.jsonl", *rows("exam"))
    with pytest.raises(UserError, match=f"--data {name}: {message}"):
        data.load(name)


def test_a_damaged_file_and_a_malformed_row_are_named(hub):
    hub("train.parquet", {"prompt": "p", "what": None}, {"prompt": "q"}, {"what": "r"})
    with pytest.raises(UserError, match=r'train.parquet, row 3: the key "text" is missing \(the row has: what\)'):
        data.load("hub:some/set")
    (hub.cache / "train.parquet").write_bytes(b"PAR1 no PAR1")
    with pytest.raises(UserError, match="train.parquet: cannot be read as Parquet"):
        list(hub_set.parquet(hub.cache / "train.parquet"))


def test_without_pyarrow_one_sentence_says_what_to_install(hub, monkeypatch):
    hub("train.parquet", *rows("practice"))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match="train.parquet is a Parquet file: `pip install pyarrow` reads it"):
        data.load("hub:some/set")


@pytest.mark.parametrize("name, folder", [("hub:some/set", "out/set"), ("hub:some/set:train_prefs", "out/set-train_prefs"),
                                          ("hub:some/set:hard/train", "out/set-hard-train")])
def test_the_folder_of_a_run_is_named_after_the_set(name, folder):
    assert str(run_folder(SimpleNamespace(data=name, run=""))) == folder


@pytest.mark.parametrize("column", [
    pyarrow.array([10 ** 12] * 2, pyarrow.timestamp("s")), pyarrow.array([-(10 ** 9)] * 2, pyarrow.date32()), pyarrow.array([2 ** 62] * 2, pyarrow.duration("ns")),
    pyarrow.array([b"\xff\xfe", b"a"], pyarrow.binary()).view(pyarrow.string()), pyarrow.nulls(2)], ids=lambda column: str(column.type))
def test_what_is_in_other_columns_is_nobodys_business(tmp_path, column):
    table = pyarrow.table({"when": column, "prompt": ["p", "q"], "completion": [" a", " b"]})
    pyarrow.parquet.write_table(table, tmp_path / "x.parquet")
    rows = [row for _, row in hub_set.parquet(tmp_path / "x.parquet")]
    assert [(row["prompt"], row["completion"]) for row in rows] == [("p", " a"), ("q", " b")] and "when" in rows[0]
