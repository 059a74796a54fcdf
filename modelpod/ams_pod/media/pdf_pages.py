"""Run as a program of its own: the pages of the PDF on its standard input, measured or drawn.

A few hundred bytes of PDF can make PDFium compute for ever, or take all memory, where nothing can interrupt it; and
what is wrong in its C++ would end whoever runs in the same process. So it has a process with limits of time and memory,
that is given no file and no environment. It imports nothing of ours, to start in a tenth of a second.

    pdf_pages.py {"cpu_seconds": 60, "memory_bytes": 805306368}    {"sizes": [[612.0, 792.0], ...]}, or {"error": "..."}
    pdf_pages.py {..., "pages": [[1700, 2200], ...]}               the pixels of each page, RGB; or nothing
"""

import contextlib
import ctypes
import json
import resource
import sys

import pypdfium2
import pypdfium2.raw as pdfium

_ERRORS = {pdfium.FPDF_ERR_PASSWORD: "the PDF is encrypted", pdfium.FPDF_ERR_SECURITY: "the PDF is encrypted"}
_BROKEN = "the PDF is broken, or cut off"


def main() -> None:
    wanted = json.loads(sys.argv[1])
    for kind, limit in (
        (resource.RLIMIT_CPU, wanted["cpu_seconds"]),
        (resource.RLIMIT_AS, wanted["memory_bytes"]),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        with contextlib.suppress(ValueError, OSError):  # not every system has each of them
            resource.setrlimit(kind, (limit, limit))
    data = sys.stdin.buffer.read()
    try:
        document = pypdfium2.PdfDocument(data)
    except pypdfium2.PdfiumError as error:
        _tell({"error": _ERRORS.get(getattr(error, "err_code", None), _BROKEN)})
        return
    if "pages" not in wanted:
        _tell({"sizes": [document.get_page_size(number) for number in range(min(len(document), 10_000))]})
        return
    document.init_forms()
    for number, (width, height) in enumerate(wanted["pages"]):
        try:
            _draw(document, number, width, height)
        except (pypdfium2.PdfiumError, ValueError):
            sys.exit(1)


def _tell(answer: dict) -> None:  # type: ignore[type-arg]  # JSON
    sys.stdout.write(json.dumps(answer))


def _draw(document: pypdfium2.PdfDocument, number: int, width: int, height: int) -> None:
    """The page stretched to so many pixels, on white, with what its forms were filled in with."""
    page = document[number]
    stride = -(-width * 3 // 4) * 4
    pixels = (ctypes.c_ubyte * (stride * height))()
    bitmap = pypdfium2.PdfBitmap.new_native(
        width, height, pdfium.FPDFBitmap_BGR, rev_byteorder=True, buffer=pixels, stride=stride
    )
    bitmap.fill_rect((255, 255, 255, 255), 0, 0, width, height)
    place = (0, 0, width, height, 0, pdfium.FPDF_ANNOT | pdfium.FPDF_REVERSE_BYTE_ORDER)
    pdfium.FPDF_RenderPageBitmap(bitmap, page, *place)
    if document.formenv:
        pdfium.FPDF_FFLDraw(document.formenv, bitmap, page, *place)
    view = memoryview(pixels)
    for row in range(height):
        sys.stdout.buffer.write(view[row * stride : row * stride + width * 3])
    bitmap.close()
    page.close()


if __name__ == "__main__":
    main()
