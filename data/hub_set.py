"""hub:OWNER/NAME[:SPLIT]: a data set of Hugging Face's Hub, from its Parquet or JSON-lines files.

    hub:trl-lib/tldr                                        trains on the split "train"
    hub:HuggingFaceH4/ultrafeedback_binarized:train_prefs   another split
    hub:OWNER/NAME:FOLDER/train                             on that of one folder of several

The rows are those of jsonl.py. The name of the test split has "test" instead of "train"; a data
set without one is split by its prompts. No program of the repository is run.
"""
import re
from itertools import chain
from pathlib import Path

from data.jsonl import objects, read_rows
from data.messages import CONTEXT, KNOWN, LABELS, NAMES
from support import UserError, reason
from support.hub import from_hub

ENDINGS = ("parquet", "jsonl", "jsonl.gz", "json")
KEYS = {"input", *KNOWN, *NAMES, *CONTEXT, *LABELS}      # columns that tell what a row means


def load(name):
    """(training rows, test rows or None) of `name`: of the Hub, or a Parquet file of one's own.
    Raises UserError."""
    if not name.startswith("hub:"):
        return read_rows(name, parquet(Path(name))), None
    repository, _, part = name.removeprefix("hub:").partition(":")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise UserError(f"--data {name}: must be hub:OWNER/NAME or hub:OWNER/NAME:SPLIT")
    part = part or "train"
    folder, slash, last = part.rpartition("/")
    test = folder + slash + last.replace("train", "test")
    files = [f"{start}{one}{end}.{ending}" for one in (part, test) for start in ("", "*/")
             for end in ("", "-*", "/*") for ending in ENDINGS]
    cached = from_hub(repository, [], kind="dataset", also=files)
    train = read_split(name, cached, part)
    return train, read_split(name, cached, test, needed=False) if test != part else None


def read_split(name, cached, part, needed=True):
    """The rows of all files of a split; None if it has none and none are needed."""
    endings = "|".join(map(re.escape, ENDINGS))
    shard = r"(?:-\d+-of-\d+(?:-\w+)?|/[^/]*)?"
    fits = re.compile(rf"(?:(.*)/)?{re.escape(part)}{shard}\.(?:{endings})")
    found = {path: match[1] or "" for path in sorted(cached.rglob("*"))
             if (match := fits.fullmatch(path.relative_to(cached).as_posix()))}
    if not found and not needed:
        return None
    if not found:
        raise UserError(f'--data {name}: no Parquet or JSON-lines file of a split "{part}" was '
                        "found; the page of the data set lists its files")
    if len(set(found.values())) > 1:
        choices = ", ".join(f"{folder}/{part}" for folder in sorted(set(found.values())))
        raise UserError(f"--data {name}: several folders have that split; name one of {choices}")
    readers = [parquet(path) if path.suffix == ".parquet" else objects(path) for path in found]
    return read_rows(f"{name}, {part}", chain(*readers))


def parquet(path):
    """(where, object) of every row; keys without a value are left out. Of columns that are not in
    KEYS only the names are read: values of any kind may be in them. Raises UserError."""
    try:
        from pyarrow import ArrowException, parquet as reader
    except ImportError as error:
        raise UserError(f"{path} is a Parquet file: `pip install pyarrow` reads it") from error
    try:
        file, number = reader.ParquetFile(path), 0
        names = file.schema_arrow.names
        read = [name for name in names if name.lower() in KEYS]
        others = dict.fromkeys(set(names) - set(read), "…")
        for batch in file.iter_batches(columns=read):
            rows = batch.to_pylist() if batch.num_columns else [{}] * batch.num_rows
            for number, row in enumerate(rows, start=number + 1):
                yield f"{path}, row {number}", others | row
    except (ArrowException, OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as Parquet ({reason(error)})") from error
