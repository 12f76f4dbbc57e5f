"""The Python in all other pages runs."""

import pytest

from tests.docs.snippets import ALIKE, PAGES, ROOT, blocks, run


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if page not in ALIKE and blocks(page)],
    ids=lambda page: page.relative_to(ROOT).as_posix(),
)
def test_the_python_of_a_page_runs(page, reader, quickly, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    run(page, reader, tmp_path)


def test_pages_hold_python_and_most_of_it_runs():
    runs = [runs for page in PAGES for _, runs in blocks(page)]
    assert sum(runs) >= 20
    assert len(runs) - sum(runs) <= 9  # each says why
