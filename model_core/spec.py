"""The description that rebuilds a model: family, tree and the rows of the paper's tables, as data.

No torch: a spec travels in checkpoints and in the manifest of a model package, and serving reads it.
"""

from __future__ import annotations

from typing import NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator

from model_core.errors import SpecError
from model_core.tree import Tree

__all__ = ["ModelSpec", "Row"]


class Row(NamedTuple):
    """One row of Table 2 or 3: a kind of layer, its stride, how often it is stacked, channels per group.

    The stride belongs to the first repetition; the others have stride 1.
    """

    layer: str
    stride: int
    repetitions: int
    channels: int


class ModelSpec(BaseModel):
    """Everything that determines a model's modules (not its weights).

    `family` names the builder of the blocks ("resnet", "mobilenetv2", or one of your own, see
    `model_core.custom`), `rows` are the table rows of each block, `options` whatever else a builder of
    your own wants to remember. Unknown fields are refused.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1)
    family: str = Field(min_length=1)
    branching: tuple[int, ...]
    classes: int = Field(ge=2)
    input_shape: tuple[int, int, int] = Field(description="channels, height, width of one image")
    rows: tuple[tuple[Row, ...], ...] = ()
    options: dict[str, JsonValue] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        tree = Tree(self.branching)
        if self.rows and len(self.rows) != tree.blocks:
            raise ValueError(f"{len(self.rows)} blocks of rows, but {tree.blocks} branching factors")
        return self

    @property
    def tree(self) -> Tree:
        """The tree of the ensemble."""
        return Tree(self.branching)

    def replace(self, **changes: object) -> ModelSpec:
        """A copy with some fields changed, checked anew.

        Raises:
            SpecError: it would make no sense, such as a branching factor too few.
        """
        try:
            return ModelSpec.model_validate({**self.model_dump(), **changes})
        except ValidationError as error:
            fault = error.errors()[0]
            where = "".join(f"{part}: " for part in fault["loc"])
            raise SpecError(f"{self.name}: {where}{fault['msg'].removeprefix('Value error, ')}") from error
