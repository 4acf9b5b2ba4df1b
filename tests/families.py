"""Tiny models of every kind that has a layer: language models, encoders, encoder-decoders, vision, sound, hybrids."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers as hf
from tiny_models import D_MODEL, GPT, GROUPED, N_VOCAB, SIZES, set_large
from torch import Tensor, nn


def some_tokens() -> Tensor:
    return torch.randint(4, N_VOCAB, (2, 6), generator=torch.Generator().manual_seed(3))


def some_numbers(*shape: int) -> Tensor:
    return torch.randn(2, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


@dataclass(frozen=True)
class Family:
    """A model, the block whose MLP is wanted, and where that MLP stands."""

    make: Callable[[], Any]
    first: str
    last: str | None = None
    block: int | str = 1
    closed_form: bool = True
    inputs: Callable[[], dict[str, Tensor]] = field(default=lambda: {"input_ids": some_tokens()})

    def model(self) -> nn.Module:
        torch.manual_seed(0)
        model = self.make().double().eval()
        set_large(model)
        return model


VISION: dict[str, Any] = {
    "hidden_size": D_MODEL,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
PICTURES: dict[str, Any] = {**VISION, "image_size": 16, "patch_size": 8}
T5: dict[str, Any] = {"d_model": D_MODEL, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2, "vocab_size": N_VOCAB}
STACKS: dict[str, Any] = {
    "d_model": D_MODEL,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "vocab_size": N_VOCAB,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "decoder_start_token_id": 0,
}
WHISPER: dict[str, Any] = {**STACKS, "max_source_positions": 20, "max_target_positions": 20, "num_mel_bins": 8}
EAGER: dict[str, Any] = {"experts_implementation": "eager"}  # its kernels want float32
EAGER_ATTENTION: dict[str, Any] = {"attn_implementation": "eager"}
NO_POSITIONS: dict[str, Any] = {key: value for key, value in GROUPED.items() if key != "max_position_embeddings"} | {
    "head_dim": 8
}


def t5(**options: Any) -> nn.Module:
    return hf.T5ForConditionalGeneration(hf.T5Config(**T5, **options))


def whisper() -> nn.Module:
    return hf.WhisperForConditionalGeneration(hf.WhisperConfig(**WHISPER))


def clip() -> nn.Module:
    text = {**SIZES, "eos_token_id": 1, "bos_token_id": 0, "pad_token_id": 1}
    return hf.CLIPModel(hf.CLIPConfig(text_config=text, vision_config=PICTURES, projection_dim=8))


def pixels() -> dict[str, Tensor]:
    return {"pixel_values": some_numbers(3, 16, 16)}


def both() -> dict[str, Tensor]:
    return {"input_ids": some_tokens(), **pixels()}


def text_pair() -> dict[str, Tensor]:
    return {"input_ids": some_tokens(), "decoder_input_ids": some_tokens()}


def sound() -> dict[str, Tensor]:
    return {"input_features": some_numbers(8, 40), "decoder_input_ids": some_tokens()}


def switch() -> nn.Module:
    sparse: dict[str, Any] = {"num_experts": 2, "num_sparse_encoder_layers": 1, "num_sparse_decoder_layers": 1}
    return hf.SwitchTransformersForConditionalGeneration(hf.SwitchTransformersConfig(**T5, **sparse))


def mamba() -> nn.Module:
    return hf.MambaForCausalLM(
        hf.MambaConfig(vocab_size=N_VOCAB, hidden_size=D_MODEL, state_size=4, num_hidden_layers=2)
    )


def rwkv() -> nn.Module:
    return hf.RwkvForCausalLM(hf.RwkvConfig(hidden_size=D_MODEL, vocab_size=N_VOCAB, num_hidden_layers=2))


def speech_to_text() -> nn.Module:
    return hf.Speech2TextForConditionalGeneration(
        hf.Speech2TextConfig(
            **STACKS, max_source_positions=40, max_target_positions=20, input_feat_per_channel=8, conv_channels=8
        )
    )


FAMILIES: dict[str, Family] = {
    "opt": Family(
        lambda: hf.OPTForCausalLM(
            hf.OPTConfig(
                hidden_size=D_MODEL,
                ffn_dim=32,
                num_hidden_layers=2,
                num_attention_heads=2,
                vocab_size=N_VOCAB,
                max_position_embeddings=32,
                word_embed_proj_dim=D_MODEL,
            )
        ),
        "model.decoder.layers.1.fc1",
        "model.decoder.layers.1.fc2",
    ),
    "phi3": Family(lambda: hf.Phi3ForCausalLM(hf.Phi3Config(pad_token_id=1, **GROUPED)), "model.layers.1.mlp"),
    "glm": Family(lambda: hf.GlmForCausalLM(hf.GlmConfig(head_dim=8, pad_token_id=1, **GROUPED)), "model.layers.1.mlp"),
    "falcon": Family(lambda: hf.FalconForCausalLM(hf.FalconConfig(**SIZES, ffn_hidden_size=32)), "transformer.h.1.mlp"),
    "bloom": Family(
        lambda: hf.BloomForCausalLM(hf.BloomConfig(hidden_size=D_MODEL, n_layer=2, n_head=2, vocab_size=N_VOCAB)),
        "transformer.h.1.mlp.dense_h_to_4h",
        "transformer.h.1.mlp.dense_4h_to_h",
    ),
    "mpt": Family(
        lambda: hf.MptForCausalLM(
            hf.MptConfig(d_model=D_MODEL, n_heads=2, n_layers=2, expansion_ratio=2, max_seq_len=32, vocab_size=N_VOCAB)
        ),
        "transformer.blocks.1.ffn.up_proj",
        "transformer.blocks.1.ffn.down_proj",
    ),
    "qwen2 moe": Family(
        lambda: hf.Qwen2MoeForCausalLM(
            hf.Qwen2MoeConfig(
                **GROUPED,
                num_experts=4,
                num_experts_per_tok=2,
                moe_intermediate_size=24,
                shared_expert_intermediate_size=24,
                **EAGER,
            )
        ),
        "model.layers.1.mlp",
        closed_form=False,
    ),
    "bert": Family(
        lambda: hf.BertForMaskedLM(hf.BertConfig(**SIZES)),
        "bert.encoder.layer.1.intermediate",
        "bert.encoder.layer.1.output.dense",
    ),
    "bert, bare": Family(
        lambda: hf.BertModel(hf.BertConfig(**SIZES)), "encoder.layer.1.intermediate", "encoder.layer.1.output.dense"
    ),
    "esm": Family(
        lambda: hf.EsmForMaskedLM(hf.EsmConfig(**SIZES, pad_token_id=1, mask_token_id=2)),
        "esm.encoder.layer.1.intermediate",
        "esm.encoder.layer.1.output.dense",
    ),
    "modernbert": Family(
        lambda: hf.ModernBertForMaskedLM(
            hf.ModernBertConfig(**SIZES, pad_token_id=1, cls_token_id=2, sep_token_id=3, **EAGER_ATTENTION)
        ),
        "model.layers.1.mlp",
    ),
    "albert": Family(
        lambda: hf.AlbertModel(hf.AlbertConfig(**SIZES, embedding_size=8)),
        "encoder.albert_layer_groups.0.albert_layers.0.ffn",
        "encoder.albert_layer_groups.0.albert_layers.0.ffn_output",
        block=0,
    ),
    "distilbert": Family(
        lambda: hf.DistilBertModel(
            hf.DistilBertConfig(
                dim=D_MODEL, hidden_dim=32, n_layers=2, n_heads=2, vocab_size=N_VOCAB, max_position_embeddings=32
            )
        ),
        "transformer.layer.1.ffn",
    ),
    "llama, bare": Family(lambda: hf.LlamaModel(hf.LlamaConfig(**GROUPED)), "layers.1.mlp"),
    "gpt2, classifier": Family(
        lambda: hf.GPT2ForSequenceClassification(hf.GPT2Config(**GPT, pad_token_id=1)), "transformer.h.1.mlp"
    ),
    "t5": Family(t5, "encoder.block.1.layer.1.DenseReluDense", inputs=text_pair),
    "t5, decoder": Family(t5, "decoder.block.1.layer.2.DenseReluDense", block="decoder.block.1", inputs=text_pair),
    "t5, gated": Family(
        lambda: t5(feed_forward_proj="gated-gelu"), "encoder.block.1.layer.1.DenseReluDense", inputs=text_pair
    ),
    "t5, encoder": Family(lambda: hf.T5EncoderModel(hf.T5Config(**T5)), "encoder.block.1.layer.1.DenseReluDense"),
    "bart, decoder": Family(
        lambda: hf.BartForConditionalGeneration(hf.BartConfig(**STACKS, max_position_embeddings=32)),
        "model.decoder.layers.1.fc1",
        "model.decoder.layers.1.fc2",
        block="model.decoder.layers.1",
        inputs=text_pair,
    ),
    "vit": Family(lambda: hf.ViTForImageClassification(hf.ViTConfig(**PICTURES)), "vit.layers.1.mlp", inputs=pixels),
    "dinov2": Family(
        lambda: hf.Dinov2Model(hf.Dinov2Config(**PICTURES, mlp_ratio=2)), "encoder.layer.1.mlp", inputs=pixels
    ),
    "swin": Family(
        lambda: hf.SwinModel(
            hf.SwinConfig(
                image_size=16, patch_size=4, embed_dim=D_MODEL, depths=[2], num_heads=[2], window_size=4, mlp_ratio=2
            )
        ),
        "encoder.layers.0.blocks.1.mlp",
        inputs=pixels,
    ),
    "clip, vision": Family(
        lambda: hf.CLIPVisionModel(hf.CLIPVisionConfig(**PICTURES)), "encoder.layers.1.mlp", inputs=pixels
    ),
    "clip, text tower": Family(
        clip, "text_model.encoder.layers.1.mlp", block="text_model.encoder.layers.1", inputs=both
    ),
    "clip, vision tower": Family(
        clip, "vision_model.encoder.layers.1.mlp", block="vision_model.encoder.layers.1", inputs=both
    ),
    "whisper": Family(whisper, "model.encoder.layers.1.fc1", "model.encoder.layers.1.fc2", inputs=sound),
    "whisper, decoder": Family(
        whisper,
        "model.decoder.layers.1.fc1",
        "model.decoder.layers.1.fc2",
        block="model.decoder.layers.1",
        inputs=sound,
    ),
    "wav2vec2": Family(
        lambda: hf.Wav2Vec2Model(
            hf.Wav2Vec2Config(
                **VISION,
                conv_dim=(8, 8),
                conv_kernel=(4, 2),
                conv_stride=(4, 2),
                num_conv_pos_embedding_groups=2,
                num_conv_pos_embeddings=2,
                apply_spec_augment=False,
            )
        ),
        "encoder.layers.1.feed_forward",
        inputs=lambda: {"input_values": some_numbers(64)},
    ),
    "jamba": Family(
        lambda: hf.JambaForCausalLM(
            hf.JambaConfig(
                **GROUPED,
                attn_layer_period=2,
                attn_layer_offset=1,
                expert_layer_period=2,
                expert_layer_offset=0,
                num_experts=2,
                num_experts_per_tok=1,
                mamba_d_state=4,
                use_mamba_kernels=False,
                **EAGER,
            )
        ),
        "model.layers.1.feed_forward",
    ),
    "lfm2": Family(
        lambda: hf.Lfm2ForCausalLM(hf.Lfm2Config(**GROUPED, layer_types=["conv", "full_attention"])),
        "model.layers.0.feed_forward",
        block=0,
    ),
    "granite hybrid": Family(
        lambda: hf.GraniteMoeHybridForCausalLM(
            hf.GraniteMoeHybridConfig(
                **GROUPED,
                layer_types=["mamba", "attention"],
                mamba_n_heads=4,
                mamba_d_head=8,
                mamba_d_state=4,
                num_local_experts=0,
                shared_intermediate_size=32,
            )
        ),
        "model.layers.0.shared_mlp",
        block=0,
    ),
    "nemotron h": Family(
        lambda: hf.NemotronHForCausalLM(
            hf.NemotronHConfig(
                **{**GROUPED, "num_hidden_layers": 3},
                layers_block_type=["mamba", "attention", "mlp"],
                head_dim=8,
                mamba_num_heads=4,
                mamba_head_dim=8,
                ssm_state_size=4,
                n_groups=1,
            )
        ),
        "model.layers.2.mixer",
        block=2,
    ),
    "recurrent gemma": Family(
        lambda: hf.RecurrentGemmaForCausalLM(
            hf.RecurrentGemmaConfig(**NO_POSITIONS, lru_width=D_MODEL, block_types=["recurrent", "attention"])
        ),
        "model.layers.0.mlp_block",
        block=0,
    ),
}
