"""Hugging Face's Hub: files are downloaded once into its cache. HF_HOME and HF_HUB_OFFLINE are
respected."""
from pathlib import Path

from support import UserError, reason


def from_hub(repo, files, kind="model", also=()):
    """The cached folder with `files` (glob patterns) of a repository, downloaded with a progress
    bar if they are not there, and with those in `also` if the repository has them. Raises
    UserError with address and destination."""
    from huggingface_hub import constants, snapshot_download    # slow to import; the toy needs none
    try:
        patterns = [*files, *also]
        folder = Path(snapshot_download(repo, repo_type=kind, allow_patterns=patterns))
        if missing := [pattern for pattern in files if not any(folder.glob(pattern))]:
            raise FileNotFoundError("the cache lacks " + ", ".join(missing))    # it was offline
    except Exception as error:      # OSError, RuntimeError, the HTTP client's: they share no base
        address = f"{constants.ENDPOINT}/{'datasets/' if kind == 'dataset' else ''}{repo}"
        raise UserError(f"{address} could not be downloaded to {constants.HF_HUB_CACHE} "
                        f"({reason(error)}); connect once, and it is read from there ever after"
                        ) from error
    return folder
