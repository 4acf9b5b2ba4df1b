"""The sizes that are timed."""

from faithfulness_plugin.benchmarks.timing.speed.schema import Size

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
