"""Files from the web, downloaded once and kept outside this repository."""
import os
from http.client import HTTPException
from pathlib import Path
from urllib.request import urlopen

from support import UserError
from support.files import write_whole


def cache_folder():
    """Where downloads are kept: $XDG_CACHE_HOME/plainrlhf, by default ~/.cache/plainrlhf."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "plainrlhf"


def download(address, path):
    """Download `address` to `path` unless it is there; return `path`. Raises UserError with address and destination."""
    try:
        if not path.exists():
            write_whole(path, lambda temporary: receive(address, temporary, path.name))
    except (OSError, HTTPException) as error:                   # urllib's own errors are OSErrors
        raise UserError(f"{address} could not be downloaded to {path} ({error}); connect once, and it is read from "
                        "there ever after") from error
    return path


def receive(address, path, name):
    """Write what `address` sends to `path`, with a progress bar called `name`. Raises OSError if the end is missing."""
    from tqdm import tqdm                                       # slow to import, and mostly the files are there
    with urlopen(address, timeout=60) as response, open(path, "wb") as file:
        if not response.headers["Content-Length"]:
            raise OSError("the server does not say how long the file is, so nobody could tell whether it is complete")
        size = int(response.headers["Content-Length"])
        with tqdm(total=size, desc=name, unit="B", unit_scale=True, dynamic_ncols=True) as bar:
            while piece := response.read(1 << 20):
                file.write(piece)
                bar.update(len(piece))
    if path.stat().st_size != size:                             # `read` raises nothing when a connection breaks off
        raise OSError(f"the connection broke off after {path.stat().st_size:,} of {size:,} bytes")
