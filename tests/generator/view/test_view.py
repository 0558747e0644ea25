"""The pages over a build, by HTTP as a browser asks, and in a browser where there is one."""

from __future__ import annotations

import asyncio
import html
import json
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import uvicorn
from click.testing import CliRunner

import selfalign
from generator import models
from generator.pipeline import build
from generator.progress import Silent
from generator.recipe import Recipe
from generator.store import Database, DatabaseError, add_evaluation, add_training, finish_evaluation, open_read_only
from generator.view import charts
from generator.view.app import make_app
from generator.view.html import excerpt, render, side_by_side
from generator.view.reading import Filters, curves, pairs_after, pairs_by_id
from generator.view.report import make_report
from generator.view.sidecar import Counted, Sidecar, match_of, stamp
from tests.fakes import FakeSandbox
from tests.generator.rules import RuleEngine

TestClient = pytest.importorskip("starlette.testclient").TestClient

SCRIPT = "<script>document.title = 'owned'</script><img src=x onerror=\"document.title='owned'\">"
HOSTILE = f"</pre></title></style></svg>-->{SCRIPT}{{{{ 7 * 7 }}}}&lt;\"' zyzzyva\u202e\u2028\x1b[31m"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture
def built(small: Recipe, database: Database) -> Database:
    """A finished build of five seeds with fifteen responses, a training and an evaluation."""
    asyncio.run(build(small, database, Silent(), engine=RuleEngine(), sandbox=FakeSandbox()))
    with database.writing() as session:
        dataset = session.scalars(sa.select(models.Dataset)).one()
        training = add_training(session, dataset_id=dataset.id, parameters={"train": {}}, output="runs/none")
        scored = add_evaluation(
            session, benchmark="humaneval", subject="m", parameters={"k": 1}, training_id=training.id
        )
        scores = {"samples": 2, "passed": 1, "pass@1": 0.5, "intervals": {"pass@1": [0.1, 0.9]}}
        finish_evaluation(session, scored.id, scores)
    return database


@pytest.fixture
def pages(built: Database, url: str, tmp_path: Path) -> Iterator[TestClient]:
    """A browser's view of it."""
    database = open_read_only(url)
    with TestClient(make_app(database, tmp_path / "cache"), base_url="http://127.0.0.1:8765") as client:
        yield client
    database.close()


def poison(database: Database) -> None:
    """Let every text that a model, a program or a seed could have written be hostile."""
    columns = {
        models.Seed: ("name", "code", "origin", "path", "licence"),
        models.Instruction: ("instruction", "text", "category"),
        models.Response: ("text", "code", "test_code", "reasoning", "explanation"),
        models.Execution: ("error_type", "error_message", "error_traceback"),
        models.Judgement: ("reason", "filter"),
        models.DatasetItem: ("instruction", "response"),
        models.Evaluation: ("subject", "benchmark"),
        models.Training: ("output",),
    }
    with database.writing() as session:
        for model, names in columns.items():
            long = {name: HOSTILE if name not in ("filter", "benchmark") else HOSTILE[:60] for name in names}
            session.execute(sa.update(model).values(long))
        failure = {
            "line": 1,
            "assertion": HOSTILE,
            "left": HOSTILE,
            "operator": "==",
            "right": HOSTILE,
            "message": HOSTILE,
        }
        session.execute(
            sa.update(models.Execution).values(first_failure=failure, stdout=HOSTILE.encode(), verdict="FAILED")
        )
        session.execute(sa.update(models.Judgement).values(kept=False))
        session.execute(sa.update(models.Concepts).values(concepts=[HOSTILE]))


def addresses(client: TestClient) -> list[str]:
    """Every page that can be reached by links from the first."""
    seen, left = [], ["/"]
    while left:
        page = left.pop()
        seen.append(page)
        answer = client.get(page)
        assert answer.status_code == 200, page
        for link in re.findall(r'href="(/[^"]*)"', answer.text):
            link = html.unescape(link)
            if link not in seen and link not in left and link != "/style.css":
                left.append(link)
    return seen


def test_every_link_leads_to_a_page(pages: TestClient) -> None:
    reached = addresses(pages)

    kinds = {re.sub(r"[0-9a-f]{32}.*|\?.*", "", page) for page in reached}
    assert kinds >= {"/", "/pairs", "/show/", "/snapshots", "/trainings", "/training/", "/evaluations", "/evaluation/"}


def test_the_overview_counts_what_status_counts(pages: TestClient) -> None:
    text = pages.get("/").text

    funnel = dict(re.findall(r'<th scope="row">([a-z ]+)</th><td class="number">([\d,]+)</td>', text))
    assert (funnel["seeds found"], funnel["responses drawn"], funnel["responses passed"]) == ("5", "15", "15")
    assert funnel["pairs accepted"] == "5"
    assert "another response of its instruction was chosen" in text


def test_shares_are_of_the_responses_drawn_whichever_steps_the_funnel_has() -> None:
    """A pipeline whose model judges its seeds has two steps more."""
    funnel = [["seeds found", 9], ["seeds chosen", 9], ["seeds judged", 9], ["seeds kept by the judge", 5]]
    funnel += [["concepts drawn", 5], ["concepts read", 5], ["instructions drawn", 5], ["responses drawn", 40]]
    counts = {"funnel": funnel, "verdicts": [["PASSED", 30], ["FAILED", 10]], "moments": [], "reasons": 1}
    counted = Counted(counts | {"rejections": [["passed", "verdict FAILED", 10]]}, "", 0.0, 0.0)
    others: dict[str, list[object]] = {"snapshots": [], "trainings": [], "evaluations": []}
    values = {"pipeline": "p", "pipelines": ["p"], "database": "d", "counted": counted, "is_current": True}
    text = render("overview.html", is_file=False, **values, **others)

    assert re.findall(r"(75\.0|25\.0) %", text) == ["75.0", "25.0", "25.0"]


def test_words_are_found_with_their_pairs_and_marked(pages: TestClient, built: Database) -> None:
    with built.reading() as session:
        response = session.scalars(sa.select(models.Response).order_by(models.Response.id)).first()
        assert response is not None
        number = re.findall(r"\d{4,}", response.code or "")[0]

    found = pages.get("/pairs", params={"q": f"{number} add -nothing"}).text
    none = pages.get("/pairs", params={"q": f"{number} -add"}).text

    assert response.id in found
    assert f"<mark>{number}</mark>" in found
    assert response.id not in none


def test_rows_that_come_later_are_found_too(pages: TestClient, built: Database) -> None:
    assert "0 pairs hold these words" in pages.get("/pairs", params={"q": "zyzzyva"}).text

    with built.writing() as session:
        row = dict(session.execute(sa.select(models.Response.__table__).limit(1)).mappings().one())
        old = sa.update(models.Response).where(models.Response.id == row["id"])
        session.execute(old.values(sample_index=77))
        new = {"id": "f" * 32, "text": "zyzzyva", "created_at": models.utc_now()}
        session.execute(sa.insert(models.Response).values(row | new))

    found = pages.get("/pairs", params={"q": "zyzzyva"}).text
    assert "1 pairs hold these words" in found
    assert "f" * 32 in found


def test_no_input_is_an_error(pages: TestClient) -> None:
    """What a person types is words, never a query language."""
    for words in ['"', "*", "-", "AND", 'a" OR "b', "NEAR(", "col:x", "(((", "\x00", "'; DROP", "é" * 400]:
        assert pages.get("/pairs", params={"q": words}).status_code == 200, words


def test_a_mistyped_address_is_answered(pages: TestClient) -> None:
    for page in [
        "/pairs?after=x",
        "/pairs?after=-9",
        "/pairs?after=99999999999999999999",
        "/pairs?pipeline=none",
        "/pairs?verdict=x",
    ]:
        assert pages.get(page).status_code == 200, page


def test_what_is_not_there_is_said_to_be_missing(pages: TestClient) -> None:
    for page in ["/none", "/show/zz", "/show/0000000", "/training/x", "/evaluation/x", "/diff", "/?pipeline=x"]:
        answer = pages.get(page)
        assert answer.status_code == 404
        assert "<h1>Not found</h1>" in answer.text


def test_filters_choose_pairs_and_pages_go_on(pages: TestClient, url: str) -> None:
    """Page by page each response comes once."""
    database = open_read_only(url)
    with database.reading() as session:
        kept = pairs_after(session, "small", Filters(kept=True)).rows
        failed = pairs_after(session, "small", Filters(verdict="FAILED")).rows
        seen, after = [], ""
        while after is not None:
            page = pairs_after(session, "small", Filters(), after, rows=4)
            seen += [row["id"] for row in page.rows]
            after = page.after
    database.close()

    assert (len(kept), failed) == (5, [])
    assert len(seen) == len(set(seen)) == 15


def test_pairs_by_id_are_looked_up_by_key(built: Database) -> None:
    """SQLite's plan for two hundred of them reads their own rows, not all that a recipe has."""
    if built.engine.dialect.name != "sqlite":
        pytest.skip("the plan is SQLite's")
    with built.engine.connect() as connection:
        plans: list[str] = []

        def explain(connection: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
            if "instructions_recipe_id" in statement:
                rows = connection.connection.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)
                plans.extend(row[3] for row in rows)

        sa.event.listen(connection, "before_cursor_execute", explain)
        with sa.orm.Session(connection) as session:
            pairs_by_id(session, "small", [f"{number:032x}" for number in range(200)])

    looked_up = {plan.split()[1]: plan for plan in plans if plan.startswith("SEARCH")}
    assert [name for name in "ric" if "(id=?)" not in looked_up[name]] == []


def test_only_the_names_of_this_machine_are_answered(pages: TestClient) -> None:
    """A page elsewhere that points its own name at 127.0.0.1 reads nothing."""
    for host in (
        "evil.example",
        "127.0.0.1.evil.example",
        "localhost.evil.example:8765",
        "",
        "10.0.0.1",
        "localhost@x",
    ):
        answer = pages.get("/", headers={"host": host})
        assert answer.status_code == 421, host
        assert "small" not in answer.text
    for host in ("localhost", "localhost:9", "127.0.0.1:8765", "[::1]:8765"):
        assert pages.get("/snapshots", headers={"host": host}).status_code == 200


def test_only_reading_requests_are_answered(pages: TestClient) -> None:
    assert pages.post("/pairs", data={"q": "x"}).status_code == 405
    assert pages.delete("/").status_code == 405


def test_no_page_may_run_a_script_or_be_framed(pages: TestClient) -> None:
    for page in ("/", "/pairs", "/none", "/style.css"):
        policy = pages.get(page).headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "script-src" not in policy
        assert "unsafe" not in policy


def test_hostile_text_stays_text_on_every_page_and_in_the_report(pages: TestClient, built: Database) -> None:
    poison(built)

    texts = [pages.get(page).text for page in addresses(pages)]
    texts += [pages.get("/pairs", params={"q": "zyzzyva"}).text, pages.get("/pairs", params={"q": HOSTILE}).text]
    texts.append(make_report(built, pairs=5))

    assert sum("zyzzyva" in text for text in texts) > 10
    for text in texts:
        assert "<script" not in text
        assert "<img" not in text
        assert not re.search("[\x00-\x08\x0b-\x1f\u202a-\u202e\u2066-\u2069]", text)
        assert "49" not in re.findall(r"zyzzyva.{0,40}", text)


def test_the_database_cannot_be_changed_through_it(built: Database, url: str) -> None:
    database = open_read_only(url)
    with pytest.raises((DatabaseError, sa.exc.DBAPIError), match=r"read-?\s?only"), database.writing() as session:
        session.execute(sa.text("DELETE FROM leases"))
    database.close()


def test_a_report_is_one_file_that_loads_nothing(built: Database, url: str, tmp_path: Path) -> None:
    output = tmp_path / "report.html"

    done = CliRunner().invoke(selfalign.main, ["report", "--db", url, "--output", str(output), "--json"])

    assert done.exit_code == 0, done.output
    text = output.read_text(encoding="utf-8")
    assert json.loads(done.output)["bytes"] == output.stat().st_size
    assert "Accepted pairs of small" in text
    assert "humaneval" in text
    assert not re.findall(r'(?:src|href)="(?!#)', text)


def test_a_report_says_where_it_cannot_be_written(built: Database, url: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(selfalign.main, ["report", "--db", url, "--output", str(tmp_path / "no" / "r.html")])

    assert done.exit_code == 1
    assert done.output.startswith("Error: ")
    assert done.output.count("\n") == 1


def test_a_report_that_cannot_be_put_in_place_leaves_nothing(built: Database, url: str, tmp_path: Path) -> None:
    """A folder has the name that was given."""
    folder = tmp_path / "there"
    folder.mkdir()

    done = CliRunner().invoke(selfalign.main, ["report", "--db", url, "--output", str(folder)])

    assert (done.exit_code, done.output) == (1, f"Error: {folder}: cannot be written: Is a directory\n")
    assert list(tmp_path.glob("*there*")) == [folder]


def test_a_port_that_is_taken_is_told_in_a_line(built: Database, url: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        done = CliRunner().invoke(selfalign.main, ["view", "--db", url, "--port", port])

    assert done.exit_code == 1
    assert done.output == f"Error: port {port}: Address already in use; give another with --port, or 0 for a free one\n"


@pytest.mark.parametrize("command", [["view"], ["report", "--output", "r.html"]])
def test_a_database_that_is_not_there_is_told_in_a_line(command: list[str], tmp_path: Path) -> None:
    done = CliRunner().invoke(selfalign.main, [*command, "--db", str(tmp_path / "none.db")])

    assert done.exit_code == 1
    assert "no database at" in done.output
    assert list(tmp_path.iterdir()) == []


def test_an_empty_database_has_pages_too(database: Database, url: str, tmp_path: Path) -> None:
    opened = open_read_only(url)
    with TestClient(make_app(opened, tmp_path / "cache"), base_url="http://localhost") as client:
        for page in ("/", "/pairs", "/pairs?q=x", "/snapshots", "/trainings", "/evaluations"):
            assert client.get(page).status_code == 200
    opened.close()


def test_two_snapshots_are_compared_side_by_side(pages: TestClient, built: Database) -> None:
    with built.writing() as session:
        old = session.scalars(sa.select(models.Dataset)).one()
        values = {"name": "small", "version": 2, "content_key": "c", "parent_id": old.id, "recipe_id": old.recipe_id}
        session.execute(sa.insert(models.Dataset).values(id="d" * 32, size=old.size - 1, **values))
        items = session.scalars(sa.select(models.DatasetItem).order_by(models.DatasetItem.position)).all()
        for item in items[:-1]:
            text = item.response + ("\nand one line more" if item.position == 0 else "")
            row = {"position": item.position, "response_id": item.response_id, "instruction": item.instruction}
            session.execute(sa.insert(models.DatasetItem).values(dataset_id="d" * 32, response=text, **row))

    page = pages.get("/diff", params={"old": old.id, "new": "d" * 32}).text

    assert "1 changed" in page
    assert "1 removed" in page
    assert "0 added" in page
    assert "and one line more" in page


def test_training_curves_come_from_the_log(built: Database, tmp_path: Path) -> None:
    folder = tmp_path / "run" / "checkpoint-10"
    folder.mkdir(parents=True)
    log = [{"step": step, "epoch": 0.1, "loss": 2.0 / step} for step in (1, 2)] + [{"step": 2, "eval_loss": 1.5}]
    (folder / "trainer_state.json").write_text(json.dumps({"log_history": log}))

    assert curves(str(tmp_path / "run"), built) == {"loss": [(1.0, 2.0), (2.0, 1.0)], "eval_loss": [(2.0, 1.5)]}
    (folder / "trainer_state.json").write_text('{"log_history": [{"st')
    assert curves(str(tmp_path / "run"), built) == {}
    assert curves(str(tmp_path / "nowhere"), built) == {}


def test_charts_take_any_number() -> None:
    nan = float("nan")

    assert charts.line([(1, nan), (2, float("inf"))], "x") == ""
    assert "polyline" in charts.line([(1, 5.0), (2, nan), (3, 5.0)], "x")
    assert "<title>a&lt;b</title>" in charts.line([(1, 0.0)], "a<b")
    assert charts.stacked([("m", {})], ["PASSED"], "x") == ""
    assert charts.stacked([("m", {"PASSED": 3})], ["PASSED"], "x").count("<rect") == 1
    assert charts.line([(step, float(step == 777)) for step in range(100_000)], "spike").count(",") < 3000


def test_a_query_is_words_phrases_beginnings_and_exclusions() -> None:
    assert match_of('sort "bubble sort" pal* -slow') == '"sort" AND "bubble sort" AND "pal"* NOT "slow"'
    assert match_of("-slow") is None
    assert match_of('" * - ()') is None


def test_an_excerpt_begins_near_the_word() -> None:
    text = excerpt("a " * 500 + "needle <b> " + "z " * 500, "needle")

    assert "<mark>needle</mark> &lt;b&gt;" in text
    assert len(text) < 400


def test_lines_stand_beside_each_other() -> None:
    assert side_by_side("a\nb", "a\nc\nd") == [("same", "a", "a"), ("changed", "b", "c"), ("added", "", "d")]


def test_the_index_survives_being_deleted(built: Database, url: str, tmp_path: Path) -> None:
    database = open_read_only(url)
    for _ in range(2):
        side = Sidecar(database, tmp_path / "cache")
        side.index(database, threading.Event())
        assert side.indexed() == (15, stamp(database))
        assert len(side.find("add", None, 100)) == 15
        for file in (tmp_path / "cache").iterdir():
            file.unlink()
    database.close()


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (Debian: apt-get install chromium)")
def test_a_browser_shows_the_pages_and_runs_nothing(built: Database, url: str, tmp_path: Path) -> None:
    """In a real browser hostile text is shown, and no script of it has run."""
    poison(built)
    database = open_read_only(url)
    server = uvicorn.Server(uvicorn.Config(make_app(database, tmp_path / "cache"), port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        address = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        with database.reading() as session:
            id = session.scalars(sa.select(models.Response.id)).first()
        shown = browse(f"{address}/show/{id}", tmp_path)
    finally:
        server.should_exit = True
        thread.join()
        database.close()

    assert f"<title>{str(id)[:12]} · selfalign</title>" in shown
    assert "zyzzyva" in shown
    assert "<h2>Test report</h2>" in shown


def browse(address: str, folder: Path) -> str:
    """The page as it is after the browser has read it, and run what it runs."""
    command = [str(CHROMIUM), "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder}/profile"]
    done = subprocess.run([*command, "--dump-dom", address], capture_output=True, text=True, timeout=120, check=True)
    return done.stdout
