"""A model's activations by name, whichever library the model comes from."""

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from faithfulness_plugin.display import line
from faithfulness_plugin.errors import UsageError
from faithfulness_plugin.layers.earlier_blocks import EarlierBlocks, agreeing
from faithfulness_plugin.layers.hooked_layer import HookedLayer
from faithfulness_plugin.layers.normed_mlp import LayerWeights
from faithfulness_plugin.layers.vocabulary import Vocabulary
from faithfulness_plugin.nearest import nearest

Hook = Callable[[Tensor], Tensor | None]
"""Sees an activation [batch, pos, d]; returns its replacement, or None to leave it."""

Function = Callable[[Tensor], Tensor]

Tokens = Int[Tensor, "batch pos"] | Float[Tensor, "batch *shape"]
"""The inputs of a model: tokens, or the pictures or the sound that it reads."""


class NoLogits(UsageError):
    """A model without logits for the next token was asked for them."""


class Reached(Exception):
    """The last hook has been seen: the rest of the forward pass is not needed."""


class Hooks(ABC):
    """The interface through which everything here reads and changes a model's activations."""

    _earlier: EarlierBlocks | None = None
    """The blocks behind which runs begin, within `beginning_at`."""

    def __repr__(self) -> str:
        return line(type(self).__name__, vars(self))

    @property
    @abstractmethod
    def names(self) -> Sequence[str]:
        """The names of all hooks."""

    @property
    @abstractmethod
    def n_vocab(self) -> int:
        """The number of tokens in the vocabulary."""

    @property
    def n_positions(self) -> int | None:
        """The largest number of tokens in a prompt; None for a model without a limit."""
        return None

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """The device that tokens have to be on."""

    @abstractmethod
    def _run(self, tokens: Tokens, hooks: Mapping[str, Hook], last: int | None) -> Tensor | None:
        """Run the model; return its logits for the next token, or None where it has none. Those at other positions than
        the last ones may be left out."""

    def _blocks_before(self, name: str) -> Sequence[nn.Module]:
        """Return the blocks that a run passes before that of a tensor; none where they are not known."""
        del name
        return []

    @abstractmethod
    def mlp(self, block: int | str) -> HookedLayer:
        """Return the MLP of a block, unchecked.

        Args:
            block: its number, or its name where the model has several lists of blocks.

        Returns:
            The layer.

        Raises:
            UsageError: there is no such block, or it has no MLP.
        """

    @abstractmethod
    def block_tensors(self, block: int) -> list[str]:
        """Name the tensors of a block around its MLP and in its residual stream.

        Args:
            block: its number.

        Returns:
            The names, in the order of a run.

        Raises:
            UsageError: there is no such block.
        """

    @abstractmethod
    def require(self, name: str) -> str:
        """Return the name if it stands for a tensor of the model.

        Args:
            name: a hook's name, in any spelling that the model takes.

        Returns:
            The same name.

        Raises:
            UsageError: there is no such hook; the message names the nearest.
        """

    def own_name(self, name: str) -> str:
        """Return the model's own name for a tensor that has several.

        Args:
            name: a name that `require` takes.

        Returns:
            The one name that equal tensors share.
        """
        return name

    def weights_up_to(self, hook_out: str) -> LayerWeights | None:
        """Guess the weights of the MLP that ends at a hook; the caller has to check them.

        Args:
            hook_out: the name of the tensor that the MLP writes.

        Returns:
            The weights; None where no MLP of a known kind ends there.
        """
        del hook_out
        return None

    def vocabulary(self) -> Vocabulary | None:
        """Return the embedding and the unembedding.

        Returns:
            None for a model that does not predict the next token by one matrix from its normed residual stream.
        """
        return None

    def suspects(self, hook_in: str, hook_out: str) -> Mapping[str, Callable[[Function], Function]]:
        """Return frequent mistakes about the layer between these two hooks.

        Args:
            hook_in: the name of the tensor that the layer reads.
            hook_out: the name of the tensor that it writes.

        Returns:
            By cause, as a message words it: a function that makes the right layer of the mistaken one.
        """
        del hook_in, hook_out
        return {}

    @contextmanager
    def beginning_at(self, name: str) -> Iterator[None]:
        """Within it, runs on tokens that were run on before begin at a tensor's block, where that changes no logit.

        What the blocks before it put out is kept for each batch of tokens. Runs with hooks before it are whole ones.

        Args:
            name: the tensor's.

        Yields:
            Nothing.
        """
        tokens = self.random_tokens()

        def run(earlier: EarlierBlocks | None) -> Tensor:
            with nullcontext() if earlier is None else earlier.on(tokens), torch.no_grad():
                return self.run(tokens, {})

        try:
            self._earlier = agreeing(self._blocks_before(name), run)
            yield
        finally:
            self._earlier = None

    def run(self, tokens: Tokens, hooks: Mapping[str, Hook], last: int | None = None) -> Tensor:
        """Return the logits with hooks in place, and remove the hooks.

        A run of the same model in another thread does not see them.

        Args:
            tokens: what the model is run on.
            hooks: what to call at which tensor, by name.
            last: the number of positions at the end whose logits are wanted; None for all. Those of others are not
                computed, where the model's unembedding is known.

        Returns:
            The logits [batch, pos, n_vocab].

        Raises:
            NoLogits: after the run, where the model does not predict the next token; `visit` takes such models.
        """
        here = threading.get_ident()

        def of_this_thread(hook: Hook) -> Hook:
            return lambda activation: hook(activation) if threading.get_ident() == here else None

        with nullcontext() if self._earlier is None else self._earlier.on(tokens, hooks):
            logits = self._run(tokens, {name: of_this_thread(hook) for name, hook in hooks.items()}, last)
        if logits is None:
            raise NoLogits(
                "the model does not predict the next token, so that KL and cross-entropy are undefined: load a causal "
                "language model (AutoModelForCausalLM), or measure the layer alone"
            )
        return logits if last is None else logits[:, -last:]

    def visit(self, tokens: Tokens, hooks: Mapping[str, Hook]) -> None:
        """Run the model for its hooks alone, until one of them raises `Reached`.

        Args:
            tokens: what the model is run on.
            hooks: what to call at which tensor, by name.
        """
        with suppress(Reached, NoLogits):
            self.run(tokens, hooks)

    def no_hook(self, name: str) -> UsageError:
        """Build the error for an unknown name, with the nearest ones.

        Args:
            name: the unknown name.

        Returns:
            The error, to be raised.
        """
        hint = nearest(name, self.names, n=3, otherwise="see the model's hook names")
        return UsageError(f"the model has no hook {name}: {hint}")

    def _require_context(self, length: int) -> None:
        """Raise UsageError for prompts of more tokens than the model has positions."""
        if self.n_positions is not None and length > self.n_positions:
            raise UsageError(
                f"prompts of {length} tokens do not fit the model, which has {self.n_positions} positions: make them "
                f"{self.n_positions} tokens or shorter"
            )

    def require_tokens(self, tokens: Int[Tensor, "batch pos"]) -> None:
        """Check prompts: models would fail somewhere inside, or compute with whatever stands there.

        Args:
            tokens: the prompts.

        Raises:
            UsageError: they are too long, or hold ids outside the vocabulary.
        """
        self._require_context(tokens.shape[1])
        outside = tokens[(tokens < 0) | (tokens >= self.n_vocab)]
        if outside.numel():
            raise UsageError(
                f"token id {int(outside[0])} is outside the model's vocabulary, 0 to {self.n_vocab - 1}: use the "
                "model's own tokenizer"
            )

    def random_tokens(self, n_prompts: int = 2, length: int = 8, seed: int = 0) -> Tokens:
        """Draw random inputs of the kind that the model reads.

        Args:
            n_prompts: how many.
            length: tokens in each.
            seed: the seed.

        Returns:
            Inputs on the model's device.
        """
        generator = torch.Generator().manual_seed(seed)
        return torch.randint(self.n_vocab, (n_prompts, length), generator=generator).to(self.device)

    def blank(self, n: int) -> Tokens:
        """Return the smallest inputs: one token each, where the model reads tokens.

        Args:
            n: how many.

        Returns:
            Inputs on the model's device.
        """
        return torch.zeros(n, 1, dtype=torch.long, device=self.device)
