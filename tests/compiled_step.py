"""Run as a script, without the tests' run-time type checks, which torch.compile cannot follow:
a compiled training step is the plain one, for every architecture and the estimators named."""

import sys

import torch
from oracles import ARCHITECTURES, GatedMlp, random_transcoder

from faithfulness_plugin import JacobianMatching, layer_jvp

layer, x = GatedMlp(5, 7, 4), torch.randn(8, 5, dtype=torch.float64)
for estimator in sys.argv[1:]:
    for architecture in ARCHITECTURES:
        torch._dynamo.reset()
        student = random_transcoder(architecture)

        def step(x: torch.Tensor, student=student, estimator=estimator) -> torch.Tensor:
            loss = (student(x) - layer(x)).square().sum(-1).mean()
            return loss + JacobianMatching(estimator=estimator)(student, layer, x)

        weights = [student.W_enc, student.W_dec]
        plain, compiled = step(x), torch.compile(step, backend="aot_eager")(x)
        torch.testing.assert_close(compiled, plain)
        torch.testing.assert_close(torch.autograd.grad(compiled, weights), torch.autograd.grad(plain, weights))
        print(estimator, architecture)
compiled_layer = torch.compile(layer, backend="aot_eager")
torch.testing.assert_close(layer_jvp(compiled_layer, x, x), layer_jvp(layer, x, x))
