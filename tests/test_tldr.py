"""TL;DR: files come over the network once, whole or not at all; posts become prompts that always end with "TL;DR:"."""
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

import data
from support import UserError
from data import tldr
from data.tldr import cache_folder, download
from text.tokenizer import Tokenizer
from tiny import words

POST = {"id": "t3_a1", "subreddit": "gardening", "title": "Snails ate my beans",
        "post": "I planted beans. \n\nSnails came.", "summary": "beans planted, beans gone."}
BEGINNING = "SUBREDDIT: r/gardening\n\nTITLE: Snails ate my beans\n\nPOST: "
PROMPT = BEGINNING + "I planted beans. \n\nSnails came.\n\nTL;DR:"


def choice(better, split="train", texts=(" Snails ate beans.", " Nothing grows."), **info):
    """A comparison as the files have it."""
    return {"info": {**{key: POST[key] for key in ("id", "post", "title", "subreddit")}, **info}, "split": split,
            "summaries": [{"text": text, "policy": "sup2", "note": None} for text in texts], "choice": better,
            "worker": "w1", "batch": "batch9", "extra": {"confidence": 8}}


@pytest.fixture
def store(monkeypatch, tmp_path):
    """A server on this machine in place of OpenAI's. `files` is what it has, `asked` the paths it was asked for; of
    a path in `broken` it sends half and hangs up."""
    class Handler(BaseHTTPRequestHandler):
        files, asked, broken, lengthless = {}, [], set(), set()

        def do_GET(self):
            self.asked.append(self.path)
            if self.path not in self.files:
                return self.send_error(404)
            content = self.files[self.path]
            self.send_response(200)
            if self.path not in self.lengthless:
                self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[:len(content) // 2] if self.path in self.broken else content)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    Handler.address = f"http://127.0.0.1:{server.server_port}"

    def close():
        server.shutdown()
        server.server_close()
        thread.join()
    Handler.close = close
    monkeypatch.setenv("no_proxy", "*")
    yield Handler
    close()


@pytest.fixture
def openai(store, monkeypatch, tmp_path):
    """What OpenAI's store has: at first a post for training and one for the test, and no comparisons. Returns a function
    that writes rows into one of its files."""
    monkeypatch.setattr(tldr, "STORE", store.address)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(Tokenizer, "gpt2", words)

    def put(file, *rows):
        store.files[f"/{file}"] = "".join(json.dumps(row) + "\n" for row in rows).encode()
    for split in ("train", "valid", "test"):
        put(f"datasets/tldr_3_filtered/{split}.jsonl", POST)
    for name in [*(f"batch{i}" for i in (*range(3, 21), 22)), "batch0_cnndm", "cnndm0", "cnndm2", "edit_b2_eval_test"]:
        put(f"dataset/comparisons/{name}.json")
    return put

# ----------------------------------------------------------------------------- over the network


def test_a_file_is_downloaded_once_and_is_there_when_the_server_is_gone(store, tmp_path):
    content = bytes(range(256)) * 10_000                                    # 2.5 MB, so in several pieces
    store.files["/a.bin"] = content
    path = tmp_path / "new" / "folder" / "a.bin"
    assert download(f"{store.address}/a.bin", path) == path and path.read_bytes() == content
    store.close()
    assert download(f"{store.address}/a.bin", path) == path and store.asked == ["/a.bin"]
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("fault, reason", [("broken", "broke off after 500 of 1,000 bytes"),
                                           ("lengthless", "does not say how long")])
def test_a_file_whose_end_may_be_missing_is_an_error_and_leaves_nothing_behind(store, tmp_path, fault, reason):
    store.files["/a.bin"] = bytes(1000)
    getattr(store, fault).add("/a.bin")
    with pytest.raises(UserError, match=reason):
        download(f"{store.address}/a.bin", tmp_path / "a.bin")
    assert list(tmp_path.iterdir()) == []
    getattr(store, fault).clear()                                           # and the next time it works
    assert download(f"{store.address}/a.bin", tmp_path / "a.bin").read_bytes() == bytes(1000)


def test_a_file_that_is_not_there_and_a_server_that_is_not_there_are_named_with_the_destination(store, tmp_path):
    for reason in ("404", "refused"):
        with pytest.raises(UserError) as error:
            download(f"{store.address}/a.bin", tmp_path / "a.bin")
        message = str(error.value)
        assert f"{store.address}/a.bin could not be downloaded to {tmp_path}/a.bin" in message and reason in message
        assert "\n" not in message and list(tmp_path.iterdir()) == []
        store.close()


def test_a_place_that_cannot_be_written_is_named(store, tmp_path):
    (tmp_path / "cache").write_text("a file where a folder should be")
    with pytest.raises(UserError, match="could not be downloaded to .*/cache/a.bin"):
        download(f"{store.address}/a.bin", tmp_path / "cache" / "a.bin")


def test_downloads_are_kept_where_the_user_keeps_caches(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder() == tmp_path / ".cache" / "plainrlhf"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
    assert cache_folder() == tmp_path / "elsewhere" / "plainrlhf"

# ----------------------------------------------------------------------------- posts and choices


def test_a_post_is_a_prompt_and_its_summary_the_completion(openai):
    openai("datasets/tldr_3_filtered/train.jsonl", POST)
    openai("datasets/tldr_3_filtered/test.jsonl", {**POST, "title": "Slugs"})
    train, test = data.load("tldr")
    assert train.demonstrations == [(PROMPT, " beans planted, beans gone.")]
    assert test.prompts == [PROMPT.replace("Snails ate my beans", "Slugs")]


def test_the_summary_that_was_chosen_comes_first_whichever_it_is(openai):
    openai("dataset/comparisons/batch3.json", choice(0), choice(1))
    openai("dataset/comparisons/edit_b2_eval_test.json", choice(1, texts=(" a", " b")))
    assert data.load("tldr")[0].comparisons == [
        (PROMPT, [" Snails ate beans.", " Nothing grows."]), (PROMPT, [" Nothing grows.", " Snails ate beans."]),
        (PROMPT, [" b", " a"])]


def test_one_space_and_no_more_goes_before_every_summary_and_none_after_it(openai):
    openai("datasets/tldr_3_filtered/train.jsonl", {**POST, "summary": "  gone. "})
    openai("dataset/comparisons/batch3.json", choice(0, texts=("bare", "  spaced \n")))
    train, _ = data.load("tldr")
    assert train.demonstrations[0][1] == " gone." and train.comparisons[0][1] == [" bare", " spaced"]


def test_choices_on_the_papers_last_split_are_the_test_and_those_it_chose_models_by_are_left_alone(openai):
    openai("dataset/comparisons/batch22.json",
           *[choice(0, split, title=split) for split in ("valid1", "valid2", "train")])
    train, test = data.load("tldr")
    assert [prompt for prompt, _ in train.comparisons] == [PROMPT.replace("Snails ate my beans", "train")]
    assert [prompt for prompt, _ in test.comparisons] == [PROMPT.replace("Snails ate my beans", "valid2")]


def test_pairs_that_teach_nothing_are_dropped_and_counted(openai, capsys):
    openai("dataset/comparisons/batch3.json",
           choice(0), choice(0, texts=(" same", "same ")), choice(1, texts=(" ", " words")))
    openai("datasets/tldr_3_filtered/test.jsonl", POST, {**POST, "summary": ""})
    train, _ = data.load("tldr")
    assert len(train.comparisons) == 1
    said = capsys.readouterr().out
    assert "tldr, training: 4 rows read, 2 used; 1 dropped: identical replies; 1 dropped: an empty reply" in said
    assert "tldr, test: 2 rows read, 1 used; 1 dropped: empty" in said


def test_news_is_not_asked_for_and_nothing_is_asked_for_twice(openai, store):
    data.load("tldr")
    first = list(store.asked)
    assert len(first) == 22 and not any("cnndm" in path for path in first)
    store.close()
    data.load("tldr")
    assert store.asked == first


@pytest.mark.parametrize("row, what", [
    (POST, "summaries"), ({**choice(0), "split": "valid3"}, "valid3"), (choice(None), "NoneType"), (choice(2), "index"),
    (choice(0, texts=(" a", None)), "NoneType"), ({**choice(0), "info": {"article": "…"}}, "post"),
    (choice(0, title=None), "NoneType")])
def test_a_row_of_another_form_is_named_by_file_and_line(openai, row, what):
    openai("dataset/comparisons/batch9.json", choice(0), row)
    with pytest.raises(UserError, match=f"tldr/batch9.json, line 2: not a row as OpenAI published them .*{what}"):
        data.load("tldr")

# ----------------------------------------------------------------------------- posts that are too long

FRAME = len(words().encode(BEGINNING + "\n\nTL;DR:"))


def shortened(post):
    """The post that is left in the prompt."""
    prompt = tldr.post_prompt({**POST, "post": post}, words())
    assert prompt.startswith(BEGINNING) and prompt.endswith("\n\nTL;DR:")
    return prompt.removeprefix(BEGINNING).removesuffix("\n\nTL;DR:")


def test_a_prompt_may_have_512_tokens():
    exactly = " owl" * (512 - FRAME)
    assert shortened(exactly) == exactly
    assert shortened(exactly + " owl") == exactly


def test_a_post_that_is_too_long_loses_line_after_line_from_its_end():
    start = "one\n two" + " owl" * 300
    assert shortened(f"{start}\nthree\n\nfour" + " owl" * 300) == f"{start}\nthree\n"
    assert shortened(f"{start}\n" + " owl" * 300 + "\nlast") == start


def test_a_long_line_without_a_newline_loses_words_and_a_long_word_letters():
    room = 512 - FRAME
    assert shortened("\n" + " cow owl" * 300) == "\n" + " cow owl" * ((room - 1) // 2) + " cow" * ((room - 1) % 2)
    assert shortened("x" * 600) == "x" * room


def test_a_title_that_leaves_no_room_leaves_no_post():
    prompt = tldr.post_prompt({**POST, "title": " owl" * 600}, words())
    assert prompt.endswith("POST: \n\nTL;DR:")
