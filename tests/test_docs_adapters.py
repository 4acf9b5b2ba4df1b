"""The loops of docs/adapters.md are run, not only read."""

import re
from pathlib import Path
from typing import Any

import torch
from torch import nn

from faithfulness_plugin import JacobianMatching, metrics

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "adapters.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
LOOP = next(block for block in BLOCKS if "optimizer.step()" in block)
MODULE = next(block for block in BLOCKS if "class Distilled" in block)


def test_ones_own_loop_learns_and_matching_lowers_the_jacobian_error():
    errors = {}
    for coefficient in ("0.0", "0.3"):
        torch.manual_seed(0)
        names: dict[str, Any] = {}
        exec(LOOP.replace("+ 0.3 *", f"+ {coefficient} *"), names)
        rows = names["rows"]
        errors[coefficient] = metrics.jacobian_error(names["transcoder"], names["layer"], rows[:256]).relative_error
    assert errors["0.3"] < 0.9 * errors["0.0"]


def test_a_lightning_style_module_keeps_the_layer_out_and_the_probes_in():
    names: dict[str, Any] = {"nn": nn, "torch": torch, "JacobianMatching": JacobianMatching}
    exec(MODULE, names)
    layer = nn.Sequential(nn.Linear(6, 12), nn.GELU(), nn.Linear(12, 6))
    transcoder = nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 6))
    module, x = names["Distilled"](transcoder, layer), torch.randn(64, 6)
    assert set(dict(module.named_parameters())) == {f"transcoder.{name}" for name, _ in transcoder.named_parameters()}
    optimizer = module.configure_optimizers()
    before = module.training_step(x).item()
    for _ in range(100):
        optimizer.zero_grad()
        module.training_step(x).backward()
        optimizer.step()
    assert module.training_step(x).item() < before
    assert all(parameter.grad is None for parameter in layer.parameters())

    checkpoint: dict[str, Any] = {}
    module.on_save_checkpoint(checkpoint)
    expected = module.training_step(x)
    resumed = names["Distilled"](transcoder, layer)
    resumed.on_load_checkpoint(checkpoint)
    torch.testing.assert_close(resumed.training_step(x), expected)
