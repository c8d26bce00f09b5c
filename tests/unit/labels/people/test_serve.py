"""The command itself: it serves, stops on a signal, invites, and refuses what would be unsafe."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from tests.postgres import needs_postgres
from tests.unit.labels.people.conftest import OpenOffice, Worker

COMMAND = [sys.executable, "-c", "from densedpo.cli import main; main()", "label"]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=120, check=False)


def test_the_command_serves_until_stopped(filmed_template: Path, tmp_path: Path) -> None:
    root = tmp_path / "project"
    subprocess.run(["cp", "-r", str(filmed_template), str(root)], check=True)
    arguments = [*COMMAND, "serve", "--port", "0", "--project", str(root)]
    environment = {**os.environ, "COLUMNS": "250"}
    with subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stderr is not None
        found = None
        for line in process.stderr:
            found = re.search(r"labelling page: http://127\.0\.0\.1:(\d+)/ \(for whoever is on this machine\)", line)
            if found:
                break
        assert found
        connection = http.client.HTTPConnection("127.0.0.1", int(found[1]), timeout=30)
        connection.request("GET", "/api/me")
        reply = connection.getresponse()
        assert (reply.status, json.loads(reply.read())["needs_token"]) == (401, False)
        assert reply.getheader("server") is None
        connection.close()
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 143
        assert "Traceback" not in process.stderr.read()


def test_the_command_refuses_to_be_reached_by_anybody(filmed_template: Path, tmp_path: Path) -> None:
    root = tmp_path / "project"
    subprocess.run(["cp", "-r", str(filmed_template), str(root)], check=True)
    refused = run("serve", "--host", "0.0.0.0", "--port", "0", "--project", str(root))
    assert refused.returncode == 1
    assert "densedpo label invite NAME --role admin" in refused.stderr.replace("\n", " ")
    invited = run("invite", "ann", "--role", "admin", "--json", "--project", str(root))
    assert invited.returncode == 0
    assert re.fullmatch(r"http://127\.0\.0\.1:8753/#token=[\w-]{43}", json.loads(invited.stdout)["link"])


@needs_postgres
def test_the_page_works_on_postgres(open_page: OpenOffice, postgres_url: str) -> None:
    office = open_page(postgres_url, overlap=2)
    for name, answer in (("ann", "tie"), ("bob", "both_bad")):
        worker = Worker(office, name)
        for _ in range(2):
            worker.do(worker.next(count=2)[0], answer)
        assert worker.me()["progress"]["done"] == 2
    assert len(office.store.events()) == 16
    reopened = open_page(postgres_url, overlap=2)
    assert {item.answer for item in reopened.store.current()} == {"tie", "both_bad"}
    with reopened.store.database.reading() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM queue WHERE disagreement = 1").scalar() == 2
    assert not reopened.project.labels_database.exists()
