"""Networks for other programs: timm's hub layout, and ONNX.

An exported file is the network as it is evaluated, averaged weights in eval mode, and says what it must be shown. In
ONNX that is in the input's name: `images_uint8` are RGB values of 0 to 255, normalised within; `images_normalized` are
float32 as timm's transforms make them.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn

from nst.atomic import atomic_path
from nst.errors import NstError
from nst.models.architectures import ARCHITECTURES, AnyArchitecture
from nst.models.efficientnet import IMAGENET_MEAN, IMAGENET_STD
from nst.models.network_info import TEMPERATURE, NetworkInfo
from nst.models.networks import Network
from nst.models.timm_architecture import TimmArchitecture
from nst.models.timm_network import LEVELS, TimmNetwork

WEIGHTS_FILE, CONFIG_FILE, ONNX_FILE = "model.safetensors", "config.json", "model.onnx"
INPUTS = {"uint8": "images_uint8", "normalized": "images_normalized"}  # option → name of the ONNX input
OUTPUT = "logits"
OPSET = 18
CROP_PADDING = 32  # px: the evaluation's crop is size / (size + 32) of the side
DOWNSAMPLING = 32  # of the last feature map


def timm_name(architecture: AnyArchitecture) -> str | None:
    """timm's name of the same network; None for L0, L1, small-image and other scalings, which timm does not have."""
    if isinstance(architecture, TimmArchitecture):
        return architecture.name.partition(".")[0]
    for name, known in ARCHITECTURES.items():
        same = (known.width, known.depth) == (architecture.width, architecture.depth)
        if same and not architecture.small_images and name not in ("efficientnet_l0", "efficientnet_l1"):
            return f"tf_{name}"
    return None


def hub_config(name: str, network: Network, info: NetworkInfo, *, whole_image: bool) -> dict[str, Any]:
    """timm's config.json for a network of timm's `name`.

    Args:
        whole_image: it was evaluated on whole small pictures instead of the centre.
    """
    size, classes, architecture = info.image_size, len(info.classes), info.architecture
    arguments: dict[str, Any] = {}
    shown = {
        "interpolation": "bicubic",
        "crop_pct": crop_share(size),
        "crop_mode": "center",
        "mean": list(IMAGENET_DEFAULT_MEAN),
        "std": list(IMAGENET_DEFAULT_STD),
        "first_conv": "conv_stem",
        "classifier": "classifier",
        "fixed_input_size": False,
    }
    if isinstance(architecture, TimmArchitecture):
        shown |= architecture.pretrained_cfg()
        arguments = architecture.options
    if whole_image:
        shown |= {"crop_pct": 1.0, "crop_mode": "squash"}
    return {
        "architecture": name,
        "num_classes": classes,
        "num_features": network.num_features,
        "label_names": list(info.classes),
        **({"model_args": arguments} if arguments else {}),
        "pretrained_cfg": {
            "input_size": [3, size, size],
            "pool_size": [math.ceil(size / DOWNSAMPLING)] * 2,
            "num_classes": classes,
            **shown,
        },
    }


def crop_share(size: int) -> float:
    """size / (size + 32), such that timm's floor(size / share) is size + 32 again."""
    share = size / (size + CROP_PADDING)
    return share if math.floor(size / share) == size + CROP_PADDING else math.nextafter(share, 0)


class Exported(nn.Module):
    """A network behind a normalisation: RGB (B, 3, H, W) of 0 to 255, in any type, to logits (B, C)."""

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.network = network
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        return self.network((images.float() - self.mean) / self.std)


def _exported(network: Network, kind: str) -> nn.Module:
    """The network behind its own normalisation, or (`normalized`) without any: as timm's transforms show it images."""
    inner = network.body if isinstance(network, TimmNetwork) else network
    if kind == "normalized":
        return inner
    if isinstance(network, TimmNetwork):
        mean, std = ([LEVELS * value for value in of] for of in (network.architecture.mean, network.architecture.std))
        return Exported(inner, mean, std)
    return Exported(inner, IMAGENET_MEAN, IMAGENET_STD)


def save_onnx(path: Path, network: Network, info: NetworkInfo, kind: str) -> None:
    """Writes the network as ONNX: images (batch, 3, image_size, image_size) to logits (batch, classes), any batch.

    The file's metadata has the classes, the image size, what the input is, and the temperature at which confidences
    fit, where it is known.

    Args:
        kind: of input, by `INPUTS`.

    Raises:
        NstError: the package onnx is missing.
    """
    try:
        import onnx
    except ImportError as error:
        raise NstError("ONNX files need the package onnx", next="pip install onnx") from error
    model = _exported(network, kind).eval()
    example = torch.zeros(2, 3, info.image_size, info.image_size)
    names = (INPUTS[kind], OUTPUT)
    with atomic_path(path) as temporary:
        with warnings.catch_warnings(), torch.no_grad():
            # torch advises its newer exporter, which needs two packages more and a dozen times as long
            warnings.simplefilter("ignore", DeprecationWarning)
            # of conditions on sizes, which are fixed: that of the batch is in none
            warnings.simplefilter("ignore", torch.jit.TracerWarning)
            torch.onnx.export(
                model,
                (example.byte() if kind == "uint8" else example,),
                str(temporary),
                input_names=names[:1],
                output_names=names[1:],
                dynamic_axes={name: {0: "batch"} for name in names},
                opset_version=OPSET,
                dynamo=False,
            )
        document = onnx.load(temporary)
        facts = {"classes": json.dumps(list(info.classes)), "image_size": str(info.image_size), "input": INPUTS[kind]}
        if TEMPERATURE in info.extra:
            facts[TEMPERATURE] = f"{info.extra[TEMPERATURE]:.4g}"
        onnx.helper.set_model_props(document, facts)
        onnx.checker.check_model(document)
        onnx.save(document, temporary)
