"""A timm network by its name, and how its weights were shown pictures: files of the network keep both."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nst.errors import UsageError, nearest_few, require_choice
from nst.settings.data import Framing

CROPS = ("center", "squash")  # timm's modes that we know
RESIZES = {"bicubic": "antialias", "bilinear": "bilinear"}  # timm's names of interpolations, and ours


def framing_of(source: str, config: Mapping[str, Any], image_size: int) -> Framing:
    """The crop and interpolation that timm's `pretrained_cfg` asks for.

    Raises:
        NstError: a kind that we do not have.
    """
    crop, interpolation = config.get("crop_mode") or "center", config.get("interpolation") or "bicubic"
    require_choice(f"crop_mode of {source}", crop, CROPS)
    require_choice(f"interpolation of {source}", interpolation, RESIZES)
    # timm resizes to whole pixels first and crops then; the same share is kept
    share = config.get("test_crop_pct") or config.get("crop_pct") or 0.875
    kept = image_size / math.floor(image_size / share)
    return Framing(crop, RESIZES[interpolation], kept)


@dataclass(frozen=True)
class TimmArchitecture:
    """A network by timm's name, and how it is shown pictures.

    Args:
        name: with or without the tag of weights: `convnext_nano`, `convnext_nano.d1h_in1k`.
        train_size, test_size: px. They are the same for a network that is built for one size.
        mean, std: of the images that it was trained on, with values from 0 to 1.
        crop, interpolation, crop_share: of a photograph's clean view, by timm's names.
        arguments: of `timm.create_model` beyond the name: (name, value), sorted.
    """

    name: str
    train_size: int
    test_size: int
    dropout: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop: str
    interpolation: str
    crop_share: float
    arguments: tuple[tuple[str, Any], ...] = ()

    @property
    def fixed_size(self) -> bool:
        """Whether it is built for one image size, as most transformers are."""
        return bool(_config(self.name).get("fixed_input_size"))

    @property
    def options(self) -> dict[str, Any]:
        """What `timm.create_model` must be told beside the name to build it."""
        return {**dict(self.arguments), **({"img_size": self.train_size} if self.fixed_size else {})}

    def pretrained_cfg(self) -> dict[str, Any]:
        """How it is shown pictures, by timm's names, as a config.json has it."""
        known = _config(self.name)
        shown: dict[str, Any] = {"mean": list(self.mean), "std": list(self.std), "interpolation": self.interpolation}
        shown |= {"crop_pct": self.crop_share, "crop_mode": self.crop, "fixed_input_size": self.fixed_size}
        return shown | {name: known.get(name) for name in ("first_conv", "classifier")}

    def framing(self, image_size: int) -> Framing:
        """How it is shown photographs at that size in px."""
        config = {"crop_mode": self.crop, "interpolation": self.interpolation, "crop_pct": self.crop_share}
        return framing_of(self.name, config, image_size)

    @property
    def only_size(self) -> int | None:
        """px that it takes; None: it takes others than those that it learned at."""
        return self.train_size if self.fixed_size else None


def require_only(only: int | None, image_size: int, name: str, *, way_out: str | None = None) -> None:
    """Raises UsageError where a network that takes images of `only` px is to be shown others; None: it takes any."""
    if only is not None and image_size != only:
        raise UsageError(
            f"{name} is built for images of {only} px",
            got=f"{image_size} px",
            next=way_out or f"leave out the option of that size, or train with model.train_size={image_size}",
        )


def timm_architecture(
    name: str,
    *,
    train_size: int | None = None,
    test_size: int | None = None,
    dropout: float = 0.2,
    config: Mapping[str, Any] | None = None,
    arguments: Mapping[str, Any] | None = None,
) -> TimmArchitecture:
    """The network of that name; what is not given is as its weights were trained.

    Args:
        config: a `pretrained_cfg` that says otherwise than timm's own of that name, in the entries that it has.
        arguments: of `timm.create_model`, plain values.

    Raises:
        UsageError: timm knows no such network, or it cannot learn at one size and be tested at another.
    """
    require_timm_name(name)
    known = {**_config(name), **{key: value for key, value in (config or {}).items() if value is not None}}
    own = int(known["input_size"][-1])
    learnt = train_size or own
    tested = test_size or (int((known.get("test_input_size") or (own,))[-1]) if train_size is None else learnt)
    found = TimmArchitecture(
        name=name,
        train_size=learnt,
        test_size=tested,
        dropout=dropout,
        mean=tuple(known["mean"]),
        std=tuple(known["std"]),
        crop=known.get("crop_mode") or "center",
        interpolation=known.get("interpolation") or "bicubic",
        crop_share=float(known.get("test_crop_pct") or known.get("crop_pct") or 0.875),
        arguments=tuple(sorted((key, frozen(value)) for key, value in (arguments or {}).items())),
    )
    if found.fixed_size and learnt != tested:
        raise UsageError(
            f"{name} is built for one image size",
            got=f"model.train_size={learnt}, model.test_size={tested}",
            next=f"model.train_size={learnt} model.test_size={learnt}",
        )
    return found


def require_timm_name(name: str) -> None:
    """Raises UsageError where timm cannot build a network of that name; it tells the nearest ones."""
    import timm  # here and below: it brings torch, which what is plain about a network needs not

    if not re.fullmatch(r"[\w.-]+", name) or not timm.is_model(name.partition(".")[0]):
        raise UsageError(
            f"timm has no network '{name}'{nearest_few(name, timm.list_models())}",
            valid=f"one of {len(timm.list_models()):,} names, such as tf_efficientnet_lite0, resnet50, convnext_nano",
        )


def _config(name: str) -> dict[str, Any]:
    """timm's `pretrained_cfg` of a name, of its usual weights where no tag is given; of ImageNet's kind without one."""
    from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
    from timm.models import get_pretrained_cfg

    usual = {"input_size": (3, 224, 224), "mean": IMAGENET_DEFAULT_MEAN, "std": IMAGENET_DEFAULT_STD}
    config = get_pretrained_cfg(name, allow_unregistered=True)
    return {**usual, **(config.to_dict() if config else {})}


def frozen(value: Any) -> Any:
    """Lists within it as tuples."""
    return tuple(frozen(entry) for entry in value) if isinstance(value, list | tuple) else value
