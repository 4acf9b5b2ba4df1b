"""Settings of the experiment on readability; the docstring is the command's help."""

from pydantic import Field

from faithfulness_plugin.results.schema import Record


class ReadabilityConfig(Record):
    """Compare how readable the features of a real-layers result's transcoders are, arm by arm and without a language
    model as judge: how often they fire, near-duplicates, how well the text predicts their activations, how alike their
    top contexts are, splitting and absorption of first letters, and which features arms share. Measures on prompts that
    follow those of the result. Constant maps, permuted layers and runs with a repeated passage are left out.
    """

    transcoders: str = Field(description="folder of an experiment on real layers")
    tokens: int = Field(default=65_000, ge=100, description="tokens of text, after those that the result used")
    top: int = Field(default=10, ge=2, description="contexts of each feature that are compared, one a prompt")
    least_firings: int = Field(
        default=30, ge=1, description="fewest firings that a feature needs for its prediction and contexts to count"
    )
    duplicate_radius: float = Field(
        default=0.3, gt=0, lt=1, description="near-duplicates are within this part of two features' typical distance"
    )
    words: int = Field(default=5000, ge=20, description="words whose first letters are spelled; 0.8 of them to fit on")
    examples: int = Field(default=3, ge=0, description="words that each prompt of spelling begins with")
    probe_f1: float = Field(
        default=0.6, ge=0, le=1, description="least F1 that a letter's probe needs for the letter to count"
    )
    least_words: int = Field(default=10, ge=1, description="fewest test words that a letter needs to count")
    least_letters: int = Field(
        default=5,
        ge=1,
        le=26,
        description="fewest letters that have to count for splitting and absorption to be reported",
    )
    matched_cosine: float = Field(
        default=0.7, gt=0, lt=1, description="features of two transcoders are the same above this decoder cosine"
    )
    seed: int = Field(default=0, ge=0, lt=2**61, description="seed of the words' order")
