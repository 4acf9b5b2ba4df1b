"""What the experiments on inspection can be told; their docstrings are the commands' help."""

from pydantic import Field

from faithfulness_plugin.results.schema import Record


class ToyScoresConfig(Record):
    """Score the features of toy transcoders, where it is known which of them serve the repeated point."""

    n_seeds: int = Field(default=60, ge=1, description="transcoders of each arm")
    seed: int = Field(default=1000, ge=0, lt=2**61, description="the first seed; of weights, data and probes")
    n_steps: int = Field(default=4000, ge=1, description="optimizer steps")
    n_rows: int = Field(default=8192, ge=256, description="rows that the features are inspected on")
    truth: float = Field(
        default=0.1,
        gt=0,
        lt=1,
        description="datapoint features are those whose own m_i is above this part of the maximum",
    )


class PassageConfig(Record):
    """Score the features of a real layer's transcoders, some of which were trained on a repeated passage. First
    measures what `faithfulness inspect` costs on one of them, and its page in a Chromium where there is one
    (keep the machine quiet meanwhile).
    """

    transcoders: str = Field(description="folder of an experiment on real layers with a repeated passage")
    tokens: int = Field(default=20_000, ge=1000, description="tokens of text, for the score")
    share: float = Field(default=0.05, gt=0, lt=1, description="share of the rows that are the passage's")
    cost_tokens: int = Field(default=100_000, ge=1000, description="tokens of text, for what inspecting costs")
    memory: float = Field(
        default=2.0, gt=0, description="GiB for rows and activations, as in `faithfulness inspect --memory`"
    )
