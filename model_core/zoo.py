"""The architectures that are known by name: the paper's, row for row from its Tables 2 and 3, a transformer, and those
of installed distributions (see `custom`).

`rows[b]` holds block b. "+branching" rows are where a branch splits. The classifier belongs to the last
block; its channels are the classes, filled in by the builder.
"""

from __future__ import annotations

from collections.abc import Mapping

from model_core.errors import SpecError
from model_core.registry import Registry
from model_core.spec import ModelSpec, Row

__all__ = ["ARCHITECTURES", "architecture"]

BINARY = (1, 2, 2, 2, 2)

# Table 2 (ResNet of depth 50 with depthwise bottlenecks, CIFAR). Block 4 has stride 1: the table prints 2 for it, but
# 8x8 -> 8x8 beside it.
TABLE_2: tuple[tuple[Row, ...], ...] = (
    (Row("conv3x3", 1, 1, 16), Row("conv1x1", 1, 1, 64)),
    (Row("resnet+branching", 1, 1, 64), Row("resnet", 1, 2, 64)),
    (Row("resnet+branching", 2, 1, 128), Row("resnet", 1, 3, 128)),
    (Row("resnet+branching", 2, 1, 256), Row("resnet", 1, 3, 256)),
    (Row("resnet+branching", 1, 1, 256), Row("resnet", 1, 4, 256), Row("classifier", 1, 1, 0)),
)

# Table 3 (MobileNetV2 with width 1.4, ImageNet). Block 3 has stride 1: the table prints 28x28 -> 14x14 for it,
# but block 2 already ends at 14x14.
TABLE_3: tuple[tuple[Row, ...], ...] = (
    (Row("conv3x3", 2, 1, 24), Row("dwconv3x3", 1, 1, 24), Row("mbnet", 2, 2, 32)),
    (Row("mbnet+branching", 2, 1, 48), Row("mbnet", 1, 2, 48)),
    (Row("mbnet+branching", 2, 1, 88), Row("mbnet", 1, 3, 88)),
    (Row("mbnet+branching", 1, 1, 136), Row("mbnet", 1, 2, 136)),
    (
        Row("mbnet+branching", 2, 1, 224),
        Row("mbnet", 1, 2, 224),
        Row("conv1x1", 1, 1, 1344),
        Row("linear", 1, 1, 1792),
        Row("classifier", 1, 1, 0),
    ),
)


def _scaled(table: tuple[tuple[Row, ...], ...], divisor: int) -> tuple[tuple[Row, ...], ...]:
    return tuple(tuple(row._replace(channels=row.channels // divisor) for row in block) for block in table)


def _resnet(name: str, divisor: int) -> ModelSpec:
    return ModelSpec(
        name=name,
        family="resnet",
        branching=BINARY,
        classes=10,
        input_shape=(3, 32, 32),
        rows=_scaled(TABLE_2, divisor),
    )


ARCHITECTURES: Mapping[str, ModelSpec] = Registry(
    "architecture",
    "hne_serve.architectures",
    {
        "hne": _resnet("hne", 1),
        "hne_small": _resnet("hne_small", 2),
        "hne_tiny": _resnet("hne_tiny", 4),
        "hne_mobilenetv2": ModelSpec(
            name="hne_mobilenetv2",
            family="mobilenetv2",
            branching=BINARY,
            classes=1000,
            input_shape=(3, 224, 224),
            rows=TABLE_3,
        ),
        # Ours: the same idea on a network that is no CNN, with a branching that is not binary throughout.
        "hne_transformer": ModelSpec(
            name="hne_transformer",
            family="transformer",
            branching=(1, 2, 2, 4),
            classes=10,
            input_shape=(3, 32, 32),
            options={"patch": 4, "width": 64, "heads": 4, "layers": [2, 1, 1, 1]},
        ),
    },
    accepts=lambda value: isinstance(value, ModelSpec),
)


def architecture(name: str, *, classes: int | None = None, branching: tuple[int, ...] | None = None) -> ModelSpec:
    """The spec of a named architecture, with other classes or another tree where given.

    Raises:
        SpecError: unknown name, and the message lists the valid ones; one of a distribution that cannot be used; or
            classes or a tree that do not fit it.
    """
    try:
        spec = ARCHITECTURES[name]
    except KeyError:
        raise SpecError(f"unknown architecture {name!r}; known: {', '.join(ARCHITECTURES)}") from None
    changes: dict[str, object] = {}
    if classes is not None:
        changes["classes"] = classes
    if branching is not None:
        changes["branching"] = branching
    return spec.replace(**changes)
