"""``label judge``: choose a judge, test it, let it answer. A new judge is one file and one entry in ``JUDGES``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from densedpo.cli.app import label_app
from densedpo.cli.verb import Call, verb

if TYPE_CHECKING:
    from densedpo.labels.judges.base import Judge
    from densedpo.labels.judges.batch import BatchSummary
    from densedpo.labels.judges.endpoint import Endpoint
    from densedpo.labels.judges.wire import StructuredMode
    from densedpo.labels.judges.work import Plan


class JudgeName(StrEnum):
    """Judges that can be asked."""

    metric = "metric"
    vlm = "vlm"
    reward = "reward"
    local = "local"


@dataclass(frozen=True)
class Seated:
    """A judge ready to work, and the service behind it if there is one, with the probe that must come first.

    ``probe`` returns what it found (``passed``, ``checks`` and more) and the judge as it should be asked. ``batch``, if
    batch files are wanted, has all questions answered through them and returns the judge that knows the replies.
    """

    judge: Judge
    endpoint: Endpoint | None = None
    probe: Callable[[], tuple[dict[str, Any], Judge]] | None = None
    batch: Callable[[Judge, Plan], tuple[Judge, BatchSummary]] | None = None

    @property
    def asked(self) -> int:
        """Requests sent to the service so far."""
        return 0 if self.endpoint is None else self.endpoint.meter.calls

    def interrupt(self) -> None:
        """End what is being asked at once."""
        if self.endpoint is not None:
            self.endpoint.close()


@contextmanager
def _metric(call: Call) -> Iterator[Seated]:
    from densedpo.labels.judges.metric import MetricJudge

    yield Seated(MetricJudge(tie_band=call.settings.label.metric_tie_band))


@contextmanager
def _vlm(call: Call) -> Iterator[Seated]:
    from densedpo.labels.judges.batch import Batches, judge_through
    from densedpo.labels.judges.endpoint import Endpoint
    from densedpo.labels.judges.probing import kept_probe, probed
    from densedpo.labels.judges.replies import Replies
    from densedpo.labels.judges.vlm import VlmJudge

    project, settings = call.project, call.settings.judge

    def in_mode(mode: StructuredMode) -> Judge:
        return VlmJudge(endpoint.with_mode(mode), settings, structured=mode)

    def probe() -> tuple[dict[str, Any], Judge]:
        found = probed(project, endpoint, settings, call.settings.label.segment_s)
        return found, in_mode(found["mode"])

    def batch(judge: Judge, plan: Plan) -> tuple[Judge, BatchSummary]:
        assert isinstance(judge, VlmJudge)
        asked = endpoint.with_mode(judge.structured)
        batches = Batches(asked, settings, replies, project.cache / "judge_batches")
        return judge_through(batches, judge, project, plan)

    alone = settings.budget is not None
    with Replies(project.judge_replies, alone=alone) as replies, Endpoint(settings, replies) as endpoint:
        known = kept_probe(project, settings)
        yield Seated(
            in_mode(known["mode"] if known else "json_schema"), endpoint, probe, batch if settings.batch else None
        )


@contextmanager
def _reward(call: Call) -> Iterator[Seated]:
    from densedpo.errors import ConfigError
    from densedpo.labels.judges.reward import RewardJudge
    from densedpo.outside.cache import ScoreCache
    from densedpo.outside.pipe import Adapter, parse_command

    settings, folder = call.settings.judge, call.project.outside
    if settings.reward_command is None:
        raise ConfigError("judge.reward_command: give the command of an adapter; see `densedpo doctor --setup list`")
    command = parse_command(settings.reward_command, "judge.reward_command")
    with (
        ScoreCache(folder / "scores.db") as cache,
        Adapter(command, folder / "reward.log", timeout_s=settings.timeout_s) as adapter,
    ):
        yield Seated(
            RewardJudge(
                adapter,
                cache,
                chosen=settings.dimensions,
                tie_band=settings.reward_tie_band or 0.0,
                show_caption=settings.show_caption,
            )
        )


@contextmanager
def _local(call: Call) -> Iterator[Seated]:
    import torch

    from densedpo.errors import ConfigError
    from densedpo.labels.judges.local import LocalAnswerer
    from densedpo.labels.judges.vlm import VlmJudge
    from densedpo.models.load import resolve_device
    from densedpo.models.vision_language import load_vision_language

    settings = call.settings.judge
    if settings.model is None:
        raise ConfigError("judge.model: give the folder or hub name of a vision-language model")
    device = resolve_device(call.settings.device)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    model = load_vision_language(settings.model, device=device, dtype=dtype)
    name = Path(settings.model).name if Path(settings.model).is_dir() else settings.model
    yield Seated(VlmJudge(LocalAnswerer(name, model), settings, kind="local", structured="text"))


JUDGES: dict[JudgeName, Callable[[Call], AbstractContextManager[Seated]]] = {
    JudgeName.metric: _metric,
    JudgeName.vlm: _vlm,
    JudgeName.reward: _reward,
    JudgeName.local: _local,
}


class Engine(StrEnum):
    """What runs the judge."""

    here = "here"
    ray = "ray"


@contextmanager
def _seat(name: JudgeName, call: Call) -> Iterator[Judge]:
    """Give the judge alone: what an actor holds."""
    with JUDGES[name](call) as seated:
        yield seated.judge


@contextmanager
def _spread(name: JudgeName, call: Call, actors: int) -> Iterator[Seated]:
    from densedpo.scale.judging import RayJudge

    with RayJudge(partial(_seat, name, call), actors) as judge:
        yield Seated(judge)


@verb(
    label_app,
    "judge",
    example="densedpo label judge --judge metric --project my-project\n"
    "densedpo label judge --judge vlm --base-url http://127.0.0.1:8000/v1 --model NAME --estimate",
    sections=("label.segment_s", "label.metric_tie_band", "label.alike_below", "label.store_url", "judge"),
    fails_on="stopped",
)
def label_judge(
    call: Call,
    judge: Annotated[JudgeName, typer.Option(help="Which judge.")] = JudgeName.metric,
    force: Annotated[
        bool,
        typer.Option("--force", help="Judge again what already has this judge's answer; known replies cost nothing."),
    ] = False,
    allow_untrusted: Annotated[
        bool,
        typer.Option(
            "--allow-untrusted", help="Let a judge work that fails its self-test; its labels say so and never count."
        ),
    ] = False,
    estimate: Annotated[bool, typer.Option("--estimate", help="Say what it would take, and stop.")] = False,
    shard: Annotated[
        str | None, typer.Option(help="Part i/n of the pairs, for several processes.", show_default="all")
    ] = None,
    engine: Annotated[Engine, typer.Option(help="Judge in this process, or in Ray actors.")] = Engine.here,
    actors: Annotated[int, typer.Option(min=1, help="Actors of --engine ray, each with a judge of its own.")] = 1,
) -> Any:
    """Let a machine answer every segment of every pair.

    metric: no weights, by sharpness and temporal stability; a weak judge, good for trying the loop.

    vlm: a vision-language model behind any OpenAI-compatible service; needs --base-url and --model.

    reward: a video reward model in an environment of its own; needs --reward-command (densedpo doctor --setup list).

    local: a vision-language model in this process (Qwen-VL); needs --model, a folder or hub name.
    """
    from densedpo.errors import ConfigError
    from densedpo.labels.judges.estimate import estimate as estimate_of
    from densedpo.labels.judges.ledger import Prices
    from densedpo.labels.judges.run import JudgeSummary, plan_judging
    from densedpo.labels.judges.turn import judges_turn
    from densedpo.observe import say
    from densedpo.store.shard import Shard, parse_shard

    label, settings = call.settings.label, call.settings.judge
    part = parse_shard(shard) if shard else Shard()
    how: dict[str, Any] = {"force": force, "alike_below": label.alike_below, "ask": settings.ask, "shard": part}
    if engine is Engine.ray and judge is JudgeName.vlm:
        raise ConfigError("--engine ray: a service is asked by one process; raise judge.parallel instead")
    call.project.need(call.project.pairs_table, "densedpo pairs make")  # before anything is opened or started
    with JUDGES[judge](call) if engine is Engine.here else _spread(judge, call, actors) as seated:
        plan = plan_judging(call.project, seated.judge, label.segment_s, **how)
        prices = Prices(settings.price_input, settings.price_output, settings.image_tokens)
        expected = estimate_of(call.project, seated.judge, plan, prices)
        say(expected.line())
        told = JudgeSummary(skipped=plan.skipped).as_dict() | {"estimate": expected.as_dict(), "self_test": None}
        if estimate:
            return told
        with judges_turn(call.project, seated.judge, label.segment_s, settings.ask, part):
            return told | _judged(call, seated, how, allow_untrusted)


def _judged(call: Call, seated: Seated, how: dict[str, Any], allow_untrusted: bool) -> dict[str, Any]:
    """Test the judge and let it judge; a budget or a service that ends meanwhile stops it."""
    from densedpo.labels.judges.base import BudgetError, ServiceError
    from densedpo.labels.judges.run import judge_pairs, plan_judging
    from densedpo.observe import fail, warn

    told: dict[str, Any] = {}
    try:
        seated, tested = _tested(call, seated, again=how["force"])
        told = {"self_test": tested}
        for check in tested["checks"]:
            if check["name"] in tested["failed"]:
                (warn if allow_untrusted else fail)(f"{check['name']}: {check['sentence']}")
        if not (tested["trusted"] or allow_untrusted):
            told["stopped"] = f"self-test failed: {', '.join(tested['failed'])}"
        else:
            if not tested["trusted"]:
                warn("the judge failed its self-test: all that it says now is marked untrusted and becomes no label")
            segment_s, judge, sent = call.settings.label.segment_s, seated.judge, None
            if seated.batch is not None:
                judge, sent = seated.batch(judge, plan_judging(call.project, judge, segment_s, **how))
            trusted, interrupt = tested["trusted"], seated.interrupt
            before = seated.asked
            found = judge_pairs(call.project, judge, segment_s, **how, trusted=trusted, interrupt=interrupt)
            # questions of segments that were not finished were sent as well
            told |= found.as_dict() | ({"calls": seated.asked - before} if seated.endpoint is not None else {})
            if sent is not None:
                told |= {"batch": asdict(sent), "stopped": found.stopped or sent.stopped}
    except (BudgetError, ServiceError) as error:
        told["stopped"] = str(error)
    if told.get("stopped"):
        fail(told["stopped"])
    if seated.endpoint is not None:
        told["cost"] = seated.endpoint.meter.cost + told.get("batch", {}).get("cost", 0.0)
    return told


def _tested(call: Call, seated: Seated, again: bool) -> tuple[Seated, dict[str, Any]]:
    """Return the judge as it should be asked, and what probe and self-test found; the second needs the first."""
    from densedpo.labels.judges.probing import with_probe
    from densedpo.labels.judges.selftest import SelfTest, self_test

    if seated.probe is None:
        return seated, self_test(call.project, seated.judge, call.settings.label.segment_s, again=again).as_dict()
    found, judge = seated.probe()
    seated = replace(seated, judge=judge)
    tested = SelfTest(())  # of a judge that cannot see there is nothing to test
    if found["passed"]:
        tested = self_test(call.project, judge, call.settings.label.segment_s, again=again)
    return seated, with_probe(tested.as_dict(), found)
