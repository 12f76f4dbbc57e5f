"""The Python in README, the first pages and those of the methods runs."""

import pytest

from tests.docs.snippets import ALIKE, ROOT, run


@pytest.mark.parametrize("page", ALIKE, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_the_python_of_a_page_runs(page, reader, quickly, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    run(page, reader, tmp_path)
