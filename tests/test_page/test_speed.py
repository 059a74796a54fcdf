"""How soon the page is there, and how much comes over the wire."""

from playwright.sync_api import expect
from test_page.browser import Open
from test_page.product import Product

MOST_BYTES = 150_000
FIRST_PAINT_MS = 1_500  # on a quiet machine under 300; a busy one takes its time


def figures(page) -> tuple[float, int]:
    paint: float = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    sent: int = page.evaluate(
        "[...performance.getEntriesByType('resource'), ...performance.getEntriesByType('navigation')]"
        ".filter((each) => !each.name.endsWith('overview')).reduce((sum, each) => sum + each.transferSize, 0)"
    )
    return paint, sent


def test_first_paint_and_bytes(open_page: Open, product: Product, record_property) -> None:
    page = open_page(product.url)
    expect(page.locator("#model option").first).to_be_attached()
    paint, sent = figures(page)
    page.reload()
    expect(page.locator("#model option").first).to_be_attached()
    again, sent_again = figures(page)
    print(f"first paint {paint:.0f} ms and {sent:,} bytes; again {again:.0f} ms and {sent_again:,} bytes")
    assert paint < FIRST_PAINT_MS
    assert 10_000 < sent < MOST_BYTES
    assert sent_again < 1_000  # all but the question whether the index is still the same is kept
