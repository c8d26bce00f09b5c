"""What a study asks: the four questions of the paper's user study in words of our own, or those of a file.

Text alignment, visual quality, temporal consistency and dynamic degree (paper, section 5). Each is asked by itself:
a calm video may look better and still lose on movement.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from densedpo.errors import ConfigError
from densedpo.keys import content_id
from densedpo.labels.people.forms import Question

GUIDELINES = "1"  # raised when the page's instructions change what an answer means
_AT_MOST = 12

QUESTIONS: tuple[Question, ...] = (
    Question(
        code="text_alignment",
        name="Text alignment",
        text="Which video shows better what the text says?",
        hint="All that is named is there, looks as it is described and does what the text says.",
    ),
    Question(
        code="visual_quality",
        name="Visual quality",
        text="Which video has the better pictures?",
        hint="Sharp, clean and well formed: no smears, no bent limbs, no strange shapes. Leave movement aside.",
    ),
    Question(
        code="temporal_consistency",
        name="Temporal consistency",
        text="Which video holds together better over time?",
        hint="Things keep shape, number and place; nothing flickers, melts, jumps or vanishes.",
    ),
    Question(
        code="dynamic_degree",
        name="Dynamic degree",
        text="Which video has more movement?",
        hint="More and larger movement of things or camera, whether you like it or not.",
    ),
)


def load_questions(file: Path | None) -> tuple[Question, ...]:
    """Return the questions of a YAML or JSON file, a list of {code, name, text, hint}; ours without a file.

    Raises:
        ConfigError: naming the file and what is wrong with it.
    """
    if file is None:
        return QUESTIONS
    try:
        given: Any = yaml.safe_load(file.read_text(encoding="utf-8"))
        found = TypeAdapter(tuple[Question, ...]).validate_python(given)
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read ({error.strerror})") from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{file}: not YAML ({' '.join(str(error).split())})") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise ConfigError(f"{file}: {where}: {first['msg']}; write a list of code, name, text and hint") from None
    codes = [question.code for question in found]
    if not 1 <= len(codes) <= _AT_MOST or len(set(codes)) < len(codes):
        raise ConfigError(f"{file}: needs 1 to {_AT_MOST} questions with different codes, has {', '.join(codes)}")
    return found


def questions_digest(questions: Sequence[Question]) -> str:
    """Return what identifies the words that people were asked."""
    return content_id("study", GUIDELINES, [question.model_dump() for question in questions])
