from types import SimpleNamespace
from typing import Any

import pytest

from faithfulness_plugin.adapters import smollm2
from faithfulness_plugin.language_model.config import OFFLINE_MODEL, TrainConfigError
from faithfulness_plugin.language_model.named_model import ChosenModel, choose_model


def of(model_name: str | None, **metadata: Any) -> Any:
    return SimpleNamespace(cfg=SimpleNamespace(metadata=SimpleNamespace(model_name=model_name, **metadata)))


@pytest.mark.parametrize(
    ("named", "chosen"),
    [
        (smollm2.NAME, OFFLINE_MODEL),
        ("gpt2-small", "gpt2"),
        ("pythia-160m", "EleutherAI/pythia-160m"),
        ("google/gemma-2-2b", "google/gemma-2-2b"),
    ],
)
def test_without_a_choice_the_model_is_what_the_metadata_name(named, chosen):
    assert choose_model({"t": of(named)}, None) == ChosenModel(chosen)


def test_dictionary_learning_calls_it_lm_name():
    assert choose_model({"t": of(None, lm_name="EleutherAI/pythia-70m")}, None).name == "EleutherAI/pythia-70m"


@pytest.mark.parametrize(
    ("named", "given"),
    [
        (smollm2.NAME, OFFLINE_MODEL),
        ("gpt2-small", "openai-community/gpt2"),
        ("gemma-2-2b", "google/gemma-2-2b"),
        ("meta-llama/Llama-3.2-1B", "unsloth/Llama-3.2-1B"),
        (None, "anything"),
    ],
)
def test_two_names_of_one_model_agree(named, given):
    assert choose_model({"t": of(named)}, given) == ChosenModel(given)


@pytest.mark.parametrize(
    ("named", "given"),
    [
        ("EleutherAI/pythia-160m", OFFLINE_MODEL),
        ("google/gemma-2-2b", "google/gemma-2-2b-it"),
        ("EleutherAI/pythia-160m", "EleutherAI/pythia-160m-deduped"),
        (smollm2.NAME, "HuggingFaceTB/SmolLM2-135M-Instruct"),
    ],
)
def test_another_model_is_refused_unless_confirmed(named, given):
    with pytest.raises(TrainConfigError, match=r"t is a transcoder of the model .*, and --model is .*--model-anyway"):
        choose_model({"t": of(named)}, given)
    assert choose_model({"t": of(named)}, given, anyway=True) == ChosenModel(given, named=named)


def test_nobody_names_a_model():
    with pytest.raises(TrainConfigError, match="t does not name its model: pass --model"):
        choose_model({"t": of(None)}, None)


def test_transcoders_of_two_models():
    with pytest.raises(TrainConfigError, match="a is of the model gpt2 and b of EleutherAI/pythia-70m"):
        choose_model({"a": of("gpt2"), "b": of("EleutherAI/pythia-70m")}, None)


def test_a_folder_is_known_by_its_name_by_the_cache_and_by_its_config(tmp_path):
    by_name = tmp_path / "pythia-160m"
    by_cache = tmp_path / "models--EleutherAI--pythia-160m" / "snapshots" / "0f3a"
    by_config = tmp_path / "mine"
    for folder in (by_name, by_cache, by_config):
        folder.mkdir(parents=True)
    (by_config / "config.json").write_text('{"_name_or_path": "EleutherAI/pythia-160m"}')
    for folder in (by_name, by_cache, by_config):
        assert choose_model({"t": of("EleutherAI/pythia-160m")}, str(folder)) == ChosenModel(str(folder))
        with pytest.raises(TrainConfigError, match="--model-anyway"):
            choose_model({"t": of("google/gemma-2-2b")}, str(folder))


def test_a_folder_that_says_nothing_is_no_model_of_the_hub_and_may_be_a_private_one(tmp_path):
    with pytest.raises(TrainConfigError, match="--model-anyway"):
        choose_model({"t": of("EleutherAI/pythia-160m")}, str(tmp_path))
    chosen = choose_model({"t": of("my run of May")}, str(tmp_path))
    assert (chosen.name, chosen.named) == (str(tmp_path), None)
    assert "t names the model my run of May" in (chosen.note or "")


def test_a_folder_that_metadata_name_is_not_another_folder(tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    other.mkdir()
    assert choose_model({"t": of(str(one))}, None).name == str(one)
    assert choose_model({"t": of(str(one))}, f"{other}/../one").note is None
    with pytest.raises(TrainConfigError, match="--model-anyway"):
        choose_model({"t": of(str(one))}, str(other))


def test_every_transcoder_is_compared_with_the_model_also_behind_one_whose_name_says_nothing(tmp_path):
    both = {"mine": of("my run of May"), "other": of("EleutherAI/pythia-160m")}
    with pytest.raises(TrainConfigError, match="other is a transcoder of the model EleutherAI/pythia-160m"):
        choose_model(both, str(tmp_path))
    confirmed = choose_model(both, str(tmp_path), anyway=True)
    assert confirmed.named == "my run of May and EleutherAI/pythia-160m"
    with pytest.raises(TrainConfigError, match=r"a is of the model run 1 and b of run 2: .*--model-anyway"):
        choose_model({"a": of("run 1"), "b": of("run 2")}, str(tmp_path))


def test_a_model_whose_weights_were_processed_is_not_the_model_as_it_is():
    """SAELens's first transcoders and autoencoders were trained on what `HookedTransformer.from_pretrained` makes."""
    processed = of("gpt2", model_from_pretrained_kwargs={"center_writing_weights": True, "fold_ln": False})
    note = choose_model({"t": processed}, "gpt2").note
    assert note is not None
    assert note.startswith("note: t was trained on the model with processed weights (center_writing_weights)")
    stock = of("gpt2", model_from_pretrained_kwargs={"center_writing_weights": False})
    assert choose_model({"t": stock}, "gpt2").note is None
