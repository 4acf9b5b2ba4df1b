"""SAELens as it is: a TopK SAE on what an MLP puts out. `train_transcoder.py` is the same with three lines changed."""

import sae_lens

from faithfulness_plugin.adapters.examples.offline import model_and_prompts

model, prompts = model_and_prompts(context_size=128)
cfg = sae_lens.LanguageModelSAERunnerConfig(
    sae=sae_lens.TopKTrainingSAEConfig(d_in=576, d_sae=2304, k=32),
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
sae_lens.LanguageModelSAETrainingRunner(cfg, override_model=model, override_dataset=prompts).run()
