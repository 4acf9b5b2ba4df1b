"""What a Hugging Face model is run on: tokens, pictures or sound, and what it wants beside them."""

import inspect
import math
from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from faithfulness_plugin.errors import UsageError

TOKENS, PICTURES, FEATURES, VALUES = "input_ids", "pixel_values", "input_features", "input_values"
DECODER_LENGTH = 8


def fills_masks(architecture: str | None) -> bool:
    """Check whether a class of models predicts masked tokens (BERT), not the next one.

    Args:
        architecture: the class's name; None where it is unknown.

    Returns:
        False for unknown classes.
    """
    return architecture in MODEL_FOR_MASKED_LM_MAPPING_NAMES.values()


class ModelInputs:
    """The arguments of a model's forward pass, from its main input alone: token ids [batch, pos], `pixel_values`
    [batch, channels, height, width], `input_features` or `input_values`.

    What else a model needs is made up, always in the same way. A decoder behind an encoder that reads tokens is given
    the same tokens; one behind an encoder that reads sound is given fixed random tokens, or the tokens that are passed
    in the sound's place. A model that compares pictures with text (CLIP) is given a random one of either for the other.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model: Any = model
        parameters = inspect.signature(model.forward).parameters
        known, declared = (TOKENS, PICTURES, FEATURES, VALUES), getattr(model, "main_input_name", TOKENS)
        self.main: str = next((name for name in parameters if name in known), declared)
        self._accepts_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        self._parameters = parameters

    @property
    def has_decoder(self) -> bool:
        """Whether it is an encoder with a decoder behind it."""
        return "decoder_input_ids" in self._parameters

    @property
    def n_vocab(self) -> int:
        """The size of the vocabulary. Raises UsageError for a model that reads no tokens."""
        config = getattr(self.model, "config", None)
        n = None if config is None else getattr(config.get_text_config(), "vocab_size", None)
        if self.main != TOKENS and not self.has_decoder:
            raise UsageError(f"{type(self.model).__name__} reads {self.main}, no tokens")
        if n is None:
            raise UsageError(f"the configuration of {type(self.model).__name__} does not say its vocab_size")
        return n

    def made_up(self, n: int, length: int, generator: torch.Generator) -> Tensor:
        """Draw random main inputs.

        Args:
            n: how many.
            length: tokens of each, where the model reads tokens.
            generator: on the CPU.

        Returns:
            [n, length] token ids, or n pictures or sounds.
        """
        if self.main == TOKENS:
            return torch.randint(self.n_vocab, (n, length), generator=generator)
        return torch.randn(n, *self.shape, generator=generator, dtype=self._dtype)

    def blank(self, n: int) -> Tensor:
        """Return main inputs of zeros.

        Args:
            n: how many.

        Returns:
            [n, 1] token ids, or n pictures or sounds.
        """
        if self.main == TOKENS:
            return torch.zeros(n, 1, dtype=torch.long)
        return torch.zeros(n, *self.shape, dtype=self._dtype)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one main input that is no tokens. Raises UsageError where the configuration does not say it."""
        config = self.model.config
        if self.main == PICTURES:
            config = getattr(config, "vision_config", getattr(config, "encoder", config))
            size = getattr(config, "image_size", None)
            if size is not None:
                height, width = (size, size) if isinstance(size, int) else size
                return getattr(config, "num_channels", 3), height, width
        bins = getattr(config, "num_mel_bins", None)
        if self.main == FEATURES and bins is not None and hasattr(config, "max_source_positions"):
            return bins, 2 * config.max_source_positions  # Whisper's second convolution has stride 2
        if self.main == VALUES and bins is not None and hasattr(config, "max_length"):
            return config.max_length, bins
        if self.main == VALUES and hasattr(config, "conv_stride"):
            return (16 * math.prod(config.conv_stride),)
        raise UsageError(
            f"{type(self.model).__name__} reads {self.main} of a shape that its configuration does not say: take the "
            "part of the model that the layer is in, if that reads tokens or pictures"
        )

    def arguments(self, given: Tensor) -> tuple[Tensor, dict[str, Any]]:
        """Prepare the arguments of a forward pass.

        Args:
            given: the main inputs, or tokens for a model's decoder.

        Returns:
            The first argument, and the others by name, on the model's device.

        Raises:
            UsageError: the model does not read such inputs.
        """
        model, main, more = self.model, given, {}
        generator = torch.Generator().manual_seed(0)
        tokens = not given.is_floating_point()
        if self.has_decoder:
            more["decoder_input_ids"] = given if tokens else self._tokens(len(given), generator)
        if tokens and self.main != TOKENS:
            if not self.has_decoder:
                raise UsageError(f"{type(model).__name__} reads {self.main}: pass those in the place of tokens")
            main = self.made_up(len(given), 0, generator)
        if self.compares:
            pictures = ModelInputs(model.vision_model).made_up(len(given), 0, generator) if tokens else given
            main, more[PICTURES] = (given if tokens else self._tokens(len(given), generator)), pictures
        elif not tokens and self.main == TOKENS:
            raise UsageError(f"{type(model).__name__} reads tokens: pass whole numbers [batch, pos]")
        device = next(model.parameters()).device
        options = {"use_cache": False, "return_dict": True}
        more |= {name: value for name, value in options.items() if self._accepts_any or name in self._parameters}
        return main.to(device), {k: v.to(device) if isinstance(v, Tensor) else v for k, v in more.items()}

    @property
    def compares(self) -> bool:
        """Whether it compares pictures with text, so that it cannot run without either."""
        return hasattr(self.model, "logit_scale") and PICTURES in self._parameters

    @property
    def _dtype(self) -> torch.dtype:
        return next(self.model.parameters()).dtype

    def _tokens(self, n: int, generator: torch.Generator) -> Tensor:
        return torch.randint(self.n_vocab, (n, DECODER_LENGTH), generator=generator)
