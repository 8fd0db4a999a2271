"""What a training run does, in one frozen value: read from a preset, a YAML or a JSON file, and `key=value`s.

An unknown key, a wrong type and a value out of range are errors of one sentence, all before anything is
loaded. Presets are the YAML files of the folder `presets`; a file of one's own looks the same.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from .tasks import TASKS

PRESETS = Path(__file__).parent / "presets"
FORMATS = (".yaml", ".yml", ".json")
STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Weights = dict[str, Annotated[float, Field(ge=0)]]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LoRA:
    """Low-rank additions to linear layers. targets: parts, such as "audio.self" or "*.ffn"."""

    rank: Count = 16
    alpha: Positive = 16.0
    targets: tuple[str, ...] = ("*.self", "*.cross", "*.reference", "*.ffn")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Drop:
    """How often a condition is left out of a clip, or the coupling out of a step: guidance needs both."""

    text: Share = 0.1
    reference: Share = 0.1
    couple: Share = 0.0


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Noise:
    """How sigma is drawn. shift: None is the model's own; mean, std: of the logit."""

    kind: Literal["uniform", "shifted", "logit-normal"] = "shifted"
    shift: Positive | None = None
    mean: float = 0.0
    std: Positive = 1.0
    shared: bool = True  # one sigma for both streams of a clip


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Loss:
    """Weights of the sum. mouth: lambda of JoVA, equation 6, where a clip has boxes.

    balance: divide each stream's loss by its running mean, so that neither drowns the other.
    alignment: of the guided attention, where a clip says when each phone is heard.
    """

    video: NotNegative = 1.0
    audio: NotNegative = 1.0
    mouth: NotNegative = 5.0
    balance: bool = False
    alignment: NotNegative = 0.0


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Optimizer:
    """AdamW. warmup: steps; width: a layer that sums more inputs than this learns slower in proportion."""

    kind: Literal["adamw", "adamw8bit"] = "adamw"
    learning_rate: Positive = 1e-4
    betas: tuple[Share, Share] = (0.9, 0.999)
    eps: Positive = 1e-8
    weight_decay: NotNegative = 0.01
    clip: Positive = 1.0  # norm of the whole gradient
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup: Annotated[int, Field(ge=0)] = 0
    width: Count | None = None


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Memory:
    """What is traded for memory or speed.

    fp8: the frozen linear layers are held as float8 with a scale per row (LoRA only); offload: blocks wait in
    host memory; checkpointing: blocks are computed again in the backward pass.
    """

    precision: Literal["fp32", "bf16"] = "bf16"
    checkpointing: bool = False
    fp8: bool = False
    offload: bool = False
    compile: bool = False


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Checkpoints:
    """Every so many steps, and how many are kept."""

    every: Count = 100
    keep: Count = 2


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ValidationPrompt:
    """A clip to be made along the way. voice, image: files."""

    say: str = ""
    scene: str = ""
    sound: str = ""
    seconds: Positive | None = None
    seed: Annotated[int, Field(ge=0)] = 0
    voice: str | None = None
    image: str | None = None


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Validation:
    """Clips with sound every so many steps; 0 is never. Without prompts: of the first clips of the data."""

    every: Annotated[int, Field(ge=0)] = 0
    prompts: tuple[ValidationPrompt, ...] = ()
    clips: Count = 2  # how many of the data, where there are no prompts
    steps: Count = 20  # of sampling
    video_cfg: NotNegative = 2.0
    audio_cfg: NotNegative = 2.0


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TrainConfig:
    """A whole run.

    model: "tiny", a folder like it, or a model file. audio: where the sound stream starts when the file lacks
    one: "twin" copies the picture stream, "random" draws it; "stored" takes what is in the file.
    train: parts that are trained whole; with `method` "lora" they come beside the LoRA.
    batch: clips of one step, over all processes; accumulate: passes that a process makes of its share.
    """

    model: str = "tiny"
    audio: Literal["stored", "twin", "random"] = "stored"
    method: Literal["lora", "full"] = "lora"
    lora: LoRA = LoRA()
    train: tuple[str, ...] = ()
    steps: Count = 400
    batch: Count = 4
    accumulate: Count = 1
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    tasks: Weights = Field(default_factory=lambda: {"t2av": 1.0})
    captions: Weights = Field(default_factory=lambda: {"full": 1.0})
    drop: Drop = Drop()
    noise: Noise = Noise()
    loss: Loss = Loss()
    optimizer: Optimizer = Optimizer()
    memory: Memory = Memory()
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    checkpoints: Checkpoints = Checkpoints()
    validation: Validation = Validation()
    tensorboard: bool = False

    def __post_init__(self) -> None:
        if unknown := sorted(self.tasks.keys() - TASKS.keys()):
            raise ValueError(f"tasks knows {', '.join(TASKS)}, got {', '.join(unknown)}")
        for name in ("tasks", "captions"):
            if not sum(getattr(self, name).values()):
                raise ValueError(f"{name} needs at least one weight above 0, got {getattr(self, name)}")
        if self.method == "full" and not self.train:
            raise ValueError('method full trains the parts in train, and there are none; try ["*"]')
        if self.memory.fp8 and self.method == "full":
            raise ValueError("memory.fp8 holds frozen weights and goes with method lora, got full")
        if self.memory.offload and (self.validation.every or self.loss.alignment):
            raise ValueError(
                "memory.offload keeps blocks where neither validation nor loss.alignment can run them; "
                "set validation.every and loss.alignment to 0"
            )
        if self.batch % self.accumulate:
            raise ValueError(f"accumulate must divide batch, got {self.accumulate} and {self.batch}")

    def to_json(self) -> dict[str, Any]:
        return json.loads(json.dumps(asdict(self)))

    @property
    def fingerprint(self) -> str:
        """Of everything that decides the weights: a run may only be resumed with an equal one."""
        decides = {key: value for key, value in self.to_json().items() if key not in WATCHING}
        return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:16]


WATCHING = ("validation", "checkpoints", "tensorboard")  # may differ when a run is resumed
SCHEMA = TypeAdapter(TrainConfig)


def presets() -> list[str]:
    """Names of the configurations that come with the core."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def read_config(preset_or_file: str | Path, changes: Sequence[str] = ()) -> TrainConfig:
    """A preset by its name, or a .yaml or .json file; then each `key.key=value` on top (value as YAML)."""
    data = _read(preset_or_file)
    for change in changes:
        _change(data, change)
    return from_data(data, str(preset_or_file))


def from_data(data: Mapping[str, Any], source: str) -> TrainConfig:
    """ValueError with the place and the nearest known name, for the first thing that is wrong."""
    try:
        return SCHEMA.validate_python(dict(data))
    except ValidationError as error:
        raise ValueError(f"{source}: {_sentence(error.errors()[0])}") from None


def _read(preset_or_file: str | Path) -> dict[str, Any]:
    import yaml

    path = PRESETS / f"{preset_or_file}.yaml"
    if not path.is_file():
        path = Path(preset_or_file)
    if path.suffix not in FORMATS:
        raise ValueError(
            f"there is no preset {preset_or_file}; take {', '.join(presets())}, or a .yaml or .json file"
        )
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}; presets are {', '.join(presets())}")
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))  # JSON is YAML
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(data, dict):
        raise ValueError(f"{path} holds a {type(data).__name__} instead of keys and values")
    return data


def _change(data: dict[str, Any], change: str) -> None:
    import yaml

    key, equals, value = change.partition("=")
    if not equals:
        raise ValueError(f"--set takes key=value, got {change}")
    *above, last = key.strip().split(".")
    for name in above:
        data = data.setdefault(name, {})
        if not isinstance(data, dict):
            raise ValueError(f"--set {change}: {name} holds no keys of its own")
    data[last] = yaml.safe_load(value)


def _sentence(error: Mapping[str, Any]) -> str:
    """What, where, what instead."""
    place = ".".join(str(one) for one in error["loc"] if one != "tagged")
    if error["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        near = difflib.get_close_matches(place, _keys(TrainConfig), n=1)
        return f"there is no key {place}" + (f"; did you mean {near[0]}?" if near else "")
    message = error["msg"].removeprefix("Value error, ")
    if not place:
        return message
    return f"{place}: {message[0].lower()}{message[1:]}, got {error['input']!r}"


def _keys(kind: type, prefix: str = "") -> list[str]:
    """Every key, sections with dots."""
    keys = []
    for one in fields(kind):
        keys.append(prefix + one.name)
        if is_dataclass(one.default):
            keys += _keys(type(one.default), f"{prefix}{one.name}.")
    return keys
