"""What the timing experiments can be told; their docstrings are the commands' help."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from faithfulness_plugin.language_model.config import ModelSource, TextSource
from faithfulness_plugin.language_model.rows import EVERY_ROW, RowSettings
from faithfulness_plugin.results.schema import Record


def threads_field(more: str = "") -> Any:
    """Build the field of a config that says with how many threads torch computes.

    Args:
        more: ends its description.

    Returns:
        The field.
    """
    description = f"CPU threads of torch{more} [default: torch's own]"
    return Field(default_factory=_threads, ge=1, description=description)


def _threads(_: dict[str, Any]) -> int:
    """Return torch's own number; torch is loaded for it where the fields before it are as they should be."""
    import torch

    return torch.get_num_threads()


class Size(Record):
    """One transcoder, one SwiGLU layer, one batch."""

    name: str
    d: int = Field(ge=2, description="width of the layer's inputs and outputs")
    d_mlp: int = Field(ge=1, description="hidden width of the SwiGLU layer")
    d_sae: int = Field(ge=1, description="features")
    k: int = Field(ge=1, description="features active per row (TopK)")
    batch: int = Field(ge=2, description="rows a step")
    slow_arms: bool = Field(default=True, description="whether the arms that take seconds fit into memory, and are run")


SIZES = {
    size.name: size
    for size in (
        Size(name="toy", d=32, d_mlp=64, d_sae=64, k=4, batch=256),
        Size(name="between", d=256, d_mlp=768, d_sae=2_048, k=16, batch=512),
        Size(name="small-lm", d=576, d_mlp=1_536, d_sae=9_216, k=32, batch=1_024),
        Size(name="large", d=2_048, d_mlp=8_192, d_sae=65_536, k=64, batch=8_192, slow_arms=False),
    )
}
"""`small-lm` has the widths of SmolLM2-135M; `large` is for a GPU."""
CPU_SIZES = ("toy", "between", "small-lm")


def _size_by_name(value: Any) -> Any:
    if isinstance(value, str) and value not in SIZES:
        raise ValueError(f"{value}: choose from {', '.join(SIZES)}")
    return SIZES[value] if isinstance(value, str) else value


class SpeedConfig(Record):
    """Time a matched training step beside other ways to make it, and take their peak memory: without the Jacobian
    term, with it, by torch.func.jvp, by double vjp, by a pass per coordinate, and SAELens's own steps. Keep the
    machine quiet meanwhile.
    """

    sizes: tuple[Annotated[Size, BeforeValidator(_size_by_name, json_schema_input_type=str)], ...] = Field(
        default_factory=lambda: tuple(SIZES[name] for name in CPU_SIZES),
        min_length=1,
        description=f"sizes of layers: {', '.join(SIZES)}; may be repeated [default: {' '.join(CPU_SIZES)}]",
    )
    rounds: int = Field(default=7, ge=1, description="every arm is run once a round, in an order of its own each round")
    slow_rounds: int = Field(default=2, ge=1, description="rounds that also run the arms that take seconds")
    coordinates: int = Field(
        default=16, ge=1, description="output coordinates timed of one backward pass per coordinate"
    )
    jacobian_rows: int = Field(
        default=16, ge=2, description="rows of the exact Jacobians by vmap(jacrev); Gram takes the batch"
    )
    seed: int = Field(default=0, ge=0, lt=2**62, description="seed of weights, data and the order of the arms")
    device: Literal["cpu", "cuda"] = Field(default="cpu", description="where steps are timed: cpu or cuda")
    threads: int = threads_field()


class EnsembleSpeedConfig(Record):
    """Time the toy ensemble beside a loop of train_transcoder, in one process with the same threads. Keep the
    machine quiet meanwhile.
    """

    n_models: int = Field(default=30, ge=2, description="transcoders, in the ensemble and in the loop")
    n_steps: int = Field(default=200, ge=20, description="steps of each")
    rounds: int = Field(default=5, ge=1, description="every arm is run once a round")
    line: tuple[int, ...] = Field(default=(4, 8, 16, 32, 64), min_length=3, description="ensemble sizes of the line")
    peak_size: int = Field(default=2048, ge=64, description="width of the square matrices of the peak")
    seed: int = Field(default=0, ge=0, lt=2**62, description="seed of weights and data")
    threads: int = threads_field()


class OverheadConfig(Record):
    """Time another library's trainer with and without the Jacobian term, in turn in one process. Takes some
    minutes; keep the machine quiet meanwhile.
    """

    library: Literal["sparsify", "dictionary_learning"] = Field(
        description="the trainer's library: sparsify or dictionary_learning, installed beside this package"
    )
    d: int = Field(default=576, ge=2, description="width of the layer's inputs and outputs")
    d_mlp: int = Field(default=1536, ge=1, description="hidden width of its SwiGLU layer")
    d_sae: int = Field(default=4608, ge=1, description="features")
    k: int = Field(default=32, ge=1, description="features active a row")
    rows: int = Field(default=1024, ge=2, description="rows a step")
    n_steps: int = Field(default=4, ge=1, description="steps of each arm in each round")
    rounds: int = Field(default=5, ge=1, description="every arm once a round, in turns")
    threads: int = threads_field()


class StoreSpeedConfig(Record):
    """Time training from a store of derivatives beside training from the model, and two processes beside one; also
    how equal their results are. Keep the machine quiet meanwhile.
    """

    model: ModelSource = ModelSource()
    text: TextSource = TextSource()
    block: int = Field(default=10, ge=0, description="block whose MLP is replaced")
    d_sae: int = Field(default=2304, ge=1, description="features")
    k: int = Field(default=32, ge=1, description="features active a row")
    prompts: int = Field(default=128, ge=2, description="prompts in the store")
    prompts_per_shard: int = Field(default=32, ge=1, description="prompts whose rows a file of the store holds")
    context_size: int = Field(default=128, ge=2, description="tokens of each prompt")
    prompts_per_pass: int = Field(default=8, ge=1, description="prompts that the model is run on at a time")
    batch_size: int = Field(default=512, ge=2, description="rows a step")
    n_steps: int = Field(default=40, ge=1, description="steps of one process, from the store or from the model")
    together_batch_size: int = Field(
        default=4096, ge=2, description="rows a step, of all processes that train together"
    )
    together_steps: int = Field(default=12, ge=1, description="steps of processes that train together")
    rounds: int = Field(default=3, ge=1, description="rounds of both, in turns")
    rows: ClassVar[RowSettings] = EVERY_ROW
    device: ClassVar[str] = "cpu"
    threads: int = threads_field("; two processes have half of them each")
    seed: int = Field(default=0, description="seed of text, weights and order")


class StartUpConfig(Record):
    """Time the help of every command, refusals of bad arguments and imports, each in a new process, beside the import
    of torch. Keep the machine quiet meanwhile.
    """

    rounds: int = Field(default=5, ge=1, description="each is run once a round")
    threads: int = threads_field()
    seed: int = Field(default=0, ge=0, lt=2**62, description="seed of the order")


class CrossLayerCostConfig(Record):
    """Time steps of cross-layer transcoders by how many pairs of layers they keep decoders for, beside one transcoder
    for each layer, in CPU seconds of this process, and count their memory.
    """

    n_layers: int = Field(default=8, ge=2, description="layers of the chain")
    d: int = Field(default=64, ge=2, description="width of each layer")
    d_sae: int = Field(default=256, ge=1, description="features of each layer")
    batch: int = Field(default=256, ge=2, description="rows a step")
    bandwidths: tuple[int, ...] = Field(
        default=(1, 2, 4, 6, 8), min_length=3, description="layers that a feature writes to; 1: per-layer transcoders"
    )
    n_steps: int = Field(default=2, ge=1, description="steps of each arm in each round")
    rounds: int = Field(default=5, ge=1, description="every arm once a round, in turns")
    seed: int = Field(default=0, ge=0, lt=2**62, description="seed of weights and rows")
    threads: int = Field(default=1, ge=1, description="CPU threads of torch")
