"""`python tests/host/inside PACK OUT.json`, started in a ComfyUI's folder: measure, and write it down."""

from __future__ import annotations

import json
import sys
import traceback
from pathlib import Path
from typing import Any

PACK, OUT = Path(sys.argv[1]), Path(sys.argv[2])
sys.path.insert(1, str(Path.cwd()))
sys.argv = ["inside", "--cpu", "--preview-method", "latent2rgb"]

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()

import on_codec_files  # noqa: E402, F401
import on_evaluation  # noqa: E402, F401
import on_files  # noqa: E402, F401
import on_guidance  # noqa: E402, F401
import on_interop  # noqa: E402, F401
import on_latents  # noqa: E402, F401
import on_model  # noqa: E402, F401
import on_nodes  # noqa: E402, F401
import on_runs  # noqa: E402, F401
import on_sampling  # noqa: E402, F401
import on_solving  # noqa: E402, F401
import on_tasks  # noqa: E402, F401
import on_text_encoders  # noqa: E402, F401
import on_voices  # noqa: E402, F401
import on_wrong  # noqa: E402, F401
import rig  # noqa: E402
import torch  # noqa: E402


def main() -> None:
    torch.set_num_threads(1)
    results: dict[str, Any] = {}
    with torch.inference_mode():
        rig.load(PACK)
        for name, function in rig.MEASUREMENTS.items():
            try:
                results[name] = {"value": function()}
            except rig.MissingError as missing:
                results[name] = {"missing": str(missing)}
            except Exception:
                results[name] = {"error": traceback.format_exc()}
    OUT.write_text(json.dumps(results, indent=1), "utf8")


main()
