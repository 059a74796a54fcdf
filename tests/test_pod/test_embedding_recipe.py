"""What a folder's files say of its vectors, in the layouts of older and newer sentence-transformers."""

import json
from pathlib import Path
from typing import Any

import pytest
from ams_pod.engines.port import LoadFailed
from ams_pod.engines.prompts.embedding import Layer, longest_text, read_recipe, scores_are_logits, scores_pairs

OLDER, NEWER = "sentence_transformers.models.", "sentence_transformers.sentence_transformer.modules.pooling."


def folder(tmp_path: Path, pooling: Any, *kinds: str, package: str = OLDER, **files: Any) -> Path:
    names = ["Transformer", "Pooling", *kinds]
    modules = [
        {"idx": at, "path": f"{at}_{kind}" if at else "", "type": package + kind} for at, kind in enumerate(names)
    ]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    for name, content in files.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    return tmp_path


@pytest.mark.parametrize(
    ("pooling", "pools"),
    [
        ({}, ("mean",)),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, ("cls",)),
        ({"pooling_mode_lasttoken": True}, ("last",)),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}, ("cls", "mean")),
        ({"pooling_mode": "lasttoken"}, ("last",)),
        ({"pooling_mode": "mean_sqrt_len_tokens"}, ("mean-sqrt",)),
        ({"pooling_mode": "mean+cls"}, ("cls", "mean")),
        ({"pooling_mode": ["weightedmean", "max"]}, ("max", "weighted-mean")),
    ],
)
def test_how_tokens_become_one_vector(tmp_path: Path, pooling: Any, pools: tuple[str, ...]) -> None:
    assert tuple(read_recipe(folder(tmp_path, pooling)).pools) == pools


@pytest.mark.parametrize(
    ("pooling", "words"),
    [
        ({"pooling_mode": "attention"}, "pools by 'attention'"),
        ({"pooling_mode": []}, "pools by"),
        ({"pooling_mode": 7}, "can't be used"),
        ({"include_prompt": False}, "leaves its prompts out"),
    ],
)
def test_what_is_not_known_is_refused(tmp_path: Path, pooling: Any, words: str) -> None:
    with pytest.raises(LoadFailed, match=words):
        read_recipe(folder(tmp_path, pooling))


def test_what_comes_behind_pooling_and_in_front_of_texts(tmp_path: Path) -> None:
    made = folder(
        tmp_path, {}, "Dense", "Normalize", package=NEWER,
        config_sentence_transformers={"prompts": {"query": "q: "}, "default_prompt_name": "query"},
        sentence_bert_config={"max_seq_length": 256, "do_lower_case": True},
    )  # fmt: skip
    recipe = read_recipe(made)
    assert recipe.layers == [Layer("dense", "2_Dense"), Layer("normalize")]
    assert (recipe.prompts, recipe.default_prompt) == ({"query": "q: "}, "query")
    assert (recipe.longest, recipe.lower_case, recipe.said) == (256, True, True)


def test_a_folder_that_is_silent(tmp_path: Path) -> None:
    recipe = read_recipe(tmp_path)
    assert (recipe.pools, recipe.layers, recipe.said) == (("mean",), [Layer("normalize")], False)


def test_a_module_that_is_not_known_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LoadFailed, match="pass a 'LSTM'"):
        read_recipe(folder(tmp_path, {}, "LSTM"))


@pytest.mark.parametrize("path", ["../..", "/etc", "1_Pooling/../.."])
def test_a_module_lies_in_its_folder(tmp_path: Path, path: str) -> None:
    (tmp_path / "modules.json").write_text(json.dumps([{"type": "x.Pooling", "path": path}]))
    with pytest.raises(LoadFailed, match=r"modules\.json can't be used"):
        read_recipe(tmp_path)


@pytest.mark.parametrize(
    ("config", "read", "setting", "longest"),
    [
        ({"max_position_embeddings": 512}, None, 0, 512),
        ({"max_position_embeddings": 512}, 256, 0, 256),
        ({"max_position_embeddings": 512}, 256, 300, 300),
        ({"max_position_embeddings": 514, "model_type": "roberta", "pad_token_id": 1}, None, 0, 512),
        ({"max_position_embeddings": 32768}, None, 0, 8192),
        ({}, None, 0, 8192),
    ],
)
def test_how_long_a_text_may_be(config: Any, read: int | None, setting: int, longest: int) -> None:
    assert longest_text(config, read, setting) == longest


def test_a_limit_beyond_the_models_own_is_refused() -> None:
    with pytest.raises(LoadFailed, match="is 600, but the model was made for 512"):
        longest_text({"max_position_embeddings": 512}, None, 600)


def test_cross_encoders() -> None:
    assert scores_pairs({"architectures": ["BertForSequenceClassification"]})
    assert not scores_pairs({"architectures": ["BertModel"]})
    assert not scores_pairs({})
    identity = "torch.nn.modules.linear.Identity"
    assert scores_are_logits({"sentence_transformers": {"activation_fn": identity}})
    assert scores_are_logits({"sbert_ce_default_activation_function": identity})
    assert not scores_are_logits({"sentence_transformers": None})
