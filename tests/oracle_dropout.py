"""Philox4x32-10 on Python integers, one element of the mask at a time."""

from __future__ import annotations

from fractions import Fraction

WORD = 2**32


def rounds(counter, key, left=10):
    """Ten rounds, each a function of four counter words and two key words (SC 2011, section 3.4)."""
    if left == 0:
        return counter
    (right0, left0, right1, left1), (k0, k1) = counter, key
    high0, low0 = divmod(0xD2511F53 * right0, WORD)
    high1, low1 = divmod(0xCD9E8D57 * right1, WORD)
    mixed = (high1 ^ left0 ^ k0, low1, high0 ^ left1 ^ k1, low0)
    return rounds(mixed, ((k0 + 0x9E3779B9) % WORD, (k1 + 0xBB67AE85) % WORD), left - 1)


def word(seed, step, element):
    """The random word of one element."""
    block, place = divmod(element, 4)
    counter = (block % WORD, block // WORD % WORD, step % WORD, step // WORD)
    return rounds(counter, (seed % WORD, seed // WORD))[place]


def keep(seed, step, element, ratio):
    """Whether the element stays; the threshold is the integer nearest to ratio * 2**32."""
    return word(seed, step, element) >= round(Fraction(ratio) * WORD)
