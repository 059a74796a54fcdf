"""Class names of transformers' models for the task image-text-to-text: config.json names one in `architectures`.

Written down here, as operator, gateway and command line know no transformers. After an upgrade of transformers, a test
fails that names what is new; write it here, or all of it by

    python -c "from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as names;
    print(*(f'        \"{name}\",' for name in sorted(set(names.values()))), sep=chr(10))"

An older transformers, which `pyproject.toml` allows, lacks some: their models then fail to load, and the pod says so.
"""

TRANSFORMERS = "5.23.0"
"""The version whose names these are."""

IMAGE_TEXT = frozenset(
    {
        "AriaForConditionalGeneration",
        "AyaVisionForConditionalGeneration",
        "Blip2ForConditionalGeneration",
        "BlipForConditionalGeneration",
        "ChameleonForConditionalGeneration",
        "Cohere2VisionForConditionalGeneration",
        "CohereCompassForConditionalGeneration",
        "Cosmos3EdgeForConditionalGeneration",
        "Cosmos3OmniForConditionalGeneration",
        "DeepseekOcr2ForConditionalGeneration",
        "DeepseekVLForConditionalGeneration",
        "DeepseekVLHybridForConditionalGeneration",
        "DiffusionGemmaForBlockDiffusion",
        "Dots3NoteForConditionalGeneration",
        "Emu3ForConditionalGeneration",
        "Ernie4_5_VLMoeForConditionalGeneration",
        "EvollaForProteinText2Text",
        "Exaone4_5_ForConditionalGeneration",
        "FastVlmForConditionalGeneration",
        "Florence2ForConditionalGeneration",
        "FuyuForCausalLM",
        "Gemma3ForConditionalGeneration",
        "Gemma3nForConditionalGeneration",
        "Gemma4ForConditionalGeneration",
        "Gemma4UnifiedForConditionalGeneration",
        "GitForCausalLM",
        "Glm46VForConditionalGeneration",
        "Glm4vForConditionalGeneration",
        "Glm4vMoeForConditionalGeneration",
        "Glm5NextForConditionalGeneration",
        "GlmOcrForConditionalGeneration",
        "GotOcr2ForConditionalGeneration",
        "Granite4VisionForConditionalGeneration",
        "GraniteDoclingForConditionalGeneration",
        "HunYuanVLForConditionalGeneration",
        "HyperCLOVAXVisionV2ForConditionalGeneration",
        "Idefics2ForConditionalGeneration",
        "Idefics3ForConditionalGeneration",
        "IdeficsForVisionText2Text",
        "Inkling2ForConditionalGeneration",
        "InklingForConditionalGeneration",
        "InstructBlipForConditionalGeneration",
        "InstructBlipVideoForConditionalGeneration",
        "InternVLForConditionalGeneration",
        "JanusForConditionalGeneration",
        "Kimi_K25ForConditionalGeneration",
        "Kosmos2ForConditionalGeneration",
        "Kosmos2_5ForConditionalGeneration",
        "Lfm2VlForConditionalGeneration",
        "Lfm3VlForConditionalGeneration",
        "LightOnOcrForConditionalGeneration",
        "Llama4ForConditionalGeneration",
        "LlavaForConditionalGeneration",
        "LlavaNextForConditionalGeneration",
        "LlavaNextVideoForConditionalGeneration",
        "LlavaOnevisionForConditionalGeneration",
        "MiniCPMOcrForConditionalGeneration",
        "MiniCPMV4_6ForConditionalGeneration",
        "MiniCPMV4_7ForConditionalGeneration",
        "MiniMaxM3SparseForConditionalGeneration",
        "Mistral3ForConditionalGeneration",
        "Mistral4ForCausalLM",
        "MistralLarge4ForConditionalGeneration",
        "MllamaForConditionalGeneration",
        "Molmo2ForConditionalGeneration",
        "MuseGlimmerForConditionalGeneration",
        "MuseSparkForConditionalGeneration",
        "NemotronH_Omni_Reasoning_V3",
        "Ovis2ForConditionalGeneration",
        "PI0ForConditionalGeneration",
        "PPFormulaNetForConditionalGeneration",
        "PaddleOCRVLForConditionalGeneration",
        "PaliGemmaForConditionalGeneration",
        "PerceptionLMForConditionalGeneration",
        "Pix2StructForConditionalGeneration",
        "QianfanOCRForConditionalGeneration",
        "Qwen2VLForConditionalGeneration",
        "Qwen2_5OmniThinkerForConditionalGeneration",
        "Qwen2_5_VLForConditionalGeneration",
        "Qwen3OmniMoeThinkerForConditionalGeneration",
        "Qwen3VLForConditionalGeneration",
        "Qwen3VLMoeForConditionalGeneration",
        "Qwen3_5ForConditionalGeneration",
        "Qwen3_5MoeForConditionalGeneration",
        "Qwen4ExpForConditionalGeneration",
        "SmolVLMForConditionalGeneration",
        "Step3p7ForConditionalGeneration",
        "T5Gemma2ForConditionalGeneration",
        "UdopForConditionalGeneration",
        "UnlimitedOcrForConditionalGeneration",
        "VideoLlama3ForConditionalGeneration",
        "VideoLlavaForConditionalGeneration",
        "VipLlavaForConditionalGeneration",
        "VisionEncoderDecoderModel",
    }
)

_TEXT_SUFFIX = "ForCausalLM"  # of models that are served as text, whatever the task that transformers lists them for

NO_CHAT = frozenset(
    {
        # Made of an encoder and a decoder: their prompt is a fixed task, or none at all.
        *("Florence2ForConditionalGeneration", "Pix2StructForConditionalGeneration", "UdopForConditionalGeneration"),
        *("PPFormulaNetForConditionalGeneration", "VisionEncoderDecoderModel", "T5Gemma2ForConditionalGeneration"),
        # Captions and questions without messages.
        *("BlipForConditionalGeneration", "Blip2ForConditionalGeneration", "InstructBlipForConditionalGeneration"),
        *("InstructBlipVideoForConditionalGeneration", "Kosmos2ForConditionalGeneration"),
        *("Kosmos2_5ForConditionalGeneration", "IdeficsForVisionText2Text", "PaliGemmaForConditionalGeneration"),
        # What they answer with isn't text, token by token: blocks, actions of a robot; or what they ask for no image.
        *("DiffusionGemmaForBlockDiffusion", "PI0ForConditionalGeneration", "EvollaForProteinText2Text"),
    }
)
"""Those that can't take a chat's messages, or don't answer token by token."""

IMAGE_TEXT_CHAT = frozenset(name for name in IMAGE_TEXT - NO_CHAT if not name.endswith(_TEXT_SUFFIX))
