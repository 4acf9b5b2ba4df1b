"""`train_sae.py` with three lines changed: a transcoder of that MLP, whose Jacobian is matched."""

import sae_lens

import faithfulness_plugin as fp
from faithfulness_plugin.adapters.examples.offline import model_and_prompts

model, prompts = model_and_prompts(context_size=128)
cfg = sae_lens.LanguageModelSAERunnerConfig(
    sae=fp.TopKTrainingTranscoderConfig(d_in=576, d_sae=2304, k=32, skip=True, jacobian_coefficient=0.3),
    hook_name="blocks.10.mlp.hook_out",
    training_tokens=40_960,
    train_batch_size_tokens=512,
    store_batch_size_prompts=8,
    n_batches_in_buffer=64,
    n_eval_batches=1,
    exclude_special_tokens=True,
    lr=1e-3,
    logger=sae_lens.LoggingConfig(log_to_wandb=False),
    checkpoint_path="out/example/checkpoints",
    output_path="out/example/trained",
)
fp.faithful_runner(cfg, override_model=model, override_dataset=prompts).run()
