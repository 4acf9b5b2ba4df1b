import pytest
import torch
from oracles import ARCHITECTURES

from faithfulness_plugin.jacobian.by_feature import jacobian_by_feature
from faithfulness_plugin.jacobian.exact import transcoder_jacobian
from faithfulness_plugin.jacobian.linear_region import linear_region


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("skip", [False, True])
def test_parts_are_inner_products_with_the_whole_jacobian(make_transcoder, architecture, skip):
    transcoder, x = make_transcoder(architecture, skip=skip).eval(), torch.randn(9, 5, dtype=torch.float64)
    region = linear_region(transcoder, x)
    assert region is not None
    parts, whole = jacobian_by_feature(region)
    J, acts = transcoder_jacobian(transcoder, x).detach(), transcoder.encode(x)
    W_enc, W_dec = transcoder.W_enc.detach(), transcoder.W_dec.detach()
    for i in range(12):
        part = torch.outer(W_dec[i], W_enc[:, i])
        expected = sum((part * J[n]).sum() for n in range(9) if acts[n, i] > 0)
        torch.testing.assert_close(parts[i], torch.as_tensor(expected, dtype=torch.float64))
    torch.testing.assert_close(whole, J.square().sum())
    skipped = (J * transcoder.W_skip).sum() if skip else 0.0
    torch.testing.assert_close(parts.sum() + skipped, whole)


def test_rows_where_nothing_fires_have_no_parts(make_transcoder):
    transcoder = make_transcoder().eval()
    with torch.no_grad():
        transcoder.b_enc.fill_(-100)
    region = linear_region(transcoder, torch.randn(3, 5, dtype=torch.float64))
    assert region is not None
    parts, whole = jacobian_by_feature(region)
    assert not parts.any()
    assert whole == 0
