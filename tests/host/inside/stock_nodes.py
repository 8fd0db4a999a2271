"""What do stock nodes do with our model, latents and codecs? Run by a host's Python in its folder:

cd ComfyUI; python PACK/tests/host/inside/stock_nodes.py PACK OUT.json

All rows of the interoperability table, slow ones too. UNITALK_EMBEDDED names a folder with another miniature
than the shipped one. docs/write_interoperability.py makes the page of it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

PACK, OUT = Path(sys.argv[1]), Path(sys.argv[2])
sys.path.insert(1, str(Path.cwd()))
sys.argv = ["stock_nodes", "--cpu"]

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()

import comfy.utils  # noqa: E402
import comfyui_version  # noqa: E402
import on_interop  # noqa: E402, F401  (adds the rows)
import rig  # noqa: E402
import torch  # noqa: E402
from interop import ROWS, outcome, quiet  # noqa: E402

comfy.utils.PROGRESS_BAR_ENABLED = False


def main() -> None:
    torch.set_num_threads(1)
    with torch.inference_mode(), quiet():
        rig.load(PACK)
        rows = [outcome(one) for one in ROWS]
    OUT.write_text(json.dumps({"version": comfyui_version.__version__, "rows": rows}, indent=1), "utf8")


main()
