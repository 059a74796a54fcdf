"""The playground with real (tiny) models: text, thoughts, media, cold starts, stops, errors, history, copies."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect
from test_media.media_files import picture, saved, sound, video
from test_page.browser import Open
from test_page.product import Product
from test_page.steps import answered, ask, attach, choose, copied, drop, paste, send

pytestmark = pytest.mark.timeout(300)

PNG = saved(picture(84, 56), "PNG")
WAV = sound("wav", "pcm_s16le", seconds=1.0)
MP4 = video(sound_codec="aac", frames=20)


def test_a_cold_start_is_shown_while_the_first_answer_waits(open_page: Open, product: Product) -> None:
    product.stop("cold")
    page = open_page(product.url)
    choose(page, "cold")
    expect(page.locator("#model-state")).to_have_text("idle")
    expect(page.locator("#takes")).to_contain_text("It starts when you ask.")
    send(page, "hi")
    expect(page.locator("#chat .waiting progress")).to_be_visible()
    expect(page.locator("#chat .waiting")).to_contain_text("cold starts for you:")
    answer = answered(page)
    expect(answer.locator(".stats")).to_contain_text("started for it")
    expect(page.locator("#model-state")).to_have_text("ready")
    answer.get_by_role("button", name="Why?").click()
    causes = page.get_by_role("dialog").locator(".causes > li")
    expect(causes.first).to_contain_text("cold-start")


def test_an_answer_streams_with_thoughts_folded_and_nothing_of_it_is_markup(open_page: Open, product: Product) -> None:
    page = open_page(product.url)
    answer = ask(page, "hi <b>there</b>", "writer")
    expect(page.locator("#chat > .user .text")).to_have_text("hi <b>there</b>")
    thoughts = answer.locator("details")
    expect(thoughts).not_to_have_attribute("open", "")
    thoughts.locator("summary").click()
    expect(thoughts).to_contain_text("see <script>window.pwned=1</script>")
    body = answer.locator(".markdown")
    assert [each.inner_text() for each in body.locator("strong, li").all()] == ["world", "one", "two"]
    expect(body.locator("p code")).to_have_text("x < y")
    expect(body.locator("pre code")).to_have_text('alert("<b>hi</b>")')
    expect(body).to_contain_text('<img src=x onerror="window.pwned=1">')
    expect(body).to_contain_text("<svg/onload=alert(1)> [click](javascript:alert(1))")
    assert page.locator("#chat img, #chat svg, #chat script, #chat a").count() == 0
    assert page.evaluate("window.pwned") is None
    facts = answer.locator(".stats").inner_text()
    assert re.search(r"first token .* tokens · request [0-9a-f]{24}$", facts), facts
    answer.get_by_role("button", name="Details").click()
    sent, came = page.get_by_role("dialog").locator("pre").all()
    assert json.loads(sent.inner_text())["messages"] == [{"role": "user", "content": "hi <b>there</b>"}]
    details = json.loads(came.inner_text())
    assert (details["headers"]["x-ams-model"], details["finish_reason"]) == ("writer", "stop")
    assert details["usage"]["completion_tokens"] > 5
    assert facts.endswith(details["request_id"])
    page.keyboard.press("Escape")
    assert "let me" not in page.locator("#announcer").inner_text()
    expect(page.locator("#announcer")).to_contain_text("writer: Hello **world**")


def test_a_chat_goes_on_and_parameters_and_system_prompt_are_sent(open_page: Open, product: Product) -> None:
    page = open_page(product.url)
    bodies: list[Any] = []
    page.on("request", lambda request: request.url.endswith("completions") and bodies.append(request.post_data_json))
    ask(page, "first", "writer")
    page.get_by_text("Parameters", exact=True).click()
    page.get_by_label("System prompt").fill("Be brief.")
    for name, value in (("temperature", "0.5"), ("top_p", "0.9"), ("max_tokens", "3"), ("seed", "7")):
        page.get_by_label(name).fill(value)
    page.get_by_label("stop, one a line").fill("END\nSTOP")
    answer = ask(page, "second", number=1)
    expect(answer.locator(".stats")).to_contain_text("cut at max_tokens")
    asked = bodies[1]
    assert [message["role"] for message in asked["messages"]] == ["system", "user", "assistant", "user"]
    assert asked["messages"][0]["content"] == "Be brief."
    assert asked["messages"][2]["content"].startswith("Hello **world**")
    chosen = {name: asked[name] for name in ("temperature", "top_p", "max_tokens", "seed", "stop")}
    assert chosen == {"temperature": 0.5, "top_p": 0.9, "max_tokens": 3, "seed": 7, "stop": ["END", "STOP"]}
    page.get_by_label("temperature").fill("7")
    send(page, "third")
    expect(page.locator("#composer-error")).to_contain_text("temperature:")
    page.get_by_role("button", name="Reset").click()
    assert page.get_by_label("temperature").input_value() == ""


def test_the_stop_button_ends_an_answer_that_stays(open_page: Open, product: Product) -> None:
    page = open_page(product.url)
    choose(page, "long")
    send(page, "go on")
    expect(page.locator("#chat .markdown")).not_to_be_empty()
    page.get_by_role("button", name="Stop", exact=True).click()
    answer = answered(page)
    expect(answer.locator(".stats")).to_contain_text("stopped")
    expect(page.get_by_label("Your message")).to_be_focused()
    page.goto(product.url + "#models")
    card = page.get_by_role("article", name="long")
    expect(card.locator("dt:text-is('running') + dd")).to_have_text("0")


@pytest.mark.parametrize(
    ("delta", "finish", "told"),
    [
        ({}, "stop", "The answer is whole, and without text. You may ask again."),
        ({"reasoning_content": "hm"}, "length", "Its thoughts took all the tokens that it had: raise max_tokens."),
    ],
)
def test_an_answer_without_text_is_told_as_such(
    open_page: Open, product: Product, delta: dict[str, str], finish: str, told: str
) -> None:
    chunks = [{"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}, "[DONE]"]
    events = "".join(f"data: {chunk if isinstance(chunk, str) else json.dumps(chunk)}\n\n" for chunk in chunks)
    page = open_page(product.url)
    headers = {"Content-Type": "text/event-stream", "X-Request-Id": "0" * 24}
    page.route("**/completions", lambda route: route.fulfill(headers=headers, body=events))
    answer = ask(page, "what is it", "writer")
    expect(answer.locator(".silence")).to_have_text(told)
    expect(page.locator("#announcer")).to_contain_text(told)
    expect(page.get_by_label("Your message")).to_have_value("what is it")
    page.unroute("**/completions")
    answer = ask(page, "what is it", number=1)
    expect(answer.locator(".markdown")).to_contain_text("Hello world")
    expect(answer.locator(".silence")).to_have_count(0)
    expect(page.get_by_label("Your message")).to_have_value("")


@pytest.mark.parametrize(
    ("model", "name", "mime", "data", "how"),
    [
        ("qwen-vl", "a picture.png", "image/png", PNG, drop),
        ("qwen-vl", "clip.mp4", "video/mp4", MP4, attach),
        ("qwen-audio", "sound.wav", "audio/wav", WAV, attach),
        ("qwen-omni", "image.png", "image/png", PNG, paste),
        ("qwen-omni", "clip.mp4", "", MP4, drop),
        ("blip-vqa", "car.png", "image/png", PNG, attach),
    ],
)
def test_media(open_page: Open, product: Product, model: str, name: str, mime: str, data: bytes, how: Any) -> None:
    page = open_page(product.url)
    choose(page, model)
    page.get_by_text("Parameters", exact=True).click()
    page.get_by_label("max_tokens").fill("8")
    page.get_by_label("temperature").fill("0")  # a model of random weights may draw its end as the first token
    how(page, name, mime, data)
    expect(page.locator("#attachments li")).to_contain_text(name)
    answer = ask(page, "what is it")
    expect(answer.locator(".failure")).to_have_count(0)
    expect(answer.locator(".stats")).to_contain_text("tokens")
    expect(page.locator("#attachments li")).to_have_count(0)
    shown = page.locator("#chat > .user .media").locator("img, audio, video")
    expect(shown).to_have_count(1)
    if model == "blip-vqa":  # its next question comes alone
        expect(page.locator("#takes")).to_contain_text("Answers one question about one picture at a time.")
        attach(page, name, mime, data)
        expect(ask(page, "and now", number=1).locator(".failure")).to_have_count(0)


def test_a_recording_is_made_sent_and_written_down(open_page: Open, product: Product) -> None:
    page = open_page(product.url)
    choose(page, "qwen-audio")
    page.get_by_text("Parameters", exact=True).click()
    page.get_by_label("max_tokens").fill("8")
    page.get_by_label("temperature").fill("0")  # a model of random weights may draw its end as the first token
    for number in range(2):
        page.get_by_role("button", name="Record", exact=True).click()
        expect(page.locator("#record-time")).not_to_be_empty()
        page.get_by_role("button", name="Stop recording").click()
        expect(page.locator("#attachments li")).to_contain_text("recording.webm")
        if number == 1:
            page.get_by_label("Transcribe").check()
            page.get_by_role("button", name="Send").click()
        answer = answered(page, number) if number else ask(page, "what do you hear")
        expect(answer.locator(".failure")).to_have_count(0)
    expect(answer.locator(".stats")).to_contain_text("of sound in")


def test_what_a_model_does_not_take_is_told_before_it_is_sent(open_page: Open, product: Product) -> None:
    page = open_page(product.url)
    choose(page, "writer")
    ask(page, "hi")
    drop(page, "a.png", "image/png", PNG)
    expect(page.locator("#composer-error")).to_have_text("writer takes text, and not an image.")
    drop(page, "notes.txt", "text/plain", b"x")
    expect(page.locator("#composer-error")).to_contain_text("neither a picture, audio nor a video")
    expect(page.get_by_role("button", name="Attach", exact=True)).to_be_hidden()
    choose(page, "qwen-vl")
    attach(page, "broken.png", "image/png", b"no picture")
    answer = ask(page, "what is it", number=1)
    expect(answer.locator(".failure .error")).not_to_be_empty()
    expect(answer.locator(".failure")).to_contain_text("An image that is empty, cut off or of an unknown format.")
    expect(answer.locator(".failure")).to_contain_text(re.compile(r"undecodable_image · request [0-9a-f]{24}"))
    assert page.get_by_label("Your message").input_value() == "what is it"
    expect(page.locator("#attachments li")).to_contain_text("broken.png")


def test_a_chat_with_pictures_goes_on_with_a_model_that_takes_none(open_page: Open, product: Product) -> None:
    page = open_page(product.url)
    choose(page, "writer")
    ask(page, "hi")
    choose(page, "qwen-vl")
    page.get_by_text("Parameters", exact=True).click()
    page.get_by_label("max_tokens").fill("4")
    page.get_by_label("temperature").fill("0")
    attach(page, "a.png", "image/png", PNG)
    expect(ask(page, "what is it", number=1).locator(".failure")).to_have_count(0)
    attach(page, "b.png", "image/png", PNG)
    send_to = page.get_by_role("button", name="Send")
    choose(page, "writer")
    send_to.click()
    expect(page.locator("#composer-error")).to_have_text("writer takes text, and not an image.")
    page.get_by_role("button", name="Remove b.png").click()
    expect(ask(page, "and you", number=2).locator(".failure")).to_have_count(0)


def test_a_model_that_fails_says_why_and_what_helps(open_page: Open, product: Product) -> None:
    page = open_page(product.url)
    answer = ask(page, "hi", "broken")
    expect(answer.locator(".failure .error")).to_contain_text("broken can't be served")
    expect(answer.locator(".failure")).to_contain_text("model_failed · request")
    page.goto(product.url + "#models")
    card = page.get_by_role("article", name="broken")
    expect(card).to_contain_text("failed")
    card.get_by_text("in the last hour").click()
    expect(card.locator(".errors")).to_contain_text("model_failed")


def test_history_stays_in_the_browser(open_page: Open, product: Product) -> None:
    page = open_page(product.url)
    ask(page, "remember <i>this</i>", "writer")
    page.reload()
    page.get_by_role("button", name="History").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("button", name="remember <i>this</i> · writer").click()
    expect(page.locator("#chat > .user .text")).to_have_text("remember <i>this</i>")
    expect(page.locator("#chat > .assistant .markdown strong")).to_have_text("world")
    answer = ask(page, "and on", number=1)
    assert "let me" not in answer.locator(".markdown").inner_text()
    page.get_by_role("button", name="New chat").click()
    expect(page.locator("#chat > li")).to_have_count(0)
    page.get_by_role("button", name="History").click()
    expect(dialog.locator("li")).to_have_count(1)
    dialog.get_by_role("button", name="Delete all").click()
    expect(dialog).to_contain_text("There is no chat yet.")
    dialog.get_by_role("button", name="Close").click()
    assert page.evaluate("Object.keys(localStorage)") == []


@pytest.mark.parametrize("prompt", ['it\'s $HOME `date` \\n "quoted" é 🙂', "with 'quotes' and @0@"])
@pytest.mark.parametrize("with_picture", [False, True])
def test_what_is_copied_runs(
    open_page: Open, product: Product, tmp_path: Path, prompt: str, with_picture: bool
) -> None:
    page = open_page(product.url)
    choose(page, "qwen-vl")
    page.get_by_text("Parameters", exact=True).click()
    page.get_by_label("max_tokens").fill("6")
    page.get_by_label("temperature").fill("0")
    if with_picture:
        name = 'it\'s a "picture".png'
        attach(page, name, "image/png", PNG)
        (tmp_path / name).write_bytes(PNG)
    answer = ask(page, prompt)
    text = answer.locator(".markdown").inner_text()
    curl = copied(page, answer, "Copy as curl")
    ran = subprocess.run(["bash", "-c", curl], cwd=tmp_path, capture_output=True, check=True, text=True, timeout=60)
    assert ran.stdout.rstrip().endswith("data: [DONE]"), ran.stdout
    program = copied(page, answer, "Copy as Python")
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, check=True, text=True, timeout=60,
        env=os.environ | {"PYTHONIOENCODING": "utf-8"},
    )  # fmt: skip
    assert "".join(ran.stdout.split()) == "".join(text.split())


def test_a_new_chat_ends_the_answer_that_comes(open_page: Open, product: Product) -> None:
    page = open_page(product.url)
    choose(page, "long")
    send(page, "go on")
    expect(page.locator("#chat .markdown")).not_to_be_empty()
    page.get_by_role("button", name="New chat").click()
    expect(page.get_by_role("button", name="Send")).to_be_visible()
    bodies: list[Any] = []
    page.on("request", lambda request: request.url.endswith("completions") and bodies.append(request.post_data_json))
    ask(page, "hi", "writer")
    assert [message["content"] for message in bodies[0]["messages"]] == ["hi"]
    page.get_by_role("button", name="History").click()
    expect(page.get_by_role("dialog").locator("li")).to_have_count(1)


def until(page: Page, condition: str, seconds: float = 60.0) -> None:
    """Until a JavaScript expression is true: the page's policy lets no script wait for it inside."""
    ends = time.monotonic() + seconds
    while not page.evaluate(condition):
        assert time.monotonic() < ends, condition
        page.wait_for_timeout(50)


def test_who_reads_above_is_not_dragged_down_and_what_is_clicked_stays_in_place(
    open_page: Open, product: Product
) -> None:
    page = open_page(product.url)
    choose(page, "long")
    send(page, "go on")
    until(page, "scrollY > 500")  # the page follows the answer
    new = page.get_by_role("button", name="New chat")
    expect(new).to_be_in_viewport()
    place = new.bounding_box()
    page.mouse.wheel(0, -60)
    until(page, "scrollY < document.documentElement.scrollHeight - innerHeight - 20")
    held, height = page.evaluate("[scrollY, document.documentElement.scrollHeight]")
    until(page, f"document.documentElement.scrollHeight > {height + 100}")
    assert page.evaluate("scrollY") == held
    assert new.bounding_box() == place
    new.click()
    expect(page.get_by_role("button", name="Send")).to_be_visible()


def test_where_the_browser_gives_no_clipboard_the_text_is_shown(open_page: Open, product: Product) -> None:
    page = open_page(product.url)
    page.evaluate("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
    ask(page, "hi", "writer").get_by_role("button", name="Copy as curl").click()
    shown = page.get_by_role("dialog").get_by_role("textbox")
    expect(shown).to_have_value(re.compile("^curl -sN "))
    assert page.evaluate("getSelection().toString() || document.activeElement.value").startswith("curl -sN ")


def test_the_keyboard_does_it_all(open_page: Open, product: Product) -> None:
    page = open_page(product.url)
    expect(page.locator("#model option").first).to_be_attached()
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    seen = []
    for _ in range(12):
        page.keyboard.press("Tab")
        seen.append(page.evaluate("document.activeElement.id || document.activeElement.textContent"))
    for wanted in ("Models", "model", "new-chat", "show-history", "prompt", "send"):
        assert wanted in seen, seen
    page.get_by_role("button", name="History").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="History")).to_be_focused()
