"""`dictionary_learning_alone.py` with three lines changed: a transcoder of that MLP, whose Jacobian is matched."""

from itertools import cycle

from dictionary_learning.buffer import NNsightActivationBuffer
from dictionary_learning.trainers.top_k import TopKTrainer
from dictionary_learning.training import trainSAE
from nnsight import LanguageModel

from faithfulness_plugin.adapters.dictionary_learning import matched_trainer
from faithfulness_plugin.adapters.examples.offline import accepting_truncation, hugging_face_model_and_prompts

hugging_face_model, tokenizer, prompts = hugging_face_model_and_prompts(context_size=128, n_prompts=320)
model = LanguageModel(hugging_face_model, tokenizer=accepting_truncation(tokenizer))
mlp = model.model.layers[10].mlp
buffer = NNsightActivationBuffer(
    cycle(prompts),
    model,
    mlp,
    d_submodule=576,
    io="in_and_out",
    n_ctxs=64,
    ctx_len=128,
    refresh_batch_size=8,
    out_batch_size=512,
)
config = {
    "trainer": matched_trainer(TopKTrainer, hugging_face_model.model.layers[10].mlp, coefficient=0.3),
    "steps": 80,
    "activation_dim": 576,
    "dict_size": 2304,
    "k": 32,
    "lr": 4e-3,
    "warmup_steps": 0,
    "layer": 10,
    "lm_name": "smollm2",
    "device": "cpu",
    "seed": 0,
}
trainSAE(data=buffer, trainer_configs=[config], steps=80, save_dir="out/dictionary_learning", device="cpu")
