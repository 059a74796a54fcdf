"""What a person does on the page."""

from typing import Any

from playwright.sync_api import expect


def choose(page: Any, model: str) -> None:
    page.get_by_label("Model", exact=True).select_option(model)


def send(page: Any, text: str) -> None:
    page.get_by_label("Your message").fill(text)
    page.keyboard.press("Enter")


def answered(page: Any, number: int = 0) -> Any:
    """The answer of this number, once it is complete."""
    answer = page.locator("#chat > .assistant").nth(number)
    expect(answer.locator(".stats, .failure").first).to_be_visible()
    expect(page.get_by_role("button", name="Send")).to_be_visible()
    return answer


def ask(page: Any, text: str, model: str = "", number: int = 0) -> Any:
    if model:
        choose(page, model)
    send(page, text)
    return answered(page, number)


def attach(page: Any, name: str, mime: str, data: bytes) -> None:
    page.locator("#file").set_input_files({"name": name, "mimeType": mime, "buffer": data})


def drop(page: Any, name: str, mime: str, data: bytes) -> None:
    """As from a file manager, onto the conversation."""
    page.evaluate(
        """([name, type, bytes]) => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([new Uint8Array(bytes)], name, { type }));
            for (const kind of ["dragover", "drop"]) {
                const event = new DragEvent(kind, { dataTransfer: transfer, bubbles: true, cancelable: true });
                document.getElementById("chat").dispatchEvent(event);
            }
        }""",
        [name, mime, list(data)],
    )


def paste(page: Any, name: str, mime: str, data: bytes) -> None:
    page.evaluate(
        """([name, type, bytes]) => {
            const clipboardData = new DataTransfer();
            clipboardData.items.add(new File([new Uint8Array(bytes)], name, { type }));
            document.getElementById("prompt").dispatchEvent(
                new ClipboardEvent("paste", { clipboardData, bubbles: true, cancelable: true }));
        }""",
        [name, mime, list(data)],
    )


def copied(page: Any, answer: Any, button: str) -> str:
    """What a button under an answer puts into the clipboard."""
    page.evaluate("navigator.clipboard.writeText('')")
    answer.get_by_role("button", name=button).click()
    page.wait_for_function("async () => (await navigator.clipboard.readText()) !== ''")
    text: str = page.evaluate("navigator.clipboard.readText()")
    return text
