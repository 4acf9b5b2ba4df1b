"""`sparsify_alone.py` with two lines added: the transcoder also moves as the MLP moves."""

from datasets import Dataset
from sparsify import SparseCoderConfig, TrainConfig, Trainer

from faithfulness_plugin.adapters.examples.offline import hugging_face_model_and_prompts
from faithfulness_plugin.adapters.sparsify import match_jacobians

model, tokenizer, prompts = hugging_face_model_and_prompts(context_size=128, n_prompts=320)
config = TrainConfig(
    SparseCoderConfig(num_latents=2304, k=32, transcode=True),
    batch_size=8,
    hookpoints=["layers.10.mlp"],
    log_to_wandb=False,
    save_dir="out/sparsify",
    run_name="example",
)
trainer = Trainer(config, Dataset.from_dict({"input_ids": prompts}).with_format("torch"), model)
match_jacobians(trainer, coefficient=0.3)
trainer.fit()
