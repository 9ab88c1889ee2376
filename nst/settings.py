"""What every option may be: one table, by the names of the command line. Defaults stand in conf/.

`nst.config` holds every configuration against it before a stage loads or writes anything.
"""

from __future__ import annotations

from typing import Any

from nst.kinds import Kind, choice, either, flag, listed, mapping, null, number, path, text, whole


def _generations(value: Any) -> Any:
    """null, or a list with a list of options (lists of them may lie in it) per generation, or null for the first."""

    def is_options(entry: Any) -> bool:
        return isinstance(entry, str) or (isinstance(entry, list) and all(map(is_options, entry)))

    if value is None:
        return None
    if not isinstance(value, list) or not value:
        raise ValueError
    if not all(isinstance(entry, list) and is_options(entry) for entry in value[value[0] is None :]):
        raise ValueError
    return value


SIZE = whole(8, 8192)  # px
COUNT = whole()
BATCH = whole(1, 10**6)
SEED = whole(0, 2**32 - 1)
SHARE = number(0, 1)
RATE = number(0, 1, below=True)
SOME = number(0, 1, above=True)
POSITIVE = number(0, 1e9, above=True)
PLACE = null(path())
NAME = text(200, r"(?!.*(^|/)\.{0,2}(/|$)).*", "a name, as a folder may have it")
GENERATIONS = Kind(
    "a list of lists of options, [['model.width=0.35'], ['model.width=0.5']]; or null; null for the first takes"
    " iterate.teacher as it is",
    _generations,
)
SIDE = {
    "augment": choice("randaugment", "standard", "none"),
    "dropout": flag(),
    "stochastic_depth": flag(),
}
TREE: dict[str, Any] = {
    "stage": null(text()),
    "name": NAME,
    "run_dir": path(),
    "seed": SEED,
    "lanes": whole(1, 100_000),
    "overwrite": flag(),
    "max_bad_fraction": SHARE,
    "overrides": listed(text(10**6)),
    "paper": null(mapping()),
    "scale": {
        "label": text(),
        "runs": path(),
        "small": listed(text()),
        "middle": listed(text()),
        "large": listed(text()),
        "student": listed(text()),
        "no_noise": listed(text()),
        "max_images": COUNT,
        "max_clips": COUNT,
        "bin_images_per_class": COUNT,
    },
    "model": {
        "name": text(200),
        "width": number(0, 32, above=True),
        "depth": number(0, 32, above=True),
        "small_images": flag(),
        "train_size": SIZE,
        "test_size": SIZE,
        "dropout": RATE,
        "checkpoint": PLACE,
        "remat": flag(),
    },
    "data": {
        "name": NAME,
        "root": path(),
        "labeled": path(),
        "unlabeled": PLACE,
        "test": PLACE,
        "labeled_per_class": null(COUNT),
        "test_samples": null(whole(0)),
        "unlabeled_samples": null(whole(0)),
        "source": {
            "name": text(100),
            "root": either(path(), listed(path(), least=1)),
            "labeled": null(flag()),
            "download": null(flag()),
        },
        "pictures": {
            "small": flag(),
            "flip": flag(),
            "cutout": whole(0, 8192),
            "pad": whole(0, 4096),
            "resize": choice("antialias", "fast", "official"),
        },
    },
    "noise": {
        "min_area": SOME,
        "crop_sampler": choice("torchvision", "official"),
        "crop_resize": choice("fast", "antialias", "official"),
        "dropout": RATE,
        "stochastic_depth": RATE,
        "labeled": SIDE,
        "unlabeled": SIDE,
        "randaugment": {
            "variant": choice("official", "fixed", "timm", "torchvision"),
            "num_ops": whole(0, 20),
            "magnitude": number(0, 100),
        },
    },
    "teacher": {
        "run": PLACE,
        "checkpoint": PLACE,
        "mode": choice("offline", "online"),
        "targets": choice("soft", "hard"),
        "temperature": POSITIVE,
        "image_size": null(SIZE),
        "predictions": PLACE,
        "selection": PLACE,
        "reassign": flag(),
        "student": null(text(200)),
    },
    "student": {
        "labeled_batch_size": BATCH,
        "unlabeled_ratio": whole(0, 1000),
        "epochs": POSITIVE,
        "steps": null(COUNT),
        "weight_decay": number(0, 1000),
        "label_smoothing": RATE,
        "loss_average": choice("sum", "joint"),
        "ema_decay": RATE,
        "batchnorm_momentum": SOME,
        "gradient_clip": null(POSITIVE),
        "frozen_blocks": whole(0, 10000),
        "validate_every": null(COUNT),
        "checkpoint_every": COUNT,
        "log_every": COUNT,
        "optimizer": {
            "name": choice("rmsprop", "adamw", "sgd"),
            "rate_per_256": number(0, 1e12, above=True),
            "*": either(flag(), number(-1e9, 1e9), listed(number(-1e9, 1e9))),  # torch's and timm's own, by their names
        },
        "schedule": {
            "kind": choice("exponential", "cosine", "constant"),
            "warmup_epochs": number(0, 1e9),
            "decay_rate": SOME,
            "decay_epochs": POSITIVE,
            "final_rate_per_256": null(POSITIVE),
            "staircase": flag(),
        },
        "finetune": {
            "epochs": number(0, 1e6),
            "image_size": SIZE,
            "frozen_blocks": whole(0, 10000),
            "rate_per_256": number(0, 1e12, above=True),
            "labeled_batch_size": BATCH,
        },
    },
    "select": {
        "method": choice("exact", "official"),
        "min_confidence": SHARE,
        "max_confidence": null(SHARE),
        "images_per_class": null(COUNT),
        "allow_empty_classes": flag(),
        "max_copies": null(COUNT),
        "fraction": SOME,
        "threads": null(whole(1, 4096)),
        "memory_limit": text(20, r"\d{1,6}(\.\d+)? ?[KMGT]i?B", "a size such as 4GB"),
    },
    "trainer": {
        "accelerator": choice("cpu", "gpu", "xla"),
        "devices": either(whole(1, 4096), choice("auto")),
        "num_nodes": whole(1, 100000),
        "strategy": choice("auto", "ddp"),
        "channels_last": flag(),
        "compile": flag(),
        "precision": choice("32-true", "bf16-mixed", "16-mixed"),
        "accumulate": whole(1, 10_000),
        "deterministic": either(flag(), choice("warn")),
        "workers": whole(0, 1024),
        "prefetch": whole(1, 1024),
        "device": choice("cpu", "tpu"),
        "virtual_devices": whole(1, 64),
        "many_hosts": flag(),
        "gradient_dtype": choice("float32", "bfloat16"),
        "fast_compile": flag(),
        "guard": {
            "action": choice("warn", "stop"),
            "compiles": whole(1, 1000),
        },
    },
    "eval": {
        "batch_size": BATCH,
        "image_size": null(SIZE),
        "confusion": flag(),
        "side": null(SIZE),
        "corruptions": null(either(text(100), listed(text(100)))),
        "severities": listed(whole(1, 5), least=1),
        "perturbations": null(either(text(100), listed(text(100)))),
        "difficulties": listed(whole(1, 3), least=1),
        "jpeg_quality": null(either(whole(1, 100), choice("auto"))),
        "resize_to": null(SIZE),
        "real_labels": PLACE,
        "max_images": null(COUNT),
        "max_clips": null(COUNT),
        "seed": SEED,
        "baseline": PLACE,
        "every": null(COUNT),
        "frost_folder": PLACE,
        **dict.fromkeys(("imagenet_val", "imagenet_a", "imagenet_r", "imagenet_v2", "imagenet_sketch"), PLACE),
        **dict.fromkeys(("imagenet_real", "imagenet_c", "imagenet_c_299", "imagenet_p", "imagenet_p_299"), PLACE),
        **dict.fromkeys(("cifar_c", "cifar_p"), PLACE),
        "attacks": {
            "*": {  # any name
                "epsilons": listed(number(0, 255), least=1),  # in 1/255
                "steps": whole(1, 10_000),
                "step_size": null(number(0, 255, above=True)),
                "random_start": flag(),
            },
        },
    },
    "logger": {
        "table": flag(),
        "wandb": {
            "project": text(128),
            "entity": null(text(128)),
            "group": null(text(128)),
            "mode": choice("auto", "online", "offline", "disabled"),
            "tags": listed(text(64)),
        },
    },
    "shard": {
        "output": path(),
        "verify": flag(),
        "index": PLACE,
        "exclude": null(either(flag(), path(), listed(path()))),
        "exclude_distance": null(whole(0, 64)),
        "workers": null(whole(1, 1024)),
        "samples_per_shard": whole(1, 10**7),
        "check_images": flag(),
    },
    "remote": {
        "cache": PLACE,
        "cache_gb": null(number(0, 1e9, above=True)),
        "attempts": whole(1, 1000),
        "wait_s": number(0, 3600),
        "shards_at": null(listed(path())),
    },
    "label": {
        "batch_size": BATCH,
        "keep": SHARE,
        "precision": choice("auto", "32-true", "bf16-true"),
        "engine": choice("lightning", "ray"),
        "ray": {
            "address": null(text()),
            "cpus": null(whole(1, 4096)),
            "gpus": null(whole(0, 64)),
            "retries": whole(-1, 10**6),
        },
    },
    "iterate": {
        "teacher": PLACE,
        "report": flag(),
        "generations": GENERATIONS,
    },
    "evaluate": {
        "output": PLACE,
    },
    "report": {
        "runs": null(listed(path())),
        "examples": whole(0, 10000),
        "table": null(whole(1, 99)),
        "figure": null(whole(1, 99)),
        "wandb": flag(),
        "wandb_workspace": flag(),
    },
    "doctor": {
        "accept": listed(text(100)),
        "compare_images": whole(0),
    },
    "export": {
        "format": choice("timm", "onnx", "nst"),
        "output": PLACE,
        "input": choice("uint8", "normalized"),
    },
    "plan": {
        "hardware": null(text(100)),
        "utilization": null(SOME),
        "measured": PLACE,
        "classes": null(BATCH),
        "labeled_images": null(COUNT),
        "unlabeled_images": null(whole(0)),
        "selected_images": null(whole(0)),
        "image_kilobytes": null(number(0, 1e9, above=True)),
        "compile": flag(),
        "output": PLACE,
    },
}
NULLABLE = ("scale", "logger.wandb", "eval.attacks", "eval.attacks.*")  # groups that may be null
