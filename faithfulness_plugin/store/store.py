"""The store itself: shards of rows, each whole and checked or not there."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from jaxtyping import Float
from safetensors import safe_open
from torch import Tensor

from faithfulness_plugin.atomic import UNFINISHED, write_text
from faithfulness_plugin.differences import differences
from faithfulness_plugin.display import line
from faithfulness_plugin.jacobian.matching_config import JacobianMatchingConfig
from faithfulness_plugin.layers.derivatives import Layer
from faithfulness_plugin.layers.stored_layer import StoredLayer
from faithfulness_plugin.store.index import DTYPES, INDEX_FILENAME, Index, Product, StoreError, names, read_index
from faithfulness_plugin.store.layer_file import keep_layer, read_layer, require_reproduced
from faithfulness_plugin.store.layer_tensors import as_kept, layer_tensors
from faithfulness_plugin.store.shard_file import CheckedFiles, write_shard

LOCK_FILENAME = ".writer.lock"


class DerivativeStore:
    """Rows x, f(x), probes v and products Jv, or x, f(x) and the layer's weights, in a folder: `index.json` and one
    safetensors file per shard.

    Make one by `create` or `open`. `fill_shard` fills a shard within `writing`, in any order; one that was lost comes
    out the same again, because its probes are seeded by its number.
    """

    def __init__(self, folder: Path, index: Index) -> None:
        self.folder, self.index = folder, index
        self._writes = False
        self._files = CheckedFiles(folder)

    def __repr__(self) -> str:
        index = self.index
        filled = f"{len(index.shards)} of {index.n_shards}"
        found: dict[str, Any] = {"d_in": index.d_in, "d_out": index.d_out}
        kept = {"weights": True, "dtype": index.dtype, "rounding": index.rounding}
        found |= kept if index.weights else {"products": list(map(str, index.products))}
        return line("DerivativeStore", {"folder": self.folder, "shards": filled, "rows": index.n_rows, **found})

    @classmethod
    def create(
        cls,
        folder: Path | str,
        *,
        source: Mapping[str, str],
        d_in: int,
        d_out: int,
        products: Sequence[JacobianMatchingConfig | Mapping[str, Any]],
        n_shards: int,
        dtype: str = "float32",
        seed: int = 0,
        weights: bool = False,
    ) -> "DerivativeStore":
        """Create an empty store, or open the one that stands there with the same settings; it may keep more products.

        Args:
            folder: where it stands, or will stand.
            source: what identifies this model, layer and text, by name.
            d_in: the width of the layer's input.
            d_out: the width of its output.
            products: which derivatives are kept; none for x and f(x) alone.
            n_shards: how many shards make it full.
            dtype: the dtype of the numbers on disk.
            seed: seeds the probes.
            weights: keep the layer's weights beside the rows, and no products: any derivative is computed in training.

        Returns:
            The store, empty or as full as it was.

        Raises:
            StoreError: a store with other settings (which, the message says), another folder with something in it, an
                index that cannot be read, a folder that cannot be written, settings that cannot be.
        """
        if dtype not in DTYPES:
            raise StoreError(f"dtype={dtype!r}: choose from {', '.join(DTYPES)}")
        if n_shards < 1:
            raise StoreError(f"n_shards={n_shards}: a store has one shard or more")
        if weights and products:
            raise StoreError("weights=True: derivatives are computed from the weights, so leave products out")
        wanted = Index(
            source=dict(source),
            d_in=d_in,
            d_out=d_out,
            dtype=dtype,
            products=list(dict.fromkeys(map(Product.of, products))),
            seed=seed,
            n_shards=n_shards,
            weights=weights,
        )
        folder = Path(folder)
        if (folder / INDEX_FILENAME).exists():
            store = cls.open(folder)
            if changed := store.index.differs_from(wanted):
                raise StoreError(
                    f"{folder} is a store of something else ({changed}): use that, or choose another folder"
                )
            return store
        if folder.exists() and (not folder.is_dir() or any(not e.name.startswith(".") for e in folder.iterdir())):
            raise StoreError(f"{folder} is not empty and holds no {INDEX_FILENAME}: choose another folder")
        store = cls(folder, wanted)
        store._write_index(wanted)
        return store

    @classmethod
    def open(cls, folder: Path | str) -> "DerivativeStore":
        """Open the store in a folder.

        Args:
            folder: where it stands.

        Returns:
            The store; its shards are checked when they are read.

        Raises:
            StoreError: there is none, or its index cannot be read.
        """
        return cls(Path(folder), read_index(Path(folder)))

    def require(self, **source: str) -> None:
        """Check that the store was made from a model, layer and text.

        Args:
            source: what identifies them, by name; names that the store does not have differ.

        Raises:
            StoreError: it was made from something else; the message says what differs.
        """
        if changed := differences(self.index.source, source):
            raise StoreError(f"{self.folder} was made from something else ({changed}): choose another, or fill one")

    def product(self, config: JacobianMatchingConfig | Mapping[str, Any]) -> Product:
        """Return the derivatives that a matching of this config needs.

        Args:
            config: a config, or its fields by name.

        Returns:
            The product, which the store keeps.

        Raises:
            StoreError: it does not keep them.
        """
        wanted = Product.of(config)
        if wanted not in self.index.products:
            raise StoreError(
                f"{self.folder} keeps no derivatives for {wanted}, but for {names(self.index.products)}: match one of "
                "those, or fill another store"
            )
        return wanted

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Lock the store for writing.

        Yields:
            Nothing; the lock is released at the end of the block.

        Raises:
            StoreError: another process holds it, or the folder cannot be written.
        """
        try:
            lock = FileLock(self.folder / LOCK_FILENAME)
            lock.acquire(timeout=0)
        except Timeout as error:
            raise StoreError(f"{self.folder} is being written by another process: wait for it, or stop it") from error
        except OSError as error:
            raise StoreError(f"{self.folder} cannot be written ({error.strerror}): choose another folder") from error
        try:
            self.index = type(self).open(self.folder).index  # what that process may have done meanwhile
            for left in self.folder.glob(f"{UNFINISHED}*"):  # by a writer that was killed
                left.unlink()
            self._writes = True
            yield
        finally:
            self._writes = False
            lock.release()

    def missing(self) -> list[int]:
        """List the shards that are not there, or not as they were written: every file is read and checked.

        Returns:
            Their numbers, in order.
        """
        return [number for number in range(self.index.n_shards) if self.fault(number) is not None]

    def fault(self, number: int) -> str | None:
        """Find out what is wrong with a shard. A file is read and checked once, and again when it has changed.

        Args:
            number: the shard's number.

        Returns:
            What is wrong, for a message; None for a whole shard.
        """
        shard = self.index.shards.get(number)
        if shard is None:
            return "it was not filled yet"
        layer_fault = self._layer_fault() if number == 0 and self.index.weights else None
        return layer_fault or self._files.fault(shard)

    def _layer_fault(self) -> str | None:
        """Find out what is wrong with the layer's weights, which the filling of shard 0 writes."""
        entry = self.index.layer
        return "the layer's weights were not kept yet" if entry is None else self._files.fault(entry)

    @torch.no_grad()
    def fill_shard(self, number: int, x: Float[Tensor, "rows d_in"], layer: Layer) -> None:
        """Ask the layer for f(x) and its derivatives at rows x, and write them; within `writing`.

        Probes along the data (pair, difference) stay within the shard.

        Args:
            number: the shard's number.
            x: its rows.
            layer: f, row-wise.

        Raises:
            StoreError: outside `writing`; a number that no shard has; no rows, rows of another width, NaN or Inf; a
                disk that is full or cannot be written: the shards before stay as they are.
        """
        if not self._writes:
            raise StoreError(f"{self.folder}: shards are filled within `with store.writing():`")
        if not 0 <= number < self.index.n_shards:
            raise StoreError(f"shard {number}: {self.folder} has the shards 0 to {self.index.n_shards - 1}")
        rms = self.index.rms
        if rms is None:
            if number != 0:
                raise StoreError("shard 0 comes first: its rows set the isotropic secants' step")
            rms = x.double().square().mean().sqrt().item() or 1.0
        given = layer_tensors(self.index, number, x, layer, rms)
        tensors = as_kept(given, number, self.index.dtype)
        changes = self._keep_weights(number, layer, x, given["y"]) if self.index.weights else {}
        left = self.index.n_shards - len(self.index.shards)
        shards = {**self.index.shards, number: write_shard(self.folder, number, tensors, left)}
        changes |= {"rms": rms, "shards": dict(sorted(shards.items()))}
        self._write_index(self.index.model_copy(update=changes))

    def _keep_weights(self, number: int, layer: Layer, x: Tensor, y: Tensor) -> dict[str, Any]:
        """Write the layer's weights, or check that those that are there are its; return what changes in the index."""
        if self._layer_fault() is not None:
            if number != 0:
                raise StoreError(f"shard 0 of {self.folder} comes first: the layer's weights are written with it")
            return keep_layer(self.folder, layer, x, y, self.index.dtype)
        why = f"shard {number} of {self.folder} is of another layer, or of one that treats some rows differently"
        require_reproduced(self.layer().to(x.device).weights, x, y, why)
        return {}

    def layer(self) -> StoredLayer:
        """Read the layer from the weights that are kept beside the rows.

        Returns:
            f, row-wise, on the CPU.

        Raises:
            StoreError: the store keeps none, or they are not as they were written.
        """
        if not self.index.weights:
            raise StoreError(f"{self.folder} keeps no weights of its layer: make a store with weights=True")
        fault = self._layer_fault()
        if self.index.layer is None or fault is not None:
            raise StoreError(f"{self.folder}: the layer cannot be used: {fault}. Fill the store again, which fixes it")
        return read_layer(self.folder, self.index.layer, self.index.dtype)

    def read_shard(self, number: int, product: Product | None) -> dict[str, Tensor]:
        """Read the rows of a shard, and the derivatives of one product.

        Args:
            number: the shard's number.
            product: which derivatives; None for none.

        Returns:
            "x" and "y" [rows, d], and "v" and "Jv" [rows, n_probes, d] with a product.

        Raises:
            StoreError: the shard is not as it was written; the message names it.
        """
        if (fault := self.fault(number)) is not None:
            raise StoreError(
                f"{self.folder}: shard {number} cannot be trained on: {fault}. Fill the store again: only what is "
                "missing is made"
            )
        names = {"x": "x", "y": "y"} | ({} if product is None else {"v": product.v_name, "Jv": product.Jv_name})
        with safe_open(self.folder / self.index.shards[number].file, framework="pt") as file:
            return {name: file.get_tensor(stored) for name, stored in names.items()}

    def _write_index(self, index: Index) -> None:
        try:
            write_text(self.folder / INDEX_FILENAME, index.model_dump_json(indent=1))
        except OSError as error:
            raise StoreError(f"{self.folder} cannot be written ({error.strerror}): choose another folder") from error
        self.index = index
