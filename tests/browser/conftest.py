"""The system's Chromium without a window, MLflow's real server on a small store, and a record of what pages ask for."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import pytest

from experiments.tracking import sync as tracking
from tests.helpers import runs as small_runs
from tests.helpers.machine import missing
from tests.helpers.server import free_port, serving
from tokenbridge.store.artifacts import Store, read_json, write_json

SWEEP = "levels"
LOCAL = ("file:", "data:", "blob:", "about:", "http://127.0.0.1:", "http://127.0.0.1/")
OPTIONS = ["--no-sandbox", "--disable-dev-shm-usage"]  # CI runs as root, in a container with little shared memory
PATIENCE = 120_000  # ms: machines are shared; what never comes ends the test, nothing is measured


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.browser)


@dataclass
class Visit:
    """A page, and what it asked for and complained of."""

    page: object
    requests: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def outside(self) -> list[str]:
        return [url for url in self.requests if not url.startswith(LOCAL)]


def _told(line) -> str:
    return f"{line.text} {line.location.get('url', '')}"


@pytest.fixture(scope="session")
def chromium() -> Iterator[object]:
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        missing("no Chromium here; on Debian: apt-get install chromium")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        missing("no Playwright here; make install")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=OPTIONS)
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium) -> Iterator[Callable[..., Visit]]:
    """Open an address in a browser that knows nothing of earlier visits: visit(url, dark=False)."""
    contexts = []

    def open_page(url: str, dark: bool = False) -> Visit:
        context = chromium.new_context(
            viewport={"width": 1600, "height": 1000}, color_scheme="dark" if dark else "light"
        )
        contexts.append(context)
        context.set_default_timeout(PATIENCE)
        page = context.new_page()
        seen = Visit(page)
        page.on("request", lambda request: seen.requests.append(request.url))
        page.on("console", lambda line: seen.errors.append(_told(line)) if line.type == "error" else None)
        page.on("pageerror", lambda error: seen.errors.append(str(error)))
        page.goto(url, wait_until="domcontentloaded")
        return seen

    yield open_page
    for context in contexts:
        context.close()


@dataclass(frozen=True)
class Served:
    """A real MLflow server on a store, and the addresses that `tokenbridge ui` prints."""

    store: Store
    urls: dict[str, str]

    @property
    def root(self) -> str:
        return self.urls[""].partition("#")[0]

    def run(self, kind: str, name: str, more: str = "") -> str:
        """Address of one run's page."""
        info = small_runs.runs_of(self.store, kind)[name].info
        return f"{self.root}#/experiments/{info.experiment_id}/runs/{info.run_id}{more}"

    def compare(self, *names: str) -> str:
        """Address of the page that compares cells."""
        infos = [small_runs.runs_of(self.store, "cell")[name].info for name in names]
        runs, experiments = json.dumps([info.run_id for info in infos]), json.dumps([infos[0].experiment_id])
        return f"{self.root}#/compare-runs?runs={quote(runs)}&experiments={quote(experiments)}"


@pytest.fixture(scope="session")
def served(tmp_path_factory) -> Iterator[Served]:
    """A sweep over levels and guidance of four cells with pictures, and three cells of no sweep."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setenv("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        store = Store(tmp_path_factory.mktemp("browser") / "runs")
        for levels in small_runs.LEVELS:
            small_runs.add_reconstruction(store, levels)
        for levels in (4, 8):
            for guidance in (1.5, 3.0):
                small_runs.add_generation(store, levels, 3, guidance)
        for path in (store.root / "cells").glob("*.json"):
            cell = read_json(path)
            if "sample" in cell["stages"]:
                name = f"b{cell['config']['quantizer']['levels']:02d}-cfg{cell['config']['sample']['guidance']:.1f}"
                cell |= {"sweeps": [SWEEP], "names": [name]}
            write_json(path, cell)
        tracking.sync(store)
        argv, urls = tracking.ui_command(store, free_port())
        with serving(argv, urls[""].partition("/#")[0]):
            yield Served(store, urls)
