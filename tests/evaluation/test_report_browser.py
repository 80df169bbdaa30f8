"""The report in a real browser: it is whole, fits the window, and asks for nothing from outside."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from made_tasks import loop, played
from made_up import FAST, simulate, write_run

from distill.evaluation.compare import compare
from distill.evaluation.report import write_outcomes

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
PROBE = """<script>addEventListener("load", () => {
  const seen = (kind) => [...document.querySelectorAll(kind)]
    .filter((it) => it.getBoundingClientRect().height > 20).length
  const page = document.documentElement
  Object.assign(page.dataset, {width: page.scrollWidth, tables: seen("table"), plots: seen("svg")})
})</script>"""
"""Added to a copy of the page, which has no script of its own."""

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no chromium: apt-get install chromium")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    runs = [
        write_run(folder / name, name, simulate(share, seed=1))
        for name, share in (("encoder", 0.9), ("tfidf", 0.7))
    ]
    arms = {"encoder-s0": played(0.8, 1), "encoder-s0, synthetic": played(0.7, 3)}
    write_outcomes(loop(arms), folder / "loop")
    attacked = {
        "encoder-s0, unguarded": played(0.7, 2, follows=0.4),
        "encoder-s0": played(0.7, 2, follows=0.0),
    }
    write_outcomes(loop(attacked, attacks=True), folder / "attacked")
    compare(runs, folder / "out", FAST, closed_loop=[folder / "loop", folder / "attacked"])
    return folder / "out/report.html"


def browse(page: Path, *options: str) -> subprocess.CompletedProcess[str]:
    assert BROWSER is not None
    quiet = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage")
    logs = ("--enable-logging=stderr", f"--user-data-dir={page.parent / 'profile'}")
    command = [BROWSER, *quiet, *logs, *options, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


@pytest.mark.parametrize("width", [500, 1200])
def test_nothing_is_missing_or_cut_off(page: Path, width: int):
    html = page.read_text()
    assert "<h2>Outcomes</h2>" in html
    probed = page.with_name(f"probed-{width}.html")
    probed.write_text(html.replace("</body>", f"{PROBE}</body>"))
    done = browse(probed, f"--window-size={width},900", "--dump-dom")
    found = {key: int(value) for key, value in re.findall(r'data-(\w+)="(\d+)"', done.stdout)}
    assert found["width"] <= width
    assert found["tables"] == html.count("<table")
    assert found["plots"] == html.count("<figure>")
    assert "CONSOLE" not in done.stderr, "neither errors nor warnings"


def test_a_screenshot_shows_more_than_paper(page: Path, tmp_path: Path):
    picture = tmp_path / "page.png"
    browse(page, "--window-size=1200,3000", f"--screenshot={picture}")
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stat().st_size > 100_000, "an empty page takes a tenth of it"


def test_it_needs_no_network(page: Path):
    """All that it shows is in the file."""
    asked = re.findall(r'(?:src|href)="([^"#][^"]*)"', page.read_text())
    assert not [url for url in asked if not url.startswith("data:")]
