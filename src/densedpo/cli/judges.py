"""``label judge``: choose a judge, test it, let it answer. A new judge is one file and one entry in ``JUDGES``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from densedpo.cli.app import label_app
from densedpo.cli.verb import Call, verb

if TYPE_CHECKING:
    from densedpo.labels.judges.base import Judge
    from densedpo.labels.judges.endpoint import Endpoint


class JudgeName(StrEnum):
    """Judges that can be asked."""

    metric = "metric"
    vlm = "vlm"


@dataclass(frozen=True)
class Seated:
    """A judge ready to work, and the service behind it if there is one."""

    judge: Judge
    endpoint: Endpoint | None = None

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
    from densedpo.labels.judges.endpoint import Endpoint
    from densedpo.labels.judges.replies import Replies
    from densedpo.labels.judges.vlm import VlmJudge

    settings = call.settings.judge
    with Replies(call.project.judge_replies) as replies, Endpoint(settings, replies) as endpoint:
        yield Seated(VlmJudge(endpoint, settings), endpoint)


JUDGES: dict[JudgeName, Callable[[Call], AbstractContextManager[Seated]]] = {
    JudgeName.metric: _metric,
    JudgeName.vlm: _vlm,
}


@verb(label_app, "judge", sections=("label", "judge"), fails_on="stopped")
def label_judge(
    call: Call,
    judge: Annotated[JudgeName, typer.Option(help="Which judge.")] = JudgeName.metric,
    force: Annotated[
        bool, typer.Option(help="Judge again what already has this judge's answer; known replies cost nothing.")
    ] = False,
    allow_untrusted: Annotated[
        bool, typer.Option(help="Let a judge work that fails its self-test; its labels say so and never count.")
    ] = False,
    estimate: Annotated[bool, typer.Option("--estimate", help="Say what it would take, and stop.")] = False,
) -> Any:
    """Let a machine answer every segment of every pair.

    metric: no weights, by sharpness and temporal stability; a weak judge, good for trying the loop.
    vlm: a vision-language model behind any OpenAI-compatible service; needs --base-url and --model.
    """
    with JUDGES[judge](call) as seated:
        return _judged(call, seated, force, allow_untrusted, estimate)


def _judged(call: Call, seated: Seated, force: bool, allow_untrusted: bool, only_estimate: bool) -> dict[str, Any]:
    from densedpo.labels.judges.estimate import estimate
    from densedpo.labels.judges.ledger import Prices
    from densedpo.labels.judges.run import JudgeSummary, judge_pairs, plan_judging
    from densedpo.observe import say

    label, settings = call.settings.label, call.settings.judge
    how: dict[str, Any] = {"force": force, "alike_below": label.alike_below, "ask": settings.ask}
    plan = plan_judging(call.project, seated.judge, label.segment_s, **how)
    prices = Prices(settings.price_input, settings.price_output, settings.image_tokens)
    expected = estimate(call.project, seated.judge, plan, prices)
    say(expected.line())
    if only_estimate:
        return {**JudgeSummary(skipped=plan.skipped).as_dict(), "estimate": expected.as_dict()}
    del allow_untrusted  # TODO self-test
    found = judge_pairs(call.project, seated.judge, label.segment_s, **how, interrupt=seated.interrupt)
    return {**found.as_dict(), "estimate": expected.as_dict()}
