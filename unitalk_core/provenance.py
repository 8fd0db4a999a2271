"""Where a clip comes from, as tags of its container: made by AI, by which models, from which seeds and words.

The words are not told, only their SHA-256: who knows them can show that the clip was made from them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence

from . import __version__

SOFTWARE = f"ComfyUI-UniTalk {__version__}"
# the IPTC's term for what a trained model has made, as photo and video archives read it
SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"


def words_hash(*parts: str) -> str:
    """SHA-256 of scene, speech and sound (or of one text), one a line; each without space around it."""
    return hashlib.sha256("\n".join(part.strip() for part in parts).encode()).hexdigest()


def provenance_tags(
    models: Sequence[str], seeds: Mapping[str, int], words: Sequence[str]
) -> dict[str, str | dict]:
    """Tags for a container. words: hashes of `words_hash`.

    `comment`, which players show, says it in a sentence; `digital_source_type` in the IPTC's term;
    `provenance` holds all of it as an object.
    """
    parts = [f"model {', '.join(models)}" * bool(models)]
    parts += [f"{name} {seed}" for name, seed in seeds.items()]
    parts += [f"words sha256 {', '.join(one[:12] for one in words)}" * bool(words)]
    told = {"software": SOFTWARE, "models": list(models), "seeds": dict(seeds), "words_sha256": list(words)}
    return {
        "comment": ", ".join(["Made by AI", SOFTWARE, *filter(None, parts)]),
        "digital_source_type": SOURCE_TYPE,
        "provenance": {"made_by": "AI"} | told,
    }


def as_text(tags: Mapping[str, str | dict]) -> dict[str, str]:
    """Tags as a container holds them: objects as JSON."""
    return {name: one if isinstance(one, str) else json.dumps(one) for name, one in tags.items()}
