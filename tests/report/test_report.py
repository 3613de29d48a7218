"""The report in a real browser: it draws, finds, names, and takes no id for HTML."""

import ast
import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from playwright.sync_api import Browser, Page, sync_playwright
from spotesm.merged.reader import Embeddings
from spotesm.report import landscape
from spotesm.report import page as page_module
from spotesm.report.colours import colour_by_numbers
from spotesm.report.landscape import find_neighbours, project
from spotesm.report.page import ReportJob, collect_numbers, read_lengths, report_dataset
from spotesm.report.provenance import trace
from spotesm.runs.history import read_history
from spotesm.weights.architectures import ARCHITECTURES

CHROMIUM = shutil.which("chromium")
HOSTILE = "<script>document.title='taken'</script>"
IDS = [
    HOSTILE,
    "</script><img src=x onerror=alert(1)>",
    "é|1",
    "sp|P12345|ONE_TEST",
    *(f"protein{i}" for i in range(56)),
]
TIMEOUT_MS = 30_000
POLICY = {"policy": "window", "window": 1022, "overlap": 256, "out_of_memory": "reject"}
ATTRIBUTES = {
    **{"format": "spotesm", "format_version": 1, "model": "esm2_t6_8M_UR50D"},
    **{"weights": "untrained", "weights_sha256": "ab" * 32, "outputs": ["mean"], "layers": [6]},
    **{"store_dtype": "float32", "precision": "float32", "created": "2026-01-01T00:00:00+00:00"},
    **{"long_sequences": json.dumps(POLICY), "config": json.dumps({"datasets": {"<i>": "x"}})},
    **{"spotesm_version": "1", "torch_version": "2", "python_version": "3", "engine": "packed"},
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
    counts = {"n_embedded": 60, "n_records": 61, "n_sequences": 60, "n_rejected": 1, "n_reused": 0}
    summary = {**counts, "n_residues": 90000, "embedding_dim": 8, "seconds": 75.0}
    summary["rejected"] = {"invalid_character": 1}
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
    points, shares = project(values)
    variances = np.sort(np.linalg.eigvalsh(np.cov(values.T)))[::-1]
    np.testing.assert_allclose(points.var(0, ddof=1), variances[:2])
    np.testing.assert_allclose(shares, variances[:2] / variances.sum())


def test_equal_embeddings_are_one_point() -> None:
    points, shares = project(np.ones((5, 4), np.float32))
    assert points.tolist() == [[0, 0]] * 5
    assert shares == (0, 0)


def test_the_browser_gets_maps_between_ones(job: ReportJob) -> None:
    with Embeddings(job.embeddings) as embeddings:
        survey = landscape.survey(embeddings, None)
        points, _ = project(embeddings[:])
    drawn = np.array(survey.for_browser(colour_by_numbers("x", survey.lengths))["maps"]["PCA"])
    half = np.ptp(points, axis=0).max() / 2
    middle = (points.max(0) + points.min(0)) / 2
    np.testing.assert_allclose(drawn, (points - middle) / half, atol=1e-4)
    assert np.abs(drawn).max() == 1
    assert survey.accessions[3] == "P12345"
    assert set(survey.accessions) == {"", "P12345"}


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
    assert len(many) == 20
    assert landscape.choose_rows(7, [3]).tolist() == list(range(7))
    assert len(landscape.choose_rows(1000, range(1000))) == 20
    assert landscape.choose_rows(20, []).tolist() == list(range(20))
    assert landscape.choose_rows(21, [])[[0, -1]].tolist() == [0, 20]


def test_a_small_page_is_small(job: ReportJob) -> None:
    report_dataset(job)
    assert job.output.stat().st_size < 100_000


def test_what_is_trivial_is_folded(job: ReportJob) -> None:
    summary = json.loads(job.summary.read_text())
    numbers = collect_numbers(summary, read_history(job.checkpoints))
    assert [(n.name, n.value) for n in numbers if not n.is_trivial] == [
        ("proteins embedded", "60"),
        ("dimensions", "8"),
        ("residues", "90,000"),
        ("computing time", "75 s"),
        ("GPU-hours", "0.02"),  # 55 s
        ("tokens/s per device", "692"),  # 9,000 in 13 s
        ("rejected", "1 of 61"),
        ("restarts", "3"),
    ]
    assert [(n.name, n.value) for n in numbers if n.is_trivial] == [
        ("different sequences", "60"),
        ("of them by earlier runs", "0"),
        ("computed twice", "0"),
    ]
    summary |= {"n_records": 60, "n_rejected": 0, "n_sequences": 50}
    told = {n.name: n for n in collect_numbers(summary, read_history(job.checkpoints))}
    assert told["rejected"].is_trivial
    assert not told["different sequences"].is_trivial
    assert (told["computed twice"].value, told["computed twice"].is_trivial) == ("10", False)
    assert told["of them by earlier runs"].is_trivial
    told = {n.name: n for n in collect_numbers({**summary, "n_reused": 7}, [])}
    assert (told["of them by earlier runs"].value, told["computed twice"].value) == ("7", "0")
    assert not told["of them by earlier runs"].is_trivial
    quiet = {n.name: n.is_trivial for n in collect_numbers(summary, [])}
    assert quiet["GPU-hours"] and quiet["tokens/s per device"] and quiet["restarts"]


def test_provenance_says_how_to_cite_and_load() -> None:
    provenance = trace(ATTRIBUTES, Path("results/it's/embeddings.h5"))
    assert dict(provenance.rows) == {
        "model": "esm2_t6_8M_UR50D, untrained weights",
        "weights, sha256": "ab" * 32,
        "licence of published weights": "MIT",
        "outputs": "mean/6",
        "precision": "computed in float32, stored as float32",
        "engine": "packed",
        "long sequences": "in windows of 1022 residues that share 256, averaged there",
        "software": "spotESM 1, torch 2, Python 3",
        "made": "2026-01-01T00:00:00+00:00",
    }
    assert "Science 379:1123" in provenance.cite
    path = provenance.load.partition("Embeddings(")[2].rstrip(")")
    assert ast.literal_eval(path) == "results/it's/embeddings.h5"
    assert json.loads(provenance.config) == {"datasets": {"<i>": "x"}}


@pytest.mark.parametrize("model", ARCHITECTURES)
def test_every_model_has_its_paper(model: str) -> None:
    provenance = trace({**ATTRIBUTES, "model": model}, Path("x"))
    assert ("ESM Cambrian" in provenance.cite) == model.startswith("esmc")
    licence = dict(provenance.rows)["licence of published weights"]
    assert ("Non-Commercial" in licence) == model.startswith("esmc")


@pytest.mark.parametrize("policy", ["window", "truncate", "whole", "reject"])
def test_every_policy_is_told(policy: str) -> None:
    told = trace(
        {**ATTRIBUTES, "long_sequences": json.dumps({**POLICY, "policy": policy})}, Path("x")
    )
    assert ("1022" in dict(told.rows)["long sequences"]) == (policy != "whole")


def test_truncated_proteins_are_those_beyond_the_window(job: ReportJob) -> None:
    for policy, how in (("window", "in windows"), ("truncate", "truncated")):
        with h5py.File(job.embeddings, "r+") as file:
            file.attrs["long_sequences"] = json.dumps({**POLICY, "policy": policy})
            file["lengths"][:3] = 1022, 1023, 5
            file["windows"][:3] = 1, 2, 1
        with Embeddings(job.embeddings) as embeddings:
            lengths, cut, window, told = read_lengths(embeddings)
        assert (window, told) == (1022, how)
        np.testing.assert_array_equal(cut, lengths > 1022)


def test_too_few_for_a_map(
    job: ReportJob, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with h5py.File(job.embeddings, "r+") as file:
        for name in ("sequence_ids", "lengths", "windows", "mean/6"):
            values = file[name][:2]
            del file[name]
            file.create_dataset(name, data=values)
    (tmp_path / "labels.tsv").write_text(f"id\tlabel\n{IDS[0]}\tA\n")
    report_dataset(replace(job, labels=tmp_path / "labels.tsv"))
    assert "no map to colour" in caplog.text
    assert "The labels colour nothing" in job.output.read_text()


def test_one_length_is_a_sentence(job: ReportJob) -> None:
    report_dataset(job)
    figures = ('class="ramp"', "on a logarithmic axis")
    assert all(figure in job.output.read_text() for figure in figures)
    with h5py.File(job.embeddings, "r+") as file:
        file["lengths"][:] = 1400
        file["windows"][:] = 2
    report_dataset(job)
    page = job.output.read_text()
    assert not any(figure in page for figure in figures)
    assert "All have 1,400 residues. 60 longer than 1,022 went through" in " ".join(page.split())
    assert "<b>residues</b>: all 1,400" in page


@pytest.mark.parametrize(("length", "said"), [(1, "1 residue"), (40, "40 residues")])
def test_one_protein_has_one_length(job: ReportJob, length: int, said: str) -> None:
    with h5py.File(job.embeddings, "r+") as file:
        for name in ("sequence_ids", "lengths", "windows", "mean/6"):
            values = file[name][:1]
            del file[name]
            file.create_dataset(name, data=values)
        file["lengths"][:], file["windows"][:] = length, 1
    job.summary.write_text(json.dumps(json.loads(job.summary.read_text()) | {"n_embedded": 1}))
    report_dataset(job)
    assert f'<p id="lengths-text">It has {said}.</p>' in job.output.read_text()


def test_rejected_records_beyond_the_first_are_counted(
    job: ReportJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_module, "MOST_REJECTED_SHOWN", 3)
    lines = "".join(f"{i}\tbad{i}\tsplit\tempty\tno residues\n" for i in range(5))
    job.rejected.write_text("ordinal\tid\tstage\treason\tdetail\n" + lines)
    summary = json.loads(job.summary.read_text()) | {"n_rejected": 5, "rejected": {"empty": 5}}
    job.summary.write_text(json.dumps(summary))
    report_dataset(job)
    page = re.sub(r"\s+", " ", job.output.read_text())
    assert "5 records have no row: 5 empty. The first 3 are below" in page
    assert re.findall(r'<td class="id">(bad\d)</td>', page) == ["bad0", "bad1", "bad2"]


@pytest.mark.parametrize(
    ("n_rejected", "said"),
    [(0, "1 contig was not translated.</p>"), (1, "1 contig was not translated. 1 record has no")],
)
def test_contigs_that_were_not_translated_are_counted(
    job: ReportJob, n_rejected: int, said: str
) -> None:
    lines = "4\tcontig4\ttranslate\tempty\tno bases\n" + "7\tx\tsplit\tempty\tnone\n" * n_rejected
    job.rejected.write_text("ordinal\tid\tstage\treason\tdetail\n" + lines)
    counts = {"n_rejected_contigs": 1, "n_rejected": n_rejected, "rejected": {"empty": n_rejected}}
    job.summary.write_text(json.dumps(json.loads(job.summary.read_text()) | counts))
    report_dataset(job)
    page = re.sub(r"\s+", " ", job.output.read_text()).replace(" </p>", "</p>")
    assert said in page
    assert (
        re.findall(r'<td class="id">(contig4|x)</td>', page) == ["contig4", "x"][: 1 + n_rejected]
    )


# -- in a browser ----------------------------------------------------------------------------------

in_browser = pytest.mark.skipif(not CHROMIUM, reason="Chromium is missing")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Opens a report; a word of complaint in the browser's console, or any request, fails."""
    problems: list[str] = []
    contexts = []

    def open_page(job: ReportJob, width: int = 1280, scheme: str = "light") -> Page:
        report_dataset(job)
        contexts.append(
            browser.new_context(
                viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True
            )
        )
        page = contexts[-1].new_page()
        page.set_default_timeout(TIMEOUT_MS)
        page.on("console", lambda m: m.type == "error" and problems.append(m.text))
        page.on("dialog", lambda dialog: problems.append(dialog.message))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda r: r.url.startswith("file:") or problems.append(r.url))
        page.goto(job.output.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not problems


@pytest.fixture
def page(open_page: Callable[..., Page], job: ReportJob) -> Page:
    return open_page(job)


def colour_at(page: Page, i: int) -> list[int]:
    """The colour in the middle of a point on the map."""
    return page.evaluate(
        """i => {
            const [x, y] = screenOf(i), density = canvas.width / canvas.clientWidth;
            return [...canvas.getContext("2d").getImageData(x * density, y * density, 1, 1).data];
        }""",
        i,
    )


def box_of_point(page: Page, i: int) -> tuple[float, float]:
    page.locator("#map").scroll_into_view_if_needed()
    box = page.locator("#map").bounding_box()
    x, y = page.evaluate("i => screenOf(i)", i)
    return box["x"] + x, box["y"] + y


@in_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 360])
def test_everything_fits_the_window(
    open_page: Callable[..., Page], job: ReportJob, width: int, scheme: str
) -> None:
    page = open_page(job, width, scheme)
    page.fill("#protein", "protein41")
    page.press("#protein", "Enter")
    page.wait_for_selector("#neighbours td")
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    grounds = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert grounds == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(16, 21, 28)")
    # No text is cut off: hosts, least of all.
    for element in page.locator(".lane h3, th, td, dd, figcaption, summary").all():
        assert element.evaluate("e => e.scrollWidth <= e.clientWidth + 1"), element.inner_text()
    assert page.locator(".lane h3").all_text_contents() == ["node<1>, cuda:0"]


@in_browser
def test_an_attempt_of_no_time_is_seen_at_the_end(
    open_page: Callable[..., Page], job: ReportJob
) -> None:
    journal = job.checkpoints / "1-of-2/journal.jsonl"
    line = '{{"event": "{}", "time": "2026-01-01T23:00:00.000+00:00", "host": "node<1>", "pid": 7, '
    line += '"attempt": 1, "device": "cuda:0", "restart": "", "computed": 0}}\n'
    journal.write_text(journal.read_text() + line.format("start") + line.format("completed"))
    page = open_page(job)
    row = page.locator(".lane .row").first.bounding_box()
    bars = [bar.bounding_box() for bar in page.locator(".lane .bar").all()]
    assert len(bars) == 6
    assert all(bar["width"] >= 3 for bar in bars)
    end = row["x"] + row["width"]
    assert max(bar["x"] + 3 for bar in bars) == pytest.approx(end, abs=0.1)


@in_browser
def test_print_is_on_white_paper(open_page: Callable[..., Page], job: ReportJob) -> None:
    page = open_page(job, scheme="dark")
    page.emulate_media(media="print")
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == "rgb(255, 255, 255)"
    assert not page.is_visible("#search")
    assert page.is_visible("#map")


@in_browser
def test_all_points_are_drawn_and_named(page: Page) -> None:
    assert page.evaluate("points.ids") == IDS
    empty = [i for i in range(len(IDS)) if colour_at(page, i)[3] < 150]
    assert empty == []
    i = page.evaluate("points.maps.PCA.findIndex(([x]) => Math.abs(x) === 1)")
    x, y = box_of_point(page, i)
    page.mouse.move(x - 40, y)
    page.mouse.move(x, y)
    shown = page.locator("#tip")
    assert shown.is_visible()
    assert shown.text_content().startswith(f"{IDS[i]}\n")
    page.mouse.move(0, 0)
    assert not shown.is_visible()


@in_browser
def test_zoom_keeps_the_point_under_the_pointer(page: Page) -> None:
    before = page.evaluate("screenOf(7)")
    page.evaluate("([x, y]) => zoomBy(3, x, y)", before)
    np.testing.assert_allclose(page.evaluate("screenOf(7)"), before)
    apart = np.subtract(page.evaluate("screenOf(8)"), before)
    page.click("text=Whole map")
    np.testing.assert_allclose(page.evaluate("screenOf(7)"), before)
    np.testing.assert_allclose(apart, 3 * np.subtract(page.evaluate("screenOf(8)"), before))
    x, y = box_of_point(page, 7)
    page.click("[aria-label='Zoom in']")
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 50, y + 30, steps=3)
    page.mouse.up()
    moved = page.evaluate("[view.x, view.y]")
    assert moved[0] > 40 and moved[1] > 20
    page.focus("#map")
    page.keyboard.press("0")
    assert page.evaluate("view") == {"zoom": 1, "x": 0, "y": 0}


@in_browser
def test_a_search_finds_a_protein_and_its_neighbours(page: Page, job: ReportJob) -> None:
    with Embeddings(job.embeddings) as embeddings:
        places, cosines = find_neighbours(embeddings[:])
        lengths = embeddings.file["lengths"][:]
    ways = {
        "protein41": "protein41",
        "P12345": "sp|P12345|ONE_TEST",
        "p12345": "sp|P12345|ONE_TEST",
    }
    for typed, identifier in {**ways, "PROTEIN7": "protein7", "|ONE": "sp|P12345|ONE_TEST"}.items():
        page.fill("#protein", typed)
        page.press("#protein", "Enter")
        row = IDS.index(identifier)
        assert page.locator("#neighbours th").first.inner_text() == f"nearest to {identifier}"
        shown = page.locator("#neighbours td").all_text_contents()
        assert shown[::3] == [IDS[place] for place in places[row]]
        assert shown[1::3] == [str(lengths[place]) for place in places[row]]
        np.testing.assert_allclose([float(c) for c in shown[2::3]], cosines[row], atol=6e-4)
    page.fill("#protein", "rotein4")
    page.press("#protein", "Enter")
    assert "11 ids contain this" in page.inner_text("#neighbours")
    for typed in ("nobody at all", ""):
        page.fill("#protein", typed)
        page.press("#protein", "Enter")
        assert "No protein" in page.inner_text("#neighbours")


@in_browser
def test_a_click_names_the_neighbours(page: Page) -> None:
    i = page.evaluate("points.maps.PCA.findIndex(([x]) => Math.abs(x) === 1)")
    page.mouse.click(*box_of_point(page, i))
    assert page.locator("#neighbours th").first.inner_text() == f"nearest to {IDS[i]}"
    assert page.input_value("#protein") == IDS[i]


@in_browser
def test_a_hostile_id_stays_text(page: Page) -> None:
    page.fill("#protein", HOSTILE)
    page.press("#protein", "Enter")
    assert page.locator("#neighbours th").first.inner_text() == f"nearest to {HOSTILE}"
    assert page.title().startswith("a <b>name</b>")
    assert page.locator("main img, main script, main h1 b, main pre i").count() == 0
    assert page.locator("td", has_text=HOSTILE).count() >= 1


@in_browser
def test_labels_colour_the_map(
    open_page: Callable[..., Page], job: ReportJob, tmp_path: Path
) -> None:
    labels = {"protein1": "<b>A</b>", "protein2": "B", "protein3": "<b>A</b>", "P12345": '"C'}
    lines = "".join(f"{name}\t{label}\n" for name, label in labels.items())
    (tmp_path / "labels.tsv").write_text(f"id\tthe <i>family</i>\n{lines}")
    page = open_page(replace(job, labels=tmp_path / "labels.tsv"))
    row = {name: IDS.index(name) for name in ("protein1", "protein2", "protein3", "protein9")}
    colours = {name: page.evaluate("i => pointStyles()[i].colour", i) for name, i in row.items()}
    assert colours["protein1"] == colours["protein3"] == "#2f6fde"
    assert len(set(colours.values())) == 3
    assert page.evaluate("i => points.labels[i]", IDS.index("sp|P12345|ONE_TEST")) == '"C'
    legend = page.locator("#categories button").all_inner_texts()
    assert [" ".join(text.split()) for text in legend] == [
        *("<b>A</b> 2", '"C 1', "B 1", "no label 56")
    ]
    assert page.inner_text("#categories > b") == "the <i>family</i>"
    assert page.locator("main h1 b, #categories span b, #categories i").count() == 0
    # A label is shown alone.
    before = colour_at(page, row["protein1"]), colour_at(page, row["protein2"])
    page.locator("#categories button").first.click()
    after = colour_at(page, row["protein1"]), colour_at(page, row["protein2"])
    assert after[0][3] == pytest.approx(before[0][3], abs=8)
    assert after[1][3] < before[1][3] / 2
    page.locator("#categories button").first.click()
    assert colour_at(page, row["protein2"]) == before[1]


@in_browser
def test_numbers_colour_the_map_along_a_scale(
    open_page: Callable[..., Page], job: ReportJob, tmp_path: Path
) -> None:
    lines = "".join(f"protein{i}\t{i + 1}\n" for i in range(50))
    (tmp_path / "labels.tsv").write_text(f"id\tyear\n{lines}")
    page = open_page(replace(job, labels=tmp_path / "labels.tsv"))
    first, last = IDS.index("protein0"), IDS.index("protein49")
    assert page.evaluate("i => pointStyles()[i].colour", first) == "rgb(59 111 224)"
    assert page.evaluate("i => pointStyles()[i].colour", last) == "rgb(200 120 0)"
    assert [page.evaluate("mix", share) for share in (50, 25)] == [
        *("rgb(20 147 126)", "rgb(40 129 175)")
    ]
    assert "year, logarithmic; 10 circles have none" in page.inner_text(".scale")
    assert page.locator(".scale .axis-x span").all_text_contents() == [
        "1",
        "2",
        "5",
        "10",
        "20",
        "50",
    ]
