"""dictionary_learning (0.1.x): a folder with config.json and ae.pt, whose keys depend on the dictionary's class."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor
from typing_extensions import override

from faithfulness_plugin.transcoders.formats.errors import FormatError
from faithfulness_plugin.transcoders.formats.files import settings_in, tensors_in
from faithfulness_plugin.transcoders.formats.format import Files, Format, Function, Weights
from faithfulness_plugin.transcoders.formats.parts import gated
from faithfulness_plugin.transcoders.formats.schema import Settings, Tensors

LINEAR = {"encoder.weight": "d_sae d", "encoder.bias": "d_sae", "decoder.weight": "d d_sae"}
NAMES = {"W_enc": "encoder.weight", "b_enc": "encoder.bias", "W_dec": "decoder.weight"}
MATRICES = {"W_enc": "d d_sae", "b_enc": "d_sae", "W_dec": "d_sae d", "b_dec": "d"}


def _gated(weights: Weights, parts: dict[str, Tensor]) -> dict[str, Tensor]:
    return gated(parts["W_enc"], weights["r_mag"], weights["gate_bias"], weights["mag_bias"])


def _k(weights: Weights, parts: dict[str, Tensor]) -> dict[str, int]:
    return {"k": int(weights["k"])}


def _group_sizes(weights: Weights, parts: dict[str, Tensor]) -> dict[str, Tensor]:
    """Hold the sizes of the groups against the features: in the finished dictionary all groups are active."""
    if (total := int(weights["group_sizes"].sum())) != len(weights["b_enc"]):
        shape, n_features = list(weights["group_sizes"].shape), len(weights["b_enc"])
        raise FormatError(f"group_sizes has shape {shape} and sums to {total}, and there are {n_features} features")
    return {}


DICTIONARIES = {
    # f = ReLU(W (x - bias) + b), y = D f + bias
    "AutoEncoder": Function(Tensors({**LINEAR, "bias": "d"}, names={**NAMES, "b_dec": "bias"}), centre="bias"),
    # f = ReLU(W x + b), y = D f + c
    "AutoEncoderNew": Function(Tensors({**LINEAR, "decoder.bias": "d"}, names={**NAMES, "b_dec": "decoder.bias"})),
    # f = 1[u + gate_bias > 0] ReLU(e^r u + mag_bias) with u = W (x - c), y = D f + c
    "GatedAutoEncoder": Function(
        Tensors(
            {
                "encoder.weight": "d_sae d",
                "decoder.weight": "d d_sae",
                "decoder_bias": "d",
                **dict.fromkeys(("r_mag", "gate_bias", "mag_bias"), "d_sae"),
            },
            names={**NAMES, "b_dec": "decoder_bias"},
        ),
        fold=_gated,
        centre="decoder_bias",
    ),
    # f = ReLU(z 1[z > threshold]) with z = W x + b
    "JumpReluAutoEncoder": Function(Tensors({**MATRICES, "threshold": "d_sae"}), rectified=True),
    # f = TopK(ReLU(W (x - c) + b)), y = D f + c; its threshold is an estimate for use_threshold=True, which no
    # dictionary is loaded with
    "AutoEncoderTopK": Function(
        Tensors({**LINEAR, "b_dec": "d", "k": ""}, harmless=("threshold",), whole=("k",), names=NAMES),
        fold=_k,
        centre="b_dec",
    ),
    # as TopK, with the learned threshold for all features; below 0 it was not learned, and keeps all
    "BatchTopKSAE": Function(
        Tensors({**LINEAR, "b_dec": "d", "threshold": ""}, harmless=("k",), names=NAMES), rectified=True, centre="b_dec"
    ),
    "MatryoshkaBatchTopKSAE": Function(
        Tensors({**MATRICES, "threshold": "", "group_sizes": "groups"}, harmless=("k",), whole=("group_sizes",)),
        fold=_group_sizes,
        rectified=True,
        centre="b_dec",
    ),
}
"""The function of each class, by its name in `dict_class`."""


class DictionaryLearning(Format):
    """Any of its dictionaries, as a transcoder that computes the same function."""

    title = "a dictionary_learning folder"
    source = "dictionary_learning"
    writes = "config.json and ae.pt"
    configs = ("config.json",)
    weights = ("ae.pt",)
    checkpoints = ("ae_*.pt",)
    own_settings = frozenset({"trainer"})
    settings = Settings(
        needs="dict_class",
        sizes={"d": "activation_dim", "d_sae": "dict_size"},
        reads="group_sizes layer lm_name submodule_name",
        # of training, in earlier versions too; biases are scaled back before they are saved, k is a tensor, and
        # jacobian is what this package's matched trainers add
        harmless="""
            k norm_factor trainer_class wandb_name device seed steps lr warmup_steps decay_start resample_steps
            l1_penalty sparsity_penalty sparsity_warmup_steps sparsity_function sparsity_queue_length
            n_sparsity_updates p_start p_end anneal_start auxk_alpha top_k_aux threshold_beta threshold_start_step
            bandwidth target_l0 group_fractions group_weights ghost_threshold k_anneal_steps sparsity_coefficient
            lambda lambda_warm_steps l0_penalty sparsity_coeff p next_p gp_reg_coeff sparsity_loss_queue_length
            activation_queue_length adaptive_sparsity_penalty steps_before_annealing weights_temperature jacobian
            jacobian_coefficient
        """,
    )
    sections = Settings(needs="trainer", reads="buffer")
    buffer = Settings(
        only={"io": ("in", "out", "in_and_out")},
        harmless="""
            d_submodule layer n_ctxs ctx_len refresh_batch_size out_batch_size in_batch_size device remove_bos
            add_special_tokens max_activation_norm_multiple
        """,
    )

    @override
    def opened(self, files: Files) -> tuple[Mapping[str, Any], Any]:
        """Return the settings of the trainer, and the buffer's io among them."""
        assert files.config is not None
        config = self.sections.check(self.title, files.config, settings_in(self.title, files.config))
        trainer = self.settings.check(f"the trainer of {self.title}", files.config, config["trainer"])
        buffer = self.buffer.check(f"the buffer of {self.title}", files.config, config.get("buffer", {}))
        return {**trainer, "io": buffer.get("io")}, tensors_in(files.weights)

    @override
    def function(self, config: Mapping[str, Any], found: Mapping[str, Any], files: Files) -> Function:
        dict_class, io = str(config["dict_class"]), config["io"]
        if dict_class not in DICTIONARIES:
            known = ", ".join(DICTIONARIES)
            raise FormatError(f"{files.config}: dict_class {dict_class} is not known: choose from {known}")
        # both ReLU dictionaries are saved as AutoEncoder: AutoEncoderNew is the one with a decoder bias of its own
        if dict_class == "AutoEncoder" and "decoder.bias" in found:
            dict_class = "AutoEncoderNew"
        module = config.get("submodule_name") or "its module"
        names = ("lm_name", "layer", "submodule_name")
        return replace(
            DICTIONARIES[dict_class],
            title=f"{self.title}'s {dict_class}",
            metadata={"model_name": config.get("lm_name"), **{name: config.get(name) for name in names}},
            autoencoder=f"the {io}put of {module} (buffer io: {io})" if io in ("in", "out") else None,
            transcoder=io and f"buffer io: {io}",
        )
