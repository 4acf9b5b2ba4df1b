"""The transcoder that is the layer itself."""

import torch
from torch import Tensor

from faithfulness_plugin.toy.relu_network import ReluNetwork
from faithfulness_plugin.transcoders.standard import StandardTrainingTranscoder, StandardTrainingTranscoderConfig


@torch.no_grad()
def exact_transcoder(network: ReluNetwork) -> StandardTrainingTranscoder:
    """Return a transcoder with a feature for each neuron of the network, and equal outputs, in `eval` mode.

    Its scores are what perfect scores look like.

    Args:
        network: the layer.

    Returns:
        The transcoder, with the network as its layer.

    Example:
        >>> from faithfulness_plugin.metrics import jacobian_error
        >>> from faithfulness_plugin.toy.abs_network import AbsNetwork
        >>> from faithfulness_plugin.toy.inputs import AbsInputs
        >>> network, x = AbsNetwork(4), next(AbsInputs(4))
        >>> jacobian_error(exact_transcoder(network), network, x).relative_error
        0.0
    """
    W_in: Tensor = network.W_in
    transcoder = StandardTrainingTranscoder(
        StandardTrainingTranscoderConfig(
            d_in=W_in.shape[0],
            d_sae=W_in.shape[1],
            d_out=network.W_out.shape[1],
            dtype=str(W_in.dtype).removeprefix("torch."),
        )
    )
    weights = {"W_enc": W_in, "b_enc": network.b_in, "W_dec": network.W_out, "b_dec": network.b_out}
    for name, weight in weights.items():
        transcoder.get_parameter(name).copy_(weight)
    return transcoder.set_layer(network).eval()
