"""`python docs/write_interoperability.py NEW.json OLD.json`: writes docs/interoperability.md of two hosts.

The files are those of tests/host/inside/stock_nodes.py, of the newest host and of the oldest supported one.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

SECTIONS = (
    "Samplers",
    "Guidance",
    "Schedule of the model",
    "Speed and memory",
    "Models, files and LoRA",
    "Latents of picture and sound",
    "Codecs",
    "Texts",
    "Pictures, sound and files",
    "Start options",
)
PAGE = Path(__file__).with_name("interoperability.md")
HEAD = """# Interoperability

What do ComfyUI's own nodes do with the model, the latents and the codecs of this pack? Each row was run on
a CPU in ComfyUI {new}, and again in {old}, with an untrained miniature and clips of 0.6 to 1 s: the property
is what was checked, and a host test checks it again (but for compiling).
*Differs by* is the largest difference of picture / sound beside the largest value, from the clip without the
node unless the property says otherwise. Again, on any host (UNITALK_EMBEDDED names the miniature, else it is
the shipped one):

```
cd ComfyUI
PACK=custom_nodes/ComfyUI-UniTalk
python $PACK/tests/host/inside/stock_nodes.py $PACK new.json
python $PACK/docs/write_interoperability.py new.json old.json
```

The host packs picture and sound into one row of numbers, so what works on numbers one by one works on both;
what asks for channels, rows or columns does not see them, or stops. Samplers and schedulers have a page of
their own: [samplers.md](samplers.md).

A wrong connection (a latent, VAE, CLIP or model of another kind) stops with one sentence that names the node
to use, under stock samplers and decoders too; tests/host/test_interop.py lists them. Two are out of reach:
our text given to another model, and streams of unequal batches under a stock sampler, of which the host says
only that sizes do not match. A picture latent alone is no error: the sampler makes a picture without sound,
and says so on its node.
"""
TABLE = "\n| what | result | property | measured | note | {old} |\n|---|---|---|---|---|---|\n"


def state(row: dict[str, Any]) -> str:
    if "missing" in row:
        return str(row["missing"])
    return "the same" if row["holds"] else f"differs: {row['measured']}"


def line(row: dict[str, Any], old: dict[str, Any]) -> str:
    measured = row.get("measured", row.get("missing")).replace("|", "\\|")
    cells = (row["what"], row["result"], row["claim"], measured, row["note"], state(old))
    return f"| {' | '.join(cells)} |\n"


def page(new: dict[str, Any], old: dict[str, Any]) -> str:
    before = {row["what"]: row for row in old["rows"]}
    text = HEAD.format(new=new["version"], old=old["version"])
    for section in SECTIONS:
        rows = [row for row in new["rows"] if row["section"] == section]
        lines = "".join(line(row, before[row["what"]]) for row in rows)
        text += f"\n## {section}\n" + TABLE.format(old=old["version"]) + lines
    return text


if __name__ == "__main__":
    PAGE.write_text(page(*(json.loads(Path(one).read_text("utf8")) for one in sys.argv[1:])), "utf8")
