"""The report in a real browser: it draws, finds, names, and takes no id for HTML."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, sync_playwright
from spotesm.hdf5.reader import Embeddings
from spotesm.report import landscape
from spotesm.report.landscape import find_neighbours, project
from spotesm.report.page import ReportJob, report_dataset
from spotesm.runs.history import read_history

CHROMIUM = shutil.which("chromium")
HOSTILE = "<script>document.title='taken'</script>"
IDS = [HOSTILE, "</script><img src=x onerror=alert(1)>", "é|1", *(f"protein{i}" for i in range(57))]
TIMEOUT_MS = 30_000
ATTRIBUTES = {
    **{"format": "spotesm", "format_version": 1, "model": "esm2_t6_8M_UR50D"},
    **{"weights": "untrained", "weights_sha256": "ab" * 32, "outputs": ["mean"], "layers": [6]},
    **{"store_dtype": "float32", "precision": "float32", "created": "2026-01-01T00:00:00+00:00"},
    **{"long_sequences": json.dumps({"policy": "window", "window": 1022}), "config": "{}"},
    **{"spotesm_version": "0", "torch_version": "0", "python_version": "0"},
}


@pytest.fixture
def job(tmp_path: Path) -> ReportJob:
    """A dataset of sixty proteins, one shard that was preempted, one that failed and was killed."""
    rng = np.random.default_rng(0)
    with h5py.File(tmp_path / "embeddings.h5", "w") as file:
        file.create_dataset("sequence_ids", data=IDS, dtype=h5py.string_dtype("utf-8"))
        file["lengths"] = rng.integers(30, 3000, len(IDS)).astype(np.int32)
        file["windows"] = (file["lengths"][:] > 1022) + np.int32(1)
        file["mean/6"] = rng.normal(size=(len(IDS), 8)).astype(np.float32)
        file["embeddings"] = h5py.SoftLink("/mean/6")
        file.attrs.update(ATTRIBUTES)
    rejected = f"7\t{HOSTILE}\tsplit\tinvalid_character\t'*' at residue 3\n"
    header = "ordinal\tid\tstage\treason\tdetail\n"
    (tmp_path / "rejected.tsv").write_text(header + rejected)
    counts = {"n_embedded": 60, "n_records": 61, "n_sequences": 60, "n_rejected": 1}
    summary = {**counts, "n_residues": 90000, "embedding_dim": 8, "seconds": 75.0}
    (tmp_path / "summary.json").write_text(json.dumps({**summary, "untrained": True}))
    write_history(tmp_path / "checkpoints")
    return ReportJob(
        dataset="a <b>name</b>",
        embeddings=tmp_path / "embeddings.h5",
        rejected=tmp_path / "rejected.tsv",
        summary=tmp_path / "summary.json",
        checkpoints=tmp_path / "checkpoints",
        labels=None,
        output=tmp_path / "report.html",
    )


def write_history(folder: Path) -> None:
    def event(name: str, second: int, **facts: object) -> str:
        time = f"2026-01-01T10:00:{second:02d}.000+00:00"
        return json.dumps({"event": name, "time": time, "host": "node<1>", "pid": 7, **facts})

    start = {"device": "cuda:0", "restart": "", "attempt": 1}
    journals = {
        "1-of-2": [
            event("start", 0, **start),
            event("stopped", 10, attempt=1, computed=20),
            event("start", 20, **{**start, "attempt": 2}),
            event("completed", 40, attempt=2, computed=12),
        ],
        "2-of-2": [
            event("start", 5, **start),
            event("failed", 15, attempt=1, computed=3, type="cuda_runtime"),
            event("start", 25, **{**start, "attempt": 2}),
            event("start", 45, **{**start, "attempt": 3}),
            event("completed", 55, attempt=3, computed=25),
        ],
    }
    for shard, lines in journals.items():
        (folder / shard).mkdir(parents=True)
        (folder / shard / "journal.jsonl").write_text("\n".join(lines) + "\n")
    began = 1767261600  # 2026-01-01T10:00:00Z
    stretches = [[began + 25, began + 30, 5000], [began + 46, began + 54, 4000]]
    text = "".join(f"{json.dumps(stretch)}\n" for stretch in stretches)
    (folder / "2-of-2" / "speed.jsonl").write_text(text + "[17672")


def test_history_tells_how_each_attempt_ended(job: ReportJob) -> None:
    attempts = read_history(job.checkpoints)
    told = [(a.shard[0], a.number, a.outcome, a.seconds, a.computed) for a in attempts]
    assert told == [
        ("1", 1, "stopped", 10, 20),
        ("1", 2, "completed", 20, 12),
        ("2", 1, "failed: cuda_runtime", 10, 3),
        ("2", 2, "killed", 5, 0),  # until it was last heard of
        ("2", 3, "completed", 10, 25),
    ]
    assert [len(a.speeds) for a in attempts] == [0, 0, 0, 1, 1]


def test_the_map_is_a_principal_component_analysis() -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(size=(50, 3)) @ np.diag([5.0, 2.0, 0.1])
    points = project(values)
    covariance = np.cov(values.T)
    expected = np.sort(np.linalg.eigvalsh(covariance))[::-1][:2]
    np.testing.assert_allclose(points.var(0, ddof=1), expected)


def test_neighbours_are_the_nearest_by_cosine() -> None:
    values = np.random.default_rng(2).normal(size=(30, 5))
    places, cosines = find_neighbours(values)
    for i in range(30):
        brute = sorted(
            (
                -(values[i] @ values[j]) / np.linalg.norm(values[i]) / np.linalg.norm(values[j]),
                j,
            )
            for j in range(30)
            if j != i
        )[: places.shape[1]]
        assert places[i].tolist() == [j for _, j in brute]
        np.testing.assert_allclose(cosines[i], [-c for c, _ in brute])


def test_a_million_records_are_sampled(job: ReportJob, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(landscape, "MOST_POINTS", 20)
    report_dataset(job)
    page = job.output.read_text()
    assert "20 of 60 proteins, evenly chosen." in page
    assert len(page) < 10e6
    with Embeddings(job.embeddings) as embeddings:
        survey = landscape.survey(embeddings, None)
    assert survey.rows[0] == 0
    assert survey.rows[-1] == 59


def test_labelled_records_are_on_the_map_however_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(landscape, "MOST_POINTS", 20)
    rows = landscape.choose_rows(1000, [0, 1, 77, 999])
    assert len(rows) <= 20
    assert {0, 1, 77, 999} <= set(rows.tolist())
    many = landscape.choose_rows(1000, list(range(500)))
    assert len(many) <= 20 < 2 * (many < 500).sum()
    assert (np.diff(many) > 0).all()
    assert landscape.choose_rows(7, [3]).tolist() == list(range(7))


# -- in a browser ----------------------------------------------------------------------------------

in_browser = pytest.mark.skipif(not CHROMIUM, reason="Chromium is missing")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        software = ["--no-sandbox", "--use-gl=swiftshader", "--enable-unsafe-swiftshader"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=software)
        yield browser
        browser.close()


@pytest.fixture(params=[(1200, "light"), (390, "dark")], ids=["desktop", "phone"])
def page(request: pytest.FixtureRequest, browser: Browser, job: ReportJob) -> Iterator[Page]:
    """The report, opened offline; nothing may be wrong on its console."""
    report_dataset(job)
    width, scheme = request.param
    context = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True
    )
    page = context.new_page()
    page.set_default_timeout(TIMEOUT_MS)
    problems: list[str] = []

    def listen(message: ConsoleMessage) -> None:
        if message.type == "error":
            problems.append(message.text)

    page.on("console", listen)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("dialog", lambda dialog: problems.append(dialog.message))
    page.goto(job.output.as_uri())
    page.wait_for_function("document.getElementById('map')?._fullData?.length > 0")
    yield page
    context.close()
    assert problems == []


@in_browser
def test_all_figures_are_drawn(page: Page) -> None:
    for name in ("map", "lengths", "timeline", "throughput"):
        page.wait_for_selector(f"#{name} .main-svg")
    assert page.evaluate("document.getElementById('map')._fullData[0].x.length") == len(IDS)
    ends = page.evaluate("document.getElementById('timeline').data.map(trace => trace.name)")
    assert ends == ["completed", "preempted", "killed", "failed"]
    # Nothing is wider than the page.
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


@in_browser
def test_hovering_names_a_protein(page: Page) -> None:
    page.locator("#map").scroll_into_view_if_needed()
    where = page.evaluate(
        """() => {
            const map = document.getElementById("map"), {x, y} = map._fullData[0];
            const i = x.indexOf(Math.max(...x)), {xaxis, yaxis} = map._fullLayout;
            const box = map.getBoundingClientRect();
            return {i, x: box.x + xaxis._offset + xaxis.d2p(x[i]),
                    y: box.y + yaxis._offset + yaxis.d2p(y[i])};
        }"""
    )
    page.mouse.move(where["x"] - 3, where["y"])
    page.mouse.move(where["x"], where["y"])
    page.wait_for_selector("#map .hovertext")
    assert IDS[where["i"]] in page.locator("#map .hovertext").first.text_content()


@in_browser
def test_a_search_finds_a_protein_and_its_neighbours(page: Page, job: ReportJob) -> None:
    page.fill("#protein", "protein41")
    page.press("#protein", "Enter")
    with Embeddings(job.embeddings) as embeddings:
        places, cosines = find_neighbours(embeddings[:])
    row = IDS.index("protein41")
    shown = page.locator("#neighbours td").all_text_contents()
    assert shown[::3] == [IDS[place] for place in places[row]]
    assert shown[2::3] == [f"{cosine:.3f}" for cosine in cosines[row]]
    page.fill("#protein", "nobody at all")
    page.press("#protein", "Enter")
    assert "No protein" in page.inner_text("#neighbours")


@in_browser
def test_a_hostile_id_stays_text(page: Page) -> None:
    page.fill("#protein", HOSTILE)
    page.press("#protein", "Enter")
    page.wait_for_function("document.getElementById('map').layout.annotations?.length === 1")
    assert page.locator("#neighbours th").first.inner_text() == f"nearest to {HOSTILE}"
    annotation = page.evaluate(
        "[...document.querySelectorAll('#map .annotation-text')].map(e => e.textContent).join('')"
    )
    assert HOSTILE in annotation
    assert page.title().startswith("a <b>name</b>")
    assert page.locator("main img, main script").count() == 0
    assert page.locator("td", has_text=HOSTILE).count() >= 1
