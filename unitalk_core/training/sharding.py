"""A model over several processes, sharded (FSDP2) or replicated (DDP), and its tensors in files.

`accelerate launch` decides: its setting `use_fsdp` shards; without it, several processes replicate.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from .trainee import Trainee

if TYPE_CHECKING:
    from accelerate import Accelerator

FILE_BYTES = 4 * 2**30  # a file is put together in memory before it is written
PRECISIONS = {"fp32": None, "bf16": torch.bfloat16}


def spread(trainee: Trainee, accelerator: Accelerator, precision: str) -> nn.Module:
    """What the processes of this launch train together; its optimiser is made afterwards.

    Sharded, it is `trainee` itself. precision: "fp32" or "bf16", of computation; gradients meet in float32.
    """
    if not sharded(accelerator):
        _keep_frozen_apart(trainee)
        return accelerator.prepare_model(trainee)
    version = os.environ.get("FSDP_VERSION", "1")
    if version != "2":
        raise ValueError(f"fsdp_version must be 2 in the configuration of accelerate, got {version}")
    if (dtype := PRECISIONS[precision]) is not None:
        for one in (trainee, trainee.model):  # each may be called by itself
            one.forward = torch.autocast(accelerator.device.type, dtype)(one.forward)
    shard(trainee, precision)
    trainee._get_fsdp_state()._lazy_init()  # else the first that is called takes itself for the root
    return trainee


def _keep_frozen_apart(trainee: nn.Module) -> None:
    """Let DDP neither send nor watch what does not learn: every process has read the same file."""
    frozen = [name for name, one in trainee.named_parameters() if not one.requires_grad]
    frozen += [name for name, _ in trainee.named_buffers()]
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(trainee, frozen)


def sharded(accelerator: Accelerator) -> bool:
    """Whether this launch shards: it was asked to, and there is more than one process."""
    return accelerator.num_processes > 1 and os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"


def shard(trainee: Trainee, precision: str = "fp32") -> None:
    """Shard in place, over all processes: each block is a unit, then the rest of the model, then the encoder.

    What learns is brought to float32, the dtype of its gradients and moments. Every process must run the
    same blocks in the same order: all of them train the same task at a time.
    """
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view")  # changed by nobody
    policy = MixedPrecisionPolicy(
        param_dtype=PRECISIONS[precision],
        reduce_dtype=torch.float32,
        cast_forward_inputs=False,  # timesteps and residuals stay in float32
    )
    for unit in units(trainee):
        for parameter in unit.parameters():
            if parameter.requires_grad and not isinstance(parameter, DTensor):
                parameter.data = parameter.data.float()
        fully_shard(unit, mp_policy=policy, reshard_after_forward=True)


def units(trainee: Trainee) -> Iterator[nn.Module]:
    """What is gathered at a time, from the inside out; each is entered by a call."""
    for stream in trainee.model.streams.present():
        yield from stream.blocks
    yield trainee.model
    if trainee.text_encoder is not None:
        yield trainee.text_encoder
    yield trainee


def gathered(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Whole tensors, on the CPU, from sharded or plain ones: for the first process, nothing for the others.

    All processes call this with the same names.
    """
    first, found = not dist.is_initialized() or dist.get_rank() == 0, {}
    for name, one in tensors.items():
        whole = one.detach().full_tensor() if isinstance(one, DTensor) else one.detach()
        if first:
            found[name] = whole.cpu()
    return found


def save_sharded(tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Write tensors, whole or sharded, as safetensors into `folder`; each process writes its share.

    All processes call this with the same names. OSError if it cannot be written.
    """
    writer = dcp.HuggingFaceStorageWriter(str(folder), _file_numbers(tensors), save_distributed=True)
    with _one_sentence(OSError, f"{folder} cannot be written"):
        dcp.save(dict(tensors), storage_writer=writer, no_dist=not dist.is_initialized())


def load_sharded(tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Fill tensors, whole or sharded, in place; as many processes as one likes have written them.

    ValueError for a damaged file, or one with other names or shapes; then nothing has changed.
    """
    reader = dcp.HuggingFaceStorageReader(str(folder))
    with _one_sentence(ValueError, f"{folder} is damaged"):
        found = {name: tuple(one.size) for name, one in reader.read_metadata().state_dict_metadata.items()}
    want = {name: tuple(one.shape) for name, one in tensors.items()}
    if found != want:
        wrong = sorted(name for name in found.keys() | want.keys() if found.get(name) != want.get(name))
        raise ValueError(
            f"{folder} does not fit: {len(wrong)} of {len(want)} tensors differ, such as {wrong[0]} "
            f"({found.get(wrong[0], 'missing')} for {want.get(wrong[0], 'none')})"
        )
    with _one_sentence(ValueError, f"{folder} is damaged"):
        dcp.load(dict(tensors), storage_reader=reader, no_dist=not dist.is_initialized())


def read_sharded(folder: Path) -> dict[str, Tensor]:
    """Every tensor of a folder that `save_sharded` wrote, whole, in one process."""
    reader = dcp.HuggingFaceStorageReader(str(folder))
    with _one_sentence(ValueError, f"{folder} is damaged"):
        found = reader.read_metadata().state_dict_metadata
    tensors = {name: torch.empty(one.size, dtype=one.properties.dtype) for name, one in found.items()}
    load_sharded(tensors, folder)
    return tensors


def _file_numbers(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """name -> number of the file that holds its shares, from 1."""
    numbers, written = {}, 0
    for name, one in tensors.items():
        numbers[name] = 1 + written // FILE_BYTES
        written += one.numel() * one.element_size()
    return numbers


@contextmanager
def _one_sentence(kind: type[Exception], what: str) -> Iterator[None]:
    """Errors of torch's checkpoints as `kind`, and no warning that there is one process only."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is")
            yield
    except dcp.CheckpointException as error:
        cause = next(iter(error.failures.values()))[0]
        raise kind(f"{what} ({cause})") from error
    except (SafetensorError, OSError, ValueError) as error:
        raise kind(f"{what} ({error})") from error
