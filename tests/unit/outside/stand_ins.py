"""Stand-ins for outside models: small adapter scripts, each with one habit, run by a plain Python of their own."""

from __future__ import annotations

import sys
from pathlib import Path

import densedpo.outside.adapter

ADAPTER_FOLDER = str(Path(densedpo.outside.adapter.__file__).parent)

_HEAD = f"""
import ctypes, json, os, signal, sys, time
sys.path.insert(0, {ADAPTER_FOLDER!r})
from adapter import serve

def size(video, prompt=""):
    return {{"quality": float(os.path.getsize(video)), "words": float(len(prompt.split()))}}
"""


def command(folder: Path, body: str, name: str = "adapter.py") -> list[str]:
    """Write an adapter script and return what starts it: isolated, so that nothing of this environment is found."""
    folder.mkdir(parents=True, exist_ok=True)
    script = folder / name
    script.write_text(_HEAD + body, encoding="utf-8")
    return [sys.executable, "-I", "-S", str(script)]


GOOD = """
serve(lambda: size, name="size", version="1", scores=["quality", "words"])
"""

# Breaks down on videos whose name says how.
MOODY = """
def load():
    def score(video, prompt):
        name = os.path.basename(video)
        if name.startswith("die"):
            os.kill(os.getpid(), signal.SIGKILL)
        if name.startswith("exit"):
            sys.stderr.write("out of memory on device 0\\n")
            os._exit(3)
        if name.startswith("hang"):
            open(video + ".begun", "w").close()
            time.sleep(600)
        if name.startswith("raise"):
            raise ValueError("no such\\ncodec")
        if name.startswith("nan"):
            return {"quality": float("nan"), "words": 0}
        if name.startswith("none"):
            return None
        return size(video, prompt)
    return score

serve(load, name="moody", scores=["quality", "words"])
"""

BATCHED = """
def load():
    def score(videos, prompts):
        if any("die" in os.path.basename(video) for video in videos):
            os._exit(9)
        together = float(len(videos))
        found = [dict(size(video, prompt), words=together) for video, prompt in zip(videos, prompts)]
        bad = [os.path.basename(video).startswith("bad") for video in videos]
        return [ValueError("bad one") if wrong else one for one, wrong in zip(found, bad)]
    return score

serve(load, name="batched", scores=["quality", "words"], batch=4)
"""

# Prints whatever libraries print, from Python and from C, before, while and after loading.
CHATTY = """
print("importing")
def load():
    print("loading weights: 100%")
    ctypes.CDLL(None).puts(b"from C")
    os.write(1, b"straight to the descriptor\\n")
    def score(video, prompt):
        print('densedpo:{"id": 1, "scores": {"quality": 666, "words": 666}}')
        os.system("echo from a child of the child")
        return size(video, prompt)
    return score

serve(load, name="chatty", scores=["quality", "words"])
"""


def raw(lines: str) -> str:
    """Return an adapter made by hand, without our module: says hello, then runs ``lines`` for every request."""
    return f"""
def say(text):
    sys.stdout.write(text + "\\n")
    sys.stdout.flush()

say('densedpo:' + json.dumps({{"densedpo": 1, "name": "raw", "scores": ["quality"], "batch": 1}}))
for line in sys.stdin:
    asked = json.loads(line)
    answer = {{"id": asked["id"], "scores": {{"quality": 1.0}}}}
    name = os.path.basename(asked["video"])
{chr(10).join("    " + line for line in lines.splitlines())}
"""
