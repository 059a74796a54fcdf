"""Beside the utilities of the models' authors: qwen-vl-utils, qwen-omni-utils, and librosa for Qwen2-Audio.

For real files, what our decoders and the processors make of them equals what those make, sizes, tokens and positions
exactly, pixels and spectrograms within the tolerances below. What differs on purpose is listed in
docs/decisions/0004-processors-of-transformers.md.
"""

import functools
import io
import json
from pathlib import Path

import av
import librosa
import numpy as np
import PIL.Image
import PIL.ImageDraw
import pytest
import qwen_omni_utils
import qwen_vl_utils
import qwen_vl_utils.vision_process
import torch
from ams_pod.media import decoding
from ams_pod.media.decoding import DecodeOptions, Encoded
from ams_pod.media.limits import MediaLimits
from ams_pod.media.sizing import NO_WISHES, Wishes
from ams_pod.media.spool import Upload
from ams_pod.media.watch import Watch
from fakehub import checkpoints
from families_harness import RATE, Family
from test_media.media_files import saved, sound

pytestmark = pytest.mark.filterwarnings("ignore")  # of numba, audioread and torchvision

CONTEXT = 40_000
_REAL = {
    "vision-language": ((3136, 12845056), (3136, 12845056)),
    "omni": ((3136, 12845056), (3136, 12845056)),
    "qwen3-vl": ((65536, 16777216), (4096, 25165824)),
}


@pytest.fixture(scope="session")
def families(tmp_path_factory):
    """Tiny checkpoints with the bounds of pixels of those on the hub."""

    @functools.cache
    def family(name):
        folder = tmp_path_factory.mktemp("authors") / name
        checkpoints.make(checkpoints.OF_FAMILY[name], folder, dtype="float32")
        if name in _REAL:
            path = folder / "processor_config.json"
            config = json.loads(path.read_text())
            for part, (least, most) in zip(("image_processor", "video_processor"), _REAL[name], strict=True):
                config[part]["size"] = {"shortest_edge": least, "longest_edge": most}
            path.write_text(json.dumps(config))
        made = Family(name, folder)
        made.prompts = made.recipe.prompts(CONTEXT)
        return made

    return family


def decoded(family, kind: str, data: bytes, wishes: Wishes = NO_WISHES, *, hears: bool = False):
    watch = Watch(60.0)
    options = DecodeOptions(8, RATE, hears, family.prompts.sizes)
    item = Encoded(kind, kind, Upload(len(data), lambda: io.BytesIO(data)), wishes)
    return decoding.decode(item, options, MediaLimits(), watch)


def page(width: int, height: int) -> PIL.Image.Image:
    """Small print, as of a scan or a screenshot."""
    image = PIL.Image.new("RGB", (width, height), "white")
    draw = PIL.ImageDraw.Draw(image)
    for y in range(4, height, 22):
        draw.text((8, y), "The quick brown fox jumps over the lazy dog 0123456789 " * (width // 300 + 1), fill="black")
    return image


def photo(width: int, height: int) -> PIL.Image.Image:
    y, x = np.mgrid[0:height, 0:width]
    noise = np.random.default_rng(0).integers(0, 30, (height, width, 3))
    waves = np.stack([np.sin(x / 50), np.cos(y / 70), np.sin((x + y) / 90)], -1) * 100 + 120
    return PIL.Image.fromarray(np.clip(waves + noise, 0, 255).astype(np.uint8))


IMAGES = {
    "screenshot 1920×1080": saved(page(1920, 1080), "PNG"),
    "A4 in 200 dpi": saved(page(1654, 2339), "PNG"),
    "photo of 12 megapixels": saved(photo(4032, 3024), "JPEG", quality=90),
    "photo of 24 megapixels": saved(photo(6000, 4000), "JPEG", quality=90),
    "small": saved(photo(300, 280), "PNG"),
    "thin": saved(photo(1900, 30), "PNG"),
    "transparent": saved(photo(400, 300).convert("RGBA").rotate(10, expand=True), "PNG"),
    "grey": saved(page(640, 480).convert("L"), "PNG"),
    "CMYK": saved(photo(640, 480).convert("CMYK"), "JPEG"),
    "palette": saved(page(640, 480).quantize(16), "PNG"),
    "webp": saved(photo(900, 700), "WEBP"),
}
LEFT_OUT = {
    ("qwen3-vl", "thin"),  # its utilities leave the checkpoint's lower bound aside, and its processor has it
    ("omni", "photo of 24 megapixels"), ("omni", "photo of 12 megapixels"),  # the same as vision-language, and long
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "file"),
    [(name, file) for name in _REAL for file in IMAGES if (name, file) not in LEFT_OUT],
)
def test_images(families, tmp_path: Path, name: str, file: str) -> None:
    family, path = families(name), tmp_path / "image"
    path.write_bytes(IMAGES[file])
    utils = qwen_omni_utils if name == "omni" else qwen_vl_utils
    messages = [{"role": "user", "content": [{"type": "image", "image": str(path)}]}]
    patch = family.processor.image_processor.patch_size
    theirs, _ = utils.process_vision_info(messages, image_patch_size=patch)
    wanted = family.processor(text=[family.processor.image_token], images=theirs, return_tensors="pt")
    ours = decoded(family, "image", IMAGES[file])
    assert ours.pixels.shape[1::-1] == theirs[0].size
    expansion = family.prompts.expander.expand(ours)
    assert tuple(wanted["image_grid_thw"][0].tolist()) == expansion.layout.grid
    assert list(expansion.ids) == wanted["input_ids"][0].tolist()
    pixels = torch.cat([piece.inputs.normalized() for piece in expansion.pieces])
    assert torch.equal(pixels, wanted["pixel_values"])


@functools.cache
def film(width: int, height: int, frames: int = 71, rate: int = 10) -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": "12"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        base = np.asarray(photo(width + frames * 2, height))
        for index in range(frames):
            picture = np.ascontiguousarray(base[:, 2 * index : 2 * index + width])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return file.getvalue()


def _read(ele):
    """A reader for their utilities, whose own need decord or an older torchvision: all frames, by FFmpeg."""
    with av.open(ele["video"]) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        rate = float(container.streams.video[0].average_rate)
    module = qwen_vl_utils.vision_process
    count = module.smart_nframes(ele, total_frames=len(frames), video_fps=rate)
    chosen = torch.linspace(0, len(frames) - 1, count).round().long().tolist()
    video = torch.from_numpy(np.stack([frames[index] for index in chosen])).permute(0, 3, 1, 2)
    told = {"fps": rate, "frames_indices": chosen, "total_num_frames": len(frames), "video_backend": "torchvision"}
    return video, told, count / len(frames) * rate


@pytest.fixture(autouse=True)
def reader(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (qwen_vl_utils.vision_process, qwen_omni_utils.v2_5.vision_process):
        monkeypatch.setitem(module.VIDEO_READER_BACKENDS, "torchvision", _read)
        monkeypatch.setattr(module, "get_video_reader_backend", lambda: "torchvision")


FILMS = [  # (width, height), frames, what is asked: where both choose the same frames
    ((320, 240), 71, {"nframes": 8}),
    ((176, 144), 36, {"fps": 2.0}),
    ((1280, 720), 71, {"nframes": 8}),
    ((720, 1280), 61, {"nframes": 4, "max_pixels": 200 * 28 * 28}),
    ((40, 30), 36, {"fps": 2.0}),
]


@pytest.mark.parametrize("name", ["vision-language", "qwen3-vl", "omni"])
@pytest.mark.parametrize(("size", "frames", "asked"), FILMS)
def test_videos(
    families, tmp_path: Path, name: str, size: tuple[int, int], frames: int, asked: dict[str, float]
) -> None:
    family, path = families(name), tmp_path / "film.mp4"
    path.write_bytes(film(*size, frames=frames))
    utils = qwen_omni_utils if name == "omni" else qwen_vl_utils
    patch = family.processor.image_processor.patch_size
    ele = {"type": "video", "video": str(path)} | asked
    (theirs, told), rate = utils.fetch_video(
        ele, image_patch_size=patch, return_video_sample_fps=True, return_video_metadata=True
    ) if name != "omni" else _flat(utils.fetch_video(ele, return_video_sample_fps=True))  # fmt: skip
    wishes = Wishes(None, asked.get("max_pixels"), asked.get("nframes"), asked.get("fps"))
    ours = decoded(family, "video", path.read_bytes(), wishes=wishes)
    assert ours.frames.shape[:3] == (theirs.shape[0], *theirs.shape[2:])
    difference = np.abs(ours.frames.astype(float) - theirs.permute(0, 2, 3, 1).numpy())
    assert difference.mean() < 0.5
    assert difference.max() <= 2 if size != (40, 30) else difference.max() < 8
    if told is not None:
        assert ours.timestamps == pytest.approx([index / 10 for index in told["frames_indices"]], abs=1e-3)
    grid = family.prompts.expander.expand(ours).layout.grid
    side = 2 * patch
    assert grid == (theirs.shape[0] // 2, 2 * theirs.shape[2] // side, 2 * theirs.shape[3] // side)
    assert rate > 0


def _flat(made):
    return (made[0], None), made[1]


@pytest.mark.parametrize("name", ["vision-language", "omni"])
def test_positions(families, tmp_path: Path, name: str) -> None:
    """Of an image and a video in one prompt: those of the model's own rule for what the utilities make of both."""
    family = families(name)
    path = tmp_path / "film.mp4"
    path.write_bytes(film(320, 240))
    image = decoded(family, "image", IMAGES["small"])
    video = decoded(family, "video", path.read_bytes())
    prepared = family.prepare(image, "and", video, "what")
    embedder = family.recipe.embedder(family.model)
    found = embedder._positions(torch.tensor(list(prepared.ids)), prepared.media)
    (pictures, films) = qwen_vl_utils.process_vision_info(
        [{"role": "user", "content": [{"type": "image", "image": PIL.Image.open(io.BytesIO(IMAGES["small"]))},
                                      {"type": "video", "video": str(path), "nframes": 8}]}]
    )  # fmt: skip
    text = family.prompts.render(
        [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "and"}, {"type": "video"},
                                      {"type": "text", "text": "what"}]}]
    )  # fmt: skip
    rate = (len(video.timestamps) - 1) / (video.timestamps[-1] - video.timestamps[0])
    made = family.processor(
        text=[text], images=pictures, videos=films, return_tensors="pt",
        videos_kwargs={"fps": rate, "do_sample_frames": False} if name == "omni" else {"do_sample_frames": False},
    )  # fmt: skip
    assert made["input_ids"][0].tolist() == list(prepared.ids)
    if name == "omni":
        wanted, _ = family.model.get_rope_index(
            made["input_ids"], made["image_grid_thw"], made["video_grid_thw"], attention_mask=made["attention_mask"],
            second_per_grids=torch.tensor([2 / rate]),
        )  # fmt: skip
    else:
        wanted, _ = family.model.model.get_rope_index(
            made["input_ids"], mm_token_type_ids=made["mm_token_type_ids"], image_grid_thw=made["image_grid_thw"],
            video_grid_thw=made["video_grid_thw"], second_per_grid_ts=torch.tensor([2 / rate]),
        )  # fmt: skip
    assert torch.equal(found, wanted[:, 0])


SOUNDS = {
    "16 kHz": sound("wav", "pcm_s16le", 5.0, 16_000),
    "22 kHz": sound("wav", "pcm_s16le", 5.0, 22_050),
    "44 kHz stereo": sound("wav", "pcm_s16le", 5.0, 44_100, 2),
    "48 kHz of 24 bits": sound("wav", "pcm_s24le", 12.3, 48_000),
    "FLAC": sound("flac", "flac", 3.0, 44_100),
    "8 kHz": sound("wav", "pcm_s16le", 4.0, 8_000),
    "half a minute": sound("wav", "pcm_s16le", 30.0, 16_000),
}


@pytest.mark.parametrize("name", ["audio-language", "omni"])
@pytest.mark.parametrize("file", SOUNDS)
def test_sounds(families, tmp_path: Path, name: str, file: str) -> None:
    """Tokens equal; the log-mel spectrogram, of a range of about 2, within 0.01 on average below 7 kHz."""
    family, path = families(name), tmp_path / "sound.wav"
    path.write_bytes(SOUNDS[file])
    ours = decoded(family, "audio", SOUNDS[file])
    if name == "omni":
        messages = [{"role": "user", "content": [{"type": "audio", "audio": str(path)}]}]
        (theirs,) = qwen_omni_utils.process_audio_info(messages, use_audio_in_video=False)
    else:
        theirs = librosa.load(str(path), sr=RATE)[0]
    assert abs(len(ours.samples) - len(theirs)) <= 1
    made = family.processor(
        text=[family.processor.audio_token], audio=[theirs], audio_kwargs={"sampling_rate": RATE}, return_tensors="pt"
    )
    expansion = family.prompts.expander.expand(ours)
    assert list(expansion.ids) == made["input_ids"][0].tolist()
    heard = int(made["feature_attention_mask"].sum())
    if name == "omni":
        spectrogram = torch.cat([piece.inputs for piece in expansion.pieces], 1)
    else:
        spectrogram = expansion.pieces[0].inputs.features[0]
    heard = min(heard, spectrogram.shape[1])
    difference = (spectrogram[:, :heard] - made["input_features"][0, :, :heard]).abs()
    assert float(difference[:122].mean()) < 0.01  # bins below 7 kHz
    if "16 kHz" in file:
        assert float(difference.max()) < 1e-3
