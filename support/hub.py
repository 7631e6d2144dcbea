"""Hugging Face's Hub: files are downloaded once into its cache. HF_HOME and HF_HUB_OFFLINE are
respected."""
from pathlib import Path

from support import UserError, reason

HUB = ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")      # OpenAI's, 124 million to 1.6 billion


def find_folder(name):
    """The folder called `name`, or that of one of OpenAI's GPT-2s, downloaded if need be."""
    if name in HUB and not Path(name).is_dir():
        files = ["config.json", "model*.safetensors*"]
        return from_hub(f"openai-community/{name}", files, also=["vocab.json"])
    return Path(name)


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
