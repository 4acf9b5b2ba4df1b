"""The index of a store of derivatives: where its rows come from, which products it keeps, which shards are there."""

import hashlib
import operator
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, ValidationError, field_validator

from faithfulness_plugin.differences import differences, without_size
from faithfulness_plugin.errors import UsageError
from faithfulness_plugin.jacobian.estimators import ESTIMATORS
from faithfulness_plugin.jacobian.matching_config import JacobianMatchingConfig, as_config
from faithfulness_plugin.layers.activations import ACTIVATIONS
from faithfulness_plugin.results.schema import Record

INDEX_FILENAME = "index.json"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}


class StoreError(UsageError):
    """A store that cannot be used; the message says which, why, and what to do."""


class Product(Record):
    """One kind of derivative that is kept: the layer's side of a `JacobianMatchingConfig`."""

    estimator: str
    probe: str
    n_probes: int
    radius: float | None = Field(description="the secant's alone")
    central: bool | None = Field(description="the secant's alone")

    @field_validator("estimator")
    @classmethod
    def _is_known(cls, name: str) -> str:
        if name not in ESTIMATORS or ESTIMATORS[name].fixed_probes:
            raise ValueError(f"the estimator {name} is not known here")
        return name

    @classmethod
    def of(cls, config: JacobianMatchingConfig | Mapping[str, Any]) -> "Product":
        """Build what a matching of this config asks of the layer.

        Args:
            config: a config, or its fields by name.

        Returns:
            The layer's side of it, which equal products share.

        Raises:
            StoreError: what no store can keep: all directions, or derivatives at jittered rows.
        """
        config = as_config(config)
        if ESTIMATORS[config.estimator].fixed_probes:
            raise StoreError(
                f'estimator="{config.estimator}" has as many products a row as the layer has inputs: keep "jvp"'
            )
        if config.jitter > 0:
            raise StoreError(
                f"jitter={config.jitter}: derivatives are kept at the rows themselves, so leave jitter out"
            )
        asked = config.of_layer
        return cls.model_validate({name: asked.get(name) for name in cls.model_fields})

    @property
    def config(self) -> JacobianMatchingConfig:
        """The config whose estimator asks the layer."""
        return JacobianMatchingConfig(**self.model_dump(exclude_none=True))

    @property
    def v_name(self) -> str:
        """The name of the probes' tensor: products along the same probes share it."""
        space = "u" if ESTIMATORS[self.estimator].pulls_back else "v"
        return f"{space}.{self.probe}.{self.n_probes}"

    @property
    def Jv_name(self) -> str:
        """The name of the products' tensor."""
        secant = "" if self.radius is None else f".{self.radius!r}{'.central' * bool(self.central)}"
        return f"{self.estimator}.{self.probe}.{self.n_probes}{secant}"

    def __str__(self) -> str:
        several = f" x {self.n_probes}" if self.n_probes > 1 else ""
        how = "" if self.radius is None else f" {'central ' * bool(self.central)}radius {self.radius}"
        return f"{self.estimator} {self.probe}{several}{how}"


class Shard(Record):
    """One file of rows."""

    file: str
    rows: int
    sha256: str
    n_bytes: int


class Norm(Record):
    """What a norm after the layer has besides its scale and shift."""

    eps: float
    centred: bool = Field(description="a LayerNorm's; else it is an RMSNorm")


class LayerFile(Record):
    """The file of the layer's weights, and what else makes them the layer."""

    file: str
    sha256: str
    n_bytes: int
    activation: str = Field(description="its name among those known here")
    norm: Norm | None = None

    @field_validator("activation")
    @classmethod
    def _is_known(cls, name: str) -> str:
        if name not in ACTIVATIONS:
            raise ValueError(f"the activation {name} is not known here")
        return name


class RoundingError(Record):
    """The error that the rows' dtype makes, ||rounded - exact|| / ||exact||, over some rows of the first shard."""

    rows: int
    x: float
    y: float
    Jv: float = Field(description="of the layer's products along pair probes, both at and along rounded rows")

    def __str__(self) -> str:
        return f"x {self.x:.2g}, f(x) {self.y:.2g}, J v along pairs of rows {self.Jv:.2g}"


class Index(Record):
    """Everything but the rows."""

    format_version: Literal[1] = 1
    source: dict[str, str] = Field(description="identifies the model, the layer and the text")
    d_in: int
    d_out: int
    dtype: str
    products: list[Product]
    seed: int = Field(description="seeds the probes")
    n_shards: int = Field(description="the number of shards of a full store")
    rms: float | None = Field(
        default=None, description="root mean square of the coordinates of x in the first shard: isotropic secants' unit"
    )
    shards: dict[int, Shard] = Field(default_factory=dict, description="the shards that are filled, by number")
    weights: bool = Field(
        default=False,
        exclude_if=operator.not_,
        description="whether the layer's weights stand beside the rows: derivatives are then computed in training",
    )
    layer: LayerFile | None = Field(default=None, exclude_if=lambda layer: layer is None)
    rounding: RoundingError | None = Field(default=None, exclude_if=lambda rounding: rounding is None)

    @property
    def n_rows(self) -> int:
        """The number of rows in the shards that are there."""
        return sum(shard.rows for shard in self.shards.values())

    @property
    def full(self) -> bool:
        """Whether every shard was filled."""
        return set(self.shards) == set(range(self.n_shards))

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that two stores must share to be one, besides their source."""
        names = ("d_in", "d_out", "dtype", "seed", "n_shards", "weights")
        return {name: getattr(self, name) for name in names}

    def differs_from(self, wanted: "Index") -> str:
        """Say why this store does not do for what is wanted.

        Args:
            wanted: the index of a new store; this one may keep more products.

        Returns:
            What differs, for a message; "" where nothing does.
        """
        changes = [
            differences(self.source, {**dict.fromkeys(self.source, "none"), **wanted.source}),
            differences(self.settings, wanted.settings),
        ]
        if lacks := [product for product in wanted.products if product not in self.products]:
            changes.append(f"derivatives {names(self.products)}, and not {names(lacks)}")
        return "; ".join(filter(None, changes))

    @property
    def fingerprint(self) -> str:
        """A digest of what was asked of which layer: the same for a store that was filled again, on any processor."""
        source = {name: without_size(text) for name, text in self.source.items()}
        return self.model_copy(update={"source": source}).fingerprint_with_sizes

    @property
    def fingerprint_with_sizes(self) -> str:
        """The digest that version 0.8 wrote into its checkpoints, computed sizes included."""
        decides = {"source", "products", "d_in", "d_out", "dtype", "seed", "n_shards", "weights"}
        said = self.model_dump_json(include=decides)
        return hashlib.sha256(said.encode()).hexdigest()[:16]

    @property
    def sized(self) -> dict[str, str]:
        """The part of the source that the fingerprint leaves out: texts that end in a computed size, which
        `differences` compares as numbers."""
        return {name: text for name, text in self.source.items() if text != without_size(text)}

    @property
    def row_bytes(self) -> int:
        """Bytes on disk per row."""
        probes, products = {}, 0
        for product in self.products:
            probe_width, product_width = ESTIMATORS[product.estimator].widths(self.d_in, self.d_out)
            probes[product.v_name] = product.n_probes * probe_width
            products += product.n_probes * product_width
        return (self.d_in + self.d_out + sum(probes.values()) + products) * DTYPES[self.dtype].itemsize


def read_index(folder: Path) -> Index:
    """Read the index of the store in a folder.

    Args:
        folder: where it stands.

    Returns:
        The index.

    Raises:
        StoreError: there is none, or it cannot be read.
    """
    path = folder / INDEX_FILENAME
    try:
        return Index.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise StoreError(f"{folder} holds no {INDEX_FILENAME}, so it is not a store: check the path") from error
    except OSError as error:
        raise StoreError(f"{path} cannot be read ({error.strerror}): check the path") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise StoreError(
            f"{path} is corrupt, or of another version ({where}: {first['msg']}): move the store away, and fill it "
            "again"
        ) from error


def names(products: Sequence[Product]) -> str:
    """Join the names of products for a message.

    Args:
        products: the products.

    Returns:
        The names with commas, or "none".
    """
    return ", ".join(map(str, products)) or "none"
