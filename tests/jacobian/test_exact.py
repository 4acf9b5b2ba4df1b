import torch
from oracles import jacobian_by_rows

from faithfulness_plugin.jacobian.exact import layer_jacobian, transcoder_jacobian


def test_both_are_the_jacobian_row_by_row(mlp, make_transcoder):
    x = torch.randn(2, 3, 5, dtype=torch.float64)
    transcoder = make_transcoder()
    for ours, function in ((layer_jacobian(mlp, x), mlp), (transcoder_jacobian(transcoder, x), transcoder)):
        rows = torch.stack([jacobian_by_rows(function, row) for row in x.reshape(-1, 5)])
        torch.testing.assert_close(ours, rows.reshape(2, 3, 4, 5))


def test_a_single_row_will_do(mlp):
    row = torch.randn(5, dtype=torch.float64)
    torch.testing.assert_close(layer_jacobian(mlp, row), jacobian_by_rows(mlp, row))
