"""hh: people's dialogues with Anthropic's early assistants, with two last turns, one preferred.

    hh                                  helpful-base
    hh:harmless-base                    another subset
    hh:helpful-base+harmless-base       several, one after the other

Bai et al., arXiv:2204.05862; MIT licence. In helpful-* people chose the more helpful completion, in
harmless-base the less harmful one. A row is two whole dialogues that differ in the last turn:
jsonl.py splits them there. There are no demonstrations, so SFT learns from the chosen completions.
"""
from data.jsonl import read_jsonl
from support import UserError
from support.hub import from_hub

REPOSITORY = "Anthropic/hh-rlhf"
# The repository's fifth folder, red-team-attempts, rates single conversations: nothing to compare.
SUBSETS = ("helpful-base", "helpful-online", "helpful-rejection-sampled", "harmless-base")


def load(name):
    """(training rows, test rows) of `name`, "hh" or "hh:SUBSET+…". Each subset has a test file."""
    subsets = (name.partition(":")[2] or SUBSETS[0]).split("+")
    for subset in subsets:
        if subset not in SUBSETS:
            raise UserError(f'--data {name}: there is no subset "{subset}" with comparisons; '
                            f'there are: {", ".join(SUBSETS)}')
    files = [f"{subset}/{split}.jsonl.gz" for subset in subsets for split in ("train", "test")]
    folder = from_hub(REPOSITORY, files, kind="dataset")
    print(f"{name}: what people really said; some of these texts are offensive or upsetting")
    return [[row for subset in subsets
             for row in read_jsonl(folder / subset / f"{split}.jsonl.gz")]
            for split in ("train", "test")]
