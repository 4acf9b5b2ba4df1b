import pytest
import torch

from faithfulness_plugin import LayerChain, layer_jvp, pad_layer
from faithfulness_plugin.errors import UsageError

X = torch.randn(5, 3, dtype=torch.float64)


@pytest.mark.parametrize("link", ["feed", "residual"])
def test_its_rows_are_what_the_layers_read_and_its_output_what_they_write(link):
    chain = LayerChain([torch.sin, torch.square, torch.tanh], link=link)
    rows = chain.rows(X)
    read, written = rows.chunk(3, dim=-1), chain(rows).chunk(3, dim=-1)
    assert read[0].equal(X)
    for m, layer in enumerate(chain.layers):
        torch.testing.assert_close(written[m], layer(read[m]))
        if m < 2:
            torch.testing.assert_close(read[m + 1], written[m] if link == "feed" else read[m] + written[m])
    chain.require_link(read, written)
    assert len(chain) == 3


def test_its_jacobian_is_block_diagonal():
    chain, rows = LayerChain([torch.sin, torch.square]), torch.randn(5, 6, dtype=torch.float64)
    v = torch.randn_like(rows)
    expected = torch.cat([rows[:, :3].cos() * v[:, :3], 2 * rows[:, 3:] * v[:, 3:]], dim=-1)
    torch.testing.assert_close(layer_jvp(chain, rows, v)[1], expected)


def test_a_layer_may_read_an_earlier_ones_input():
    def product(x: torch.Tensor) -> torch.Tensor:
        one, other = x.chunk(2, dim=-1)
        return one * other

    chain = LayerChain([torch.sin, product], link="feed", reads={1: (0,)})
    rows = chain.rows(X)
    torch.testing.assert_close(chain(rows)[:, 3:], X * X.sin())
    read = chain.split(rows)
    assert chain.readers(0) == [1]
    assert chain.readers(1) == []
    torch.testing.assert_close(chain.by(1, 0, read)(X + 1), (X + 1) * X.sin())
    torch.testing.assert_close(chain.by(1, 1, read)(X + 1), X * (X + 1))
    assert chain.by(0, 0, read) is torch.sin


def test_narrower_layers_are_padded():
    layer = torch.nn.Linear(2, 4).double()
    rows = torch.randn(6, 5, dtype=torch.float64)
    wide = pad_layer(layer, 2, 5)
    torch.testing.assert_close(wide(rows), torch.cat([layer(rows[:, :2]), torch.zeros(6, 1, dtype=rows.dtype)], dim=1))
    v = torch.randn_like(rows)
    torch.testing.assert_close(layer_jvp(wide, rows, v)[1][:, :4], (v[:, :2] @ layer.weight.T).detach())


def narrow(x: torch.Tensor) -> torch.Tensor:
    return x[..., :2]


def test_what_a_user_can_get_wrong(as_installed):
    with pytest.raises(UsageError, match="pass a list of the layers, the first one first"):
        LayerChain([])
    with pytest.raises(TypeError, match="layer 1 must be callable, not int"):
        LayerChain([torch.sin, 3])  # pyright: ignore
    with pytest.raises(UsageError, match="link='skip' is unknown: choose one of"):
        LayerChain([torch.sin], link="skip")  # pyright: ignore
    with pytest.raises(UsageError, match="name layers before layer 1 of 2, in order"):
        LayerChain([torch.sin, torch.sin], reads={1: (1,)})
    two = LayerChain([torch.sin, narrow], link="feed")
    with pytest.raises(UsageError, match=r"layer 1 writes 2 numbers and layer 0 3: .* widen the layers with pad_layer"):
        two(torch.randn(4, 6))
    with pytest.raises(ValueError, match=r"the rows are 5 wide \(shape \[4, 5\]\), and no 2 layers of one width fit"):
        two(torch.randn(4, 5))
    with pytest.raises(UsageError, match="layer 0 reads 3 numbers and writes 2: a chain with a link needs one width"):
        LayerChain([narrow, torch.sin], link="feed").rows(torch.randn(4, 3))
    with pytest.raises(UsageError, match="this chain has no link, so that its rows are not known"):
        LayerChain([torch.sin]).rows(torch.randn(4, 3))
    rows = torch.randn(2, 4, 3)
    with pytest.raises(UsageError, match="layer 1 does not read what the link 'feed' makes of layer 0: something"):
        two.require_link([*rows], [*rows.sin()])
    LayerChain([torch.sin, torch.sin], link="feed", held=True).require_link([*rows], [*rows.sin()])
    with pytest.raises(UsageError, match="width=2: the layer reads 3 coordinates"):
        pad_layer(torch.sin, 3, 2)
    with pytest.raises(UsageError, match="width=3: the layer writes 4 coordinates"):
        pad_layer(torch.nn.Linear(3, 4), 3, 3)(torch.randn(2, 3))
