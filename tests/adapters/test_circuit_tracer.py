import json
import os
import subprocess
import sys
import threading
import urllib.request
from functools import partial
from math import isqrt
from pathlib import Path
from typing import Any

import pytest
import sae_lens
import tiny_hub
import torch
import transformers as hf
import yaml
from cross_layer import LAYERS, cross_layer
from oracles import jacobians_of_batch, random_transcoder
from sae_lens import SAE
from safetensors.torch import load_file
from torch import Tensor

from faithfulness_plugin import (
    load_cross_layer_transcoder,
    load_transcoder,
    topk_to_jumprelu,
    transcoder_jvp,
    transcoder_vjp,
)
from faithfulness_plugin.adapters.circuit_tracer import export_graph, export_transcoder_set, load_transcoder_set
from faithfulness_plugin.attribution import attribute, prune, replaced_layers
from faithfulness_plugin.errors import UsageError

pytestmark = pytest.mark.usefixtures("as_installed", "one_thread")
SITE = str(Path(sae_lens.__file__).parents[1])
"""Where the packages of our own environment are, which that of circuit-tracer stands on."""
D = 16
HOOKS = {"feature_input_hook": "mlp.hook_in", "feature_output_hook": "mlp.hook_out"}
TINY: dict[str, Any] = {"model_name": "tiny", **HOOKS}
EXPORTED = ["standard", "jumprelu", "batch_topk"]


def of(architecture: str, **fields: Any) -> Any:
    fields = {"d_in": D, "d_out": D, "d_sae": 40, "dtype": "float32", **fields}
    transcoder = random_transcoder(architecture, **fields)
    if architecture == "batch_topk":
        transcoder.topk_threshold.fill_(0.3)  # pyright: ignore
    return transcoder.eval()


def with_a_nan(transcoder: Any) -> Any:
    with torch.no_grad():
        transcoder.W_dec[3, 2] = torch.nan
    return transcoder


def two_layers(architecture: str = "jumprelu", **fields: Any) -> dict[int, Any]:
    torch.manual_seed(4)
    return {layer: of(architecture, **fields) for layer in (0, 1)}


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("architecture", EXPORTED)
def test_a_set_comes_back_as_the_functions_that_went_in(architecture, skip, tmp_path):
    transcoders, x = two_layers(architecture, skip=skip), torch.randn(200, D)
    folder = export_transcoder_set(transcoders, tmp_path / "set", **TINY)
    back = load_transcoder_set(folder)
    assert list(back) == [0, 1]
    for layer, transcoder in back.items():
        torch.testing.assert_close(transcoder(x), transcoders[layer](x), rtol=1e-5, atol=1e-5)
        assert transcoder.cfg.metadata.hook_name == f"blocks.{layer}.mlp.hook_in"
        assert transcoder.cfg.metadata.hook_name_out == f"blocks.{layer}.mlp.hook_out"
    one = load_transcoder(folder / "layer_1.safetensors")
    torch.testing.assert_close(one(x), back[1](x))


def test_finished_transcoders_and_their_metadata_are_enough(tmp_path):
    for layer, transcoder in two_layers().items():
        transcoder.cfg.metadata.hook_name = f"blocks.{layer}.mlp.hook_in"
        transcoder.cfg.metadata.hook_name_out = f"blocks.{layer}.hook_mlp_out"
        transcoder.save_inference_model(tmp_path / f"{layer}")
    finished = {layer: SAE.load_from_disk(tmp_path / f"{layer}") for layer in (0, 1)}
    export_transcoder_set(finished, tmp_path / "set", model_name="tiny", scan="mine")
    config = yaml.safe_load((tmp_path / "set" / "config.yaml").read_text())
    assert config["feature_input_hook"] == "mlp.hook_in"
    assert (config["feature_output_hook"], config["scan"]) == ("hook_mlp_out", "mine")


def test_topk_goes_through_a_threshold(tmp_path):
    transcoders, x = two_layers("topk"), torch.randn(500, D)
    with pytest.raises(ValueError, match=r"layer 0 is a TopK transcoder.*pass topk_to_jumprelu"):
        export_transcoder_set(transcoders, tmp_path / "set", **TINY)
    converted = {layer: topk_to_jumprelu(transcoder, x) for layer, transcoder in transcoders.items()}
    back = load_transcoder_set(export_transcoder_set(converted, tmp_path / "set", **TINY))
    torch.testing.assert_close(back[0](x), converted[0](x), rtol=1e-5, atol=1e-5)


def test_thresholds_below_0_are_written_as_what_they_do(tmp_path):
    transcoders = two_layers()
    for transcoder in transcoders.values():
        transcoder.save_inference_model(tmp_path / "stock")
        stock: Any = SAE.load_from_disk(tmp_path / "stock")
        with torch.no_grad():
            stock.threshold.fill_(-1.0)
        transcoders = {0: stock}
    folder, x = export_transcoder_set(transcoders, tmp_path / "set", **TINY), torch.randn(50, D)
    assert (load_file(folder / "layer_0.safetensors")["activation_function.threshold"] == 0).all()
    torch.testing.assert_close(load_transcoder(folder)(x), transcoders[0](x))


@pytest.mark.parametrize(
    ("transcoders", "options", "message"),
    [
        (dict, TINY, "one for every layer"),
        (lambda: {1: of("standard")}, TINY, "one for every layer of the model, from 0 on"),
        (lambda: {0: of("standard", d_out=8)}, TINY, "layer 0 reads 16 and writes 8: they must agree"),
        (lambda: {0: of("standard"), 1: of("standard", d_sae=20)}, TINY, r"differ in d_sae \(20, 40\)"),
        (lambda: {0: of("standard"), 1: of("standard", skip=True)}, TINY, "some have none"),
        (lambda: {0: of("standard")}, {"model_name": "tiny"}, 'pass feature_input_hook, such as "mlp.hook_in"'),
        (lambda: {0: torch.nn.Linear(D, D)}, TINY, "layer 0 is a Linear"),
        (lambda: {0: with_a_nan(of("standard"))}, TINY, "NaN or Inf in the weight W_dec: nothing was written"),
        (
            lambda: {0: with_a_nan(topk_to_jumprelu(of("topk"), torch.randn(99, D)))},
            TINY,
            r"layer 0: W_dec has 1 of 640 values that are NaN or infinite",
        ),
    ],
)
def test_what_a_user_can_get_wrong(transcoders, options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        export_transcoder_set(transcoders(), tmp_path / "set", **options)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten_silently(tmp_path):
    folder = export_transcoder_set(two_layers(), tmp_path / "set", **TINY)
    before = (folder / "layer_0.safetensors").read_bytes()
    with pytest.raises(ValueError, match="is not empty"):
        export_transcoder_set(two_layers("standard"), folder, **TINY)
    assert (folder / "layer_0.safetensors").read_bytes() == before
    export_transcoder_set({0: of("standard")}, folder, **TINY, overwrite=True)
    assert sorted(path.name for path in folder.iterdir()) == ["config.yaml", "layer_0.safetensors"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("")
    for config in ("", "lr: 1", "model_kind: transcoder_set"):
        (tmp_path / "mine" / "config.yaml").write_text(config)
        with pytest.raises(ValueError, match="is not empty"):
            export_transcoder_set(two_layers(), tmp_path / "mine", **TINY, overwrite=True)
    assert (tmp_path / "mine" / "thesis.tex").exists()


def test_a_set_is_replaced_from_within_through_a_link_and_survives_a_failure(tmp_path, monkeypatch):
    folder = export_transcoder_set(two_layers("standard"), tmp_path / "set", **TINY)
    monkeypatch.chdir(folder)
    assert export_transcoder_set({0: of("standard")}, ".", **TINY, overwrite=True) == folder
    assert sorted(path.name for path in folder.iterdir()) == ["config.yaml", "layer_0.safetensors"]
    (tmp_path / "link").symlink_to(folder)
    export_transcoder_set(two_layers("standard"), tmp_path / "link", **TINY, overwrite=True)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert len(before) == 3
    original, calls = os.replace, []

    def replace(source, target):
        calls.append(target)
        if len(calls) == 2:  # the new set under its name
            raise OSError(28, "No space left on device")
        original(source, target)

    monkeypatch.setattr("faithfulness_plugin.atomic.os.replace", replace)
    with pytest.raises(ValueError, match="No space left"):
        export_transcoder_set({0: of("standard")}, folder, **TINY, overwrite=True)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def replacement_model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """circuit-tracer's own, of a tiny model with two layers, with a set that it finds in its cache."""
    from circuit_tracer.replacement_model.replacement_model_transformerlens import TransformerLensReplacementModel
    from circuit_tracer.utils.hf_utils import load_transcoder_from_hub
    from transformer_lens import HookedTransformerConfig

    monkeypatch.setenv("CIRCUIT_TRACER_CACHE_DIR", str(folder.parent.parent))
    transcoders, _ = load_transcoder_from_hub(f"{folder.parent.name}/{folder.name}", device=torch.device("cpu"))
    config = HookedTransformerConfig(
        n_layers=2,
        d_model=D,
        n_ctx=16,
        d_head=8,
        n_heads=2,
        d_mlp=32,
        d_vocab=tiny_hub.N_TOKENS,
        act_fn="gelu",
        normalization_type="LN",
        seed=0,
        model_name="tiny",
        device="cpu",
    )
    words = folder.parent / "words"  # TransformerLens reads a tokenizer again, from where it was read
    tiny_hub.tokenizer().save_pretrained(words)
    torch.manual_seed(0)
    return TransformerLensReplacementModel.from_config(
        config, transcoders, tokenizer=hf.PreTrainedTokenizerFast.from_pretrained(words)
    )


@pytest.mark.works("sets that we export load there, with equal outputs")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("architecture", EXPORTED)
def test_circuit_tracer_loads_what_we_export(architecture, skip, tmp_path, monkeypatch):
    pytest.importorskip("circuit_tracer")
    transcoders, x = two_layers(architecture, skip=skip), torch.randn(60, D)
    model = replacement_model(export_transcoder_set(transcoders, tmp_path / "me" / "set", **TINY), monkeypatch)
    for layer, theirs in enumerate(model.transcoders):
        torch.testing.assert_close(theirs(x), transcoders[layer](x), rtol=1e-5, atol=1e-5)


@pytest.mark.works("attribution graphs with transcoders that we export for every layer")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("skip", [False, True])
def test_circuit_tracer_makes_a_graph(skip, tmp_path, monkeypatch):
    pytest.importorskip("circuit_tracer")
    from circuit_tracer import attribute

    transcoders = two_layers("jumprelu", skip=skip)
    model = replacement_model(export_transcoder_set(transcoders, tmp_path / "me" / "set", **TINY), monkeypatch)
    tokens = torch.tensor([0, 5, 9, 12, 7])
    graph = attribute(tokens, model, max_n_logits=3)
    seen: list[Tensor] = []
    for layer in (0, 1):
        _, cache = model.run_with_cache(tokens[None], names_filter=f"blocks.{layer}.mlp.hook_in")
        acts = transcoders[layer].encode(cache[f"blocks.{layer}.mlp.hook_in"][0]).detach()
        acts[0] = 0  # circuit-tracer leaves the first token out
        seen.append(acts.to_dense())
    layers, positions, features = graph.active_features.T
    active = torch.stack(seen) > 0
    assert len(graph.active_features) == int(active.sum()) > 0
    assert active[layers, positions, features].all()
    torch.testing.assert_close(graph.activation_values, torch.stack(seen)[layers, positions, features])
    assert graph.adjacency_matrix.isfinite().all()
    assert graph.adjacency_matrix.abs().sum() > 0


@pytest.mark.works("cross-layer transcoders that we export load there, and its own load here, with equal outputs")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("options", [{}, {"bandwidth": 2}, {"tied": True}], ids=str)
@pytest.mark.parametrize("architecture", EXPORTED)
def test_cross_layer_transcoders_are_the_same_there(architecture, options, tmp_path, monkeypatch):
    pytest.importorskip("circuit_tracer")
    from circuit_tracer.transcoder.cross_layer_transcoder import load_clt
    from circuit_tracer.utils.hf_utils import load_transcoder_from_hub

    clt = cross_layer(architecture, each={"dtype": "float32"}, **options).eval()
    if architecture == "batch_topk":
        for part in clt.parts:
            part.topk_threshold.fill_(0.3)
    clt.cfg.metadata.hook_name, clt.cfg.metadata.hook_name_out = "hook_resid_mid", "hook_mlp_out"
    clt.save_inference_model(tmp_path / "me" / "clt")
    stack = torch.randn(60, LAYERS, clt.d_in_each)
    read: Any = {"device": torch.device("cpu"), "dtype": torch.float32}
    monkeypatch.setenv("CIRCUIT_TRACER_CACHE_DIR", str(tmp_path))
    of_cache, config = load_transcoder_from_hub("me/clt", **read)
    assert config["feature_input_hook"] == of_cache.feature_input_hook == "hook_resid_mid"
    for theirs in (
        of_cache,
        *(load_clt(str(tmp_path / "me" / "clt"), **read, lazy_decoder=lazy) for lazy in (True, False)),
    ):
        y = theirs(stack.movedim(1, 0)).movedim(0, 1)  # layers come first there
        torch.testing.assert_close(y, clt(stack), rtol=1e-5, atol=1e-5)
    of_cache.to_safetensors(str(tmp_path / "theirs"))
    back = load_cross_layer_transcoder(tmp_path / "theirs")
    torch.testing.assert_close(back(stack), clt(stack), rtol=1e-5, atol=1e-5)


@pytest.mark.works("J v, J^T v in closed form")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("activation", ["relu", "jumprelu", "topk", "topk below 0"])
def test_its_classes_have_closed_forms(activation, skip):
    pytest.importorskip("circuit_tracer.transcoder")
    from circuit_tracer.transcoder import SingleLayerTranscoder
    from circuit_tracer.transcoder.activation_functions import JumpReLU, TopK

    import faithfulness_plugin.adapters.circuit_tracer.regions  # noqa: F401  here, for the sake of the shape checker

    functions = {"relu": torch.relu, "jumprelu": JumpReLU(torch.full((24,), 0.3), 0.1), "topk": TopK(3)}
    function: Any = functions.get(activation, TopK(20))
    theirs = SingleLayerTranscoder(6, 24, function, 0, skip, device=torch.device("cpu"), dtype=torch.float64).double()
    with torch.no_grad():
        for weight in (theirs.W_enc, theirs.W_dec, theirs.b_enc, theirs.b_dec):
            weight.normal_(std=0.5)
        if skip:
            theirs.W_skip.normal_(std=0.5)  # pyright: ignore
    x = torch.randn(5, 6, dtype=torch.float64)
    v, u = torch.randn_like(x), torch.randn_like(x)
    J = jacobians_of_batch(theirs, x)
    y, Jv = transcoder_jvp(theirs, x, v)
    torch.testing.assert_close(y, theirs(x))
    torch.testing.assert_close(Jv, torch.einsum("noi,ni->no", J, v))
    torch.testing.assert_close(transcoder_vjp(theirs, x, u)[1], torch.einsum("noi,no->ni", J, u))


def test_its_classes_are_known_at_first_sight():
    """In a process that has not seen the adapter."""
    pytest.importorskip("circuit_tracer")
    code = """
import sys
import torch
from faithfulness_plugin import transcoder_jvp
from circuit_tracer.transcoder import SingleLayerTranscoder
transcoder = SingleLayerTranscoder(6, 24, torch.relu, 0, device=torch.device("cpu"), dtype=torch.float32)
assert "faithfulness_plugin.adapters.circuit_tracer.regions" not in sys.modules
x = torch.randn(3, 6)
transcoder_jvp(transcoder, x, x, gate=None)
assert "faithfulness_plugin.adapters.circuit_tracer.regions" in sys.modules
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=120)


def llama() -> Any:
    """A tiny Llama, whose norms and weights are not negligible."""
    sizes = {"hidden_size": D, "intermediate_size": 32, "num_hidden_layers": 2, "max_position_embeddings": 16}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    torch.manual_seed(0)
    model = hf.LlamaForCausalLM(hf.LlamaConfig(**sizes, **heads, vocab_size=tiny_hub.N_TOKENS)).eval()
    for parameter in model.requires_grad_(False).parameters():
        parameter.normal_(std=parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else 0.5)
    return model


def converted(model: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """circuit-tracer's replacement model of a Llama whose name it does not know, with the weights converted by hand."""
    from circuit_tracer.replacement_model.replacement_model_transformerlens import TransformerLensReplacementModel
    from circuit_tracer.utils.hf_utils import load_transcoder_from_hub
    from transformer_lens import HookedTransformerConfig
    from transformer_lens.pretrained.weight_conversions import convert_llama_weights

    monkeypatch.setenv("CIRCUIT_TRACER_CACHE_DIR", str(folder.parent.parent))
    transcoders, _ = load_transcoder_from_hub(f"{folder.parent.name}/{folder.name}", device=torch.device("cpu"))
    c = model.config
    config = HookedTransformerConfig(
        n_layers=c.num_hidden_layers,
        d_model=c.hidden_size,
        n_ctx=16,
        d_head=c.head_dim,
        n_heads=c.num_attention_heads,
        n_key_value_heads=c.num_key_value_heads,
        d_mlp=c.intermediate_size,
        d_vocab=c.vocab_size,
        act_fn="silu",
        gated_mlp=True,
        normalization_type="RMS",
        eps=c.rms_norm_eps,
        positional_embedding_type="rotary",
        rotary_base=int(c.rope_theta),
        rotary_dim=c.head_dim,
        final_rms=True,
        original_architecture="LlamaForCausalLM",
        model_name="tiny",
        device="cpu",
    )
    words = folder.parent / "words"
    tiny_hub.tokenizer().save_pretrained(words)
    theirs = TransformerLensReplacementModel(config, tokenizer=hf.PreTrainedTokenizerFast.from_pretrained(words))
    weights = convert_llama_weights(model, config) | {"unembed.W_U": model.lm_head.weight.T}
    theirs.load_state_dict(theirs.state_dict() | weights, strict=False)
    theirs._configure_replacement_model(transcoders)
    return theirs


@pytest.mark.works("our attribution graphs are its own, with its scores and its pruning")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("max_features", [None, 30])
@pytest.mark.parametrize("skip", [False, True])
def test_our_graphs_are_circuit_tracers(skip, max_features, tmp_path, monkeypatch):
    pytest.importorskip("circuit_tracer")
    from circuit_tracer import attribute
    from circuit_tracer.graph import Graph, compute_graph_scores, prune_graph

    from faithfulness_plugin import attribution

    transcoders = two_layers("jumprelu", skip=skip)
    model, tokens = llama(), torch.tensor([0, 5, 9, 12, 7, 3])
    theirs = converted(model, export_transcoder_set(transcoders, tmp_path / "me" / "set", **TINY), monkeypatch)
    torch.testing.assert_close(theirs(tokens[None]), model(tokens[None]).logits, rtol=1e-4, atol=1e-4)
    options = {"max_n_logits": 3, "max_feature_nodes": max_features, "batch_size": 4, "update_interval": 2}
    graph = attribute(tokens, theirs, **options)
    ours = attribution.attribute(
        attribution.replaced_layers(model, transcoders),
        tokens[None],
        max_features=max_features,
        max_logits=3,
        per_round=8,
    )
    assert ours.features.equal(graph.active_features[graph.selected_features])
    assert ours.logit_tokens.tolist() == graph.logit_token_ids.tolist()
    A, B = ours.adjacency.clone(), graph.adjacency_matrix.clone()
    if skip:  # theirs passes the token that is left out, ours does not: it changes what that token adds, and no more
        A[:, ours.embeddings.start] = B[:, ours.embeddings.start] = 0
    torch.testing.assert_close(A, B, rtol=1e-4, atol=1e-5)
    kept = vars(graph) | {"adjacency_matrix": ours.adjacency}
    arguments = Graph.__init__.__code__.co_varnames[1 : Graph.__init__.__code__.co_argcount]
    of_ours = Graph(**{name: kept[name] for name in arguments})  # their functions, our edges
    found = attribution.graph_scores(ours)
    assert (found.replacement, found.completeness) == pytest.approx(compute_graph_scores(of_ours), abs=1e-4)
    if not skip:
        assert (found.replacement, found.completeness) == pytest.approx(compute_graph_scores(graph), abs=1e-4)
    for thresholds in ((0.8, 0.98), (0.5, 0.6)):
        nodes, edges, _ = prune_graph(of_ours, *thresholds)
        pruned = attribution.prune(ours, *thresholds)
        assert pruned.nodes.equal(nodes)
        assert pruned.edges.equal(edges)
        smaller = Graph(**{name: (kept | {"adjacency_matrix": ours.adjacency * edges})[name] for name in arguments})
        found = attribution.graph_scores(ours, pruned)
        assert (found.replacement, found.completeness) == pytest.approx(compute_graph_scores(smaller), abs=1e-4)


def words(token: int) -> str:
    return tiny_hub.tokenizer().decode(token)


def small_graph() -> Any:
    return attribute(replaced_layers(llama(), two_layers()), torch.tensor([[0, 5, 9, 12, 5]]), max_logits=3)


def unpaired(number: int) -> tuple[int, int]:
    """Cantor's pairing function the other way round."""
    diagonal = (isqrt(8 * number + 1) - 1) // 2
    second = number - diagonal * (diagonal + 1) // 2
    return diagonal - second, second


def test_a_graph_file_holds_what_pruning_leaves(tmp_path):
    graph = small_graph()
    file = export_graph(graph, tmp_path, slug="small", token_text=words)
    written, pruned = json.loads(file.read_text()), prune(graph)
    nodes = {node["node_id"]: node for node in written["nodes"]}
    assert len(nodes) == len(written["nodes"])
    assert len(written["links"]) == int((pruned.edges & pruned.nodes & pruned.nodes[:, None]).sum()) > 0
    assert all(link["source"] in nodes and link["target"] in nodes for link in written["links"])
    weights = {(link["source"], link["target"]): link["weight"] for link in written["links"]}
    features = {tuple(row): n for n, row in enumerate(graph.features.tolist())}
    for node in written["nodes"]:
        if node["feature_type"] != "cross layer transcoder":
            continue
        block, feature = unpaired(node["feature"])
        n = features[block, node["ctx_idx"], feature]
        assert (node["layer"], node["node_id"]) == (str(block), f"{block}_{feature}_{node['ctx_idx']}")
        assert node["activation"] == pytest.approx(graph.acts[n].item())
        first = f"3_{graph.logit_tokens[0]}_4"
        if (node["node_id"], first) in weights:
            assert weights[node["node_id"], first] == pytest.approx(graph.adjacency[graph.logits.start, n].item())
    logits = [node for node in written["nodes"] if node["feature_type"] == "logit"]
    assert [node["is_target_logit"] for node in logits] == [True, *[False] * (len(logits) - 1)]
    assert logits[0]["clerp"].startswith(f'Output "{words(int(graph.logit_tokens[0]))}" (p=')
    assert written["metadata"]["prompt_tokens"] == [words(token) for token in (0, 5, 9, 12, 5)]
    assert json.loads((tmp_path / "graph-metadata.json").read_text())["graphs"] == [written["metadata"]]


def test_graphs_stand_beside_each_other_and_are_replaced_on_request(tmp_path):
    graph = small_graph()
    for slug in ("one", "two"):
        export_graph(graph, tmp_path, slug=slug)
    with pytest.raises(UsageError, match=r"one\.json is there already: choose another slug"):
        export_graph(graph, tmp_path, slug="one")
    export_graph(graph, tmp_path, slug="one", overwrite=True, scan="me/set")
    listed = json.loads((tmp_path / "graph-metadata.json").read_text())["graphs"]
    assert [(of["slug"], of["scan"]) for of in listed] == [("two", "/features"), ("one", "me/set")]
    for slug in ("", "a/b", "../a", "graph-metadata"):
        with pytest.raises(UsageError, match="choose a name of letters"):
            export_graph(graph, tmp_path, slug=slug)
    with pytest.raises(UsageError, match="found in one place"):
        export_graph(graph, tmp_path, slug="three", scan="/a", features=tmp_path)
    with pytest.raises(UsageError, match=r"has no feature .* of layer 0: write the features of this layer too"):
        export_graph(graph, tmp_path, slug="three", features=tmp_path)
    (tmp_path / "three_features").mkdir()
    (tmp_path / "three_features" / "thesis.tex").touch()
    with pytest.raises(UsageError, match=r"it holds thesis.tex, which is none of the features of a graph"):
        export_graph(graph, tmp_path, slug="three", features=tmp_path, overwrite=True)
    (tmp_path / "graph-metadata.json").write_text("[]")
    with pytest.raises(UsageError, match="is no list of graphs"):
        export_graph(graph, tmp_path, slug="three")


@pytest.mark.works("graph files that we write are its own")
@pytest.mark.filterwarnings("ignore")
def test_circuit_tracer_writes_the_same_graph_file(tmp_path, monkeypatch):
    pytest.importorskip("circuit_tracer")
    from circuit_tracer import attribute as theirs
    from circuit_tracer.frontend.graph_models import Model
    from circuit_tracer.utils.create_graph_files import create_graph_files

    transcoders, llm = two_layers(), llama()
    model = converted(llm, export_transcoder_set(transcoders, tmp_path / "me" / "set", **TINY), monkeypatch)
    tokens = torch.tensor([0, 5, 9, 12, 5])
    graph = theirs(tokens, model, max_n_logits=3)
    ours = attribute(replaced_layers(llm, transcoders), tokens[None], max_logits=3)
    graph.cfg.tokenizer_name = str(tmp_path / "me" / "words")
    assert graph.scan.startswith("/")  # features from `features_dir`
    create_graph_files(graph, "same", str(tmp_path / "theirs"))
    export_graph(ours, tmp_path / "ours", slug="same", token_text=words, scan=graph.scan)
    of_theirs, of_ours = (
        Model.model_validate_json((tmp_path / who / "same.json").read_text()) for who in ("theirs", "ours")
    )
    assert of_ours.metadata.model_dump(exclude={"prompt"}) == of_theirs.metadata.model_dump(exclude={"prompt"})
    assert of_ours.qParams == of_theirs.qParams
    assert [node.node_id for node in of_ours.nodes] == [node.node_id for node in of_theirs.nodes]
    for node, other in zip(of_ours.nodes, of_theirs.nodes, strict=True):
        numbers = {"token_prob", "influence", "activation", "clerp"}  # clerp has a probability
        assert node.model_dump(exclude=numbers) == other.model_dump(exclude=numbers)
        assert (node.influence, node.activation) == pytest.approx((other.influence, other.activation), abs=1e-4)
        assert node.token_prob == pytest.approx(other.token_prob, abs=1e-5)
        assert node.clerp.partition("(p=")[0] == other.clerp.partition("(p=")[0]
    links = [{(of["source"], of["target"]): of["weight"] for of in each.links} for each in (of_ours, of_theirs)]
    assert links[0] == pytest.approx(links[1], abs=1e-4)


def features_in(folder: Path) -> list[float]:
    """Write the features of two layers as our own environment does, with its TransformerLens, and return how often
    each fires."""
    code = f"""
import json
from pathlib import Path
import inspected
from faithfulness_plugin.inspection.exports.circuit_tracer import write_circuit_tracer_features
of, names = inspected.text(), {{"name": "set", "model_name": "tiny", "token_text": inspected.token_text}}
write_circuit_tracer_features({{0: of, 1: of}}, Path({str(folder)!r}), **names)
print(json.dumps(of.records.firing_rate.tolist()))
"""
    paths = [*os.environ.get("PYTHONPATH", "").split(os.pathsep), SITE, str(Path(tiny_hub.__file__).parent)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, env=environment, check=True, timeout=300, capture_output=True, text=True)
    return json.loads(done.stdout)


@pytest.mark.works("graphs and features that we export are served to its front end")
@pytest.mark.filterwarnings("ignore")
def test_circuit_tracers_server_finds_graphs_and_features(tmp_path):
    pytest.importorskip("circuit_tracer")
    from circuit_tracer.frontend import feature_models, graph_models
    from circuit_tracer.frontend.local_server import DEFAULT_FRONTEND_DIR, CircuitGraphHandler, ReusableTCPServer

    rates = features_in(tmp_path / "set")
    export_graph(small_graph(), tmp_path / "graphs", slug="small", features=tmp_path / "set")
    folders = {"frontend_dir": DEFAULT_FRONTEND_DIR, "data_dir": tmp_path / "graphs"}
    with ReusableTCPServer(("127.0.0.1", 0), partial(CircuitGraphHandler, **folders)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()

        def get(name: str) -> bytes:
            with urllib.request.urlopen(f"http://127.0.0.1:{server.server_address[1]}/{name}", timeout=60) as answer:
                return answer.read()

        try:
            (listed,) = json.loads(get("data/graph-metadata.json"))["graphs"]
            graph = graph_models.Model.model_validate_json(get(f"graph_data/{listed['slug']}.json"))
            numbers = {node.feature for node in graph.nodes if node.feature_type == "cross layer transcoder"}
            assert len(numbers) > 3
            folder = graph.metadata.scan.removeprefix("./")
            for number in numbers:  # as loadFeature does where the scan begins with "./"
                found = feature_models.Model.model_validate_json(get(f"{folder}/{number}.json"))
                assert (found.transcoder_id, found.index) == ("set/{}".format(*unpaired(number)), unpaired(number)[1])
                assert found.activation_frequency == rates[found.index]
        finally:
            server.shutdown()
