"""The real train step as a program that the TPU compiler reads: traced by torch_xla on the CPU, never executed.

What is traced is the Classifier as training uses it: its step under autocast, backward, gradient norm, optimiser, EMA
and BatchNorm statistics, over the *global* batch. Which inputs of the program are the batch is known by the device
buffer behind them and not by their shape, and so is which output replaces which input.

Nothing is initialised: values do not matter, and a network of L2's size would take its memory several times.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
import torch_xla
from torch import Tensor

from nst.models.networks import build
from nst.settings.learning import Teaching
from nst.training.classifier import Classifier
from nst.training.ensemble import looking_at
from nst.training.fitting import new_network
from nst.training.optim import set_learning_rate
from nst.training.step_sums import TRAIN_METRICS
from nst.training.tensor_rate import prime
from nst.xla.bfloat16 import XlaPrecision
from nst.xla.program import Program, TrainStep
from nst.xla.trainers import XlaHardware

if TYPE_CHECKING:
    from nst.data.batches import Batch


@dataclass(frozen=True)
class PlannedHardware(XlaHardware):
    """XLA's hardware as a Classifier sees it, of any number of cores, none of which is there."""

    cores: int = 1

    def __post_init__(self) -> None:
        """No runtime is configured: this process has one CPU device, on which nothing runs."""

    @property
    def groups(self) -> int:
        return self.cores


def lower(step: TrainStep, path: Path) -> Program:
    """Traces the step and writes it to `path` (an HLO module as protobuf); returns what its inputs and outputs are.

    Raises:
        NstError: the recipe makes no training.
    """
    device = torch_xla.device()
    module = planned_classifier(step, device)
    optimizer = module.configure_optimizers()
    prime(optimizer)
    batch = planned_batch(step, device)
    state = _state(module, optimizer)
    torch_xla.sync(wait=True)
    inputs = {name: _buffer(tensor) for name, tensor in state.items()}
    divided = {_buffer(tensor) for tensor in batch.values()}

    take_step(module, optimizer, batch, XlaPrecision(step.precision, step.gradient_dtype))
    outputs = {**_state(module, optimizer), **_gradients(module)}
    return _write(path, outputs, inputs, divided)


def planned_classifier(step: TrainStep, device: torch.device) -> Classifier:
    """The Classifier that training would build, on the device, its values zero."""
    machine, phase = PlannedHardware(cores=step.cores, accumulate=step.accumulate), step.phase
    with torch.device("meta"):
        network = machine.place(new_network(step.architecture, step.classes, phase, machine, remat=step.remat))
        teacher = None
        if step.teacher is not None:
            teacher = looking_at(machine.place(build(step.teacher[0], step.classes)), step.teacher_turns)
        labels = Teaching(targets=step.targets)
        module = Classifier(network, phase.recipe, phase.noise, phase.schedule, machine, labels=labels, teacher=teacher)
    # one tensor at a time: moved from the host, each has a buffer of its own before it becomes a parameter
    module._apply(lambda tensor: torch.zeros(tensor.shape, dtype=tensor.dtype).to(device))
    module.to(device)
    module.sums = torch.zeros(len(TRAIN_METRICS)).to(device)
    return module.train()


def planned_batch(step: TrainStep, device: torch.device) -> dict[str, Tensor]:
    """The global batch, of any values (`nst.data.batches.TrainingBatches`)."""
    size, unlabeled = step.phase.image_size, step.unlabeled
    shapes: dict[str, tuple[tuple[int, ...], torch.dtype]] = {
        "images": ((step.labeled + unlabeled, 3, size, size), torch.uint8),
        "labels": ((step.labeled,), torch.int64),
    }
    if unlabeled and step.teacher is not None:
        shapes["clean_images"] = ((unlabeled, 3, step.teacher[1], step.teacher[1]), torch.uint8)
    elif unlabeled:
        soft = step.targets == "soft"
        shapes["targets"] = ((unlabeled, step.classes), torch.float32) if soft else ((unlabeled,), torch.int64)
    # empty: pages of the host that nobody writes take no memory
    return {name: torch.empty(shape, dtype=dtype).to(device) for name, (shape, dtype) in shapes.items()}


def take_step(
    module: Classifier, optimizer: torch.optim.Optimizer, batch: dict[str, Tensor], precision: XlaPrecision
) -> None:
    """One training step in the order of Lightning's automatic optimisation, recorded and not executed."""
    set_learning_rate(optimizer, module.schedule.learning_rate(0))
    optimizer.zero_grad()
    with precision.forward_context():
        loss = module.training_step(cast("Batch", batch), 0)
    loss.backward()
    module.on_before_optimizer_step(optimizer)
    optimizer.step()


def _state(module: Classifier, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """What a step takes over from the one before, by name: weights, averages, statistics, optimiser, sums."""
    state = dict(module.state_dict(keep_vars=True))
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    for parameter, values in optimizer.state.items():
        state |= {f"{names[id(parameter)]}/{kind}": value for kind, value in values.items()}
    state["sums"] = module.sums
    return {name: tensor for name, tensor in state.items() if tensor.device.type == "xla"}


def _gradients(module: Classifier) -> dict[str, Tensor]:
    """Gradients that are still held when the step ends: they are results of the program like the state."""
    named = module.named_parameters()
    return {f"{name}/gradient": parameter.grad for name, parameter in named if parameter.grad is not None}


def _buffer(tensor: Tensor) -> int:
    """Address of the device memory behind a tensor that has been computed."""
    return torch_xla._XLAC._unsafe_buffer_pointer(tensor)


def _write(path: Path, outputs: dict[str, Tensor], inputs: dict[str, int], divided: set[int]) -> Program:
    """The program that computes `outputs`, and the meaning of its inputs, in their order."""
    tensors = list(outputs.values())
    _, values = torch_xla._XLAC._get_tensors_xla_device_data_node(tensors)
    buffers = [_buffer(value) for value in values]
    path.write_bytes(torch_xla._XLAC._get_xla_tensors_hlo_proto(tensors))
    return Program(
        path=path,
        shapes=tuple(tuple(value.shape) for value in values),
        batch=_places(buffers, divided),
        replaced=_replaced(list(outputs), inputs, buffers),
    )


def _places(buffers: Sequence[int], wanted: set[int]) -> tuple[int, ...]:
    places = tuple(number for number, buffer in enumerate(buffers) if buffer in wanted)
    if len(places) != len(wanted):
        raise RuntimeError(f"{len(wanted)} tensors of the batch, {len(places)} of them are inputs of the step")
    return places


def _replaced(names: Sequence[str], inputs: dict[str, int], buffers: Sequence[int]) -> dict[int, int]:
    """Number of an output -> number of the input that it replaces; scalars that share a buffer are left out."""
    places = {buffer: number for number, buffer in enumerate(buffers)}
    owners: dict[int, list[int]] = {}
    for output, name in enumerate(names):
        if inputs.get(name) in places:
            owners.setdefault(places[inputs[name]], []).append(output)
    return {outputs[0]: place for place, outputs in owners.items() if len(outputs) == 1}
