"""Text of a made-up language, drawn from a probabilistic grammar."""

from random import Random

import numpy as np

from benchmarks.data import Dataset, Split

ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789 .,()\n"
CONTEXT = 32
_CHARACTERS = 60_000
_TEST_CHARACTERS = 8_000
_STRIDE = 7  # characters between the starts of two windows


class Grammar:
    """Sentences of made-up words: agreement, clauses in brackets, and sums of two digits.

    Args:
      seed: of the words and of all that is said with them.
    """

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.nouns, self.verbs, self.adjectives = (self._words(n) for n in (60, 40, 30))

    def sentence(self) -> str:
        """One sentence with its full stop."""
        if self.random.random() < 0.1:
            first, second = self.random.randrange(10), self.random.randrange(10)
            return f"{first} and {second} make {first + second}."
        link = f", {self._one_of(['and', 'but', 'while'])} "
        return link.join(self._clause(0) for _ in range(1 + (self.random.random() < 0.3))) + "."

    def text(self, length: int) -> str:
        """Sentences until there are so many characters."""
        parts: list[str] = []
        size = 0
        while size < length:
            parts.append(self.sentence() + self._one_of([" ", " ", " ", "\n"]))
            size += len(parts[-1])
        return "".join(parts)[:length]

    def _clause(self, depth: int) -> str:
        plural = self.random.random() < 0.4
        verb = self._by_rank(self.verbs) + ("" if plural else "s")
        clause = f"{self._noun_phrase(plural)} {verb}"
        if self.random.random() < 0.7:
            clause += f" {self._noun_phrase(self.random.random() < 0.4)}"
        if depth < 2 and self.random.random() < 0.15:
            clause += f" ({self._clause(depth + 1)})"
        return clause

    def _noun_phrase(self, plural: bool) -> str:
        words = [self._one_of(["the", "those", "many"] if plural else ["the", "a", "this"])]
        while self.random.random() < 0.3:
            words.append(self._by_rank(self.adjectives))
        return " ".join([*words, self._by_rank(self.nouns) + ("en" if plural else "")])

    def _words(self, count: int) -> list[str]:
        return ["".join(self._syllable() for _ in range(1 + index % 3)) for index in range(count)]

    def _syllable(self) -> str:
        return self._one_of("bdfgklmnprstvz") + self._one_of("aeiou") + self._one_of("lnrs")

    def _by_rank(self, words: list[str]) -> str:
        """Common ones more often: the probability falls as the inverse of the rank (Zipf)."""
        return words[int((len(words) + 1) ** self.random.random()) - 1]

    def _one_of(self, choices: list[str] | str) -> str:
        return choices[int(self.random.random() * len(choices))]


def text() -> Dataset:
    """Windows of a text, each with the characters that follow its own as labels."""
    written = Grammar(0).text(_CHARACTERS + _TEST_CHARACTERS)
    tokens = np.array([ALPHABET.index(character) for character in written], np.int32)
    return Dataset(_windows(tokens[:_CHARACTERS], _STRIDE), _windows(tokens[_CHARACTERS:], CONTEXT))


def _windows(tokens: np.ndarray, stride: int) -> Split:
    starts = np.arange(0, tokens.size - CONTEXT, stride)
    rows = starts[:, None] + np.arange(CONTEXT)
    return Split(tokens[rows], tokens[rows + 1])
