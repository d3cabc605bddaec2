"""The page of latents in a real Chromium: it moves, it is quiet, and it asks nobody for anything."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "analysis"))
from planted_scenes import CLASSES, INFO, LATENTS, decode, draw_codes, usage

from pipeline.analysis.measure import measure, quantities, spread
from pipeline.analysis.report import Card, render_report
from pipeline.analysis.traversal import traverse

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs a chromium on the PATH"),
]

SCORES = {
    "dci_d": 0.41, "dci_d_floor": 0.02, "dci_d_lo": 0.38, "dci_d_hi": 0.44,
    "mig": 0.12, "mig_floor": 0.01, "mig_lo": 0.10, "mig_hi": 0.14, "active_units": 4.0,
}  # fmt: skip


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    file = tmp_path_factory.mktemp("page") / "index.html"
    file.write_text(_page("demo </script><b>&amp;"), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def chromium():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(chromium, path):
    opened = chromium.new_page(viewport={"width": 1200, "height": 900})
    complaints: list[str] = []
    opened.on("console", lambda message: complaints.append(message.text))
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("request", lambda request: complaints.append(request.url) if _is_outside(request.url) else None)
    opened.goto(path.as_uri())
    yield opened
    opened.close()
    assert complaints == []


def test_slider_moves_every_modality(page):
    card = page.locator("[data-latent=z03]")
    before = _pictures(card)
    card.locator("input[type=range]").focus()
    page.keyboard.press("End")
    after = _pictures(card)
    assert before["rgb"] != after["rgb"]  # this latent colours the floor, and nothing else
    assert before["depth"] == after["depth"]
    assert before["seg"] == after["seg"]
    assert card.locator("output").text_content() == "+2.00"
    moving = page.locator("[data-latent=z04]")
    before = _pictures(moving)
    moving.locator("input[type=range]").focus()
    page.keyboard.press("Home")
    after = _pictures(moving)
    assert all(before[name] != after[name] for name in ("rgb", "depth", "seg"))


def test_scene_chooser_and_common_slider_move_every_card(page):
    cards = page.locator(".card")
    assert cards.count() == 5
    before = [_pictures(cards.nth(index)) for index in range(5)]
    page.locator("#anchors input").nth(0).focus()
    page.keyboard.press("ArrowRight")
    other = [_pictures(cards.nth(index)) for index in range(5)]
    assert all(old != new for old, new in zip(before, other, strict=True))
    page.locator("#all").focus()
    page.keyboard.press("Home")
    assert page.locator(".card output").all_text_contents() == ["\N{MINUS SIGN}2.00"] * 5


def test_numbers_and_names_are_said(page):
    assert page.locator("h1").text_content() == "Latents of demo </script><b>&amp;"
    assert "ball moves right" in page.locator("[data-latent=z04] h3").text_content()
    assert "rgb private 00" in page.locator("[data-latent=rgb00]").text_content()
    assert "0.380 \N{EN DASH} 0.440" in page.locator("#scores").text_content()
    assert page.locator("#heat tbody tr").count() == 5


@pytest.mark.parametrize("width", [320, 390, 1200])
def test_page_is_never_wider_than_the_screen(page, width):
    page.set_viewport_size({"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_dark_and_light_differ(page):
    colours = []
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        colours.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert colours == ["rgb(246, 247, 248)", "rgb(19, 21, 23)"]


def test_page_without_factors_claims_nothing_about_them(chromium, tmp_path):
    file = tmp_path / "index.html"
    file.write_text(_page("plain", factors=()), encoding="utf-8")
    opened = chromium.new_page()
    opened.goto(file.as_uri())
    assert opened.locator("table").count() == 1
    assert "Disentanglement" not in opened.locator("#scores").text_content()
    opened.close()


def _page(name, factors=("size", "colour")):
    codes = draw_codes(16)
    views = decode(draw_codes(200, seed=1))
    named = quantities(views, CLASSES)
    deviation = spread(measure(views, CLASSES), named)
    cards = [
        Card(
            traverse(
                decode, codes, latent, usage(), steps=5, shown=2,
                class_names=CLASSES, deviation=deviation, named=named,
            ),
            kl_nats=float(usage().kl_nats[latent.column]),
            tells=np.array([0.1, 0.6])[: len(factors)],
        )
        for latent in usage().busiest(5)
    ]  # fmt: skip
    scores = SCORES if factors else {"active_units": 4.0}
    return render_report(
        cards, INFO, run_name=name, shared=len(LATENTS) - 1, scores=scores, factors=factors, notes=("Note.",)
    )


def _pictures(card):
    return {name: card.locator(f"[data-modality={name}]").screenshot() for name in ("rgb", "depth", "seg")}


def _is_outside(url):
    return not url.startswith(("file:", "data:"))
