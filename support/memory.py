"""Whether a model can fit this machine."""
import os

from support import UserError


def check_weights(vocab, positions, layers, channels, source):
    """Refuse a shape that cannot fit this machine, before memory is asked for; `source` is where it stands."""
    weights = channels * (vocab + positions + layers * (12 * channels + 13) + 2)
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 64 * 2 ** 30
    if 4 * weights > machine:
        raise UserError(f"{source}: a model of {layers:,} layers, {channels:,} channels, {vocab:,} tokens and "
                        f"{positions:,} positions has {weights:.1e} weights, too many for this machine's "
                        f"{machine / 2 ** 30:.0f} GiB")
