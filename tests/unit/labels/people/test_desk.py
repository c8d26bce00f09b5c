"""What a person can do on the page: be given pairs, answer, change their mind, submit, look back."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.labels.conftest import event
from tests.unit.labels.people.conftest import OpenOffice, Worker

from densedpo.labels.gold import write_gold
from densedpo.labels.people.cards import shown_first
from densedpo.labels.people.office import Office
from densedpo.labels.queue import Claim


def votes(office: Office) -> dict[tuple[str, str, int], str | None]:
    return {(item.author, item.pair_id, item.segment): item.answer for item in office.store.current()}


def claim_of(office: Office, name: str, task: dict[str, Any]) -> Claim:
    claim = office.queue.find(task["task_id"], name)
    assert claim is not None
    return claim


def test_a_pair_from_first_sight_to_submission(open_page: OpenOffice) -> None:
    office = open_page()
    ann = Worker(office)
    assert ann.me()["stage"] == "instructions"
    assert ann.client.post("/api/stage", json={"stage": "instructions", "done": True}).json()["stage"] == "work"
    (task,) = ann.next()
    assert [segment["num_frames"] for segment in task["segments"]] == [8, 8, 8, 9]
    assert task["media"]["first"] != task["media"]["second"]
    first = shown_first(claim_of(office, "ann", task))
    second = "b" if first == "a" else "a"
    given = ["first", "second", "tie", "both_bad"]
    for segment, answer in enumerate(given):
        note = {"tags": ["popping", "limbs"], "note": "<b>jumps</b>", "dwell_s": 1.5, "offered": answer == "tie"}
        stored = ann.post(task, [{"segment": segment, "answer": answer, **note}])
        assert stored == {"stored": 1, "complete": segment == 3}
    assert ann.submit(task) == {"complete": True, "surplus": False, "feedback": []}
    said = office.store.current()
    assert [item.answer for item in said] == [first, second, "tie", "both_bad"]
    assert {(item.tags, item.note, item.dwell_s, item.shown_first) for item in said} == {
        ("limbs,popping", "<b>jumps</b>", 1.5, first)
    }
    assert [item.offered for item in said] == [False, False, True, False]
    again = ann.client.get(f"/api/task/{task['task_id']}").json()
    assert [item["answer"] for item in again["answers"]] == given
    assert again["submitted"] is True
    progress = ann.me()["progress"]
    assert (progress["done"], progress["total"], progress["team_done"], progress["team_total"]) == (1, 6, 1, 6)


def test_answers_can_be_taken_back_and_changed_after_submission(open_page: OpenOffice) -> None:
    office = open_page()
    ann = Worker(office)
    (task,) = ann.next()
    ann.post(task, [{"segment": 0, "answer": "tie"}])
    ann.post(task, [{"segment": 0, "answer": None}])
    assert [item.outcome for item in office.store.current()] == ["withdrawn"]
    assert ann.next()[0]["answers"] == []
    reply = ann.client.post("/api/submit", json={"task_id": task["task_id"], "key": "k" * 8})
    assert (reply.status_code, reply.json()["error"]) == (422, "no answer yet for segment 0, 1, 2, 3")
    ann.do(task, "tie")
    ann.post(task, [{"segment": 2, "answer": "both_bad"}])
    assert votes(office)["ann", claim_of(office, "ann", task).pair_id, 2] == "both_bad"
    assert ann.submit(task)["complete"]


def test_one_post_counts_once_and_a_late_one_does_not_overrule(open_page: OpenOffice) -> None:
    office = open_page()
    ann = Worker(office)
    (task,) = ann.next()
    for _ in range(3):
        ann.post(task, [{"segment": 0, "answer": "tie"}], key="same-key-1", seq=10)
    assert len(office.store.events()) == 1
    ann.post(task, [{"segment": 0, "answer": "both_bad"}], key="late-key-1", seq=9)
    assert [item.answer for item in office.store.current()] == ["tie"]
    assert [stored.event.answer for stored in office.store.events()] == ["tie", "both_bad", "tie"]
    ann.post(task, [{"segment": 0, "answer": "cannot_judge"}], key="newer-key", seq=11)
    assert [item.answer for item in office.store.current()] == ["cannot_judge"]


def test_reload_and_preload_give_the_same_tasks(open_page: OpenOffice) -> None:
    office = open_page()
    ann = Worker(office)
    first, second = ann.next(count=2)
    assert ann.next(count=2) == [first, second]
    assert Worker(office).next(count=2) == [first, second]
    assert [task["task_id"] for task in ann.next(count=1, after=first["task_id"])] == [second["task_id"]]
    assert len({task["task_id"] for task in ann.next(count=3)}) == 3


def test_people_get_different_pairs_until_overlap_is_full(open_page: OpenOffice) -> None:
    office = open_page(overlap=2)
    seen: dict[str, list[str]] = {}
    for name in ("ann", "bob", "eve"):
        worker = Worker(office, name)
        while tasks := worker.next():
            seen.setdefault(claim_of(office, name, tasks[0]).pair_id, []).append(name)
            worker.do(tasks[0])
    assert sorted(seen) == [f"p{number}" for number in range(6)]
    assert all(len(names) == 2 == len(set(names)) for names in seen.values())
    assert "eve" not in {name for names in seen.values() for name in names}


def test_a_lease_that_runs_out_goes_to_others_and_late_answers_are_surplus(open_page: OpenOffice) -> None:
    office = open_page(lease_s=10)
    ann, bob = Worker(office, "ann"), Worker(office, "bob")
    (task,) = ann.next()
    pair_id = claim_of(office, "ann", task).pair_id
    now = [office.queue._clock()]
    office.queue._clock = lambda: now[0]
    now[0] += 8
    assert ann.client.post("/api/heartbeat", json={"task_ids": [task["task_id"]]}).json() == {"lease_s": 10.0}
    now[0] += 8
    assert claim_of(office, "bob", bob.next()[0]).pair_id != pair_id
    now[0] += 20
    pairs = [claim_of(office, "bob", task).pair_id for task in bob.next(count=3)]
    assert pair_id in pairs
    lost = ann.client.post("/api/heartbeat", json={"task_ids": [task["task_id"]]})
    assert lost.status_code == 409
    assert ann.do(task)["surplus"] is True
    assert {author for author, pair, _ in votes(office) if pair == pair_id} == {"ann"}
    assert ann.me()["progress"]["done"] == 1


def test_who_let_a_pair_slip_gets_it_again_where_it_is_free(open_page: OpenOffice) -> None:
    office = open_page(lease_s=10)
    ann = Worker(office)
    (task,) = ann.next()
    ann.post(task, [{"segment": 1, "answer": "tie"}])
    late = office.queue._clock() + 100
    office.queue._clock = lambda: late
    assert Worker(office, "bob").next(count=1)[0]["task_id"] != task["task_id"]
    office.queue._clock = lambda: late + 100
    tasks = ann.next(count=3)
    assert task["task_id"] in {item["task_id"] for item in tasks} or len(tasks) == 3


def test_tasks_of_others_are_unknown(open_page: OpenOffice) -> None:
    office = open_page()
    ann, eve = Worker(office, "ann"), Worker(office, "eve")
    (task,) = ann.next()
    form = {"task_id": task["task_id"], "key": "k" * 8, "seq": 1, "answers": [{"segment": 0, "answer": "tie"}]}
    assert eve.client.post("/api/answers", json=form).status_code == 404
    assert eve.client.post("/api/submit", json={"task_id": task["task_id"], "key": "k" * 8}).status_code == 404
    assert eve.client.get(f"/api/task/{task['task_id']}").status_code == 404
    assert eve.client.get(task["media"]["first"]).status_code == 404
    assert ann.client.get(task["media"]["first"]).status_code == 200
    assert office.store.events() == []


def test_reviewers_get_what_labellers_disagree_on(open_page: OpenOffice) -> None:
    office = open_page(overlap=2)
    tokens = {name: office.roster.invite(name, "annotator") for name in ("ann", "bob")}
    tokens["rev"] = office.roster.invite("rev", "reviewer")
    ann, bob, rev = (Worker(office, name, tokens[name]) for name in tokens)
    for worker, answer in ((ann, "tie"), (bob, "both_bad")):
        for number, task in enumerate(worker.next(count=2)):
            worker.do(task, answer if number == 0 else "tie")
    task = rev.next()[0]
    assert task["kind"] == "review"
    assert [other["answers"] for other in task["others"]] == [["both_bad", "tie"]] * 4
    disputed = claim_of(office, "rev", task).pair_id
    rev.do(task, "cannot_judge")
    assert {item.task for item in office.store.current() if item.author == "rev"} == {"review"}
    # nothing else is disputed, so the reviewer labels like everybody
    follow_up = rev.next()[0]
    assert follow_up["kind"] == "work"
    assert follow_up["others"] == []
    assert claim_of(office, "rev", follow_up).pair_id != disputed


def gold_for(office: Office, pairs: list[str]) -> None:
    write_gold(office.project, [event(pair, segment, "a") for pair in pairs for segment in range(4)])


def test_qualification_gives_feedback_and_decides(open_page: OpenOffice) -> None:
    gold_for(open_page(), ["p0", "p1", "p2"])
    office = open_page(qualification=2)
    tokens = {name: office.roster.invite(name, "annotator") for name in ("ann", "bob")}
    for name, right in (("ann", True), ("bob", False)):
        worker = Worker(office, name, tokens[name])
        office.roster.mark_instructed(name)
        for _ in range(2):
            assert worker.me()["stage"] == "qualification"
            (task,) = worker.next()
            assert set(task) == set(Worker(office, name, tokens[name]).next()[0])
            shown = "first" if (shown_first(claim_of(office, name, task)) == "a") == right else "second"
            feedback = worker.do(task, shown)["feedback"]
            assert [item["correct"] for item in feedback] == [right] * 4
        if right:
            assert worker.me()["stage"] == "work"
            assert claim_of(office, name, worker.next()[0]).task == "work"
        else:
            assert worker.client.post("/api/next", json={}).status_code == 403
    assert not any(item.usable for item in office.store.current())


def test_gold_and_repeats_are_mixed_in_and_look_like_work(open_page: OpenOffice) -> None:
    gold_for(open_page(), ["p0"])
    office = open_page(gold_every=1, repeat_every=1)
    ann = Worker(office)
    kinds, shapes = [], set()
    while tasks := ann.next():
        claim = claim_of(office, "ann", tasks[0])
        kinds.append((claim.task, claim.pair_id))
        shapes.add((tasks[0]["kind"], tuple(sorted(tasks[0]))))
        ann.do(tasks[0])
    assert kinds[0] == ("gold", "p0")
    assert [kind for kind, _ in kinds].count("work") == 5
    assert {pair for kind, pair in kinds if kind == "work"} == {f"p{number}" for number in range(1, 6)}
    assert "repeat" in {kind for kind, _ in kinds}
    assert len(shapes) == 1
    assert len([item for item in office.store.current() if item.usable]) == 5 * 4


def test_sides_are_drawn_by_person_and_pair_and_mirrored_in_a_repeat() -> None:
    def claim(person: str, pair: str, task: str = "work") -> Claim:
        return Claim("t", pair, person, task, "leased", 0.0, 0.0, None)  # type: ignore[arg-type]

    sides = [shown_first(claim("ann", f"p{number}")) for number in range(400)]
    assert sides == [shown_first(claim("ann", f"p{number}")) for number in range(400)]
    assert sides != [shown_first(claim("bob", f"p{number}")) for number in range(400)]
    assert 160 < sides.count("a") < 240
    assert all(shown_first(claim("ann", f"p{n}", "repeat")) != side for n, side in enumerate(sides))


def test_ties_are_offered_where_sides_hardly_differ(open_page: OpenOffice) -> None:
    office = open_page(offer_ties_below=2.0)
    ann = Worker(office)
    offered = {}
    while tasks := ann.next():
        offered[claim_of(office, "ann", tasks[0]).pair_id] = {item["offered"] for item in tasks[0]["segments"]}
        ann.do(tasks[0])
    assert offered == {f"p{number}": {None} for number in range(5)} | {"p5": {"tie"}}


def test_history_lists_own_tasks_newest_first(open_page: OpenOffice) -> None:
    office = open_page(show_caption=False, whole_clip=True)
    ann = Worker(office)
    for _ in range(3):
        (task,) = ann.next()
        ann.post(task, [{"segment": -1, "answer": "first"}])
        ann.do(task)
    ann.next()
    past = ann.client.get("/api/history?limit=3").json()["tasks"]
    assert [(item["answered"], item["total"], item["submitted"]) for item in past] == [
        (0, 5, False),
        *[(5, 5, True)] * 2,
    ]
    assert {item["caption"] for item in past} == {None}
    assert past[1]["task_id"] == task["task_id"]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"segment": 4}, "segment 4"),
        ({"segment": -1}, "whole clip"),
        ({"answer": "a"}, "answer"),
        ({"tags": ["ugly"]}, "tags"),
        ({"dwell_s": -1}, "dwell_s"),
        ({"extra": 1}, "extra"),
        ({"note": "x" * 2001}, "note"),
    ],
)
def test_wrong_answers_are_refused_in_one_line(open_page: OpenOffice, change: dict[str, Any], named: str) -> None:
    office = open_page()
    ann = Worker(office)
    (task,) = ann.next()
    answer = {"segment": 0, "answer": "tie", **change}
    form = {"task_id": task["task_id"], "key": "k" * 8, "seq": 1, "answers": [answer]}
    reply = ann.client.post("/api/answers", json=form)
    assert reply.status_code == 422
    assert named in reply.json()["error"]
    assert "\n" not in reply.json()["error"]
    assert office.store.events() == []


def test_admins_see_progress_agreement_and_flags(open_page: OpenOffice) -> None:
    office = open_page(overlap=2)
    people = {name: office.roster.invite(name, "annotator") for name in ("ann", "bob")}
    boss = Worker(office, "boss", office.roster.invite("boss", "admin"))
    empty = boss.client.get("/api/admin/overview").json()
    assert (empty["team"]["done"], empty["team"]["total"]) == (0, 12)
    assert {item["undefined"] for item in empty["agreement"]} == {"because fewer than two people have answered"}
    for name, token in people.items():
        worker = Worker(office, name, token)
        for number, task in enumerate(worker.next(count=3)):
            first = shown_first(claim_of(office, name, task))
            worker.do(task, ("first" if first == "a" else "second") if number else "tie")
    seen = boss.client.get("/api/admin/overview").json()
    assert seen["team"]["done"] == 6
    assert [day["done"] for day in seen["team"]["by_day"]] == [6]
    assert {item["name"]: item["value"] for item in seen["agreement"]}["Krippendorff's alpha, nominal"] == 1.0
    assert [(person["annotator"], person["done"]) for person in seen["people"]] == [("ann", 3), ("bob", 3), ("boss", 0)]
    assert set(seen["people"][0]) >= {"role", "last_seen", "median_dwell_s", "tie_rate", "first_rate", "gold", "flags"}
    assert seen["answers"] == {"a": 16, "b": 0, "tie": 8, "both_bad": 0, "cannot_judge": 0}
    assert seen["disagreements"] == {"open": 0, "resolved": 0}
    assert len(seen["dwell"]["counts"]) == len(seen["dwell"]["edges_s"]) - 1
