"""MLflow's pages in a real Chromium, at the addresses that `run` and `ui` print."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.orchestration.mlflow_store import prepare_environment
from pipeline.orchestration.tracking import start_mirror
from tests.tracking.fake_run import (
    FakeRun,
    config_of,
    write_dataset,
    write_history,
    write_pictures,
    write_tiles,
)

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(CHROMIUM is None, reason="needs a chromium on the PATH"),
]

PATIENCE_MS = 90_000
STAGES = ("shard", "train", "evaluate", "analyze")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mirrored run with as many metrics as a real one, so that pages are as crowded."""
    prepare_environment()
    directory = tmp_path_factory.mktemp("pages") / "runs"
    run = FakeRun(directory, config_of())
    mirror = start_mirror(run.directory, run.config)
    for stage in STAGES:
        working = run.start(stage)
        mirror.stage_started(stage)
        metrics = {"samples": 12_000.0}
        if stage == "shard":
            write_dataset(working)
            metrics |= {f"classes/class {label}": 0.05 for label in range(20)}
        if stage == "train":
            write_history(working, range(1, 40))
        if stage == "evaluate":
            write_pictures(working, ["reconstruction", "translation"])
            metrics = {f"{given}/rgb_psnr_db": 21.5 for given in ("rgb+depth+seg", "depth", "prior")}
        if stage == "analyze":
            write_tiles(working, latents=6, steps=9, pixels=132)
            metrics = {
                f"interp/score_{n}{part}": 0.4 for n in range(9) for part in ("", "_floor", "_lo", "_hi")
            }
        run.finish(stage, **metrics)
        mirror.stage_finished(stage, "FINISHED")
    assert "wait" not in mirror.close(180.0)[0]
    return directory


@pytest.fixture(scope="module")
def links(root: Path) -> Iterator[dict[str, str]]:
    """What `ui` prints, while it runs; afterwards nothing of it is left."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "stages", "ui", "--root", str(root), "--port", str(port)]
    found = {}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if match := re.search(r"(\S+)\s+(http://\S+/#/\S+)$", line):
                found[match[1]] = match[2]
            if "Ctrl-C" in line:
                break
        yield found
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    assert f"--port {port}" not in _command_lines()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(chromium: Any) -> Iterator[Any]:
    opened = chromium.new_page(viewport={"width": 1400, "height": 900})
    opened.set_default_timeout(PATIENCE_MS)
    yield opened
    opened.close()


def test_the_stages_page_lists_the_run_and_its_stages_in_order(page: Any, links: dict[str, str]) -> None:
    page.goto(links["stages"])
    page.get_by_role("link", name="demo:analyze", exact=True).wait_for()
    names = [text for text in page.get_by_role("link", name=re.compile("^demo")).all_inner_texts()]
    assert names == ["demo", *(f"demo:{stage}" for stage in STAGES)]
    _photograph(page, "mlflow-stages")


def test_the_run_page_links_its_stages_and_shows_headline_metrics(page: Any, links: dict[str, str]) -> None:
    page.goto(links["run"])
    page.get_by_role("link", name="analyze", exact=True).wait_for()
    assert page.get_by_role("cell", name="12,000").first.is_visible()
    _photograph(page, "mlflow-run")
    with page.expect_popup() as popup:
        page.get_by_role("link", name="analyze", exact=True).click()
    popup.value.get_by_text("traversal/z00", exact=True).wait_for(timeout=PATIENCE_MS)


def test_the_traversals_come_first_and_their_slider_changes_the_picture(
    page: Any, links: dict[str, str]
) -> None:
    page.goto(links["traversals"])
    card = page.get_by_text("traversal/z00", exact=True)
    card.wait_for()
    assert card.bounding_box()["y"] < 400, "the images stand at the top, above dozens of charts"
    image = page.locator("img[src*='traversal']").first
    image.wait_for()
    before = image.get_attribute("src")
    slider = page.get_by_role("slider").first
    slider.focus()
    for _ in range(5):
        slider.press("ArrowRight")
    page.wait_for_function("old => document.querySelector(\"img[src*='traversal']\").src != old", arg=before)
    assert "step+5+" in _decoded(page.locator("img[src*='traversal']").first.get_attribute("src"))
    _photograph(page, "mlflow-traversal")


def test_picture_grids_come_first_too(page: Any, links: dict[str, str]) -> None:
    page.goto(links["pictures"])
    card = page.get_by_text("at a glance/reconstruction", exact=True)
    card.wait_for()
    assert card.bounding_box()["y"] < 400


def test_the_contact_sheet_stands_above_the_charts_and_is_seen_whole(
    page: Any, links: dict[str, str]
) -> None:
    page.goto(links["dataset"])
    card = page.get_by_text("at a glance/contact_sheet", exact=True)
    card.wait_for()
    assert card.bounding_box()["y"] < 400
    image = page.locator("img[src*='contact_sheet']").first
    image.wait_for()
    assert image.bounding_box()["height"] > 100, "no list of parameters leaves no room"


def test_the_training_run_names_the_dataset_and_shows_what_it_holds(page: Any, links: dict[str, str]) -> None:
    page.goto(links["training"].replace("/model-metrics", ""))
    page.get_by_text("rooms 64 px").first.click()
    page.get_by_text("float32 (64, 64) metres").wait_for()
    assert page.get_by_text("datasets/shardshardshards").first.is_visible()


def test_the_training_page_draws_the_loss_over_samples(page: Any, links: dict[str, str]) -> None:
    page.goto(links["training"])
    card = page.get_by_text("loss", exact=True).first
    card.wait_for()
    page.locator(".js-plotly-plot").first.wait_for()
    assert card.bounding_box()["y"] < 400
    _photograph(page, "mlflow-training")


def _decoded(address: str | None) -> str:
    from urllib.parse import unquote

    assert address is not None
    return unquote(address)


def _command_lines() -> str:
    texts = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            texts.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue
    return "\n".join(texts)


def _photograph(page: Any, name: str) -> None:
    """Keep a picture where MLFLOW_SCREENSHOTS says, for the documentation."""
    if folder := os.environ.get("MLFLOW_SCREENSHOTS"):
        page.locator("[data-component-id='mlflow.assistant.chat_panel.close']").first.click()
        page.wait_for_timeout(5000)
        page.screenshot(path=Path(folder) / f"{name}.png")
