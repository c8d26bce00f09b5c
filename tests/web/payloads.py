"""Script in sixty dresses, for captions, names and notes: whatever shows data must show these as text."""

from __future__ import annotations

_VECTORS = (
    "<script>window.pwned=1</script>",
    "<img src=x onerror=window.pwned=1>",
    "<svg onload=window.pwned=1>",
    "<iframe srcdoc='<script>parent.pwned=1</script>'></iframe>",
    "<a href=javascript:window.pwned=1 autofocus onfocus=window.pwned=1>x</a>",
    "<body onload=window.pwned=1>",
    "<video><source onerror=window.pwned=1></video>",
    "<details open ontoggle=window.pwned=1>x</details>",
    "<input autofocus onfocus=window.pwned=1>",
    "{{constructor.constructor('window.pwned=1')()}}",
)
_BREAKOUTS = ("", '">', "'>", "</title>", "</textarea></script>", "-->")
PAYLOADS = [breakout + vector for breakout in _BREAKOUTS for vector in _VECTORS]
