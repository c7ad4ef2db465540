"""One browser, one tiny model and one server for all tests of the explorer's page."""

import pytest


@pytest.fixture(scope="session")
def driver():
    from browser import chromium  # needs Selenium, as not every test does

    with chromium() as running:
        yield running


@pytest.fixture(scope="session")
def explorer(folder):
    from fused_sampler.explorer.text import Explorer  # needs transformers
    from fused_sampler.models.load import load_model

    return Explorer(load_model(folder))


@pytest.fixture(scope="session")
def server(explorer, driver):
    """Of the page that most tests open."""
    from explorer import REQUEST, serving

    with serving(explorer, REQUEST) as running:
        yield running


@pytest.fixture
def page(driver, server):
    """The page as it opens; it must have nothing to complain of when the test is done."""
    from browser import Page

    page = Page(driver, server.url)
    yield page
    assert page.problems() == []


@pytest.fixture
def troubled(driver, server):
    """A page of a test that brings about errors: a browser logs each refused request itself."""
    from browser import Page

    page = Page(driver, server.url)
    yield page
    assert [line for line in page.problems() if "Failed to load resource" not in line] == []


@pytest.fixture(scope="session")
def logits(explorer):
    from explorer import PROMPT, next_logits

    return next_logits(explorer, PROMPT)
