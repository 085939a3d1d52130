"""The web page as a person uses it, in headless Chromium: a handwritten digit, asked of a fused net and its sources."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from caffe_fusion_tools.predict import page_server, parser
from PIL import Image

from prototxt.formats.weights import write_weights

if TYPE_CHECKING:
    from conftest import Browser

DIGITS = Path(__file__).parents[3] / "examples" / "mnist_odd_even" / "data"
ODD, EVEN = (1, 3, 5, 7, 9), (0, 2, 4, 6, 8)
NET = """
layer { name: "data" type: "ImageData" top: "data" top: "label" transform_param { scale: 0.00392156862745 }
  image_data_param { source: "absent" batch_size: 4 new_height: 28 new_width: 28 is_color: false } }
"""
SCORES = (
    'layer { name: "NAME" type: "InnerProduct" bottom: "data" top: "NAME" inner_product_param { num_output: N } }\n'
)
HELD = """layer { name: "kd-NAME" type: "KDLoss" bottom: "ip2" bottom: "NAME" bottom: "label" include { phase: TRAIN }
  top: "kd-NAME" pct_param { CLASSES } }\n"""
LOSS = 'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "BLOB" bottom: "label" top: "loss" }\n'
CARDS = "[...document.querySelectorAll('.card')].map(card => card.innerText.split('\\n').filter(line => line))"


def digits(count: int) -> tuple[np.ndarray, np.ndarray]:
    """The first pictures [count, 28, 28] and labels of MNIST's training data."""
    with gzip.open(DIGITS / "train-images-idx3-ubyte.gz") as file:
        pictures = np.frombuffer(file.read(16 + 784 * count)[16:], np.uint8).reshape(-1, 28, 28)
    with gzip.open(DIGITS / "train-labels-idx1-ubyte.gz") as file:
        labels = np.frombuffer(file.read(8 + count)[8:], np.uint8)
    return pictures, labels


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fused net that keeps its sources, and one source alone; each digit is told by the nearest mean picture."""
    folder = tmp_path_factory.mktemp("page")
    pictures, labels = digits(3000)
    means = np.stack([pictures[labels == digit].mean(0).ravel() for digit in range(10)]) / 255
    weights = {}
    for name, classes in (("ip2", tuple(range(10))), ("odd/ip2", ODD), ("even/ip2", EVEN)):
        chosen = means[list(classes)]
        weights[name] = [chosen, -(chosen**2).sum(1) / 2]
    text = NET + "".join(
        SCORES.replace("NAME", name).replace("N", str(len(blobs[0]))) for name, blobs in weights.items()
    )
    for name, classes in (("odd/ip2", ODD), ("even/ip2", EVEN)):
        text += HELD.replace("NAME", name).replace("CLASSES", " ".join(f"classes: {item}" for item in classes))
    (folder / "fused.prototxt").write_text(text + LOSS.replace("BLOB", "ip2"))
    write_weights(folder / "fused.caffemodel", weights)
    (folder / "odd.prototxt").write_text(
        NET + SCORES.replace("NAME", "ip").replace("N", "5") + LOSS.replace("BLOB", "ip")
    )
    write_weights(folder / "odd.caffemodel", {"ip": weights["odd/ip2"]})
    words = "zero one two three four five six seven eight nine"
    (folder / "words.txt").write_text(words.replace(" ", "\n"))
    Image.fromarray(pictures[7]).save(folder / "three.png")  # MNIST's eighth picture is a 3
    Image.fromarray(pictures[1]).resize((280, 280)).save(folder / "zero.jpg")
    assert (labels[7], labels[1]) == (3, 0)
    return folder


@pytest.fixture(scope="module")
def page(folder: Path) -> Iterator[str]:
    """The address of a page that answers."""
    files = [str(folder / name) for name in ("fused.prototxt", "fused.caffemodel")]
    beside = f"odd alone={folder / 'odd.prototxt'}:{folder / 'odd.caffemodel'}"
    options = ["--serve", "--port", "0", "--beside", beside, "--classes", "odd alone=1,3,5,7,9", "--top", "3"]
    arguments = parser().parse_args([*files, *options])
    words = (folder / "words.txt").read_text().split()
    with page_server(arguments, words) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server.url
        server.shutdown()
        thread.join()


@pytest.fixture
def tab(browser: Browser, page: str) -> Browser:
    browser.resize(1200, 900)
    browser.open(page)
    browser.wait("document.getElementById('nets').textContent.includes('odd alone')")
    browser.errors.clear()
    return browser


def answered(tab: Browser) -> None:
    tab.wait("document.getElementById('status').textContent.startsWith('Answered')")
    tab.wait("document.getElementById('picture').naturalWidth > 0")


def test_a_chosen_picture_is_answered_side_by_side(tab: Browser, folder: Path, tmp_path: Path) -> None:
    tab.choose("#file", folder / "three.png")
    answered(tab)
    odd, even, fused, alone = tab.run(CARDS)
    assert odd[0] == "odd/ip2"
    assert "knows one, three, five, seven, nine only" in odd[1]
    assert [lines[2] for lines in (odd, fused, alone)] == ["three"] * 3
    assert even[2] in ("zero", "two", "four", "six", "eight")
    assert fused[:2] == ["fused", "prob"]
    assert alone[0] == "odd alone"
    shares = tab.run("[...document.querySelectorAll('.card')].map(card => [...card.querySelectorAll('.share')].length)")
    assert shares == [3, 3, 3, 3]
    widths = tab.run("[...document.querySelectorAll('.card:nth-child(3) .bar i')].map(bar => bar.offsetWidth)")
    assert widths[0] > widths[1] >= widths[2] > 0
    tops = tab.run("new Set([...document.querySelectorAll('.card')].map(card => card.offsetTop)).size")
    assert tops == 1, "the cards stand side by side"
    bests = tab.run("new Set([...document.querySelectorAll('.best')].map(best => best.offsetTop)).size")
    assert bests == 1, "and so do their answers"
    colours = tab.run(
        "[1, 3, 4].map(n => getComputedStyle(document.querySelector(`.card:nth-child(${n}) .best`)).color)"
    )
    assert len(set(colours)) == 1, "one class, one colour"
    tab.picture(tmp_path / "page.png")
    assert (tmp_path / "page.png").stat().st_size > 10_000
    assert tab.errors == []


def test_a_dropped_and_a_pasted_picture(tab: Browser, folder: Path) -> None:
    tab.drop(folder / "zero.jpg", 600, 300)
    answered(tab)
    assert tab.run(CARDS)[2][2] == "zero"
    tab.run(
        """(async () => {
          const canvas = document.createElement('canvas');
          const blob = await new Promise(done => canvas.toBlob(done));
          const data = new DataTransfer();
          data.items.add(new File([blob], 'black.png', {type: 'image/png'}));
          document.getElementById('status').textContent = '';
          dispatchEvent(new ClipboardEvent('paste', {clipboardData: data}));
        })()"""
    )
    answered(tab)
    assert tab.run("document.getElementById('picture').alt") == "The image black.png"
    assert tab.errors == []


def test_the_keyboard_reaches_the_file_dialogue(tab: Browser) -> None:
    tab.press("Tab")
    assert tab.run("document.activeElement.id") == "file"
    assert tab.run("getComputedStyle(document.querySelector('.drop')).outlineStyle") == "solid"


def test_what_is_no_picture_is_said(tab: Browser, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "letter.png").write_bytes(b"Dear nets,")
    tab.choose("#file", tmp_path / "letter.png")
    tab.wait("document.getElementById('status').classList.contains('bad')")
    assert "This is not an image of a known format" in tab.run("document.getElementById('status').textContent")
    (tmp_path / "large.png").write_bytes(bytes(17 << 20))
    tab.choose("#file", tmp_path / "large.png")
    tab.wait("document.getElementById('status').textContent.startsWith('This file has 17.0 MB')")
    tab.choose("#file", folder / "three.png")
    answered(tab)


@pytest.mark.parametrize("dark", [False, True])
def test_a_phone_by_day_and_by_night(tab: Browser, folder: Path, dark: bool, tmp_path: Path) -> None:
    tab.resize(360, 740, dark=dark, phone=True)
    tab.choose("#file", folder / "three.png")
    answered(tab)
    assert tab.run("document.documentElement.scrollWidth") <= 360
    paper, ink = tab.run("['backgroundColor', 'color'].map(name => getComputedStyle(document.body)[name])")
    assert brightness(ink) < 128 < brightness(paper) or (dark and brightness(paper) < 128 < brightness(ink))
    tab.picture(tmp_path / "phone.png")


def brightness(colour: str) -> float:
    """The mean of `rgb(r, g, b)`."""
    return float(np.mean([int(part) for part in colour[4:-1].split(",")]))
