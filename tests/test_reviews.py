"""data/reviews.py: the archive (its hash, what may be in it), its odd rows, and a split that leaks nothing."""
import hashlib
import importlib.util
import io
import os
import sys
import tarfile
from itertools import combinations
from pathlib import Path
from statistics import fmean

import pytest
from huggingface_hub import constants

import data
import evaluate
import ppo
import reward
import sft
from data import reviews
from support import UserError

FIRST = ["A slow", "This warm", "The late", "An odd", "His first", "Her loud", "One more", "That old", "Our own", "Some sad"]
SECOND = ["film", "story", "comedy", "drama", "ending", "plot"]
THIRD = ["about owls never", "of a cow", "with much tea", "in grey rain"]
REST = [" has a heart, and no end at all.", " is worth two hours of your sleep, or three."]
SENTENCES = [f"{a} {b} {c}{REST[i % 2]}" for i, (a, b, c) in enumerate((a, b, c) for a in FIRST for b in SECOND for c in THIRD)]
SENTENCES += [f"{text[:-1]} Again." for text in SENTENCES[::2]]    # of each two that begin alike, some are on different sides
RATED = {text: [(i * k) % 9 - 4 for k in (1, 2, 4, 5, 7)] for i, text in enumerate(SENTENCES)}

BACKEND = '''
from pathlib import Path
def build_sdist(folder, settings=None): raise SystemExit
def build_wheel(folder, settings=None, metadata=None): raise SystemExit
def prepare_metadata_for_build_wheel(folder, settings=None):
    Path(r"{marker}").touch()
    (Path(folder) / "vaderSentiment-3.3.2.dist-info").mkdir()
    (Path(folder) / "vaderSentiment-3.3.2.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\\nName: vaderSentiment\\nVersion: 3.3.2\\n")
    return "vaderSentiment-3.3.2.dist-info"
'''


def tar(members):
    """A tar.gz of {name: bytes}."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return out.getvalue()


def texts(rated=RATED):
    """The two files of {sentence: ratings}."""
    truth = "".join(f"{i}\t{fmean(people)}\t{text}\r\n" for i, (text, people) in enumerate(rated.items()))
    ratings = "".join(f"{i}\t{fmean(people)}\t1.0\t{people}\r\n" for i, people in enumerate(rated.values()))
    return truth, ratings


def archive(files=None, more=None, inner_more=None):
    files = [text.encode() for text in texts()] if files is None else files
    return tar({reviews.INNER: tar({**dict(zip(reviews.FILES, files)), **(inner_more or {})}), **(more or {})})


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache, and no network. Returns a function that puts an archive into it, the one that is pinned."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    for name, value in {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull, "PIP_FIND_LINKS": str(tmp_path / "index"),
                        "PIP_NO_CACHE_DIR": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "index").mkdir()

    def put(content, folder="cache"):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / reviews.ARCHIVE).write_bytes(content)
        monkeypatch.setattr(reviews, "SHA256", hashlib.sha256(content).hexdigest())
    return put

# ----------------------------------------------------------------------------- the archive


@pytest.mark.parametrize("right", [True, False])
def test_pip_downloads_it_once_and_runs_nothing_of_it_if_the_hash_is_wrong(cache, tmp_path, monkeypatch, right):
    """Against pip itself and an archive whose build leaves a mark when it runs."""
    marker, name = tmp_path / "it ran", "vaderSentiment-3.3.2"
    content = archive(more={f"{name}/backend.py": BACKEND.replace("{marker}", str(marker)).encode(), f"{name}/pyproject.toml":
                            b'[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'})
    cache(content, "index")
    if right:
        assert reviews.fetch() == content and marker.exists()       # so the mark is a test of the other case
        (tmp_path / "index" / reviews.ARCHIVE).unlink()
        assert reviews.fetch() == content and [path.name for path in (tmp_path / "cache").iterdir()] == [reviews.ARCHIVE]
    else:
        monkeypatch.setattr(reviews, "SHA256", "0" * 64)
        with pytest.raises(UserError, match="pip could not download vaderSentiment==3.3.2 .*HASHES"):
            reviews.fetch()
        assert not marker.exists() and not list((tmp_path / "cache").iterdir())


@pytest.mark.slow
def test_without_a_network_one_sentence_says_where_the_archive_goes(cache, tmp_path):
    with pytest.raises(UserError) as error:
        data.load("reviews")
    assert f"put vaderSentiment-3.3.2.tar.gz of the package index into {tmp_path / 'cache'}" in str(error.value)
    assert "\n" not in str(error.value)


def test_an_archive_with_another_hash_is_not_opened(cache, monkeypatch):
    cache(archive())
    monkeypatch.setattr(reviews, "SHA256", "0" * 64)
    monkeypatch.setattr(reviews, "unpack", lambda content: pytest.fail("opened"))
    with pytest.raises(UserError, match="vaderSentiment-3.3.2.tar.gz: not the archive .*: delete it"):
        data.load("reviews")


@pytest.mark.parametrize("content", [
    pytest.param(archive()[:-200], id="cut"), pytest.param(b"", id="empty"), pytest.param(tar({"else": b""}), id="other"),
    pytest.param(tar({reviews.INNER: archive()[:300]}), id="cut inside"), pytest.param(tar({reviews.INNER: tar({})}), id="lacks")])
def test_a_damaged_archive_is_one_sentence(cache, content):
    cache(content)
    with pytest.raises(UserError, match="^vaderSentiment-3.3.2.tar.gz: cannot be unpacked"):
        data.load("reviews")


def test_a_path_that_climbs_out_writes_nothing(cache, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    climbing = {"../outside": b"x", "/" + str(tmp_path / "absolute"): b"x", reviews.FILES[0] + "/../../outside": b"x"}
    cache(archive(more=climbing, inner_more=climbing))
    before = set(tmp_path.rglob("*")) | set(tmp_path.parent.iterdir())
    assert len(reviews.unpack(reviews.fetch())[0].splitlines()) == len(SENTENCES)
    assert set(tmp_path.rglob("*")) | set(tmp_path.parent.iterdir()) == before

# ----------------------------------------------------------------------------- its rows


def test_bytes_are_utf8_with_or_without_a_mark_or_else_latin1():
    assert [reviews.decode(b) for b in ("é".encode(), "\ufeffé".encode(), "é".encode("latin-1"))] == ["é", "é", "é"]


def test_a_sentence_has_single_quotes_again_and_no_html_and_no_runs_of_blanks():
    assert reviews.clean(" A ''warm'' film    R&amp;D, it's  good. ") == 'A "warm" film R&D, it\'s good.'


def test_odd_rows_are_dropped_and_counted(capsys):
    truth = "1\t0\tFine.\n2\t0\tFine, too.\n3\t0\tToo much.\n4\t0\tNot whole.\n5\t0\t\n6\t0\tFine.\n7\t0\tcut\n8\t9\n9\t0\tTrue.\n"
    rows = {1: "[1, -4]", 2: "[0, 4, 4]", 3: "[5, 1]", 4: "[0.5]", 5: "[1]", 6: "[2]", 7: "[1, ", 8: "[1]", 9: "[true]", 10: "[1]"}
    ratings = "".join(f"{i}\t0\t1\t{cell}\n" for i, cell in rows.items()) + "11\t0\t[1]\n"
    assert reviews.read_sentences(truth, ratings) == {"Fine.": [1, -4], "Fine, too.": [0, 4, 4]}
    assert capsys.readouterr().out == (
        "reviews: 10 rows read, 2 used; 4 dropped: ratings that are no whole numbers from -4 to 4; 3 dropped: without a sentence; "
        "1 dropped: a sentence for the second time\n")

# ----------------------------------------------------------------------------- from ratings to rows


@pytest.fixture
def both(cache):
    cache(archive())
    return data.load("reviews"), data.load("reviews:others")


def compared(comparisons):
    return {text for _, ranking in comparisons for text in ranking}


def test_what_is_held_out_is_in_no_kind_of_training_row(both):
    (train, test), (others, same) = both
    held_out = compared(test.comparisons) | compared(test.noisy)
    assert len(held_out) > 10 and test == same and set(RATED) - set(train.texts) >= held_out
    for part in (train, others):
        whole = {prompt + completion for prompt, completion in part.demonstrations}
        assert whole <= set(part.texts) and not held_out & (whole | compared(part.comparisons) | set(part.texts))
        assert not any(text.startswith(prompt) for prompt in test.prompts for text in part.texts)
    assert test.prompts and set(test.prompts) == {prompt for prompt, _ in test.demonstrations}


def test_the_two_halves_share_what_is_read_and_no_rating(both):
    (train, _), (others, _) = both
    assert (train.texts, train.demonstrations, train.prompts) == (others.texts, others.demonstrations, others.prompts)
    ours, theirs = compared(train.comparisons), compared(others.comparisons)
    assert ours and theirs and not ours & theirs


def test_equal_words_are_on_one_side():
    for text in SENTENCES[:20]:
        assert reviews.place(f"'{text.upper()}'") == reviews.place(text)
    assert {reviews.place(text) for text in SENTENCES} == set(range(20))


def test_a_prompt_is_four_words_and_what_is_left_is_as_long_at_least():
    assert reviews.demonstrations(["A film in which all ends well.", "A film in which all ends well. Twice."]) == [
        {"prompt": "A film in which", "completion": " all ends well. Twice."}]


def could_rate(better, worse):
    return any(a > b for a in RATED[better] for b in RATED[worse])


def test_a_ranking_is_of_single_people_each_rating_once_and_equal_ones_never(both):
    rated = {"a": [1, 1, 1], "b": [1, 1, 1], "c": [-2, -2, -2], "d": [4, 4]}
    found = list(reviews.rank(rated))
    assert found and all(len(set(ranking)) == len(ranking) <= 3 for ranking in found)
    assert all(fmean(rated[x]) > fmean(rated[y]) for ranking in found for x, y in zip(ranking, ranking[1:]))
    assert sum(ranking.count("d") for ranking in found) <= 2
    (train, test), _ = both
    pairs = [(x, y) for _, ranking in train.comparisons for x, y in combinations(ranking, 2)]
    assert all(could_rate(x, y) for x, y in pairs) and any(fmean(RATED[x]) < fmean(RATED[y]) for x, y in pairs)  # noise stays
    assert any(fmean(RATED[x]) < fmean(RATED[y]) for _, (x, y) in test.noisy)
    assert all(fmean(RATED[x]) - fmean(RATED[y]) >= reviews.APART for _, (x, y) in test.comparisons)


def test_the_ceiling_asks_all_but_the_person_whose_rating_it_is():
    """Where two people say 3 and 0, whoever likes one sentence better than another is alone: the others say 0 and 3."""
    assert [other for rating, text, other in sorted(reviews.votes({"a": [3, 0], "b": [0, 4]}))] == [3, 4, 0, 0]
    pairs, ceiling = reviews.single_people({"a": [2, 2], "b": [-1, -1], "c": [-3, -3]})
    assert ceiling == 1 and all(pair in (["a", "b"], ["a", "c"], ["b", "c"]) for _, pair in pairs)
    pairs, ceiling = reviews.single_people({name: [3, 0] for name in "abcdef"})
    assert pairs and ceiling == 0


def test_a_part_that_is_none_is_one_sentence():
    with pytest.raises(UserError, match="^--data reviews:all: there are reviews and reviews:others$"):
        data.load("reviews:all")

# ----------------------------------------------------------------------------- all stages


def test_all_four_stages_run_on_them(both, tmp_path, monkeypatch, quiet, capsys):
    monkeypatch.chdir(tmp_path)
    sft.main(sft.Config(data="reviews", device="cpu", vocab_size=400, pretrain_steps=2, steps=2, batch_size=4, n_layer=1, n_head=2,
                        n_embd=8, block_size=64))
    reward.main(reward.Config(data="reviews", device="cpu", steps=2, batch_size=4, normalise_samples=500, max_new_tokens=20))
    ppo.main(ppo.Config(data="reviews", device="cpu", steps=1, batch_size=4, max_new_tokens=8, missing_eos_score=-1.0))
    evaluate.main(evaluate.Config(data="reviews", device="cpu", samples=1, prompts=4, best_of=2, max_new_tokens=8))
    said = capsys.readouterr().out
    assert "noisy comparisons (ceiling" in said and "judge: reward_model" in said

# ----------------------------------------------------------------------------- experiments/reviews.py


@pytest.fixture
def experiment():
    """experiments/reviews.py, beside data/reviews.py, which has the same name."""
    folder = Path(__file__).resolve().parent.parent / "experiments"
    sys.path.append(str(folder))
    spec = importlib.util.spec_from_file_location("reviews_experiment", folder / "reviews.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_bag_of_words_learns_which_words_people_like_and_ignores_what_both_sides_have(experiment):
    good, bad = "a good film", "a bad film"
    pairs = [(f"{good} {x}", f"{bad} {y}") for x, y in (("x", "y"), ("y", "x"), ("x", "x"), ("y", "y"))]
    score = experiment.fit_words(pairs, 1e-3)
    assert score("Good") > 1 > 1e-3 > abs(score("film")) and score("bad") == pytest.approx(-score("good"), rel=1e-3)
    assert score("unheard") == 0 and score("good good") == score("good") == pytest.approx(score("A good") - score("a"))
    strict = experiment.fit_words(pairs, 1e-1)
    assert 0 < strict("good") < score("good")


def test_the_penalty_is_the_one_with_which_the_other_half_is_ordered_best(experiment, monkeypatch, capsys):
    monkeypatch.setattr(experiment, "fit_words", lambda pairs, penalty: {1e-4: len}.get(penalty, lambda text: -len(text)))
    assert experiment.bag_of_words([], [("long", "so"), ("longer", "no"), ("a", "it")]) is len
    assert "penalty 0.0001 of" in capsys.readouterr().out


def test_agreement_counts_half_for_a_tie(experiment):
    assert experiment.agreement(len, [("long", "a"), ("a", "long"), ("no", "it"), ("yes", "no")]) == 2.5 / 4
    assert experiment.pairs_of([("", ["a", "b", "c"])]) == [("a", "b"), ("a", "c"), ("b", "c")]


def test_calibration_counts_how_often_a_model_is_right_by_how_sure_it_is(monkeypatch):
    """Raw scores are the normalised ones times reward_std = 2: apart by 2, 4 and 6, σ is 0.881, 0.982 and 0.998."""
    folder = str(Path(__file__).resolve().parent.parent / "experiments")
    monkeypatch.setattr(sys, "path", [folder, *sys.path])
    monkeypatch.delitem(sys.modules, "reviews", raising=False)
    import reviews_ppo
    score = {"a": 0.0, "b": 1.0, "c": 3.0, "d": 3.1}.get
    bins = reviews_ppo.calibration(score, 2.0, [("b", "a"), ("a", "c"), ("c", "b"), ("c", "d")])
    assert bins == {0: [0.0], 1: [], 2: [], 3: [1.0], 4: [0.0, 1.0]}
    del sys.modules["reviews_ppo"]
    sys.modules.pop("reviews", None)
