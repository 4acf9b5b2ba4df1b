"""The two-hop circuit rewritten as one hop: the same outputs by fewer features."""

import torch
from torch.nn.functional import pad

from faithfulness_plugin.benchmarks.chains.tasks import chain_task
from faithfulness_plugin.transcoders.cross_layer_inference import CrossLayerTranscoder, ReadingPart


def rewritten_two_hops() -> CrossLayerTranscoder:
    """y_j = a_2j + a_2j+1 - 2 a_2j a_2j+1: the conjunctions write it at once, with a feature for each four bits."""
    task = chain_task("two_hops")
    ands, n, outputs = task.units[0], 8, 4
    # [bits, outputs]: all four bits of each output
    fours = torch.eye(outputs).repeat_interleave(4, dim=0)
    W_enc, b_enc = torch.cat([ands.W_in, 2 * fours], dim=1), torch.cat([ands.b_in, torch.full((outputs,), -7.0)])
    y_0 = pad(torch.eye(n), (0, 8, 0, outputs))
    y_1 = pad(torch.cat([torch.eye(outputs).repeat_interleave(2, dim=0), -2 * torch.eye(outputs)]), (0, 12))
    writes = torch.cat([y_0, y_1], dim=1)  # [features, 2 * d]
    silent = ReadingPart(torch.zeros_like(W_enc), torch.zeros_like(b_enc), None, 16, lambda: torch.zeros(12, 16))
    return CrossLayerTranscoder([ReadingPart(W_enc, b_enc, None, 32, lambda: writes), silent], torch.zeros(2, 16), {})
