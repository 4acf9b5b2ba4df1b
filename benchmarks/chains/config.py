"""Settings of the benchmark's second track; the docstring is the command's help."""

from pydantic import Field, model_validator

from faithfulness_plugin.benchmarks.chains.methods import METHODS, N_STEPS, STRENGTHS, TERMS
from faithfulness_plugin.benchmarks.methods.registry import is_outside
from faithfulness_plugin.benchmarks.suite.schema import SEEDS
from faithfulness_plugin.nearest import nearest
from faithfulness_plugin.results.schema import Record

TASKS = ("two_hops", "absolute_values", "skipping")


class ChainsConfig(Record):
    """Do cross-layer transcoders keep the hops of a chain of layers? Trains per-layer and cross-layer transcoders of
    chains whose mechanism is known, with and without a term that asks for derivatives, and scores which hops and which
    edges of the circuit they keep, at the chain's own L0.

    A method of your own is --methods my_package.my_module:method, an object with `strengths` and train(chain, inputs,
    *, seed, strength) (docs/cross-layer.md).
    """

    tasks: list[str] = Field(default=list(TASKS), min_length=1, description="chains")
    methods: list[str] = Field(
        default=list(METHODS), min_length=1, description="names, or my_package.my_module:method; may be repeated"
    )
    seeds: int = Field(default=5, ge=1, description="how many of the frozen seeds")
    from_seed: int = Field(default=0, ge=0, description="how many of the frozen seeds are left out before them")
    strengths: list[float] = Field(
        default=list(STRENGTHS), min_length=1, description="sparsity coefficients of the shipped methods"
    )
    n_steps: int = Field(default=N_STEPS, ge=20, description="optimizer steps of the shipped methods")
    coefficients: dict[str, float] = Field(default={}, description="of terms by name, in the place of their own")
    time_limit: float = Field(default=600.0, gt=0, description="seconds that a trial of an outside method may take")

    @model_validator(mode="after")
    def _fits(self) -> "ChainsConfig":
        own = [name for name in self.methods if is_outside(name)]
        for what, names, known in (("task", self.tasks, [*TASKS]), ("method", self.methods, [*METHODS, *own])):
            if unknown := next((name for name in names if name not in known), None):
                raise ValueError(f"{what}s: there is no {what} {unknown!r}: {nearest(unknown, known)}")
            if len({*names}) < len(names):
                raise ValueError(f"{what}s: a name is given twice: leave one of them out")
        if self.from_seed + self.seeds > len(SEEDS):
            raise ValueError(f"seeds: the frozen list has {len(SEEDS)}: choose fewer")
        if unknown := next((term for term in self.coefficients if term not in TERMS), None):
            raise ValueError(f"coefficients: there is no term {unknown!r}: {nearest(unknown, list(TERMS))}")
        if any(not strength > 0 for strength in (*self.strengths, *self.coefficients.values())):
            raise ValueError("strengths and coefficients must be above 0")
        return self

    @property
    def chosen_seeds(self) -> tuple[int, ...]:
        """The seeds themselves."""
        return SEEDS[self.from_seed : self.from_seed + self.seeds]
