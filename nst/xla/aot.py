"""Ahead of time: a train step compiled for TPUs that are not there, by the TPU compiler itself.

The extra `aot` (jax, libtpu) brings the compiler and descriptions of slices of every size. Tracing and compiling each
get a process of their own: torch_xla and jax bring a runtime each, and the memory of the first must be free before
the second begins (EfficientNet-L2 on 2,048 cores needs some 20 GB for either).

The trace is of the global batch on one device, and the sharding is annotated on its inputs here: rows of the batch are
divided, all else is replicated. The compiler's partitioner then makes the same program as from training's own SPMD
trace.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from nst.errors import NstError
from nst.xla.program import Compiled, Program, TrainStep, collectives

NEEDED = ("torch_xla", "jax", "libtpu")
# no metadata server is asked, and of the libraries' notes only errors are shown
QUIET = {"TPU_SKIP_MDS_QUERY": "1", "TPU_ACCELERATOR_TYPE": "v3-8", "TF_CPP_MIN_LOG_LEVEL": "3"}
TRACING = {**QUIET, "PJRT_DEVICE": "CPU", "CPU_NUM_DEVICES": "1"}
COMPILING = {**QUIET, "JAX_PLATFORMS": "cpu", "TPU_WORKER_HOSTNAMES": "localhost", "TPU_STDERR_LOG_LEVEL": "3",
             "XLA_FLAGS": ""}  # fmt: skip
# the halves of a v4 chip work as one, as torch_xla sees them; v5p's do by default
CHIP_CONFIGS = {"v4": "megacore"}
# v3 takes 3,294 inputs of a program at most; many are passed as one tuple
TUPLED_ABOVE = 2000


def compile_step(step: TrainStep, topology: str) -> Compiled:
    """The step as the compiler sees it on a slice such as "v3:32x32".

    Raises:
        NstError: the extra is not installed, the slice does not exist, the step does not fit into a core's memory,
            or this machine's memory was too small.
    """
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise NstError(f"plan.compile needs {', '.join(missing)}", next="NST_EXTRAS=aot bin/install")
    _alone(COMPILING, _require_slice, topology, step.cores)
    with tempfile.TemporaryDirectory() as folder:
        program = _alone(TRACING, _lower, step, Path(folder) / "step.pb")
        return _alone(COMPILING, _compile, program, topology, step.cores)


def _alone(environment: Mapping[str, str], function: Callable[..., Any], *arguments: Any) -> Any:
    """`function(*arguments)` in a fresh process with that environment."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context, initializer=_set_environment, initargs=(dict(environment),)) as pool:
        try:
            return pool.submit(function, *arguments).result()
        except BrokenProcessPool as error:
            raise NstError(
                "the compiler was killed",
                got="most likely this machine's memory is too small",
                valid="EfficientNet-L2 with 8,192 images takes about 22 GB",
                next="a machine with more memory, or a smaller student.labeled_batch_size and plan.hardware",
            ) from error


def _set_environment(environment: Mapping[str, str]) -> None:
    os.environ.update(environment)


def _lower(step: TrainStep, path: Path) -> Program:
    from nst.xla.lowering import lower  # loads torch_xla, whose environment is set by now

    return lower(step, path)


def _compile(program: Program, topology: str, cores: int) -> Compiled:
    """Compiles for `cores` cores; for a process that does nothing else."""
    from jax.errors import JaxRuntimeError
    from jaxlib import xla_client

    devices = _devices(topology, cores)
    module, options = _annotated(program, cores), _options(program, cores)
    began = time.monotonic()
    try:
        executable = devices[0].client.compile(module, xla_client.DeviceList(tuple(devices)), options)
    except JaxRuntimeError as error:
        raise _refusal(error, topology) from error
    memory, costs = executable.get_compiled_memory_stats(), executable.cost_analysis()
    costs = costs[0] if isinstance(costs, list) else costs
    return Compiled(
        arguments=memory.argument_size_in_bytes,
        outputs=memory.output_size_in_bytes,
        aliased=memory.alias_size_in_bytes,
        temporaries=memory.temp_size_in_bytes,
        code=memory.generated_code_size_in_bytes,
        flops=costs["flops"],
        collectives=collectives(executable.hlo_modules()[0].to_string().splitlines()),
        seconds=time.monotonic() - began,
    )


def _require_slice(topology: str, cores: int) -> None:
    """Tells of a slice that does not exist before the step is traced, which takes minutes for a large network."""
    _devices(topology, cores)


def _devices(topology: str, cores: int) -> list[Any]:
    from jax.errors import JaxRuntimeError
    from jax.experimental.topologies import get_topology_desc

    kind = topology.partition(":")[0]
    options = {"chip_config_name": CHIP_CONFIGS[kind]} if kind in CHIP_CONFIGS else {}
    try:
        devices = get_topology_desc(platform="tpu", topology_name=topology, **options).devices
    except JaxRuntimeError as error:
        raise NstError(
            f"the compiler does not know the slice {topology}",
            got=str(error).splitlines()[0],
            valid="whole hosts: each side even, such as v3:4x4, v5e:2x2, v4:2x2x1",
        ) from error
    if len(devices) != cores:
        raise NstError(f"the plan is for another number of cores than {topology} has", got=len(devices), valid=cores)
    return devices


def _annotated(program: Program, cores: int) -> bytes:
    """The program as StableHLO with the sharding of its inputs, and with outputs that take over inputs' memory."""
    from jax._src.interpreters import mlir
    from jaxlib import _jax, xla_client
    from jaxlib.mlir import ir

    # jax has no public way to compile a program that is not its own; its version is pinned
    text = _jax.mlir.xla_computation_to_mlir_module(xla_client.XlaComputation(program.path.read_bytes()))
    program.path.unlink()
    with mlir.make_ir_context():
        module = ir.Module.parse(text)
        main = next(entry for entry in module.body.operations if entry.attributes["sym_name"].value == "main")
        shapes = [tuple(ir.RankedTensorType(argument.type).shape) for argument in main.arguments]
        if shapes != list(program.shapes):
            raise RuntimeError(f"the program has {len(shapes)} inputs in an order that is not that of the trace")
        takers = {number: output for output, number in program.replaced.items()}
        number_type, same = ir.IntegerType.get_signless(32), ir.StringAttr.get("{replicated}")
        attributes = []
        for number, shape in enumerate(program.shapes):
            sharding = ir.StringAttr.get(_rows(len(shape), cores)) if number in program.batch else same
            entry = {"mhlo.sharding": sharding}
            if number in takers:
                entry["tf.aliasing_output"] = ir.IntegerAttr.get(number_type, takers[number])
            attributes.append(ir.DictAttr.get(entry))
        main.attributes["arg_attrs"] = ir.ArrayAttr.get(attributes)
        results = [ir.DictAttr.get({"mhlo.sharding": same})] * len(main.type.results)
        main.attributes["res_attrs"] = ir.ArrayAttr.get(results)
        module.operation.verify()
        return mlir.module_to_bytecode(module)


def _rows(rank: int, cores: int) -> str:
    """The sharding of a tensor whose first dimension is divided among all cores, in XLA's notation."""
    return f"{{devices=[{cores}{',1' * (rank - 1)}]<=[{cores}]}}"


def _options(program: Program, cores: int) -> Any:
    import numpy as np
    from jax._src.compiler import get_compile_options

    options = get_compile_options(
        num_replicas=1,
        num_partitions=cores,
        device_assignment=np.arange(cores).reshape(1, cores),
        use_spmd_partitioning=cores > 1,
    )
    options.executable_build_options.use_shardy_partitioner = False  # the annotations are GSPMD's
    options.parameter_is_tupled_arguments = len(program.shapes) > TUPLED_ABOVE
    return options


def _refusal(error: Exception, topology: str) -> NstError:
    text = str(error)
    if "RESOURCE_EXHAUSTED" in text:
        return NstError(
            f"the step does not fit into the memory of a core of {topology}",
            got=next((line for line in text.splitlines() if "Used" in line or "Ran out" in line), text[:200]),
            next="model.remat=true, a smaller student.labeled_batch_size, or a larger slice",
        )
    return NstError(f"the compiler refuses the step for {topology}", got=text[:400])
