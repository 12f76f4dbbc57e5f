"""Made-up texts: of the words of given ones, in the ways that are said, the same for a seed."""

import pytest

from jaxprune.tasks.example import Example
from jaxprune.tasks.variants import variants

TEXTS = ["the film was good but too long", "a dull plot", "cold", "这部电影很好看", "  spaces   at both ends "]


@pytest.fixture
def examples():
    return [Example(text, None, 1) for text in TEXTS]


def test_so_many_for_each_and_never_blank_nor_labelled(examples):
    made = variants(examples, 40, seed=3)
    assert len(made) == 40 * len(TEXTS)
    assert all(each.text.strip() and each.pair is None and each.label is None for each in made)
    assert made == variants(examples, 40, seed=3) != variants(examples, 40, seed=4)
    assert len({each.text for each in made}) > 100


def test_words_come_from_the_texts_and_most_of_a_text_is_its_own(examples):
    known = {word for text in TEXTS for word in (text.split() if " " in text else text)}
    first = [each.text for each in variants(examples, 300, seed=0)[:: len(TEXTS)]]
    assert all(word in known or word in "".join(TEXTS) for text in first for word in text.split())
    own = set(TEXTS[0].split())
    assert sum(len(own & set(text.split())) for text in first) > 0.6 * sum(len(set(text.split())) for text in first)
    whole = TEXTS[0].split()
    pieces = [t for t in first if any(t.split() == whole[i : i + len(t.split())] for i in range(len(whole)))]
    assert 60 < len(pieces) < 200  # a third, and what other ways happen to give


def test_texts_without_spaces_change_by_their_characters(examples):
    made = {each.text for each in variants([examples[3]], 60, seed=0)}
    assert len(made) > 20 and all(set(text) <= set(TEXTS[3]) and " " not in text for text in made)


def test_both_texts_of_a_pair_change_each_with_words_of_its_side():
    pairs = [Example("one two three four", "five six seven eight", 0), Example("two two one four", "eight nine", 1)]
    made = variants(pairs, 50, seed=0)
    assert {word for each in made for word in each.text.split()} == {"one", "two", "three", "four"}
    assert {word for each in made for word in (each.pair or "").split()} == {"five", "six", "seven", "eight", "nine"}
