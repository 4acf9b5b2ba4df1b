"""The store itself: shards of rows, each whole and checked or not there."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from jaxtyping import Float
from pydantic import ValidationError
from safetensors import safe_open
from torch import Tensor

from faithfulness_plugin.atomic import UNFINISHED, write_text
from faithfulness_plugin.differences import differences
from faithfulness_plugin.display import line
from faithfulness_plugin.jacobian.matching_config import JacobianMatchingConfig
from faithfulness_plugin.layers.derivatives import Layer
from faithfulness_plugin.store.index import DTYPES, INDEX_FILENAME, Index, Product, StoreError, names
from faithfulness_plugin.store.layer_tensors import layer_tensors
from faithfulness_plugin.store.shard_file import shard_fault, write_shard

LOCK_FILENAME = ".writer.lock"


class DerivativeStore:
    """Rows x, f(x), probes v and products Jv in a folder: `index.json` and one safetensors file per shard.

    Make one by `create` or `open`. `fill_shard` fills a shard within `writing`, in any order; one that was lost comes
    out the same again, because its probes are seeded by its number.
    """

    def __init__(self, folder: Path, index: Index) -> None:
        self.folder, self.index = folder, index
        self._writes = False
        self._whole: dict[int, tuple[int, int]] = {}
        """The shards that were found whole, with the size and time that their files had."""

    def __repr__(self) -> str:
        index = self.index
        filled = f"{len(index.shards)} of {index.n_shards}"
        found = {"d_in": index.d_in, "d_out": index.d_out, "products": list(map(str, index.products))}
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
        wanted = Index(
            source=dict(source),
            d_in=d_in,
            d_out=d_out,
            dtype=dtype,
            products=list(dict.fromkeys(map(Product.of, products))),
            seed=seed,
            n_shards=n_shards,
        )
        folder = Path(folder)
        if (folder / INDEX_FILENAME).exists():
            store = cls.open(folder)
            there, here = store.index.source, {**dict.fromkeys(store.index.source, "none"), **wanted.source}
            changes = [differences(there, here), differences(store.index.settings, wanted.settings)]
            if lacks := [product for product in wanted.products if product not in store.index.products]:
                changes.append(f"derivatives {names(store.index.products)}, and not {names(lacks)}")
            if changed := "; ".join(filter(None, changes)):
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
        path = Path(folder) / INDEX_FILENAME
        try:
            return cls(Path(folder), Index.model_validate_json(path.read_bytes()))
        except FileNotFoundError as error:
            raise StoreError(f"{folder} holds no {INDEX_FILENAME}, so it is no store: check the path") from error
        except OSError as error:
            raise StoreError(f"{path} cannot be read ({error.strerror}): check the path") from error
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the file"
            raise StoreError(
                f"{path} is corrupt, or of another version ({where}: {first['msg']}): move the store away, and fill it "
                "again"
            ) from error

    def require(self, **source: str) -> None:
        """Check that the store was made from a model, layer and text.

        Args:
            source: what identifies them, by name; names that the store does not have differ.

        Raises:
            StoreError: it was made from something else; the message says what differs.
        """
        if changed := differences(self.index.source, source):
            raise StoreError(
                f"{self.folder} was made from something else ({changed}): choose another store, or fill one"
            )

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
        path = self.folder / shard.file
        try:
            now = path.stat()
            seen = (now.st_size, now.st_mtime_ns)
            if self._whole.get(number) == seen:
                return None
            if (fault := shard_fault(path, shard)) is not None:
                return fault
        except OSError as error:
            return f"{path.name} cannot be read ({error.strerror})"
        self._whole[number] = seen
        return None

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
        if x.ndim != 2 or x.shape[-1] != self.index.d_in or len(x) < 2:
            raise StoreError(f"shard {number}: rows of shape {list(x.shape)}; pass two or more, {self.index.d_in} wide")
        tensors = layer_tensors(self.index, number, x, layer, rms)
        culprit = next((name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()), None)
        if culprit is not None:
            raise StoreError(
                f"shard {number}: NaN or Inf in {culprit} (as {self.index.dtype}): check the layer and dtype"
            )
        left = self.index.n_shards - len(self.index.shards)
        shard = write_shard(self.folder, number, tensors, left)
        shards = {**self.index.shards, number: shard}
        self._write_index(self.index.model_copy(update={"rms": rms, "shards": dict(sorted(shards.items()))}))

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
