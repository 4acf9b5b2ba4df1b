import sys
from types import ModuleType

import pytest
import torch
from torch import nn

from faithfulness_plugin import transcoder_jvp
from faithfulness_plugin.jacobian import adapter_import


def test_a_class_whose_package_only_shares_a_librarys_name_goes_by_autograd_and_says_so_once(monkeypatch):
    monkeypatch.setitem(sys.modules, "sparsify", ModuleType("sparsify"))  # somebody's own
    monkeypatch.delitem(sys.modules, adapter_import.ADAPTERS["sparsify"], raising=False)
    adapter_import._imported.cache_clear()
    cls = type("Mine", (nn.Linear,), {"__module__": "sparsify.mine"})
    module, x, v = cls(3, 2).double(), torch.randn(4, 3).double(), torch.randn(4, 3).double()
    with pytest.warns(UserWarning, match="differentiated by autograd: this adapter needs eai-sparsify"):
        Jv = transcoder_jvp(module, x, v)[1]
    torch.testing.assert_close(Jv, v @ module.weight.T)
    transcoder_jvp(module, x, v)  # no second warning, which would be an error here
    adapter_import._imported.cache_clear()
