"""`nst export`: a trained network → files for other programs, with a model card written from its run.

    export.format=timm   model.safetensors, config.json in timm's hub layout, README.md
    export.format=onnx   model.onnx, README.md
    export.format=nst    a run directory that teacher.run can name, from anybody's released weights

The weights are those that are evaluated and that teach, the averaged ones. A network that timm does not have (small
images, other scalings, L0, L1) is exported without config.json; its safetensors file still describes itself to nst,
and ONNX holds any of them.
"""

from __future__ import annotations

import os
from dataclasses import asdict, replace
from pathlib import Path
from shlex import quote
from typing import Any

from omegaconf import DictConfig

from nst.atomic import known_sha256, write_json, write_text
from nst.config import job_from
from nst.data.shard_set import load_index
from nst.errors import NstError
from nst.finished import final_weights, generation_of
from nst.leftovers import sweep
from nst.models.checkpoints import load_network, save_network
from nst.models.formats import CONFIG_FILE, INPUTS, ONNX_FILE, OUTPUT, WEIGHTS_FILE, hub_config, save_onnx, timm_name
from nst.models.located import ours_at
from nst.models.network_info import TEMPERATURE, NetworkInfo, read_info
from nst.models.networks import Network
from nst.models.released import open_network, weights_digest
from nst.models.timm_architecture import TimmArchitecture
from nst.plan.tables import size
from nst.progress import say
from nst.report.card import model_card
from nst.report.records import Generation
from nst.runs import Run
from nst.settings.job import ExportJob
from nst.shown import without_secrets
from nst.stages.apart import keep_apart
from nst.stages.places import one_network
from nst.training.calibration import fitted
from nst.training.ensemble import pictures_of
from nst.written import begin

CARD_FILE = "README.md"


def run(job: ExportJob, output: Path) -> list[Path]:
    """Writes the network of `model.checkpoint` for timm or as ONNX; returns the files.

    Nothing is kept from an earlier export: an export takes seconds, and files are replaced whole.

    Raises:
        NstError: no weights of ours, or not whole, `output` holds such files that are not nst's, or as `save_onnx`.
    """
    source, form, kind = _source(job), job.export.format, job.export.input
    weights, training = _ours(source), _training_of(source)
    network, info = load_network(weights)
    told = training is not None or "pictures" in info.extra
    whole_image = (pictures_of(weights, info) if told else job.data.pictures).small
    extra = {**info.extra, TEMPERATURE: fitted(weights)}
    info = replace(info, extra={name: value for name, value in extra.items() if value is not None})
    name = timm_name(info.architecture)
    files = [ONNX_FILE] if form == "onnx" else [WEIGHTS_FILE, *([CONFIG_FILE] if name else [])]
    begin(output, *files, CARD_FILE)
    sweep(output)
    if form == "onnx":
        save_onnx(output / ONNX_FILE, network, info, kind)
        use = _onnx_use(info, kind)
    else:
        save_network(output / WEIGHTS_FILE, network.state_dict(), info)
        use = _timm_use(name, info)
        if name:
            write_json(output / CONFIG_FILE, hub_config(name, network, info, whole_image=whole_image), sealed=False)
    title = (training.resolve().parent.name + "/" if training else "") + (training or weights).resolve().name
    card = model_card(
        training, title=title, network=_facts(network, info, weights, whole_image), use=use, classes=info.classes
    )
    write_text(output / CARD_FILE, without_secrets(card))
    return [output / file for file in (*files, CARD_FILE)]


def _facts(network: Network, info: NetworkInfo, weights: Path, whole_image: bool) -> dict[str, str]:
    """What the weights themselves say, for the card."""
    architecture = info.architecture
    if isinstance(architecture, TimmArchitecture):
        called = f"timm's {architecture.name}"
        centre = f"the centre, {architecture.framing(info.image_size).kept:.3g} of the shorter side"
        shown = f"{architecture.interpolation}; mean {architecture.mean}, deviation {architecture.std}"
    else:
        variant = ", variant for small images" if architecture.small_images else ""
        scaling = f"width {architecture.width:g}, depth {architecture.depth:g}{variant}"
        called = f"EfficientNet {architecture.name}: {scaling}".replace("  ", " ")
        centre = "the centre, size / (size + 32) of the shorter side"
        shown = "bicubic; ImageNet's mean and deviation"
    size = f"RGB, {info.image_size} x {info.image_size} px"
    temperature = info.extra.get(TEMPERATURE)
    return {
        "Network": called,
        "Parameters": f"{sum(parameter.numel() for parameter in network.parameters()):,}",
        "Input": f"{size}: {'the whole picture' if whole_image else centre}, {shown}",
        "Trained at": f"{info.train_size} px",
        "Confidences": f"softmax(logits / {temperature:.3g}), by its validation images" if temperature else "",
        "Weights": f"sha256 {known_sha256(weights)}",
    }


def _timm_use(name: str | None, info: NetworkInfo) -> str:
    if name is None:
        return (
            "timm has no network of this scaling, so there is no config.json. The file describes itself to nst:\n\n"
            "```python\nfrom nst.models.checkpoints import load_network\n\n"
            f'network, info = load_network("{WEIGHTS_FILE}")  # normalised images (B, 3, {info.image_size},'
            f" {info.image_size}) to logits\n```\n\nElsewhere, use it as ONNX: `nst export export.format=onnx`."
        )
    return (
        "```python\nimport timm\n\n"
        'network = timm.create_model("local-dir:<this folder>", pretrained=True).eval()\n'
        "# or, with the file alone:\n"
        f'network = timm.create_model("{name}", num_classes={len(info.classes)}, checkpoint_path="{WEIGHTS_FILE}")\n'
        "```\n\n`config.json` has the classes in the order of the logits, and what timm's transforms need to know."
    )


def _onnx_use(info: NetworkInfo, kind: str) -> str:
    size = info.image_size
    values = {"uint8": "uint8, RGB values of 0 to 255", "normalized": "float32, as timm's transforms make them"}[kind]
    return (
        f"Input `{INPUTS[kind]}` (batch, 3, {size}, {size}): {values}."
        f" Output `{OUTPUT}` (batch, {len(info.classes)}).\n\n"
        "```python\nimport onnxruntime\n\n"
        f'session = onnxruntime.InferenceSession("{ONNX_FILE}")\n'
        f'(logits,) = session.run(None, {{"{INPUTS[kind]}": images}})\n'
        'classes = session.get_modelmeta().custom_metadata_map["classes"]  # JSON\n```'
    )


def adopt(job: ExportJob, output: Path) -> dict[str, Any]:
    """Makes a run directory of released weights (a file, hub folder or name of timm's, or anything of ours), so that
    they can teach: teacher.run=<it>. Their logits are the classes of `data.labeled`, in its order, unless they are ours
    and name their own.

    Raises:
        NstError: as `open_network`.
    """
    source = _source(job)
    ours = ours_at(source)
    classes = read_info(ours).classes if ours is not None else load_index(job.data.labeled).classes
    inputs = {"weights": weights_digest(source), "classes": classes}
    with Run(output, "export", inputs, overwrite=job.overwrite) as run_:
        if run_.done:
            final_weights(output)
            return run_.result()
        network, info = open_network(source, classes)
        path = Path("checkpoints") / "trained.safetensors"
        digest = save_network(output / path, network.state_dict(), info)
        write_json(output / path.with_suffix(".json"), {"weights_sha256": digest})
        parameters = sum(parameter.numel() for parameter in network.parameters())
        facts = {"model": info.architecture.name, "architecture": asdict(info.architecture), "parameters": parameters}
        return run_.finish({**facts, "source": str(source), "weights": str(path), "weights_sha256": digest})


def main(cfg: DictConfig) -> None:
    """Reads the configuration and runs the stage."""
    job = job_from(ExportJob, cfg)
    output = _output(job)
    keep_apart(cfg, "export", {"export.output": output})
    if job.export.format == "nst":
        result = adopt(job, output)
        say(f"{output}: {result['model']}, {result['parameters'] / 1e6:.2f}M parameters; teacher.run={output} uses it")
        return
    for file in run(job, output):
        say(f"{file}: {size(os.path.getsize(file))}")


def _source(job: ExportJob) -> str:
    if (source := one_network(job.model.checkpoint, job.stage)) is None:
        raise NstError("nothing to export", next="nst export model.checkpoint=<run directory or weights>")
    return source


def _output(job: ExportJob) -> Path:
    """Where the files go: into the run that is exported, unless the options say otherwise."""
    training = _training_of(_source(job))
    base = training if training is not None else Path(job.run_dir)
    return Path(
        job.export.output or (job.run_dir if job.export.format == "nst" else base / "export" / job.export.format)
    )


def _ours(source: str) -> Path:
    """The file of ours that `source` stands for."""
    if (file := ours_at(source)) is not None:
        return file
    raise NstError(
        f"{source} is a released network already",
        valid="a run directory, or weights written by nst",
        next=f"nst export model.checkpoint={quote(source)} export.format=nst export.output=runs/released"
        " data.root=<shards> makes it one of ours with the classes of these shards; export runs/released then",
    )


def _training_of(source: str) -> Path | None:
    """The directory of the training that made these weights, where the files say so; of a run of `nst iterate` that of
    the generation for which it stands."""
    path = generation_of(Path(source)).resolve()
    folders = [path, path.parent.parent] if path.is_file() else [path]
    return next((folder for folder in folders if Generation(folder).started.get("stage") == "train"), None)
