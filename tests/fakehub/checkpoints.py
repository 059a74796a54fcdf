"""Tiny random checkpoints of real architectures, with real tokenizers, processors and chat templates.

    folder = make("qwen3", tmp_path / "qwen3")

Weights are random but not arbitrary: queries and keys are scaled up, so that attention depends on positions and a
fault in positions, masks or caches changes the greedy answer. Nothing is fetched. torch and transformers are imported
when the first checkpoint is made; kinds that need torchvision raise ImportError without it.
"""

import json
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fakehub.tiny_tokenizer import (
    CHATML,
    GEMMA,
    LLAMA_VISION,
    LLAVA,
    REASONING,
    SMOLVLM,
    WORDS,
    media_template,
    qwen_tokenizer,
)

HIDDEN = 64
LAYERS = 2


def make(kind: str, folder: Path, *, seed: int = 0, dtype: str = "bfloat16") -> Path:
    """Make a checkpoint of one of KINDS in `folder`, which it returns."""
    import torch

    torch.manual_seed(seed)
    KINDS[kind](folder, getattr(torch, dtype))
    return folder


def qwen3(folder: Path, dtype: Any) -> None:
    """Text with reasoning: Qwen3 with yarn, DeepSeek's special tokens, <think> as ordinary added tokens."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    tokenizer = qwen_tokenizer(
        ["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>"],
        bos="<｜begin▁of▁sentence｜>",
        eos="<｜end▁of▁sentence｜>",
        pad="<｜end▁of▁sentence｜>",
        template=REASONING,
    )
    tokenizer.add_tokens(["<think>", "</think>"])  # not special in the real one either
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN,
        intermediate_size=2 * HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=HIDDEN // 4,
        max_position_embeddings=4096,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        tie_word_embeddings=False,
        rope_parameters={
            "rope_type": "yarn",
            "rope_theta": 1e6,
            "factor": 4.0,
            "original_max_position_embeddings": 1024,
            "attention_factor": 0.8782488562869419,
        },
    )
    _save(Qwen3ForCausalLM(config), tokenizer, folder, dtype)
    _save_generation(
        folder, tokenizer.eos_token_id, tokenizer.pad_token_id, do_sample=True, temperature=0.6, top_p=0.95
    )


def llama(folder: Path, dtype: Any) -> None:
    """Text: Llama with grouped queries, tied embeddings and ChatML, as SmolLM2."""
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = qwen_tokenizer(["<|im_start|>", "<|im_end|>"], template=CHATML)
    ids = tokenizer.convert_tokens_to_ids
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN,
        intermediate_size=2 * HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        bos_token_id=ids("<|im_start|>"),
        eos_token_id=ids("<|im_end|>"),
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 1e5},
    )
    _save(LlamaForCausalLM(config), tokenizer, folder, dtype)
    _save_generation(folder, [ids("<|im_end|>"), ids("<|endoftext|>")], ids("<|endoftext|>"))


def qwen2_5_vl(folder: Path, dtype: Any) -> None:
    """Vision-language. Needs torchvision."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor

    image, video = _vision_processors()
    tokenizer = qwen_tokenizer(
        [
            *("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>"),
            *("<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"),
        ]
    )
    ids = tokenizer.convert_tokens_to_ids
    config = Qwen2_5_VLConfig(
        text_config={
            **_text_config(len(tokenizer)),
            "bos_token_id": ids("<|endoftext|>"),
            "eos_token_id": ids("<|im_end|>"),
        },
        vision_config={**_vision_config(), "tokens_per_second": 2},
        image_token_id=ids("<|image_pad|>"),
        video_token_id=ids("<|video_pad|>"),
        vision_start_token_id=ids("<|vision_start|>"),
        vision_end_token_id=ids("<|vision_end|>"),
    )
    template = media_template(
        "<|vision_start|><|image_pad|><|vision_end|>", "", "<|vision_start|><|video_pad|><|vision_end|>"
    )
    processor = Qwen2_5_VLProcessor(
        image_processor=image, tokenizer=tokenizer, video_processor=video, chat_template=template
    )
    _save(Qwen2_5_VLForConditionalGeneration(config), processor, folder, dtype)
    _save_generation(folder, [ids("<|im_end|>"), ids("<|endoftext|>")], ids("<|endoftext|>"))


def qwen3_vl(folder: Path, dtype: Any) -> None:
    """Vision-language with deep features behind two layers. Needs torchvision."""
    from transformers import (
        Qwen2VLImageProcessor,
        Qwen3VLConfig,
        Qwen3VLForConditionalGeneration,
        Qwen3VLProcessor,
        Qwen3VLVideoProcessor,
    )

    shape = {"patch_size": 16, "merge_size": 2, "temporal_patch_size": 2}
    image = Qwen2VLImageProcessor(**shape, size={"shortest_edge": 64 * 64, "longest_edge": 32 * 32 * 64})
    video = Qwen3VLVideoProcessor(**shape, size={"shortest_edge": 64 * 64, "longest_edge": 32 * 32 * 64 * 8})
    tokenizer = qwen_tokenizer(
        [
            *("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>"),
            *("<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"),
        ]
    )
    ids = tokenizer.convert_tokens_to_ids
    text = _text_config(len(tokenizer), layers=3)
    config = Qwen3VLConfig(
        text_config={
            **text,
            "head_dim": HIDDEN // 4,
            "rope_parameters": {**text["rope_parameters"], "mrope_interleaved": True},
            "bos_token_id": ids("<|endoftext|>"),
            "eos_token_id": ids("<|im_end|>"),
        },
        vision_config={
            "depth": 3,
            "hidden_size": HIDDEN,
            "intermediate_size": 2 * HIDDEN,
            "num_heads": 4,
            "patch_size": 16,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0, 1],
            "out_hidden_size": HIDDEN,
        },
        image_token_id=ids("<|image_pad|>"),
        video_token_id=ids("<|video_pad|>"),
        vision_start_token_id=ids("<|vision_start|>"),
        vision_end_token_id=ids("<|vision_end|>"),
    )
    template = media_template(
        "<|vision_start|><|image_pad|><|vision_end|>", "", "<|vision_start|><|video_pad|><|vision_end|>"
    )
    processor = Qwen3VLProcessor(
        image_processor=image, tokenizer=tokenizer, video_processor=video, chat_template=template
    )
    model = Qwen3VLForConditionalGeneration(config)
    for layer in model.model.language_model.layers:  # its norms would undo what `_save` does to queries and keys
        layer.self_attn.q_norm.weight.data *= 2
        layer.self_attn.k_norm.weight.data *= 2
    _save(model, processor, folder, dtype)
    _save_generation(folder, [ids("<|im_end|>"), ids("<|endoftext|>")], ids("<|endoftext|>"))


def qwen2_audio(folder: Path, dtype: Any) -> None:
    """Audio-language."""
    from transformers import Qwen2AudioConfig, Qwen2AudioForConditionalGeneration, Qwen2AudioProcessor

    tokenizer = qwen_tokenizer(["<|im_start|>", "<|im_end|>", "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>"])
    ids = tokenizer.convert_tokens_to_ids
    config = Qwen2AudioConfig(
        text_config={**_text_config(len(tokenizer), mrope=False), "model_type": "qwen2"},
        audio_token_index=ids("<|AUDIO|>"),
        audio_config={
            **_audio_config(),
            "model_type": "qwen2_audio_encoder",
            "max_source_positions": 1500,
        },
    )
    processor = Qwen2AudioProcessor(feature_extractor=_features(30), tokenizer=tokenizer)
    _save(Qwen2AudioForConditionalGeneration(config), processor, folder, dtype)
    _save_generation(folder, [ids("<|im_end|>"), ids("<|endoftext|>")], ids("<|endoftext|>"))


def qwen2_5_omni(folder: Path, dtype: Any) -> None:
    """Omni, saved whole (thinker, talker, token2wav) as the real one is. Needs torchvision."""
    from transformers import Qwen2_5OmniConfig, Qwen2_5OmniForConditionalGeneration, Qwen2_5OmniProcessor

    image, video = _vision_processors()
    named = {
        "image_token": "<|IMAGE|>",
        "audio_token": "<|AUDIO|>",
        "video_token": "<|VIDEO|>",
        "vision_bos_token": "<|vision_bos|>",
        "vision_eos_token": "<|vision_eos|>",
        "audio_bos_token": "<|audio_bos|>",
        "audio_eos_token": "<|audio_eos|>",
    }
    tokenizer = qwen_tokenizer(["<|im_start|>", "<|im_end|>"], named=named)
    ids = tokenizer.convert_tokens_to_ids
    shared = {"audio_token_index": ids("<|AUDIO|>"), "image_token_index": ids("<|IMAGE|>")}
    shared |= {"video_token_index": ids("<|VIDEO|>"), "vision_start_token_id": ids("<|vision_bos|>")}
    thinker = {
        "text_config": _text_config(len(tokenizer)),
        "vision_config": _vision_config(),
        "audio_config": {**_audio_config(), "n_window": 100, "output_dim": HIDDEN, "max_source_positions": 1500},
        **shared,
        "vision_end_token_id": ids("<|vision_eos|>"),
        "audio_start_token_id": ids("<|audio_bos|>"),
        "audio_end_token_id": ids("<|audio_eos|>"),
        "position_id_per_seconds": 25,
        "seconds_per_chunk": 2,
        "pad_token_id": ids("<|endoftext|>"),
    }
    talker = {
        **_text_config(64, layers=1),
        "embedding_size": HIDDEN,
        "head_dim": HIDDEN // 4,
        **shared,
        "tts_codec_start_token_id": 1,
        "tts_codec_end_token_id": 2,
        "tts_codec_pad_token_id": 0,
        "tts_codec_mask_token_id": 3,
    }
    config = Qwen2_5OmniConfig(thinker_config=thinker, talker_config=talker, enable_audio_output=False)
    model = Qwen2_5OmniForConditionalGeneration(config)
    model.config.enable_audio_output = True
    template = media_template(
        "<|vision_bos|><|IMAGE|><|vision_eos|>",
        "<|audio_bos|><|AUDIO|><|audio_eos|>",
        "<|vision_bos|><|VIDEO|><|vision_eos|>",
    )
    processor = Qwen2_5OmniProcessor(
        image_processor=image,
        video_processor=video,
        feature_extractor=_features(300),
        tokenizer=tokenizer,
        chat_template=template,
    )
    _save(model, processor, folder, dtype)
    _save_generation(folder, [ids("<|im_end|>"), ids("<|endoftext|>")], ids("<|endoftext|>"))


def blip_vqa(folder: Path, dtype: Any) -> None:
    """Visual question answering, encoder-decoder. Needs torchvision."""
    from transformers import BertTokenizer, BlipConfig, BlipForQuestionAnswering, BlipImageProcessor, BlipProcessor

    characters = sorted(set(string.ascii_lowercase + string.digits + string.punctuation))
    vocabulary = [
        *("[PAD]", *(f"[unused{number}]" for number in range(9)), "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
        *characters,
        *(f"##{character}" for character in string.ascii_lowercase + string.digits),
        *(word for word in dict.fromkeys(WORDS) if len(word) > 1),
        *("[DEC]", "[ENC]"),
    ]
    tokenizer = BertTokenizer(vocab={token: n for n, token in enumerate(vocabulary)}, model_max_length=512)
    ids = tokenizer.convert_tokens_to_ids
    common = {"hidden_size": HIDDEN, "intermediate_size": 2 * HIDDEN, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = BlipConfig(
        text_config={
            **common,
            "vocab_size": len(vocabulary),
            "encoder_hidden_size": HIDDEN,
            "projection_dim": HIDDEN,
            "bos_token_id": ids("[DEC]"),
            "eos_token_id": ids("[SEP]"),
            "pad_token_id": 0,
            "sep_token_id": ids("[SEP]"),
            "max_position_embeddings": 512,
        },
        vision_config={**common, "image_size": 96, "patch_size": 16},
        projection_dim=HIDDEN,
    )
    processor = BlipProcessor(BlipImageProcessor(size={"height": 96, "width": 96}), tokenizer)
    _save(BlipForQuestionAnswering(config), processor, folder, dtype)


def _bert_tokenizer() -> Any:
    from transformers import BertTokenizer

    characters = sorted(set(string.ascii_lowercase + string.digits + string.punctuation))
    vocabulary = [
        *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
        *characters,
        *(f"##{character}" for character in string.ascii_lowercase + string.digits),
        *(word for word in dict.fromkeys(WORDS) if len(word) > 1),
    ]
    return BertTokenizer(vocab={token: n for n, token in enumerate(vocabulary)}, model_max_length=512)


def _bert_config(vocabulary: int, **more: Any) -> Any:
    from transformers import BertConfig

    return BertConfig(
        vocab_size=vocabulary, hidden_size=HIDDEN, num_hidden_layers=LAYERS, num_attention_heads=4,
        intermediate_size=2 * HIDDEN, max_position_embeddings=512, **more,
    )  # fmt: skip


def _modules(folder: Path, pooling: dict[str, Any], *, normalize: bool = True, prompts: Any = None) -> None:
    """The files of sentence-transformers that say how a model's states become a vector."""
    kinds = ["Transformer", "Pooling", *(["Normalize"] if normalize else [])]
    package = "sentence_transformers.models"
    modules = [
        {"idx": at, "name": str(at), "path": f"{at}_{kind}" if at else "", "type": f"{package}.{kind}"}
        for at, kind in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": HIDDEN, **pooling}))
    if prompts is not None:
        (folder / "config_sentence_transformers.json").write_text(json.dumps({"prompts": prompts}))


def bert(folder: Path, dtype: Any) -> None:
    """An encoder for embeddings: the mean of all tokens, as MiniLM and E5 have it."""
    from transformers import BertModel

    tokenizer = _bert_tokenizer()
    _save(BertModel(_bert_config(len(tokenizer))), tokenizer, folder, dtype)
    _modules(folder, {"pooling_mode_mean_tokens": True})
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 256}))


def bert_cls(folder: Path, dtype: Any) -> None:
    """An encoder for embeddings: the state of the first token, not normalized, as BGE's older models have it."""
    from transformers import BertModel

    tokenizer = _bert_tokenizer()
    _save(BertModel(_bert_config(len(tokenizer)), add_pooling_layer=False), tokenizer, folder, dtype)
    _modules(folder, {"pooling_mode_cls_token": True}, normalize=False)


def qwen3_embedding(folder: Path, dtype: Any) -> None:
    """A decoder for embeddings: the state of the last token, with prompts, as Qwen3-Embedding has it."""
    qwen3(folder, dtype)
    _modules(folder, {"pooling_mode_lasttoken": True}, prompts={"query": "Instruct: find\nQuery:", "document": ""})


def bert_reranker(folder: Path, dtype: Any) -> None:
    """A cross-encoder: one score for a pair of texts."""
    from transformers import BertForSequenceClassification

    tokenizer = _bert_tokenizer()
    _save(BertForSequenceClassification(_bert_config(len(tokenizer), num_labels=1)), tokenizer, folder, dtype)


def idefics3(folder: Path, dtype: Any) -> None:
    """Image-text-to-text: SmolVLM (Idefics3), whose processor divides large images into tiles. Needs torchvision."""
    from transformers import Idefics3Config, Idefics3ForConditionalGeneration, Idefics3ImageProcessor, Idefics3Processor

    tiles = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
    tokenizer = qwen_tokenizer(
        ["<|im_start|>", "<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>", *tiles],
        bos="<|im_start|>",
        eos="<end_of_utterance>",
        pad="<|im_end|>",
    )
    ids = tokenizer.convert_tokens_to_ids
    config = Idefics3Config(
        text_config={**_llama_config(len(tokenizer)), "pad_token_id": ids("<|im_end|>")},
        vision_config={**_tower_config(), "image_size": 56},
        image_token_id=ids("<image>"),
        scale_factor=2,
    )
    processor = Idefics3Processor(
        Idefics3ImageProcessor(size={"longest_edge": 112}, max_image_size={"longest_edge": 56}),
        tokenizer,
        image_seq_len=4,
        chat_template=SMOLVLM,
    )
    _save(Idefics3ForConditionalGeneration(config), processor, folder, dtype)
    banned = [[ids("<fake_token_around_image>")], [ids("<image>")]]  # as the real one's
    _save_generation(folder, ids("<end_of_utterance>"), ids("<|im_end|>"), bad_words_ids=banned)


def gemma3(folder: Path, dtype: Any) -> None:
    """Image-text-to-text: Gemma 3, where an image attends to all of itself and layers look back only a little."""
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration, Gemma3ImageProcessor, Gemma3Processor

    named = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
    tokenizer = qwen_tokenizer(["<start_of_turn>", "<end_of_turn>"], named=named, bos="<bos>", eos="<eos>", pad="<pad>")
    ids = tokenizer.convert_tokens_to_ids
    config = Gemma3Config(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": HIDDEN,
            "intermediate_size": 2 * HIDDEN,
            "num_hidden_layers": 3,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            "sliding_window": 24,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": HIDDEN // 4,
            "query_pre_attn_scalar": HIDDEN // 4,
            "max_position_embeddings": 2048,
        },
        vision_config={**_tower_config(), "image_size": 56},
        mm_tokens_per_image=4,
        image_token_index=ids("<image_soft_token>"),
        boi_token_index=ids("<start_of_image>"),
        eoi_token_index=ids("<end_of_image>"),
    )
    processor = Gemma3Processor(
        Gemma3ImageProcessor(size={"height": 56, "width": 56}), tokenizer, image_seq_length=4, chat_template=GEMMA
    )
    model = Gemma3ForConditionalGeneration(config)
    model.model.multi_modal_projector.mm_input_projection_weight.data.normal_()  # zeros, as they begin, show no image
    for layer in model.model.language_model.layers:  # its norms would undo what `_save` does to queries and keys
        layer.self_attn.q_norm.weight.data += 1
        layer.self_attn.k_norm.weight.data += 1
    _save(model, processor, folder, dtype)
    _save_generation(
        folder, [ids("<eos>"), ids("<end_of_turn>")], ids("<pad>"), do_sample=True, top_k=64, top_p=0.95,
        cache_implementation="hybrid",
    )  # fmt: skip


def llava(folder: Path, dtype: Any) -> None:
    """Image-text-to-text: LLaVA, a CLIP tower in front of a Llama."""
    from transformers import CLIPImageProcessor, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor

    tokenizer = qwen_tokenizer(["<image>"], bos="<s>", eos="</s>", pad="<pad>")
    ids = tokenizer.convert_tokens_to_ids
    config = LlavaConfig(
        text_config={**_llama_config(len(tokenizer)), "model_type": "llama"},
        vision_config={
            **_tower_config(),
            "model_type": "clip_vision_model",
            "image_size": 56,
            "projection_dim": HIDDEN,
        },
        image_token_index=ids("<image>"),
        image_seq_length=16,
        vision_feature_layer=-2,
    )
    processor = LlavaProcessor(
        CLIPImageProcessor(size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56}),
        tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        chat_template=LLAVA,
        num_additional_image_tokens=1,
    )
    _save(LlavaForConditionalGeneration(config), processor, folder, dtype)
    _save_generation(folder, ids("</s>"), ids("<pad>"))


def mllama(folder: Path, dtype: Any) -> None:
    """Image-text-to-text: Llama 3.2 Vision, whose layers attend across to the image instead of reading it."""
    from transformers import MllamaConfig, MllamaForConditionalGeneration, MllamaImageProcessor, MllamaProcessor

    tokenizer = qwen_tokenizer(
        ["<|image|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
        bos="<|begin_of_text|>",
        eos="<|eot_id|>",
        pad="<|finetune_right_pad_id|>",
    )
    ids = tokenizer.convert_tokens_to_ids
    config = MllamaConfig(
        text_config={
            **_llama_config(len(tokenizer), layers=3),
            "cross_attention_layers": [1],
            "pad_token_id": ids("<|finetune_right_pad_id|>"),
        },
        vision_config={
            "hidden_size": HIDDEN,
            "intermediate_size": 2 * HIDDEN,
            "num_hidden_layers": 2,
            "num_global_layers": 1,
            "attention_heads": 4,
            "image_size": 56,
            "patch_size": 14,
            "max_num_tiles": 4,
            "intermediate_layers_indices": [0, 1],
            "vision_output_dim": 3 * HIDDEN,
            "supported_aspect_ratios": [[1, 1], [1, 2], [1, 3], [1, 4], [2, 1], [2, 2], [3, 1], [4, 1]],
        },
        image_token_index=ids("<|image|>"),
    )
    processor = MllamaProcessor(
        MllamaImageProcessor(size={"height": 56, "width": 56}, max_image_tiles=4), tokenizer, chat_template=LLAMA_VISION
    )
    model = MllamaForConditionalGeneration(config)
    for layer in model.model.language_model.layers:
        for name in ("cross_attn_attn_gate", "cross_attn_mlp_gate"):
            if hasattr(layer, name):
                getattr(layer, name).data.fill_(1.0)  # closed, as they begin, no image would reach a word
    _save(model, processor, folder, dtype)
    _save_generation(folder, ids("<|eot_id|>"), ids("<|finetune_right_pad_id|>"))


KINDS: dict[str, Callable[[Path, Any], None]] = {
    "qwen3": qwen3,
    "llama": llama,
    "qwen2_5_vl": qwen2_5_vl,
    "qwen3_vl": qwen3_vl,
    "qwen2_audio": qwen2_audio,
    "qwen2_5_omni": qwen2_5_omni,
    "blip_vqa": blip_vqa,
    "bert": bert,
    "bert_cls": bert_cls,
    "qwen3_embedding": qwen3_embedding,
    "bert_reranker": bert_reranker,
    "idefics3": idefics3,
    "gemma3": gemma3,
    "llava": llava,
    "mllama": mllama,
}

OF_FAMILY = {
    "text": "qwen3",
    "vision-language": "qwen2_5_vl",
    "qwen3-vl": "qwen3_vl",
    "audio-language": "qwen2_audio",
    "omni": "qwen2_5_omni",
    "vqa": "blip_vqa",
    "embedding": "bert",
    "image-text-to-text": "idefics3",
}
"""Of each family in `ams_common.families`, the kind that its tests load."""


def _text_config(vocabulary: int, *, layers: int = LAYERS, mrope: bool = True) -> dict[str, Any]:
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": 1e6}
    if mrope:
        first = HIDDEN // 32
        rest = HIDDEN // 8 - first
        rope["mrope_section"] = [first, rest - rest // 2, rest // 2]
    return {
        "vocab_size": vocabulary,
        "hidden_size": HIDDEN,
        "intermediate_size": 2 * HIDDEN,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 32768,
        "rope_parameters": rope,
        "tie_word_embeddings": False,
    }


def _vision_config() -> dict[str, Any]:
    return {
        "depth": 2,
        "hidden_size": HIDDEN,
        "intermediate_size": 2 * HIDDEN,
        "num_heads": 4,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "window_size": 112,
        "fullatt_block_indexes": [1],
        "out_hidden_size": HIDDEN,
    }


def _llama_config(vocabulary: int, *, layers: int = LAYERS) -> dict[str, Any]:
    return {
        "vocab_size": vocabulary,
        "hidden_size": HIDDEN,
        "intermediate_size": 2 * HIDDEN,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 8192,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e5},
        "tie_word_embeddings": False,
    }


def _tower_config() -> dict[str, Any]:
    return {
        "hidden_size": HIDDEN,
        "intermediate_size": 2 * HIDDEN,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "patch_size": 14,
    }


def _audio_config() -> dict[str, Any]:
    return {
        "num_mel_bins": 128,
        "encoder_layers": 2,
        "encoder_attention_heads": 4,
        "encoder_ffn_dim": 2 * HIDDEN,
        "d_model": HIDDEN,
    }


def _vision_processors() -> tuple[Any, Any]:
    from transformers import Qwen2VLImageProcessor, Qwen2VLVideoProcessor

    size = {"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 64}
    shape = {"patch_size": 14, "merge_size": 2, "temporal_patch_size": 2, "size": size}
    return Qwen2VLImageProcessor(**shape), Qwen2VLVideoProcessor(**shape)


def _features(seconds: int) -> Any:
    from transformers import WhisperFeatureExtractor

    return WhisperFeatureExtractor(
        feature_size=128,
        sampling_rate=16000,
        hop_length=160,
        n_fft=400,
        chunk_length=seconds,
        return_attention_mask=True,
    )


def _save(model: Any, processor: Any, folder: Path, dtype: Any) -> None:
    import torch

    with torch.no_grad():
        for name, weights in model.named_parameters():
            if weights.dim() == 2 and "embed" not in name:
                weights *= 12 if ".q_proj." in name or ".k_proj." in name else 4
    model.to(dtype).save_pretrained(folder)
    processor.save_pretrained(folder)


def _save_generation(folder: Path, eos: int | list[int], pad: int, **sampling: Any) -> None:
    from transformers import GenerationConfig

    GenerationConfig(eos_token_id=eos, pad_token_id=pad, **sampling).save_pretrained(folder)
