"""What goes wrong on the explorer's page is told, and can be mended."""

import re

import browser  # noqa: F401  # skips where Selenium is missing
import pytest
from explorer import SAMPLING

from fused_sampler.filters.top_p import TOP_P
from fused_sampler.params import TEMPERATURE


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("temperature", "-1", f"temperature is -1.0, out of range; {TEMPERATURE.remedy}."),
        ("top_k", "1.5", "top_k is '1.5', no whole number; use 0 to switch it off."),
        ("top_p", "-2", f"top_p is -2.0, out of range; {TOP_P.remedy}."),
        ("min_p", "x", "min_p is 'x', no number; use a number from 0 to 1; 0 switches it off."),
        ("seed", "", f"seed: '' is not a whole number from 0 to {2**63 - 1}."),
        ("prompt", "", "the prompt is empty; give some text to continue."),
    ],
)
def test_errors_show_and_go_away(troubled, name, value, words):
    good = troubled.find(name).get_attribute("value")
    rows = troubled.rows()
    troubled.set(**{name: value})
    assert troubled.find("error").get_attribute("role") == "alert"
    assert troubled.text("error") == words
    assert troubled.find(name).get_attribute("aria-invalid") == "true"
    assert "stale" in troubled.find("main").get_attribute("class")
    if name in SAMPLING and not re.match(r"[-\d]", value):
        assert float(troubled.find(f"{name}-slider").get_attribute("value")) == SAMPLING[name]
    troubled.set(**{name: good})
    assert not troubled.find("error").is_displayed()
    assert troubled.find(name).get_attribute("aria-invalid") == "false"
    assert "stale" not in troubled.find("main").get_attribute("class")
    assert troubled.rows() == rows


def test_text_that_is_full_can_be_taken_back(troubled):
    troubled.set(prompt="x" * 46)
    for _ in range(3):
        troubled.click("append")
    assert "46 tokens and 3 more are asked for" in troubled.text("error")
    troubled.click("append")  # does nothing
    troubled.click("undo")
    assert troubled.text("error") == ""
    assert len(troubled.all("#text .token")) == 1


def test_seed_that_is_wrong_is_not_counted_up(troubled):
    troubled.set(seed="x")
    troubled.click("draw")
    assert troubled.find("seed").get_attribute("value") == "x"
    assert troubled.text("error").startswith("seed: 'x' is not")


@pytest.mark.parametrize("seed", ["1_0", "\u0667"])
def test_seed_is_ascii_digits(troubled, seed):
    troubled.run(
        """const seed = document.getElementById("seed");
        seed.value = arguments[0];
        seed.dispatchEvent(new Event("input"))""",
        seed,
    )
    troubled.click("draw")
    assert troubled.find("seed").get_attribute("value") == seed
    assert troubled.text("error").startswith(f"seed: '{seed}' is not")


def test_draw_waits_until_the_other_fields_are_good(troubled):
    troubled.set(top_p="-2")
    troubled.click("draw")
    assert troubled.find("seed").get_attribute("value") == "7"
    assert troubled.text("error").startswith("top_p is -2.0, out of range")
    troubled.set(top_p="0.95")
    troubled.click("draw")
    assert troubled.find("seed").get_attribute("value") == "8"


def test_server_that_has_gone_is_told(troubled):
    troubled.offline(True)
    troubled.click("draw")
    assert troubled.text("error").startswith(
        "the server does not answer; run fused-sampler explore"
    )
    troubled.offline(False)
    troubled.click("draw")
    assert troubled.text("error") == ""
    assert troubled.find("seed").get_attribute("value") == "8"  # the draw that had no answer
