import pytest
import torch
from torch import nn
from transformer_lens.utilities.activation_functions import SUPPORTED_ACTIVATIONS
from transformers.activations import ACT2FN

from faithfulness_plugin.layers.activations import ACTIVATIONS, activation_name, called

SPELLINGS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "silu": "silu",
    "swish": "silu",
    "relu": "relu",
    "relu2": "relu2",
    "leaky_relu": "leaky_relu",
    "linear": "identity",
    "tanh": "tanh",
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_an_activation_of_a_library_is_named_by_what_it_computes(spelling):
    assert activation_name(ACT2FN[spelling]) == SPELLINGS[spelling]
    assert activation_name(ACT2FN[spelling].forward) == SPELLINGS[spelling]
    if spelling in SUPPORTED_ACTIVATIONS:
        assert activation_name(SUPPORTED_ACTIVATIONS[spelling]) == SPELLINGS[spelling]


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_name_is_its_own_functions(name):
    assert activation_name(ACTIVATIONS[name]) == name


@pytest.mark.parametrize(
    "act",
    [
        *(torch.sin, nn.PReLU(), nn.PReLU().double(), nn.LeakyReLU(0.02), nn.Softmax(-1), ACT2FN["gelu_10"]),
        *(SUPPORTED_ACTIVATIONS["solu"], lambda x: x.sum(), lambda x: 1.0),
    ],
)
def test_what_is_not_known_or_has_parameters_has_no_name(act):
    assert activation_name(act) is None


def test_a_message_calls_an_activation_by_its_class_or_function():
    assert called(nn.PReLU().forward) == called(nn.PReLU()) == "PReLU"
    assert called(torch.sin) == "sin"
